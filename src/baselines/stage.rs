//! The baseline stage: every image is decoded once and scored by the methods that have no score of it yet.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde::{Deserialize, Serialize};

use super::{Method, ParamsError, ScoreError, Scorer};
use crate::console::Progress;
use crate::features::{
    Candidate, Candidates, Failure, FolderError, ImageSource, Unreadable, corpus_is_written, decode_verified,
    write_corpus,
};
use crate::identity::{Fingerprint, ImageId};
use crate::images::{self, DECODER_VERSION, DecodeLimits, ResizeFilter};
use crate::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use crate::store::part::PartError;
use crate::store::run_log::RowCounts;
use crate::store::shard::Shard;
use crate::store::{Store, StoreError};
use crate::tables::PartitionName;
use crate::tables::baselines::{Direction, ScoreSet};
use crate::tables::rejects::{self, RejectRow};
use crate::weights::params;

/// Name of the stage in `rejects`.
const STAGE: &str = "baseline";

/// How long the stage waits for a score before it looks whether it was interrupted.
const PATIENCE: Duration = Duration::from_millis(100);

/// Kinds of rejects that say something about the method and nothing about the file.
const OF_METHOD: [&str; 3] = ["too-small", "flat", "non-finite"];

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaselineSettings {
    /// The methods; default: all.
    pub methods: Vec<Method>,
    /// Folder with the published parameter files; default: `iqa-params` in the weights folder.
    pub params: Option<PathBuf>,
    /// Side of the square that images are resized to, bilinear, before anything else; default: as they are.
    pub side: Option<u32>,
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// Score just this share of the images, `k/N`.
    pub shard: Shard,
    /// Try again what an earlier run of the same method and settings rejected.
    pub retry_rejects: bool,
    /// Scores at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even when it has fewer scores; a kill loses at most about this much work.
    pub part_secs: u64,
}

impl Default for BaselineSettings {
    fn default() -> Self {
        Self {
            methods: Method::ALL.to_vec(),
            params: None,
            side: None,
            max_pixels: DecodeLimits::default().max_pixels,
            shard: Shard::WHOLE,
            retry_rejects: false,
            part_rows: NonZeroUsize::new(4096).expect("not zero"),
            part_secs: 60,
        }
    }
}

/// Sides that images may be resized to.
const SIDES_PX: std::ops::RangeInclusive<u32> = 32..=4096;

/// What keeps a baseline stage as a whole from working.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// No method is named.
    #[error("no method is named: expected some of brisque, niqe, ilniqe")]
    NoMethods,
    /// The same method is named twice.
    #[error("method `{0}` is named twice")]
    MethodTwice(Method),
    /// A side that makes no sense.
    #[error("`side = {found}`: expected {} to {} pixels", SIDES_PX.start(), SIDES_PX.end())]
    Side {
        /// The value.
        found: u32,
    },
    /// A parameter file cannot be used.
    #[error(transparent)]
    Params(#[from] ParamsError),
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

/// What decides a method's scores, as it stands in `method.json`.
#[derive(Serialize)]
struct Description {
    method: Method,
    code_version: u32,
    /// BLAKE3 per parameter file.
    params_blake3: Vec<(&'static str, String)>,
    decoder_version: u32,
    /// `none`, or what the image is resized to and how.
    resize: String,
}

impl BaselineSettings {
    /// Refuses settings that make no sense; looks at no file.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn check(&self) -> Result<(), BaselineError> {
        if self.methods.is_empty() {
            return Err(BaselineError::NoMethods);
        }
        let twice = self.methods.iter().enumerate().find(|(index, method)| self.methods[..*index].contains(method));
        if let Some((_, method)) = twice {
            return Err(BaselineError::MethodTwice(*method));
        }
        match self.side {
            Some(found) if !SIDES_PX.contains(&found) => Err(BaselineError::Side { found }),
            _ => Ok(()),
        }
    }

    /// The folder with the parameter files.
    fn params_folder(&self) -> PathBuf {
        self.params.clone().unwrap_or_else(params::folder)
    }

    /// The score set that `method` fills: reads its parameter files to hash them.
    ///
    /// # Errors
    /// Parameter files that cannot be read.
    pub fn score_set(&self, method: Method) -> Result<ScoreSet, ParamsError> {
        let folder = self.params_folder();
        let hash = |file: &&'static str| {
            let bytes = super::params::ParamsFile::read(&folder, file)?.bytes;
            Ok::<_, ParamsError>((*file, blake3::hash(&bytes).to_hex().to_string()))
        };
        let description = Description {
            method,
            code_version: method.code_version(),
            params_blake3: method.files().iter().map(hash).collect::<Result<_, ParamsError>>()?,
            decoder_version: DECODER_VERSION,
            resize: self.side.map_or_else(|| "none".to_owned(), |side| format!("bilinear to {side} × {side}")),
        };
        let settings = serde_json::to_value(description).expect("a description is plain data");
        Ok(ScoreSet {
            method: PartitionName::new(method.as_str()).expect("the names of methods are valid"),
            fingerprint: Fingerprint::builder("baseline").json("settings", &settings).finish(),
            direction: Direction::Lower,
            settings,
        })
    }
}

