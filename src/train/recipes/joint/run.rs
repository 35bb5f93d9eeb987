//! One joint run: one split, one seed.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::JointSettings;
use super::learner::{Learner, MicroBatch, OptimiserSettings, RatingTarget};
use super::start::StartError;
use super::state::{self, Best, Position};
use crate::engine::EngineError;
use crate::features::{SettingsError as FeatureSettingsError, catching};
use crate::train::augment::Motion;
use crate::train::data::{DataError, PartRows};
use crate::train::initial::initial;
use crate::train::pictures::{Pictures, PicturesError, in_order};
use crate::train::random::Draws;
use crate::train::run::{RunError, label_scale, mean_squared_error, selection_score};
use crate::train::stage::said;
use crate::train::{KeepEpoch, TrainSettings};
use agiqa_judge::metrics;
use agiqa_nets::fusion::ProjectionMasks;
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::ma_agiqa::{MaAgiqa, MaAgiqaConfig};
use agiqa_nets::maniqa::Mode;
use agiqa_nets::trained_head::{LabelScale, Standardisation};
use agiqa_store::console::Progress;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::StageContext;
use agiqa_store::store::StoreError;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, EpochRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::train_log::{self, TrainLogRow};

mod finish;

/// Steps between two rows of the log.
const LOG_STEPS: u64 = 10;

/// Images per forward pass of validation: more gain nothing on a CPU, and a GPU wants much to do at once.
const CPU_BATCH: usize = 2;
const GPU_BATCH: usize = 16;

/// Share of the values of f_1 above 0 below which nothing is left to learn from.
const LEAST_F_1_SHARE: f64 = 0.01;

