//! One set of images, with all quantities that do not depend on a resample's multiplicities.

use super::correlation::{self, Standardised};
use super::kendall::{self, Ties};
use super::levels::Levels;
use super::logistic::{self, Shape};
use agiqa_store::metric::N_METRICS;

/// The metrics in the order of [`Metric::ALL`](agiqa_store::metric::Metric::ALL).
pub(super) type Values = [Option<f64>; N_METRICS];

/// Prepared scores and MOS. They are finite and of equal length.
pub(super) struct Sample {
    ties: Ties,
    scores: Standardised,
    mos: Standardised,
    errors: Errors,
}

impl Sample {
    pub(super) fn new(scores: &[f64], mos: &[f64]) -> Self {
        Self {
            ties: Ties::new(Levels::of(scores), Levels::of(mos)),
            scores: Standardised::of(scores),
            mos: Standardised::of(mos),
            errors: Errors::of(scores, mos),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.scores.values.len()
    }

    /// All metrics under `weights`, and the best shape of the mapping from many starts.
    pub(super) fn point_metrics(&self, weights: &[u32]) -> (Values, Option<Shape>) {
        let fit = logistic::fit(&self.scores, &self.mos, weights, None);
        (self.metrics(weights, fit.as_ref()), fit.map(|fit| fit.shape))
    }

    /// All metrics under `weights`. The mapping is fitted again, starting from `shape`.
    pub(super) fn resample_metrics(&self, weights: &[u32], shape: Option<Shape>) -> Values {
        let fit = shape.and_then(|shape| logistic::fit(&self.scores, &self.mos, weights, Some(shape)));
        self.metrics(weights, fit.as_ref())
    }

    fn metrics(&self, weights: &[u32], fit: Option<&logistic::Fit>) -> Values {
        [
            correlation::spearman(&self.ties.scores, &self.ties.mos, weights),
            fit.and_then(|fit| fit.plcc),
            kendall::tau_b(&self.ties, weights),
            fit.map(|fit| fit.rmse * self.mos.scale).filter(|rmse| rmse.is_finite()),
            correlation::pearson(&self.scores.values, &self.mos.values, weights),
            self.errors.root_mean_square(weights),
        ]
    }
}

/// Differences of scores and MOS, scaled into [-1, 1] so that squares do not overflow.
pub(super) struct Errors {
    scaled: Vec<f64>,
    scale: f64,
}

impl Errors {
    pub(super) fn of(scores: &[f64], mos: &[f64]) -> Self {
        let errors: Vec<f64> = scores.iter().zip(mos).map(|(score, mos)| score - mos).collect();
        let peak = errors.iter().fold(0.0_f64, |peak, error| peak.max(error.abs()));
        let scale = if peak > 0.0 { peak } else { 1.0 };
        Self { scaled: errors.iter().map(|error| error / scale).collect(), scale }
    }

    pub(super) fn root_mean_square(&self, weights: &[u32]) -> Option<f64> {
        let (mut n, mut sum) = (0.0, 0.0);
        for (error, &weight) in self.scaled.iter().zip(weights) {
            n += f64::from(weight);
            sum += f64::from(weight) * error * error;
        }
        let root = self.scale * (sum / n).sqrt();
        // Without samples the result is 0/0. Differences beyond the range of f64 have no finite mean. Both are
        // undefined.
        root.is_finite().then_some(root)
    }
}
