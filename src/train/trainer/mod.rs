//! The trainer: the code that all kinds of training share.
//!
//! A [`Recipe`] holds the settings of a training, in addition to the hyperparameters, and learns one run. A recipe that
//! learns in steps is a [`Course`], whose [`Lesson`] is one run with the run's data. The trainer asks the lesson for initial parameters, for a network over parameters, for one step
//! on a batch and for the scores of the validation part. The trainer does the rest: the order of images, epochs and
//! batches, learning rates, the best epoch, divergence, the log, saved states and resuming, and the record.

use tch::{Device, Tensor};

use super::pictures::{PictureSettings, Pictures, PicturesError};
use super::random::Draws;
use super::{Labels, TrainSettings};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::trained_head::LabelScale;
use agiqa_store::console::{Console, Progress};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::StageContext;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{KernelRidgeRecord, RidgeRecord, RunInput};
use agiqa_store::tables::splits::Part;

mod error;
mod next;
mod run;
mod selection;
mod shared;
mod stage;
mod state;
mod weights;

pub use error::{RecipeError, TrainError};
pub use next::{Application, LocalFolder, NextStage};
pub(in crate::train) use run::in_words;
pub use run::{Finished, by_steps};
pub(in crate::train) use selection::judged;
pub use selection::selection_score;
pub use stage::{TrainStage, Training};
pub use weights::{Loss, StepLoss, Weights};

/// How the runs of a training share the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// For epochs of seconds. Runs train in parallel, on one thread each. A run saves a state after every
    /// `checkpoint_epochs` epochs.
    SideBySide,
    /// For epochs of minutes. Runs train one after the other, on all threads. Each epoch is reported, and saved if the last
    /// state is a minute old. The log also has rows within epochs, and states are also saved within epochs.
    InTurn {
        /// Minutes between two saved states within an epoch.
        checkpoint_minutes: f64,
    },
}

/// Least age of the last saved state, minutes, for which the end of an epoch of minutes saves another. On a GPU, an epoch may
/// take as long as writing the weights and the optimiser's moments.
const EPOCH_MINUTES: f64 = 1.0;

impl Pace {
    /// Whether a run that has done `n_done` epochs saves a state, the last of which is `minutes_unsaved` old.
    fn saves_after(self, n_done: u32, settings: &TrainSettings, minutes_unsaved: f64) -> bool {
        match self {
            Self::SideBySide => n_done < settings.epochs && n_done.is_multiple_of(settings.checkpoint_epochs),
            Self::InTurn { checkpoint_minutes } => minutes_unsaved >= checkpoint_minutes.min(EPOCH_MINUTES),
        }
    }
}

/// A kind of training: its inputs, its network and loss, and the files that a run leaves. Its methods fail on invalid
/// settings, on unusable inputs or weights, and on missing resources of the machine.
pub trait Recipe: Send + Sync {
    /// Beginning of the fingerprints of its runs.
    const RUN_KIND: &'static str;

    /// Name in records, e.g. `head`.
    const NAME: &'static str;

    /// The title of the stage, e.g. `t with MANIQA`.
    fn title(&self, name: &PartitionName) -> String {
        name.to_string()
    }

    /// Checks the recipe's own settings and the columns that it reads.
    fn check(&self) -> Result<(), RecipeError>;

    /// Fingerprint of all settings of a training. The contents of the store are not part of it.
    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError>;

    /// The settings that decide a run's numbers, in the record's form.
    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value;

    /// The sets of cached columns that the recipe reads, each with only these columns. The list may be empty.
    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError>;

    /// The commands that fill gaps in the inputs, in words.
    fn advice(&self, dataset: &PartitionName) -> String;

    /// The pictures that the recipe reads; `None` if it reads none.
    fn pictures(&self) -> Result<Option<PictureSettings>, RecipeError> {
        Ok(None)
    }

    /// How its runs share the machine.
    fn pace(&self) -> Pace;

    /// How often a run goes through its training images.
    fn n_epochs(&self, settings: &TrainSettings) -> u32 {
        settings.epochs
    }

    /// Checks that this machine can train, before any inputs are read.
    fn check_machine(&self) -> Result<(), RecipeError> {
        Ok(())
    }