/// A joint training that cannot be done or go on.
#[derive(Debug, thiserror::Error)]
pub enum JointError {
    /// Weights that cannot be started from.
    #[error("cannot start from the weights")]
    Start(#[from] StartError),
    /// The device or number type is not there.
    #[error(transparent)]
    Device(#[from] FeatureSettingsError),
    /// The network could not be built.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Inputs are missing or do not fit together.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Image files that cannot be read.
    #[error(
        "{n} of {n_images} images that training reads cannot be used; the first: {first}; bring the files back or ingest \
         again, or set `allow_missing = true` to leave these images out"
    )]
    Images {
        /// How many.
        n: usize,
        /// Of how many.
        n_images: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// Resized images could not be kept or read back.
    #[error(transparent)]
    Pictures(#[from] PicturesError),
    /// The run diverged.
    #[error(transparent)]
    Run(#[from] RunError),
    /// libtorch failed, e.g. for want of memory.
    #[error("run `{run}`: step {step} failed; a smaller `micro_batch` needs less memory and gives the same batch")]
    Torch {
        /// The run.
        run: PartitionName,
        /// Step, from 1.
        step: u64,
        /// Cause.
        #[source]
        source: tch::TchError,
    },
    /// The weights became infinite or NaN.
    #[error(
        "run `{run}` diverged: its weights are no numbers after step {step}, at learning rate {learning_rate:e}; the last \
         good state stays; try a lower learning rate, or `standardise = true`"
    )]
    Weights {
        /// The run.
        run: PartitionName,
        /// Steps done.
        step: u64,
        /// Learning rate of the last step.
        learning_rate: f64,
    },
    /// The trained network could not be applied.
    #[error("run `{run}`: features of the trained network")]
    Features {
        /// The run.
        run: PartitionName,
        /// Cause.
        #[source]
        source: Box<EngineError>,
    },
    /// A table could not be written or read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder for the trained network, where the store is none.
    #[error("cannot make a temporary folder for the trained network")]
    Temporary(#[source] std::io::Error),
}

/// What a run works on.
pub(super) struct Job<'a> {
    pub(super) run: PartitionName,
    /// Whose images the trained network is applied to.
    pub(super) dataset: &'a PartitionName,
    pub(super) seed: u32,
    pub(super) fingerprint: Fingerprint,
    /// Of what a saved state belongs to.
    pub(super) state_fingerprint: Fingerprint,
    pub(super) config: &'a MaAgiqaConfig,
    pub(super) known: &'a NamedTensors,
    pub(super) device: Device,
    pub(super) pictures: &'a Pictures,
    /// Position among the pictures of each row of the features; none where no part reads it.
    pub(super) picture_of: &'a [Option<usize>],
    pub(super) image_ids: &'a [ImageId],
    /// `(n, d)`, raw; d is 0 where the head does not read it.
    pub(super) f_a: &'a Tensor,
    /// `(n, d)`, raw; d is 0 where the head does not read it.
    pub(super) f_b: &'a Tensor,
    pub(super) parts: PartRows,
    pub(super) train_mos: Vec<f64>,
    pub(super) validation_mos: Vec<f64>,
}

/// How a run ended.
pub(super) enum Outcome {
    /// Everything is written but the record, which is the caller's to write, last.
    Finished(Box<Finished>),
    /// The state is written.
    Interrupted,
}

/// What a finished run found.
pub(super) struct Finished {
    pub(super) quality: FeatureSet,
    pub(super) chosen_by: String,
    pub(super) best_epoch: u32,
    pub(super) epochs: Vec<EpochRecord>,
}

/// Trains `job`, going on from its saved state where there is one.
pub(super) fn train(
    job: &Job<'_>,
    settings: &TrainSettings,
    joint: &JointSettings,
    context: &StageContext,
    progress: &Progress,
) -> Result<Outcome, JointError> {
    let trainer = Trainer::new(job, settings, joint, context);
    let (mut learner, mut position) = trainer.start()?;
    let (n_tensors, n_values) = learner.n_trained();
    context.console.info(format!(
        "run {}: {n_tensors} tensors of {:.1} million values are trained, on {:?} in {}",
        job.run,
        n_values as f64 / 1e6,
        learner.device(),
        joint.dtype
    ));
    let n_train = job.train_mos.len();
    progress.add(position.epochs.len() as u64 * n_train as u64 + position.epoch_loss.n_images);
    while (position.epochs.len() as u32) < settings.epochs {
        let ended = trainer.epoch(&mut learner, &mut position, progress)?;
        trainer.save(&learner, &position)?;
        if ended.is_break() {
            return Ok(Outcome::Interrupted);
        }
    }
    trainer.finish(&learner, &position)
}

/// What a network gives for some images.
struct Applied {
    /// On the MOS scale.
    scores: Vec<f64>,
    /// MANIQA's own.
    ratings: Vec<f64>,
    /// Share of the values of f_1 that are above 0.
    f_1_share: f64,
}

/// What stays the same over a run.
struct Trainer<'a> {
    job: &'a Job<'a>,
    settings: &'a TrainSettings,
    joint: &'a JointSettings,
    context: &'a StageContext,
    draws: Draws,
    /// Of f_a and f_b.
    inputs: [Standardisation; 2],
    labels: LabelScale,
    /// f_a and f_b of all images, standardised, on the CPU.
    semantic: [Tensor; 2],
    targets: Tensor,
    /// The same for MANIQA's rating, which is 0 or more.
    rating_targets: Tensor,
    started: Instant,
    saved: RefCell<Instant>,
}

impl<'a> Trainer<'a> {
    fn new(job: &'a Job<'a>, settings: &'a TrainSettings, joint: &'a JointSettings, context: &'a StageContext) -> Self {
        let train_rows = Tensor::from_slice(&job.parts.rows[Part::Train as usize]);
        let standardise = |xs: &Tensor| match settings.standardise {
            true => Standardisation::fit(&xs.index_select(0, &train_rows)),
            false => Standardisation::identity(xs.size()[1]),
        };
        let inputs = [standardise(job.f_a), standardise(job.f_b)];
        let labels = label_scale(settings.labels, &job.train_mos);
        let targets: Vec<f32> = job.train_mos.iter().map(|mos| ((mos - labels.offset) / labels.scale) as f32).collect();
        let targets = Tensor::from_slice(&targets);
        let now = Instant::now();
        Self {
            semantic: [inputs[0].apply(job.f_a), inputs[1].apply(job.f_b)],
            draws: Draws::new(job.seed),
            inputs,
            labels,
            rating_targets: &targets - targets.min(),
            targets,
            started: now,
            saved: RefCell::new(now),
            job,
            settings,
            joint,
            context,
        }
    }

