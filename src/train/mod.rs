//! `train`: fits the fusion head on cached feature columns.
//!
//! Inputs: a dataset's `images` (for the MOS) and `splits`, a semantic and a quality feature set. Output: one folder
//! [`agiqa_store::tables::models`] per run; a run is one split and one seed. Runs of one call are independent and train at the
//! same time, one thread each. Nothing in a run depends on how many others there are: it draws its initialisation, image
//! order and dropout from generators of its own, and computes on one thread, so its numbers are the same alone, beside
//! others, and across an interruption.

use serde::{Deserialize, Serialize};

use agiqa_nets::fusion::Gate;

mod data;

pub mod head_inputs;

mod augment;

mod initial;

mod pictures;

pub mod recipes;

mod optimiser;
mod plan;
mod random;
mod run;
mod schedule;
mod stage;
mod state;
mod step;

pub use data::DataError;
pub use optimiser::{Adam, Gradient};
pub use plan::{RunPlan, RunSeed, seeded_runs};
pub use run::RunError;
pub use schedule::Schedule;
pub use stage::{TrainError, TrainStage};

/// Which weight decay Adam has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimiser {
    /// Adam; the decay is added to the gradient (L2), as in the published code.
    #[default]
    Adam,
    /// AdamW; the decay shrinks the weights directly.
    Adamw,
}

/// What the head is fitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The MOS as it is, as in the published code.
    #[default]
    Raw,
    /// The MOS less its training mean, over its training standard deviation; scores are mapped back. The output starts
    /// at the mean (its bias at 0), and learning rates mean the same on every dataset's scale.
    Standardised,
}

/// Which epoch's head is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepEpoch {
    /// The one with the highest SRCC + PLCC (unmapped) on the validation part; where the validation MOS are all equal
    /// and these are undefined, the one with the lowest squared error there.
    #[default]
    Best,
    /// The last one: with a schedule that ends at 0 it is often as good, and no noise of a small validation part
    /// enters.
    Last,
}

/// A feature that the head may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HeadInput {
    /// The quality feature.
    #[serde(rename = "f_1")]
    Quality,
    /// Semantic content.
    #[serde(rename = "f_a")]
    Semantic,
    /// Coherence.
    #[serde(rename = "f_b")]
    Coherence,
}

impl HeadInput {
    /// All three, as the paper names them.
    pub const ALL: [Self; 3] = [Self::Quality, Self::Semantic, Self::Coherence];

    /// Name of its column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quality => "f_1",
            Self::Semantic => "f_a",
            Self::Coherence => "f_b",
        }
    }
}

/// Hyperparameters. The defaults are those of the paper and its published code, but for three: inputs are standardised
/// (there they are raw), the cosine schedule runs once over the training (there it swings with a period of 100 batches),
/// and the last partial batch is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Features that the head reads; all three but in an ablation.
    pub inputs: Vec<HeadInput>,
    /// `sigmoid` (paper), `linear` (published code), or `concat`: no gate, the projections side by side.
    pub gate: Gate,
    /// Width that the three inputs are projected to.
    pub width: u32,
    /// `adam` or `adamw`.
    pub optimiser: Optimiser,
    /// Learning rate at the start.
    pub learning_rate: f64,
    /// Weight decay, on every parameter.
    pub weight_decay: f64,
    /// `cosine` (to 0 over the training, stepped per batch) or `constant`.
    pub schedule: Schedule,
    /// Images per step; the last batch of an epoch may hold fewer.
    pub batch_size: u32,
    /// Times that each training image is seen.
    pub epochs: u32,
    /// Share of the inputs' values that a step drops, in [0, 1).
    pub input_dropout: f64,
    /// Share of the two semantic projections' values that a step drops, in [0, 1).
    pub dropout: f64,
    /// Whether inputs are standardised by mean and deviation of the training part.
    pub standardise: bool,
    /// `raw` or `standardised`.
    pub labels: Labels,
    /// Decay per step of the moving average of the weights that is validated and kept; 0 for no average. Early steps
    /// average over what there is: the decay is at most `(1 + step) / (10 + step)`.
    pub weight_average: f64,
    /// `best` or `last`.
    pub keep_epoch: KeepEpoch,
    /// Whether ridge regression is fitted on the same columns, for comparison.
    pub ridge: bool,
    /// Whether images without features or MOS are left out, with a count, rather than being an error.
    pub allow_missing: bool,
    /// Epochs between two saved states; an interruption saves one, too. A joint training saves one after each epoch.
    pub checkpoint_epochs: u32,
    /// Where it is there, MANIQA is trained with the head from the images, in place of a cached `f_1`; `ridge` is then
    /// left aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joint: Option<recipes::joint::JointSettings>,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            inputs: HeadInput::ALL.to_vec(),
            gate: Gate::Sigmoid,
            width: 784,
            optimiser: Optimiser::Adam,
            learning_rate: 1e-5,
            weight_decay: 1e-5,
            schedule: Schedule::Cosine,
            batch_size: 8,
            epochs: 30,
            input_dropout: 0.0,
            dropout: 0.1,
            standardise: true,
            labels: Labels::Raw,
            weight_average: 0.0,
            keep_epoch: KeepEpoch::Best,
            ridge: true,
            allow_missing: false,
            checkpoint_epochs: 10,
            joint: None,
        }
    }
}

