//! Fits of generalised Gaussians (GGD) and asymmetric ones (AGGD) by moment matching on a grid of shapes.
//!
//! The reference searches the grid of shapes `0.2:0.001:10` for the one whose moment ratio is nearest to the sample's.
//! The ratio is monotone in the shape, so a binary search finds the same grid value.

use std::cmp::Ordering;
use std::sync::LazyLock;

use super::moments::Moments;

/// Number of values of the grid.
const N_SHAPES: usize = 9801;

/// A grid value `a` and the quantities that depend on it alone.
#[derive(Clone, Copy)]
struct Shape {
    /// `a`.
    alpha: f64,
    /// `Γ(2/a)² / (Γ(1/a) Γ(3/a))`, which increases with `a`.
    ratio: f64,
    /// `√(Γ(1/a) / Γ(3/a))`: standard deviation to scale.
    scale: f64,
    /// `Γ(2/a) / Γ(1/a)`: scale to mean magnitude.
    mean: f64,
}

static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    (0..N_SHAPES)
        .map(|step| {
            let alpha = 0.2 + step as f64 * 0.001;
            let [first, second, third] = [1.0, 2.0, 3.0].map(|k| libm::tgamma(k / alpha));
            Shape {
                alpha,
                ratio: second * second / (first * third),
                scale: (first / third).sqrt(),
                mean: second / first,
            }
        })
        .collect()
});

/// The grid value with the least `distance`. `order` compares a grid value's ratio with the wanted ratio.
fn nearest(order: impl Fn(&Shape) -> Ordering, distance: impl Fn(&Shape) -> f64) -> &'static Shape {
    let above = SHAPES.partition_point(|shape| order(shape) == Ordering::Less).min(N_SHAPES - 1);
    let below = above.saturating_sub(1);
    // Of two equally near values the first wins, as in MATLAB's `min`.
    if distance(&SHAPES[below]) <= distance(&SHAPES[above]) { &SHAPES[below] } else { &SHAPES[above] }
}

/// An asymmetric generalised Gaussian. Its scales and mean are NaN if the samples have no negative or no positive side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Asymmetric {
    /// Shape.
    pub(super) alpha: f64,
    /// Scale of the negative side.
    pub(super) left: f64,
    /// Scale of the positive side.
    pub(super) right: f64,
    /// Mean: `(right - left) Γ(2/a) / Γ(1/a)`.
    pub(super) mean: f64,
}

impl Asymmetric {
    /// The fit to samples with these moments. Lasmar, Stitou, Berthoumieu, "Multiscale skewed heavy tailed model for
    /// texture analysis", ICIP 2009.
    pub(super) fn fit(moments: &Moments) -> Self {
        let &Moments { left, right, mean_magnitude, mean_square } = moments;
        let skew = left / right;
        let ratio = mean_magnitude * mean_magnitude / mean_square * (skew.powi(3) + 1.0) * (skew + 1.0)
            / (skew * skew + 1.0).powi(2);
        let shape = if ratio.is_nan() {
            &SHAPES[0]
        } else {
            nearest(|shape| shape.ratio.total_cmp(&ratio), |shape| (shape.ratio - ratio).abs())
        };
        let (left, right) = (left * shape.scale, right * shape.scale);
        Self { alpha: shape.alpha, left, right, mean: (right - left) * shape.mean }
    }
}

/// Shape of the generalised Gaussian with zero mean that fits samples with these moments.
pub(super) fn symmetric_shape(moments: &Moments) -> f64 {
    // Distances between inverse ratios resolve ties and near ties as the reference does.
    let ratio = moments.mean_square / (moments.mean_magnitude * moments.mean_magnitude);
    if ratio.is_nan() {
        return SHAPES[0].alpha;
    }
    nearest(|shape| ratio.total_cmp(&(1.0 / shape.ratio)), |shape| (1.0 / shape.ratio - ratio).abs()).alpha
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference's own search.
    fn exhaustive(distance: impl Fn(&Shape) -> f64) -> f64 {
        let mut best = &SHAPES[0];
        for shape in SHAPES.iter() {
            if distance(shape) < distance(best) {
                best = shape;
            }
        }
        best.alpha
    }

    #[test]
    fn the_binary_search_finds_what_a_search_of_the_whole_grid_finds() {
        for step in 0..2000 {
            let mean_square = 0.9 + 9e-4 * f64::from(step) * f64::from(step % 37);
            let moments = Moments { left: 0.7, right: 0.9, mean_magnitude: 0.8, mean_square };
            let ratio = 0.64 / mean_square;
            let skew: f64 = 0.7 / 0.9;
            let skewed = ratio * (skew.powi(3) + 1.0) * (skew + 1.0) / (skew * skew + 1.0).powi(2);
            assert_eq!(Asymmetric::fit(&moments).alpha, exhaustive(|shape| (shape.ratio - skewed).abs()));
            assert_eq!(symmetric_shape(&moments), exhaustive(|shape| (1.0 / shape.ratio - mean_square / 0.64).abs()));
        }
    }

    #[test]
    fn the_shape_of_a_normal_distribution_is_two() {
        let half_normal = (2.0 / std::f64::consts::PI).sqrt();
        let moments = Moments { left: 1.0, right: 1.0, mean_magnitude: half_normal, mean_square: 1.0 };
        assert!((Asymmetric::fit(&moments).alpha - 2.0).abs() < 1e-9);
        assert!((symmetric_shape(&moments) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn samples_of_one_sign_have_no_scale_on_the_other_side() {
        let moments = Moments { left: f64::NAN, right: 1.0, mean_magnitude: 1.0, mean_square: 1.0 };
        let fit = Asymmetric::fit(&moments);
        assert_eq!(fit.alpha, 0.2);
        assert!(fit.left.is_nan() && fit.mean.is_nan() && fit.right.is_finite());
    }
}
