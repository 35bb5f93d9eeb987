//! `rejects`: every row that a stage could not use, with the reason; `rejects/stage=<stage>/part-<name>.parquet`.
//!
//! The writer of a part chooses its name. `ingest` replaces one part per dataset, so the rejects of the last ingest are
//! the dataset's rejects. Feature stages add one part per run, named by its content.

use std::collections::HashSet;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{
    Column, ColumnType, Columns, PartitionName, PartitionNameError, integer_at, optional_integer_array,
    optional_text_array, text_array, text_at,
};
use crate::identity::ImageId;
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::{ObjectInfo, Store, StoreError};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "rejects", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("stage", "stage that rejected the row: `ingest`, `features`, …"),
    Column::optional("dataset", ColumnType::Text, "dataset or corpus that the row belongs to"),
    Column::optional("image_id", ColumnType::Text, "identity of the image; null where its bytes could not be read"),
    Column::optional("path", ColumnType::Text, "path or name of the image file"),
    Column::optional("row", ColumnType::Integer, "number of the row in the dataset's table, from 1 after the header"),
    Column::optional("fingerprint", ColumnType::Text, "fingerprint of the extractor that rejected the image"),
    Column::required("kind", ColumnType::Text, "kind of error, one word or a few with hyphens"),
    Column::required("message", ColumnType::Text, "what was found, what was expected, what to do"),
    Column::required("at", ColumnType::Text, "UTC time of the rejection, RFC 3339"),
];

/// One rejected row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectRow {
    /// Dataset or corpus that the row belongs to.
    pub dataset: Option<String>,
    /// Identity of the image, if its bytes could be read.
    pub image_id: Option<ImageId>,
    /// Path or name of the image file.
    pub path: Option<String>,
    /// Number of the row in the dataset's table, from 1 after the header.
    pub row: Option<u64>,
    /// Fingerprint (hex) of the extractor that rejected the image.
    pub fingerprint: Option<String>,
    /// Kind of error.
    pub kind: String,
    /// The value found, the value expected, and the remedy.
    pub message: String,
    /// UTC time of the rejection, RFC 3339.
    pub at: String,
}

impl RejectRow {
    /// A reject with the current time.
    pub fn now(kind: impl Into<String>, message: impl Into<String>) -> Self {
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self {
            dataset: None,
            image_id: None,
            path: None,
            row: None,
            fingerprint: None,
            kind: kind.into(),
            message: message.into(),
            at,
        }
    }
}

fn prefix(stage: &str) -> String {
    format!("rejects/stage={stage}")
}

/// Name of the part with the rejects of `dataset` in `of`, the name of a split or a run, maybe after a share's. Each dataset
/// has its own part, because its rejects say nothing about the images of another dataset.
///
/// # Errors
/// Never fails for valid names: a name that is too long is cut.
pub fn name_of(dataset: &PartitionName, of: impl std::fmt::Display) -> Result<PartitionName, PartitionNameError> {
    PartitionName::new(&format!("{dataset}-{of}").chars().take(120).collect::<String>())
}

/// Replaces the part `name` of `stage`'s rejects with `rows`. If `rows` is empty, the part is deleted.
pub fn replace(store: &Store, stage: &str, name: &PartitionName, rows: &[RejectRow]) -> Result<(), PartError> {
    let path = format!("{}/part-{name}.parquet", prefix(stage));
    if rows.is_empty() {
        return Ok(store.delete(&path)?);
    }
    part::write(store, KIND, &path, &to_batch(rows)?, None).map(|_| ())
}

/// Adds `rows` to `stage`'s rejects as a new part, named by its content.
pub fn append(store: &Store, stage: &str, rows: &[RejectRow]) -> Result<(), PartError> {
    append_as(store, stage, "", rows)
}

/// Adds `rows` to the rejects of `dataset` in `stage` as a new part, named by dataset and content.
pub fn append_of(store: &Store, stage: &str, dataset: &PartitionName, rows: &[RejectRow]) -> Result<(), PartError> {
    append_as(store, stage, &format!("{dataset}-"), rows)
}

/// Writes `rows`, if there are any, as a part whose name is `start` and their content's.
fn append_as(store: &Store, stage: &str, start: &str, rows: &[RejectRow]) -> Result<(), PartError> {
    if rows.is_empty() {
        return Ok(());
    }
    let batch = to_batch(rows)?;
    let path = format!("{}/part-{start}{}.parquet", prefix(stage), part::content_name(KIND, &batch)?);
    part::write(store, KIND, &path, &batch, None).map(|_| ())
}

/// The rejects that [`append_of`] wrote for `dataset`. No other dataset's parts are read.
pub fn read_of(store: &Store, stage: &str, dataset: &PartitionName) -> Result<Vec<RejectRow>, PartError> {
    let mut rows = Vec::new();
    for object in parts_of(store, stage, dataset)? {
        rows.extend(read_part(store, &object)?);
    }
    Ok(rows)
}

/// Deletes the rejects that [`append_of`] wrote for `dataset`.
pub fn delete_of(store: &Store, stage: &str, dataset: &PartitionName) -> Result<(), StoreError> {
    parts_of(store, stage, dataset)?.iter().try_for_each(|object| store.delete(&object.path))
}