    /// Learner and position as the saved state has them, or as a training begins.
    fn start(&self) -> Result<(Learner, Position), JointError> {
        let (job, console) = (self.job, self.context.console);
        let path = models::state_path(&job.run);
        // A state is large, and each kill in the middle of writing one leaves a piece of it.
        self.context.store.delete_half_written(&path)?;
        let mut resumed = None;
        if let Some(bytes) = self.context.store.get_if_exists(&path)? {
            resumed = state::from_bytes(&bytes, job.state_fingerprint);
            match &resumed {
                Some((state, _)) => console.info(format!("run {}: goes on after step {}", job.run, state.n_steps)),
                None => console.warn(format!(
                    "run {}: the saved state is of other settings or data, or damaged; training starts again",
                    job.run
                )),
            }
        }
        let (tensors, drawn) = initial(&job.config.parameters(), job.known, job.seed);
        if resumed.is_none() {
            console.info(format!(
                "run {}: {} tensors from the weights, {} drawn by seed {}",
                job.run,
                tensors.len() - drawn.len(),
                drawn.len(),
                job.seed
            ));
        }
        let settings = self.settings;
        let optimiser = OptimiserSettings {
            kind: settings.optimiser,
            weight_decay: settings.weight_decay,
            weight_average: settings.weight_average,
        };
        let rates = self.joint.rates(job.config.maniqa.vit_config().n_blocks);
        let place = (job.device, self.joint.dtype.kind());
        let state = resumed.as_ref().map(|(state, _)| state);
        let learner = Learner::new(job.config, &tensors, place, rates, optimiser, state)?;
        Ok((learner, resumed.map(|(_, position)| position).unwrap_or_default()))
    }

    fn n_train(&self) -> usize {
        self.job.train_mos.len()
    }

    fn n_steps_per_epoch(&self) -> u64 {
        self.n_train().div_ceil(self.settings.batch_size as usize) as u64
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let settings = self.settings;
        let n_steps = self.n_steps_per_epoch() * u64::from(settings.epochs);
        let rate = settings.schedule.learning_rate(settings.learning_rate, step, n_steps);
        let n_warmup = u64::from(self.joint.warmup_steps);
        if step < n_warmup { rate * (step + 1) as f64 / (n_warmup + 1) as f64 } else { rate }
    }

    /// Seconds at work, over all sessions.
    fn seconds(&self, position: &Position) -> f64 {
        position.seconds + self.started.elapsed().as_secs_f64()
    }

    /// Writes the state and the log so far; refuses weights that are no numbers, which must not replace the last good state.
    fn save(&self, learner: &Learner, position: &Position) -> Result<(), JointError> {
        if !learner.is_finite() {
            let (run, step) = (self.job.run.clone(), learner.n_steps());
            let learning_rate = self.learning_rate(step.saturating_sub(1));
            return Err(JointError::Weights { run, step, learning_rate });
        }
        train_log::write(&self.context.store, &self.job.run, &position.log, self.job.fingerprint)?;
        let position = Position {
            seconds: self.seconds(position),
            epoch_loss: position.epoch_loss,
            stretch_loss: position.stretch_loss,
            epochs: position.epochs.clone(),
            log: position.log.clone(),
            best: position.best.as_ref().map(|best| Best {
                score: best.score,
                epoch: best.epoch,
                trained: best.trained.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
            }),
        };
        let bytes = state::to_bytes(self.job.state_fingerprint, &learner.state(), &position);
        self.context.store.put(&models::state_path(&self.job.run), bytes)?;
        *self.saved.borrow_mut() = Instant::now();
        Ok(())
    }

