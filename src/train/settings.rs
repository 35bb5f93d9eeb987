//! Hyperparameters that every recipe has.

use serde::{Deserialize, Serialize};

use super::Schedule;

/// Adam or AdamW: the two differ in their weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimiser {
    /// Adam; the decay is added to the gradient (L2), as in the published code.
    #[default]
    Adam,
    /// AdamW; the decay shrinks the weights directly.
    Adamw,
}

/// The labels that the network is fitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The unchanged MOS, as in the published code.
    #[default]
    Raw,
    /// The MOS minus its training mean, divided by its training standard deviation. Scores are mapped back. The output
    /// starts at the mean (its bias at 0). A learning rate has the same effect on every dataset's scale.
    Standardised,
}

/// The epoch whose network is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepEpoch {
    /// The epoch with the highest SRCC + PLCC (unmapped) on the validation part. If the validation MOS are all equal,
    /// these are undefined; then the epoch with the lowest squared error on that part is kept.
    #[default]
    Best,
    /// The last epoch. With a schedule that ends at 0, it is often as good, and it does not depend on a small, noisy
    /// validation part.
    Last,
}

/// Hyperparameters of the trainer. The defaults are the values of the paper and its published code, with two
/// exceptions. The cosine schedule runs once over the training, while the published schedule has a period of 100
/// batches. The last partial batch is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// `adam` or `adamw`.
    pub optimiser: Optimiser,
    /// Learning rate at the start.
    pub learning_rate: f64,
    /// Weight decay on every trained parameter.
    pub weight_decay: f64,
    /// `cosine` (to 0 over the training, stepped per batch), `constant`, `steps` (times 0.9 after every 10 epochs) or
    /// `official`.
    pub schedule: Schedule,
    /// Images per step. The last batch of an epoch may hold fewer.
    pub batch_size: u32,
    /// Number of times that each training image is used.
    pub epochs: u32,
    /// `raw` or `standardised`.
    pub labels: Labels,
    /// Decay per step of the moving average of the weights. This average is validated and kept. 0 means no average. In
    /// early steps, the decay is limited to `(1 + step) / (10 + step)`.
    pub weight_average: f64,
    /// `best` or `last`.
    pub keep_epoch: KeepEpoch,
    /// Whether images without features or MOS are left out with a count, instead of causing an error.
    pub allow_missing: bool,
    /// Epochs between two saved states, if epochs take seconds. An interruption saves a state, too.
    pub checkpoint_epochs: u32,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            optimiser: Optimiser::Adam,
            learning_rate: 1e-5,
            weight_decay: 1e-5,
            schedule: Schedule::Cosine,
            batch_size: 8,
            epochs: 30,
            labels: Labels::Raw,
            weight_average: 0.0,
            keep_epoch: KeepEpoch::Best,
            allow_missing: false,
            checkpoint_epochs: 10,
        }
    }
}

/// An invalid hyperparameter.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is {found}; expected {expected}")]
pub struct TrainSettingsError {
    name: &'static str,
    found: String,
    expected: &'static str,
}

impl TrainSettingsError {
    /// The error that the setting `name` has the value `found`.
    pub fn new(name: &'static str, found: impl ToString, expected: &'static str) -> Self {
        Self { name, found: found.to_string(), expected }
    }
}

impl TrainSettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainSettingsError> {
        let counts =
            [("batch_size", self.batch_size), ("epochs", self.epochs), ("checkpoint_epochs", self.checkpoint_epochs)];
        if let Some((name, count)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(TrainSettingsError::new(name, count, "1 or more"));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(TrainSettingsError::new("learning_rate", self.learning_rate, "a number above 0"));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(TrainSettingsError::new("weight_decay", self.weight_decay, "0 or more"));
        }
        if !(0.0..1.0).contains(&self.weight_average) {
            return Err(TrainSettingsError::new("weight_average", self.weight_average, "0 (none) or more, below 1"));
        }
        Ok(())
    }
}
