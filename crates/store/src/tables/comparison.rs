//! `comparison`: every method that has scored a dataset, judged on the same part of it;
//! `comparison/dataset=<dataset>/split=<split>/part=<part>/methods.parquet`.
//!
//! Scores are turned so that higher means better before anything is computed, so correlations are comparable in sign.

use arrow::array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::baselines::Direction;
use super::metrics::Estimate;
use super::{
    Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_real_array, real_at, text_array,
};
use crate::identity::Fingerprint;
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Version 1: first.
pub const KIND: PartKind = PartKind { table: "comparison", version: 1 };

const LOW: &str = "lower end of the 95 % bootstrap interval";
const HIGH: &str = "upper end of the 95 % bootstrap interval";

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("dataset", "dataset that was scored"),
    Column::partition("split", "split whose part was judged; `none` for all images"),
    Column::partition("part", "`train`, `validation` or `test`; `all` without a split"),
    Column::required("method", ColumnType::Text, "baseline, rating extractor or run, with what tells it from others"),
    Column::required("kind", ColumnType::Text, "`baseline`, `rating` or `run`"),
    Column::required("direction", ColumnType::Text, "`lower` or `higher`: which of its scores mean better quality"),
    Column::required("rank", ColumnType::Integer, "place by SRCC, from 1"),
    Column::required("n", ColumnType::Integer, "number of images that have a score and a MOS"),
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
    Column::optional("paper_srcc", ColumnType::Real, "the paper's figure for the method and dataset; null without one"),
    Column::optional("paper_plcc", ColumnType::Real, "the same of the PLCC"),
    Column::optional("paper_krcc", ColumnType::Real, "the same of the KRCC"),
    Column::optional("paper_rmse", ColumnType::Real, "the same of the RMSE"),
    Column::required(
        "n_paired",
        ColumnType::Integer,
        "number of images that every method has scored: those of the paired bootstrap",
    ),
    Column::optional("lead", ColumnType::Real, "SRCC minus that of the next method, on the paired images"),
    Column::optional("lead_low", ColumnType::Real, "lower end of the lead's 95 % interval by the paired bootstrap"),
    Column::optional("lead_high", ColumnType::Real, "upper end of the lead's 95 % interval by the paired bootstrap"),
    Column::required(
        "beats",
        ColumnType::Text,
        "methods with a lower SRCC from which the difference is real (its 95 % interval is above 0), separated by `; `",
    ),
];

/// Where a method's scores come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// Table `baselines`.
    Baseline,
    /// Column `rating` of an extractor's features.
    Rating,
    /// Predictions of a run.
    Run,
}

impl MethodKind {
    /// Name as in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Rating => "rating",
            Self::Run => "run",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Baseline, Self::Rating, Self::Run].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// Name, with what tells it from others of its name.
    pub method: String,
    /// Where its scores come from.
    pub kind: MethodKind,
    /// Which of its scores mean better quality.
    pub direction: Direction,
    /// Place by SRCC, from 1.
    pub rank: u64,
    /// Images that have a score and a MOS.
    pub n: u64,
    /// Spearman's rank correlation.
    pub srcc: Estimate,
    /// Pearson's correlation after the mapping.
    pub plcc: Estimate,
    /// Kendall's tau-b.
    pub krcc: Estimate,
    /// RMSE after the mapping.
    pub rmse: Estimate,
    /// The paper's SRCC, PLCC, KRCC and RMSE.
    pub paper: [Option<f64>; 4],
    /// Images that every method has scored.
    pub n_paired: u64,
    /// SRCC minus that of the next method, on the paired images.
    pub lead: Estimate,
    /// Methods below from which the difference is real.
    pub beats: Vec<String>,
}

/// What was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Dataset.
    pub dataset: PartitionName,
    /// Split and part; none for all images.
    pub part: Option<(PartitionName, super::splits::Part)>,
}

impl Judged {
    /// Path of its comparison.
    pub fn path(&self) -> String {
        let (split, part) = match &self.part {
            Some((split, part)) => (split.as_str(), part.as_str()),
            None => ("none", "all"),
        };
        format!("comparison/dataset={}/split={split}/part={part}/methods.parquet", self.dataset)
    }
}