    /// Trains the run of `data`. Returns `None` if the run was interrupted; what is trained of it is then saved.
    fn learn(
        &self,
        data: &RunData<'_>,
        context: &StageContext,
        progress: &Progress,
    ) -> Result<Option<Finished>, TrainError>;

    /// How the next stage applies the networks that the runs leave to images; `None` if a run leaves no such network.
    fn application(&self) -> Option<Application> {
        None
    }
}

/// A recipe that learns in steps. [`by_steps`] is how it learns.
pub trait Course: Recipe {
    /// One run of the recipe.
    type Lesson<'a>: Lesson
    where
        Self: 'a;

    /// Steps, of `n_steps`, over which the learning rate rises to the schedule's value.
    fn warmup_steps(&self, n_steps: u64) -> u64 {
        let _ = n_steps;
        0
    }

    /// The scale of the labels in training.
    fn label_scale(&self, data: &RunData<'_>) -> LabelScale {
        data.label_scale()
    }

    /// The run that learns from `data`.
    fn lesson<'a>(&'a self, data: &'a RunData<'_>) -> Result<Self::Lesson<'a>, RecipeError>;
}

/// One run of a course. It may hold tensors, so it stays on its thread. [`Self::step`] and [`Self::validate`] may panic
/// as torch does; the trainer turns such a panic into an error.
pub trait Lesson {
    /// The network, or another object that scores images.
    type Network;

    /// Initial parameters of the training, and their sources in words.
    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError>;

    /// Factor on the learning rate of a parameter; 0 for a frozen parameter.
    fn rate(&self, parameter: &str) -> f64 {
        let _ = parameter;
        1.0
    }

    /// Whether the network itself changes a parameter in each step, as a batch norm does its statistics. Its rate is 0.
    fn moves(&self, parameter: &str) -> bool {
        let _ = parameter;
        false
    }

    /// How the optimiser treats the run's parameters.
    fn tuning(&self) -> Tuning {
        Tuning::default()
    }

    /// The device to train on.
    fn device(&self) -> Device {
        Device::Cpu
    }

    /// The network over `tensors`, which must be all parameters. Tensors that require gradients are not copied, so a
    /// step changes the network.
    fn network(&self, tensors: &NamedTensors) -> Result<Self::Network, NetworkError>;

    /// One step: forward, backward and [`Weights::update`]. Returns the sum of the squared errors, which may still be on a GPU, of the scores before
    /// the step, on the scale of training. If that sum is not finite, the step updates nothing.
    fn step(&self, network: &Self::Network, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError>;

    /// Scores the validation part.
    fn validate(&self, network: &Self::Network) -> Result<Validated, RecipeError>;

    /// Writes the files that the run leaves: its head, and its network if the next stage applies it. `tensors` are all
    /// parameters of the kept epoch, on the CPU.
    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError>;
}

/// What a kind of training chooses about the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// β₂ of Adam.
    pub beta_2: f64,
    /// Whether biases, norms and other vectors decay as matrices do.
    pub decay_vectors: bool,
    /// Largest norm of the gradient of all parameters together, for steps by autograd; a longer gradient is shortened.
    pub gradient_norm: Option<f64>,
}

impl Default for Tuning {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { beta_2: 0.999, decay_vectors: true, gradient_norm: None }
    }
}

/// Images of one step.
pub struct Batch {
    /// Number of the step, from 0.
    pub step: u64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Rows in the columns.
    pub rows: Vec<i64>,
    /// Labels on the scale of training, `(b,)`, on the CPU.
    pub targets: Tensor,
    /// `(b, ..)` on the lesson's device, for a recipe that reads pictures, if their inputs have one shape.
    pub pixels: Option<Tensor>,
    /// The input of each image, `(1, ..)` on the lesson's device, if their shapes differ.
    pub varied: Vec<Tensor>,
}

/// A network's results on the validation part.
#[derive(Debug, Default)]
pub struct Validated {
    /// Scores on the MOS scale, in the order of the validation rows.
    pub scores: Vec<f64>,
    /// Other information about the epoch.
    pub notes: Vec<String>,
    /// Problems of the network.
    pub warnings: Vec<String>,
}

