//! Maximum likelihood fit of a Weibull distribution.
//!
//! With `l = ln x`, the shape `k` is the root of `Σ l e^(k l) / Σ e^(k l) - 1/k - mean(l)`, which increases with `k`.
//! The scale is `mean(x^k)^(1/k)`. Both depend on the logarithms alone, which are computed once.

use super::elementary::exp;

/// Number of samples handled in parallel.
const LANES: usize = 8;

/// Least exponent. The power of a smaller one adds nothing to a sum that contains a 1.
const FLOOR: f64 = -700.0;

/// After a relative step of the shape this small, the error is far below 1e-8, because steps are of third order.
const SMALL_STEP: f64 = 2e-3;

/// The relative step at which the fit to some of the samples ends. That fit only serves as a start.
const SMALL_COARSE_STEP: f64 = 5e-2;

/// The first fit takes one sample of this many. Neighbouring samples are much alike, so its shape is near the shape of
/// all samples, and one or two steps over all samples remain instead of three. The number does not divide the width of
/// a block, so that the samples come from all columns.
const COARSENESS: usize = 5;

/// Least number of samples for which the first fit pays off.
const MIN_COARSE: usize = 1000;

/// Greatest number of steps. Images need a few.
const MAX_STEPS: u32 = 100;

/// A Weibull distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weibull {
    /// Scale.
    pub(super) scale: f64,
    /// Shape; infinite if all samples are equal.
    pub(super) shape: f64,
}

/// `Σ u^j e^(k u)` for j = 0 to 3. No `u` is positive.
#[inline(always)]
fn power_sums(us: &[f64], k: f64) -> [f64; 4] {
    let mut sums = [[0.0; LANES]; 4];
    let (chunks, rest) = us.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let u = chunk[lane];
            let exponent = k * u;
            let power = exp(if exponent > FLOOR { exponent } else { FLOOR });
            let first = u * power;
            let second = u * first;
            sums[0][lane] += power;
            sums[1][lane] += first;
            sums[2][lane] += second;
            sums[3][lane] += u * second;
        }
    }
    let mut sums = sums.map(|lanes| lanes.iter().sum::<f64>());
    for &u in rest {
        let mut term = exp((k * u).max(FLOOR));
        for sum in &mut sums {
            *sum += term;
            term *= u;
        }
    }
    sums
}

/// Subtracts the greatest of `logs` from all of them. Returns it, with mean and variance of the differences.
#[inline(always)]
fn shift(logs: &mut [f64]) -> (f64, f64, f64) {
    let n = logs.len() as f64;
    let mut greatest = [f64::NEG_INFINITY; LANES];
    let (chunks, rest) = logs.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            greatest[lane] = if chunk[lane] > greatest[lane] { chunk[lane] } else { greatest[lane] };
        }
    }
    let greatest = greatest.iter().chain(rest).copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut squares) = ([0.0; LANES], [0.0; LANES]);
    let (chunks, rest) = logs.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let u = chunk[lane] - greatest;
            chunk[lane] = u;
            sum[lane] += u;
            squares[lane] += u * u;
        }
    }
    for (lane, u) in rest.iter_mut().enumerate() {
        *u -= greatest;
        sum[lane] += *u;
        squares[lane] += *u * *u;
    }
    let mean = sum.iter().sum::<f64>() / n;
    (greatest, mean, squares.iter().sum::<f64>() / n - mean * mean)
}

impl Weibull {
    /// The fit to samples with the natural logarithms `logs`. Subtracts the maximum from `logs`.
    #[inline(always)]
    pub(super) fn fit_logs(logs: &mut [f64]) -> Self {
        let n = logs.len() as f64;
        let (greatest, mean, variance) = shift(logs);
        // The logarithms of equal samples differ by rounding at most.
        if variance.is_nan() || variance <= 1e-24 {
            return Self { scale: greatest.exp(), shape: f64::INFINITY };
        }
        // The logarithms of Weibull samples have a standard deviation of π/√6 divided by the shape.
        let guess = |variance: f64| std::f64::consts::PI / (6.0 * variance).sqrt();
        let mut start = guess(variance);
        if logs.len() >= MIN_COARSE {
            let mut some: Vec<f64> = logs.iter().step_by(COARSENESS).copied().collect();
            let (_, mean, variance) = shift(&mut some);
            if variance > 1e-24 {
                let (shape, _) = root(&some, mean, guess(variance), SMALL_COARSE_STEP);
                // If the samples in between are very different, this start is no better than the first guess.
                start = shape.clamp(start / 4.0, start * 4.0);
            }
        }
        let (shape, sum) = root(logs, mean, start, SMALL_STEP);
        Self { scale: ((sum / n).ln() / shape + greatest).exp(), shape }
    }
}

