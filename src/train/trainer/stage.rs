//! The `train` stage of any recipe. It plans runs, shares the data among them, trains them, and records their results.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::run::Finished;
use super::selection::is_constant;
use super::shared::{Planned, Shared};
use super::{NextStage, Pace, Recipe, RunData, TrainError, in_words};
use crate::train::TrainSettings;
use crate::train::runs::{RunPlan, RunSeed, StoredInputs, add, distinct, n_runs_in_words, row_counts};
use agiqa_store::console::Progress;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, KernelRidgeRecord, RunRecord};
use agiqa_store::tables::splits::Part;

/// Trains a list of runs that differ only in split and seed.
#[derive(Clone, Debug)]
pub struct TrainStage<R> {
    /// Beginning of the names of the runs.
    pub name: PartitionName,
    /// The dataset.
    pub dataset: PartitionName,
    /// The splits and seeds of the runs.
    pub runs: Vec<RunSeed>,
    /// Hyperparameters.
    pub settings: TrainSettings,
    /// The recipe to train.
    pub recipe: R,
}

/// A training of any recipe, for code that plans stages.
pub trait Training: Stage {
    /// The dataset that the training learns from.
    fn dataset(&self) -> &PartitionName;

    /// The runs of the training.
    ///
    /// # Errors
    /// Fails if the initial weights are unusable, because they are part of the runs' names.
    fn plan(&self) -> Result<RunPlan<'_>, TrainError>;

    /// The stage that applies the networks of the runs; `None` if they leave none.
    ///
    /// # Errors
    /// Fails like [`Self::plan`].
    fn next(&self) -> Result<Option<NextStage>, TrainError>;
}

impl<R: Recipe> Training for TrainStage<R> {
    fn dataset(&self) -> &PartitionName {
        &self.dataset
    }

    fn plan(&self) -> Result<RunPlan<'_>, TrainError> {
        let fingerprint = self.recipe.fingerprint(&self.dataset, &self.settings)?;
        Ok(RunPlan::new(R::RUN_KIND, &self.name, &self.dataset, &self.runs, fingerprint))
    }

    fn next(&self) -> Result<Option<NextStage>, TrainError> {
        let Some(application) = self.recipe.application() else { return Ok(None) };
        let (name, dataset) = (self.name.clone(), self.dataset.clone());
        Ok(Some(NextStage { name, datasets: vec![dataset], runs: self.plan()?.run_names()?, application }))
    }
}

impl<R: Recipe> Stage for TrainStage<R> {
    fn name(&self) -> String {
        let title = self.recipe.title(&self.name);
        format!("train {title} on {} ({})", self.dataset, n_runs_in_words(distinct(&self.runs).len()))
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        self.check()?;
        Ok(self.plan()?.freshness(store, || self.stored(store))?)
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.train(context)?)
    }
}

impl<R: Recipe> TrainStage<R> {
    fn check(&self) -> Result<(), TrainError> {
        self.settings.check()?;
        Ok(self.recipe.check()?)
    }

    pub(super) fn stored(&self, store: &Store) -> Result<StoredInputs, TrainError> {
        Ok(StoredInputs::read(store, &self.dataset, &self.recipe.columns()?)?)
    }

    fn train(&self, context: &StageContext) -> Result<StageReport, TrainError> {
        self.check()?;
        self.recipe.check_machine()?;
        let mut report = StageReport::default();
        let (shared, is_interrupted) = self.shared(context, &mut report)?;
        self.warn_of_data(&shared, context);
        let n_images: usize = shared.planned.iter().map(|planned| planned.parts.counts[0].n_used).sum();
        let n_total = n_images as u64 * u64::from(self.recipe.n_epochs(&self.settings));
        let progress = context.console.progress(format!("train {}", self.name), "images", n_total);
        let ended = if is_interrupted { Vec::new() } else { self.train_all(&shared, context, &progress) };
        progress.finish();
        let (mut n_trained, mut n_left) = (0, 0);
        let not_begun = std::iter::repeat_with(|| Ok(false));
        for (planned, is_finished) in shared.planned.iter().zip(ended.into_iter().chain(not_begun)) {
            let mut counts = row_counts(&planned.parts.counts, false);
            if is_finished? {
                n_trained += 1;
            } else {
                n_left += 1;
                (counts.n_left, counts.n_out) = (counts.n_out, 0);
            }
            add(&mut report.rows, counts);
        }
        report.interrupted = n_left > 0;
        report.summary = format!("{n_trained} runs trained");
        if n_left > 0 {
            report
                .summary
                .push_str(&format!(", {n_left} stopped; their state is saved, and the same command continues them"));
        }
        if report.rows.n_rejected > 0 {
            report.summary.push_str(&format!(", {} rows of their splits left out", report.rows.n_rejected));
        }
        Ok(report)
    }

