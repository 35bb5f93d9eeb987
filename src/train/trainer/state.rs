//! The exact state of an unfinished run: a resumed training gives the same bits as an uninterrupted one.
//!
//! The state is one object, `models/run=<run>/state.safetensors`, so that it appears whole. It holds trained
//! parameters, both moments, averages, the best epoch's parameters, the log and the position. Parameters that are not
//! trained are read again from their source. Numbers are kept as tensors, because decimal text would round them. Random
//! generators need no saved state: each draw has its own generator, seeded by the run's seed and the position.

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::selection::Best;
use super::weights::SavedWeights;
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::trained_head::{tensors_from_bytes, tensors_to_bytes};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::models::EpochRecord;
use agiqa_store::tables::train_log::TrainLogRow;

/// Metadata key of the fingerprint that the state belongs to.
const FINGERPRINT_KEY: &str = "agiqa.fingerprint";

/// Prefix of the names of the best epoch's parameters.
const BEST: &str = "best:";

/// Squared errors of some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LossSum {
    pub(super) sum: f64,
    pub(super) n_images: u64,
}

impl LossSum {
    pub(super) fn add(&mut self, sum: f64, n_images: usize) {
        self.sum += sum;
        self.n_images += n_images as u64;
    }

    pub(super) fn mean(self) -> f64 {
        self.sum / self.n_images.max(1) as f64
    }
}

/// The position of a training.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Squared errors of this epoch so far.
    pub(super) epoch_loss: LossSum,
    /// Squared errors since the log's last row.
    pub(super) stretch_loss: LossSum,
    /// Finished epochs.
    pub(super) epochs: Vec<EpochRecord>,
    /// The log so far.
    pub(super) log: Vec<TrainLogRow>,
    /// The best epoch.
    pub(super) best: Option<Best>,
    /// Working time in seconds, in sessions before this one.
    pub(super) seconds_before: f64,
}

/// The bytes of a state after `seconds` of working time.
pub(super) fn to_bytes(fingerprint: Fingerprint, weights: SavedWeights, position: &Position, seconds: f64) -> Vec<u8> {
    let Position { epoch_loss, stretch_loss, epochs, log, best, seconds_before: _ } = position;
    let losses: Vec<f64> = epochs.iter().map(|record| record.train_loss).collect();
    let log: Vec<f64> = log.iter().flat_map(log_values).collect();
    let n_images = |loss: &LossSum| loss.n_images as i64;
    let best_epoch = best.as_ref().map_or(0, |best| i64::from(best.epoch));
    let counters = [weights.n_steps as i64, best_epoch, n_images(epoch_loss), n_images(stretch_loss)];
    let best_score = best.as_ref().map_or(0.0, |best| best.score);
    let reals = [best_score, epoch_loss.sum, stretch_loss.sum, seconds];
    let mut tensors = weights.tensors;
    tensors.insert("counters".to_owned(), Tensor::from_slice(&counters));
    let columns = [("reals", reals.as_slice()), ("losses", &losses), ("log", &log)];
    tensors.extend(columns.map(|(name, values)| (name.to_owned(), Tensor::from_slice(values))));
    let trained = best.iter().flat_map(|best| &best.trained);
    tensors.extend(trained.map(|(name, tensor)| (format!("{BEST}{name}"), tensor.shallow_clone())));
    let mut named: Vec<(String, Tensor)> =
        tensors.into_iter().map(|(name, tensor)| (name, tensor.to_device(Device::Cpu))).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let named: Vec<(String, &Tensor)> = named.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    tensors_to_bytes(&named, HashMap::from([(FINGERPRINT_KEY.to_owned(), fingerprint.to_string())]))
}

/// The state in `bytes`, if it is whole and belongs to the training with `fingerprint`.
pub(super) fn from_bytes(bytes: &[u8], fingerprint: Fingerprint) -> Option<(SavedWeights, Position)> {
    let (mut tensors, metadata) = tensors_from_bytes(bytes).ok()?;
    if *metadata.get(FINGERPRINT_KEY)? != fingerprint.to_string() {
        return None;
    }
    let counters: Vec<i64> = Vec::try_from(tensors.remove("counters")?).ok()?;
    let mut reals = |name: &str| -> Option<Vec<f64>> { Vec::try_from(tensors.remove(name)?).ok() };
    let (numbers, losses, log) = (reals("reals")?, reals("losses")?, reals("log")?);
    let (&[n_steps, best_epoch, n_epoch, n_stretch], &[best_score, epoch_sum, stretch_sum, seconds_before]) =
        (counters.as_slice(), numbers.as_slice())
    else {
        return None;
    };
    let (best, tensors): (NamedTensors, NamedTensors) =
        tensors.into_iter().partition(|(name, _)| name.starts_with(BEST));
    let trained = best.into_iter().map(|(name, tensor)| (name[BEST.len()..].to_owned(), tensor)).collect();
    let best_epoch = u32::try_from(best_epoch).ok()?;
    let log: Vec<TrainLogRow> = log.chunks_exact(9).map(log_from_values).collect();
    let position = Position {
        epoch_loss: LossSum { sum: epoch_sum, n_images: n_epoch.try_into().ok()? },
        stretch_loss: LossSum { sum: stretch_sum, n_images: n_stretch.try_into().ok()? },
        epochs: (1..).zip(losses).map(|(epoch, loss)| ended_epoch(epoch, loss, &log)).collect::<Option<_>>()?,
        log,
        best: (best_epoch > 0).then_some(Best { score: best_score, epoch: best_epoch, trained }),
        seconds_before,
    };
    Some((SavedWeights { n_steps: n_steps.try_into().ok()?, tensors }, position))
}

/// The record of an ended epoch. Its last row in the log holds its validation.
fn ended_epoch(epoch: u32, train_loss: f64, log: &[TrainLogRow]) -> Option<EpochRecord> {
    let TrainLogRow { validation_srcc, validation_plcc, validation_mse, .. } =
        *log.iter().rfind(|row| row.epoch == epoch)?;
    let validation_mse = validation_mse.unwrap_or(f64::NAN);
    Some(EpochRecord { epoch, train_loss, validation_srcc, validation_plcc, validation_mse })
}

/// NaN stands for `None` in a state. No other code reads a state.
fn or_nan(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn defined(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

fn log_values(row: &TrainLogRow) -> [f64; 9] {
    let TrainLogRow { epoch, step, lr, n_images, loss, validation_srcc, validation_plcc, validation_mse, seconds } =
        *row;
    let [srcc, plcc, mse] = [validation_srcc, validation_plcc, validation_mse].map(or_nan);
    [f64::from(epoch), step as f64, lr, n_images as f64, loss, srcc, plcc, mse, seconds]
}

fn log_from_values(values: &[f64]) -> TrainLogRow {
    TrainLogRow {
        epoch: values[0] as u32,
        step: values[1] as u64,
        lr: values[2],
        n_images: values[3] as u64,
        loss: values[4],
        validation_srcc: defined(values[5]),
        validation_plcc: defined(values[6]),
        validation_mse: defined(values[7]),
        seconds: values[8],
    }
}
