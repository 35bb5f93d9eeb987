//! `gates`: how much of each input a fusion head lets through, per image. Gates are written together with the scores of
//! the same set.
//!
//! ```text
//! gates/run=<run>/fingerprint=<16 hex>/part-<16 hex>.parquet
//! ```
//!
//! A head without gates has no rows in this table.

use std::collections::HashSet;

use arrow::array::RecordBatch;

use super::scores::ScoreSet;
use super::{Column, ColumnType, for_each_batch, optional_real_array, text_array};
use crate::identity::ImageId;
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "gates", version: 1 };

/// The columns with the gates of f_1, f_a and f_b.
const WEIGHTS: [&str; 3] = ["alpha_quality", "alpha_semantic", "alpha_coherence"];

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("run", "run whose head scores"),
    Column::partition("fingerprint", "first 16 hex digits of the fingerprint of the run's scores"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::optional(
        WEIGHTS[0],
        ColumnType::Real,
        "gate of the quality feature f_1; null if the head does not read it",
    ),
    Column::optional(
        WEIGHTS[1],
        ColumnType::Real,
        "gate of the semantic-content feature f_a; null if the head does not read it",
    ),
    Column::optional(
        WEIGHTS[2],
        ColumnType::Real,
        "gate of the coherence feature f_b; null if the head does not read it",
    ),
];

/// The gates of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateRow {
    /// Identity of the image.
    pub image_id: ImageId,
    /// Gates of f_1, f_a and f_b; `None` for an input that the head does not read.
    pub weights: [Option<f64>; 3],
}

fn prefix(set: &ScoreSet) -> String {
    format!("gates/run={}/fingerprint={}", set.scorer, set.fingerprint.short())
}

/// Writes the gates that belong to the scores of `set` as one part, sorted by image, named by content. Writes nothing
/// if `rows` is empty.
pub fn write_part(store: &Store, set: &ScoreSet, rows: &[GateRow]) -> Result<(), PartError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|row| row.image_id);
    sorted.dedup_by_key(|row| row.image_id);
    let batch = to_batch(&sorted)?;
    let path = format!("{}/part-{}.parquet", prefix(set), part::content_name(KIND, &batch)?);
    part::write(store, KIND, &path, &batch, Some(set.fingerprint)).map(|_| ())
}

/// The gates that belong to the scores of `set`, one row per image.
pub fn read(store: &Store, set: &ScoreSet) -> Result<Vec<GateRow>, PartError> {
    let (mut rows, mut seen) = (Vec::new(), HashSet::new());
    for_each_batch(store, &prefix(set), KIND, None, |columns, _| {
        let weights = columns.optional_reals(WEIGHTS.map(str::to_owned))?;
        for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
            if seen.insert(image_id) {
                rows.push(GateRow { image_id, weights: weights(row) });
            }
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[GateRow]) -> Result<RecordBatch, PartError> {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let mut columns = vec![text_array(ids.iter().map(String::as_str))];
    columns.extend([0, 1, 2].map(|input| optional_real_array(rows.iter().map(|row| row.weights[input]))));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
