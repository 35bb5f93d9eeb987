//! The `predict` stage.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use tch::Tensor;

use crate::train::head_inputs::{HeadInputs, HeadInputsError};
use agiqa_nets::trained_head::{HeadError, SCORE_BATCH, Scores, TrainedHead};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::{self, PartError};
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::images::{self, ImageRow};
use agiqa_store::tables::models::{self, RunRecord, RunRecordError};
use agiqa_store::tables::predictions::{self, PredictionRow};
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::splits::{self, Part};
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// Version of the scoring code: raised where equal inputs give other numbers than before.
const PREDICT_VERSION: u32 = 1;

/// Bytes of features that are in memory at a time.
const CHUNK_BYTES: usize = 1 << 30;

/// Predictions that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// A run's record could not be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// A run's head could not be read.
    #[error("head of run `{run}`")]
    Head {
        /// The run.
        run: PartitionName,
        /// Cause.
        source: HeadError,
    },
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
    /// A dataset has no images.
    #[error("dataset `{0}` has no images in this store: run `agiqa ingest` for it first")]
    NoImages(PartitionName),
    /// No image of the datasets has the features that a run reads.
    #[error(
        "none of the {n_images} images has the features that run `{run}` reads (`{semantic}` and `{quality}`): run `agiqa \
         embed` and `agiqa extract` on the dataset with that extractor and the same settings"
    )]
    NoFeatures {
        /// The run.
        run: PartitionName,
        /// Images asked for.
        n_images: usize,
        /// Extractor and fingerprint.
        semantic: String,
        /// Extractor and fingerprint.
        quality: String,
    },
}

/// Writes the predictions of some runs.
#[derive(Clone, Debug)]
pub struct PredictStage {
    /// The runs.
    pub runs: Vec<PartitionName>,
    /// Datasets and corpora to score; empty for each run's own dataset.
    pub datasets: Vec<PartitionName>,
}

/// Images to score, and what their predictions carry along.
struct Wanted {
    dataset: PartitionName,
    rows: Vec<ImageRow>,
}

impl PredictStage {
    fn datasets_of(&self, record: &RunRecord) -> Vec<PartitionName> {
        if self.datasets.is_empty() { vec![record.dataset.clone()] } else { self.datasets.clone() }
    }

    fn wanted(&self, store: &Store, record: &RunRecord) -> Result<Vec<Wanted>, PredictError> {
        let read = |dataset: PartitionName| {
            let rows = images::read(store, &dataset)?.rows;
            if rows.is_empty() { Err(PredictError::NoImages(dataset)) } else { Ok(Wanted { dataset, rows }) }
        };
        self.datasets_of(record).into_iter().map(read).collect()
    }

    /// Fingerprint of everything that decides a run's scores of one dataset.
    fn fingerprint(record: &RunRecord, wanted: &Wanted, with_features: &HashSet<ImageId>) -> Fingerprint {
        let mut content = blake3::Hasher::new();
        content.update(wanted.dataset.as_str().as_bytes()).update(&[0]);
        for row in &wanted.rows {
            let mos = row.mos.unwrap_or(f64::NAN).to_bits();
            content.update(row.image_id.as_bytes()).update(row.name.as_bytes()).update(&[0]);
            content.update(&mos.to_le_bytes()).update(&[u8::from(with_features.contains(&row.image_id))]);
        }
        Fingerprint::builder("predictions")
            .json("version", &PREDICT_VERSION)
            .json("run", &record.fingerprint)
            .field("images", content.finalize().as_bytes())
            .finish()
    }

    fn with_features(store: &Store, record: &RunRecord) -> Result<HashSet<ImageId>, PartError> {
        let semantic = record.semantic.done(store)?;
        let quality = record.quality.done(store)?;
        Ok(semantic.intersection(&quality).copied().collect())
    }
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
        let mut n_stale = 0;
        let mut done = DoneFeatures::default();
        for run in &self.runs {
            let Some(record) = RunRecord::read_if_finished(store, run)? else {
                let reason = format!("run `{run}` is not trained yet");
                return Ok(Freshness::Stale { reason });
            };
            let wanted = self.wanted(store, &record)?;
            let with_features = done.of(store, &record)?;
            let mut is_stale = false;
            for wanted in &wanted {
                let path = part_path(&record, &wanted.dataset);
                let written = part::written_fingerprint(store, &path, predictions::KIND)?;
                let fingerprint = Self::fingerprint(&record, wanted, with_features).to_string();
                is_stale |= written.is_none_or(|written| written != fingerprint);
            }
            n_stale += usize::from(is_stale);
            let n_in: usize = wanted.iter().map(|wanted| wanted.rows.len()).sum();
            let images = wanted.iter().flat_map(|wanted| &wanted.rows);
            let n_out = images.filter(|row| with_features.contains(&row.image_id)).count() as u64;
            rows.n_in += n_in as u64;
            rows.n_out += n_out;
            rows.n_cached += n_out;
            rows.n_rejected += n_in as u64 - n_out;
        }
        let n_runs = self.runs.len();
        if n_stale > 0 {
            let reason = format!("predictions of {n_stale} of {n_runs} runs are missing or of other inputs");
            return Ok(Freshness::Stale { reason });
        }
        Ok(Freshness::Current { reason: format!("all {} scores of {n_runs} runs are there", rows.n_out), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.predict(context)?)
    }
}

