//! `baselines`: scores of methods that are not trained here, one per image content, method and settings.
//!
//! ```text
//! baselines/method=<method>/fingerprint=<16 hex>/method.json           what made the numbers
//! baselines/method=<method>/fingerprint=<16 hex>/part-<16 hex>.parquet
//! ```
//!
//! An image without a defined score has no row here but one in `rejects`. Two writers may both score an image: readers
//! keep the row of the part that sorts first.

use std::collections::{HashMap, HashSet};
use std::fmt;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{Column, ColumnType, PartitionName, for_each_batch, real_array, text_array};
use crate::identity::{Fingerprint, ImageId};
use crate::store::part::{self, PartError, PartKind};
use crate::store::{Store, StoreError};

/// Version 1: first.
pub const KIND: PartKind = PartKind { table: "baselines", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("method", "name of the method, e.g. `niqe`"),
    Column::partition("fingerprint", "first 16 hex digits of the fingerprint of everything that decides the scores"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("score", ColumnType::Real, "score of the image, on the method's own scale"),
    Column::required("direction", ColumnType::Text, "`lower` or `higher`: which scores mean better quality"),
];

/// Which scores mean better quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Lower ones.
    Lower,
    /// Higher ones.
    Higher,
}

impl Direction {
    /// Name as in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
        }
    }

    /// `score`, such that higher is better.
    pub fn ascending(self, score: f64) -> f64 {
        match self {
            Self::Lower => -score,
            Self::Higher => score,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A folder of scores: which method made them and how. `method.json` is its JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreSet {
    /// The method.
    pub method: PartitionName,
    /// Fingerprint of everything that decides the scores.
    pub fingerprint: Fingerprint,
    /// Which scores mean better quality.
    pub direction: Direction,
    /// The settings behind the fingerprint, for people.
    pub settings: serde_json::Value,
}

impl ScoreSet {
    /// Folder of this set.
    pub fn prefix(&self) -> String {
        format!("baselines/method={}/fingerprint={}", self.method, self.fingerprint.short())
    }

    /// Writes `method.json` unless it is there.
    pub fn write_description(&self, store: &Store) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(self).expect("a score set is plain data");
        store.put_if_absent(&format!("{}/method.json", self.prefix()), json).map(|_| ())
    }

    /// Writes `scores` as one part, sorted by image, named by content. Nothing for no scores.
    pub fn write_part(&self, store: &Store, scores: &[(ImageId, f64)]) -> Result<(), PartError> {
        if scores.is_empty() {
            return Ok(());
        }
        let mut sorted = scores.to_vec();
        sorted.sort_by_key(|(id, _)| *id);
        sorted.dedup_by_key(|(id, _)| *id);
        let batch = self.to_batch(&sorted)?;
        let path = format!("{}/part-{}.parquet", self.prefix(), part::content_name(KIND, &batch)?);
        part::write(store, KIND, &path, &batch, Some(self.fingerprint)).map(|_| ())
    }

    /// Images that have a score in this set; reads just their ids.
    pub fn done(&self, store: &Store) -> Result<HashSet<ImageId>, PartError> {
        let mut done = HashSet::new();
        for_each_batch(store, &self.prefix(), KIND, Some(&["image_id"]), |columns, _| {
            done.extend(columns.image_ids("image_id")?);
            Ok(())
        })?;
        Ok(done)
    }

    /// All scores of this set.
    pub fn read(&self, store: &Store) -> Result<HashMap<ImageId, f64>, PartError> {
        let mut found = HashMap::new();
        for_each_batch(store, &self.prefix(), KIND, Some(&["image_id", "score"]), |columns, _| {
            let scores = columns.reals("score")?;
            for (id, score) in columns.image_ids("image_id")?.into_iter().zip(scores.values()) {
                found.entry(id).or_insert(*score);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Score sets in `store`, read from their `method.json`, sorted by folder.
    pub fn list(store: &Store) -> Result<Vec<Self>, StoreError> {
        let mut sets = Vec::new();
        for object in store.list("baselines")? {
            if object.path.ends_with("/method.json") {
                // One that does not parse is another version's; its parts say so when they are read.
                sets.extend(serde_json::from_slice(&store.get(&object.path)?).ok());
            }
        }
        Ok(sets)
    }

    fn to_batch(&self, scores: &[(ImageId, f64)]) -> Result<RecordBatch, PartError> {
        let ids: Vec<String> = scores.iter().map(|(id, _)| id.to_string()).collect();
        let columns = vec![
            text_array(ids.iter().map(String::as_str)),
            real_array(scores.iter().map(|(_, score)| *score)),
            text_array(scores.iter().map(|_| self.direction.as_str())),
        ];
        part::batch(KIND.table, super::schema_of(COLUMNS), columns)
    }
}
