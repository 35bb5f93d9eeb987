//! Paired bootstrap: several methods on the same resamples of the same images, so that their differences can be judged.
//!
//! Scores of two methods rise and fall together from resample to resample, and the common part cancels in the
//! difference. Two overlapping intervals therefore say little about a difference. The interval of the difference itself
//! does.

use rayon::prelude::*;

use super::bootstrap::{BootstrapSettings, draw, interval};
use super::levels::Levels;
use super::{MetricsError, check, correlation};
use agiqa_store::metric::Estimate;

/// SRCC of several methods on the sample and on common resamples of it.
#[derive(Clone, Debug)]
pub struct PairedSrcc {
    /// One value per method.
    points: Vec<Option<f64>>,
    /// For each resample, one value per method.
    resamples: Vec<Vec<Option<f64>>>,
}

impl PairedSrcc {
    /// SRCC of each of `methods`. Each method's scores belong to the same images as `mos`.
    ///
    /// # Errors
    /// Fails if a method has another number of scores than `mos`, or if a value is NaN or infinite. The error names the
    /// position of the value.
    pub fn of(methods: &[Vec<f64>], mos: &[f64], settings: &BootstrapSettings) -> Result<Self, MetricsError> {
        for scores in methods {
            check(scores, mos)?;
        }
        let levels: Vec<Levels> = methods.iter().map(|scores| Levels::of(scores)).collect();
        let mos_levels = Levels::of(mos);
        let srcc = |weights: &[u32]| -> Vec<Option<f64>> {
            levels.iter().map(|levels| correlation::spearman(levels, &mos_levels, weights)).collect()
        };
        let n_resamples = if mos.len() < 2 { 0 } else { settings.resamples };
        let resamples = (0..n_resamples)
            .into_par_iter()
            .map_init(
                || vec![0; mos.len()],
                |weights, index| {
                    draw(weights, settings.seed, index);
                    srcc(weights)
                },
            )
            .collect();
        Ok(Self { points: srcc(&vec![1; mos.len()]), resamples })
    }

    /// SRCC of method `a`, with its 95 % interval.
    ///
    /// # Panics
    /// Panics if the method does not exist.
    pub fn srcc(&self, a: usize) -> Estimate {
        self.estimate(|values| values[a])
    }

    /// SRCC of method `a` minus SRCC of method `b`, with its 95 % interval.
    ///
    /// # Panics
    /// Panics if either method does not exist.
    pub fn difference(&self, a: usize, b: usize) -> Estimate {
        self.estimate(|values| Some(values[a]? - values[b]?))
    }

    fn estimate(&self, of: impl Fn(&[Option<f64>]) -> Option<f64>) -> Estimate {
        let value = of(&self.points);
        // An undefined value must not have an interval, which would be read as a value.
        let interval = value.and(interval(self.resamples.iter().map(|values| of(values))));
        Estimate { value, low: interval.map(|(low, _)| low), high: interval.map(|(_, high)| high) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Independent values in 0..1: the first `n` of the stream `seed` (splitmix64).
    fn noise(seed: u64, n: u64) -> Vec<f64> {
        let value = |i: u64| {
            let mut z = (seed << 32 | i).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..n).map(value).collect()
    }

    #[test]
    fn a_method_differs_from_noise_and_not_from_itself() {
        let mos = noise(1, 200);
        let good: Vec<f64> = mos.iter().zip(noise(2, 200)).map(|(mos, noise)| mos + 0.3 * noise).collect();
        let methods = [good.clone(), noise(3, 200), good];
        let paired = PairedSrcc::of(&methods, &mos, &BootstrapSettings::default()).expect("finite and paired");
        let from_noise = paired.difference(0, 1);
        assert!(from_noise.low.is_some_and(|low| low > 0.3), "{from_noise:?}");
        let reversed = paired.difference(1, 0);
        assert_eq!(reversed.high, from_noise.low.map(|low| -low));
        let alone = paired.srcc(0);
        assert!(alone.value == crate::metrics::srcc(&methods[0], &mos) && alone.low < alone.value, "{alone:?}");
        let from_itself = paired.difference(0, 2);
        assert_eq!((from_itself.value, from_itself.low, from_itself.high), (Some(0.0), Some(0.0), Some(0.0)));
    }

    #[test]
    fn the_interval_of_a_small_difference_holds_zero() {
        let mos = noise(1, 60);
        let scored = |seed| mos.iter().zip(noise(seed, 60)).map(|(mos, noise)| mos + noise).collect::<Vec<f64>>();
        let paired = PairedSrcc::of(&[scored(4), scored(9)], &mos, &BootstrapSettings::default()).expect("paired");
        let difference = paired.difference(0, 1);
        assert!(difference.low < Some(0.0) && difference.high > Some(0.0), "{difference:?}");
    }

    #[test]
    fn a_constant_method_has_no_difference() {
        let mos = noise(1, 30);
        let paired =
            PairedSrcc::of(&[vec![1.0; 30], mos.clone()], &mos, &BootstrapSettings::default()).expect("paired");
        assert_eq!(paired.difference(0, 1), Estimate::default());
    }
}
