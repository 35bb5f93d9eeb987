//! `predictions`: the scores that one run's head gives; `predictions/run=<run>/part-0.parquet`.
//!
//! Scores of another dataset or a corpus stand beside those of the training one, in `part-on-<dataset>.parquet`, so that
//! scoring one never replaces the other.

use arrow::array::RecordBatch;

use super::splits::Part;
use super::{
    Column, ColumnType, PartitionName, for_each_batch, optional_real_array, optional_text_array, real_array, real_at,
    text_array, text_at,
};
use crate::identity::{Fingerprint, ImageId};
use crate::store::part::{self, PartError, PartKind};
use crate::store::{Store, StoreError};

/// Version 1: first.
pub const KIND: PartKind = PartKind { table: "predictions", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("run", "run whose head gave the score"),
    Column::required("dataset", ColumnType::Text, "dataset or corpus that the image belongs to"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("name", ColumnType::Text, "file name as the dataset's table gives it"),
    Column::optional("part", ColumnType::Text, "`train`, `validation` or `test`; null for a corpus or another dataset"),
    Column::optional("mos", ColumnType::Real, "mean opinion score; null for a corpus"),
    Column::required("score", ColumnType::Real, "predicted MOS, on the scale of the training dataset"),
    Column::required("alpha_quality", ColumnType::Real, "gate of the quality feature f_1"),
    Column::required("alpha_semantic", ColumnType::Real, "gate of the semantic-content feature f_a"),
    Column::required("alpha_coherence", ColumnType::Real, "gate of the coherence feature f_b"),
];

/// One scored image.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionRow {
    /// Dataset or corpus.
    pub dataset: String,
    /// Identity of the image.
    pub image_id: ImageId,
    /// File name.
    pub name: String,
    /// Part of the run's split.
    pub part: Option<Part>,
    /// Mean opinion score.
    pub mos: Option<f64>,
    /// Predicted MOS; finite.
    pub score: f64,
    /// Gate of f_1.
    pub alpha_quality: f64,
    /// Gate of f_a.
    pub alpha_semantic: f64,
    /// Gate of f_b.
    pub alpha_coherence: f64,
}

/// Path of a run's scores of the dataset that it was trained on.
pub fn path(run: &PartitionName) -> String {
    format!("predictions/run={run}/part-0.parquet")
}

/// Path of a run's scores of another dataset, or of a corpus.
pub fn path_on(run: &PartitionName, dataset: &PartitionName) -> String {
    format!("predictions/run={run}/part-on-{dataset}.parquet")
}

/// Whether `run` has predictions.
pub fn exists(store: &Store, run: &PartitionName) -> Result<bool, StoreError> {
    store.exists(&path(run))
}

/// Replaces `run`'s predictions for its own dataset by `rows`.
pub fn write(
    store: &Store,
    run: &PartitionName,
    rows: &[PredictionRow],
    fingerprint: Fingerprint,
) -> Result<(), PartError> {
    write_to(store, &path(run), rows, fingerprint)
}

/// Replaces the predictions at `path`, one of [`path`] and [`path_on`], by `rows`, sorted by dataset and image.
pub fn write_to(store: &Store, path: &str, rows: &[PredictionRow], fingerprint: Fingerprint) -> Result<(), PartError> {
    let mut sorted: Vec<&PredictionRow> = rows.iter().collect();
    sorted.sort_by(|a, b| (&a.dataset, a.image_id, &a.name).cmp(&(&b.dataset, b.image_id, &b.name)));
    part::write(store, KIND, path, &to_batch(&sorted)?, Some(fingerprint)).map(|_| ())
}

/// Reads `run`'s predictions; empty where there are none.
pub fn read(store: &Store, run: &PartitionName) -> Result<Vec<PredictionRow>, PartError> {
    let mut rows = Vec::new();
    for_each_batch(store, &format!("predictions/run={run}"), KIND, None, |columns, _| {
        let (datasets, names) = (columns.text("dataset")?, columns.text("name")?);
        let (parts, mos, scores) = (columns.text("part")?, columns.reals("mos")?, columns.reals("score")?);
        let quality = columns.reals("alpha_quality")?;
        let semantic = columns.reals("alpha_semantic")?;
        let coherence = columns.reals("alpha_coherence")?;
        for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
            let part = match text_at(parts, row) {
                Some(name) => Some(
                    Part::from_name(&name)
                        .ok_or_else(|| columns.error(row, "part", "`train`, `validation` or `test`", &name))?,
                ),
                None => None,
            };
            rows.push(PredictionRow {
                dataset: datasets.value(row).to_owned(),
                image_id,
                name: names.value(row).to_owned(),
                part,
                mos: real_at(mos, row),
                score: scores.value(row),
                alpha_quality: quality.value(row),
                alpha_semantic: semantic.value(row),
                alpha_coherence: coherence.value(row),
            });
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[&PredictionRow]) -> Result<RecordBatch, PartError> {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let columns = vec![
        text_array(rows.iter().map(|row| row.dataset.as_str())),
        text_array(ids.iter().map(String::as_str)),
        text_array(rows.iter().map(|row| row.name.as_str())),
        optional_text_array(rows.iter().map(|row| row.part.map(Part::as_str))),
        optional_real_array(rows.iter().map(|row| row.mos)),
        real_array(rows.iter().map(|row| row.score)),
        real_array(rows.iter().map(|row| row.alpha_quality)),
        real_array(rows.iter().map(|row| row.alpha_semantic)),
        real_array(rows.iter().map(|row| row.alpha_coherence)),
    ];
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
