//! One run: one split, one seed, one thread.

use std::collections::BTreeMap;
use std::time::Instant;

use tch::Tensor;

use super::data::PartRows;
use super::optimiser::Adam;
use super::random::Draws;
use super::recipes::ridge;
use super::state::{self, Best, Position};
use super::{KeepEpoch, Labels, TrainSettings, step};
use agiqa_judge::metrics;
use agiqa_nets::fusion::{FusionConfig, FusionHead, ProjectionMasks};
use agiqa_nets::trained_head::{LabelScale, Standardisation, TrainedHead};
use agiqa_store::console::Progress;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::StageContext;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, EpochRecord, RidgeRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::train_log::TrainLogRow;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The loss became infinite or NaN.
    #[error(
        "run `{run}` diverged: the loss of step {step} (epoch {epoch}) is {loss}, at learning rate {learning_rate:e}, on the \
         images {images}; try a lower learning rate, or `standardise = true`"
    )]
    Diverged {
        /// The run.
        run: PartitionName,
        /// Step, from 1.
        step: u64,
        /// Epoch, from 1.
        epoch: u32,
        /// The loss.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// Ids of the batch's images.
        images: String,
    },
    /// Ridge regression failed.
    #[error("run `{run}`: ridge regression failed")]
    Ridge {
        /// The run.
        run: PartitionName,
        /// Cause.
        source: tch::TchError,
    },
}

/// What a run works on; owns its handles on the shared tensors, so that it can move to a thread.
pub(super) struct Job {
    pub(super) run: PartitionName,
    pub(super) seed: u32,
    pub(super) fingerprint: Fingerprint,
    pub(super) config: FusionConfig,
    pub(super) inputs: [Tensor; 3],
    pub(super) parts: PartRows,
    pub(super) train_mos: Vec<f64>,
    pub(super) validation_mos: Vec<f64>,
}

/// How a run ended.
pub(super) enum Outcome {
    /// Head and ridge scores are written; the record is the caller's to write, last.
    Finished(Finished),
    /// The state is written.
    Interrupted,
}

/// What a finished run found.
pub(super) struct Finished {
    pub(super) chosen_by: String,
    pub(super) best_epoch: u32,
    pub(super) epochs: Vec<EpochRecord>,
    pub(super) log: Vec<TrainLogRow>,
    pub(super) ridge: Option<RidgeRecord>,
}

/// What an epoch or a λ is worth: SRCC + PLCC on the validation part, or, where the MOS there are all equal and these are
/// undefined, the negative mean squared error. Scores that are all equal are worth less than any others.
pub(super) fn selection_score(srcc: Option<f64>, plcc: Option<f64>, scores: &[f64], mos: &[f64]) -> f64 {
    if is_constant(mos) {
        return -mean_squared_error(scores, mos);
    }
    match (srcc, plcc) {
        (Some(srcc), Some(plcc)) => srcc + plcc,
        _ => f64::MIN,
    }
}

pub(super) fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

pub(super) fn mean_squared_error(scores: &[f64], mos: &[f64]) -> f64 {
    scores.iter().zip(mos).map(|(score, mos)| (score - mos).powi(2)).sum::<f64>() / mos.len() as f64
}

/// Scale of the labels that a training learns, given those of its training part.
pub(super) fn label_scale(labels: Labels, train_mos: &[f64]) -> LabelScale {
    let n_train = train_mos.len();
    match labels {
        Labels::Raw => LabelScale { scale: 1.0, offset: 0.0 },
        Labels::Standardised => {
            let mean = train_mos.iter().sum::<f64>() / n_train as f64;
            let variance = train_mos.iter().map(|mos| (mos - mean).powi(2)).sum::<f64>() / n_train as f64;
            // Equal labels have no scale; the head then learns their mean.
            LabelScale { scale: if variance > 0.0 { variance.sqrt() } else { 1.0 }, offset: mean }
        }
    }
}

/// Trains `job`, going on from its saved state where there is one.
pub(super) fn train(
    job: &Job,
    image_ids: &[ImageId],
    settings: &TrainSettings,
    context: &StageContext,
    progress: &Progress,
) -> Result<Outcome, RunError> {
    let _no_grad = tch::no_grad_guard();
    let trainer = Trainer::new(job, settings);
    let n_epochs = settings.epochs;
    let (mut head, mut adam, mut position) = trainer.start(&context.store, context)?;
    progress.add(position.epochs.len() as u64);
    while (position.epochs.len() as u32) < n_epochs {
        if !trainer.epoch(&mut head, &mut adam, &mut position, context, image_ids)? {
            let bytes = state::to_bytes(job.fingerprint, &head.parameters(), &adam, &position);
            context.store.put(&models::state_path(&job.run), bytes)?;
            return Ok(Outcome::Interrupted);
        }
        progress.add(1);
        let n_done = position.epochs.len() as u32;
        if n_done.is_multiple_of(settings.checkpoint_epochs) && n_done < n_epochs {
            let bytes = state::to_bytes(job.fingerprint, &head.parameters(), &adam, &position);
            context.store.put(&models::state_path(&job.run), bytes)?;
        }
    }
    let (kept, best_epoch, chosen_by) = trainer.kept(&head, &adam, &position);
    context.store.put(&models::head_path(&job.run), kept.to_bytes())?;
    let ridge = if settings.ridge { Some(trainer.ridge(&context.store, image_ids)?) } else { None };
    let log = trainer.log(&position);
    Ok(Outcome::Finished(Finished { chosen_by, best_epoch, epochs: position.epochs, log, ridge }))
}