/// Scores the images of one source by some methods, where the store lacks a score.
pub struct BaselineStage {
    settings: BaselineSettings,
    source: ImageSource,
    /// The images of a folder, hashed once per stage however often it plans.
    scanned: Mutex<Option<Candidates>>,
}

/// One image to score.
struct Todo {
    image: Candidate,
    /// Positions of the methods without a score of it.
    lacks: Vec<usize>,
}

/// What is to be done, and what is done already. Rows are pairs of file and method.
struct Plan {
    sets: Vec<ScoreSet>,
    todo: Vec<Todo>,
    /// Unreadable files, with the positions of the methods that have no reject of them yet.
    unreadable: Vec<(Unreadable, Vec<usize>)>,
    /// Images that are no readable picture, by earlier rejects; they are no part of a corpus.
    undecodable: HashSet<ImageId>,
    rows: RowCounts,
    corpus: Option<Vec<crate::tables::images::ImageRow>>,
}

/// Earlier rejects of one score set.
#[derive(Default)]
struct EarlierRejects {
    /// Kind of reject per image.
    ids: HashMap<ImageId, String>,
    paths: HashSet<String>,
}

impl BaselineStage {
    /// A stage over `source`.
    pub fn new(settings: BaselineSettings, source: ImageSource) -> Self {
        Self { settings, source, scanned: Mutex::new(None) }
    }

    fn candidates(&self, store: &Store) -> Result<Candidates, FolderError> {
        match &self.source {
            // An earlier stage of the same pipeline may have changed the table since.
            ImageSource::Dataset(_) => self.source.candidates(store),
            ImageSource::Folder { .. } => {
                let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
                if scanned.is_none() {
                    *scanned = Some(self.source.candidates(store)?);
                }
                Ok(scanned.clone().unwrap_or_default())
            }
        }
    }

    fn plan(&self, store: &Store) -> Result<Plan, BaselineError> {
        self.settings.check()?;
        let BaselineSettings { methods, shard, retry_rejects, .. } = &self.settings;
        let sets = methods.iter().map(|method| self.settings.score_set(*method)).collect::<Result<Vec<_>, _>>()?;
        let done = sets.iter().map(|set| set.done(store)).collect::<Result<Vec<_>, _>>()?;
        let earlier = earlier_rejects(store, &sets)?;
        let Candidates { images, unreadable, corpus } = self.candidates(store)?;
        let mut plan = Plan {
            todo: Vec::new(),
            unreadable: Vec::new(),
            undecodable: HashSet::new(),
            rows: RowCounts::default(),
            corpus,
            sets,
        };
        for image in images {
            let in_shard = shard.contains(&image.image_id);
            let mut lacks = Vec::new();
            for (index, (done, earlier)) in done.iter().zip(&earlier).enumerate() {
                let kind = earlier.ids.get(&image.image_id).filter(|_| !(in_shard && *retry_rejects));
                let counter = match (done.contains(&image.image_id), kind) {
                    (true, _) => &mut plan.rows.n_cached,
                    (false, Some(kind)) => {
                        if !OF_METHOD.contains(&kind.as_str()) {
                            plan.undecodable.insert(image.image_id);
                        }
                        &mut plan.rows.n_rejected
                    }
                    (false, None) => {
                        lacks.push(index);
                        &mut plan.rows.n_left
                    }
                };
                if in_shard {
                    *counter += image.n_files;
                    plan.rows.n_in += image.n_files;
                }
            }
            if in_shard && !lacks.is_empty() {
                plan.todo.push(Todo { image, lacks });
            }
        }
        // A file without content has no id; its path places it in one shard.
        let in_shard = |file: &Unreadable| shard.contains(&ImageId::of_bytes(file.path.as_bytes()));
        for file in unreadable.into_iter().filter(in_shard) {
            let is_new = |earlier: &EarlierRejects| *retry_rejects || !earlier.paths.contains(&file.path);
            let lacks: Vec<usize> = (0..earlier.len()).filter(|index| is_new(&earlier[*index])).collect();
            plan.rows.n_in += earlier.len() as u64;
            plan.rows.n_left += lacks.len() as u64;
            plan.rows.n_rejected += (earlier.len() - lacks.len()) as u64;
            if !lacks.is_empty() {
                plan.unreadable.push((file, lacks));
            }
        }
        plan.rows.n_out = plan.rows.n_cached;
        Ok(plan)
    }

