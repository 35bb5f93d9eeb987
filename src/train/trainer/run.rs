//! One run: one split, one seed.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::time::Instant;

use tch::{Device, Tensor};

use super::selection::{self, Best};
use super::state::{self, LossSum, Position};
use super::{Batch, Course, Exported, Lesson, Pace, RecipeError, RunData, StepLoss, TrainError, Validated, Weights};
use crate::engine::Input;
use crate::features::catching;
use crate::train::KeepEpoch;
use crate::train::in_order::in_order;
use crate::train::pictures::{PicturesError, stacked};
use agiqa_store::console::Progress;
use agiqa_store::stage::StageContext;
use agiqa_store::tables::models::{self, EpochRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::train_log::{self, TrainLogRow};

/// Steps between two rows of the log, if epochs take minutes.
const LOG_STEPS: u64 = 10;

/// The results of a finished run.
pub struct Finished {
    /// What the run leaves.
    pub exported: Exported,
    /// The criterion that chose what is kept.
    pub chosen_by: &'static str,
    /// The epoch that is kept, from 1.
    pub best_epoch: u32,
    /// All epochs.
    pub epochs: Vec<EpochRecord>,
}

/// Trains one run, resuming from its saved state if it has one. Returns `None` if the run was interrupted; its state is
/// then saved.
///
/// # Errors
/// Fails if the recipe or the store fails, or if the training diverges.
pub fn by_steps<C: Course>(
    recipe: &C,
    data: &RunData<'_>,
    context: &StageContext,
    progress: &Progress,
) -> Result<Option<Finished>, TrainError> {
    let lesson = recipe.lesson(data)?;
    let n_steps = n_steps_per_epoch(data) * u64::from(data.settings.epochs);
    let now = Instant::now();
    let run = Run {
        pace: recipe.pace(),
        n_warmup_steps: recipe.warmup_steps(n_steps),
        targets: data.targets_on(recipe.label_scale(data)),
        lesson: &lesson,
        data,
        context,
        progress,
        started: now,
        saved: Cell::new(now),
        unknown: RefCell::default(),
    };
    let (mut weights, mut position) = run.start()?;
    let network = lesson.network(weights.parameters()).map_err(RecipeError::from)?;
    progress.add(position.epochs.len() as u64 * run.n_train() as u64 + position.epoch_loss.n_images);
    let n_epochs = data.settings.epochs;
    while (position.epochs.len() as u32) < n_epochs {
        let ended = run.epoch(&network, &mut weights, &mut position)?;
        if ended.is_break() {
            run.save(&weights, &position)?;
            return Ok(None);
        }
        if run.pace.saves_after(position.epochs.len() as u32, data.settings, run.minutes_unsaved()) {
            run.save(&weights, &position)?;
        }
    }
    run.finish(&weights, position).map(Some)
}

/// The values that stay constant during a run.
struct Run<'a, L> {
    lesson: &'a L,
    data: &'a RunData<'a>,
    context: &'a StageContext,
    progress: &'a Progress,
    pace: Pace,
    n_warmup_steps: u64,
    /// Labels of the training part on the scale of training.
    targets: Tensor,
    started: Instant,
    /// The time of the last saved state.
    saved: Cell<Instant>,
    /// Steps whose losses are on a GPU.
    unknown: RefCell<Vec<(DoneStep, Tensor)>>,
}

/// A step that is done.
struct DoneStep {
    /// Number of the step, from 1.
    step: u64,
    learning_rate: f64,
    /// Rows of its images.
    rows: Vec<i64>,
}

