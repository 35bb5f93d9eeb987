//! The `train` stage: plans runs, shares the data among them, trains them side by side.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

use super::data::{DataError, PartRows, TrainingData};
use super::joint::JointError;
use super::run::{self, Finished, Job, Outcome, RunError};
use super::{SettingsError, TrainSettings};
use crate::console::Progress;
use crate::identity::{Fingerprint, ImageId};
use crate::models::fusion::FusionConfig;
use crate::splits::SplitSettings;
use crate::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use crate::store::part::PartError;
use crate::store::run_log::RowCounts;
use crate::store::{Store, StoreError};
use crate::tables::features::FeatureSet;
use crate::tables::head_inputs::{self, HeadInputsError};
use crate::tables::models::{self, PartCounts, RunRecord, RunRecordError};
use crate::tables::splits::{self, Part, SplitRow};
use crate::tables::{PartitionName, PartitionNameError, images, train_log};

/// Version of the training code: raised where equal inputs give other numbers than before.
const TRAIN_VERSION: u32 = 1;

/// A training that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A hyperparameter makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Inputs are missing or do not fit together.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The features do not suit the head.
    #[error(transparent)]
    Inputs(#[from] HeadInputsError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// A joint training failed.
    #[error(transparent)]
    Joint(#[from] JointError),
    /// A table could not be written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name of a run would be too long.
    #[error("the run's name is made of its prefix and its split")]
    Name(#[from] PartitionNameError),
    /// There is nothing to train.
    #[error("no split and seed is given, so there is nothing to train")]
    NoRuns,
}

/// One run of a call: a split and a training seed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunSeed {
    /// Name of the split.
    pub split: PartitionName,
    /// Seed of initialisation, image order and dropout.
    pub seed: u32,
}

/// One run per seed, the seed driving both the split and the training: "10 random splits" are seeds 0 to 9 of both.
pub fn seeded_runs(seeds: impl IntoIterator<Item = u32>, split: impl Fn(u32) -> SplitSettings) -> Vec<RunSeed> {
    seeds.into_iter().map(|seed| RunSeed { split: split(seed).name(), seed }).collect()
}

/// Trains a list of runs that differ in split and seed only.
#[derive(Clone, Debug)]
pub struct TrainStage {
    /// What the names of the runs begin with.
    pub name: PartitionName,
    /// The dataset.
    pub dataset: PartitionName,
    /// Which runs.
    pub runs: Vec<RunSeed>,
    /// Where f_a and f_b come from.
    pub semantic: FeatureSet,
    /// Where f_1 comes from.
    pub quality: FeatureSet,
    /// Hyperparameters.
    pub settings: TrainSettings,
}

impl TrainStage {
    /// Fingerprint of what the stage is told, as opposed to what the store holds; names of runs end in 8 digits of it.
    fn settings_fingerprint(&self) -> Fingerprint {
        Fingerprint::builder("training")
            .json("version", &TRAIN_VERSION)
            .json("dataset", &self.dataset)
            .json("semantic", &self.semantic.fingerprint)
            .json("quality", &self.quality.fingerprint)
            .json("settings", &self.settings.deciding())
            .finish()
    }

    /// Name of a run: `<name>-<split>-s<seed>-<8 hex>`; the digits stand for dataset, features and hyperparameters, so the
    /// name is known before there is any data.
    ///
    /// # Errors
    /// A name too long for a partition.
    pub fn run_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        run_name(&self.name, run, self.settings_fingerprint())
    }

    /// Name of the group that a run belongs to: its name without the seeds of split and training.
    ///
    /// # Errors
    /// A name too long for a partition.
    pub fn group_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        group_name(&self.name, run, self.settings_fingerprint())
    }

    /// Names of all runs, in order, each once.
    ///
    /// # Errors
    /// A name too long for a partition.
    pub fn run_names(&self) -> Result<Vec<PartitionName>, TrainError> {
        self.distinct_runs().iter().map(|run| self.run_name(run)).collect()
    }

    /// Names of the groups that the runs belong to, each once.
    ///
    /// # Errors
    /// A name too long for a partition.
    pub fn group_names(&self) -> Result<Vec<PartitionName>, TrainError> {
        let names: Result<BTreeSet<PartitionName>, TrainError> =
            self.runs.iter().map(|run| self.group_name(run)).collect();
        Ok(names?.into_iter().collect())
    }

    fn distinct_runs(&self) -> Vec<RunSeed> {
        distinct(&self.runs)
    }

    fn known(&self, store: &Store) -> Result<Known, DataError> {
        Known::read(store, &self.dataset, &[&self.semantic, &self.quality])
    }

    fn plan(&self) -> RunPlan<'_> {
        let settings = self.settings_fingerprint();
        RunPlan { kind: "run", name: &self.name, dataset: &self.dataset, runs: self.distinct_runs(), settings }
    }

    fn config(&self) -> Result<FusionConfig, TrainError> {
        let dims = head_inputs::input_dims(&self.semantic, &self.quality)?;
        let [semantic_dim, coherence_dim, quality_dim] = self.settings.read_dims(dims);
        let width = i64::from(self.settings.width);
        Ok(FusionConfig { semantic_dim, coherence_dim, quality_dim, width, gate: self.settings.gate })
    }

    fn advice(&self) -> String {
        let Self { dataset, semantic, quality, .. } = self;
        format!(
            "run `agiqa embed --dataset {dataset}` (features `{}@{}`) and `agiqa extract --dataset {dataset}` (features \
             `{}@{}`), or ingest again where MOS are missing",
            semantic.extractor,
            semantic.fingerprint.short(),
            quality.extractor,
            quality.fingerprint.short()
        )
    }
}