/// A hyperparameter that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is {found}; expected {expected}")]
pub struct SettingsError {
    name: &'static str,
    found: String,
    expected: &'static str,
}

impl SettingsError {
    fn new(name: &'static str, found: String, expected: &'static str) -> Self {
        Self { name, found, expected }
    }
}

impl TrainSettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let error = |name, found: &dyn ToString, expected| Err(SettingsError::new(name, found.to_string(), expected));
        let share = |value: f64| (0.0..1.0).contains(&value);
        let wrong_inputs = |expected| {
            let names: Vec<&str> = self.inputs.iter().map(|input| input.as_str()).collect();
            error("inputs", &format!("[{}]", names.join(", ")), expected)
        };
        let inputs = self.sorted_inputs();
        if inputs.is_empty() || inputs.len() < self.inputs.len() {
            return wrong_inputs("one to three of `f_1`, `f_a` and `f_b`, each once");
        }
        if self.joint.is_some() && !inputs.contains(&HeadInput::Quality) {
            return wrong_inputs("`f_1` among them: a joint training trains MANIQA, which makes it");
        }
        if self.width == 0 {
            return error("width", &self.width, "1 or more");
        }
        if self.batch_size == 0 {
            return error("batch_size", &self.batch_size, "1 or more");
        }
        if self.epochs == 0 {
            return error("epochs", &self.epochs, "1 or more");
        }
        if self.checkpoint_epochs == 0 {
            return error("checkpoint_epochs", &self.checkpoint_epochs, "1 or more");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return error("learning_rate", &self.learning_rate, "a number above 0");
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return error("weight_decay", &self.weight_decay, "0 or more");
        }
        if !share(self.input_dropout) {
            return error("input_dropout", &self.input_dropout, "0 or more, below 1");
        }
        if !share(self.dropout) {
            return error("dropout", &self.dropout, "0 or more, below 1");
        }
        if !share(self.weight_average) {
            return error("weight_average", &self.weight_average, "0 (none) or more, below 1");
        }
        self.joint.as_ref().map_or(Ok(()), recipes::joint::JointSettings::check)
    }

    /// The features that the head reads, each once, in the order of [`HeadInput::ALL`].
    pub fn sorted_inputs(&self) -> Vec<HeadInput> {
        HeadInput::ALL.into_iter().filter(|input| self.inputs.contains(input)).collect()
    }

    /// Widths of f_a, f_b and f_1 as the head reads them: those of `dims`, or 0.
    pub(crate) fn read_dims(&self, dims: [i64; 3]) -> [i64; 3] {
        let inputs = [HeadInput::Semantic, HeadInput::Coherence, HeadInput::Quality];
        std::array::from_fn(|i| if self.inputs.contains(&inputs[i]) { dims[i] } else { 0 })
    }

    /// The settings that decide a run's numbers, in their JSON form.
    pub(crate) fn deciding(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("settings are plain data");
        if let Some(fields) = json.as_object_mut() {
            // It decides when a state is saved, and nothing else.
            fields.remove("checkpoint_epochs");
            // A choice of all three is none: such runs keep the names that they had before there was one.
            match self.sorted_inputs() {
                inputs if inputs == HeadInput::ALL => fields.remove("inputs"),
                inputs => fields.insert("inputs".to_owned(), serde_json::json!(inputs)),
            };
            if self.joint.is_some() {
                fields.remove("ridge");
            }
            if let Some(joint) = fields.get_mut("joint").and_then(serde_json::Value::as_object_mut) {
                // Where and how it is computed; what the weights hold, not where they lie, is part of the fingerprint.
                for key in ["weights", "device", "image_memory_mib", "checkpoint_minutes"] {
                    joint.remove(key);
                }
                // No loss of the rating's is none: such runs keep the names that they had before there was one.
                if joint.get("rating_loss").and_then(serde_json::Value::as_f64) == Some(0.0) {
                    joint.remove("rating_loss");
                }
            }
        }
        json
    }
}
