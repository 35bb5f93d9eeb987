//! How well scores agree with mean opinion scores: SRCC, PLCC, KRCC and RMSE, with bootstrap intervals.
//!
//! | metric | definition |
//! |---|---|
//! | `srcc` | Pearson's correlation of average ranks |
//! | `krcc` | Kendall's tau-b, `(C - D) / sqrt((n0 - ties in scores) (n0 - ties in MOS))`, `n0 = n (n - 1) / 2` |
//! | `plcc`, `rmse` | after the 4-parameter [logistic mapping](logistic), fitted to the judged data |
//! | `plcc_raw`, `rmse_raw` | without any mapping of the scores |
//!
//! RMSE divides by `n`. The mapped PLCC is positive even for reversed scores. The raw PLCC is therefore reported as
//! well.
//!
//! **Undefined is `None`**, never NaN and never 0. A correlation needs two samples and is undefined for a constant
//! input. The mapping needs six samples. The mapping of constant scores is the mean MOS, which has an RMSE but no
//! PLCC.
//!
//! One code path serves the sample and its resamples: every metric takes integer weights, and a resample is a vector of
//! multiplicities. Work that does not depend on the weights, above all sorting, is done once.

use agiqa_store::metric::{Estimate, Estimates, N_METRICS};

mod levels;

mod correlation;

mod kendall;

pub mod logistic;

mod sample;

mod bootstrap;

mod paired;

pub use bootstrap::{BootstrapSettings, mean_with_interval, quantile};
pub use levels::average_ranks;
pub use logistic::Logistic4;
pub use paired::PairedSrcc;

use correlation::Standardised;
use levels::Levels;
use sample::Sample;

/// No metric can be computed from the input.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum MetricsError {
    /// The number of scores and the number of MOS differ.
    #[error("expected one MOS per score, found {n_scores} scores and {n_mos} MOS")]
    Length { n_scores: usize, n_mos: usize },
    /// A value is NaN or infinite.
    #[error("the {what} at position {position} (from 0): expected a finite number, found {value}")]
    NotFinite {
        /// `score` or `MOS`.
        what: &'static str,
        /// Position in the input, from 0.
        position: usize,
        value: f64,
    },
}

/// All metrics of `scores` against `mos`, with 95 % intervals if `bootstrap` requests resamples.
///
/// The same inputs and seed give the same numbers, whatever the number of threads.
///
/// # Errors
/// Fails if the inputs differ in length, or if a value is NaN or infinite. The error names the position of the value.
pub fn evaluate(
    scores: &[f64],
    mos: &[f64],
    bootstrap: Option<&BootstrapSettings>,
) -> Result<Estimates<N_METRICS>, MetricsError> {
    check(scores, mos)?;
    let sample = Sample::new(scores, mos);
    let weights = vec![1; scores.len()];
    let (point, shape) = sample.point_metrics(&weights);
    let intervals = bootstrap.map(|settings| bootstrap::intervals(&sample, shape, settings)).unwrap_or_default();
    Ok(Estimates(std::array::from_fn(|index| {
        // An undefined value must not have an interval, which would be read as a value.
        let interval = point[index].and(intervals[index]);
        Estimate { value: point[index], low: interval.map(|(low, _)| low), high: interval.map(|(_, high)| high) }
    })))
}

/// Refuses inputs that are not finite or differ in length.
fn check(scores: &[f64], mos: &[f64]) -> Result<(), MetricsError> {
    if scores.len() != mos.len() {
        return Err(MetricsError::Length { n_scores: scores.len(), n_mos: mos.len() });
    }
    for (what, values) in [("score", scores), ("MOS", mos)] {
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return Err(MetricsError::NotFinite { what, position, value: values[position] });
        }
    }
    Ok(())
}

/// Whether `xs` and `ys` can be given to a single metric.
///
/// # Panics
/// Panics if the lengths differ: the caller must pair the two.
fn usable(xs: &[f64], ys: &[f64]) -> bool {
    assert_eq!(xs.len(), ys.len(), "one MOS per score");
    check(xs, ys).is_ok()
}

/// Spearman's rank correlation: Pearson's of average ranks. `None` if undefined or if a value is not finite.
///
/// # Panics
/// Panics if the lengths differ.
pub fn srcc(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let levels = usable(xs, ys).then(|| (Levels::of(xs), Levels::of(ys)))?;
    correlation::spearman(&levels.0, &levels.1, &vec![1; xs.len()])
}

/// Pearson's correlation. `None` if undefined or if a value is not finite.
///
/// # Panics
/// Panics if the lengths differ.
pub fn plcc(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let series = usable(xs, ys).then(|| (Standardised::of(xs), Standardised::of(ys)))?;
    correlation::pearson(&series.0.values, &series.1.values, &vec![1; xs.len()])
}

/// Kendall's tau-b in O(n log n). `None` if undefined or if a value is not finite.
///
/// # Panics
/// Panics if the lengths differ.
pub fn krcc(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let levels = usable(xs, ys).then(|| (Levels::of(xs), Levels::of(ys)))?;
    kendall::tau_b(&kendall::Ties::new(levels.0, levels.1), &vec![1; xs.len()])
}

/// Root of the mean squared difference (divided by `n`). `None` for no samples or if a value is not finite.
///
/// # Panics
/// Panics if the lengths differ.
pub fn rmse(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let errors = usable(xs, ys).then(|| sample::Errors::of(xs, ys))?;
    errors.root_mean_square(&vec![1; xs.len()])
}

/// Least-squares fit of the 4-parameter logistic that maps `scores` to `mos`. `None` below six samples or if a value
/// is not finite.
///
/// # Panics
/// Panics if the lengths differ.
pub fn fit_logistic4(scores: &[f64], mos: &[f64]) -> Option<Logistic4> {
    let (scores, mos) = usable(scores, mos).then(|| (Standardised::of(scores), Standardised::of(mos)))?;
    let weights = vec![1; scores.values.len()];
    let fit = logistic::fit(&scores, &mos, &weights, None)?;
    Some(fit.parameters(&scores, &mos))
}
