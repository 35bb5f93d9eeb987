//! What keeps runs from being evaluated, said with what there is instead.

use crate::metrics::MetricsError;
use agiqa_store::store::StoreError;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::RunRecordError;

/// Runs that cannot be evaluated as asked.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table is broken.
    #[error(transparent)]
    Part(#[from] PartError),
    /// No run was named.
    #[error("there is no run to evaluate: name at least one")]
    NoRuns,
    /// A run was named twice.
    #[error("run `{run}` is named twice; each run counts once")]
    RunTwice {
        /// The run.
        run: PartitionName,
    },
    /// The group's name is that of one of its runs.
    #[error("group `{group}` has the name of one of its runs, whose metrics it would replace: choose another name")]
    GroupIsRun {
        /// The name.
        group: PartitionName,
    },
    /// A run's record cannot be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// The scores of ridge regression are not what they should be.
    #[error("`{path}` in store `{url}` is not an object of image ids and scores; rerun `agiqa train`")]
    Ridge {
        /// The file.
        path: String,
        /// The store.
        url: String,
        /// Cause.
        source: serde_json::Error,
    },
    /// A run has not scored the dataset.
    #[error(
        "run `{run}` has no scores of dataset `{dataset}` (it has scores of: {datasets}); run `agiqa predict` first"
    )]
    NoScores {
        /// The run.
        run: PartitionName,
        /// The dataset.
        dataset: PartitionName,
        /// Datasets that it has scored.
        datasets: String,
    },
    /// None of the images has a MOS.
    #[error(
        "none of the {n} images of `{dataset}` that run `{run}` scored has a MOS: there is nothing to compare with"
    )]
    NoMos {
        /// The run.
        run: PartitionName,
        /// The dataset.
        dataset: PartitionName,
        /// Number of images.
        n: usize,
    },
    /// The run's split has no training image with a MOS.
    #[error(
        "run `{run}`: split `{split}` (fold {fold}) of dataset `{dataset}` has no training image with a MOS; rerun \
         `agiqa split` and `agiqa train`"
    )]
    NoTraining {
        /// The run.
        run: PartitionName,
        /// Dataset of the training.
        dataset: PartitionName,
        /// The split.
        split: PartitionName,
        /// The fold.
        fold: i64,
    },
    /// A column to form subsets by does not exist.
    #[error("dataset `{dataset}` has no column `{column}` to form subsets by; there are: {there}{hint}")]
    UnknownColumn {
        /// The dataset.
        dataset: PartitionName,
        /// The column asked for.
        column: String,
        /// Columns there are.
        there: String,
        /// ` (did you mean …?)` or nothing.
        hint: String,
    },
    /// Scores that no metric can be computed from.
    #[error("predictor `{predictor}`, subset `{subset}`")]
    Metrics {
        /// The predictor.
        predictor: String,
        /// The subset.
        subset: String,
        /// Cause.
        source: MetricsError,
    },
}

/// Names in backquotes, or `none`.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