    /// Trains to the end of the current epoch and validates; breaks where it was interrupted before that.
    fn epoch(
        &self,
        learner: &mut Learner,
        position: &mut Position,
        progress: &Progress,
    ) -> Result<ControlFlow<()>, JointError> {
        let (job, started) = (self.job, Instant::now());
        let epoch = position.epochs.len() as u64;
        let order = self.draws.order(epoch, self.n_train());
        let batch_size = self.settings.batch_size as usize;
        let n_done = (learner.n_steps() - epoch * self.n_steps_per_epoch()) as usize;
        let batches: Vec<&[i64]> = order.chunks(batch_size).skip(n_done).collect();
        let train = &job.parts.rows[Part::Train as usize];
        // Tensors are not for other threads.
        let (pictures, picture_of, draws, augment) = (job.pictures, job.picture_of, self.draws, self.joint.augment);
        let pixels = |i: usize| {
            let moved = |at: &i64| {
                let picture = picture_of[train[*at as usize] as usize].expect("training images have pictures");
                (picture, draws.motion(augment, epoch, *at as u64))
            };
            pictures.inputs(&batches[i].iter().map(moved).collect::<Vec<_>>())
        };
        let n_threads = self.context.n_threads;
        let ended = in_order(batches.len(), n_threads, pixels, |i, pixels: Result<Vec<f32>, PicturesError>| {
            if self.context.interrupt.is_raised() {
                return Ok(ControlFlow::Break(()));
            }
            self.step(learner, position, batches[i], &pixels?)?;
            progress.add(batches[i].len() as u64);
            let is_last = i + 1 == batches.len();
            if learner.n_steps().is_multiple_of(LOG_STEPS) && !is_last {
                let row = self.log_row(learner, position, epoch);
                progress.note(format!("epoch {}, loss {:.4}, rate {:.2e}", row.epoch, row.loss, row.lr));
                position.log.push(row);
                position.stretch_loss = state::LossSum::default();
            }
            let minutes = self.saved.borrow().elapsed().as_secs_f64() / 60.0;
            // At the end of an epoch the caller saves, once it is validated.
            if minutes >= self.joint.checkpoint_minutes && !is_last {
                self.save(learner, position)?;
            }
            Ok::<_, JointError>(ControlFlow::Continue(()))
        })?;
        if ended.is_break() {
            return Ok(ended);
        }
        self.validate(learner, position, epoch, started)?;
        Ok(ControlFlow::Continue(()))
    }

    fn log_row(&self, learner: &Learner, position: &Position, epoch: u64) -> TrainLogRow {
        TrainLogRow {
            epoch: epoch as u32 + 1,
            step: learner.n_steps(),
            lr: self.learning_rate(learner.n_steps() - 1),
            n_images: position.stretch_loss.n_images,
            loss: position.stretch_loss.mean(),
            validation_srcc: None,
            validation_plcc: None,
            validation_mse: None,
            seconds: self.seconds(position),
        }
    }

