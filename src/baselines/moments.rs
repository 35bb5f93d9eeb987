//! Sums over samples that the fits of asymmetric generalised Gaussians need.

/// Samples handled side by side. Sums have a fixed order, so a wider vector unit gives the same bits.
const LANES: usize = 8;

/// Running sums over samples; zeros belong to neither side.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    n: usize,
    n_negative: [f64; LANES],
    n_positive: [f64; LANES],
    squares_negative: [f64; LANES],
    squares_positive: [f64; LANES],
    magnitudes: [f64; LANES],
}

/// What [`Sums`] amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    /// Root mean square of the negative samples; NaN where there are none.
    pub(super) left: f64,
    /// Root mean square of the positive samples; NaN where there are none.
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
        let (chunks, rest) = xs.as_chunks::<LANES>();
        for chunk in chunks {
            self.add_lanes(chunk);
        }
        if !rest.is_empty() {
            // Zeros change no sum.
            let mut chunk = [0.0; LANES];
            chunk[..rest.len()].copy_from_slice(rest);
            self.add_lanes(&chunk);
        }
    }

    /// Adds the products `xs[i] · ys[i]`.
    #[inline(always)]
    pub(super) fn add_products(&mut self, xs: &[f64], ys: &[f64]) {
        self.n += xs.len();
        let ((x_chunks, x_rest), (y_chunks, y_rest)) = (xs.as_chunks::<LANES>(), ys.as_chunks::<LANES>());
        for (xs, ys) in x_chunks.iter().zip(y_chunks) {
            self.add_lanes(&std::array::from_fn(|lane| xs[lane] * ys[lane]));
        }
        if !x_rest.is_empty() {
            let mut chunk = [0.0; LANES];
            for (product, (x, y)) in chunk.iter_mut().zip(x_rest.iter().zip(y_rest)) {
                *product = x * y;
            }
            self.add_lanes(&chunk);
        }
    }

    #[inline(always)]
    fn add_lanes(&mut self, xs: &[f64; LANES]) {
        for (lane, &x) in xs.iter().enumerate() {
            let square = x * x;
            self.n_negative[lane] += if x < 0.0 { 1.0 } else { 0.0 };
            self.n_positive[lane] += if x > 0.0 { 1.0 } else { 0.0 };
            self.squares_negative[lane] += if x < 0.0 { square } else { 0.0 };
            self.squares_positive[lane] += if x > 0.0 { square } else { 0.0 };
            self.magnitudes[lane] += x.abs();
        }
    }

    /// The moments of what has been added.
    pub(super) fn moments(&self) -> Moments {
        let [n_negative, n_positive, squares_negative, squares_positive, magnitudes] =
            [&self.n_negative, &self.n_positive, &self.squares_negative, &self.squares_positive, &self.magnitudes]
                .map(|lanes| lanes.iter().sum::<f64>());
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
        fn sums_are_those_of_the_definition(xs in proptest::collection::vec(-4_i32..5, 1..70)) {
            let xs: Vec<f64> = xs.into_iter().map(f64::from).collect();
            let mut sums = Sums::default();
            sums.add(&xs[..xs.len() / 3]);
            sums.add_products(&xs[xs.len() / 3..], &vec![1.0; xs.len() - xs.len() / 3]);
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
