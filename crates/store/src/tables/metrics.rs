//! `metrics`: agreement of scores with MOS, per run, part and subset; `metrics/run=<run>/metrics.parquet`.
//!
//! Metrics on a dataset that the run was not trained on are in `metrics-on-<dataset>.parquet` in the same folder.
//!
//! Rows with `statistic = value` describe one run. If several runs differ only in their seed, the folder of the group
//! (`run=<group>`) holds rows with `statistic` `mean`, `std` or `median` over these runs. Undefined is null.

use arrow::array::{ArrayRef, RecordBatch};
use serde::Serialize;

use super::estimates::{arrays, estimates, joined};
use super::{Column, ColumnType, PartitionName, for_each_batch, integer_array, text_array};
use crate::identity::Fingerprint;
use crate::metric::{Estimates, N_METRICS};
use crate::store::part::{self, PartError, PartKind};
use crate::store::{Store, StoreError};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "metrics", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &joined::<{ 8 + 3 * N_METRICS }>(&[
    &[
        Column::partition("run", "run, or group of runs that differ in their seed only"),
        Column::required("dataset", ColumnType::Text, "dataset that was scored"),
        Column::required("part", ColumnType::Text, "`train`, `validation`, `test`, or `all` of another dataset"),
        Column::required("predictor", ColumnType::Text, "`model`, `ridge`, or a trivial one such as `generator-mean`"),
        Column::required("subset", ColumnType::Text, "`all`, or `<column>=<value>`"),
        Column::required("statistic", ColumnType::Text, "`value` of one run; `mean`, `std` or `median` over runs"),
        Column::required("n_runs", ColumnType::Integer, "number of runs behind the row"),
        Column::required("n", ColumnType::Integer, "number of images; over runs, their sum"),
    ],
    estimates(N_METRICS),
]);

/// The statistic that a row's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// The metric of one run.
    Value,
    /// Mean over runs.
    Mean,
    /// Sample standard deviation (n - 1) over runs.
    Std,
    /// Median over runs.
    Median,
}

impl Statistic {
    /// Name as in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Median => "median",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Value, Self::Mean, Self::Std, Self::Median].into_iter().find(|statistic| statistic.as_str() == name)
    }
}

/// One row of metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricsRow {
    /// Dataset that was scored.
    pub dataset: String,
    /// Part of the split, or `all`.
    pub part: String,
    /// The predictor that gave the scores, e.g. `model`.
    pub predictor: String,
    /// `all`, or `<column>=<value>`.
    pub subset: String,
    /// The statistic that the numbers are.
    pub statistic: Statistic,
    /// Number of runs behind the row.
    pub n_runs: u64,
    /// Number of images.
    pub n: u64,
    /// The metrics.
    #[serde(flatten)]
    pub metrics: Estimates<N_METRICS>,
}

/// Path of a run's metrics.
pub fn path(run: &PartitionName) -> String {
    format!("metrics/run={run}/metrics.parquet")
}

/// Path of a run's metrics on a dataset that it was not trained on. It differs from [`path`], so that neither file
/// replaces the other.
pub fn path_on(run: &PartitionName, dataset: &PartitionName) -> String {
    format!("metrics/run={run}/metrics-on-{dataset}.parquet")
}

/// Whether `run` has metrics.
pub fn exists(store: &Store, run: &PartitionName) -> Result<bool, StoreError> {
    store.exists(&path(run))
}

/// Replaces `run`'s metrics with `rows`.
pub fn write(
    store: &Store,
    run: &PartitionName,
    rows: &[MetricsRow],
    fingerprint: Option<Fingerprint>,
) -> Result<(), PartError> {
    write_to(store, &path(run), rows, fingerprint)
}

/// Replaces the metrics at `path`, which is a result of [`path`] or [`path_on`], with `rows`.
pub fn write_to(
    store: &Store,
    path: &str,
    rows: &[MetricsRow],
    fingerprint: Option<Fingerprint>,
) -> Result<(), PartError> {
    part::write(store, KIND, path, &to_batch(rows)?, fingerprint).map(|_| ())
}

/// Reads `run`'s metrics; empty if none exist.
pub fn read(store: &Store, run: &PartitionName) -> Result<Vec<MetricsRow>, PartError> {
    let mut rows = Vec::new();
    for_each_batch(store, &format!("metrics/run={run}"), KIND, None, |columns, batch| {
        let (datasets, parts) = (columns.text("dataset")?, columns.text("part")?);
        let (predictors, subsets) = (columns.text("predictor")?, columns.text("subset")?);
        let (statistics, n_runs, n) = (columns.text("statistic")?, columns.integers("n_runs")?, columns.integers("n")?);
        let metrics = columns.estimates()?;
        for row in 0..batch.num_rows() {
            let statistic = Statistic::from_name(statistics.value(row)).ok_or_else(|| {
                columns.error(row, "statistic", "`value`, `mean`, `std` or `median`", statistics.value(row))
            })?;
            rows.push(MetricsRow {
                dataset: datasets.value(row).to_owned(),
                part: parts.value(row).to_owned(),
                predictor: predictors.value(row).to_owned(),
                subset: subsets.value(row).to_owned(),
                statistic,
                n_runs: n_runs.value(row).try_into().unwrap_or(0),
                n: n.value(row).try_into().unwrap_or(0),
                metrics: metrics(row),
            });
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[MetricsRow]) -> Result<RecordBatch, PartError> {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut columns: Vec<ArrayRef> = vec![
        text_array(rows.iter().map(|row| row.dataset.as_str())),
        text_array(rows.iter().map(|row| row.part.as_str())),
        text_array(rows.iter().map(|row| row.predictor.as_str())),
        text_array(rows.iter().map(|row| row.subset.as_str())),
        text_array(rows.iter().map(|row| row.statistic.as_str())),
        integer_array(rows.iter().map(|row| count(row.n_runs))),
        integer_array(rows.iter().map(|row| count(row.n))),
    ];
    for index in 0..N_METRICS {
        columns.extend(arrays(rows.iter().map(|row| row.metrics.0[index])));
    }
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