    fn run_stage(&self, context: &StageContext) -> Result<StageReport, BaselineError> {
        let mut plan = self.plan(&context.store)?;
        let dataset = self.source.dataset()?;
        let mut outcome = Outcome::default();
        if !(plan.todo.is_empty() && plan.unreadable.is_empty()) {
            outcome = Run { settings: &self.settings, dataset: &dataset, plan: &plan, context }.compute()?;
        }
        if let Some(rows) = plan.corpus.take() {
            let undecodable = plan.undecodable.union(&outcome.undecodable).copied().collect();
            write_corpus(&context.store, &dataset, rows, &undecodable)?;
        }
        let mut rows = plan.rows;
        rows.n_out += outcome.n_out;
        rows.n_rejected += outcome.n_rejected;
        rows.n_left -= outcome.n_out + outcome.n_rejected;
        Ok(StageReport { summary: summary(&rows), rows, interrupted: outcome.interrupted })
    }
}

fn earlier_rejects(store: &Store, sets: &[ScoreSet]) -> Result<Vec<EarlierRejects>, PartError> {
    let mut earlier: Vec<EarlierRejects> = sets.iter().map(|_| EarlierRejects::default()).collect();
    for row in rejects::read(store, STAGE)? {
        let Some(index) = set_of(&row, sets) else { continue };
        match (row.image_id, row.path) {
            (Some(id), _) => _ = earlier[index].ids.insert(id, row.kind),
            (None, Some(path)) => _ = earlier[index].paths.insert(path),
            (None, None) => {}
        }
    }
    Ok(earlier)
}

/// Position of the set that `row` is a reject of.
fn set_of(row: &RejectRow, sets: &[ScoreSet]) -> Option<usize> {
    let found = row.fingerprint.as_ref()?;
    sets.iter().position(|set| set.fingerprint.to_string() == *found)
}

fn summary(rows: &RowCounts) -> String {
    crate::stage::summary(rows, "scores are there", STAGE)
}

impl Stage for BaselineStage {
    fn name(&self) -> String {
        let methods: Vec<&str> = self.settings.methods.iter().map(|method| method.as_str()).collect();
        format!("baseline {} of {}", methods.join(","), self.source)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let plan = self.plan(store)?;
        let RowCounts { n_in, n_left, n_rejected, .. } = plan.rows;
        if n_left > 0 {
            return Ok(Freshness::Stale { reason: format!("{n_left} of {n_in} scores are lacking") });
        }
        if let Some(rows) = plan.corpus {
            let dataset = self.source.dataset()?;
            if !corpus_is_written(store, &dataset, rows, &plan.undecodable)? {
                let reason = format!("the images of `{dataset}` are not those of its folder");
                return Ok(Freshness::Stale { reason });
            }
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
            self.forget_retried()?;
        }
        let progress = self.context.console.progress("baseline", "scores", self.plan.rows.n_left);
        let mut sink = Sink { run: self, pending: Pending::new(self.plan.sets.len()), outcome: Outcome::default() };
        for (file, lacks) in &self.plan.unreadable {
            for index in lacks {
                let mut reject = RejectRow::now(file.kind, &file.message);
                reject.path = Some(file.path.clone());
                sink.reject(reject, *index, 1, &progress);
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
            Some(side) => images::resize(&decoded, side, side, ResizeFilter::Bilinear),
            None => decoded,
        };
        Ok(todo.lacks.iter().map(|index| scorers[*index].score(&image)).collect())
    }

    /// Removes the earlier rejects of what is going to be tried again: what is still wrong gets a new row.
    fn forget_retried(&self) -> Result<(), PartError> {
        let Plan { sets, todo, unreadable, .. } = self.plan;
        let ids: HashSet<ImageId> = todo.iter().map(|todo| todo.image.image_id).collect();
        let paths: HashSet<&str> = unreadable.iter().map(|(file, _)| file.path.as_str()).collect();
        rejects::retain(&self.context.store, STAGE, |row| {
            let is_retried = match (&row.image_id, &row.path) {
                (Some(id), _) => ids.contains(id),
                (None, Some(path)) => paths.contains(path.as_str()),
                (None, None) => false,
            };
            !(is_retried && set_of(row, sets).is_some())
        })
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
        let reject = |kind: &str, message: &str| {
            let mut reject = RejectRow::now(kind, message);
            reject.image_id = Some(image.image_id);
            reject.path = Some(image.path.clone());
            reject
        };
        match scores {
            Err(Failure { kind, message }) => {
                self.outcome.undecodable.insert(image.image_id);
                for index in lacks {
                    self.reject(reject(kind, &message), *index, image.n_files, progress);
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
                            self.reject(reject("non-finite", &message), *index, image.n_files, progress);
                        }
                        Err(error) => {
                            let message = format!("`{}`: no {method} score: {error}", image.path);
                            self.reject(reject(error.kind(), &message), *index, image.n_files, progress);
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