fn parts_of(store: &Store, stage: &str, dataset: &PartitionName) -> Result<Vec<ObjectInfo>, StoreError> {
    let start = format!("{}/part-{dataset}-", prefix(stage));
    // Another dataset's name may begin with this one's.
    let is_of = |object: &ObjectInfo| {
        object.path.strip_prefix(&start).is_some_and(|rest| rest.len() == "0123456789abcdef.parquet".len())
    };
    Ok(part::list(store, &prefix(stage))?.into_iter().filter(is_of).collect())
}

/// Paths of the parts of `stage`'s rejects, for a stage that rewrites them.
pub fn parts(store: &Store, stage: &str) -> Result<Vec<String>, StoreError> {
    Ok(part::list(store, &prefix(stage))?.into_iter().map(|object| object.path).collect())
}

/// Reads `stage`'s rejects.
pub fn read(store: &Store, stage: &str) -> Result<Vec<RejectRow>, PartError> {
    let mut rows = Vec::new();
    for object in part::list(store, &prefix(stage))? {
        rows.extend(read_part(store, &object)?);
    }
    Ok(rows)
}

/// The rejects of the stages that `is_wanted` accepts, each with its stage.
pub fn read_stages(store: &Store, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, RejectRow)>, PartError> {
    let mut rows = Vec::new();
    for object in part::list(store, "rejects")? {
        let stage = object.path.strip_prefix("rejects/stage=").and_then(|rest| rest.split('/').next());
        let Some(stage) = stage.filter(|stage| is_wanted(stage)) else { continue };
        rows.extend(read_part(store, &object)?.into_iter().map(|row| (stage.to_owned(), row)));
    }
    Ok(rows)
}

/// Drops the rejects of `stage` for these images and files that `is_of` accepts, i.e. that belong to the stage's
/// current settings. The parts that hold such rejects are rewritten. The stage then tries these rows again. A row that
/// still fails gets a new reject. If the stage ends before that, the dropped rows simply remain to be done.
pub fn forget(
    store: &Store,
    stage: &str,
    ids: &HashSet<ImageId>,
    paths: &HashSet<&str>,
    is_of: impl Fn(&RejectRow) -> bool,
) -> Result<(), PartError> {
    let is_kept = |row: &&RejectRow| {
        let is_retried = match (&row.image_id, &row.path) {
            (Some(id), _) => ids.contains(id),
            (None, Some(path)) => paths.contains(path.as_str()),
            (None, None) => false,
        };
        !(is_retried && is_of(row))
    };
    for object in part::list(store, &prefix(stage))? {
        let rows = read_part(store, &object)?;
        let kept: Vec<RejectRow> = rows.iter().filter(is_kept).cloned().collect();
        if kept.len() < rows.len() {
            // The kept rows are written first: an interruption then leaves duplicate rows instead of losing rows.
            append(store, stage, &kept)?;
            store.delete(&object.path)?;
        }
    }
    Ok(())
}

fn read_part(store: &Store, object: &ObjectInfo) -> Result<Vec<RejectRow>, PartError> {
    let mut rows = Vec::new();
    let mut batches = PartReader::open(store, object, KIND)?.read(None)?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        append_rows(&mut rows, &Columns::new(&batches, &batch), &batch)?;
    }
    Ok(rows)
}

fn append_rows(rows: &mut Vec<RejectRow>, columns: &Columns<'_>, batch: &RecordBatch) -> Result<(), PartError> {
    let (datasets, ids) = (columns.text("dataset")?, columns.text("image_id")?);
    let (paths, numbers) = (columns.text("path")?, columns.integers("row")?);
    let (fingerprints, kinds) = (columns.text("fingerprint")?, columns.text("kind")?);
    let (messages, ats) = (columns.text("message")?, columns.text("at")?);
    for row in 0..batch.num_rows() {
        let image_id = match text_at(ids, row) {
            Some(id) => Some(id.parse().map_err(|_| columns.error(row, "image_id", "an image id", &id))?),
            None => None,
        };
        rows.push(RejectRow {
            dataset: text_at(datasets, row),
            image_id,
            path: text_at(paths, row),
            row: integer_at(numbers, row).and_then(|number| number.try_into().ok()),
            fingerprint: text_at(fingerprints, row),
            kind: kinds.value(row).to_owned(),
            message: messages.value(row).to_owned(),
            at: ats.value(row).to_owned(),
        });
    }
    Ok(())
}

fn to_batch(rows: &[RejectRow]) -> Result<RecordBatch, PartError> {
    let ids: Vec<Option<String>> = rows.iter().map(|row| row.image_id.map(|id| id.to_string())).collect();
    let columns = vec![
        optional_text_array(rows.iter().map(|row| row.dataset.as_deref())),
        optional_text_array(ids.iter().map(Option::as_deref)),
        optional_text_array(rows.iter().map(|row| row.path.as_deref())),
        optional_integer_array(rows.iter().map(|row| row.row.and_then(|number| i64::try_from(number).ok()))),
        optional_text_array(rows.iter().map(|row| row.fingerprint.as_deref())),
        text_array(rows.iter().map(|row| row.kind.as_str())),
        text_array(rows.iter().map(|row| row.message.as_str())),
        text_array(rows.iter().map(|row| row.at.as_str())),
    ];
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
