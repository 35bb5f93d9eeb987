//! The baseline stage: every image is decoded once and scored by the methods that have no score of it yet.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::plan::{Plan, STAGE, Todo};
use super::settings::{BaselineError, BaselineSettings};
use crate::features::{Failure, ImageSource, KnownSource, decode_verified};
use agiqa_handcrafted::{ScoreError, Scorer};
use agiqa_images::{DecodeLimits, ResizeFilter};
use agiqa_store::console::Progress;
use agiqa_store::identity::ImageId;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::baselines::ScoreSet;
use agiqa_store::tables::rejects::{self, RejectRow};

/// How long the stage waits for a score before it looks whether it was interrupted.
const PATIENCE: Duration = Duration::from_millis(100);

/// Scores the images of one source by some methods, where the store lacks a score.
pub struct BaselineStage {
    settings: BaselineSettings,
    images: KnownSource,
}

impl BaselineStage {
    /// A stage over `source`.
    pub fn new(settings: BaselineSettings, source: ImageSource) -> Self {
        Self { settings, images: KnownSource::new(source) }
    }

    fn plan(&self, store: &Store) -> Result<Plan, BaselineError> {
        Plan::of(store, &self.settings, self.images.candidates(store)?)
    }

    fn run_stage(&self, context: &StageContext) -> Result<StageReport, BaselineError> {
        let mut plan = self.plan(&context.store)?;
        let dataset = self.images.source.dataset()?;
        let mut outcome = Outcome::default();
        if !(plan.todo.is_empty() && plan.unreadable.is_empty()) {
            outcome = Run { settings: &self.settings, dataset: &dataset, plan: &plan, context }.compute()?;
        }
        let undecodable = plan.undecodable.union(&outcome.undecodable).copied().collect();
        self.images.write_corpus(&context.store, plan.corpus.take(), &undecodable)?;
        let mut rows = plan.rows;
        rows.n_out += outcome.n_out;
        rows.n_rejected += outcome.n_rejected;
        rows.n_left -= outcome.n_out + outcome.n_rejected;
        Ok(StageReport { summary: summary(&rows), rows, interrupted: outcome.interrupted })
    }
}

fn summary(rows: &RowCounts) -> String {
    agiqa_store::stage::summary(rows, "scores are there", STAGE)
}

impl Stage for BaselineStage {
    fn name(&self) -> String {
        let methods: Vec<&str> = self.settings.methods.iter().map(|method| method.as_str()).collect();
        format!("baseline {} of {}", methods.join(","), self.images.source)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let plan = self.plan(store)?;
        let RowCounts { n_in, n_left, n_rejected, .. } = plan.rows;
        if n_left > 0 {
            return Ok(Freshness::Stale { reason: format!("{n_left} of {n_in} scores are lacking") });
        }
        if let Some(reason) = self.images.stale_corpus(store, plan.corpus, &plan.undecodable)? {
            return Ok(Freshness::Stale { reason });
        }
        let reason = if n_rejected == 0 { format!("all {n_in} scores are there") } else { summary(&plan.rows) };
        Ok(Freshness::Current { reason, rows: plan.rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.run_stage(context)?)
    }
}

/// What a run did, in pairs of file and method.
#[derive(Default)]
struct Outcome {
    n_out: u64,
    n_rejected: u64,
    undecodable: HashSet<ImageId>,
    interrupted: bool,
}

/// One image's scores by the methods that it lacked, in their order; or why it is no picture.
struct Scored {
    position: usize,
    scores: Result<Vec<Result<f64, ScoreError>>, Failure>,
}

/// One computation over a plan.
struct Run<'a> {
    settings: &'a BaselineSettings,
    dataset: &'a PartitionName,
    plan: &'a Plan,
    context: &'a StageContext,
}

