//! Sums over samples, for fits of asymmetric generalised Gaussians.

/// Number of samples handled in parallel. Sums have a fixed order, so a wider vector unit gives the same bits.
const LANES: usize = 8;

/// Running sums over samples. Zeros belong to neither side.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    n: usize,
    lanes: Lanes,
}

/// The sums, [`LANES`] of each.
///
/// A row is added to a copy of the sums on the stack, without branches, so that they stay in registers. As fields
/// behind a reference, they were loaded and stored under a mask for every chunk, at four times the cost.
#[derive(Clone, Copy, Debug, Default)]
struct Lanes {
    n_negative: [u64; LANES],
    n_positive: [u64; LANES],
    squares_negative: [f64; LANES],
    squares_positive: [f64; LANES],
    magnitudes: [f64; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, xs: [f64; LANES]) {
        for (lane, &x) in xs.iter().enumerate() {
            let negative = if x < 0.0 { x } else { 0.0 };
            let positive = if x > 0.0 { x } else { 0.0 };
            self.n_negative[lane] = self.n_negative[lane].wrapping_add(u64::from(x < 0.0));
            self.n_positive[lane] = self.n_positive[lane].wrapping_add(u64::from(x > 0.0));
            self.squares_negative[lane] += negative * negative;
            self.squares_positive[lane] += positive * positive;
            self.magnitudes[lane] += x.abs();
        }
    }
}

/// Moments computed from [`Sums`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    /// Root mean square of the negative samples; NaN without any.
    pub(super) left: f64,
    /// Root mean square of the positive samples; NaN without any.
    pub(super) right: f64,
    /// Mean of `|x|`.
    pub(super) mean_magnitude: f64,
    /// Mean of `x²`.
    pub(super) mean_square: f64,
}

impl Sums {
    /// Adds the samples `xs`.
    #[inline(always)]
    pub(super) fn add(&mut self, xs: &[f64]) {
        self.n += xs.len();
        let mut lanes = self.lanes;
        let (chunks, rest) = xs.as_chunks::<LANES>();
        for chunk in chunks {
            lanes.add(*chunk);
        }
        if !rest.is_empty() {
            // Zeros change no sum.
            let mut chunk = [0.0; LANES];
            chunk[..rest.len()].copy_from_slice(rest);
            lanes.add(chunk);
        }
        self.lanes = lanes;
    }

    /// The moments of the samples added so far.
    pub(super) fn moments(&self) -> Moments {
        let Lanes { n_negative, n_positive, squares_negative, squares_positive, magnitudes } = self.lanes;
        let [n_negative, n_positive] = [n_negative, n_positive].map(|lanes| lanes.iter().sum::<u64>() as f64);
        let [squares_negative, squares_positive, magnitudes] =
            [squares_negative, squares_positive, magnitudes].map(|lanes| lanes.iter().sum::<f64>());
        let n = self.n as f64;
        Moments {
            left: (squares_negative / n_negative).sqrt(),
            right: (squares_positive / n_positive).sqrt(),
            mean_magnitude: magnitudes / n,
            mean_square: (squares_negative + squares_positive) / n,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_agree_with_the_definition(xs in proptest::collection::vec(-4_i32..5, 1..70)) {
            let xs: Vec<f64> = xs.into_iter().map(f64::from).collect();
            let mut sums = Sums::default();
            sums.add(&xs[..xs.len() / 3]);
            sums.add(&xs[xs.len() / 3..]);
            let found = sums.moments();
            let root_mean_square = |side: Vec<f64>| {
                (side.iter().map(|x| x * x).sum::<f64>() / side.len() as f64).sqrt()
            };
            let left = root_mean_square(xs.iter().copied().filter(|x| *x < 0.0).collect());
            let right = root_mean_square(xs.iter().copied().filter(|x| *x > 0.0).collect());
            prop_assert!(found.left == left || (found.left.is_nan() && left.is_nan()));
            prop_assert!(found.right == right || (found.right.is_nan() && right.is_nan()));
            prop_assert_eq!(found.mean_magnitude, xs.iter().map(|x| x.abs()).sum::<f64>() / xs.len() as f64);
            prop_assert_eq!(found.mean_square, xs.iter().map(|x| x * x).sum::<f64>() / xs.len() as f64);
        }
    }
}