/// What of the store decides a run's numbers.
pub(super) struct Known {
    mos: BTreeMap<ImageId, f64>,
    with_features: HashSet<ImageId>,
}

impl Known {
    /// MOS of the images of `dataset`, and who has features in all of `sets`.
    pub(super) fn read(store: &Store, dataset: &PartitionName, sets: &[&FeatureSet]) -> Result<Self, DataError> {
        let images = images::read(store, dataset)?;
        let mos = images.rows.iter().filter_map(|row| Some((row.image_id, row.mos?))).collect();
        let done = sets.iter().map(|set| set.done(store)).collect::<Result<Vec<_>, _>>()?;
        let with_features = images.rows.iter().map(|row| row.image_id);
        let with_features = with_features.filter(|id| done.iter().all(|done| done.contains(id))).collect();
        Ok(Self { mos, with_features })
    }
}

/// Splits by name.
pub(super) type Splits = BTreeMap<PartitionName, Vec<SplitRow>>;

/// What a training of either kind is told: decides what its runs are called, and whether they are there.
pub(super) struct RunPlan<'a> {
    /// What its runs' fingerprints begin with.
    pub(super) kind: &'static str,
    pub(super) name: &'a PartitionName,
    pub(super) dataset: &'a PartitionName,
    /// Each once.
    pub(super) runs: Vec<RunSeed>,
    /// Fingerprint of the settings.
    pub(super) settings: Fingerprint,
}

