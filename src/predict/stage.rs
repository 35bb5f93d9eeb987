//! The `predict` stage.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tch::Tensor;

use super::plan::{RunFeatures, RunPlan, Shared};
use crate::features::catching;
use crate::train::head_inputs::{self, Columns, HeadInputsError};
use crate::train::recipes::fine_tune;
use agiqa_nets::fusion::Gate;
use agiqa_nets::kernel_ridge::{KernelRidge, Scorer};
use agiqa_nets::trained_head::{HeadError, SCORE_BATCH, Scores, TrainedHead};
use agiqa_store::identity::ImageId;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::gates::{self, GateRow};
use agiqa_store::tables::models::{self, RunRecordError, Runs};
use agiqa_store::tables::scores::ScoreRow;
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// Bytes of features in memory at a time.
const CHUNK_BYTES: usize = 1 << 30;

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
        let mut shared = Shared::new(store)?;
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
        let reason = format!("all {} scores of {} runs are there", rows.n_out, self.runs.len());
        Ok(Freshness::Current { reason, rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.predict(context)?)
    }
}

impl PredictStage {
    fn predict(&self, context: &StageContext) -> Result<StageReport, PredictError> {
        let store = &context.store;
        let mut shared = Shared::new(store)?;
        // Runs that read the same features form a group, so that the features are read once. A kernel ridge regression
        // has none but itself in memory.
        let mut groups: Vec<Vec<RunPlan>> = Vec::new();
        for run in &self.runs {
            let plan = shared.plan(self.records.get(store, run)?, &self.datasets)?;
            let RowCounts { n_in, n_out, n_left, .. } = plan.rows();
            if n_out + n_left == 0 {
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

/// The rows of an image: none of `scores` if its score is not finite, none of `gates` if the head has no gates.
type ScoredRows = (Option<ScoreRow>, Option<GateRow>);

/// A head, read from its run.
enum Head {
    Gated(Box<TrainedHead>),
    Kernel(Scorer),
}

impl Head {
    /// Reads the head of `plan`'s run. Also returns the columns that it reads.
    fn read(plan: &RunPlan, store: &Store) -> Result<(Self, Vec<FeatureSet>), PredictError> {
        let (run, RunFeatures { semantic, quality, .. }) = (&plan.record.run, plan.features.as_ref());
        let bytes = store.get(&models::head_path(run))?;
        let wrong = |source| PredictError::Head { run: run.clone(), source };
        if plan.record.recipe == models::FINE_TUNE {
            let sets = fine_tune::columns_per_side([semantic, quality])?.concat();
            return Ok((Self::Gated(Box::new(TrainedHead::from_bytes(&bytes).map_err(wrong)?)), sets));
        }
        if !plan.record.is_kernel_ridge() {
            let sets = vec![head_inputs::semantic_inputs(semantic)?, head_inputs::quality_inputs(quality)?];
            return Ok((Self::Gated(Box::new(TrainedHead::from_bytes(&bytes).map_err(wrong)?)), sets));
        }
        let regression = KernelRidge::from_bytes(&bytes).map_err(wrong)?;
        let sets = head_inputs::named_columns([semantic, quality], &regression.header.columns)?;
        let ids = regression.header.support.iter().map(|id| id.parse());
        let ids: Vec<ImageId> = ids
            .collect::<Result<_, _>>()
            .map_err(|_| wrong(HeadError::Content("the id of a support image is malformed".to_owned())))?;
        let support = Columns::read(store, &sets, &ids)?;
        if support.image_ids.len() < ids.len() {
            let (n, n_lacking) = (ids.len(), ids.len() - support.image_ids.len());
            return Err(PredictError::NoSupport {
                run: run.clone(),
                dataset: plan.record.dataset.clone(),
                n_lacking,
                n,
            });
        }
        let scorer = catching(|| regression.scorer(support.tensors)).and_then(std::convert::identity);
        Ok((Self::Kernel(scorer.map_err(|source| PredictError::Torch { run: run.clone(), source })?), sets))
    }

    /// The rows of each image of `columns`, `(n, d)` each.
    fn score(
        &self,
        image_ids: &[ImageId],
        columns: &[Tensor],
        n_threads: usize,
    ) -> Result<Vec<ScoredRows>, tch::TchError> {
        let row = |image_id: ImageId, score: f64, std: Option<f64>| {
            score.is_finite().then_some(ScoreRow { image_id, score, std: std.filter(|std| std.is_finite()) })
        };
        match self {
            Self::Gated(head) => {
                let Scores { score, alpha } = mean_over_sides(head, columns, n_threads);
                let scored = image_ids.iter().zip(score).zip(alpha).map(|((image_id, score), alpha)| {
                    let is_finite = alpha.iter().all(|alpha| alpha.is_finite());
                    let gates = weights(head, alpha).map(|weights| GateRow { image_id: *image_id, weights });
                    (row(*image_id, score, None).filter(|_| is_finite), gates)
                });
                Ok(scored.collect())
            }
            Self::Kernel(scorer) => {
                let scored = catching(|| scorer.score(columns, n_threads)).and_then(std::convert::identity)?;
                Ok(image_ids.iter().zip(scored).map(|(id, (score, std))| (row(*id, score, std), None)).collect())
            }
        }
    }
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
        let (head, columns) = Head::read(plan, &context.store)?;
        sets = columns;
        ids.extend(lacking.iter().copied().filter(|id| seen.insert(*id)));
        jobs.push(Job { plan, head, lacking: lacking.into_iter().collect() });
    }
    let n_values: usize = sets.iter().flat_map(|set| &set.columns).map(|column| column.dim).sum();
    let n_chunk = (CHUNK_BYTES / (4 * n_values.max(1))).max(SCORE_BATCH);
    let n_scores = jobs.iter().map(|job| job.lacking.len() as u64).sum();
    let progress = context.console.progress("predict", "scores", n_scores);
    // The ids are in the order of their features, so each chunk lies in few parts.
    for chunk in ids.chunks(n_chunk) {
        let inputs = Columns::read(&context.store, &sets, chunk)?;
        for job in &mut jobs {
            if context.interrupt.is_raised() {
                return Ok(false);
            }
            progress.add(job.score(&inputs, context)?);
        }
    }
    progress.finish();
    Ok(true)
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
        let scored = head.score(&ids, &columns, context.n_threads);
        let scored = scored.map_err(|source| PredictError::Torch { run: plan.record.run.clone(), source })?;
        let (mut scores, mut gates) = (Vec::with_capacity(rows.len()), Vec::new());
        for (image_id, (score, gate)) in ids.into_iter().zip(scored) {
            let Some(score) = score else {
                plan.not_finite.insert(image_id);
                continue;
            };
            scores.push(score);
            gates.extend(gate);
        }
        // The scores are written last: an image that has a score is done.
        gates::write_part(&context.store, &plan.set, &gates)?;
        plan.set.write_description(&context.store)?;
        plan.set.write_rows(&context.store, &scores)?;
        plan.scored.extend(scores.iter().map(|row| row.image_id));
        Ok(rows.len() as u64)
    }
}

/// The gates of f_1, f_a and f_b. A gate is `None` if the head does not read the input. The result is `None` for a head
/// without gates.
fn weights(head: &TrainedHead, alpha: [f64; 3]) -> Option<[Option<f64>; 3]> {
    let config = &head.head.config;
    let [semantic, coherence, quality] = [0, 1, 2].map(|input| (config.dims()[input] > 0).then_some(alpha[input]));
    (config.gate != Gate::Concat).then_some([quality, semantic, coherence])
}

/// Scores over columns of one side or several, f_a, f_b and f_1 each. Scores and gates are means over the sides.
fn mean_over_sides(head: &TrainedHead, columns: &[Tensor], n_threads: usize) -> Scores {
    let sides = columns.chunks_exact(3);
    let n_sides = sides.len() as f64;
    let of_side = |side: &[Tensor]| score_in_parallel(head, [&side[0], &side[1], &side[2]], n_threads);
    let sum = |mut sum: Scores, side: Scores| {
        sum.score.iter_mut().zip(side.score).for_each(|(sum, score)| *sum += score);
        let alphas = sum.alpha.iter_mut().flatten().zip(side.alpha.into_iter().flatten());
        alphas.for_each(|(sum, alpha)| *sum += alpha);
        sum
    };
    let mut mean = sides.map(of_side).reduce(sum).unwrap_or_default();
    mean.score.iter_mut().chain(mean.alpha.iter_mut().flatten()).for_each(|value| *value /= n_sides);
    mean
}

/// Scores on `n_threads` threads, with one torch thread each: the number of threads must not change the bits of a
/// product.
fn score_in_parallel(head: &TrainedHead, inputs: [&Tensor; 3], n_threads: usize) -> Scores {
    let n = inputs[0].size()[0];
    // Each thread gets whole batches.
    let n_batches = (n as usize).div_ceil(SCORE_BATCH);
    let n_per_thread = (n_batches.div_ceil(n_threads.max(1)) * SCORE_BATCH).max(SCORE_BATCH) as i64;
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < n {
        let n_rows = n_per_thread.min(n - start);
        let rows = [0, 1, 2].map(|i| inputs[i].narrow(0, start, n_rows));
        pieces.push((rows, head.share()));
        start += n_rows;
    }
    let n_torch_threads = tch::get_num_threads();
    let results = Mutex::new(vec![Scores::default(); pieces.len()]);
    std::thread::scope(|scope| {
        for (index, (rows, head)) in pieces.into_iter().enumerate() {
            let results = &results;
            scope.spawn(move || {
                tch::set_num_threads(1);
                let scores = head.score(&rows);
                results.lock().expect("no holder of this lock panics")[index] = scores;
            });
        }
    });
    tch::set_num_threads(n_torch_threads);
    let mut all = Scores::default();
    for Scores { score, alpha } in results.into_inner().expect("no holder of this lock panics") {
        all.score.extend(score);
        all.alpha.extend(alpha);
    }
    all
}
