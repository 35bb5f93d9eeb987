//! `train`: fits a network to the MOS of a dataset.
//!
//! One trainer ([`trainer`]) holds everything that trainings share: the plan of runs, epochs, validation, the best
//! epoch, divergence, the log, the state of an unfinished run, the record. A recipe ([`recipes`]) defines one kind of
//! training: its inputs (cached columns, pictures), its network and loss, the learning rate of each parameter, and the
//! files that a run leaves.
//!
//! Inputs: a dataset's `images` (for the MOS) and `splits`, the feature sets that the recipe reads, and image files if
//! it reads pictures. Output: one folder [`agiqa_store::tables::models`] and one [`agiqa_store::tables::train_log`] per
//! run. A run is one split and one seed. A run does not depend on the number of other runs: it draws its
//! initialisation, image order and dropout from its own generators. Its numbers are therefore the same alone, in
//! parallel with others, and across an interruption.

mod augment;
mod data;
pub mod head_inputs;
mod in_order;
mod initial;
mod optimiser;
mod pictures;
mod random;
pub mod recipes;
mod runs;
mod schedule;
mod settings;
pub mod trainer;

pub use augment::Augment;
pub use data::DataError;
pub use optimiser::{Adam, Gradient, Rule};
pub use pictures::{PictureSettings, Pictures, PicturesError};
pub use random::Draws;
pub use runs::{Member, RunPlan, RunSeed, seeded_runs};
pub use schedule::Schedule;
pub use settings::{KeepEpoch, Labels, Optimiser, TrainSettings, TrainSettingsError};
pub use trainer::{NextStage, Recipe, TrainError, TrainStage, Training};
