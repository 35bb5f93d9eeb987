//! The head of a run, over columns of features.

use std::sync::Mutex;

use tch::Tensor;

use super::stage::PredictError;
use crate::engine::Score;
use crate::features::catching;
use crate::train::head_inputs::{self, Columns};
use crate::train::recipes::fine_tune;
use agiqa_nets::fusion::Gate;
use agiqa_nets::kernel_ridge::{KernelRidge, Scorer};
use agiqa_nets::trained_head::{HeadError, SCORE_BATCH, Scores, TrainedHead};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RunRecord};

/// A head, read from its run.
pub(super) enum Head {
    Gated(Box<TrainedHead>),
    Kernel(Scorer),
}

impl Head {
    /// Reads the head of `record`'s run over `semantic` and `quality`. Also returns the columns that it reads.
    pub(super) fn read(
        record: &RunRecord,
        semantic: &FeatureSet,
        quality: &FeatureSet,
        store: &Store,
    ) -> Result<(Self, Vec<FeatureSet>), PredictError> {
        let run = &record.run;
        let bytes = store.get(&models::head_path(run))?;
        let wrong = |source| PredictError::Head { run: run.clone(), source };
        if !record.is_kernel_ridge() {
            let sets = match record.recipe == models::FINE_TUNE {
                true => fine_tune::columns_per_side([semantic, quality])?.concat(),
                false => vec![head_inputs::semantic_inputs(semantic)?, head_inputs::quality_inputs(quality)?],
            };
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
            return Err(PredictError::NoSupport { run: run.clone(), dataset: record.dataset.clone(), n_lacking, n });
        }
        let scorer = catching(|| regression.scorer(support.tensors)).and_then(std::convert::identity);
        Ok((Self::Kernel(scorer.map_err(|source| PredictError::Torch { run: run.clone(), source })?), sets))
    }

    /// The score of each image of `columns`, `(n, d)` each. A score that cannot be computed is not finite.
    pub(super) fn score(&self, columns: &[Tensor], n_threads: usize) -> Result<Vec<Score>, tch::TchError> {
        match self {
            Self::Gated(head) => {
                let Scores { score, alpha } = mean_over_sides(head, columns, n_threads);
                let scored = score.into_iter().zip(alpha).map(|(score, alpha)| {
                    let is_finite = alpha.iter().all(|alpha| alpha.is_finite());
                    Score { value: if is_finite { score } else { f64::NAN }, std: None, gates: weights(head, alpha) }
                });
                Ok(scored.collect())
            }
            Self::Kernel(scorer) => {
                let scored = catching(|| scorer.score(columns, n_threads)).and_then(std::convert::identity)?;
                let score = |(value, std): (f64, Option<f64>)| Score {
                    value,
                    std: std.filter(|std| std.is_finite()),
                    gates: None,
                };
                Ok(scored.into_iter().map(score).collect())
            }
        }
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