/// What stays the same over a run.
struct Trainer<'a> {
    job: &'a Job,
    settings: &'a TrainSettings,
    draws: Draws,
    inputs: [Standardisation; 3],
    labels: LabelScale,
    targets: Tensor,
    validation: [Tensor; 3],
    n_train: usize,
    n_steps_per_epoch: u64,
    started: Instant,
}

impl<'a> Trainer<'a> {
    fn new(job: &'a Job, settings: &'a TrainSettings) -> Self {
        let n_train = job.train_mos.len();
        let [train, validation, _test] = &job.parts.rows;
        let train_rows = Tensor::from_slice(train);
        let validation_rows = Tensor::from_slice(validation);
        let standardise = |xs: &Tensor| {
            if settings.standardise {
                Standardisation::fit(&xs.index_select(0, &train_rows))
            } else {
                Standardisation::identity(xs.size()[1])
            }
        };
        let labels = label_scale(settings.labels, &job.train_mos);
        let targets: Vec<f32> = job.train_mos.iter().map(|mos| ((mos - labels.offset) / labels.scale) as f32).collect();
        let [f_a, f_b, f_1] = &job.inputs;
        Self {
            job,
            settings,
            draws: Draws::new(job.seed),
            inputs: [standardise(f_a), standardise(f_b), standardise(f_1)],
            labels,
            targets: Tensor::from_slice(&targets),
            validation: [f_a, f_b, f_1].map(|xs| xs.index_select(0, &validation_rows)),
            n_train,
            n_steps_per_epoch: n_train.div_ceil(settings.batch_size as usize) as u64,
            started: Instant::now(),
        }
    }

    /// Head, optimiser and position as the saved state has them, or as a training begins.
    fn start(&self, store: &Store, context: &StageContext) -> Result<(FusionHead, Adam, Position), RunError> {
        let TrainSettings { optimiser, weight_decay, weight_average, .. } = *self.settings;
        let job = self.job;
        if let Some(bytes) = store.get_if_exists(&models::state_path(&job.run))? {
            if let Some(state) = state::from_bytes(&bytes, job.fingerprint) {
                let step = state.adam.n_steps;
                context.console.info(format!("run {}: goes on after step {step}", job.run));
                let parameters = state.parameters.try_into().expect("as many tensors as names");
                let head = FusionHead::new(job.config, parameters);
                let adam = Adam::resume(optimiser, weight_decay, weight_average, &head.parameters(), state.adam);
                return Ok((head, adam, state.position));
            }
            context.console.warn(format!(
                "run {}: the saved state is of other settings or data, or damaged; training starts again",
                job.run
            ));
        }
        // Standardised labels have mean 0, and the output should start there.
        let output_bias = (self.settings.labels == Labels::Standardised).then_some(0.0);
        let head = self.draws.head(job.config, output_bias);
        let adam = Adam::new(optimiser, weight_decay, weight_average, &head.parameters());
        Ok((head, adam, Position::default()))
    }

    /// Trains to the end of the current epoch and validates; false where it was interrupted before that.
    fn epoch(
        &self,
        head: &mut FusionHead,
        adam: &mut Adam,
        position: &mut Position,
        context: &StageContext,
        image_ids: &[ImageId],
    ) -> Result<bool, RunError> {
        let epoch = position.epochs.len() as u64;
        let order = self.draws.order(epoch, self.n_train);
        let batch_size = self.settings.batch_size as usize;
        let n_done = (adam.n_steps() - epoch * self.n_steps_per_epoch) as usize;
        for batch in order.chunks(batch_size).skip(n_done) {
            if context.interrupt.is_raised() {
                return Ok(false);
            }
            self.step(head, adam, position, batch, image_ids)?;
        }
        let evaluated = self.evaluated(head, adam);
        let scores = evaluated.score(&self.validation).score;
        let mos = &self.job.validation_mos;
        let (validation_srcc, validation_plcc) = (metrics::srcc(&scores, mos), metrics::plcc(&scores, mos));
        let score = selection_score(validation_srcc, validation_plcc, &scores, mos);
        let number = epoch as u32 + 1;
        position.epochs.push(EpochRecord {
            epoch: number,
            train_loss: position.loss_sum / self.n_train as f64,
            validation_srcc,
            validation_plcc,
            validation_mse: mean_squared_error(&scores, mos),
        });
        position.loss_sum = 0.0;
        position.seconds.push(position.seconds_before + self.started.elapsed().as_secs_f64());
        if self.settings.keep_epoch == KeepEpoch::Best && position.best.as_ref().is_none_or(|best| score > best.score) {
            let parameters = evaluated.head.parameters().iter().map(|parameter| parameter.copy()).collect();
            position.best = Some(Best { score, epoch: number, parameters });
        }
        Ok(true)
    }