/// Replaces the comparison of `judged` by `rows`.
pub fn write(
    store: &Store,
    judged: &Judged,
    rows: &[ComparisonRow],
    fingerprint: Fingerprint,
) -> Result<(), PartError> {
    part::write(store, KIND, &judged.path(), &to_batch(rows)?, Some(fingerprint)).map(|_| ())
}

/// `rows` as a parquet file of its own.
pub fn encode(rows: &[ComparisonRow]) -> Result<Bytes, PartError> {
    part::encode(KIND, "comparison", &to_batch(rows)?, None)
}

/// Reads the comparison of `judged`; empty where there is none.
pub fn read(store: &Store, judged: &Judged) -> Result<Vec<ComparisonRow>, PartError> {
    let path = judged.path();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut rows = Vec::new();
    for_each_batch(store, folder, KIND, None, |columns, batch| {
        let (methods, kinds) = (columns.text("method")?, columns.text("kind")?);
        let (directions, beats) = (columns.text("direction")?, columns.text("beats")?);
        let (ranks, n, n_paired) = (columns.integers("rank")?, columns.integers("n")?, columns.integers("n_paired")?);
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let estimates = ["srcc", "plcc", "krcc", "rmse", "lead"]
            .map(|name| {
                let value = columns.reals(name)?;
                let (low, high) = (columns.reals(&format!("{name}_low"))?, columns.reals(&format!("{name}_high"))?);
                Ok::<_, PartError>(move |row: usize| Estimate {
                    value: real_at(value, row),
                    low: real_at(low, row),
                    high: real_at(high, row),
                })
            })
            .into_iter()
            .collect::<Result<Vec<_>, PartError>>()?;
        let paper = ["paper_srcc", "paper_plcc", "paper_krcc", "paper_rmse"]
            .into_iter()
            .map(|name| columns.reals(name))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let kind = MethodKind::from_name(kinds.value(row))
                .ok_or_else(|| columns.error(row, "kind", "`baseline`, `rating` or `run`", kinds.value(row)))?;
            let direction = match directions.value(row) {
                "lower" => Direction::Lower,
                "higher" => Direction::Higher,
                other => return Err(columns.error(row, "direction", "`lower` or `higher`", other)),
            };
            let beaten = beats.value(row);
            rows.push(ComparisonRow {
                method: methods.value(row).to_owned(),
                kind,
                direction,
                rank: count(ranks.value(row)),
                n: count(n.value(row)),
                srcc: estimates[0](row),
                plcc: estimates[1](row),
                krcc: estimates[2](row),
                rmse: estimates[3](row),
                paper: std::array::from_fn(|index| real_at(paper[index], row)),
                n_paired: count(n_paired.value(row)),
                lead: estimates[4](row),
                beats: beaten.split("; ").filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            });
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[ComparisonRow]) -> Result<RecordBatch, PartError> {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let beats: Vec<String> = rows.iter().map(|row| row.beats.join("; ")).collect();
    let mut columns: Vec<ArrayRef> = vec![
        text_array(rows.iter().map(|row| row.method.as_str())),
        text_array(rows.iter().map(|row| row.kind.as_str())),
        text_array(rows.iter().map(|row| row.direction.as_str())),
        integer_array(rows.iter().map(|row| count(row.rank))),
        integer_array(rows.iter().map(|row| count(row.n))),
    ];
    let estimate = |columns: &mut Vec<ArrayRef>, of: fn(&ComparisonRow) -> Estimate| {
        columns.push(optional_real_array(rows.iter().map(|row| of(row).value)));
        columns.push(optional_real_array(rows.iter().map(|row| of(row).low)));
        columns.push(optional_real_array(rows.iter().map(|row| of(row).high)));
    };
    estimate(&mut columns, |row| row.srcc);
    estimate(&mut columns, |row| row.plcc);
    estimate(&mut columns, |row| row.krcc);
    estimate(&mut columns, |row| row.rmse);
    for index in 0..4 {
        columns.push(optional_real_array(rows.iter().map(|row| row.paper[index])));
    }
    columns.push(integer_array(rows.iter().map(|row| count(row.n_paired))));
    estimate(&mut columns, |row| row.lead);
    columns.push(text_array(beats.iter().map(String::as_str)));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
