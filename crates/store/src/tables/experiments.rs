//! `experiments`: a table of the paper as this program computes it, with the paper's figures for comparison;
//! `experiments/experiment=<pipeline>/features=<extractors and 8 hex>/rows.parquet`.
//!
//! A row is either a variant of a pipeline or a method of the paper that this program does not train. The numbers of a
//! variant are mean and standard deviation over its seeds. Each pair of feature sets has its own folder.

use arrow::array::{ArrayRef, RecordBatch};
use serde::Serialize;

use super::estimates::{joined, means, paper};
use super::{
    Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_real_array, optional_text_array,
    text_array, text_at,
};
use crate::identity::Fingerprint;
use crate::metric::{Metric, N_PAPER};
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "experiments", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &joined::<{ 13 + 3 * N_PAPER }>(&[
    &[
        Column::partition("experiment", "name of the pipeline"),
        Column::partition("features", "extractors whose features were read, and digits of both fingerprints"),
        Column::required("paper_table", ColumnType::Integer, "number of the paper's table"),
        Column::required("place", ColumnType::Integer, "place of the row, from 1"),
        Column::required("variant", ColumnType::Text, "name of the variant, or of a method that only the paper has"),
        Column::optional("inputs", ColumnType::Text, "features that the head reads, separated by ` + `"),
        Column::optional("gate", ColumnType::Text, "`sigmoid`, `linear`, or `concat` for no gate"),
        Column::required("trained_on", ColumnType::Text, "dataset whose training part was trained on"),
        Column::required("dataset", ColumnType::Text, "dataset whose test part was judged"),
        Column::optional("semantic", ColumnType::Text, "feature set of f_a and f_b: extractor and fingerprint"),
        Column::optional("quality", ColumnType::Text, "feature set of f_1: extractor and fingerprint"),
        Column::optional("run", ColumnType::Text, "run or group of runs in `metrics` that the numbers are from"),
        Column::required("n_runs", ColumnType::Integer, "number of runs; 0 for a method that only the paper has"),
    ],
    means(N_PAPER),
    paper(N_PAPER),
]);

/// Mean and standard deviation of a metric over runs; `None` means undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MeanStd {
    /// Mean.
    pub mean: Option<f64>,
    /// Sample standard deviation.
    pub std: Option<f64>,
}

/// This program's own numbers in a row, with their source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ours {
    /// Features that the head reads, e.g. `f_1 + f_a`.
    pub inputs: String,
    /// `sigmoid`, `linear` or `concat`.
    pub gate: String,
    /// Feature set of f_a and f_b.
    pub semantic: String,
    /// Feature set of f_1.
    pub quality: String,
    /// Run or group in `metrics`.
    pub run: String,
    /// Number of runs.
    pub n_runs: u64,
    /// SRCC, PLCC, KRCC and RMSE.
    pub metrics: [MeanStd; N_PAPER],
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExperimentRow {
    /// Name of the variant, or of a method that appears only in the paper.
    pub variant: String,
    /// Dataset whose training part the run learned from.
    pub trained_on: String,
    /// Dataset whose test part was judged.
    pub dataset: String,
    /// This program's numbers; `None` for a method that appears only in the paper.
    pub ours: Option<Ours>,
    /// The paper's SRCC, PLCC, KRCC and RMSE.
    pub paper: [Option<f64>; N_PAPER],
}

/// Key of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExperimentKey {
    /// Name of the pipeline.
    pub experiment: PartitionName,
    /// Name of the features.
    pub features: PartitionName,
    /// Number of the paper's table.
    pub paper_table: u32,
}

impl ExperimentKey {
    fn folder(&self) -> String {
        format!("experiments/experiment={}/features={}", self.experiment, self.features)
    }

    /// Path of the table.
    pub fn path(&self) -> String {
        format!("{}/rows.parquet", self.folder())
    }

    /// Path of the same table for people, in Markdown.
    pub fn markdown_path(&self) -> String {
        format!("{}/table.md", self.folder())
    }
}

/// Replaces the table `key` with `rows`, in their order.
///
/// # Errors
/// Fails if the store cannot be written.
pub fn write(
    store: &Store,
    key: &ExperimentKey,
    rows: &[ExperimentRow],
    fingerprint: Fingerprint,
) -> Result<(), PartError> {
    part::write(store, KIND, &key.path(), &to_batch(key, rows)?, Some(fingerprint)).map(|_| ())
}

