//! Shared code of the recipes that train the fusion head: its settings, and its inputs in a step.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::{Device, TchError, Tensor};

use super::{JointSettings, KernelSettings};
use crate::train::trainer::{Batch, RunData};
use crate::train::{TrainSettings, TrainSettingsError};
use agiqa_nets::device::sent;
use agiqa_nets::fusion::{FusionConfig, Gate, ProjectionMasks};
use agiqa_nets::trained_head::Standardisation;
use agiqa_store::tables::models;
use agiqa_store::tables::splits::Part;

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
    /// All three features, in the paper's order of names.
    pub const ALL: [Self; 3] = [Self::Quality, Self::Semantic, Self::Coherence];

    /// Name of the feature's column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quality => "f_1",
            Self::Semantic => "f_a",
            Self::Coherence => "f_b",
        }
    }
}

/// The kind of head that is trained on cached columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// The gated fusion of the paper.
    #[default]
    Gated,
    /// Kernel ridge regression.
    KernelRidge,
    /// Both, each with runs of its own.
    Both,
}

impl HeadKind {
    /// The name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gated => "gated",
            Self::KernelRidge => models::KERNEL_RIDGE,
            Self::Both => "both",
        }
    }
}

/// What the scores of a gated head are at the start of its training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Those of random weights.
    #[default]
    Random,
    /// Those of ridge regression on the same columns. The regression stays a fixed part of the score. The output layer
    /// starts at 0, so the network learns what the regression leaves.
    Ridge,
}

/// The default of [`HeadSettings::shrinkage`].
const SHRINKAGE: f64 = 10.0;

/// Settings of the heads over cached columns. Those of the gated head are used if it is trained. The defaults are the values of the paper and its published code, with one exception:
/// inputs are standardised. The published code leaves them raw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadSettings {
    /// `gated`, `kernel-ridge` or `both`.
    pub head: HeadKind,
    /// Features that the head reads: all three, except in an ablation.
    pub inputs: Vec<HeadInput>,
    /// `sigmoid` (paper), `linear` (published code), or `concat`: the projections are concatenated without a gate.
    pub gate: Gate,
    /// Width of the projections of the three inputs.
    pub width: u32,
    /// Share of the inputs' values that a step drops, in [0, 1).
    pub input_dropout: f64,
    /// Share of the two semantic projections' values that a step drops, in [0, 1).
    pub dropout: f64,
    /// Whether inputs are standardised by mean and deviation of the training part.
    pub standardise: bool,
    /// Whether ridge regression is fitted on the same columns, for comparison. A joint training ignores this setting.
    pub ridge: bool,
    /// `random` or `ridge`.
    pub start: Start,
    /// Factor on the strength of the regression that a ridge start takes, which leave-one-out chooses. A regression that
    /// shrinks more leaves the network more to learn.
    pub shrinkage: f64,
    /// Kernel ridge regression.
    pub kernel: KernelSettings,
}

impl Default for HeadSettings {
    fn default() -> Self {
        Self {
            head: HeadKind::Gated,
            inputs: HeadInput::ALL.to_vec(),
            gate: Gate::Sigmoid,
            width: 784,
            input_dropout: 0.0,
            dropout: 0.1,
            standardise: true,
            ridge: true,
            start: Start::Random,
            shrinkage: SHRINKAGE,
            kernel: KernelSettings::default(),
        }
    }
}

/// The keys of a head's training, in their order in JSON. The names of runs depend on this order.
const KEYS: &str = "inputs gate width optimiser learning_rate weight_decay schedule batch_size epochs input_dropout dropout \
                    standardise labels weight_average keep_epoch ridge allow_missing checkpoint_epochs";