    fn warn_of_data(&self, shared: &Shared, context: &StageContext) {
        for Planned { run, parts, .. } in &shared.planned {
            let n_left_out = row_counts(&parts.counts, false).n_rejected;
            if n_left_out > 0 {
                context.console.warn(format!("run {run}: {n_left_out} images of its split are left out"));
            }
            let validation_mos = shared.data.mos_of(&parts.rows[Part::Validation as usize]);
            if is_constant(&validation_mos) {
                context.console.warn(format!(
                    "run {run}: the {} validation images all have the same MOS, so SRCC and PLCC are undefined; the epoch \
                     is chosen by the squared error",
                    validation_mos.len()
                ));
            }
        }
    }

    /// Trains the runs at the recipe's pace. Returns for each run whether it is finished. With [`Pace::InTurn`],
    /// training ends with the first run that fails or is interrupted.
    fn train_all(&self, shared: &Shared, context: &StageContext, progress: &Progress) -> Vec<Result<bool, TrainError>> {
        let planned = &shared.planned;
        let data: Vec<RunData<'_>> = planned.iter().map(|planned| self.run_data(shared, planned, context)).collect();
        let queue = Mutex::new(data.into_iter().zip(planned).enumerate());
        let ended = Mutex::new(BTreeMap::new());
        let train_next = || {
            let next = queue.lock().expect("no holder of this lock panics").next();
            let (index, (data, planned)) = next?;
            let result = self.train_one(planned, &data, context, progress);
            let is_finished = matches!(result, Ok(true));
            ended.lock().expect("no holder of this lock panics").insert(index, result);
            Some(is_finished)
        };
        match self.recipe.pace() {
            Pace::InTurn { .. } => while train_next() == Some(true) {},
            Pace::SideBySide => {
                let n_torch_threads = tch::get_num_threads();
                // These are separate threads, not rayon's: the number of torch threads is a property of a thread and
                // would persist.
                std::thread::scope(|scope| {
                    for _ in 0..context.n_threads.clamp(1, planned.len().max(1)) {
                        scope.spawn(|| {
                            tch::set_num_threads(1);
                            while train_next().is_some() {}
                        });
                    }
                });
                tch::set_num_threads(n_torch_threads);
            }
        }
        ended.into_inner().expect("no holder of this lock panics").into_values().collect()
    }

    /// Trains and records one run. Returns false if it was interrupted.
    fn train_one(
        &self,
        planned: &Planned,
        data: &RunData<'_>,
        context: &StageContext,
        progress: &Progress,
    ) -> Result<bool, TrainError> {
        match self.recipe.learn(data, context, progress)? {
            Some(finished) => self.record(planned, finished, context).map(|()| true),
            None => Ok(false),
        }
    }

    /// Writes the record of a finished run. The record must be the run's last file.
    fn record(&self, planned: &Planned, finished: Finished, context: &StageContext) -> Result<(), TrainError> {
        let Planned { run, seed, fingerprint, fold, parts } = planned;
        let Finished { exported, chosen_by, best_epoch, epochs } = finished;
        let record = RunRecord {
            schema_version: models::RECORD_VERSION,
            run: run.clone(),
            group: self.plan()?.group_name(seed)?,
            dataset: self.dataset.clone(),
            split: seed.split.clone(),
            fold: *fold,
            seed: seed.seed,
            fingerprint: *fingerprint,
            recipe: R::NAME.to_owned(),
            inputs: exported.inputs,
            settings: self.recipe.deciding(&self.settings),
            parts: parts.counts,
            chosen_by: chosen_by.to_owned(),
            best_epoch,
            epochs,
            ridge: exported.ridge,
            kernel_ridge: exported.kernel_ridge,
            agiqa_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        context.console.info(in_one_line(&record));
        record.write(&context.store)?;
        context.store.delete(&models::state_path(run))?;
        Ok(())
    }
}

/// One line about a finished run.
fn in_one_line(record: &RunRecord) -> String {
    let RunRecord { run, best_epoch, epochs, ridge, kernel_ridge, .. } = record;
    let mut line = match kernel_ridge {
        Some(KernelRidgeRecord { strength, n_support, .. }) => {
            format!("run {run}: strength {strength} kept by leave-one-out, {n_support} support images")
        }
        None => format!("run {run}: epoch {best_epoch} of {} kept", epochs.len()),
    };
    if let Some(epoch) = epochs.get(*best_epoch as usize - 1) {
        let (srcc, plcc) = (in_words(epoch.validation_srcc), in_words(epoch.validation_plcc));
        line.push_str(&format!(", validation SRCC {srcc}, PLCC {plcc}"));
    }
    if let Some(ridge) = ridge {
        let (srcc, plcc) = (in_words(ridge.validation_srcc), in_words(ridge.validation_plcc));
        line.push_str(&format!("; ridge (λ {}): SRCC {srcc}, PLCC {plcc}", ridge.lambda));
    }
    line
}
