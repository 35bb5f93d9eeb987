//! `scores`: one score per image content and scorer. A scorer is a method that is not trained here, an extractor that
//! rates images, or a run.
//!
//! ```text
//! scores/scorer=<name>/fingerprint=<16 hex>/scorer.json           the settings behind the numbers
//! scores/scorer=<name>/fingerprint=<16 hex>/part-<16 hex>.parquet
//! ```
//!
//! A score depends only on the image's content. A run therefore has one set of scores for images of all datasets. The
//! MOS and the part of an image are in `images` and `splits`. An image without a defined score has no row here; it has
//! a row in `rejects`. Two writers may both score an image. Readers then keep the row of the part that sorts first.
//!
//! Scores in the older tables of version 1 of a store are read as well (`version1`). New scores are written here.

use std::collections::{HashMap, HashSet};
use std::fmt;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::features::FeatureSet;
use super::models::RunRecord;
use super::{Column, ColumnType, PartitionName, for_each_batch, optional_real_array, real_array, real_at, text_array};
use crate::identity::{Fingerprint, FingerprintBuilder, ImageId};
use crate::store::part::{self, PartError, PartKind};
use crate::store::{Store, StoreError};

mod version1;

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "scores", version: 1 };

/// The version of the code that scores images by a run. It must be raised if equal inputs give new numbers.
const RUN_SCORES_VERSION: u32 = 1;

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("scorer", "name of the method, extractor or run that scores, e.g. `niqe`"),
    Column::partition("fingerprint", "first 16 hex digits of the fingerprint of everything that decides the scores"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required(
        "score",
        ColumnType::Real,
        "score of the image, on the scorer's own scale; a run scores on the MOS scale",
    ),
    Column::required("direction", ColumnType::Text, "`lower` or `higher`: which scores mean better quality"),
    Column::optional(
        "score_std",
        ColumnType::Real,
        "standard deviation of the score, on its scale: of a kernel ridge regression, what it leaves open; of an average, the \
         spread of its members; null for others, absent in older parts",
    ),
];

/// A score of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRow {
    /// Identity of the image.
    pub image_id: ImageId,
    /// The score.
    pub score: f64,
    /// Standard deviation of the score, if the scorer knows it.
    pub std: Option<f64>,
}

/// Whether lower or higher scores mean better quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Lower scores are better.
    Lower,
    /// Higher scores are better.
    Higher,
}

impl Direction {
    /// The name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
        }
    }

    /// The direction with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Lower, Self::Higher].into_iter().find(|direction| direction.as_str() == name)
    }

    /// `score`, with its sign changed if lower is better. A higher result is always better.
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

/// Kind of a scorer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorerKind {
    /// A method that is not trained here.
    #[default]
    Method,
    /// An extractor whose features have a column `rating`.
    Rating,
    /// A trained run.
    Run,
}

impl ScorerKind {
    /// The name in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Rating => "rating",
            Self::Run => "run",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Method, Self::Rating, Self::Run].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A folder of scores, with its scorer and settings. `scorer.json` is its JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreSet {
    /// Name of the scorer.
    #[serde(alias = "method")]
    pub scorer: PartitionName,
    /// Kind of the scorer.
    #[serde(default)]
    pub kind: ScorerKind,
    /// Fingerprint of everything that decides the scores.
    pub fingerprint: Fingerprint,
    /// Whether lower or higher scores mean better quality.
    pub direction: Direction,
    /// The settings behind the fingerprint, for people.
    pub settings: serde_json::Value,
}

/// Parts that hold scores: their folder, their table, and the column with the scores.
struct Source {
    prefix: String,
    kind: PartKind,
    column: &'static str,
}

impl Source {
    fn for_each(&self, store: &Store, mut each: impl FnMut(ImageId, f64)) -> Result<(), PartError> {
        for_each_batch(store, &self.prefix, self.kind, Some(&["image_id", self.column]), |columns, _| {
            let scores = columns.reals(self.column)?;
            columns.image_ids("image_id")?.into_iter().zip(scores.values()).for_each(|(id, score)| each(id, *score));
            Ok(())
        })
    }

    fn ids(&self, store: &Store, ids: &mut HashSet<ImageId>) -> Result<(), PartError> {
        for_each_batch(store, &self.prefix, self.kind, Some(&["image_id"]), |columns, _| {
            ids.extend(columns.image_ids("image_id")?);
            Ok(())
        })
    }