fn fields(settings: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(settings).expect("settings are plain data") {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

impl HeadSettings {
    /// Names of the settings. In a pipeline, they are listed together with the trainer's settings.
    pub fn keys() -> Vec<String> {
        fields(&Self::default()).keys().cloned().collect()
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainSettingsError> {
        let inputs = self.sorted_inputs();
        if inputs.is_empty() || inputs.len() < self.inputs.len() {
            return Err(self.wrong_inputs("one to three of `f_1`, `f_a` and `f_b`, each once"));
        }
        if self.width == 0 {
            return Err(TrainSettingsError::new("width", self.width, "1 or more"));
        }
        let shares = [("input_dropout", self.input_dropout), ("dropout", self.dropout)];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            return Err(TrainSettingsError::new(name, share, "0 or more, below 1"));
        }
        if !(self.shrinkage > 0.0 && self.shrinkage.is_finite()) {
            return Err(TrainSettingsError::new("shrinkage", self.shrinkage, "a number above 0"));
        }
        if self.start == Start::Ridge && !self.standardise {
            return Err(TrainSettingsError::new("standardise", false, "`true` with `start = \"ridge\"`"));
        }
        self.kernel.check()
    }

    /// The error that `inputs` has a wrong value.
    pub(super) fn wrong_inputs(&self, expected: &'static str) -> TrainSettingsError {
        let names: Vec<&str> = self.inputs.iter().map(|input| input.as_str()).collect();
        TrainSettingsError::new("inputs", format!("[{}]", names.join(", ")), expected)
    }

    /// The features that the head reads, without duplicates, in the order of [`HeadInput::ALL`].
    pub fn sorted_inputs(&self) -> Vec<HeadInput> {
        HeadInput::ALL.into_iter().filter(|input| self.inputs.contains(input)).collect()
    }

    /// Widths of f_a, f_b and f_1: the value in `dims`, or 0 for a feature that the head does not read.
    pub(super) fn read_dims(&self, dims: [i64; 3]) -> [i64; 3] {
        let inputs = [HeadInput::Semantic, HeadInput::Coherence, HeadInput::Quality];
        std::array::from_fn(|i| if self.inputs.contains(&inputs[i]) { dims[i] } else { 0 })
    }

    /// The settings that decide a run's numbers, in their JSON form.
    pub(super) fn deciding(&self, settings: &TrainSettings, joint: Option<&JointSettings>) -> Value {
        let (mut own, mut common) = (fields(self), fields(settings));
        let field = |key: &str| Some((key.to_owned(), own.remove(key).or_else(|| common.remove(key))?));
        let mut fields: Map<String, Value> = KEYS.split_whitespace().filter_map(field).collect();
        if let Some(joint) = joint {
            fields.insert("joint".to_owned(), joint.deciding());
        }
        // This setting only decides when a state is saved.
        fields.remove("checkpoint_epochs");
        // Older versions had no setting `inputs`. A run with all three inputs must keep its name, so the key is
        // removed.
        match self.sorted_inputs() {
            inputs if inputs == HeadInput::ALL => fields.remove("inputs"),
            inputs => fields.insert("inputs".to_owned(), serde_json::json!(inputs)),
        };
        // Older versions had no setting `start`.
        if self.start != Start::Random {
            fields.insert("start".to_owned(), serde_json::json!(self.start));
            // Older versions had no setting `shrinkage`.
            if self.shrinkage != SHRINKAGE {
                fields.insert("shrinkage".to_owned(), serde_json::json!(self.shrinkage));
            }
        }
        if joint.is_some() {
            fields.remove("ridge");
        }
        Value::Object(fields)
    }
}

/// The cached columns that a head reads, with their standardisation.
pub(super) struct HeadColumns<'a> {
    data: &'a RunData<'a>,
    config: FusionConfig,
    dropout: [f64; 2],
    /// Not standardised, `(n, d)`; d is 0 for a feature that the head does not read.
    pub(super) raw: Vec<Tensor>,
    /// One per column.
    pub(super) standardisations: Vec<Standardisation>,
    device: Device,
}

impl<'a> HeadColumns<'a> {
    /// The columns of `data`: f_a, f_b and, if it is cached, f_1.
    pub(super) fn new(data: &'a RunData<'_>, settings: &HeadSettings, config: FusionConfig) -> Self {
        let raw: Vec<Tensor> =
            data.columns.iter().zip(config.dims()).map(|(column, dim)| column.narrow(1, 0, dim)).collect();
        let train_rows = Tensor::from_slice(data.part(Part::Train));
        let standardisation = |column: &Tensor| {
            if settings.standardise {
                Standardisation::fit(&column.index_select(0, &train_rows))
            } else {
                Standardisation::identity(column.size()[1])
            }
        };
        let standardisations = raw.iter().map(standardisation).collect();
        let dropout = [settings.input_dropout, settings.dropout];
        Self { data, config, dropout, raw, standardisations, device: Device::Cpu }
    }

    /// The same columns on `device`, where batches and masks are then, too.
    ///
    /// # Errors
    /// The device's memory is short.
    pub(super) fn on(mut self, device: Device) -> Result<Self, TchError> {
        self.device = device;
        self.raw = self.raw.iter().map(|column| column.f_to_device(device)).collect::<Result<_, _>>()?;
        self.standardisations =
            self.standardisations.iter().map(|standardisation| standardisation.on(device)).collect();
        Ok(self)
    }

    /// A tensor of the CPU on the columns' device.
    fn sent(&self, tensor: &Tensor) -> Tensor {
        sent(tensor, self.device).expect("libtorch places the tensor")
    }

    /// The columns of `rows`, standardised.
    pub(super) fn rows(&self, rows: &[i64]) -> Vec<Tensor> {
        let rows = self.sent(&Tensor::from_slice(rows));
        let columns = self.raw.iter().zip(&self.standardisations);
        columns.map(|(column, standardisation)| standardisation.apply(&column.index_select(0, &rows))).collect()
    }

    /// The columns of a batch, standardised. Values that the step drops are 0.
    pub(super) fn batch(&self, batch: &Batch) -> Vec<Tensor> {
        let [input_dropout, _] = self.dropout;
        let columns = self.rows(&batch.rows).into_iter().enumerate();
        let dropped = |(index, column): (usize, Tensor)| {
            if input_dropout == 0.0 {
                return column;
            }
            let shape = [column.size()[0], column.size()[1]];
            column * self.sent(&self.data.draws.mask(batch.step, index as u64, input_dropout, shape))
        };
        columns.map(dropped).collect()
    }

    /// The dropout masks of the two semantic projections in this step.
    pub(super) fn masks(&self, batch: &Batch) -> Option<ProjectionMasks> {
        let [_, dropout] = self.dropout;
        let [semantic, coherence, _] = self.config.projected();
        let n = batch.rows.len() as i64;
        let mask = |index, width| self.sent(&self.data.draws.mask(batch.step, index, dropout, [n, width]));
        (dropout > 0.0).then(|| ProjectionMasks { semantic: mask(3, semantic), coherence: mask(4, coherence) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of runs are hashes of these bytes. Trained runs must keep their names.
    #[test]
    fn deciding_settings_are_byte_for_byte_those_that_trained_runs_are_named_by() {
        let (settings, all) = (TrainSettings::default(), HeadSettings::default());
        let some = HeadSettings { inputs: vec![HeadInput::Coherence, HeadInput::Quality], ..all.clone() };
        let common = "\"gate\":\"sigmoid\",\"width\":784,\"optimiser\":\"adam\",\"learning_rate\":0.00001,\"weight_decay\":0.00001,\
                      \"schedule\":\"cosine\",\"batch_size\":8,\"epochs\":30,\"input_dropout\":0.0,\"dropout\":0.1,\
                      \"standardise\":true,\"labels\":\"raw\",\"weight_average\":0.0,\"keep_epoch\":\"best\"";
        let joint = "\"joint\":{\"fusion_rate\":1.0,\"dtype\":\"f32\",\"warmup_steps\":0,\"augment\":\"horizontal\",\
                     \"freeze_backbone\":false,\"freeze_blocks\":0,\"backbone_rate\":1.0,\"layer_decay\":1.0,\"quality_rate\":1.0}";
        let inputs = "\"inputs\":[\"f_1\",\"f_b\"]";
        let from_a_folder = JointSettings { weights: Some("start".into()), ..JointSettings::default() };
        let cases = [
            (&all, None, format!("{{\"allow_missing\":false,{common},\"ridge\":true}}")),
            (&some, None, format!("{{{inputs},{common},\"ridge\":true,\"allow_missing\":false}}")),
            (&all, Some(&from_a_folder), format!("{{{joint},{common},\"allow_missing\":false}}")),
            (&some, Some(&from_a_folder), format!("{{{inputs},{common},{joint},\"allow_missing\":false}}")),
        ];
        for (head, joint, expected) in cases {
            assert_eq!(head.deciding(&settings, joint).to_string(), expected);
        }
    }
}
