//! The value of an epoch, and the best epoch so far.

use agiqa_judge::metrics;
use agiqa_nets::layers::NamedTensors;
use agiqa_store::tables::models::EpochRecord;

/// The best epoch so far.
#[derive(Debug)]
pub(super) struct Best {
    pub(super) score: f64,
    pub(super) epoch: u32,
    /// Trained parameters at its end.
    pub(super) trained: NamedTensors,
}

/// The value of an epoch or another candidate: SRCC + PLCC on the validation part. If the MOS of that part are all
/// equal, both are undefined, and the value is the negative mean squared error. If only the scores are all equal, the
/// value is lower than any other.
pub fn selection_score(srcc: Option<f64>, plcc: Option<f64>, scores: &[f64], mos: &[f64]) -> f64 {
    if is_constant(mos) {
        return -mean_squared_error(scores, mos);
    }
    match (srcc, plcc) {
        (Some(srcc), Some(plcc)) => srcc + plcc,
        _ => f64::MIN,
    }
}

/// The record of epoch `epoch` (from 1) by its validation `scores`, and the value of the epoch.
pub(in crate::train) fn judged(epoch: u32, train_loss: f64, scores: &[f64], mos: &[f64]) -> (EpochRecord, f64) {
    let (validation_srcc, validation_plcc) = (metrics::srcc(scores, mos), metrics::plcc(scores, mos));
    let validation_mse = mean_squared_error(scores, mos);
    let record = EpochRecord { epoch, train_loss, validation_srcc, validation_plcc, validation_mse };
    (record, selection_score(validation_srcc, validation_plcc, scores, mos))
}

/// The criterion for the best epoch, in the record's words.
pub(super) fn criterion(validation_mos: &[f64]) -> &'static str {
    if is_constant(validation_mos) { "validation MSE" } else { "validation SRCC + PLCC" }
}

pub(super) fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

fn mean_squared_error(scores: &[f64], mos: &[f64]) -> f64 {
    scores.iter().zip(mos).map(|(score, mos)| (score - mos).powi(2)).sum::<f64>() / mos.len() as f64
}
