//! The errors of a training.

use super::PicturesError;
use crate::train::{DataError, TrainSettingsError};
use agiqa_store::store::StoreError;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::models::RunRecordError;
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// Any error of a recipe. Its own type stays reachable through the chain of causes.
pub type RecipeError = Box<dyn std::error::Error + Send + Sync>;

/// A training cannot start or continue.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TrainError {
    /// A hyperparameter is invalid.
    #[error(transparent)]
    Settings(#[from] TrainSettingsError),
    /// Inputs are missing or do not match.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Image files cannot be read.
    #[error(
        "{n} of {n_images} images that training reads cannot be used; the first: {first}; bring the files back or ingest \
         again, or set `allow_missing = true` to leave these images out"
    )]
    Images {
        /// Number of images that cannot be used.
        n: usize,
        /// Number of images that training reads.
        n_images: usize,
        /// The failure of the first image.
        first: String,
    },
    /// Resized images could not be kept or read back.
    #[error(transparent)]
    Pictures(#[from] PicturesError),
    /// The recipe failed.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The loss or the weights became infinite or NaN.
    #[error("run `{run}` diverged: {sign}; try a lower learning rate, or `standardise = true`")]
    Diverged {
        run: PartitionName,
        /// The evidence, with step and learning rate.
        sign: String,
    },
    /// libtorch failed, e.g. because memory ran short.
    #[error(
        "run `{run}`: step {step} failed; if memory ran short, a smaller `batch_size` needs less, and so does a smaller \
         `micro_batch`, which gives the same batch"
    )]
    Torch {
        run: PartitionName,
        /// Step, from 1.
        step: u64,
        #[source]
        source: tch::TchError,
    },
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// A table could not be written or read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name of a run would be too long.
    #[error("cannot name a run by its prefix and its split")]
    Name(#[from] PartitionNameError),
    /// A head has no f_a and f_b.
    #[error("no features are named for f_a and f_b: only the training of a rating network needs none")]
    NoSemantic,
    /// A head over cached columns has no f_1.
    #[error("no features are named for f_1: only a joint training computes its own")]
    NoQuality,
    /// The training has no runs.
    #[error("no split and no seed is given, so no run would be trained")]
    NoRuns,
}