/// Images with features, per pair of feature sets: runs of one group share them.
#[derive(Default)]
struct DoneFeatures(HashMap<(Fingerprint, Fingerprint), HashSet<ImageId>>);

impl DoneFeatures {
    fn of(&mut self, store: &Store, record: &RunRecord) -> Result<&HashSet<ImageId>, PartError> {
        let key = (record.semantic.fingerprint, record.quality.fingerprint);
        match self.0.entry(key) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(PredictStage::with_features(store, record)?)),
        }
    }
}

/// Path of a run's scores of `dataset`.
fn part_path(record: &RunRecord, dataset: &PartitionName) -> String {
    if record.dataset == *dataset { predictions::path(&record.run) } else { predictions::path_on(&record.run, dataset) }
}

/// A run being scored.
struct Scoring {
    record: RunRecord,
    head: TrainedHead,
    /// What is scored, each with the fingerprint of its table.
    wanted: Vec<Wanted>,
    fingerprints: Vec<Fingerprint>,
    part_of: HashMap<ImageId, Part>,
    scores: HashMap<ImageId, (f64, [f64; 3])>,
}

impl PredictStage {
    fn predict(&self, context: &StageContext) -> Result<StageReport, PredictError> {
        let store = &context.store;
        let mut done = DoneFeatures::default();
        let mut by_features: Vec<((Fingerprint, Fingerprint), Vec<Scoring>)> = Vec::new();
        for run in &self.runs {
            let record = RunRecord::read(store, run)?;
            let wanted = self.wanted(store, &record)?;
            let with_features = done.of(store, &record)?;
            let fingerprints = wanted.iter().map(|wanted| Self::fingerprint(&record, wanted, with_features)).collect();
            let bytes = store.get(&models::head_path(run))?;
            let head =
                TrainedHead::from_bytes(&bytes).map_err(|source| PredictError::Head { run: run.clone(), source })?;
            let part_of = splits::read(store, &record.dataset, &record.split)?;
            let part_of = part_of.into_iter().map(|row| (row.image_id, row.part)).collect();
            let key = (record.semantic.fingerprint, record.quality.fingerprint);
            let scoring = Scoring { record, head, wanted, fingerprints, part_of, scores: HashMap::new() };
            match by_features.iter_mut().find(|(known, _)| *known == key) {
                Some((_, scorings)) => scorings.push(scoring),
                None => by_features.push((key, vec![scoring])),
            }
        }
        let mut report = StageReport::default();
        for (_, mut scorings) in by_features {
            if !score_all(&mut scorings, context)? {
                report.interrupted = true;
            }
            for scoring in scorings {
                let n_images: usize = scoring.wanted.iter().map(|wanted| wanted.rows.len()).sum();
                report.rows.n_in += n_images as u64;
                if report.interrupted {
                    report.rows.n_left += n_images as u64;
                    continue;
                }
                let n_scored = scoring.write(store)?;
                report.rows.n_out += n_scored as u64;
                report.rows.n_rejected += (n_images - n_scored) as u64;
                if n_scored < n_images {
                    let n = n_images - n_scored;
                    let run = &scoring.record.run;
                    context.console.warn(format!("run {run}: {n} of {n_images} images have no features and no score"));
                }
            }
        }
        let RowCounts { n_out, n_rejected, .. } = report.rows;
        report.summary = format!("{n_out} scores of {} runs, {n_rejected} images rejected", self.runs.len());
        Ok(report)
    }
}