    /// Adds the content of the parts to `builder`. The names of parts follow from their content, except in version 1's
    /// table of runs.
    fn hash(&self, store: &Store, builder: &mut FingerprintBuilder) -> Result<(), StoreError> {
        for object in part::list(store, &self.prefix)? {
            let is_named_by_content = self.kind.table != version1::RUNS;
            let content = if is_named_by_content { Vec::new() } else { store.get(&object.path)?.to_vec() };
            builder.field(&object.path, blake3::hash(&content).as_bytes());
        }
        Ok(())
    }
}

impl ScoreSet {
    /// The scores of `record`'s run in its current training.
    pub fn of_run(record: &RunRecord) -> Self {
        let fingerprint = Fingerprint::builder("scores of a run")
            .json("version", &RUN_SCORES_VERSION)
            .json("run", &record.fingerprint)
            .finish();
        let settings = serde_json::json!({ "run": record.fingerprint, "code_version": RUN_SCORES_VERSION });
        let (scorer, kind) = (record.run.clone(), ScorerKind::Run);
        Self { scorer, kind, fingerprint, direction: Direction::Higher, settings }
    }

    /// The scores in the column `rating` of `features`; `None` if that column does not exist.
    pub fn of_rating(features: &FeatureSet) -> Option<Self> {
        let FeatureSet { extractor, fingerprint, kind: _, columns: _, settings } = features;
        features.has_rating().then(|| Self {
            scorer: extractor.clone(),
            kind: ScorerKind::Rating,
            // The features' fingerprint covers every input of the rating.
            fingerprint: *fingerprint,
            direction: Direction::Higher,
            settings: settings.clone(),
        })
    }

    /// Folder of this set.
    pub fn prefix(&self) -> String {
        format!("scores/scorer={}/fingerprint={}", self.scorer, self.fingerprint.short())
    }

    /// Writes `scorer.json` unless it exists.
    pub fn write_description(&self, store: &Store) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(self).expect("a score set is plain data");
        store.put_if_absent(&format!("{}/scorer.json", self.prefix()), json).map(|_| ())
    }

    /// Writes `scores`, which have no deviation, as [`Self::write_rows`] does.
    pub fn write_part(&self, store: &Store, scores: &[(ImageId, f64)]) -> Result<(), PartError> {
        let row = |(image_id, score): &(ImageId, f64)| ScoreRow { image_id: *image_id, score: *score, std: None };
        self.write_rows(store, &scores.iter().map(row).collect::<Vec<_>>())
    }

    /// Writes `rows` as one part, sorted by image, named by content. Writes nothing if `rows` is empty.
    pub fn write_rows(&self, store: &Store, rows: &[ScoreRow]) -> Result<(), PartError> {
        self.write_rows_with(store, rows, &[])
    }

    /// As [`Self::write_rows`], with `notes` in the part's metadata.
    pub fn write_rows_with(&self, store: &Store, rows: &[ScoreRow], notes: &[(&str, String)]) -> Result<(), PartError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|row| row.image_id);
        sorted.dedup_by_key(|row| row.image_id);
        let batch = self.to_batch(&sorted)?;
        let path = format!("{}/part-{}.parquet", self.prefix(), part::content_name(KIND, &batch)?);
        part::write_with(store, KIND, &path, &batch, Some(self.fingerprint), notes).map(|_| ())
    }

    /// Images that have a score in this set. Only their ids are read.
    pub fn done(&self, store: &Store) -> Result<HashSet<ImageId>, PartError> {
        let mut done = HashSet::new();
        self.sources().iter().try_for_each(|source| source.ids(store, &mut done))?;
        Ok(done)
    }

    /// All scores of this set.
    pub fn read(&self, store: &Store) -> Result<HashMap<ImageId, f64>, PartError> {
        read(store, &self.sources())
    }

    /// All scores of this set, with their deviations.
    pub fn read_rows(&self, store: &Store) -> Result<HashMap<ImageId, ScoreRow>, PartError> {
        let mut found = HashMap::new();
        for_each_batch(store, &self.prefix(), KIND, None, |columns, batch| {
            let scores = columns.reals("score")?.values();
            // Absent in older parts.
            let stds = batch.column_by_name("score_std").map(|_| columns.reals("score_std")).transpose()?;
            for (row, (image_id, score)) in columns.image_ids("image_id")?.into_iter().zip(scores).enumerate() {
                let std = stds.and_then(|stds| real_at(stds, row));
                found.entry(image_id).or_insert(ScoreRow { image_id, score: *score, std });
            }
            Ok(())
        })?;
        if let Some(source) = version1::source(self) {
            source.for_each(store, |image_id, score| {
                found.entry(image_id).or_insert(ScoreRow { image_id, score, std: None });
            })?;
        }
        Ok(found)
    }

    /// Adds the content of the set to `builder`, part by part.
    pub fn hash(&self, store: &Store, builder: &mut FingerprintBuilder) -> Result<(), StoreError> {
        self.sources().iter().try_for_each(|source| source.hash(store, builder))
    }

    /// Score sets of methods and ratings in `store`, sorted by name and fingerprint. The records of runs lead to the
    /// score sets of runs.
    pub fn list(store: &Store) -> Result<Vec<Self>, StoreError> {
        let mut sets = Vec::new();
        for object in store.list("scores")?.into_iter().chain(store.list(version1::METHODS)?) {
            if object.path.ends_with("/scorer.json") || object.path.ends_with("/method.json") {
                // A description that does not parse belongs to another version. Reading its parts then gives the error.
                sets.extend(serde_json::from_slice::<Self>(&store.get(&object.path)?).ok());
            }
        }
        sets.extend(FeatureSet::list(store)?.iter().filter_map(Self::of_rating));
        sets.retain(|set| set.kind != ScorerKind::Run);
        let key = |set: &Self| (set.kind, set.scorer.clone(), set.fingerprint);
        sets.sort_by_key(key);
        sets.dedup_by_key(|set| key(set));
        Ok(sets)
    }

    fn own(&self) -> Source {
        Source { prefix: self.prefix(), kind: KIND, column: "score" }
    }

    fn sources(&self) -> Vec<Source> {
        std::iter::once(self.own()).chain(version1::source(self)).collect()
    }

    fn to_batch(&self, rows: &[ScoreRow]) -> Result<RecordBatch, PartError> {
        let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
        let columns = vec![
            text_array(ids.iter().map(String::as_str)),
            real_array(rows.iter().map(|row| row.score)),
            text_array(rows.iter().map(|_| self.direction.as_str())),
            optional_real_array(rows.iter().map(|row| row.std)),
        ];
        part::batch(KIND.table, super::schema_of(COLUMNS), columns)
    }
}

