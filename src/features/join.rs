//! Joins quality features: concatenates the `f_1` of several sets into a new set that a head can read.
//!
//! Input and output: `quality`. No feature is computed anew. The joined set has a row for every image that has a row in
//! all joined sets, in any dataset.

use std::collections::HashSet;

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// Number of images per part.
const PART_ROWS: usize = 4096;

/// The column that is joined.
const F_1: &str = "f_1";

/// Sets that cannot be joined.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum JoinError {
    /// Fewer than two sets are given.
    #[error("joining takes at least two feature sets, found {0}")]
    TooFew(usize),
    /// A set is repeated.
    #[error("duplicate feature set `{0}`: a set cannot be joined with itself")]
    Twice(String),
    /// A set lacks `f_1`.
    #[error("feature set `{set}` has no column `f_1` to join; the columns are: {found}")]
    NoColumn {
        /// Extractor and fingerprint.
        set: String,
        found: String,
    },
    /// The joined name is too long.
    #[error(transparent)]
    Name(#[from] PartitionNameError),
    /// A part cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Joins the `f_1` of some sets.
#[derive(Clone, Debug)]
pub struct JoinStage {
    sets: Vec<FeatureSet>,
    /// Position of `f_1` among the columns of each set.
    columns: Vec<usize>,
    joined: FeatureSet,
}

fn label(set: &FeatureSet) -> String {
    format!("{}@{}", set.extractor, set.fingerprint.short())
}

impl JoinStage {
    /// A stage that joins `sets` in this order.
    ///
    /// # Errors
    /// Fewer than two sets are given, one is repeated, or one lacks `f_1`.
    pub fn new(sets: Vec<FeatureSet>) -> Result<Self, JoinError> {
        if sets.len() < 2 {
            return Err(JoinError::TooFew(sets.len()));
        }
        let mut columns = Vec::with_capacity(sets.len());
        for (index, set) in sets.iter().enumerate() {
            if sets[..index].iter().any(|other| other.fingerprint == set.fingerprint) {
                return Err(JoinError::Twice(label(set)));
            }
            let column = set.columns.iter().position(|column| column.name == F_1).ok_or_else(|| {
                let found: Vec<String> = set.columns.iter().map(|column| format!("`{}`", column.name)).collect();
                JoinError::NoColumn { set: label(set), found: found.join(", ") }
            })?;
            columns.push(column);
        }
        let names: Vec<&str> = sets.iter().map(|set| set.extractor.as_str()).collect();
        let fingerprints: Vec<Fingerprint> = sets.iter().map(|set| set.fingerprint).collect();
        let dim = sets.iter().zip(&columns).map(|(set, column)| set.columns[*column].dim).sum();
        let joined = FeatureSet {
            extractor: PartitionName::new(&names.join("."))?,
            fingerprint: Fingerprint::builder("joined features").json("sets", &fingerprints).finish(),
            kind: FeatureKind::Quality,
            columns: vec![VectorColumn { name: F_1.to_owned(), dim }],
            settings: serde_json::json!({ "joined": sets.iter().map(label).collect::<Vec<_>>() }),
        };
        Ok(Self { sets, columns, joined })
    }

    /// The resulting set.
    pub fn joined(&self) -> &FeatureSet {
        &self.joined
    }

    /// The joined sets in order, each with the position of its column.
    pub fn sources(&self) -> impl Iterator<Item = (&FeatureSet, usize)> {
        self.sets.iter().zip(self.columns.iter().copied())
    }

    /// Images that have a row in all sets; and, in ascending order, those of them that the joined set lacks.
    fn plan(&self, store: &Store) -> Result<(HashSet<ImageId>, Vec<ImageId>), JoinError> {
        let mut in_all = self.sets[0].done(store)?;
        for set in &self.sets[1..] {
            let done = set.done(store)?;
            in_all.retain(|id| done.contains(id));
        }
        let done = self.joined.done(store)?;
        let mut lacking: Vec<ImageId> = in_all.difference(&done).copied().collect();
        lacking.sort_unstable();
        Ok((in_all, lacking))
    }

    fn run_stage(&self, context: &StageContext) -> Result<StageReport, JoinError> {
        let store = &context.store;
        let (in_all, lacking) = self.plan(store)?;
        let n_in = in_all.len() as u64;
        let n_cached = n_in - lacking.len() as u64;
        let mut rows = RowCounts { n_in, n_out: n_cached, n_cached, ..RowCounts::default() };
        self.joined.write_description(store)?;
        let mut interrupted = false;
        for ids in lacking.chunks(PART_ROWS) {
            interrupted = context.interrupt.is_raised();
            if interrupted {
                break;
            }
            self.joined.write_part(store, &self.join(store, ids)?)?;
            rows.n_out += ids.len() as u64;
        }
        rows.n_left = n_in - rows.n_out;
        Ok(StageReport { rows, summary: format!("{} of {n_in} images have joined features", rows.n_out), interrupted })
    }

    /// Joined rows of `ids`, which all sets have.
    fn join(&self, store: &Store, ids: &[ImageId]) -> Result<FeatureRows, PartError> {
        let found = self.sets.iter().map(|set| set.read(store, ids)).collect::<Result<Vec<_>, _>>()?;
        let mut joined = FeatureRows::empty(1);
        for (index, id) in ids.iter().enumerate() {
            joined.image_ids.push(*id);
            joined.n_tokens.push(0);
            for ((set, column), found) in self.sets.iter().zip(&self.columns).zip(&found) {
                let dim = set.columns[*column].dim;
                if let Some(row) = found.rows[index] {
                    joined.vectors[0].extend_from_slice(&found.matrices[*column][row * dim..][..dim]);
                }
            }
        }
        Ok(joined)
    }
}

impl Stage for JoinStage {
    fn name(&self) -> String {
        format!("join {}", self.joined.extractor)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let (in_all, lacking) = self.plan(store)?;
        let n_in = in_all.len() as u64;
        if !lacking.is_empty() {
            let reason = format!("{} of {n_in} images lack joined features", lacking.len());
            return Ok(Freshness::Stale { reason });
        }
        let rows = RowCounts { n_in, n_out: n_in, n_cached: n_in, ..RowCounts::default() };
        Ok(Freshness::Current { reason: format!("all {n_in} images have joined features"), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.run_stage(context)?)
    }
}
