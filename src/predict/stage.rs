//! The `predict` stage.

use std::collections::HashSet;
use std::sync::{Arc, mpsc};

use tch::Tensor;

use super::head::Head;
use super::plan::{RunPlan, Shared};
use crate::engine::Score;
use crate::train::head_inputs::{Columns, HeadInputsError};
use agiqa_nets::trained_head::{HeadError, SCORE_BATCH};
use agiqa_store::identity::ImageId;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::shard::Shard;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::features::{FeatureIndex, FeatureKind, FeatureSet};
use agiqa_store::tables::gates::{self, GateRow};
use agiqa_store::tables::models::{RunRecordError, Runs};
use agiqa_store::tables::scores::ScoreRow;
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// Bytes of features that are scored at a time. They are in memory up to three times, as read, in order and as inputs, and
/// the next ones are read meanwhile.
const CHUNK_BYTES: usize = 128 << 20;

/// Scores cannot be computed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PredictError {
    /// A run's record could not be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// A run's head could not be read.
    #[error("head of run `{run}`")]
    Head { run: PartitionName, source: HeadError },
    /// The support images of a kernel ridge regression lack features.
    #[error(
        "run `{run}`: {n_lacking} of its {n} support images have no features any more: run `agiqa features --dataset \
         {dataset}` with the extractor of the training"
    )]
    NoSupport {
        run: PartitionName,
        dataset: PartitionName,
        /// The number of support images without features.
        n_lacking: usize,
        /// The number of all support images.
        n: usize,
    },
    /// libtorch failed, e.g. because memory ran short.
    #[error("run `{run}`: its scores cannot be computed")]
    Torch { run: PartitionName, source: tch::TchError },
    /// The features do not suit the head, or could not be read.
    #[error(transparent)]
    Inputs(#[from] HeadInputsError),
    /// A table could not be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name would be too long.
    #[error(transparent)]
    Name(#[from] PartitionNameError),
    /// A run has no head over columns.
    #[error("run `{run}` (recipe `{recipe}`) reads no semantic and quality features: it has no head to score with")]
    NoHead {
        run: PartitionName,
        /// The recipe that trained the run.
        recipe: String,
    },
    /// No split has several runs.
    #[error("an average takes at least two runs of one split: name more runs, or another group of the same splits")]
    NothingToAverage,
    /// The names of averages could not be made.
    #[error(transparent)]
    Plan(#[from] Box<crate::train::TrainError>),
    /// A dataset has no images.
    #[error("dataset `{0}` has no images in this store: run `agiqa ingest` for it first")]
    NoImages(PartitionName),
    /// No image of the datasets has the features that a run reads.
    #[error(
        "none of the {n_images} images has the features that run `{run}` reads (`{semantic}` and `{quality}`): run `agiqa \
         features` on the dataset with that extractor and the same settings"
    )]
    NoFeatures {
        run: PartitionName,
        /// The number of requested images.
        n_images: u64,
        /// Extractor and fingerprint.
        semantic: String,
        /// Extractor and fingerprint.
        quality: String,
    },
}

/// Scores datasets with some runs.
#[derive(Clone, Debug)]
pub struct PredictStage {
    /// The runs.
    pub runs: Vec<PartitionName>,
    /// Datasets and corpora to score; empty for each run's own dataset.
    pub datasets: Vec<PartitionName>,
    /// The records of the runs.
    pub records: Runs,
    /// What it means if no image has features.
    pub unready: Unready,
    /// The share of the images, by their address.
    pub shard: Shard,
}

/// What it means if no image has the features that a run reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unready {
    /// The features are still to be computed: an error says so.
    #[default]
    Refused,
    /// The stage before has rejected all images: they are rejects here, too.
    Rejected,
}

impl Stage for PredictStage {
    fn name(&self) -> String {
        match self.runs.as_slice() {
            [run] => format!("predict {run}"),
            runs => format!("predict {} runs", runs.len()),
        }
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let mut rows = RowCounts::default();
        let mut has_stale_rejects = false;
        let mut shared = Shared::new(store, self.shard, self.unready)?;
        for run in &self.runs {
            let Some(record) = self.records.get_if_finished(store, run)? else {
                return Ok(Freshness::Stale { reason: format!("run `{run}` is not trained yet") });
            };
            let plan = shared.plan(record, &self.datasets)?;
            rows += plan.rows();
            has_stale_rejects |= plan.has_stale_rejects();
        }
        if rows.n_left > 0 {
            return Ok(Freshness::Stale { reason: format!("{} of {} scores are lacking", rows.n_left, rows.n_in) });
        }
        if has_stale_rejects {
            return Ok(Freshness::Stale { reason: "the list of images without features is out of date".to_owned() });
        }
        let reason = format!("all {} scores of {} runs are present", rows.n_out, self.runs.len());
        Ok(Freshness::Current { reason, rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.predict(context)?)
    }
}

impl PredictStage {
    /// Scores all images of `datasets`.
    pub fn new(runs: Vec<PartitionName>, datasets: Vec<PartitionName>, records: Runs) -> Self {
        Self { runs, datasets, records, unready: Unready::Refused, shard: Shard::WHOLE }
    }