impl RunPlan<'_> {
    /// Fingerprint of everything that decides a run's numbers: settings, seed, and which image is in which part with
    /// which MOS and whether it has features.
    fn fingerprint(&self, run: &RunSeed, rows: &[SplitRow], known: &Known) -> Fingerprint {
        // The kernel of ridge and the scores beside it take in every image that has features; the head does not.
        Fingerprint::builder(self.kind)
            .json("training", &self.settings)
            .json("split", &run.split)
            .json("seed", &run.seed)
            .field("rows", &rows_hash(rows, &known.mos, &known.with_features))
            .finish()
    }

    /// The splits of its runs.
    pub(super) fn read_splits(&self, store: &Store) -> Result<Splits, TrainError> {
        let names: BTreeSet<&PartitionName> = self.runs.iter().map(|run| &run.split).collect();
        let read = |name: &PartitionName| {
            let rows = splits::read(store, self.dataset, name).map_err(DataError::from)?;
            Ok((name.clone(), rows))
        };
        names.into_iter().map(read).collect()
    }

    /// Whether all runs are trained on what the store holds, of which `known` tells; it is asked only where all are trained.
    pub(super) fn freshness(
        &self,
        store: &Store,
        known: impl FnOnce() -> Result<Known, DataError>,
    ) -> Result<Freshness, TrainError> {
        let runs = &self.runs;
        if runs.is_empty() {
            return Err(TrainError::NoRuns);
        }
        let mut records = Vec::with_capacity(runs.len());
        for run in runs {
            records.extend(RunRecord::read_if_finished(store, &run_name(self.name, run, self.settings)?)?);
        }
        if records.len() < runs.len() {
            let n = runs.len() - records.len();
            return Ok(Freshness::Stale { reason: format!("{n} of {} runs are not trained yet", runs.len()) });
        }
        let known = known()?;
        let splits = self.read_splits(store)?;
        let mut rows = RowCounts::default();
        let mut n_changed = 0;
        for (run, record) in runs.iter().zip(&records) {
            n_changed += usize::from(self.fingerprint(run, &splits[&run.split], &known) != record.fingerprint);
            add(&mut rows, row_counts(&record.parts, true));
        }
        if n_changed > 0 {
            let reason = format!("images, MOS, split or features of {n_changed} of {} runs changed", runs.len());
            return Ok(Freshness::Stale { reason });
        }
        Ok(Freshness::Current { reason: format!("all {} runs are trained", runs.len()), rows })
    }

    /// Runs that are to be trained, with their fingerprints; the rows of the others are added to `cached`.
    pub(super) fn pending(
        &self,
        store: &Store,
        splits: &Splits,
        known: &Known,
        cached: &mut RowCounts,
    ) -> Result<Vec<(RunSeed, Fingerprint)>, TrainError> {
        let mut pending = Vec::new();
        for run in &self.runs {
            let rows = &splits[&run.split];
            if rows.is_empty() {
                return Err(DataError::NoSplit { dataset: self.dataset.clone(), split: run.split.clone() }.into());
            }
            let fingerprint = self.fingerprint(run, rows, known);
            match RunRecord::read_if_finished(store, &run_name(self.name, run, self.settings)?)? {
                Some(record) if record.fingerprint == fingerprint => add(cached, row_counts(&record.parts, true)),
                _ => pending.push((run.clone(), fingerprint)),
            }
        }
        Ok(pending)
    }
}

/// Each run once, in order.
pub(super) fn distinct(runs: &[RunSeed]) -> Vec<RunSeed> {
    let mut seen = HashSet::new();
    runs.iter().filter(|run| seen.insert((*run).clone())).cloned().collect()
}

/// Name of a run of the training with `fingerprint`.
pub(super) fn run_name(
    name: &PartitionName,
    run: &RunSeed,
    fingerprint: Fingerprint,
) -> Result<PartitionName, TrainError> {
    let digits = &fingerprint.short()[..8];
    Ok(PartitionName::new(&format!("{name}-{}-s{}-{digits}", run.split, run.seed))?)
}

/// Name of the group of a run of the training with `fingerprint`.
pub(super) fn group_name(
    name: &PartitionName,
    run: &RunSeed,
    fingerprint: Fingerprint,
) -> Result<PartitionName, TrainError> {
    let digits = &fingerprint.short()[..8];
    let split = run.split.as_str().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    let split = if split.is_empty() { run.split.as_str() } else { split };
    Ok(PartitionName::new(&format!("{name}-{split}-{digits}"))?)
}

/// Hash of which image is in which part, with which MOS and whether it has features. In the split's own order: it decides
/// the order of training images, hence the numbers.
fn rows_hash(rows: &[SplitRow], mos: &BTreeMap<ImageId, f64>, with_features: &HashSet<ImageId>) -> [u8; 32] {
    let mut content = blake3::Hasher::new();
    for SplitRow { image_id, seed: _, fold: _, part } in rows {
        let mos = mos.get(image_id).map_or(f64::NAN, |mos| *mos);
        content.update(image_id.as_bytes()).update(&[*part as u8, u8::from(with_features.contains(image_id))]);
        content.update(&mos.to_bits().to_le_bytes());
    }
    *content.finalize().as_bytes()
}

