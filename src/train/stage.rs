//! The `train` stage: plans runs, shares the data among them, trains them side by side.

use std::sync::Mutex;

use super::data::{DataError, TrainingData};
use super::plan::{Known, RunPlan, RunSeed, add, row_counts, said_n_runs};
use super::recipes::joint::JointError;
use super::run::{self, Finished, Job, Outcome, RunError};
use super::{SettingsError, TrainSettings};
use crate::train::head_inputs::{self, HeadInputsError};
use agiqa_nets::fusion::FusionConfig;
use agiqa_store::console::Progress;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, PartCounts, RunRecord, RunRecordError};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, PartitionNameError, train_log};

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
    /// Fingerprint of what the stage is told, as opposed to what the store holds.
    fn settings_fingerprint(&self) -> Fingerprint {
        Fingerprint::builder("training")
            .json("version", &TRAIN_VERSION)
            .json("dataset", &self.dataset)
            .json("semantic", &self.semantic.fingerprint)
            .json("quality", &self.quality.fingerprint)
            .json("settings", &self.settings.deciding())
            .finish()
    }

    fn known(&self, store: &Store) -> Result<Known, DataError> {
        Known::read(store, &self.dataset, &[&self.semantic, &self.quality])
    }

    /// Its runs.
    pub fn plan(&self) -> RunPlan<'_> {
        RunPlan::new("run", &self.name, &self.dataset, &self.runs, self.settings_fingerprint())
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

impl Stage for TrainStage {
    fn name(&self) -> String {
        format!("train {} on {} ({})", self.name, self.dataset, said_n_runs(&self.runs))
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
            let job = Job {
                run: plan.run_name(&run)?,
                seed: run.seed,
                fingerprint,
                config,
                inputs: [0, 1, 2].map(|i| data.features.inputs[i].narrow(1, 0, config.dims()[i])),
                train_mos: data.mos_of(&parts.rows[Part::Train as usize]),
                validation_mos: data.mos_of(&parts.rows[Part::Validation as usize]),
                parts,
            };
            planned.push(Planned { job, seed: run, fold });
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
            group: self.plan().group_name(seed)?,
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
    let RunRecord { run, best_epoch, epochs, ridge, .. } = record;
    let mut line = format!("run {run}: epoch {best_epoch} of {} kept", epochs.len());
    if let Some(epoch) = epochs.get(*best_epoch as usize - 1) {
        let (srcc, plcc) = (said(epoch.validation_srcc), said(epoch.validation_plcc));
        line.push_str(&format!(", validation SRCC {srcc}, PLCC {plcc}"));
    }
    if let Some(ridge) = ridge {
        let (srcc, plcc) = (said(ridge.validation_srcc), said(ridge.validation_plcc));
        line.push_str(&format!("; ridge (λ {}): SRCC {srcc}, PLCC {plcc}", ridge.lambda));
    }
    line
}

/// A metric in a line for people.
pub(super) fn said(value: Option<f64>) -> String {
    value.map_or("undefined".to_owned(), |value| format!("{value:.4}"))
}
