//! `metrics`: agreement of scores with MOS, per run, part and subset; `metrics/run=<run>/metrics.parquet`.
//!
//! Metrics on a dataset that the run was not trained on stand beside them, in `metrics-on-<dataset>.parquet`.
//!
//! Rows with `statistic = value` describe one run. Where several runs differ in nothing but their seed, the folder of
//! the group (`run=<group>`) holds rows with `statistic` `mean`, `std` or `median` over them. Undefined is null.

use arrow::array::{ArrayRef, RecordBatch};
use serde::{Deserialize, Serialize};

use super::{
    Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_real_array, real_at, text_array,
};
use crate::identity::Fingerprint;
use crate::store::part::{self, PartError, PartKind};
use crate::store::{Store, StoreError};

/// Version 1: first.
pub const KIND: PartKind = PartKind { table: "metrics", version: 1 };

const LOW: &str = "lower end of the 95 % bootstrap interval";
const HIGH: &str = "upper end of the 95 % bootstrap interval";

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("run", "run, or group of runs that differ in their seed only"),
    Column::required("dataset", ColumnType::Text, "dataset that was scored"),
    Column::required("part", ColumnType::Text, "`train`, `validation`, `test`, or `all` of another dataset"),
    Column::required("predictor", ColumnType::Text, "`model`, `ridge`, or a trivial one such as `generator-mean`"),
    Column::required("subset", ColumnType::Text, "`all`, or `<column>=<value>`"),
    Column::required("statistic", ColumnType::Text, "`value` of one run; `mean`, `std` or `median` over runs"),
    Column::required("n_runs", ColumnType::Integer, "number of runs behind the row"),
    Column::required("n", ColumnType::Integer, "number of images; over runs, their sum"),
    Column::optional("srcc", ColumnType::Real, "Spearman's rank correlation"),
    Column::optional("srcc_low", ColumnType::Real, LOW),
    Column::optional("srcc_high", ColumnType::Real, HIGH),
    Column::optional("plcc", ColumnType::Real, "Pearson's correlation after the 4-parameter logistic mapping"),
    Column::optional("plcc_low", ColumnType::Real, LOW),
    Column::optional("plcc_high", ColumnType::Real, HIGH),
    Column::optional("krcc", ColumnType::Real, "Kendall's tau-b"),
    Column::optional("krcc_low", ColumnType::Real, LOW),
    Column::optional("krcc_high", ColumnType::Real, HIGH),
    Column::optional("rmse", ColumnType::Real, "root mean squared error after the mapping, on the MOS scale"),
    Column::optional("rmse_low", ColumnType::Real, LOW),
    Column::optional("rmse_high", ColumnType::Real, HIGH),
    Column::optional("plcc_raw", ColumnType::Real, "Pearson's correlation of the scores as they are"),
    Column::optional("plcc_raw_low", ColumnType::Real, LOW),
    Column::optional("plcc_raw_high", ColumnType::Real, HIGH),
    Column::optional("rmse_raw", ColumnType::Real, "root mean squared error of the scores as they are"),
    Column::optional("rmse_raw_low", ColumnType::Real, LOW),
    Column::optional("rmse_raw_high", ColumnType::Real, HIGH),
];

/// One metric with its interval; none means undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Value on all images of the subset.
    pub value: Option<f64>,
    /// Lower end of the 95 % bootstrap interval.
    pub low: Option<f64>,
    /// Upper end of the 95 % bootstrap interval.
    pub high: Option<f64>,
}

/// What a row's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsRow {
    /// Dataset that was scored.
    pub dataset: String,
    /// Part, or `all`.
    pub part: String,
    /// What gave the scores.
    pub predictor: String,
    /// `all`, or `<column>=<value>`.
    pub subset: String,
    /// What the numbers are.
    pub statistic: Statistic,
    /// Number of runs behind the row.
    pub n_runs: u64,
    /// Number of images.
    pub n: u64,
    /// Spearman's rank correlation.
    pub srcc: Estimate,
    /// Pearson's correlation after the mapping.
    pub plcc: Estimate,
    /// Kendall's tau-b.
    pub krcc: Estimate,
    /// RMSE after the mapping.
    pub rmse: Estimate,
    /// Pearson's correlation of raw scores.
    pub plcc_raw: Estimate,
    /// RMSE of raw scores.
    pub rmse_raw: Estimate,
}

impl MetricsRow {
    fn estimates(&self) -> [Estimate; 6] {
        [self.srcc, self.plcc, self.krcc, self.rmse, self.plcc_raw, self.rmse_raw]
    }
}

/// Path of a run's metrics.
pub fn path(run: &PartitionName) -> String {
    format!("metrics/run={run}/metrics.parquet")
}

/// Path of a run's metrics on a dataset that it was not trained on; beside those on its own, so that neither replaces
/// the other.
pub fn path_on(run: &PartitionName, dataset: &PartitionName) -> String {
    format!("metrics/run={run}/metrics-on-{dataset}.parquet")
}

/// Whether `run` has metrics.
pub fn exists(store: &Store, run: &PartitionName) -> Result<bool, StoreError> {
    store.exists(&path(run))
}

/// Replaces `run`'s metrics by `rows`.
pub fn write(
    store: &Store,
    run: &PartitionName,
    rows: &[MetricsRow],
    fingerprint: Option<Fingerprint>,
) -> Result<(), PartError> {
    write_to(store, &path(run), rows, fingerprint)
}

/// Replaces the metrics at `path`, one of [`path`] and [`path_on`], by `rows`.
pub fn write_to(
    store: &Store,
    path: &str,
    rows: &[MetricsRow],
    fingerprint: Option<Fingerprint>,
) -> Result<(), PartError> {
    part::write(store, KIND, path, &to_batch(rows)?, fingerprint).map(|_| ())
}

/// Reads `run`'s metrics; empty where there are none.
pub fn read(store: &Store, run: &PartitionName) -> Result<Vec<MetricsRow>, PartError> {
    let mut rows = Vec::new();
    for_each_batch(store, &format!("metrics/run={run}"), KIND, None, |columns, batch| {
        let (datasets, parts) = (columns.text("dataset")?, columns.text("part")?);
        let (predictors, subsets) = (columns.text("predictor")?, columns.text("subset")?);
        let (statistics, n_runs, n) = (columns.text("statistic")?, columns.integers("n_runs")?, columns.integers("n")?);
        let mut estimates = Vec::new();
        for name in ["srcc", "plcc", "krcc", "rmse", "plcc_raw", "rmse_raw"] {
            let value = columns.reals(name)?;
            let low = columns.reals(&format!("{name}_low"))?;
            let high = columns.reals(&format!("{name}_high"))?;
            estimates.push(move |row| Estimate {
                value: real_at(value, row),
                low: real_at(low, row),
                high: real_at(high, row),
            });
        }
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
                srcc: estimates[0](row),
                plcc: estimates[1](row),
                krcc: estimates[2](row),
                rmse: estimates[3](row),
                plcc_raw: estimates[4](row),
                rmse_raw: estimates[5](row),
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
    for index in 0..6 {
        columns.push(optional_real_array(rows.iter().map(|row| row.estimates()[index].value)));
        columns.push(optional_real_array(rows.iter().map(|row| row.estimates()[index].low)));
        columns.push(optional_real_array(rows.iter().map(|row| row.estimates()[index].high)));
    }
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
