//! `night_scores`: the scores of a corpus' night, one row per image file that has one;
//! `night_scores/scorer=<scorer>/corpus=<corpus>/night=<night>/part-<name>.parquet`.
//!
//! The rows follow from `images`, `scores` and `gates`, and stay as they are if those go. A row stays whatever its score:
//! a threshold is a query.

use std::collections::BTreeSet;

use arrow::array::{Array, RecordBatch};

use super::scores::Direction;
use super::{
    Column, ColumnType, Columns, PartitionName, integer_array, optional_real_array, optional_text_array, real_array,
    text_array,
};
use crate::identity::{Fingerprint, ImageId};
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::shard::Shard;
use crate::store::{Store, StoreError};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "night_scores", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("scorer", "run, group of runs, method or rating that scored"),
    Column::partition("corpus", "corpus"),
    Column::partition("night", "label of the night"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("uri", ColumnType::Text, "address of the image, see table `inventory`"),
    Column::required("name", ColumnType::Text, "name of the image in its source"),
    Column::optional("generator", ColumnType::Text, "model that made the image"),
    Column::optional("prompt", ColumnType::Text, "text that the image was made from"),
    Column::optional("group_id", ColumnType::Text, "equal for images that differ in their seed only"),
    Column::required("score", ColumnType::Real, "score on the scorer's own scale; of a group the mean of its runs"),
    Column::required("direction", ColumnType::Text, "`lower` or `higher`: which scores mean better quality"),
    Column::optional(
        "score_std",
        ColumnType::Real,
        "standard deviation of the score; of a group the spread of its runs",
    ),
    Column::optional("alpha_quality", ColumnType::Real, "gate of f_1; null without gates"),
    Column::optional("alpha_semantic", ColumnType::Real, "gate of f_a; null without gates"),
    Column::optional("alpha_coherence", ColumnType::Real, "gate of f_b; null without gates"),
    Column::required("cached", ColumnType::Integer, "1 if an earlier night of the corpus had the same content, else 0"),
];

/// The score of one image file.
#[derive(Clone, Debug, PartialEq)]
pub struct NightScore {
    /// Identity of the image.
    pub image_id: ImageId,
    /// Address.
    pub uri: String,
    /// Name in its source.
    pub name: String,
    /// Model that made the image.
    pub generator: Option<String>,
    /// The prompt.
    pub prompt: Option<String>,
    /// Equal for images that differ in their seed only.
    pub group_id: Option<String>,
    /// The score.
    pub score: f64,
    /// Its standard deviation.
    pub std: Option<f64>,
    /// Gates of f_1, f_a and f_b.
    pub gates: [Option<f64>; 3],
    /// Whether an earlier night had the same content.
    pub is_cached: bool,
}

/// One night of a corpus, scored by one scorer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoredNight {
    /// Name of the scorer.
    pub scorer: PartitionName,
    /// The corpus.
    pub corpus: PartitionName,
    /// The night.
    pub night: PartitionName,
}

/// A row of a scored night, with what its statistics need.
#[derive(Clone, Debug)]
pub struct NightScored<'a> {
    /// Identity of the image.
    pub image_id: ImageId,
    /// Model that made the image.
    pub generator: Option<&'a str>,
    /// The score. Higher is better: that of a method whose lower scores are better has its sign changed.
    pub score: f64,
    /// Whether an earlier night had the same content.
    pub is_cached: bool,
}

impl ScoredNight {
    /// Folder of the night in `table`.
    pub(super) fn folder(&self, table: &str) -> String {
        let Self { scorer, corpus, night } = self;
        format!("{table}/scorer={scorer}/corpus={corpus}/night={night}")
    }

    fn prefix(&self) -> String {
        self.folder(KIND.table)
    }

    /// Beginning of the paths of the parts of one share.
    fn start(&self, shard: Shard) -> String {
        let share = match shard {
            Shard::WHOLE => String::new(),
            shard => format!("{}-", shard.in_names()),
        };
        format!("{}/part-{share}", self.prefix())
    }

    /// Writes `rows` as one part, named by share and content, unless it is there. Returns its path.
    pub fn write_part(
        &self,
        store: &Store,
        shard: Shard,
        direction: Direction,
        fingerprint: Fingerprint,
        rows: &[NightScore],
    ) -> Result<String, PartError> {
        let batch = to_batch(direction, rows)?;
        let path = format!("{}{}.parquet", self.start(shard), part::content_name(KIND, &batch)?);
        if !store.exists(&path)? {
            part::write(store, KIND, &path, &batch, Some(fingerprint))?;
        }
        Ok(path)
    }