impl<L: Lesson> Run<'_, L> {
    /// Weights and position from the saved state, or from the beginning of the training.
    fn start(&self) -> Result<(Weights, Position), TrainError> {
        let (run, console) = (&self.data.run, &self.context.console);
        let path = models::state_path(run);
        // A state is large, and each kill during a write leaves a partial file.
        self.context.store.delete_half_written(&path)?;
        let bytes = self.context.store.get_if_exists(&path)?;
        let resumed = bytes.as_ref().and_then(|bytes| state::from_bytes(bytes, self.data.state_fingerprint));
        let (tensors, notes) = self.lesson.initial()?;
        match (&bytes, &resumed) {
            (_, Some((saved, _))) => console.info(format!("run {run}: continues after step {}", saved.n_steps)),
            (Some(_), None) => console.warn(format!(
                "run {run}: the saved state belongs to other settings or data, or is damaged; training starts again"
            )),
            (None, None) => {}
        }
        if resumed.is_none() {
            notes.iter().for_each(|note| console.info(format!("run {run}: {note}")));
        }
        let saved = resumed.as_ref().map(|(saved, _)| saved);
        let (lesson, settings) = (self.lesson, self.data.settings);
        let weights = Weights::new(&tensors, lesson, settings, saved);
        if matches!(self.pace, Pace::InTurn { .. }) {
            let (n_tensors, n_values) = weights.n_trained();
            let (millions, device) = (n_values as f64 / 1e6, lesson.device());
            console.info(format!(
                "run {run}: {n_tensors} tensors of {millions:.1} million values are trained, on {device:?}"
            ));
        }
        Ok((weights, resumed.map(|(_, position)| position).unwrap_or_default()))
    }

    fn n_train(&self) -> usize {
        self.data.train_mos.len()
    }

    fn n_steps_per_epoch(&self) -> u64 {
        n_steps_per_epoch(self.data)
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let settings = self.data.settings;
        let n_steps = self.n_steps_per_epoch() * u64::from(settings.epochs);
        let rate = settings.schedule.learning_rate(settings.learning_rate, step, n_steps, settings.epochs);
        let n_warmup = self.n_warmup_steps;
        if step < n_warmup { rate * (step + 1) as f64 / (n_warmup + 1) as f64 } else { rate }
    }

    /// Working time in seconds, over all sessions.
    fn seconds(&self, position: &Position) -> f64 {
        position.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Refuses infinite and NaN weights.
    fn check_weights(&self, weights: &Weights) -> Result<(), TrainError> {
        if weights.is_finite() {
            return Ok(());
        }
        let (run, step) = (self.data.run.clone(), weights.n_steps());
        let learning_rate = self.learning_rate(step.saturating_sub(1));
        let sign = format!(
            "its weights are not finite numbers after step {step}, at learning rate {learning_rate:e}; the last good state stays"
        );
        Err(TrainError::Diverged { run, sign })
    }

    /// Minutes since the last saved state, or since the start.
    fn minutes_unsaved(&self) -> f64 {
        self.saved.get().elapsed().as_secs_f64() / 60.0
    }

    /// Writes the state and the log so far. Infinite or NaN weights must not replace the last good state.
    fn save(&self, weights: &Weights, position: &Position) -> Result<(), TrainError> {
        self.check_weights(weights)?;
        let (store, run) = (&self.context.store, &self.data.run);
        train_log::write(store, run, &position.log, self.data.fingerprint)?;
        let seconds = self.seconds(position);
        let bytes = state::to_bytes(self.data.state_fingerprint, weights.saved(), position, seconds);
        store.put(&models::state_path(run), bytes)?;
        self.saved.set(Instant::now());
        Ok(())
    }

    /// Trains to the end of the current epoch and validates. Breaks if it was interrupted earlier.
    fn epoch(
        &self,
        network: &L::Network,
        weights: &mut Weights,
        position: &mut Position,
    ) -> Result<ControlFlow<()>, TrainError> {
        let (data, started) = (self.data, Instant::now());
        let epoch = position.epochs.len() as u64;
        let order = data.draws.order(epoch, self.n_train());
        let n_done = (weights.n_steps() - epoch * self.n_steps_per_epoch()) as usize;
        let batches: Vec<&[i64]> = order.chunks(data.settings.batch_size as usize).skip(n_done).collect();
        let mut train_on = |i: usize, inputs: Option<Vec<Input>>| {
            if self.context.interrupt.is_raised() {
                return Ok(ControlFlow::Break(()));
            }
            self.step(network, weights, position, batches[i], inputs)?;
            if i + 1 < batches.len() {
                self.within_epoch(weights, position)?;
            }
            Ok::<_, TrainError>(ControlFlow::Continue(()))
        };
        let ended = match data.pictures {
            None => (0..batches.len()).try_fold(ControlFlow::Continue(()), |ended, i| match ended {
                ControlFlow::Continue(()) => train_on(i, None),
                ControlFlow::Break(()) => Ok(ended),
            })?,
            Some(pictures) => {
                // Tensors cannot be shared with other threads.
                let (draws, train_rows) = (data.draws, data.part(Part::Train));
                let inputs = |i: usize| pictures.training_inputs(draws, epoch, train_rows, batches[i]);
                in_order(batches.len(), data.n_threads, inputs, |i, inputs: Result<Vec<Input>, PicturesError>| {
                    train_on(i, Some(inputs?))
                })?
            }
        };
        self.fetch_losses(position)?;
        if ended.is_continue() {
            self.validate(weights, position, started)?;
        }
        Ok(ended)
    }

    /// With [`Pace::InTurn`], adds a row to the log and saves a state whenever one is due.
    fn within_epoch(&self, weights: &Weights, position: &mut Position) -> Result<(), TrainError> {
        let Pace::InTurn { checkpoint_minutes } = self.pace else { return Ok(()) };
        if weights.n_steps().is_multiple_of(LOG_STEPS) {
            self.fetch_losses(position)?;
            let row = self.log_row(weights, position, None);
            self.progress.note(format!("epoch {}, loss {:.4}, rate {:.2e}", row.epoch, row.loss, row.lr));
            position.log.push(row);
            position.stretch_loss = LossSum::default();
        }
        if self.minutes_unsaved() >= checkpoint_minutes {
            self.fetch_losses(position)?;
            self.save(weights, position)?;
        }
        Ok(())
    }

    /// Trains on one batch: positions in the training part, and their pictures if the recipe reads pictures.
    fn step(
        &self,
        network: &L::Network,
        weights: &mut Weights,
        position: &mut Position,
        positions: &[i64],
        inputs: Option<Vec<Input>>,
    ) -> Result<(), TrainError> {
        let (data, step) = (self.data, weights.n_steps());
        let train_rows = data.part(Part::Train);
        let rows: Vec<i64> = positions.iter().map(|position| train_rows[*position as usize]).collect();
        let learning_rate = self.learning_rate(step);
        let loss = self.catching(step + 1, || {
            let targets = self.targets.index_select(0, &Tensor::from_slice(positions));
            let inputs = inputs.unwrap_or_default();
            let device = self.lesson.device();
            let pixels = stacked(&inputs, device)?;
            let varied = match pixels {
                Some(_) => Vec::new(),
                None => {
                    inputs.chunks(1).filter_map(|one| stacked(one, device).transpose()).collect::<Result<_, _>>()?
                }
            };
            let batch = Batch { step, learning_rate, rows: rows.clone(), targets, pixels, varied };
            self.lesson.step(network, weights, &batch)
        })??;
        self.progress.add(rows.len() as u64);
        let done = DoneStep { step: step + 1, learning_rate, rows };
        match loss {
            StepLoss::Known(sum) => self.count(position, &done, sum)?,
            StepLoss::OnDevice(sum) => self.unknown.borrow_mut().push((done, sum)),
        }
        Ok(())
    }

    /// Counts the losses that are on a GPU.
    fn fetch_losses(&self, position: &mut Position) -> Result<(), TrainError> {
        let unknown = self.unknown.take();
        let Some((last, _)) = unknown.last() else { return Ok(()) };
        let sums = self.catching(last.step, || {
            let sums = Tensor::stack(&unknown.iter().map(|(_, sum)| sum).collect::<Vec<_>>(), 0);
            Vec::<f64>::try_from(sums.to_device(Device::Cpu)).map_err(RecipeError::from)
        })??;
        unknown.iter().zip(sums).try_for_each(|((done, _), sum)| self.count(position, done, sum))
    }

    /// Adds the loss of a step.
    ///
    /// # Errors
    /// The loss is not finite.
    fn count(&self, position: &mut Position, done: &DoneStep, sum: f64) -> Result<(), TrainError> {
        let (data, DoneStep { step, learning_rate, rows }) = (self.data, done);
        if !sum.is_finite() {
            let images: Vec<String> = rows.iter().map(|row| data.image_ids[*row as usize].to_string()).collect();
            let sign = format!(
                "the loss of step {step} (epoch {}) is {}, at learning rate {learning_rate:e}, on the images {}",
                position.epochs.len() + 1,
                sum / rows.len() as f64,
                images.join(", ")
            );
            return Err(TrainError::Diverged { run: data.run.clone(), sign });
        }
        position.epoch_loss.add(sum, rows.len());
        position.stretch_loss.add(sum, rows.len());
        Ok(())
    }

    /// Runs `compute` and turns a panic of torch into an error.
    fn catching<T>(&self, step: u64, compute: impl FnOnce() -> T) -> Result<T, TrainError> {
        catching(compute).map_err(|source| TrainError::Torch { run: self.data.run.clone(), step, source })
    }

    /// A row of the log for the steps since the last row. If the epoch has ended, the row also has its validation.
    fn log_row(&self, weights: &Weights, position: &Position, ended: Option<&EpochRecord>) -> TrainLogRow {
        TrainLogRow {
            epoch: ended.map_or(position.epochs.len() as u32 + 1, |record| record.epoch),
            step: weights.n_steps(),
            lr: self.learning_rate(weights.n_steps() - 1),
            n_images: position.stretch_loss.n_images,
            loss: position.stretch_loss.mean(),
            validation_srcc: ended.and_then(|record| record.validation_srcc),
            validation_plcc: ended.and_then(|record| record.validation_plcc),
            validation_mse: ended.map(|record| record.validation_mse),
            seconds: self.seconds(position),
        }
    }

    /// Scores the validation part and closes the epoch.
    fn validate(&self, weights: &Weights, position: &mut Position, started: Instant) -> Result<(), TrainError> {
        let (data, console) = (self.data, &self.context.console);
        self.check_weights(weights)?;
        let trained = weights.evaluated();
        let network = self.lesson.network(&weights.with(&trained)).map_err(RecipeError::from)?;
        let Validated { scores, notes, warnings } =
            self.catching(weights.n_steps(), || self.lesson.validate(&network))??;
        let epoch = position.epochs.len() as u32 + 1;
        let (record, score) = selection::judged(epoch, position.epoch_loss.mean(), &scores, &data.validation_mos);
        if matches!(self.pace, Pace::InTurn { .. }) {
            let (srcc, plcc) = (in_words(record.validation_srcc), in_words(record.validation_plcc));
            console.info(format!(
                "run {}: epoch {epoch} of {}: loss {:.4}, validation SRCC {srcc}, PLCC {plcc}, MSE {:.4}, {:.0} s",
                data.run,
                data.settings.epochs,
                record.train_loss,
                record.validation_mse,
                started.elapsed().as_secs_f64()
            ));
        }
        notes.iter().for_each(|note| console.info(format!("run {}: {note}", data.run)));
        warnings.iter().for_each(|warning| console.warn(format!("run {}: {warning}", data.run)));
        position.log.push(self.log_row(weights, position, Some(&record)));
        position.epochs.push(record);
        if data.settings.keep_epoch == KeepEpoch::Best && position.best.as_ref().is_none_or(|best| score > best.score) {
            position.best = Some(Best { score, epoch, trained });
        }
        position.epoch_loss = LossSum::default();
        position.stretch_loss = LossSum::default();
        Ok(())
    }

    /// Writes the files that the run leaves: the network of the kept epoch, and the log.
    fn finish(&self, weights: &Weights, position: Position) -> Result<Finished, TrainError> {
        let (data, store) = (self.data, &self.context.store);
        let Position { epochs, log, best, .. } = position;
        let (trained, best_epoch, chosen_by) = match best {
            Some(Best { score: _, epoch, trained }) => (trained, epoch, selection::criterion(&data.validation_mos)),
            None => (weights.evaluated(), data.settings.epochs, "last"),
        };
        let tensors = weights.with(&trained).into_iter();
        let tensors = tensors.map(|(name, tensor)| (name, tensor.to_device(Device::Cpu))).collect();
        let exported = self.lesson.export(tensors, store)?;
        train_log::write(store, &data.run, &log, self.data.fingerprint)?;
        Ok(Finished { exported, chosen_by, best_epoch, epochs })
    }
}

fn n_steps_per_epoch(data: &RunData<'_>) -> u64 {
    data.train_mos.len().div_ceil(data.settings.batch_size as usize) as u64
}

/// A metric for people.
pub(crate) fn in_words(metric: Option<f64>) -> String {
    metric.map_or("undefined".to_owned(), |value| format!("{value:.4}"))
}
