//! The state of an unfinished run, exactly: a resumed training gives the bits of an uninterrupted one.
//!
//! One object, `models/run=<run>/state.safetensors`, so that it appears whole: trained parameters, both moments, averages,
//! the best epoch's parameters, the log and the position. What is not trained is read anew from where it came from. Numbers
//! are kept as tensors, because decimal text would round them. Random generators leave nothing to keep: each draw has its
//! own, seeded by the run's seed and the position.

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::selection::Best;
use super::weights::WeightsState;
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::trained_head::{tensors_from_bytes, tensors_to_bytes};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::models::EpochRecord;
use agiqa_store::tables::train_log::TrainLogRow;

/// Metadata key of the fingerprint that the state belongs to.
const FINGERPRINT_KEY: &str = "agiqa.fingerprint";

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

/// Where a training stands.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Squared errors of this epoch.
    pub(super) epoch_loss: LossSum,
    /// Squared errors since the log's last row.
    pub(super) stretch_loss: LossSum,
    /// Epochs done.
    pub(super) epochs: Vec<EpochRecord>,
    /// The log so far.
    pub(super) log: Vec<TrainLogRow>,
    /// The best epoch.
    pub(super) best: Option<Best>,
    /// Seconds at work in sessions before this one.
    pub(super) seconds_before: f64,
}

/// The bytes of a state whose training has been at work for `seconds`.
pub(super) fn to_bytes(fingerprint: Fingerprint, weights: &WeightsState, position: &Position, seconds: f64) -> Vec<u8> {
    let Position { epoch_loss, stretch_loss, epochs, log, best, seconds_before: _ } = position;
    let epochs: Vec<f64> = epochs.iter().flat_map(epoch_values).collect();
    let log: Vec<f64> = log.iter().flat_map(log_values).collect();
    let n_images = |loss: &LossSum| loss.n_images as i64;
    let best_epoch = best.as_ref().map_or(0, |best| i64::from(best.epoch));
    let counters = [weights.n_steps as i64, best_epoch, n_images(epoch_loss), n_images(stretch_loss)];
    let best_score = best.as_ref().map_or(0.0, |best| best.score);
    let reals = [best_score, epoch_loss.sum, stretch_loss.sum, seconds];
    let mut named = vec![
        ("counters".to_owned(), Tensor::from_slice(&counters)),
        ("reals".to_owned(), Tensor::from_slice(&reals)),
        ("epochs".to_owned(), Tensor::from_slice(&epochs)),
        ("log".to_owned(), Tensor::from_slice(&log)),
    ];
    let WeightsState { n_steps: _, parameters, first, second, average } = weights;
    let none = NamedTensors::new();
    let best = best.as_ref().map_or(&none, |best| &best.trained);
    for (role, tensors) in
        [("parameter", parameters), ("first", first), ("second", second), ("average", average), ("best", best)]
    {
        named.extend(tensors.iter().map(|(name, tensor)| (format!("{role}:{name}"), tensor.to_device(Device::Cpu))));
    }
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let named: Vec<(String, &Tensor)> = named.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    tensors_to_bytes(&named, HashMap::from([(FINGERPRINT_KEY.to_owned(), fingerprint.to_string())]))
}

/// The state in `bytes`, if it is whole and of the training with `fingerprint`.
pub(super) fn from_bytes(bytes: &[u8], fingerprint: Fingerprint) -> Option<(WeightsState, Position)> {
    let (mut tensors, metadata) = tensors_from_bytes(bytes).ok()?;
    if *metadata.get(FINGERPRINT_KEY)? != fingerprint.to_string() {
        return None;
    }
    let counters: Vec<i64> = Vec::try_from(tensors.remove("counters")?).ok()?;
    let mut reals = |name: &str| -> Option<Vec<f64>> { Vec::try_from(tensors.remove(name)?).ok() };
    let (numbers, epochs, log) = (reals("reals")?, reals("epochs")?, reals("log")?);
    let (&[n_steps, best_epoch, n_epoch, n_stretch], &[best_score, epoch_sum, stretch_sum, seconds_before]) =
        (counters.as_slice(), numbers.as_slice())
    else {
        return None;
    };
    let mut by_role: HashMap<String, NamedTensors> = HashMap::new();
    for (name, tensor) in tensors {
        let (role, name) = name.split_once(':')?;
        by_role.entry(role.to_owned()).or_default().insert(name.to_owned(), tensor);
    }
    let mut take = |role: &str| by_role.remove(role).unwrap_or_default();
    let best_epoch = u32::try_from(best_epoch).ok()?;
    let best = (best_epoch > 0).then(|| Best { score: best_score, epoch: best_epoch, trained: take("best") });
    let weights = WeightsState {
        n_steps: n_steps.try_into().ok()?,
        parameters: take("parameter"),
        first: take("first"),
        second: take("second"),
        average: take("average"),
    };
    let position = Position {
        epoch_loss: LossSum { sum: epoch_sum, n_images: n_epoch.try_into().ok()? },
        stretch_loss: LossSum { sum: stretch_sum, n_images: n_stretch.try_into().ok()? },
        epochs: epochs.chunks_exact(5).map(epoch_from_values).collect(),
        log: log.chunks_exact(9).map(log_from_values).collect(),
        best,
        seconds_before,
    };
    Some((weights, position))
}

/// NaN stands for none within a state, which no one else reads.
fn or_nan(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn defined(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

fn epoch_values(record: &EpochRecord) -> [f64; 5] {
    let EpochRecord { epoch, train_loss, validation_srcc, validation_plcc, validation_mse } = *record;
    [f64::from(epoch), train_loss, or_nan(validation_srcc), or_nan(validation_plcc), validation_mse]
}

fn epoch_from_values(values: &[f64]) -> EpochRecord {
    EpochRecord {
        epoch: values[0] as u32,
        train_loss: values[1],
        validation_srcc: defined(values[2]),
        validation_plcc: defined(values[3]),
        validation_mse: values[4],
    }
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