    /// Deletes the parts of an earlier state of the night: those of this share that are not in `kept`, and all parts of
    /// another division into shares.
    pub fn keep_only(&self, store: &Store, shard: Shard, kept: &BTreeSet<String>) -> Result<(), StoreError> {
        let (own, all) = (self.start(shard), self.start(Shard::WHOLE));
        let division = |text: &str| text.split_once("of").map(|(_, n)| n.to_owned());
        let of_division = division(&own[all.len()..]);
        for part in part::list(store, &self.prefix())? {
            let name = part.path[all.len()..].rsplit_once('-').map_or("", |(share, _)| share);
            let is_other_share =
                shard != Shard::WHOLE && !part.path.starts_with(&own) && division(&format!("{name}-")) == of_division;
            if !is_other_share && !kept.contains(&part.path) {
                store.delete(&part.path)?;
            }
        }
        Ok(())
    }

    /// Passes each row to `each`, in the order of the table. Returns the night's fingerprint, as [`Self::fingerprint`].
    ///
    /// # Errors
    /// A part cannot be read.
    pub fn for_each(
        &self,
        store: &Store,
        mut each: impl FnMut(NightScored<'_>),
    ) -> Result<Option<Fingerprint>, PartError> {
        let mut fingerprint = None;
        for object in part::list(store, &self.prefix())? {
            let reader = PartReader::open(store, &object, KIND)?;
            fingerprint = reader.fingerprint().or(fingerprint);
            let names = ["image_id", "generator", "score", "direction", "cached"];
            let mut batches = reader.read(Some(&names))?;
            while let Some(batch) = batches.next() {
                let batch = batch?;
                let columns = Columns::new(&batches, &batch);
                let (scores, cached) = (columns.reals("score")?, columns.integers("cached")?);
                let (generators, directions) = (columns.text("generator")?, columns.text("direction")?);
                for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
                    let generator = generators.is_valid(row).then(|| generators.value(row));
                    let is_lower = directions.value(row) == Direction::Lower.as_str();
                    let score = if is_lower { -scores.value(row) } else { scores.value(row) };
                    each(NightScored { image_id, generator, score, is_cached: cached.value(row) == 1 });
                }
            }
        }
        Ok(fingerprint)
    }

    /// Fingerprint of what scored the night; `None` without rows.
    ///
    /// # Errors
    /// A part cannot be read.
    pub fn fingerprint(&self, store: &Store) -> Result<Option<Fingerprint>, PartError> {
        match part::list(store, &self.prefix())?.last() {
            Some(object) => Ok(PartReader::open(store, object, KIND)?.fingerprint()),
            None => Ok(None),
        }
    }

    /// The nights of the corpus that the scorer has scored, in the order of their labels.
    pub fn nights(&self, store: &Store) -> Result<Vec<Self>, StoreError> {
        let prefix = format!("{}/scorer={}/corpus={}", KIND.table, self.scorer, self.corpus);
        let label = |path: &str| path.strip_prefix(&prefix)?.strip_prefix("/night=")?.split('/').next()?.parse().ok();
        let objects = part::list(store, &prefix)?;
        let nights: BTreeSet<PartitionName> = objects.iter().filter_map(|object| label(&object.path)).collect();
        Ok(nights.into_iter().map(|night| Self { night, ..self.clone() }).collect())
    }
}

/// Deletes what is known of `night` by any scorer: its scores, statistics, selections and checks.
pub fn forget(store: &Store, corpus: &PartitionName, night: &PartitionName) -> Result<(), StoreError> {
    let folder = format!("/corpus={corpus}/night={night}/");
    for table in [KIND, super::nights::KIND, super::selections::KIND, super::checks::KIND] {
        let parts = part::list(store, table.table)?;
        parts.iter().filter(|part| part.path.contains(&folder)).try_for_each(|part| store.delete(&part.path))?;
    }
    Ok(())
}

fn to_batch(direction: Direction, rows: &[NightScore]) -> Result<RecordBatch, PartError> {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let mut columns = vec![
        text_array(ids.iter().map(String::as_str)),
        text_array(rows.iter().map(|row| row.uri.as_str())),
        text_array(rows.iter().map(|row| row.name.as_str())),
        optional_text_array(rows.iter().map(|row| row.generator.as_deref())),
        optional_text_array(rows.iter().map(|row| row.prompt.as_deref())),
        optional_text_array(rows.iter().map(|row| row.group_id.as_deref())),
        real_array(rows.iter().map(|row| row.score)),
        text_array(rows.iter().map(|_| direction.as_str())),
        optional_real_array(rows.iter().map(|row| row.std)),
    ];
    columns.extend([0, 1, 2].map(|input| optional_real_array(rows.iter().map(|row| row.gates[input]))));
    columns.push(integer_array(rows.iter().map(|row| i64::from(row.is_cached))));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
