//! The errors of an evaluation. The messages list the existing alternatives.

use crate::metrics::MetricsError;
use agiqa_store::store::StoreError;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::RunRecordError;

/// Runs cannot be evaluated as requested.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum EvaluateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table is broken.
    #[error(transparent)]
    Part(#[from] PartError),
    /// No run was named.
    #[error("no run to evaluate: name at least one")]
    NoRuns,
    /// The same run was named more than once.
    #[error("duplicate run `{run}`; each run counts once")]
    RunTwice { run: PartitionName },
    /// The group has the same name as one of its runs.
    #[error("group `{group}` has the name of one of its runs, whose metrics it would replace: choose another name")]
    GroupIsRun { group: PartitionName },
    /// A run's record cannot be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// The file with the scores of ridge regression is malformed.
    #[error("`{path}` in store `{url}` is not an object of image ids and scores; rerun `agiqa train`")]
    Ridge { path: String, url: String, source: serde_json::Error },
    /// A run has not scored the dataset.
    #[error(
        "run `{run}` has no scores of dataset `{dataset}` (it has scores of: {datasets}); run `agiqa predict` first"
    )]
    NoScores {
        run: PartitionName,
        dataset: PartitionName,
        /// The datasets that it has scored.
        datasets: String,
    },
    /// None of the images has a MOS.
    #[error(
        "none of the {n} images of `{dataset}` that run `{run}` scored has a MOS, so its scores cannot be evaluated"
    )]
    NoMos { run: PartitionName, dataset: PartitionName, n: usize },
    /// The run's split has no training image with a MOS.
    #[error(
        "run `{run}`: split `{split}` (fold {fold}) of dataset `{dataset}` has no training image with a MOS; rerun \
         `agiqa split` and `agiqa train`"
    )]
    NoTraining { run: PartitionName, dataset: PartitionName, split: PartitionName, fold: i64 },
    /// A column for subsets does not exist.
    #[error("dataset `{dataset}` has no column `{column}` to form subsets by; the columns are: {available}{hint}")]
    UnknownColumn {
        dataset: PartitionName,
        column: String,
        /// The existing columns.
        available: String,
        /// ` (did you mean …?)`, or empty.
        hint: String,
    },
    /// No metric can be computed from the scores.
    #[error("predictor `{predictor}`, subset `{subset}`")]
    Metrics { predictor: String, subset: String, source: MetricsError },
}

/// Names in backquotes, or `none`.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