/// The outputs of a run that its record names.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// The features that its head reads; empty for a network that reads images alone.
    pub inputs: Vec<RunInput>,
    /// Ridge regression on the same columns, if requested.
    pub ridge: Option<RidgeRecord>,
    /// Kernel ridge regression, if it is the head.
    pub kernel_ridge: Option<KernelRidgeRecord>,
}

/// The data that one run learns from.
pub struct RunData<'a> {
    /// The run.
    pub run: PartitionName,
    /// Fingerprint of every input that decides the run's numbers.
    fingerprint: Fingerprint,
    /// Fingerprint of every input that a saved state depends on.
    state_fingerprint: Fingerprint,
    /// Hyperparameters.
    pub settings: &'a TrainSettings,
    /// The random draws of the run.
    pub draws: Draws,
    /// The image of each row.
    pub image_ids: &'a [ImageId],
    /// The columns of the recipe's sets in turn, `(n, d)` each, not standardised. The tensor handles are the run's own,
    /// so that it can move to another thread.
    pub columns: Vec<Tensor>,
    /// The pictures, for a recipe that reads them.
    pub pictures: Option<&'a Pictures>,
    /// Rows of training, validation and test, in the split's order.
    pub rows: [Vec<i64>; 3],
    /// MOS of the training rows.
    pub train_mos: Vec<f64>,
    /// MOS of the validation rows.
    pub validation_mos: Vec<f64>,
    /// Threads that prepare pictures.
    pub n_threads: usize,
    /// The output for messages.
    pub console: Console,
}

impl RunData<'_> {
    /// Rows of one part, in the split's order.
    pub fn part(&self, part: Part) -> &[i64] {
        &self.rows[part as usize]
    }

    /// The scale of the labels in training.
    pub fn label_scale(&self) -> LabelScale {
        match self.settings.labels {
            Labels::Raw => LabelScale { scale: 1.0, offset: 0.0 },
            Labels::Standardised => {
                let n_train = self.train_mos.len() as f64;
                let mean = self.train_mos.iter().sum::<f64>() / n_train;
                let variance = self.train_mos.iter().map(|mos| (mos - mean).powi(2)).sum::<f64>() / n_train;
                // Equal labels have no deviation. The network then learns their mean.
                LabelScale { scale: if variance > 0.0 { variance.sqrt() } else { 1.0 }, offset: mean }
            }
        }
    }

    /// Labels of the training rows on that scale, `(n_train,)`.
    pub fn targets(&self) -> Tensor {
        self.targets_on(self.label_scale())
    }

    /// Labels of the training rows on a scale, `(n_train,)`.
    fn targets_on(&self, LabelScale { scale, offset }: LabelScale) -> Tensor {
        let targets: Vec<f32> = self.train_mos.iter().map(|mos| ((mos - offset) / scale) as f32).collect();
        Tensor::from_slice(&targets)
    }

    /// The pictures of a recipe that reads them.
    ///
    /// # Panics
    /// Panics if the recipe requested no pictures.
    pub fn pictures(&self) -> &Pictures {
        self.pictures.expect("the recipe asked for pictures")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_epoch_saves_what_a_minute_or_the_asked_time_would_lose() {
        let settings = TrainSettings { epochs: 20, checkpoint_epochs: 5, ..TrainSettings::default() };
        let saves = |pace: Pace, n_done, minutes| pace.saves_after(n_done, &settings, minutes);
        let in_turn = |checkpoint_minutes| Pace::InTurn { checkpoint_minutes };
        assert!(!saves(in_turn(10.0), 3, 0.1) && saves(in_turn(10.0), 3, 1.0));
        assert!(!saves(in_turn(0.5), 3, 0.4) && saves(in_turn(0.5), 3, 0.5));
        assert!(saves(in_turn(0.0), 3, 0.0));
        // Epochs of seconds are counted. After the last one, the run is written whole.
        assert_eq!([3, 5, 10, 20].map(|n_done| saves(Pace::SideBySide, n_done, 60.0)), [false, true, true, false]);
    }
}
