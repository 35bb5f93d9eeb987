//! The thread that turns rows into parts, so that the network never waits for a disk.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::FeatureSets;
use super::plan::STAGE;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::features::{FeatureRows, FeatureSet};
use agiqa_store::tables::rejects::{self, RejectRow};

/// What the network hands to the writer.
pub(super) enum Finished {
    /// Rows per set; an image may lack in one of them because it was there already.
    Rows(Vec<FeatureRows>),
    /// An image that cannot be used.
    Reject(RejectRow),
}

/// When a part is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartLimits {
    /// Rows of a set.
    pub(super) n_rows: usize,
    /// Time since the oldest row.
    pub(super) age: Duration,
}

/// Collects rows and writes them as parts of at most [`PartLimits`], until all senders are gone.
///
/// # Errors
/// A store that cannot be written to; the rows not written by then are lost and will be computed again.
pub(super) fn write_parts(
    store: &Store,
    sets: &FeatureSets,
    limits: PartLimits,
    finished: &Receiver<Finished>,
) -> Result<(), PartError> {
    let sets: Vec<&FeatureSet> = sets.iter().collect();
    let mut pending = Pending::new(&sets);
    loop {
        let patience = pending.since.map_or(limits.age, |since| limits.age.saturating_sub(since.elapsed()));
        match finished.recv_timeout(patience) {
            Ok(Finished::Rows(rows)) => pending.add(rows),
            Ok(Finished::Reject(reject)) => pending.reject(reject),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return pending.flush(store, &sets),
        }
        let is_old = pending.since.is_some_and(|since| since.elapsed() >= limits.age);
        if is_old || pending.n_rows() >= limits.n_rows {
            pending.flush(store, &sets)?;
        }
    }
}

struct Pending {
    rows: Vec<FeatureRows>,
    rejects: Vec<RejectRow>,
    since: Option<Instant>,
}

impl Pending {
    fn new(sets: &[&FeatureSet]) -> Self {
        let rows = sets.iter().map(|set| FeatureRows::empty(set.columns.len())).collect();
        Self { rows, rejects: Vec::new(), since: None }
    }

    fn n_rows(&self) -> usize {
        self.rows.iter().map(FeatureRows::len).max().unwrap_or(0)
    }

    fn add(&mut self, rows: Vec<FeatureRows>) {
        self.since.get_or_insert_with(Instant::now);
        for (pending, rows) in self.rows.iter_mut().zip(rows) {
            pending.image_ids.extend(rows.image_ids);
            pending.n_tokens.extend(rows.n_tokens);
            for (pending, values) in pending.vectors.iter_mut().zip(rows.vectors) {
                pending.extend(values);
            }
        }
    }

    fn reject(&mut self, reject: RejectRow) {
        self.since.get_or_insert_with(Instant::now);
        self.rejects.push(reject);
    }

    fn flush(&mut self, store: &Store, sets: &[&FeatureSet]) -> Result<(), PartError> {
        for (set, rows) in sets.iter().zip(&self.rows) {
            if !rows.is_empty() {
                set.write_part(store, rows)?;
            }
        }
        rejects::append(store, STAGE, &self.rejects)?;
        *self = Self::new(sets);
        Ok(())
    }
}