    /// Scores the validation part and closes the epoch.
    fn validate(
        &self,
        learner: &Learner,
        position: &mut Position,
        epoch: u64,
        started: Instant,
    ) -> Result<(), JointError> {
        let trained = learner.evaluated();
        let network = learner.network_of(&trained)?;
        let rows = &self.job.parts.rows[Part::Validation as usize];
        let Applied { scores, ratings, f_1_share } = self.apply(&network, learner.n_steps(), rows)?;
        let mos = &self.job.validation_mos;
        let (validation_srcc, validation_plcc) = (metrics::srcc(&scores, mos), metrics::plcc(&scores, mos));
        let score = selection_score(validation_srcc, validation_plcc, &scores, mos);
        let record = EpochRecord {
            epoch: epoch as u32 + 1,
            train_loss: position.epoch_loss.mean(),
            validation_srcc,
            validation_plcc,
            validation_mse: mean_squared_error(&scores, mos),
        };
        let mut row = self.log_row(learner, position, epoch);
        row.validation_srcc = validation_srcc;
        row.validation_plcc = validation_plcc;
        row.validation_mse = Some(record.validation_mse);
        self.context.console.info(format!(
            "run {}: epoch {} of {}: loss {:.4}, validation SRCC {}, PLCC {}, MSE {:.4}, {:.0} s",
            self.job.run,
            record.epoch,
            self.settings.epochs,
            record.train_loss,
            said(validation_srcc),
            said(validation_plcc),
            record.validation_mse,
            started.elapsed().as_secs_f64()
        ));
        if self.joint.rating_loss > 0.0 {
            self.context.console.info(format!(
                "run {}: MANIQA's own rating: validation SRCC {}, PLCC {}",
                self.job.run,
                said(metrics::srcc(&ratings, mos)),
                said(metrics::plcc(&ratings, mos))
            ));
        }
        if f_1_share < LEAST_F_1_SHARE {
            self.context.console.warn(format!(
                "run {}: {:.1} % of the values of f_1 are 0 on the validation images: MANIQA's scores end in a ReLU, which \
                 has died, and learns no more; start again with a lower learning rate for it (`quality_rate`), a longer \
                 warm-up (`warmup_steps`) or a loss of its own (`rating_loss`)",
                self.job.run,
                100.0 * (1.0 - f_1_share)
            ));
        }
        if self.settings.keep_epoch == KeepEpoch::Best && position.best.as_ref().is_none_or(|best| score > best.score) {
            position.best = Some(Best { score, epoch: record.epoch, trained });
        }
        position.epochs.push(record);
        position.log.push(row);
        position.epoch_loss = state::LossSum::default();
        position.stretch_loss = state::LossSum::default();
        Ok(())
    }

    fn step(
        &self,
        learner: &mut Learner,
        position: &mut Position,
        batch: &[i64],
        pixels: &[f32],
    ) -> Result<(), JointError> {
        let (job, settings, number) = (self.job, self.settings, learner.n_steps());
        let n = batch.len() as i64;
        let side = job.config.maniqa.vit.img_size;
        let learning_rate = self.learning_rate(number);
        let train = &job.parts.rows[Part::Train as usize];
        let rows: Vec<i64> = batch.iter().map(|at| train[*at as usize]).collect();
        let part_size = self.joint.micro_batch.map_or(n, |size| i64::from(size).min(n));
        let sum = catching(|| {
            let row_tensor = Tensor::from_slice(&rows);
            let input = |i: usize| {
                let xs = self.semantic[i].index_select(0, &row_tensor);
                if settings.input_dropout == 0.0 {
                    return xs;
                }
                let dim = xs.size()[1];
                xs * self.draws.mask(number, i as u64, settings.input_dropout, [n, dim])
            };
            let (f_a, f_b) = (input(0), input(1));
            let [semantic, coherence, _] = job.config.fusion.projected();
            let mask = |index, width| self.draws.mask(number, index, settings.dropout, [n, width]);
            let masks = (settings.dropout > 0.0).then(|| [mask(3, semantic), mask(4, coherence)]);
            let pixels = Tensor::from_slice(pixels).view([n, 3, side, side]);
            let of_batch = |targets: &Tensor| targets.index_select(0, &Tensor::from_slice(batch));
            let (targets, weight) = (of_batch(&self.targets), self.joint.rating_loss);
            let rating_targets = (weight > 0.0).then(|| of_batch(&self.rating_targets));
            let parts = (0..n).step_by(part_size as usize).map(|start| {
                let part = |xs: &Tensor| xs.narrow(0, start, part_size.min(n - start)).to_device(job.device);
                MicroBatch {
                    pixels: part(&pixels),
                    f_a: part(&f_a),
                    f_b: part(&f_b),
                    masks: masks.as_ref().map(|[a, b]| ProjectionMasks { semantic: part(a), coherence: part(b) }),
                    targets: part(&targets),
                    rating: rating_targets.as_ref().map(|xs| RatingTarget { targets: part(xs), weight }),
                }
            });
            learner.step(parts, batch.len(), learning_rate, self.draws.torch_seed(number))
        })
        .map_err(|source| JointError::Torch { run: job.run.clone(), step: number + 1, source })?;
        if !sum.is_finite() {
            return Err(self.diverged(number + 1, position, sum / n as f64, learning_rate, batch));
        }
        position.epoch_loss.add(sum, batch.len());
        position.stretch_loss.add(sum, batch.len());
        Ok(())
    }