/// Rows of a run: those of its split.
pub(super) fn row_counts(parts: &[PartCounts; 3], cached: bool) -> RowCounts {
    let n_out = parts.iter().map(|part| part.n_used as u64).sum();
    let n_rejected = parts.iter().map(|part| (part.n_without_features + part.n_without_mos) as u64).sum();
    RowCounts { n_in: n_out + n_rejected, n_out, n_cached: if cached { n_out } else { 0 }, n_rejected, n_left: 0 }
}

pub(super) fn add(sum: &mut RowCounts, counts: RowCounts) {
    let RowCounts { n_in, n_out, n_cached, n_rejected, n_left } = counts;
    sum.n_in += n_in;
    sum.n_out += n_out;
    sum.n_cached += n_cached;
    sum.n_rejected += n_rejected;
    sum.n_left += n_left;
}

impl Stage for TrainStage {
    fn name(&self) -> String {
        let n = self.distinct_runs().len();
        format!("train {} on {} ({n} {})", self.name, self.dataset, if n == 1 { "run" } else { "runs" })
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        self.settings.check()?;
        self.config()?;
        Ok(self.plan().freshness(store, || self.known(store))?)
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.train(context)?)
    }
}

/// A run that is to be trained, with what its record will say.
struct Planned {
    job: Job,
    seed: RunSeed,
    fold: i64,
}

/// A run's image counts, and whether it is finished or was interrupted.
type Ended = ([PartCounts; 3], Result<bool, TrainError>);

impl TrainStage {
    fn train(&self, context: &StageContext) -> Result<StageReport, TrainError> {
        self.settings.check()?;
        let config = self.config()?;
        let store = &context.store;
        let plan = self.plan();
        let known = self.known(store)?;
        let splits = plan.read_splits(store)?;
        let mut report = StageReport::default();
        let todo = plan.pending(store, &splits, &known, &mut report.rows)?;
        let data = TrainingData::read(store, &self.dataset, &self.semantic, &self.quality)?;
        let mut planned = Vec::with_capacity(todo.len());
        for (run, fingerprint) in todo {
            let rows = &splits[&run.split];
            let parts = data.part_rows(&run.split, rows, self.settings.allow_missing, &self.advice())?;
            let fold = rows.first().map_or(0, |row| row.fold);
            planned.push(self.planned(run, fingerprint, fold, parts, config, &data)?);
        }
        self.warn_of_data(&planned, context);
        let n_planned = planned.len();
        let epochs = n_planned as u64 * u64::from(self.settings.epochs);
        let progress = context.console.progress(format!("train {}", self.name), "epochs", epochs);
        let ended = self.train_side_by_side(planned, &data.features.image_ids, context, &progress);
        progress.finish();
        let (mut n_trained, mut n_interrupted) = (0, 0);
        for (counts, result) in ended {
            let mut counts = row_counts(&counts, false);
            match result {
                Ok(true) => n_trained += 1,
                Ok(false) => {
                    n_interrupted += 1;
                    (counts.n_left, counts.n_out) = (counts.n_out, 0);
                }
                Err(error) => return Err(error),
            }
            add(&mut report.rows, counts);
        }
        report.interrupted = n_interrupted > 0;
        report.summary = format!("{n_trained} runs trained");
        if n_interrupted > 0 {
            report.summary.push_str(&format!(
                ", {n_interrupted} stopped; their states are saved and training goes on from there"
            ));
        }
        if report.rows.n_rejected > 0 {
            report.summary.push_str(&format!(", {} rows of their splits left out", report.rows.n_rejected));
        }
        Ok(report)
    }

    fn planned(
        &self,
        seed: RunSeed,
        fingerprint: Fingerprint,
        fold: i64,
        parts: PartRows,
        config: FusionConfig,
        data: &TrainingData,
    ) -> Result<Planned, TrainError> {
        let job = Job {
            run: self.run_name(&seed)?,
            seed: seed.seed,
            fingerprint,
            config,
            inputs: [0, 1, 2].map(|i| data.features.inputs[i].narrow(1, 0, config.dims()[i])),
            train_mos: data.mos_of(&parts.rows[Part::Train as usize]),
            validation_mos: data.mos_of(&parts.rows[Part::Validation as usize]),
            parts,
        };
        Ok(Planned { job, seed, fold })
    }

