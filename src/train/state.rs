//! The state of an unfinished run, exactly: a resumed training gives the bits of an uninterrupted one.
//!
//! One object, so that it appears whole: parameters, both moments, averages, the best head so far, the log and the
//! position. Floats that decide something are kept as tensors, because decimal text would round them.

use std::collections::HashMap;

use tch::Tensor;

use super::optimiser::{Adam, AdamState};
use agiqa_nets::fusion::PARAMETER_NAMES;
use agiqa_nets::trained_head::{tensors_from_bytes, tensors_to_bytes};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::models::EpochRecord;

/// Metadata key of the fingerprint that the state belongs to.
const FINGERPRINT_KEY: &str = "agiqa.fingerprint";

/// The best epoch so far.
#[derive(Debug)]
pub(super) struct Best {
    pub(super) score: f64,
    pub(super) epoch: u32,
    pub(super) parameters: Vec<Tensor>,
}

/// Where a training stands.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Squared errors of this epoch's batches so far.
    pub(super) loss_sum: f64,
    /// Epochs done.
    pub(super) epochs: Vec<EpochRecord>,
    /// Seconds at work at the end of each of them.
    pub(super) seconds: Vec<f64>,
    /// Of these, what sessions before this one account for: up to the last epoch that they ended.
    pub(super) seconds_before: f64,
    /// The best of them.
    pub(super) best: Option<Best>,
}

/// A state read back.
#[derive(Debug)]
pub(super) struct State {
    pub(super) parameters: Vec<Tensor>,
    pub(super) adam: AdamState,
    pub(super) position: Position,
}

pub(super) fn to_bytes(fingerprint: Fingerprint, parameters: &[&Tensor], adam: &Adam, position: &Position) -> Vec<u8> {
    let Position { loss_sum, epochs, seconds, seconds_before: _, best } = position;
    let [first, second, average] = adam.state();
    let log: Vec<f64> = epochs.iter().flat_map(epoch_values).collect();
    let log = Tensor::from_slice(&log);
    let seconds = Tensor::from_slice(seconds);
    let best_epoch = best.as_ref().map_or(0, |best| i64::from(best.epoch));
    let counters = Tensor::from_slice(&[adam.n_steps() as i64, best_epoch]);
    let best_score = best.as_ref().map_or(0.0, |best| best.score);
    let reals = Tensor::from_slice(&[*loss_sum, best_score]);
    let mut named: Vec<(String, &Tensor)> = vec![
        ("counters".to_owned(), &counters),
        ("reals".to_owned(), &reals),
        ("log".to_owned(), &log),
        ("seconds".to_owned(), &seconds),
    ];
    let name = |what: &str, name: &&str| format!("{what}.{name}");
    named.extend(PARAMETER_NAMES.iter().zip(parameters).map(|(n, tensor)| (name("parameter", n), *tensor)));
    let best = best.as_ref().map_or(&[] as &[Tensor], |best| &best.parameters);
    for (what, tensors) in [("first", first), ("second", second), ("average", average), ("best", best)] {
        named.extend(PARAMETER_NAMES.iter().zip(tensors).map(|(n, tensor)| (name(what, n), tensor)));
    }
    tensors_to_bytes(&named, HashMap::from([(FINGERPRINT_KEY.to_owned(), fingerprint.to_string())]))
}

/// The state in `bytes`, where it is whole and of the training with `fingerprint`.
pub(super) fn from_bytes(bytes: &[u8], fingerprint: Fingerprint) -> Option<State> {
    let (mut tensors, metadata) = tensors_from_bytes(bytes).ok()?;
    if *metadata.get(FINGERPRINT_KEY)? != fingerprint.to_string() {
        return None;
    }
    let mut take = |what: &str| -> Option<Vec<Tensor>> {
        PARAMETER_NAMES.iter().map(|name| tensors.remove(&format!("{what}.{name}"))).collect()
    };
    let parameters = take("parameter")?;
    let (first, second) = (take("first")?, take("second")?);
    let average = take("average").unwrap_or_default();
    let best = take("best");
    let counters: Vec<i64> = Vec::try_from(tensors.remove("counters")?).ok()?;
    let reals: Vec<f64> = Vec::try_from(tensors.remove("reals")?).ok()?;
    let log: Vec<f64> = Vec::try_from(tensors.remove("log")?).ok()?;
    let seconds: Vec<f64> = Vec::try_from(tensors.remove("seconds")?).ok()?;
    let (&[n_steps, best_epoch], &[loss_sum, best_score]) = (counters.as_slice(), reals.as_slice()) else {
        return None;
    };
    let best = match best {
        Some(parameters) => Some(Best { score: best_score, epoch: u32::try_from(best_epoch).ok()?, parameters }),
        None => None,
    };
    let epochs = log.chunks_exact(5).map(epoch_from_values).collect();
    let adam = AdamState { n_steps: u64::try_from(n_steps).ok()?, first, second, average };
    Some(State {
        parameters,
        adam,
        position: Position { loss_sum, epochs, seconds_before: seconds.last().copied().unwrap_or(0.0), seconds, best },
    })
}

/// NaN stands for none within a state, which no one else reads.
pub(super) fn or_nan(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

pub(super) fn defined(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

pub(super) fn epoch_values(record: &EpochRecord) -> [f64; 5] {
    let EpochRecord { epoch, train_loss, validation_srcc, validation_plcc, validation_mse } = *record;
    [f64::from(epoch), train_loss, or_nan(validation_srcc), or_nan(validation_plcc), validation_mse]
}

pub(super) fn epoch_from_values(values: &[f64]) -> EpochRecord {
    EpochRecord {
        epoch: values[0] as u32,
        train_loss: values[1],
        validation_srcc: defined(values[2]),
        validation_plcc: defined(values[3]),
        validation_mse: values[4],
    }
}
