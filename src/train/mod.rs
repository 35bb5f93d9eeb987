//! `train`: fits a network to the MOS of a dataset.
//!
//! One trainer ([`trainer`]) has everything that trainings share: which runs there are, epochs, validation, the best epoch,
//! divergence, the log, the state of an unfinished run, the record. A recipe ([`recipes`]) says what is trained: its inputs
//! (cached columns, pictures), its network and loss, how fast each parameter learns, and what a run leaves.
//!
//! Inputs: a dataset's `images` (for the MOS) and `splits`, the feature sets that the recipe reads, and image files if it
//! reads pictures. Output: one folder [`agiqa_store::tables::models`] and one [`agiqa_store::tables::train_log`] per run; a
//! run is one split and one seed. Nothing in a run depends on how many others there are: it draws its initialisation, image
//! order and dropout from generators of its own, so its numbers are the same alone, beside others, and across an
//! interruption.

mod augment;
mod data;
pub mod head_inputs;
mod in_order;
mod initial;
mod optimiser;
mod pictures;
mod plan;
mod random;
pub mod recipes;
mod schedule;
mod settings;
pub mod trainer;

pub use augment::Augment;
pub use data::DataError;
pub use optimiser::{Adam, Gradient};
pub use pictures::{PictureSettings, Pictures, PicturesError};
pub use plan::{RunPlan, RunSeed, seeded_runs};
pub use random::Draws;
pub use schedule::Schedule;
pub use settings::{KeepEpoch, Labels, Optimiser, SettingsError, TrainSettings};
pub use trainer::{NextStage, Recipe, TrainError, TrainStage, Training};