/// The shape of greatest likelihood for `us` with this `mean`, and `Σ e^(shape u)`. The maximum of `us` is 0.
#[inline(always)]
fn root(us: &[f64], mean: f64, start: f64, small_step: f64) -> (f64, f64) {
    let mut k = start;
    let (mut low, mut high) = (0.0, f64::INFINITY);
    for _ in 0..MAX_STEPS {
        let [s0, s1, s2, s3] = power_sums(us, k);
        let (m1, m2, m3) = (s1 / s0, s2 / s0, s3 / s0);
        let value = m1 - 1.0 / k - mean;
        if value > 0.0 {
            high = k
        } else {
            low = k
        }
        let slope = m2 - m1 * m1 + 1.0 / (k * k);
        let curvature = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1 - 2.0 / (k * k * k);
        // Halley's step.
        let step = -2.0 * value * slope / (2.0 * slope * slope - value * curvature);
        let next = k + step;
        if !(next > low && next < high) {
            k = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * k };
            continue;
        }
        if step.abs() <= small_step * k {
            // The sum at the new shape, from its derivatives at the old one.
            return (next, s0 + step * (s1 + step / 2.0 * (s2 + step / 3.0 * s3)));
        }
        k = next;
    }
    (k, power_sums(us, k)[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of a Weibull distribution.
    fn samples(scale: f64, shape: f64, n: u32) -> Vec<f64> {
        (0..n).map(|i| scale * (-(1.0 - (f64::from(i) + 0.5) / f64::from(n)).ln()).powf(1.0 / shape)).collect()
    }

    #[test]
    fn the_fit_is_where_the_likelihood_is_greatest() {
        for (scale, shape) in [(0.01, 0.6), (3.0, 1.4), (40.0, 7.0)] {
            let xs = samples(scale, shape, 1003);
            let mut logs: Vec<f64> = xs.iter().map(|x| x.ln()).collect();
            let fit = Weibull::fit_logs(&mut logs);
            assert!((fit.shape / shape - 1.0).abs() < 0.01 && (fit.scale / scale - 1.0).abs() < 0.01, "{fit:?}");
            let likelihood = |scale: f64, shape: f64| -> f64 {
                xs.iter()
                    .map(|x| (shape / scale).ln() + (shape - 1.0) * (x / scale).ln() - (x / scale).powf(shape))
                    .sum()
            };
            let best = likelihood(fit.scale, fit.shape);
            for (a, b) in [(1.0 + 1e-5, 1.0), (1.0 - 1e-5, 1.0), (1.0, 1.0 + 1e-5), (1.0, 1.0 - 1e-5)] {
                assert!(likelihood(fit.scale * a, fit.shape * b) < best, "{fit:?} {a} {b}");
            }
        }
    }

    #[test]
    fn equal_samples_have_an_infinite_shape() {
        let fit = Weibull::fit_logs(&mut vec![0.3_f64.ln(); 50]);
        assert_eq!(fit.shape, f64::INFINITY);
        assert!((fit.scale - 0.3).abs() < 1e-12);
    }

    #[test]
    fn a_few_samples_far_from_the_rest_are_fitted_too() {
        for n_far in [1, 3, 60] {
            let mut logs = vec![f64::EPSILON.ln(); 64];
            logs[..n_far].fill(4.0);
            let fit = Weibull::fit_logs(&mut logs.clone());
            let sum = |j: i32| logs.iter().map(|l| l.powi(j) * (fit.shape * (l - 4.0)).exp()).sum::<f64>();
            let root = sum(1) / sum(0) - 1.0 / fit.shape - logs.iter().sum::<f64>() / 64.0;
            assert!(fit.shape > 0.0 && root.abs() < 1e-6, "{n_far}: {fit:?}, {root}");
        }
    }
}