impl Run<'_> {
    fn compute(&self) -> Result<Outcome, BaselineError> {
        let store = &self.context.store;
        let (methods, folder) = (&self.settings.methods, self.settings.params_folder());
        let scorers = methods.iter().map(|method| method.load(&folder)).collect::<Result<Vec<_>, _>>()?;
        for set in &self.plan.sets {
            set.write_description(store)?;
        }
        if self.settings.retry_rejects {
            self.plan.forget_retried(store)?;
        }
        let progress = self.context.console.progress("baseline", "scores", self.plan.rows.n_left);
        let mut sink = Sink { run: self, pending: Pending::new(self.plan.sets.len()), outcome: Outcome::default() };
        for (file, lacks) in &self.plan.unreadable {
            for index in lacks {
                sink.reject(file.reject(), *index, 1, &progress);
            }
        }
        let n_threads = self.context.n_threads.clamp(1, self.plan.todo.len().max(1));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let received = std::thread::scope(|scope| {
            let (scored_tx, scored_rx) = crossbeam_channel::bounded(2 * n_threads);
            for _ in 0..n_threads {
                let (scorers, next, stop, scored_tx) = (&scorers, &next, &stop, scored_tx.clone());
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let position = next.fetch_add(1, Ordering::Relaxed);
                        let Some(todo) = self.plan.todo.get(position) else { return };
                        let scores = self.scores_of(todo, scorers);
                        if scored_tx.send(Scored { position, scores }).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(scored_tx);
            let received = sink.receive(&scored_rx, &progress);
            // Ends the threads after the image that they are at.
            stop.store(true, Ordering::Relaxed);
            received
        });
        // What is scored is written, also when a part before it could not be.
        let flushed = sink.pending.flush(store, &self.plan.sets);
        progress.finish();
        received?;
        flushed?;
        Ok(sink.outcome)
    }

    fn scores_of(&self, todo: &Todo, scorers: &[Box<dyn Scorer>]) -> Result<Vec<Result<f64, ScoreError>>, Failure> {
        let limits = DecodeLimits { max_pixels: self.settings.max_pixels };
        let decoded = decode_verified(Path::new(&todo.image.path), &todo.image.image_id, &limits)?;
        let image = match self.settings.side {
            Some(side) => agiqa_images::resize(&decoded, side, side, ResizeFilter::Bilinear),
            None => decoded,
        };
        Ok(todo.lacks.iter().map(|index| scorers[*index].score(&image)).collect())
    }
}

/// Where results go: counted, and written in parts.
struct Sink<'a> {
    run: &'a Run<'a>,
    pending: Pending,
    outcome: Outcome,
}

impl Sink<'_> {
    /// Takes scores until there are no more or an interrupt is raised.
    fn receive(&mut self, scored: &Receiver<Scored>, progress: &Progress) -> Result<(), PartError> {
        let Run { settings, plan, context, .. } = self.run;
        let age = Duration::from_secs(settings.part_secs.max(1));
        loop {
            if context.interrupt.is_raised() {
                self.outcome.interrupted = true;
                return Ok(());
            }
            match scored.recv_timeout(PATIENCE) {
                Ok(scored) => self.take(scored, progress),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if self.pending.n_scores() >= settings.part_rows.get() || self.pending.age() >= age {
                self.pending.flush(&context.store, &plan.sets)?;
            }
        }
    }

    fn take(&mut self, Scored { position, scores }: Scored, progress: &Progress) {
        let Todo { image, lacks } = &self.run.plan.todo[position];
        match scores {
            Err(Failure { kind, message }) => {
                self.outcome.undecodable.insert(image.image_id);
                for index in lacks {
                    self.reject(image.reject(kind, &message), *index, image.n_files, progress);
                }
            }
            Ok(scores) => {
                for (index, score) in lacks.iter().zip(scores) {
                    let method = self.run.settings.methods[*index];
                    match score {
                        Ok(score) if score.is_finite() => {
                            self.pending.add(*index, image.image_id, score);
                            self.outcome.n_out += image.n_files;
                            progress.add(image.n_files);
                        }
                        Ok(score) => {
                            let message = format!("`{}`: {method} gives {score}; this is a bug of agiqa", image.path);
                            self.reject(image.reject("non-finite", &message), *index, image.n_files, progress);
                        }
                        Err(error) => {
                            let message = format!("`{}`: no {method} score: {error}", image.path);
                            self.reject(image.reject(error.kind(), &message), *index, image.n_files, progress);
                        }
                    }
                }
            }
        }
    }

    fn reject(&mut self, mut reject: RejectRow, index: usize, n_files: u64, progress: &Progress) {
        reject.dataset = Some(self.run.dataset.to_string());
        reject.fingerprint = Some(self.run.plan.sets[index].fingerprint.to_string());
        self.outcome.n_rejected += n_files;
        progress.add(n_files);
        self.pending.reject(reject);
    }
}

/// Results that no part holds yet.
struct Pending {
    /// Per method.
    scores: Vec<Vec<(ImageId, f64)>>,
    rejects: Vec<RejectRow>,
    since: Option<Instant>,
}

impl Pending {
    fn new(n_methods: usize) -> Self {
        Self { scores: vec![Vec::new(); n_methods], rejects: Vec::new(), since: None }
    }

    fn n_scores(&self) -> usize {
        self.scores.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn age(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn add(&mut self, index: usize, image_id: ImageId, score: f64) {
        self.since.get_or_insert_with(Instant::now);
        self.scores[index].push((image_id, score));
    }

    fn reject(&mut self, reject: RejectRow) {
        self.since.get_or_insert_with(Instant::now);
        self.rejects.push(reject);
    }

    fn flush(&mut self, store: &Store, sets: &[ScoreSet]) -> Result<(), PartError> {
        for (set, scores) in sets.iter().zip(&self.scores) {
            set.write_part(store, scores)?;
        }
        rejects::append(store, STAGE, &self.rejects)?;
        *self = Self::new(sets.len());
        Ok(())
    }
}
