//! `comparison`: every method that has scored a dataset, judged on the same part of the dataset;
//! `comparison/dataset=<dataset>/split=<split>/part=<part>/methods.parquet`.
//!
//! Scores are turned so that higher means better before any metric is computed. Correlations of different methods
//! therefore have comparable signs.

use arrow::array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use serde::Serialize;

use super::estimates::{arrays, estimates, joined, paper};
use super::scores::{Direction, ScorerKind};
use super::{Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_real_array, text_array};
use crate::identity::Fingerprint;
use crate::metric::{Estimate, Estimates, Metric, N_PAPER};
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. In version 2, `kind` is the kind of the scorer, so `baseline` became `method`.
pub const KIND: PartKind = PartKind { table: "comparison", version: 2 };

/// The columns.
pub const COLUMNS: &[Column] = &joined::<{ 13 + 4 * N_PAPER }>(&[
    &[
        Column::partition("dataset", "dataset that was scored"),
        Column::partition("split", "split whose part was judged; `none` for all images"),
        Column::partition("part", "`train`, `validation` or `test`; `all` without a split"),
        Column::required("method", ColumnType::Text, "scorer, with what tells it from others of its name"),
        Column::required("kind", ColumnType::Text, "`method`, `rating` or `run`: what the scorer is"),
        Column::required("direction", ColumnType::Text, "`lower` or `higher`: which of its scores mean better quality"),
        Column::required("rank", ColumnType::Integer, "place by SRCC, from 1"),
        Column::required("n", ColumnType::Integer, "number of images that have a score and a MOS"),
    ],
    estimates(N_PAPER),
    paper(N_PAPER),
    &[
        Column::required("n_paired", ColumnType::Integer, "number of images that every method has scored"),
        Column::optional("lead", ColumnType::Real, "SRCC minus that of the next method, on the paired images"),
        Column::optional("lead_low", ColumnType::Real, "lower end of the lead's 95 % interval by the paired bootstrap"),
        Column::optional(
            "lead_high",
            ColumnType::Real,
            "upper end of the lead's 95 % interval by the paired bootstrap",
        ),
        Column::required(
            "beats",
            ColumnType::Text,
            "methods with a lower SRCC from which the difference is real (its 95 % interval is above 0), separated by `; `",
        ),
    ],
]);

/// One method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparisonRow {
    /// Name, extended if other scorers have the same name.
    pub method: String,
    /// Kind of the scorer.
    pub kind: ScorerKind,
    /// Whether lower or higher scores mean better quality.
    pub direction: Direction,
    /// Place by SRCC, from 1.
    pub rank: u64,
    /// Images that have a score and a MOS.
    pub n: u64,
    /// The metrics that the paper reports.
    #[serde(flatten)]
    pub metrics: Estimates<N_PAPER>,
    /// The paper's SRCC, PLCC, KRCC and RMSE.
    pub paper: [Option<f64>; N_PAPER],
    /// Images that every method has scored.
    pub n_paired: u64,
    /// SRCC minus the SRCC of the next method, on the paired images.
    pub lead: Estimate,
    /// Lower-ranked methods whose difference from this one is real.
    pub beats: Vec<String>,
}

/// The images that were judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Dataset.
    pub dataset: PartitionName,
    /// Split and part; `None` for all images.
    pub part: Option<(PartitionName, super::splits::Part)>,
}

impl Judged {
    /// Path of the comparison.
    pub fn path(&self) -> String {
        let (split, part) = match &self.part {
            Some((split, part)) => (split.as_str(), part.as_str()),
            None => ("none", "all"),
        };
        format!("comparison/dataset={}/split={split}/part={part}/methods.parquet", self.dataset)
    }
}

/// Replaces the comparison of `judged` with `rows`.
pub fn write(
    store: &Store,
    judged: &Judged,
    rows: &[ComparisonRow],
    fingerprint: Fingerprint,
) -> Result<(), PartError> {
    part::write(store, KIND, &judged.path(), &to_batch(rows)?, Some(fingerprint)).map(|_| ())
}

/// `rows` as the bytes of a parquet file.
pub fn encode(rows: &[ComparisonRow]) -> Result<Bytes, PartError> {
    part::encode(KIND, "comparison", &to_batch(rows)?, None)
}

/// Reads the comparison of `judged`; empty if it does not exist.
pub fn read(store: &Store, judged: &Judged) -> Result<Vec<ComparisonRow>, PartError> {
    let path = judged.path();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut rows = Vec::new();
    for_each_batch(store, folder, KIND, None, |columns, batch| {
        let (methods, kinds) = (columns.text("method")?, columns.text("kind")?);
        let (directions, beats) = (columns.text("direction")?, columns.text("beats")?);
        let (ranks, n, n_paired) = (columns.integers("rank")?, columns.integers("n")?, columns.integers("n_paired")?);
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let (metrics, lead) = (columns.estimates()?, columns.estimate("lead")?);
        let paper = columns.optional_reals(Metric::PAPER.map(|metric| format!("paper_{}", metric.as_str())))?;
        for row in 0..batch.num_rows() {
            let kind = ScorerKind::from_name(kinds.value(row))
                .ok_or_else(|| columns.error(row, "kind", "`method`, `rating` or `run`", kinds.value(row)))?;
            let direction = Direction::from_name(directions.value(row))
                .ok_or_else(|| columns.error(row, "direction", "`lower` or `higher`", directions.value(row)))?;
            let beaten = beats.value(row);
            rows.push(ComparisonRow {
                method: methods.value(row).to_owned(),
                kind,
                direction,
                rank: count(ranks.value(row)),
                n: count(n.value(row)),
                metrics: metrics(row),
                paper: paper(row),
                n_paired: count(n_paired.value(row)),
                lead: lead(row),
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
    for index in 0..N_PAPER {
        columns.extend(arrays(rows.iter().map(|row| row.metrics.0[index])));
    }
    for index in 0..N_PAPER {
        columns.push(optional_real_array(rows.iter().map(|row| row.paper[index])));
    }
    columns.push(integer_array(rows.iter().map(|row| count(row.n_paired))));
    columns.extend(arrays(rows.iter().map(|row| row.lead)));
    columns.push(text_array(beats.iter().map(String::as_str)));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
