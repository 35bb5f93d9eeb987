//! The thread that writes rows into parts, so that the network never waits for a disk.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::guest::{Output, OutputRows, Score};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::features::FeatureRows;
use agiqa_store::tables::gates::{self, GateRow};
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::scores::ScoreRow;

/// Metadata key of a part: number of images of the batches that its rows were computed in. It decides the last bits of
/// a network's numbers.
const BATCH_SIZE_KEY: &str = "agiqa.batch_size";

/// A message from the engine to the writer.
pub(super) enum Finished {
    /// Rows of output number `output`, one per image.
    Rows {
        /// Position among the outputs of all tasks.
        output: usize,
        /// Identities of the images.
        image_ids: Vec<ImageId>,
        /// The images' rows.
        rows: OutputRows,
        /// Number of images of the network's batches, if a network computed the rows.
        batch_size: Option<usize>,
    },
    /// An image that cannot be used.
    Reject(RejectRow),
}

/// Limits at which a part is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartLimits {
    /// Greatest number of rows of an output.
    pub(super) n_rows: usize,
    /// Greatest age of the oldest row.
    pub(super) age: Duration,
}

/// Collects rows and writes parts within [`PartLimits`], until all senders are gone.
///
/// # Errors
/// The store cannot be written to. Unwritten rows are lost and will be computed again.
pub(super) fn write_parts(
    store: &Store,
    stage: &str,
    outputs: &[&Output],
    limits: PartLimits,
    finished: &Receiver<Finished>,
) -> Result<(), PartError> {
    let mut pending = Pending::new(outputs);
    loop {
        let patience = pending.since.map_or(limits.age, |since| limits.age.saturating_sub(since.elapsed()));
        match finished.recv_timeout(patience) {
            Ok(Finished::Rows { output, image_ids, rows, batch_size }) => {
                pending.batch_sizes.extend(batch_size);
                pending.add(output, image_ids, rows);
            }
            Ok(Finished::Reject(reject)) => pending.reject(reject),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return pending.flush(store, stage, outputs),
        }
        let is_old = pending.since.is_some_and(|since| since.elapsed() >= limits.age);
        if is_old || pending.n_rows() >= limits.n_rows {
            pending.flush(store, stage, outputs)?;
        }
    }
}

/// Rows that are not in a part yet.
struct Pending {
    rows: Vec<PendingRows>,
    rejects: Vec<RejectRow>,
    /// Batch sizes of the rows: one, unless memory was short.
    batch_sizes: BTreeSet<usize>,
    since: Option<Instant>,
}

/// Rows of one output that are not in a part yet.
enum PendingRows {
    Vectors(FeatureRows),
    Scores(Vec<ScoreRow>, Vec<GateRow>),
}

impl PendingRows {
    fn of(output: &Output) -> Self {
        match output {
            Output::Vectors(set) => Self::Vectors(FeatureRows::empty(set.columns.len())),
            Output::Scores(_) => Self::Scores(Vec::new(), Vec::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Vectors(rows) => rows.len(),
            Self::Scores(rows, _) => rows.len(),
        }
    }

    fn add(&mut self, image_ids: Vec<ImageId>, rows: OutputRows) {
        match (self, rows) {
            (Self::Vectors(pending), OutputRows::Vectors { columns, n_tokens }) => {
                pending.n_tokens.extend(image_ids.iter().map(|_| n_tokens));
                pending.image_ids.extend(image_ids);
                for (pending, values) in pending.vectors.iter_mut().zip(columns) {
                    pending.extend(values);
                }
            }
            (Self::Scores(pending, gates), OutputRows::Scores(scores)) => {
                for (image_id, Score { value, std, gates: weights }) in image_ids.into_iter().zip(scores) {
                    pending.push(ScoreRow { image_id, score: value, std });
                    gates.extend(weights.map(|weights| GateRow { image_id, weights }));
                }
            }
            (Self::Vectors(_), OutputRows::Scores(_)) | (Self::Scores(..), OutputRows::Vectors { .. }) => {
                unreachable!("a guest's rows are of the kind that it declared")
            }
        }
    }
}

impl Pending {
    fn new(outputs: &[&Output]) -> Self {
        let rows = outputs.iter().map(|output| PendingRows::of(output)).collect();
        Self { rows, rejects: Vec::new(), batch_sizes: BTreeSet::new(), since: None }
    }

    fn n_rows(&self) -> usize {
        self.rows.iter().map(PendingRows::len).max().unwrap_or(0)
    }

    fn add(&mut self, output: usize, image_ids: Vec<ImageId>, rows: OutputRows) {
        self.since.get_or_insert_with(Instant::now);
        self.rows[output].add(image_ids, rows);
    }

    fn reject(&mut self, reject: RejectRow) {
        self.since.get_or_insert_with(Instant::now);
        self.rejects.push(reject);
    }

    fn flush(&mut self, store: &Store, stage: &str, outputs: &[&Output]) -> Result<(), PartError> {
        let sizes: Vec<String> = self.batch_sizes.iter().map(usize::to_string).collect();
        let batch_size = (!sizes.is_empty()).then(|| sizes.join(", "));
        let notes: Vec<(&str, String)> = batch_size.into_iter().map(|sizes| (BATCH_SIZE_KEY, sizes)).collect();
        for (output, rows) in outputs.iter().zip(&self.rows) {
            match (output, rows) {
                (Output::Vectors(set), PendingRows::Vectors(rows)) if !rows.is_empty() => {
                    set.write_part_with(store, rows, &notes)?;
                }
                (Output::Scores(set), PendingRows::Scores(scores, gates)) => {
                    // The scores are written last: an image that has a score is done.
                    gates::write_part(store, set, gates)?;
                    set.write_rows_with(store, scores, &notes)?;
                }
                _ => {}
            }
        }
        rejects::append(store, stage, &self.rejects)?;
        *self = Self::new(outputs);
        Ok(())
    }
}