    fn predict(&self, context: &StageContext) -> Result<StageReport, PredictError> {
        let store = &context.store;
        let mut shared = Shared::new(store, self.shard, self.unready)?;
        // Runs that read the same features form a group, so that the features are read once. A kernel ridge regression
        // has none but itself in memory.
        let mut groups: Vec<Vec<RunPlan>> = Vec::new();
        for run in &self.runs {
            let plan = shared.plan(self.records.get(store, run)?, &self.datasets)?;
            let RowCounts { n_in, n_out, n_left, .. } = plan.rows();
            if n_out + n_left == 0 && self.unready == Unready::Refused {
                return Err(no_features(&plan, n_in));
            }
            let has_same_features = |group: &&mut Vec<RunPlan>| {
                let is_kernel_ridge = group[0].record.is_kernel_ridge() || plan.record.is_kernel_ridge();
                Arc::ptr_eq(&group[0].features, &plan.features) && !is_kernel_ridge
            };
            match groups.iter_mut().find(has_same_features) {
                Some(group) => group.push(plan),
                None => groups.push(vec![plan]),
            }
        }
        let mut report = StageReport::default();
        for mut group in groups {
            if !report.interrupted {
                report.interrupted = !score(&mut group, context)?;
            }
            for plan in &group {
                let rows = plan.rows();
                report.rows += rows;
                if rows.n_left > 0 {
                    continue;
                }
                plan.write_rejects(store)?;
                if rows.n_rejected > 0 {
                    let RowCounts { n_in, n_rejected, .. } = rows;
                    let run = &plan.record.run;
                    context
                        .console
                        .warn(format!("run {run}: {n_rejected} of {n_in} images have no features and no score"));
                }
            }
        }
        let RowCounts { n_out, n_rejected, .. } = report.rows;
        report.summary = format!("{n_out} scores of {} runs, {n_rejected} images rejected", self.runs.len());
        Ok(report)
    }
}

fn no_features(plan: &RunPlan, n_images: u64) -> PredictError {
    let named = |set: &FeatureSet| format!("{}@{}", set.extractor, set.fingerprint.short());
    let (semantic, quality) = (named(&plan.features.semantic), named(&plan.features.quality));
    PredictError::NoFeatures { run: plan.record.run.clone(), n_images, semantic, quality }
}

/// A run that lacks scores.
struct Job<'a> {
    plan: &'a mut RunPlan,
    head: Head,
    lacking: HashSet<ImageId>,
}

/// Scores the missing images of runs with the same features. Returns false if it was interrupted.
fn score(plans: &mut [RunPlan], context: &StageContext) -> Result<bool, PredictError> {
    let (mut jobs, mut ids, mut seen, mut sets) = (Vec::new(), Vec::new(), HashSet::new(), Vec::new());
    for plan in plans {
        let lacking = plan.lacking();
        if lacking.is_empty() {
            continue;
        }
        let (record, features) = (plan.record.clone(), plan.features.clone());
        let (head, columns) = Head::read(&record, &features.semantic, &features.quality, &context.store)?;
        sets = columns;
        ids.extend(lacking.iter().copied().filter(|id| seen.insert(*id)));
        jobs.push(Job { plan, head, lacking });
    }
    let n_values: usize = sets.iter().flat_map(|set| &set.columns).map(|column| column.dim).sum();
    let n_chunk = (CHUNK_BYTES / (4 * n_values.max(1))).max(SCORE_BATCH);
    let n_scores = jobs.iter().map(|job| job.lacking.len() as u64).sum();
    let progress = context.console.progress("predict", "scores", n_scores);
    let Some(features) = jobs.first().map(|job| job.plan.features.clone()) else { return Ok(true) };
    let index_of = |set: FeatureSet| {
        let index = &features.indexes[usize::from(set.kind == FeatureKind::Quality)];
        (set, index)
    };
    let sets: Vec<(FeatureSet, &FeatureIndex)> = sets.into_iter().map(index_of).collect();
    ids.sort_by_cached_key(|id| features.place(id));
    let chunks = by_parts(&ids, n_chunk, |id| features.place(id).map(|(part, _)| part));
    std::thread::scope(|scope| {
        // The next chunk is read while one is scored.
        let (sender, receiver) = mpsc::sync_channel(0);
        let (store, sets) = (&context.store, &sets);
        scope.spawn(move || {
            let read = |chunk: &&[ImageId]| Columns::read_indexed(store, sets, chunk);
            // Nobody receives after an error or an interrupt.
            _ = chunks.iter().map(read).try_for_each(|columns| sender.send(columns));
        });
        for inputs in receiver {
            let inputs = inputs?;
            for job in &mut jobs {
                if context.interrupt.is_raised() {
                    return Ok(false);
                }
                progress.add(job.score(&inputs, context)?);
            }
        }
        progress.finish();
        Ok(true)
    })
}