/// Scores the images of runs that read the same features; false where it was interrupted.
fn score_all(scorings: &mut [Scoring], context: &StageContext) -> Result<bool, PredictError> {
    let Some(first) = scorings.first() else { return Ok(true) };
    let (semantic, quality) = (first.record.semantic.clone(), first.record.quality.clone());
    let mut seen = HashSet::new();
    let images = scorings.iter().flat_map(|scoring| &scoring.wanted).flat_map(|wanted| &wanted.rows);
    let ids: Vec<ImageId> = images.map(|row| row.image_id).filter(|id| seen.insert(*id)).collect();
    let n_values: usize = semantic.columns.iter().chain(&quality.columns).map(|column| column.dim).sum();
    let n_chunk = (CHUNK_BYTES / (4 * n_values.max(1))).max(SCORE_BATCH);
    let n_scores = (ids.len() * scorings.len()) as u64;
    let progress = context.console.progress("predict", "scores", n_scores);
    for chunk in ids.chunks(n_chunk) {
        let inputs = HeadInputs::read(&context.store, &semantic, &quality, chunk)?;
        for scoring in &mut *scorings {
            if context.interrupt.is_raised() {
                return Ok(false);
            }
            let Scores { score, alpha } = score_in_parallel(&scoring.head, &inputs.inputs, context.n_threads);
            let scores = score.into_iter().zip(alpha);
            scoring.scores.extend(inputs.image_ids.iter().copied().zip(scores));
            progress.add(inputs.image_ids.len() as u64);
        }
    }
    progress.finish();
    Ok(true)
}

/// Scores on `n_threads` threads, one torch thread each: how a product is cut among threads must not decide its bits.
fn score_in_parallel(head: &TrainedHead, inputs: &[Tensor; 3], n_threads: usize) -> Scores {
    let n = inputs[0].size()[0];
    // Whole batches per thread.
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

impl Scoring {
    /// Writes predictions and rejects; returns how many images have a score.
    fn write(&self, store: &Store) -> Result<usize, PredictError> {
        let Self { record, wanted, fingerprints, part_of, scores, head: _ } = self;
        let mut tables = Vec::new();
        let mut n_scored = 0;
        let mut n_images = 0;
        for (Wanted { dataset, rows: images }, fingerprint) in wanted.iter().zip(fingerprints) {
            let mut rows = Vec::new();
            let mut rejected = Vec::new();
            let is_own = *dataset == record.dataset;
            for image in images {
                match scores.get(&image.image_id) {
                    Some((score, alpha)) if score.is_finite() && alpha.iter().all(|alpha| alpha.is_finite()) => {
                        let [alpha_semantic, alpha_coherence, alpha_quality] = *alpha;
                        rows.push(PredictionRow {
                            dataset: dataset.to_string(),
                            image_id: image.image_id,
                            name: image.name.clone(),
                            part: part_of.get(&image.image_id).copied().filter(|_| is_own),
                            mos: image.mos,
                            score: *score,
                            alpha_quality,
                            alpha_semantic,
                            alpha_coherence,
                        });
                    }
                    Some(_) => {
                        rejected.push(self.reject(dataset, image, "score-not-finite", "the head's score overflows"))
                    }
                    None => {
                        let message = "semantic or quality features are missing; run `agiqa embed` and `agiqa extract`";
                        rejected.push(self.reject(dataset, image, "no-features", message));
                    }
                }
            }
            n_scored += rows.len();
            n_images += images.len();
            tables.push((dataset, rows, rejected, fingerprint));
        }
        if n_scored == 0 {
            let set = |set: &agiqa_store::tables::features::FeatureSet| {
                format!("{}@{}", set.extractor, set.fingerprint.short())
            };
            let (semantic, quality) = (set(&record.semantic), set(&record.quality));
            return Err(PredictError::NoFeatures { run: record.run.clone(), n_images, semantic, quality });
        }
        for (dataset, rows, rejected, fingerprint) in tables {
            rejects::replace(store, "predict", &rejects::name_of(dataset, &record.run)?, &rejected)?;
            predictions::write_to(store, &part_path(record, dataset), &rows, *fingerprint)?;
        }
        Ok(n_scored)
    }

    fn reject(&self, dataset: &PartitionName, image: &ImageRow, kind: &str, message: &str) -> RejectRow {
        let mut row = RejectRow::now(kind, format!("run `{}`: {message}", self.record.run));
        row.dataset = Some(dataset.to_string());
        row.image_id = Some(image.image_id);
        row.path = Some(image.path.clone());
        row.fingerprint = Some(self.record.fingerprint.to_string());
        row
    }
}