/// Keys of all tables in `store`, sorted by name.
///
/// # Errors
/// Fails if the store cannot be read or a part is damaged.
pub fn keys(store: &Store) -> Result<Vec<ExperimentKey>, PartError> {
    let mut keys = Vec::new();
    for object in part::list(store, "experiments")? {
        let mut names = object.path.split('/').skip(1).filter_map(|folder| folder.split_once('='));
        let mut name = || names.next().and_then(|(_, name)| PartitionName::new(name).ok());
        let (Some(experiment), Some(features)) = (name(), name()) else { continue };
        let mut key = ExperimentKey { experiment, features, paper_table: 0 };
        for_each_batch(store, &key.folder(), KIND, Some(&["paper_table"]), |columns, batch| {
            let numbers = columns.integers("paper_table")?;
            if batch.num_rows() > 0 {
                key.paper_table = numbers.value(0).try_into().unwrap_or(0);
            }
            Ok(())
        })?;
        keys.push(key);
    }
    Ok(keys)
}

/// Reads the table `key`, in the order of its rows; empty if it does not exist.
///
/// # Errors
/// Fails if the store cannot be read or a part is damaged.
pub fn read(store: &Store, key: &ExperimentKey) -> Result<Vec<ExperimentRow>, PartError> {
    let mut rows: Vec<(i64, ExperimentRow)> = Vec::new();
    for_each_batch(store, &key.folder(), KIND, None, |columns, batch| {
        let (places, n_runs) = (columns.integers("place")?, columns.integers("n_runs")?);
        let (variants, trained_on, datasets) =
            (columns.text("variant")?, columns.text("trained_on")?, columns.text("dataset")?);
        let (inputs, gates, runs) = (columns.text("inputs")?, columns.text("gate")?, columns.text("run")?);
        let (semantic, quality) = (columns.text("semantic")?, columns.text("quality")?);
        let named = |prefix: &str, suffix: &str| {
            columns.optional_reals(Metric::PAPER.map(|metric| format!("{prefix}{}{suffix}", metric.as_str())))
        };
        let (means, deviations, paper) = (named("", "")?, named("", "_std")?, named("paper_", "")?);
        for row in 0..batch.num_rows() {
            let (means, deviations) = (means(row), deviations(row));
            let metrics = std::array::from_fn(|index| MeanStd { mean: means[index], std: deviations[index] });
            let text = |array| text_at(array, row).unwrap_or_default();
            let ours = text_at(runs, row).map(|run| Ours {
                inputs: text(inputs),
                gate: text(gates),
                semantic: text(semantic),
                quality: text(quality),
                run,
                n_runs: u64::try_from(n_runs.value(row)).unwrap_or(0),
                metrics,
            });
            rows.push((
                places.value(row),
                ExperimentRow {
                    variant: variants.value(row).to_owned(),
                    trained_on: trained_on.value(row).to_owned(),
                    dataset: datasets.value(row).to_owned(),
                    ours,
                    paper: paper(row),
                },
            ));
        }
        Ok(())
    })?;
    rows.sort_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn to_batch(key: &ExperimentKey, rows: &[ExperimentRow]) -> Result<RecordBatch, PartError> {
    let n = rows.len() as i64;
    let text = |value: fn(&Ours) -> &str| optional_text_array(rows.iter().map(move |row| row.ours.as_ref().map(value)));
    let n_runs =
        |row: &ExperimentRow| row.ours.as_ref().map_or(0, |ours| i64::try_from(ours.n_runs).unwrap_or(i64::MAX));
    let mut columns: Vec<ArrayRef> = vec![
        integer_array((0..n).map(|_| i64::from(key.paper_table))),
        integer_array(1..=n),
        text_array(rows.iter().map(|row| row.variant.as_str())),
        text(|ours| &ours.inputs),
        text(|ours| &ours.gate),
        text_array(rows.iter().map(|row| row.trained_on.as_str())),
        text_array(rows.iter().map(|row| row.dataset.as_str())),
        text(|ours| &ours.semantic),
        text(|ours| &ours.quality),
        text(|ours| &ours.run),
        integer_array(rows.iter().map(n_runs)),
    ];
    for index in 0..N_PAPER {
        let metric = |row: &ExperimentRow| row.ours.as_ref().map_or(MeanStd::default(), |ours| ours.metrics[index]);
        columns.push(optional_real_array(rows.iter().map(|row| metric(row).mean)));
        columns.push(optional_real_array(rows.iter().map(|row| metric(row).std)));
    }
    for index in 0..N_PAPER {
        columns.push(optional_real_array(rows.iter().map(|row| row.paper[index])));
    }
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
