//! Whether two nights' scores are of one distribution: population stability index, Kolmogorov and Smirnov's D, and
//! Wasserstein's distance, as functions of two histograms over the same bins.
//!
//! Two samples of one distribution differ, and the smaller they are the more. So the index and D come with the value that
//! one pair in a hundred exceeds by chance.

use std::ops::RangeInclusive;

/// Bins of equal width over the scale. An open bin follows at each end.
pub const N_BINS: usize = 64;

/// Scores that a bin of the index holds at least, of both samples together: neighbours are united until they do. The
/// index of bins with fewer is not distributed as its null says.
const MIN_BIN: u64 = 20;

/// The 99 % point of the standard normal distribution.
const Z_99: f64 = 2.326_347_9;

/// The 99 % point of Kolmogorov's distribution.
const KOLMOGOROV_99: f64 = 1.627_624;

/// Counts of scores in fixed bins.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Width of a bin.
    pub width: f64,
    /// Scores below the scale, in each of the bins, and above the scale.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// The scores in [`N_BINS`] bins over `scale`.
    pub fn of(scores: impl Iterator<Item = f64>, scale: &RangeInclusive<f64>) -> Self {
        let width = (scale.end() - scale.start()) / N_BINS as f64;
        let mut counts = vec![0; N_BINS + 2];
        for score in scores {
            // The cast cuts what is outside the range. A scale of one point has all its scores in the first bin or the ends.
            let place = ((score - scale.start()) / width.max(f64::MIN_POSITIVE)).floor() + 1.0;
            let is_end = score == *scale.end();
            counts[if is_end { N_BINS } else { (place as usize).min(N_BINS + 1) }] += 1;
        }
        Self { width, counts }
    }

    /// Number of scores.
    pub fn n(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// How two samples differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Population stability index, `Σ (p − q) ln(p / q)` over bins.
    pub psi: f64,
    /// The index that one pair of samples of one distribution in a hundred exceeds: `(1/n + 1/m) χ²`.
    pub psi_null_p99: f64,
    /// The greatest difference of the two distribution functions, at the bins' ends.
    pub ks_d: f64,
    /// The D that one pair in a hundred exceeds.
    pub ks_null_p99: f64,
    /// The area between the two distribution functions within the scale, in units of the score.
    pub w1: f64,
}

impl Drift {
    /// The difference of two samples over the same bins; `None` if one is empty.
    pub fn between(a: &Histogram, b: &Histogram) -> Option<Self> {
        let (n, m) = (a.n(), b.n());
        if n == 0 || m == 0 {
            return None;
        }
        let (n, m) = (n as f64, m as f64);
        let (mut sum, mut ks_d, mut area) = ((0, 0), 0.0_f64, 0.0);
        for (at, (x, y)) in a.counts.iter().zip(&b.counts).enumerate() {
            sum = (sum.0 + x, sum.1 + y);
            let difference = (sum.0 as f64 / n - sum.1 as f64 / m).abs();
            ks_d = ks_d.max(difference);
            area += if at <= N_BINS { difference * a.width } else { 0.0 };
        }
        let bins = united(a, b);
        // Half a score more in each bin keeps an empty one finite.
        let share = |count: u64, n: f64| (count as f64 + 0.5) / (n + 0.5 * bins.len() as f64);
        let term = |&(x, y): &(u64, u64)| (share(x, n) - share(y, m)) * (share(x, n) / share(y, m)).ln();
        let spread = 1.0 / n + 1.0 / m;
        Some(Self {
            psi: bins.iter().map(term).sum(),
            psi_null_p99: spread * chi_square_p99(bins.len() as f64 - 1.0),
            ks_d,
            ks_null_p99: KOLMOGOROV_99 * spread.sqrt(),
            w1: area,
        })
    }
}

/// Counts of both samples, neighbours united.
fn united(a: &Histogram, b: &Histogram) -> Vec<(u64, u64)> {
    let mut bins: Vec<(u64, u64)> = Vec::new();
    let is_full = |(x, y): (u64, u64)| x + y >= MIN_BIN;
    for (x, y) in a.counts.iter().zip(&b.counts) {
        match bins.last_mut().filter(|bin| !is_full(**bin)) {
            Some(bin) => *bin = (bin.0 + x, bin.1 + y),
            None => bins.push((*x, *y)),
        }
    }
    if bins.len() > 1 && bins.last().is_some_and(|bin| !is_full(*bin)) {
        let rest = bins.pop().unwrap_or_default();
        bins.iter_mut().last().into_iter().for_each(|bin| *bin = (bin.0 + rest.0, bin.1 + rest.1));
    }
    bins
}

