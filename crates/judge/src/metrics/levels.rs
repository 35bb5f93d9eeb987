//! Ranks of a series. Rank correlations depend on nothing else.

/// A series reduced to its order: equal values share a level, and levels ascend from 0 without gaps.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    /// Level of each value.
    pub(super) of_value: Vec<u32>,
    /// Positions of the values, ascending by value.
    pub(super) order: Vec<u32>,
    /// Number of distinct values.
    pub(super) n_levels: usize,
}

impl Levels {
    /// Levels of finite `values`.
    pub(super) fn of(values: &[f64]) -> Self {
        let n = u32::try_from(values.len()).expect("fewer than 2^32 images in memory");
        let mut order: Vec<u32> = (0..n).collect();
        // -0 and +0 are the same score, but `total_cmp` alone would order them.
        let value = |position: u32| values[position as usize] + 0.0;
        order.sort_unstable_by(|&a, &b| value(a).total_cmp(&value(b)));
        let mut of_value = vec![0; values.len()];
        let mut n_levels = 0;
        for (rank, &position) in order.iter().enumerate() {
            if rank == 0 || value(order[rank - 1]) != value(position) {
                n_levels += 1;
            }
            of_value[position as usize] = n_levels - 1;
        }
        Self { of_value, order, n_levels: n_levels as usize }
    }

    /// Total weight on each level.
    pub(super) fn counts(&self, weights: &[u32]) -> Vec<u64> {
        let mut counts = vec![0; self.n_levels];
        for (&level, &weight) in self.of_value.iter().zip(weights) {
            counts[level as usize] += u64::from(weight);
        }
        counts
    }
}

/// Twice the average rank of each level, minus the mean rank. The results are integers, so sums over them are exact.
///
/// With `c` values on a level and `before` below it, the average rank is `before + (c + 1) / 2`.
pub(super) fn doubled_centred_ranks(counts: &[u64]) -> Vec<f64> {
    let n: u64 = counts.iter().sum();
    let mut before = 0_u64;
    counts
        .iter()
        .map(|&count| {
            let doubled_rank = 2 * before + count + 1;
            before += count;
            doubled_rank as f64 - (n + 1) as f64
        })
        .collect()
}

/// Ranks from 1. Equal values share the average of their ranks. `values` must be finite.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let levels = Levels::of(values);
    let doubled = doubled_centred_ranks(&levels.counts(&vec![1; values.len()]));
    let mean = (values.len() + 1) as f64 / 2.0;
    levels.of_value.iter().map(|&level| doubled[level as usize] / 2.0 + mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_the_average_of_their_ranks() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, -0.0, 0.0, 3.0]), [5.0, 3.0, 5.0, 1.5, 1.5, 5.0]);
        assert!(average_ranks(&[]).is_empty());
    }
}
