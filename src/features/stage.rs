//! The feature stage: plans, then overlaps decoding, network and writing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::decode::{DecodeQueue, Decoded};
use super::extractor;
use super::plan::{self, Plan};
use super::source::{FolderError, ImageSource, KnownSource};
use super::writer::{self, Finished, PartLimits};
use super::{BatchFeatures, ExtractError, Extractor, ExtractorKind, FeatureSets, FeatureSettings};
use agiqa_images::DecodeLimits;
use agiqa_store::console::Progress;
use agiqa_store::identity::ImageId;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureRows;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::rejects::RejectRow;

/// How long the network waits for an image before it looks whether it was interrupted.
const PATIENCE: Duration = Duration::from_millis(100);

/// Batches of rows that may wait for the writer.
const WRITER_QUEUE: usize = 4;

/// What keeps a feature stage as a whole from working.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// The extractor cannot be set up, or fails.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The images cannot be found.
    #[error(transparent)]
    Source(#[from] FolderError),
    /// A part cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Computes the features that the images of one source lack, with one extractor.
pub struct FeatureStage {
    settings: FeatureSettings,
    images: KnownSource,
}

/// What a stage is going to do, and with what.
struct Planned {
    kind: Box<dyn ExtractorKind>,
    sets: FeatureSets,
    plan: Plan,
    /// Rows of the corpus, where the source is a folder.
    corpus: Option<Vec<ImageRow>>,
}

impl FeatureStage {
    /// A stage over `source`.
    pub fn new(settings: FeatureSettings, source: ImageSource) -> Self {
        Self { settings, images: KnownSource::new(source) }
    }

    fn plan(&self, store: &Store) -> Result<Planned, FeatureError> {
        let kind = super::resolve(&self.settings)?;
        let sets = kind.feature_sets();
        let candidates = self.images.candidates(store)?;
        let plan = plan::plan(store, &sets, &self.settings, &candidates)?;
        Ok(Planned { kind, sets, plan, corpus: candidates.corpus })
    }

    /// Computes and writes what the store lacks.
    ///
    /// # Errors
    /// What keeps the stage as a whole from working; an image that cannot be used is a reject and no error.
    pub fn compute(&self, context: &StageContext) -> Result<StageReport, FeatureError> {
        let store = &context.store;
        let Planned { kind, sets, plan, corpus } = self.plan(store)?;
        let dataset = self.images.source.dataset()?;
        let mut outcome = Outcome::default();
        if !(plan.todo.is_empty() && plan.unreadable.is_empty()) {
            let run = Run { settings: &self.settings, dataset: &dataset, sets: &sets, plan: &plan, context };
            outcome = run.compute(kind.as_ref())?;
        }
        let rejected = plan.rejected.union(&outcome.rejected).copied().collect();
        self.images.write_corpus(store, corpus, &rejected)?;
        let mut rows = plan.rows;
        rows.n_out += outcome.n_out;
        rows.n_rejected += outcome.n_rejected;
        rows.n_left -= outcome.n_out + outcome.n_rejected;
        Ok(StageReport { summary: summary(&rows), rows, interrupted: outcome.interrupted })
    }
}

fn summary(rows: &RowCounts) -> String {
    let mut text = agiqa_store::stage::summary(rows, "images have features", "features");
    if rows.n_rejected > 0 {
        text.push_str("; in a pipeline, `--set extractor.NAME.retry_rejects=true` tries the rejected ones again");
    }
    text
}

impl Stage for FeatureStage {
    fn name(&self) -> String {
        format!("features {} of {}", self.settings.extractor, self.images.source)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let Planned { plan, corpus, .. } = self.plan(store)?;
        let RowCounts { n_in, n_left, n_rejected, .. } = plan.rows;
        if n_left > 0 {
            return Ok(Freshness::Stale { reason: format!("{n_left} of {n_in} images lack features") });
        }
        if let Some(reason) = self.images.stale_corpus(store, corpus, &plan.rejected)? {
            return Ok(Freshness::Stale { reason });
        }
        let reason = if n_rejected == 0 { format!("all {n_in} images have features") } else { summary(&plan.rows) };
        Ok(Freshness::Current { reason, rows: plan.rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.compute(context)?)
    }
}

/// What a run did, in rows or files.
#[derive(Default)]
struct Outcome {
    n_out: u64,
    n_rejected: u64,
    rejected: HashSet<ImageId>,
    interrupted: bool,
}

/// One computation over a plan.
struct Run<'a> {
    settings: &'a FeatureSettings,
    dataset: &'a PartitionName,
    sets: &'a FeatureSets,
    plan: &'a Plan,
    context: &'a StageContext,
}

impl Run<'_> {
    fn compute(&self, kind: &dyn ExtractorKind) -> Result<Outcome, FeatureError> {
        let (store, todo) = (&self.context.store, &self.plan.todo);
        let mut extractor = if todo.is_empty() { None } else { Some(extractor::load(kind, self.settings.extractor)?) };
        for note in extractor.iter().flat_map(|extractor| extractor.notes()) {
            self.context.console.info(note);
        }
        for set in self.sets.iter() {
            set.write_description(store)?;
        }
        if self.settings.retry_rejects {
            plan::forget_retried(store, self.sets, self.plan)?;
        }
        let limits = PartLimits {
            n_rows: self.settings.part_rows.get(),
            age: Duration::from_secs(self.settings.part_secs.max(1)),
        };
        let what = format!("features {}", self.settings.extractor);
        let progress = self.context.console.progress(what, "images", self.plan.rows.n_left);
        let (finished_tx, finished_rx) = crossbeam_channel::bounded(WRITER_QUEUE);
        let result = std::thread::scope(|scope| {
            let writer = scope.spawn(move || writer::write_parts(store, self.sets, limits, &finished_rx));
            let mut sink = Sink { run: self, finished: finished_tx, outcome: Outcome::default(), progress: &progress };
            let computed = self.reject_unreadable(&mut sink).and_then(|()| match &mut extractor {
                Some(extractor) => self.extract(extractor.as_mut(), &mut sink),
                None => Ok(()),
            });
            // Closing the channel makes the writer write what it has, also when the network has failed.
            let Sink { finished, outcome, .. } = sink;
            drop(finished);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The writer's error is the cause where both failed: its end closes the channel under the network.
            written?;
            match computed {
                Ok(()) | Err(Stop::WriterGone) => Ok(outcome),
                Err(Stop::Extract(error)) => Err(FeatureError::from(error)),
            }
        });
        progress.finish();
        result
    }

    fn reject_unreadable(&self, sink: &mut Sink<'_>) -> Result<(), Stop> {
        for file in &self.plan.unreadable {
            sink.reject(file.reject(), 1)?;
        }
        Ok(())
    }

    /// Overlaps decoding with the network, which runs on the calling thread.
    fn extract(&self, extractor: &mut dyn Extractor, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let batch_size = extractor.batch_size();
        let preprocessor = extractor.preprocessor();
        let queue = DecodeQueue {
            todo: &self.plan.todo,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            preprocessor: preprocessor.as_ref(),
            limits: DecodeLimits { max_pixels: self.settings.max_pixels },
        };
        // On a CPU an image takes the network tens of times as long as decoding it, so decoding gets little; a GPU
        // waits for its images.
        let n_threads = self.context.n_threads.max(1);
        let n_decoders = if extractor.on_cpu() { n_threads.div_ceil(8) } else { n_threads };
        std::thread::scope(|scope| {
            let (decoded_tx, decoded_rx) = crossbeam_channel::bounded(batch_size);
            for _ in 0..n_decoders {
                let (queue, decoded_tx) = (&queue, decoded_tx.clone());
                scope.spawn(move || queue.work(&decoded_tx));
            }
            drop(decoded_tx);
            let result = self.feed(extractor, preprocessor.n_values(), &decoded_rx, sink);
            // Ends the decoders that wait for a place in the channel, and those at work after their image.
            queue.stop.store(true, Ordering::Relaxed);
            drop(decoded_rx);
            result
        })
    }

    /// Fills batches from `decoded` and hands them to the network until nothing is left or an interrupt is raised.
    fn feed(
        &self,
        extractor: &mut dyn Extractor,
        n_values: usize,
        decoded: &Receiver<Decoded>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Stop> {
        let mut inputs = vec![0.0_f32; extractor.batch_size() * n_values];
        let mut batch: Vec<usize> = Vec::with_capacity(extractor.batch_size());
        let mut is_open = true;
        while is_open {
            if self.context.interrupt.is_raised() {
                sink.outcome.interrupted = true;
                return Ok(());
            }
            match decoded.recv_timeout(PATIENCE) {
                Ok(Decoded { position, input: Ok(input) }) => {
                    inputs[batch.len() * n_values..][..n_values].copy_from_slice(&input);
                    batch.push(position);
                }
                Ok(Decoded { position, input: Err(failure) }) => {
                    let image = &self.plan.todo[position].image;
                    sink.reject(image.reject(failure.kind, &failure.message), image.n_files)?;
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => is_open = false,
            }
            let is_full = batch.len() == extractor.batch_size();
            if is_full || (!is_open && !batch.is_empty()) {
                inputs[batch.len() * n_values..].fill(0.0);
                let features = extractor.forward(&inputs, batch.len());
                for warning in extractor.take_warnings() {
                    self.context.console.warn(warning);
                }
                let features = features.map_err(Stop::Extract)?;
                sink.batch(&batch, &features)?;
                batch.clear();
            }
        }
        Ok(())
    }
}

/// Why the network stops before the end of its images.
enum Stop {
    /// The network failed.
    Extract(ExtractError),
    /// The writer has failed, and its own error says why.
    WriterGone,
}

/// Where results go: counted here, written by the writer.
struct Sink<'a> {
    run: &'a Run<'a>,
    finished: Sender<Finished>,
    outcome: Outcome,
    progress: &'a Progress,
}

impl Sink<'_> {
    fn send(&self, finished: Finished) -> Result<(), Stop> {
        self.finished.send(finished).map_err(|_| Stop::WriterGone)
    }

    fn reject(&mut self, mut reject: RejectRow, n_files: u64) -> Result<(), Stop> {
        reject.dataset = Some(self.run.dataset.to_string());
        reject.fingerprint = self.run.sets.iter().next().map(|set| set.fingerprint.to_string());
        self.outcome.n_rejected += n_files;
        self.outcome.rejected.extend(reject.image_id);
        self.progress.add(n_files);
        self.send(Finished::Reject(reject))
    }

    /// Takes the features of `batch`; an image with a value that is not finite is a reject.
    fn batch(&mut self, batch: &[usize], features: &BatchFeatures) -> Result<(), Stop> {
        let run = self.run;
        let mut rows: Vec<FeatureRows> = run.sets.iter().map(|set| FeatureRows::empty(set.columns.len())).collect();
        for (image_idx, position) in batch.iter().enumerate() {
            let todo = &run.plan.todo[*position];
            match rows_of(run.sets, features, image_idx) {
                Ok(vectors) => {
                    for (set_idx, vectors) in vectors.into_iter().enumerate().filter(|(set, _)| todo.lacks[*set]) {
                        let rows = &mut rows[set_idx];
                        rows.image_ids.push(todo.image.image_id);
                        rows.n_tokens.push(features.sets[set_idx].n_tokens);
                        for (column, values) in rows.vectors.iter_mut().zip(vectors) {
                            column.extend_from_slice(values);
                        }
                    }
                    self.outcome.n_out += todo.image.n_files;
                    self.progress.add(todo.image.n_files);
                }
                Err(column) => {
                    let message = format!(
                        "`{}`: column `{column}` has values that are not finite; this is a bug of the extractor",
                        todo.image.path
                    );
                    self.reject(todo.image.reject("non-finite", &message), todo.image.n_files)?;
                }
            }
        }
        self.send(Finished::Rows(rows))
    }
}

/// Vectors of image `image_idx` of a batch, per set and column; else the name of a column with a value not finite.
fn rows_of<'a>(
    sets: &'a FeatureSets,
    features: &'a BatchFeatures,
    image_idx: usize,
) -> Result<Vec<Vec<&'a [f32]>>, &'a str> {
    sets.iter()
        .zip(&features.sets)
        .map(|(set, found)| {
            set.columns
                .iter()
                .zip(&found.vectors)
                .map(|(column, values)| {
                    let row = &values[image_idx * column.dim..][..column.dim];
                    if row.iter().all(|value| value.is_finite()) { Ok(row) } else { Err(column.name.as_str()) }
                })
                .collect()
        })
        .collect()
}
