//! 95 % intervals by the bootstrap: metrics of many samples drawn with replacement from the sample itself.
//!
//! The interval is the **percentile** interval: the 2.5 % and 97.5 % quantiles of the resamples' values. It stays
//! inside a metric's range, follows any monotone change of scale, and needs only the resamples. The bias-corrected and
//! accelerated (BCa) interval would need one more fit per image for its acceleration. That quantity is erratic if the
//! mapping is poorly determined. At the size of a test part, the two intervals differ by less than the noise of 1000
//! resamples.
//!
//! The mapping is uncertain too, so each resample fits it again, starting from the sample's own optimum. The interval
//! of the mapped PLCC and RMSE therefore covers "fit, then measure" near the sample's solution. It ignores that the
//! search over many starts might find another solution for a resample.
//!
//! A resample in which a metric is undefined (e.g. constant scores) cannot be counted. Up to one in twenty resamples
//! may be left out. With more, the interval is undefined, because the rest would no longer represent the sample.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::logistic::Shape;
use super::sample::{Sample, Values};
use agiqa_store::metric::{Estimate, N_METRICS};

/// Share of resamples in which a metric must be defined.
const MIN_DEFINED: f64 = 0.95;

/// Settings of the intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapSettings {
    /// Number of resamples; 0 for no intervals.
    pub resamples: u32,
    /// Seed. The same seed gives the same intervals, whatever the number of threads.
    pub seed: u64,
}

impl Default for BootstrapSettings {
    fn default() -> Self {
        Self { resamples: 1000, seed: 0 }
    }
}

/// 95 % intervals (low, high) of the metrics; `None` if undefined.
pub(super) fn intervals(
    sample: &Sample,
    shape: Option<Shape>,
    settings: &BootstrapSettings,
) -> [Option<(f64, f64)>; N_METRICS] {
    // A sample of one image has only one resample: itself. It carries no information about uncertainty.
    if settings.resamples == 0 || sample.len() < 2 {
        return [None; N_METRICS];
    }
    let resamples: Vec<Values> = (0..settings.resamples)
        .into_par_iter()
        .map_init(
            || vec![0; sample.len()],
            |weights, index| {
                draw(weights, settings.seed, index);
                sample.resample_metrics(weights, shape)
            },
        )
        .collect();
    std::array::from_fn(|metric| interval(resamples.iter().map(|values| values[metric])))
}

/// Mean of `values` with its 95 % interval; nothing without values, and no interval for one value.
pub fn mean_with_interval(values: &[f64], settings: &BootstrapSettings) -> Estimate {
    let mean = |weights: &[u32]| {
        let sum: f64 = values.iter().zip(weights).map(|(value, &weight)| value * f64::from(weight)).sum();
        Some(sum / values.len() as f64).filter(|mean| mean.is_finite())
    };
    let n_resamples = if values.len() < 2 { 0 } else { settings.resamples };
    let of_resample = |weights: &mut Vec<u32>, index| {
        draw(weights, settings.seed, index);
        mean(weights)
    };
    let resampled: Vec<Option<f64>> =
        (0..n_resamples).into_par_iter().map_init(|| vec![0; values.len()], of_resample).collect();
    let (low, high) = interval(resampled.into_iter()).unzip();
    Estimate { value: mean(&vec![1; values.len()]), low, high }
}

/// Fills `weights` with the multiplicities of resample `index`. They depend only on seed and index.
pub(super) fn draw(weights: &mut [u32], seed: u64, index: u32) {
    weights.fill(0);
    let n = weights.len() as u128;
    // Seed and index pass through the mixer one after the other, so neighbouring seeds share no resamples.
    let mut state = mix(mix(seed).wrapping_add(u64::from(index)));
    for _ in 0..weights.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // The high half of the product is a position in 0..n. Positions are uniform up to n / 2^64.
        let position = (u128::from(mix(state)) * n) >> 64;
        weights[position as usize] += 1;
    }
}

/// The mixing function of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators").
fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 95 % interval of `values`; `None` if too many are undefined.
pub(super) fn interval(values: impl ExactSizeIterator<Item = Option<f64>>) -> Option<(f64, f64)> {
    let n_all = values.len();
    let mut defined: Vec<f64> = values.flatten().collect();
    if defined.is_empty() || (defined.len() as f64) < MIN_DEFINED * n_all as f64 {
        return None;
    }
    defined.sort_unstable_by(f64::total_cmp);
    Some((quantile(&defined, 0.025), quantile(&defined, 0.975)))
}

/// Quantile of ascending `values`, at least one, interpolated between neighbours.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (below, rest) = (at.floor() as usize, at.fract());
    let above = values[(below + 1).min(values.len() - 1)];
    values[below] + rest * (above - values[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resample_has_as_many_draws_as_there_are_samples_and_depends_on_seed_and_index() {
        let drawn = |seed, index| {
            let mut weights = vec![0; 500];
            draw(&mut weights, seed, index);
            weights
        };
        assert_eq!(drawn(1, 2).iter().sum::<u32>(), 500);
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2), drawn(1, 3));
        assert_ne!(drawn(1, 2), drawn(2, 2));
        // n draws with replacement draw a share of 1 - 1/e of the samples at least once: 0.632 ± 5 standard deviations.
        let share = drawn(7, 0).iter().filter(|&&weight| weight > 0).count() as f64 / 500.0;
        assert!((0.56..0.70).contains(&share), "{share}");
    }

    #[test]
    fn too_many_undefined_resamples_leave_no_interval() {
        let values = |n_undefined| (0..100).map(move |i| (i >= n_undefined).then_some(f64::from(i)));
        assert!(interval(values(5)).is_some());
        assert_eq!(interval(values(6)), None);
        assert_eq!(interval(values(100)), None);
    }
}