fn read(store: &Store, sources: &[Source]) -> Result<HashMap<ImageId, f64>, PartError> {
    let mut found = HashMap::new();
    for source in sources {
        source.for_each(store, |id, score| _ = found.entry(id).or_insert(score))?;
    }
    Ok(found)
}

fn sources_of_run(record: &RunRecord) -> Vec<Source> {
    std::iter::once(ScoreSet::of_run(record).own()).chain(version1::source_of_run(record)).collect()
}

/// All scores of `record`'s run, without scores of an earlier training of the run.
pub fn read_of_run(store: &Store, record: &RunRecord) -> Result<HashMap<ImageId, f64>, PartError> {
    read(store, &sources_of_run(record))
}

/// Adds the scores of `record`'s run to `builder`.
pub fn hash_of_run(store: &Store, record: &RunRecord, builder: &mut FingerprintBuilder) -> Result<(), StoreError> {
    sources_of_run(record).iter().try_for_each(|source| source.hash(store, builder))
}

/// The ratings of `features` that are missing in `scores`.
pub fn lacking_ratings(store: &Store, features: &FeatureSet) -> Result<Vec<(ImageId, f64)>, PartError> {
    let Some(set) = ScoreSet::of_rating(features) else { return Ok(Vec::new()) };
    let mut done = HashSet::new();
    set.own().ids(store, &mut done)?;
    let mut lacking = Vec::new();
    let add = |id, rating| lacking.extend(done.insert(id).then_some((id, rating)));
    version1::source(&set).map_or(Ok(()), |source| source.for_each(store, add))?;
    Ok(lacking)
}

/// Copies the ratings of `features` that are missing in `scores`.
pub fn copy_ratings(store: &Store, features: &FeatureSet) -> Result<(), PartError> {
    let lacking = lacking_ratings(store, features)?;
    match ScoreSet::of_rating(features).filter(|_| !lacking.is_empty()) {
        Some(set) => {
            set.write_description(store)?;
            set.write_part(store, &lacking)
        }
        None => Ok(()),
    }
}