    /// One row per epoch.
    fn log(&self, position: &Position) -> Vec<TrainLogRow> {
        let settings = self.settings;
        let n_steps = self.n_steps_per_epoch * u64::from(settings.epochs);
        let row = |(epoch, seconds): (&EpochRecord, &f64)| {
            let step = u64::from(epoch.epoch) * self.n_steps_per_epoch;
            TrainLogRow {
                epoch: epoch.epoch,
                step,
                lr: settings.schedule.learning_rate(settings.learning_rate, step - 1, n_steps),
                n_images: self.n_train as u64,
                loss: epoch.train_loss,
                validation_srcc: epoch.validation_srcc,
                validation_plcc: epoch.validation_plcc,
                validation_mse: Some(epoch.validation_mse),
                seconds: *seconds,
            }
        };
        position.epochs.iter().zip(&position.seconds).map(row).collect()
    }

    fn step(
        &self,
        head: &mut FusionHead,
        adam: &mut Adam,
        position: &mut Position,
        batch: &[i64],
        image_ids: &[ImageId],
    ) -> Result<(), RunError> {
        let settings = self.settings;
        let number = adam.n_steps();
        let n_steps = self.n_steps_per_epoch * u64::from(settings.epochs);
        let learning_rate = settings.schedule.learning_rate(settings.learning_rate, number, n_steps);
        let train = &self.job.parts.rows[Part::Train as usize];
        let rows: Vec<i64> = batch.iter().map(|i| train[*i as usize]).collect();
        let row_tensor = Tensor::from_slice(&rows);
        let n = batch.len() as i64;
        let input = |i: usize| {
            let xs = self.inputs[i].apply(&self.job.inputs[i].index_select(0, &row_tensor));
            if settings.input_dropout == 0.0 {
                return xs;
            }
            let dim = xs.size()[1];
            xs * self.draws.mask(number, i as u64, settings.input_dropout, [n, dim])
        };
        let inputs = [input(0), input(1), input(2)];
        let masks = (settings.dropout > 0.0).then(|| {
            let [semantic, coherence, _] = self.job.config.projected();
            let mask = |index, width| self.draws.mask(number, index, settings.dropout, [n, width]);
            ProjectionMasks { semantic: mask(3, semantic), coherence: mask(4, coherence) }
        });
        let targets = self.targets.index_select(0, &Tensor::from_slice(batch));
        let sum = step::step(head, adam, &inputs, masks.as_ref(), &targets, learning_rate).sum;
        if !sum.is_finite() {
            let ids: Vec<String> = rows.iter().map(|row| image_ids[*row as usize].to_string()).collect();
            return Err(RunError::Diverged {
                run: self.job.run.clone(),
                step: number + 1,
                epoch: position.epochs.len() as u32 + 1,
                loss: sum / n as f64,
                learning_rate,
                images: ids.join(", "),
            });
        }
        position.loss_sum += sum;
        Ok(())
    }

    fn trained(&self, parameters: &[Tensor]) -> TrainedHead {
        let parameters: Vec<Tensor> = parameters.iter().map(Tensor::shallow_clone).collect();
        let head = FusionHead::new(self.job.config, parameters.try_into().expect("as many tensors as names"));
        let [f_a, f_b, f_1] = &self.inputs;
        TrainedHead { head, inputs: [f_a.share(), f_b.share(), f_1.share()], labels: self.labels }
    }

    /// The head that is validated: the averaged one where weights are averaged.
    fn evaluated(&self, head: &FusionHead, adam: &Adam) -> TrainedHead {
        let [_, _, average] = adam.state();
        if average.is_empty() {
            let parameters = head.parameters().map(Tensor::shallow_clone);
            self.trained(&parameters)
        } else {
            self.trained(average)
        }
    }

    /// The head to keep, its epoch and what it was chosen by.
    fn kept(&self, head: &FusionHead, adam: &Adam, position: &Position) -> (TrainedHead, u32, String) {
        match &position.best {
            Some(Best { score: _, epoch, parameters }) => {
                let constant = is_constant(&self.job.validation_mos);
                let chosen_by = if constant { "validation MSE" } else { "validation SRCC + PLCC" };
                (self.trained(parameters), *epoch, chosen_by.to_owned())
            }
            None => (self.evaluated(head, adam), self.settings.epochs, "last".to_owned()),
        }
    }

    fn ridge(&self, store: &Store, image_ids: &[ImageId]) -> Result<RidgeRecord, RunError> {
        let job = self.job;
        let [train, validation, _test] = &job.parts.rows;
        let (scores, record) = ridge::fit(&job.inputs, train, validation, &job.train_mos, &job.validation_mos)
            .map_err(|source| RunError::Ridge { run: job.run.clone(), source })?;
        let by_id: BTreeMap<ImageId, f64> = image_ids.iter().copied().zip(scores).collect();
        let json = serde_json::to_vec(&by_id).expect("ids and numbers are plain data");
        store.put(&models::ridge_path(&job.run), json)?;
        Ok(record)
    }
}