/// The 99 % point of χ² (Wilson and Hilferty, 1931); 0 for no degree of freedom.
fn chi_square_p99(freedom: f64) -> f64 {
    if freedom < 1.0 {
        return 0.0;
    }
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + Z_99 * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: RangeInclusive<f64> = 0.0..=1.0;

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A distribution: the bins that 65,536 equally likely scores fall into, four of which one random number draws.
    struct Drawn(Vec<u8>);

    impl Drawn {
        /// By its quantile function.
        fn of(quantile: impl Fn(f64) -> f64) -> Self {
            let bin = |index: u32| {
                let one = Histogram::of(std::iter::once(quantile((f64::from(index) + 0.5) / 65_536.0)), &SCALE);
                one.counts.iter().position(|count| *count == 1).expect("one score") as u8
            };
            Self((0..65_536).map(bin).collect())
        }

        fn night(&self, n: usize, state: &mut u64) -> Histogram {
            let mut counts = vec![0; N_BINS + 2];
            for _ in 0..n / 4 {
                let random = next(state);
                for shift in [0, 16, 32, 48] {
                    counts[usize::from(self.0[(random >> shift) as usize & 0xffff])] += 1;
                }
            }
            Histogram { width: 1.0 / N_BINS as f64, counts }
        }
    }

    /// Logistic, of mean `mean` and standard deviation `std`.
    fn bell(mean: f64, std: f64) -> Drawn {
        Drawn::of(move |p| mean + std * 3.0_f64.sqrt() / std::f64::consts::PI * (p / (1.0 - p)).ln())
    }

    /// What the checks `psi` and `ks` say by default.
    fn alarms(drift: &Drift) -> bool {
        drift.psi > drift.psi_null_p99.max(super::super::MAX_PSI)
            || drift.ks_d > drift.ks_null_p99.max(super::super::MAX_KS)
    }

    #[test]
    fn nights_of_one_distribution_raise_at_most_one_false_alarm_in_a_hundred() {
        let mut state = 1;
        let kinds = [
            bell(0.5, 0.15),
            bell(0.8, 0.3),
            Drawn::of(|p| p),
            Drawn::of(|p| (5.0 * p).floor() / 5.0),
            Drawn::of(|_| 0.3),
        ];
        for (kind, drawn) in kinds.iter().enumerate() {
            let n_alarms = (0..1000)
                .filter(|_| {
                    let pair = [drawn.night(1000, &mut state), drawn.night(1000, &mut state)];
                    Drift::between(&pair[0], &pair[1]).is_some_and(|drift| alarms(&drift))
                })
                .count();
            println!("1,000 pairs of nights of 1,000 scores, distribution {kind}: {n_alarms} false alarms");
            assert!(n_alarms <= 10, "distribution {kind}: {n_alarms} false alarms");
        }
        // 1,000 pairs among 100 nights of 100,000, a small night against a large one, and the nulls by themselves.
        let nights: Vec<Histogram> = (0..100).map(|_| kinds[0].night(100_000, &mut state)).collect();
        let small: Vec<Histogram> = (0..10).map(|_| kinds[0].night(200, &mut state)).collect();
        let pairs = (1..=10).flat_map(|step| (0..100).map(move |at| (at, (at + step) % 100)));
        let drifts: Vec<Drift> = pairs.filter_map(|(a, b)| Drift::between(&nights[a], &nights[b])).collect();
        let against_small = small.iter().flat_map(|a| nights.iter().map(move |b| Drift::between(a, b)));
        assert_eq!(drifts.len(), 1000);
        let n_alarms = drifts.iter().filter(|drift| alarms(drift)).count();
        println!("1,000 pairs of nights of 100,000 scores: {n_alarms} false alarms");
        assert_eq!(n_alarms, 0);
        assert!(against_small.flatten().filter(alarms).count() <= 10);
        let over = |is_over: fn(&Drift) -> bool| drifts.iter().filter(|drift| is_over(drift)).count();
        let (psi, ks) = (over(|drift| drift.psi > drift.psi_null_p99), over(|drift| drift.ks_d > drift.ks_null_p99));
        println!("of them, {psi} exceed the 99 % point of the index' null, and {ks} that of D");
        assert!((1..=25).contains(&psi) && ks <= 25, "1 % of 1,000 would be 10: {psi} and {ks}");
    }

    #[test]
    fn a_shift_of_a_tenth_of_the_scale_is_found_among_a_thousand() {
        let mut state = 2;
        for std in [0.1, 0.15, 0.2, 0.25] {
            let (before, after) = (bell(0.45, std), bell(0.55, std));
            for _ in 0..200 {
                let pair = [before.night(1000, &mut state), after.night(1000, &mut state)];
                let drift = Drift::between(&pair[0], &pair[1]).expect("both have scores");
                assert!(alarms(&drift), "standard deviation {std}: {drift:?}");
                assert!((drift.w1 - 0.1).abs() < 0.05, "{drift:?}");
            }
            println!("200 of 200 shifts by 0.1 are found among 1,000 scores of standard deviation {std}");
        }
    }

    #[test]
    fn scores_outside_the_scale_are_counted_at_its_ends_and_the_index_is_as_defined() {
        let histogram = Histogram::of([-9.0, 0.0, 0.5, 1.0, 9.0].into_iter(), &SCALE);
        let places: Vec<usize> = (0..N_BINS + 2).filter(|&bin| histogram.counts[bin] > 0).collect();
        assert_eq!(places, [0, 1, 33, N_BINS, N_BINS + 1]);
        let two = |low: u64, high: u64| {
            let mut counts = vec![0; N_BINS + 2];
            (counts[1], counts[N_BINS]) = (low, high);
            Histogram { width: 1.0 / N_BINS as f64, counts }
        };
        let drift = Drift::between(&two(600, 400), &two(400, 600)).expect("both have scores");
        let (p, q) = (600.5 / 1001.0, 400.5 / 1001.0);
        assert!((drift.psi - 2.0 * (p - q) * f64::ln(p / q)).abs() < 1e-12);
        assert!((drift.ks_d - 0.2).abs() < 1e-12 && (drift.w1 - 0.2 * 63.0 / 64.0).abs() < 1e-12, "{drift:?}");
        assert!((drift.psi_null_p99 - 0.002 * 6.635).abs() < 2e-4, "χ² of one degree of freedom: {drift:?}");
        assert_eq!(Drift::between(&two(0, 0), &two(1, 1)), None);
    }
}
