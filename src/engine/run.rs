//! One computation over a plan: decoding threads, the guest, and the writer, connected by bounded queues.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use tch::Device;

use super::batches::Batches;
use super::decode::{Failure, decode_verified};
use super::guest::{
    Guest, GuestError, GuestWords, Input, Loaded, Output, OutputRows, PerImage, Preprocessor, Unusable, Work,
};
use super::plan::{Plan, Todo, is_undecodable};
use super::queue::{Queue, QueueLimits, Received};
use super::stage::EngineError;
use super::writer::{self, Finished, PartLimits};
use agiqa_images::DecodeLimits;
use agiqa_sources::{Reader, shard_key};
use agiqa_store::console::Progress;
use agiqa_store::identity::ImageId;
use agiqa_store::panics;
use agiqa_store::path_text::path_of;
use agiqa_store::stage::StageContext;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::rejects::RejectRow;

/// Time that the calling thread waits for an image before it checks for an interrupt and fetches what a GPU has done. The
/// tests of the order of events must not depend on a busy machine.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 100 });

/// Greatest number of messages that wait for the writer.
const WRITER_QUEUE: usize = 4;

/// Greatest number of bytes of inputs that wait for the network.
const INPUT_QUEUE_BYTES: usize = 512 << 20;

/// Threads that a GPU leaves to other work than decoding: one launches batches, one writes parts.
const N_OTHER_THREADS: usize = 2;

/// Result of a computation, counted in pairs of file and task.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) n_out: u64,
    pub(super) n_rejected: u64,
    /// Images whose files could not be decoded.
    pub(super) undecodable: HashSet<ImageId>,
    pub(super) interrupted: bool,
}

/// One computation over a plan.
pub(super) struct Run<'a> {
    pub(super) words: &'a GuestWords,
    pub(super) work: Work,
    pub(super) dataset: &'a PartitionName,
    pub(super) plan: &'a Plan,
    pub(super) context: &'a StageContext,
    pub(super) reader: &'a Reader,
}

/// The work of the decoding threads on a picture.
enum Frontend<'a> {
    Prepare(Arc<dyn Preprocessor>),
    Compute(&'a dyn PerImage),
}

/// A decoding thread's result for one image.
struct Decoded {
    /// Position in the plan's list.
    position: usize,
    made: Made,
}

/// The result for one image.
enum Made {
    /// A network's input.
    Input(Input),
    /// For each task that the image lacks, its rows, or the reason why it has none.
    Rows(Vec<Result<Vec<OutputRows>, Unusable>>),
    /// The image could not be decoded.
    Failed(Failure),
}

impl Made {
    fn n_bytes(&self) -> usize {
        match self {
            Self::Input(input) => input.values.n_bytes(),
            Self::Rows(_) | Self::Failed(_) => 0,
        }
    }
}

/// Why a computation stops before the end of its images.
pub(super) enum Stop {
    /// The guest failed.
    Guest(GuestError),
    /// The writer has failed. Its own error says why.
    WriterGone,
}