    fn warn_of_data(&self, planned: &[Planned], context: &StageContext) {
        for Planned { job, .. } in planned {
            let n_left_out = row_counts(&job.parts.counts, false).n_rejected;
            if n_left_out > 0 {
                context.console.warn(format!("run {}: {n_left_out} images of its split are left out", job.run));
            }
            if job.validation_mos.windows(2).all(|pair| pair[0] == pair[1]) {
                context.console.warn(format!(
                    "run {}: the {} validation images all have the same MOS, so SRCC and PLCC are undefined; the epoch \
                     is chosen by the squared error",
                    job.run,
                    job.validation_mos.len()
                ));
            }
        }
    }

    /// Trains the runs on as many threads as there are; per run, its counts and whether it is finished.
    fn train_side_by_side(
        &self,
        planned: Vec<Planned>,
        image_ids: &[ImageId],
        context: &StageContext,
        progress: &Progress,
    ) -> Vec<Ended> {
        let n_threads = context.n_threads.clamp(1, planned.len().max(1));
        let n_torch_threads = tch::get_num_threads();
        let mut ended: Vec<Option<Ended>> = Vec::new();
        ended.resize_with(planned.len(), || None);
        let ended = Mutex::new(ended);
        let queue = Mutex::new(planned.into_iter().enumerate());
        let next = || queue.lock().expect("no holder of this lock panics").next();
        // Threads of our own rather than rayon's: the number of torch threads is a thread's property and would stay.
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    tch::set_num_threads(1);
                    while let Some((index, planned)) = next() {
                        let result = self.train_one(&planned, image_ids, context, progress);
                        let counts = planned.job.parts.counts;
                        ended.lock().expect("no holder of this lock panics")[index] = Some((counts, result));
                    }
                });
            }
        });
        tch::set_num_threads(n_torch_threads);
        let ended = ended.into_inner().expect("no holder of this lock panics");
        ended.into_iter().map(|result| result.expect("every run of the queue ended")).collect()
    }

    fn train_one(
        &self,
        planned: &Planned,
        image_ids: &[ImageId],
        context: &StageContext,
        progress: &Progress,
    ) -> Result<bool, TrainError> {
        let Planned { job, seed, fold } = planned;
        let store = &context.store;
        let finished = match run::train(job, image_ids, &self.settings, context, progress)? {
            Outcome::Interrupted => return Ok(false),
            Outcome::Finished(finished) => finished,
        };
        let Finished { chosen_by, best_epoch, epochs, log, ridge } = finished;
        train_log::write(store, &job.run, &log, job.fingerprint)?;
        let record = RunRecord {
            run: job.run.clone(),
            group: self.group_name(seed)?,
            dataset: self.dataset.clone(),
            split: seed.split.clone(),
            fold: *fold,
            seed: seed.seed,
            fingerprint: job.fingerprint,
            semantic: self.semantic.clone(),
            quality: self.quality.clone(),
            settings: self.settings.deciding(),
            parts: job.parts.counts,
            chosen_by,
            best_epoch,
            epochs,
            ridge,
            agiqa_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        context.console.info(said_of(&record));
        record.write(store)?;
        store.delete(&models::state_path(&job.run))?;
        Ok(true)
    }
}

/// One line on a finished run.
pub(super) fn said_of(record: &RunRecord) -> String {
    let number = |value: Option<f64>| value.map_or("undefined".to_owned(), |value| format!("{value:.4}"));
    let RunRecord { run, best_epoch, epochs, ridge, .. } = record;
    let mut line = format!("run {run}: epoch {best_epoch} of {} kept", epochs.len());
    if let Some(epoch) = epochs.get(*best_epoch as usize - 1) {
        let (srcc, plcc) = (number(epoch.validation_srcc), number(epoch.validation_plcc));
        line.push_str(&format!(", validation SRCC {srcc}, PLCC {plcc}"));
    }
    if let Some(ridge) = ridge {
        let (srcc, plcc) = (number(ridge.validation_srcc), number(ridge.validation_plcc));
        line.push_str(&format!("; ridge (λ {}): SRCC {srcc}, PLCC {plcc}", ridge.lambda));
    }
    line
}