/// `ids`, which are in the order of their parts, in pieces of at most `n`. A part is cut only if it is larger than a piece,
/// so that each part is read once.
fn by_parts<P: PartialEq>(mut ids: &[ImageId], n: usize, part_of: impl Fn(&ImageId) -> P) -> Vec<&[ImageId]> {
    let mut pieces = Vec::new();
    while !ids.is_empty() {
        let mut end = n.min(ids.len());
        if end < ids.len() && part_of(&ids[end - 1]) == part_of(&ids[end]) {
            let part = part_of(&ids[end]);
            let start = ids[..end].partition_point(|id| part_of(id) != part);
            end = if start > 0 { start } else { end };
        }
        let (piece, rest) = ids.split_at(end);
        pieces.push(piece);
        ids = rest;
    }
    pieces
}

impl Job<'_> {
    /// Scores the images of `inputs` that the run has not scored, and writes scores and gates. Returns the number of
    /// images.
    fn score(&mut self, inputs: &Columns, context: &StageContext) -> Result<u64, PredictError> {
        let Self { plan, head, lacking } = self;
        let is_lacking = |row: &usize| lacking.contains(&inputs.image_ids[*row]);
        let rows: Vec<usize> = (0..inputs.image_ids.len()).filter(is_lacking).collect();
        if rows.is_empty() {
            return Ok(0);
        }
        let index = Tensor::from_slice(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>());
        let is_all = rows.len() == inputs.image_ids.len();
        let select = |xs: &Tensor| if is_all { xs.shallow_clone() } else { xs.index_select(0, &index) };
        let (ids, columns): (Vec<ImageId>, Vec<Tensor>) =
            (rows.iter().map(|row| inputs.image_ids[*row]).collect(), inputs.tensors.iter().map(select).collect());
        let scored = head.score(&columns, context.n_threads);
        let scored = scored.map_err(|source| PredictError::Torch { run: plan.record.run.clone(), source })?;
        let (mut scores, mut gates) = (Vec::with_capacity(rows.len()), Vec::new());
        for (image_id, Score { value, std, gates: weights }) in ids.into_iter().zip(scored) {
            if !value.is_finite() {
                plan.not_finite.insert(image_id);
                continue;
            }
            scores.push(ScoreRow { image_id, score: value, std });
            gates.extend(weights.map(|weights| GateRow { image_id, weights }));
        }
        // The scores are written last: an image that has a score is done.
        gates::write_part(&context.store, &plan.set, &gates)?;
        plan.set.write_description(&context.store)?;
        plan.set.write_rows(&context.store, &scores)?;
        plan.scored.extend(scores.iter().map(|row| row.image_id));
        Ok(rows.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_whole_parts_and_cut_a_part_only_if_it_is_larger_than_a_piece() {
        let ids: Vec<ImageId> = (0..12_u8).map(|i| ImageId::of_bytes(&[i])).collect();
        let parts = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3];
        let part_of = |id: &ImageId| ids.iter().position(|other| other == id).map(|at| parts[at]);
        let sizes = |n: usize| by_parts(&ids, n, part_of).iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(sizes(5), [5, 5, 2]);
        assert_eq!(sizes(4), [3, 2, 4, 3]);
        assert_eq!(sizes(12), [12]);
        assert_eq!(sizes(1), [1; 12]);
    }
}