impl Run<'_> {
    /// Computes and writes all rows of the plan.
    pub(super) fn compute(&self, guest: &dyn Guest) -> Result<Outcome, EngineError> {
        let (store, stage) = (&self.context.store, self.words.stage);
        let mut loaded = if self.plan.todo.is_empty() { None } else { Some(guest.load().map_err(EngineError::Guest)?) };
        if let Some(Loaded::Network(network)) = &loaded {
            network.frame().notes.iter().for_each(|note| self.context.console.info(note));
        }
        let outputs = self.plan.all_outputs();
        for output in &outputs {
            output.write_description(store)?;
        }
        if self.work.retry_rejects {
            self.plan.forget_retried(store, stage)?;
        }
        let limits =
            PartLimits { n_rows: self.work.part_rows.get(), age: Duration::from_secs(self.work.part_secs.max(1)) };
        let progress = self.context.console.progress(self.words.title.clone(), self.words.unit, self.plan.rows.n_left);
        let (finished_tx, finished_rx) = crossbeam_channel::bounded(WRITER_QUEUE);
        let result = std::thread::scope(|scope| {
            let outputs = &outputs;
            let writer = scope.spawn(move || writer::write_parts(store, stage, outputs, limits, &finished_rx));
            let mut sink = Sink { run: self, finished: finished_tx, outcome: Outcome::default(), progress: &progress };
            let computed = sink.reject_unreadable().and_then(|()| match &mut loaded {
                Some(loaded) => self.decode_and_feed(loaded, &mut sink),
                None => Ok(()),
            });
            // Closing the channel makes the writer write its pending rows, even if the guest has failed.
            let Sink { finished, outcome, .. } = sink;
            drop(finished);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // If both have failed, the writer's error is the cause: when the writer ends, the guest's channel closes.
            written?;
            match computed {
                Ok(()) | Err(Stop::WriterGone) => Ok(outcome),
                Err(Stop::Guest(error)) => Err(EngineError::Guest(error)),
            }
        });
        progress.finish();
        result
    }

    /// Overlaps decoding with the guest. A network runs on the calling thread, a per-image computation on all threads.
    fn decode_and_feed(&self, loaded: &mut Loaded, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let n_threads = self.context.n_threads.max(1);
        match loaded {
            Loaded::Network(network) => {
                let on_cpu = network.frame().device == Device::Cpu;
                let frontend = Frontend::Prepare(network.frame().preprocessor.clone());
                let mut batches = Batches::new(network.as_mut(), &self.plan.todo, sink);
                // On a CPU the network takes tens of times as long as decoding, so one batch waits at most.
                let n_items = if on_cpu { batches.size() } else { usize::MAX };
                let limits = QueueLimits { n_items, n_bytes: INPUT_QUEUE_BYTES };
                self.with_decoders(&frontend, n_decoders(n_threads, on_cpu), limits, |decoded| {
                    self.receive(decoded, sink, |next, sink| match next {
                        Next::Input(position, input) => batches.take(position, input, sink),
                        Next::None => batches.fetch_all(sink),
                        Next::End => batches.finish(sink),
                    })
                })
            }
            Loaded::PerImage(per_image) => {
                let frontend = Frontend::Compute(per_image.as_ref());
                let limits = QueueLimits { n_items: 2 * n_threads, n_bytes: INPUT_QUEUE_BYTES };
                self.with_decoders(&frontend, n_threads, limits, |decoded| self.receive(decoded, sink, |_, _| Ok(())))
            }
        }
    }

    /// Decodes the plan's images on `n_decoders` threads and runs `consume` on the results, which wait within `limits`.
    fn with_decoders(
        &self,
        frontend: &Frontend<'_>,
        n_decoders: usize,
        limits: QueueLimits,
        consume: impl FnOnce(&Queue<Decoded>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let n_decoders = n_decoders.clamp(1, self.plan.todo.len().max(1));
        let decoded = Queue::new(limits, n_decoders);
        std::thread::scope(|scope| {
            for _ in 0..n_decoders {
                let (next, stop, decoded) = (&next, &stop, &decoded);
                scope.spawn(move || {
                    let _sending = decoded.sending();
                    self.decode(frontend, next, stop, decoded);
                });
            }
            // Its end ends waiting decoders at once, and working decoders after their image.
            let _receiving = decoded.receiving();
            let result = consume(&decoded);
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Decodes images until none is left, `stop` is raised or the receiver of `decoded` is gone.
    fn decode(&self, frontend: &Frontend<'_>, next: &AtomicUsize, stop: &AtomicBool, decoded: &Queue<Decoded>) {
        while !stop.load(Ordering::Relaxed) {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(todo) = self.plan.todo.get(position) else { return };
            let made = self.make(frontend, todo);
            if !decoded.send(made.n_bytes(), Decoded { position, made }) {
                return;
            }
        }
    }

    /// A panic of a decoder or method is the failure of its image.
    fn make(&self, frontend: &Frontend<'_>, todo: &Todo) -> Made {
        let path = path_of(shard_key(&todo.image.path));
        let made = panics::caught(|| panics::of_file(&path, || self.make_from(frontend, todo)));
        made.unwrap_or_else(|error| Made::Failed(Failure { kind: "internal-error", message: error.to_string() }))
    }

    fn make_from(&self, frontend: &Frontend<'_>, todo: &Todo) -> Made {
        let limits = DecodeLimits { max_pixels: self.work.max_pixels };
        let image = match decode_verified(self.reader, &todo.image.path, &todo.image.image_id, &limits) {
            Ok(image) => image,
            Err(failure) => return Made::Failed(failure),
        };
        match frontend {
            Frontend::Prepare(preprocessor) => match preprocessor.prepare(&image) {
                Ok(input) => Made::Input(input),
                Err(unusable) => Made::Rows(vec![Err(unusable)]),
            },
            Frontend::Compute(per_image) => Made::Rows(per_image.compute(&image, &todo.tasks)),
        }
    }

    /// Receives the decoders' results until they are done or an interrupt is raised, and passes on each input and each
    /// pause. What was launched before an interrupt is fetched.
    fn receive(
        &self,
        decoded: &Queue<Decoded>,
        sink: &mut Sink<'_>,
        mut feed: impl FnMut(Next, &mut Sink<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        loop {
            if self.context.interrupt.is_raised() {
                sink.outcome.interrupted = true;
                return feed(Next::None, sink);
            }
            match decoded.receive(PATIENCE) {
                Received::Item(Decoded { position, made: Made::Input(input) }) => {
                    feed(Next::Input(position, input), sink)?;
                }
                Received::Item(Decoded { position, made: Made::Rows(rows) }) => {
                    sink.rows(&self.plan.todo[position], rows)?;
                }
                Received::Item(Decoded { position, made: Made::Failed(failure) }) => {
                    sink.failed(&self.plan.todo[position], &failure)?;
                }
                Received::Late => feed(Next::None, sink)?,
                Received::End => return feed(Next::End, sink),
            }
        }
    }
}

/// Number of decoding threads beside a network. On a CPU the network takes tens of times as long as decoding, so
/// decoding gets few threads. A GPU waits for its images, so decoding gets all threads but those that serve it.
fn n_decoders(n_threads: usize, on_cpu: bool) -> usize {
    if on_cpu { n_threads.div_ceil(8) } else { n_threads.saturating_sub(N_OTHER_THREADS).max(1) }
}

/// What comes next for a network.
enum Next {
    /// The input of the image at this position of the plan's list.
    Input(usize, Input),
    /// Nothing for a while.
    None,
    /// Nothing more.
    End,
}

/// The destination of results. It counts them and sends them to the writer.
pub(super) struct Sink<'a> {
    pub(super) run: &'a Run<'a>,
    finished: Sender<Finished>,
    outcome: Outcome,
    progress: &'a Progress,
}

impl Sink<'_> {
    fn send(&self, finished: Finished) -> Result<(), Stop> {
        self.finished.send(finished).map_err(|_| Stop::WriterGone)
    }

    fn reject_unreadable(&mut self) -> Result<(), Stop> {
        for (file, tasks) in &self.run.plan.unreadable {
            for task in tasks {
                self.reject(file.reject(), *task, 1)?;
            }
        }
        Ok(())
    }

    fn reject(&mut self, mut reject: RejectRow, task: usize, n_files: u64) -> Result<(), Stop> {
        reject.dataset = Some(self.run.dataset.to_string());
        let outputs = &self.run.plan.tasks[task].outputs;
        reject.fingerprint = outputs.first().map(|output| output.fingerprint().to_string());
        self.outcome.n_rejected += n_files;
        self.progress.add(n_files);
        self.send(Finished::Reject(reject))
    }

    /// Rejects an image that could not be decoded, in every task that lacks it.
    fn failed(&mut self, todo: &Todo, failure: &Failure) -> Result<(), Stop> {
        if is_undecodable(failure.kind) {
            self.outcome.undecodable.insert(todo.image.image_id);
        }
        for task in &todo.tasks {
            self.reject(todo.image.reject(failure.kind, &failure.message), *task, todo.image.n_files)?;
        }
        Ok(())
    }

    /// Takes the rows of one image, for each task that it lacks.
    fn rows(&mut self, todo: &Todo, rows: Vec<Result<Vec<OutputRows>, Unusable>>) -> Result<(), Stop> {
        for (task, rows) in todo.tasks.iter().zip(rows) {
            match rows {
                Ok(rows) => self.task_rows(*task, &[todo], &rows, None)?,
                Err(Unusable { kind, message }) => {
                    let message = format!("`{}`: {message}", todo.image.path);
                    self.reject(todo.image.reject(kind, &message), *task, todo.image.n_files)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the rows of `images` from one task, computed in batches of `batch_size` if a network computed them. An
    /// image with a value that is not finite is a reject.
    pub(super) fn task_rows(
        &mut self,
        task: usize,
        images: &[&Todo],
        rows: &[OutputRows],
        batch_size: Option<usize>,
    ) -> Result<(), Stop> {
        let plan = self.run.plan;
        let Some(outputs) = plan.outputs().into_iter().nth(task) else { return Ok(()) };
        let name = &plan.tasks[task].name;
        let mut finite = Vec::with_capacity(images.len());
        for (image_idx, todo) in images.iter().enumerate() {
            let outputs = plan.tasks[task].outputs.iter().zip(rows);
            let wrong = outputs.filter_map(|(output, rows)| non_finite(output, rows, image_idx)).next();
            let Some(column) = wrong else {
                finite.push(image_idx);
                self.outcome.n_out += todo.image.n_files;
                self.progress.add(todo.image.n_files);
                continue;
            };
            let message = format!(
                "`{}`: {name} gives values in `{column}` that are not finite; this is a bug of agiqa",
                todo.image.path
            );
            self.reject(todo.image.reject("non-finite", &message), task, todo.image.n_files)?;
        }
        for ((output, declared), rows) in outputs.zip(&plan.tasks[task].outputs).zip(rows) {
            let lacking: Vec<usize> = finite.iter().copied().filter(|image| images[*image].lacks[output]).collect();
            if !lacking.is_empty() {
                let image_ids = lacking.iter().map(|image| images[*image].image.image_id).collect();
                let rows = select(declared, rows, &lacking);
                self.send(Finished::Rows { output, image_ids, rows, batch_size })?;
            }
        }
        Ok(())
    }
}

/// The column in which image `image_idx` has a value that is not finite, if it has one.
fn non_finite<'a>(output: &'a Output, rows: &OutputRows, image_idx: usize) -> Option<&'a str> {
    match (output, rows) {
        (Output::Vectors(set), OutputRows::Vectors { columns, .. }) => {
            let is_wrong =
                |values: &[f32], dim: usize| values[image_idx * dim..][..dim].iter().any(|value| !value.is_finite());
            let mut columns = set.columns.iter().zip(columns);
            columns.find(|(column, values)| is_wrong(values, column.dim)).map(|(column, _)| column.name.as_str())
        }
        (Output::Scores(_), OutputRows::Scores(scores)) => (!scores[image_idx].value.is_finite()).then_some("score"),
        (Output::Vectors(_), OutputRows::Scores(_)) | (Output::Scores(_), OutputRows::Vectors { .. }) => None,
    }
}

/// Selects the rows of `images`.
fn select(output: &Output, rows: &OutputRows, images: &[usize]) -> OutputRows {
    match (output, rows) {
        (Output::Vectors(set), OutputRows::Vectors { columns, n_tokens }) => {
            let selected = |(values, dim): (&Vec<f32>, usize)| {
                images.iter().flat_map(|image| &values[image * dim..][..dim]).copied().collect()
            };
            let dims = set.columns.iter().map(|column| column.dim);
            OutputRows::Vectors { columns: columns.iter().zip(dims).map(selected).collect(), n_tokens: *n_tokens }
        }
        (_, OutputRows::Scores(scores)) => OutputRows::Scores(images.iter().map(|image| scores[*image]).collect()),
        (Output::Scores(_), OutputRows::Vectors { .. }) => rows.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::n_decoders;

    #[test]
    fn a_gpu_gets_all_threads_but_two_for_decoding_and_a_cpu_an_eighth() {
        assert_eq!([1, 2, 3, 16].map(|n| n_decoders(n, false)), [1, 1, 1, 14]);
        assert_eq!([1, 2, 8, 16].map(|n| n_decoders(n, true)), [1, 1, 1, 2]);
    }
}
