//! `splits`: the part that each image of a dataset belongs to; `splits/dataset=<dataset>/split=<split>/part-0.parquet`.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_integer_array, text_array};
use crate::identity::ImageId;
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "splits", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("dataset", "dataset that the row belongs to"),
    Column::partition("split", "name of the split, e.g. `random-20`"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::optional("seed", ColumnType::Integer, "seed of the split; null where none is drawn"),
    Column::required("fold", ColumnType::Integer, "number of the fold, 0 for a split of a single fold"),
    Column::required("part", ColumnType::Text, "`train`, `validation` or `test`"),
];

/// Part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The head is fitted on it.
    Train,
    /// The best epoch is chosen on it.
    Validation,
    /// Results are reported on it.
    Test,
}

impl Part {
    /// All parts in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The part with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == name)
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One image's place in a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitRow {
    /// Identity of the image.
    pub image_id: ImageId,
    /// Seed of the split.
    pub seed: Option<i64>,
    /// Number of the fold.
    pub fold: i64,
    /// Part of the split.
    pub part: Part,
}

/// Path of the only part file of a split.
pub fn path(dataset: &PartitionName, split: &PartitionName) -> String {
    format!("splits/dataset={dataset}/split={split}/part-0.parquet")
}

/// Replaces split `split` of `dataset` with `rows`.
pub fn write(
    store: &Store,
    dataset: &PartitionName,
    split: &PartitionName,
    rows: &[SplitRow],
) -> Result<(), PartError> {
    part::write(store, KIND, &path(dataset, split), &to_batch(rows)?, None).map(|_| ())
}

/// Reads split `split` of `dataset`; empty if it does not exist.
pub fn read(store: &Store, dataset: &PartitionName, split: &PartitionName) -> Result<Vec<SplitRow>, PartError> {
    let mut rows = Vec::new();
    let prefix = format!("splits/dataset={dataset}/split={split}");
    for_each_batch(store, &prefix, KIND, None, |columns, _| {
        let (seeds, folds) = (columns.integers("seed")?, columns.integers("fold")?);
        let parts = columns.text("part")?;
        for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
            let part = Part::from_name(parts.value(row))
                .ok_or_else(|| columns.error(row, "part", "`train`, `validation` or `test`", parts.value(row)))?;
            rows.push(SplitRow { image_id, seed: super::integer_at(seeds, row), fold: folds.value(row), part });
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[SplitRow]) -> Result<RecordBatch, PartError> {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let columns = vec![
        text_array(ids.iter().map(String::as_str)),
        optional_integer_array(rows.iter().map(|row| row.seed)),
        integer_array(rows.iter().map(|row| row.fold)),
        text_array(rows.iter().map(|row| row.part.as_str())),
    ];
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