    fn diverged(&self, step: u64, position: &Position, loss: f64, learning_rate: f64, batch: &[i64]) -> JointError {
        let train = &self.job.parts.rows[Part::Train as usize];
        let id = |at: &i64| self.job.image_ids[train[*at as usize] as usize].to_string();
        let error = RunError::Diverged {
            run: self.job.run.clone(),
            step,
            epoch: position.epochs.len() as u32 + 1,
            loss,
            learning_rate,
            images: batch.iter().map(id).collect::<Vec<_>>().join(", "),
        };
        error.into()
    }

    /// Applies the network to the images in `rows`.
    fn apply(&self, network: &MaAgiqa, step: u64, rows: &[i64]) -> Result<Applied, JointError> {
        let (job, _no_grad) = (self.job, tch::no_grad_guard());
        let side = job.config.maniqa.vit.img_size;
        let batch_size = if job.device == Device::Cpu { CPU_BATCH } else { GPU_BATCH };
        let batches: Vec<&[i64]> = rows.chunks(batch_size).collect();
        let (pictures, picture_of) = (job.pictures, job.picture_of);
        let pixels = |i: usize| {
            let picture = |row: &i64| picture_of[*row as usize].expect("validation images have pictures");
            pictures.inputs(&batches[i].iter().map(|row| (picture(row), Motion::STILL)).collect::<Vec<_>>())
        };
        let (mut scores, mut ratings) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        let mut n_above_0 = 0.0;
        let LabelScale { scale, offset } = self.labels;
        let _ =
            in_order(batches.len(), self.context.n_threads, pixels, |i, pixels: Result<Vec<f32>, PicturesError>| {
                let pixels = pixels?;
                let (of_batch, ratings_of_batch, above_0) = catching(|| {
                    let pixels = Tensor::from_slice(&pixels).view([-1, 3, side, side]).to_device(job.device);
                    let row_tensor = Tensor::from_slice(batches[i]);
                    let input = |i: usize| self.semantic[i].index_select(0, &row_tensor).to_device(job.device);
                    let output = network.forward(&pixels, &input(0), &input(1), Mode::Evaluate);
                    let values =
                        |xs: Tensor| Vec::<f32>::try_from(xs.to_device(Device::Cpu)).expect("one f32 an image");
                    let above_0 = output.maniqa.f_1.gt(0.0).sum(Kind::Float).double_value(&[]);
                    (values(output.fusion.score), values(output.maniqa.rating()), above_0)
                })
                .map_err(|source| JointError::Torch { run: job.run.clone(), step, source })?;
                scores.extend(of_batch.into_iter().map(|raw| f64::from(raw) * scale + offset));
                ratings.extend(ratings_of_batch.into_iter().map(f64::from));
                n_above_0 += above_0;
                Ok::<_, JointError>(ControlFlow::Continue(()))
            })?;
        let n_values = rows.len() as f64 * job.config.maniqa.n_tokens() as f64;
        Ok(Applied { scores, ratings, f_1_share: n_above_0 / n_values })
    }
}
