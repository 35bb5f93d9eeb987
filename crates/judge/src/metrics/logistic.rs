//! The 4-parameter logistic that maps scores to the MOS scale before PLCC and RMSE are computed.
//!
//! ```text
//! mapped(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))        min over b1..b4 of Σ (mapped(score) - mos)²
//! ```
//!
//! Published evaluations minimise this over all four parameters at once, with MINPACK and the start b1 = max MOS, b2 =
//! min MOS, b3 = mean score, b4 = 0.5. On nearly linear data this problem has no finite optimum (b1 and b3 diverge
//! along a valley of condition 1e6 and more), and the steep start depends on the scale of the scores.
//!
//! This module solves the same least-squares problem by **variable projection** (Golub and Pereyra, 1973). For a given
//! shape `s(x) = 1 / (1 + exp(-(slope x - shift)))` the best `b1` and `b2` are a linear regression of the MOS on `s`.
//! Two parameters are left for Levenberg-Marquardt (with Kaufman's Jacobian, 1975). The divergence in four parameters
//! corresponds to `slope → 0` here, and the regression is well behaved there: the limit is a straight line. If MINPACK
//! finds the optimum, this method finds the same one, to the tolerances of the reference cases. If MINPACK stops on its
//! way down the valley, this method gets as low or lower.
//!
//! The problem may have several minima. The fit of a sample starts from the published start and from the best of a grid
//! of shapes placed by the scores' quantiles, and keeps the lowest minimum. A resample starts from the sample's own
//! optimum.

use super::correlation::Standardised;

/// Number of samples below which the mapping is undefined. Four parameters fit four samples, and nearly five, exactly
/// whatever the scores are worth.
const MIN_SAMPLES: u64 = 6;

/// Smallest slope over scores in [-1, 1]. The curve then differs from its limit, a straight line, by a relative 1e-9.
const MIN_SLOPE: f64 = 1e-4;

/// Largest slope: a step between any two scores that differ by 1e-7 of their range.
const MAX_SLOPE: f64 = 1e9;

/// Largest distance of the midpoint beyond the scores, in units of the logistic's argument. At `exp(-12)` the curve has
/// become its limit, an exponential. A larger distance would only lose digits.
const MAX_BEYOND: f64 = 12.0;

/// Relative decrease of the sum of squares at which the search ends.
const TOLERANCE: f64 = 1e-10;

/// The same tolerance for a resample. It is MINPACK's own tolerance, far below the differences between resamples.
const RESAMPLE_TOLERANCE: f64 = 1.49e-8;

const MAX_STEPS: usize = 100;

/// Number of starts, among all that are tried, from which the search continues to its end.
const N_FOLLOWED: usize = 3;

/// Parameters of the mapping, as published: `b4` is positive, and `b1 < b2` if the mapping decreases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logistic4 {
    /// Value at the far right, on the MOS scale.
    pub b1: f64,
    /// Value at the far left, on the MOS scale.
    pub b2: f64,
    /// Score at the midpoint.
    pub b3: f64,
    /// Width, in units of the score; positive.
    pub b4: f64,
}

impl Logistic4 {
    /// The score, mapped to the MOS scale.
    pub fn map(&self, score: f64) -> f64 {
        self.b2 + (self.b1 - self.b2) / (1.0 + (-(score - self.b3) / self.b4.abs()).exp())
    }
}

/// Shape of the curve over standardised scores: `1 / (1 + exp(-(slope x - shift)))`. The slope is positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    slope: f64,
    shift: f64,
}

impl Shape {
    /// The same curve within bounds. A curve with a negative slope is flipped; the regression then flips its sign.
    fn new(slope: f64, shift: f64) -> Self {
        let (slope, shift) = if slope < 0.0 { (-slope, -shift) } else { (slope, shift) };
        let slope = slope.clamp(MIN_SLOPE, MAX_SLOPE);
        Self { slope, shift: shift.clamp(-slope - MAX_BEYOND, slope + MAX_BEYOND) }
    }

    /// The side (1 right, -1 left) on which the midpoint has reached its bound.
    fn side(&self) -> Option<f64> {
        let side = self.shift.signum();
        (self.shift.abs() >= self.slope + MAX_BEYOND).then_some(side)
    }
}

/// A fitted mapping. Numbers are on the standardised scale of the MOS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// The curve.
    pub(super) shape: Shape,
    /// Correlation of mapped scores and MOS; `None` if either is constant.
    pub(super) plcc: Option<f64>,
    /// Root mean squared error of the mapped scores.
    pub(super) rmse: f64,
    low: f64,
    rise: f64,
}

impl Fit {
    /// The four parameters on the scales of the data.
    pub(super) fn parameters(&self, scores: &Standardised, mos: &Standardised) -> Logistic4 {
        Logistic4 {
            b1: mos.centre + mos.scale * (self.low + self.rise),
            b2: mos.centre + mos.scale * self.low,
            b3: scores.centre + scores.scale * self.shape.shift / self.shape.slope,
            b4: scores.scale / self.shape.slope,
        }
    }
}

/// Fits the mapping to weighted pairs, from `start` or, without one, from many starts. `None` below six samples.
pub(super) fn fit(scores: &Standardised, mos: &Standardised, weights: &[u32], start: Option<Shape>) -> Option<Fit> {
    if weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() < MIN_SAMPLES {
        return None;
    }
    let mut problem = Problem::new(scores, mos, weights);
    if let Some(start) = start {
        return Some(problem.descend(start, RESAMPLE_TOLERANCE));
    }
    let mut starts: Vec<(f64, Shape)> =
        problem.grid(scores).into_iter().map(|shape| (problem.sum_of_squares_at(shape), shape)).collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    // The published start, b4 = 0.5 around the mean score, is always followed. It wins if all starts give the same
    // result.
    let published = Shape::new(scores.scale / 0.5, 0.0);
    let followed = [published].into_iter().chain(starts.iter().take(N_FOLLOWED).map(|&(_, shape)| shape));
    followed.map(|shape| problem.descend(shape, TOLERANCE)).min_by(|a, b| a.rmse.total_cmp(&b.rmse))
}

/// The two-parameter problem on the samples that have weight, with buffers for the vectors of one step.
struct Problem {
    xs: Vec<f64>,
    /// MOS minus their weighted mean.
    ys: Vec<f64>,
    weights: Vec<f64>,
    n: f64,
    mean_y: f64,
    /// Sum of squares of `ys`.
    yy: f64,
    x_varies: bool,
    y_varies: bool,
    /// The curve of the last evaluated shape, and the same curve minus its mean.
    curve: Vec<f64>,
    centred: Vec<f64>,
}

/// The regression of the MOS on the curve of one shape.
#[derive(Clone, Copy)]
struct Regression {
    mean_curve: f64,
    /// Sum of squares of the centred curve.
    ss: f64,
    rise: f64,
    sum_of_squares: f64,
    /// Numerator of the correlation: sum of products of the centred curve and the MOS.
    sy: f64,
}

impl Problem {
    fn new(scores: &Standardised, mos: &Standardised, weights: &[u32]) -> Self {
        let (mut xs, mut ys, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for ((&x, &y), &weight) in scores.values.iter().zip(&mos.values).zip(weights) {
            if weight > 0 {
                xs.push(x);
                ys.push(y);
                kept.push(f64::from(weight));
            }
        }
        let n: f64 = kept.iter().sum();
        let mean_y = dot(&kept, &ys) / n;
        let x_varies = xs.iter().any(|x| *x != xs[0]);
        let y_varies = ys.iter().any(|y| *y != ys[0]);
        ys.iter_mut().for_each(|y| *y = if y_varies { *y - mean_y } else { 0.0 });
        let yy = ys.iter().zip(&kept).map(|(y, weight)| weight * y * y).sum();
        let room = vec![0.0; xs.len()];
        Self { xs, ys, weights: kept, n, mean_y, yy, x_varies, y_varies, curve: room.clone(), centred: room }
    }

    /// Shapes to start from: midpoints at quantiles and beyond both ends, widths around the scores' typical spread.
    fn grid(&self, scores: &Standardised) -> Vec<Shape> {
        let mut sorted = scores.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        // A few extreme outliers stretch the standard deviation but not the quartiles. Ties may collapse the quartiles.
        let from_quartiles = (quantile(0.75) - quantile(0.25)) / 1.349;
        let deviation = (sorted.iter().map(|x| x * x).sum::<f64>() / sorted.len() as f64).sqrt();
        let spread = if from_quartiles > 0.0 { from_quartiles } else { deviation.max(f64::MIN_POSITIVE) };
        // The first shape is practically a straight line, so no fit is worse than a line.
        let mut shapes = vec![Shape::new(10.0 * MIN_SLOPE, 0.0), Shape::new(0.1 / spread, 0.0)];
        for steepness in [0.5, 1.0, 2.0, 4.0, 8.0] {
            let slope = (steepness / spread).min(MAX_SLOPE);
            shapes.extend([0.1, 0.3, 0.5, 0.7, 0.9].map(|share| Shape::new(slope, slope * quantile(share))));
            shapes.extend([Shape::new(slope, slope + 6.0), Shape::new(slope, -slope - 6.0)]);
        }
        shapes
    }

    fn sum_of_squares_at(&mut self, shape: Shape) -> f64 {
        self.regress(shape).sum_of_squares
    }

    /// Regresses the MOS on the curve of `shape`. Leaves the curve in `self`.
    fn regress(&mut self, shape: Shape) -> Regression {
        for (curve, x) in self.curve.iter_mut().zip(&self.xs) {
            *curve = 1.0 / (1.0 + (shape.shift - shape.slope * x).exp());
        }
        let mean_curve = dot(&self.weights, &self.curve) / self.n;
        let (mut ss, mut sy) = (0.0, 0.0);
        for (index, centred) in self.centred.iter_mut().enumerate() {
            *centred = self.curve[index] - mean_curve;
            let weighted = self.weights[index] * *centred;
            ss += weighted * *centred;
            sy += weighted * self.ys[index];
        }
        // Below the curve's own rounding, no variance is left for a regression: the midpoint is far from all scores.
        let rise = if ss > 1e-30 * self.n { sy / ss } else { 0.0 };
        let rest = self.ys.iter().zip(&self.centred).zip(&self.weights);
        let sum_of_squares = rest
            .map(|((y, centred), weight)| {
                let residual = y - rise * centred;
                weight * residual * residual
            })
            .sum();
        Regression { mean_curve, ss, rise, sum_of_squares, sy }
    }

    /// Levenberg-Marquardt from `start` to the nearest minimum.
    fn descend(&mut self, start: Shape, tolerance: f64) -> Fit {
        let (mut shape, mut at) = (start, self.regress(start));
        let mut damping = 1e-3;
        // When an iteration begins with `fresh`, the curve in `self` is the curve of `shape`.
        let mut fresh = true;
        let mut step = None;
        for _ in 0..MAX_STEPS {
            if !self.x_varies || !self.y_varies || at.sum_of_squares == 0.0 || at.rise == 0.0 {
                break;
            }
            if fresh {
                step = Some(self.normal_equations(&at));
                fresh = false;
            }
            if let Some(candidate) = step.as_ref().and_then(|step: &NormalEquations| step.candidate(shape, damping)) {
                let next = self.regress(candidate);
                // The comparison is not `<`: a step that changes nothing within rounding means that this is the
                // minimum.
                if next.sum_of_squares <= at.sum_of_squares {
                    let converged = at.sum_of_squares - next.sum_of_squares <= tolerance * at.sum_of_squares;
                    (shape, at) = (candidate, next);
                    (fresh, damping) = (true, (damping * 0.1).max(1e-9));
                    if converged {
                        break;
                    }
                    continue;
                }
            }
            damping *= 8.0;
            if damping > 1e12 {
                break;
            }
        }
        self.finish(shape, at)
    }

    fn finish(&self, shape: Shape, at: Regression) -> Fit {
        // A mapping that does not depend on the score has an error but no correlation.
        let correlated = self.x_varies && self.y_varies && at.rise != 0.0;
        let (rise, sum_of_squares) = if self.x_varies { (at.rise, at.sum_of_squares) } else { (0.0, self.yy) };
        Fit {
            shape,
            plcc: correlated.then(|| (at.sy.abs() / (at.ss * self.yy).sqrt()).min(1.0)).filter(|plcc| plcc.is_finite()),
            rmse: (sum_of_squares / self.n).sqrt(),
            low: self.mean_y - rise * at.mean_curve,
            rise,
        }
    }

    /// The linear problem of one step, from the curve that [`Self::regress`] has left.
    ///
    /// Kaufman's Jacobian of the residuals `y - rise · centred` is the curve's Jacobian times `-rise`, with its
    /// projection on the constant and on the curve removed. The regression follows these two directions by itself.
    fn normal_equations(&self, at: &Regression) -> NormalEquations {
        let moments = self.weights.iter().zip(&self.curve).zip(self.xs.iter().zip(&self.centred));
        let (mut sums, mut products) = ([0.0; 2], [0.0; 2]);
        for ((weight, s), (x, centred)) in moments {
            let by_shift = -s * (1.0 - s);
            for (index, derivative) in [-by_shift * x, by_shift].into_iter().enumerate() {
                sums[index] += weight * derivative;
                products[index] += weight * derivative * centred;
            }
        }
        let mut equations = NormalEquations { jj: [0.0; 3], jr: [0.0; 2] };
        for (index, weight) in self.weights.iter().enumerate() {
            let (s, centred) = (self.curve[index], self.centred[index]);
            let by_shift = -s * (1.0 - s);
            let residual = self.ys[index] - at.rise * centred;
            let project =
                |k: usize, derivative: f64| at.rise * (derivative - sums[k] / self.n - centred * products[k] / at.ss);
            let (by_slope, by_shift) = (project(0, -by_shift * self.xs[index]), project(1, by_shift));
            equations.jj[0] += weight * by_slope * by_slope;
            equations.jj[1] += weight * by_slope * by_shift;
            equations.jj[2] += weight * by_shift * by_shift;
            equations.jr[0] += weight * by_slope * residual;
            equations.jr[1] += weight * by_shift * residual;
        }
        equations
    }
}

/// `JᵀJ` (upper triangle) and `Jᵀr` of one step.
struct NormalEquations {
    jj: [f64; 3],
    jr: [f64; 2],
}

impl NormalEquations {
    /// The shape one damped step away from `from`; `None` if no direction changes anything.
    fn candidate(&self, from: Shape, damping: f64) -> Option<Shape> {
        let delta = self.solve(damping)?;
        let candidate = Shape::new(from.slope + delta[0], from.shift + delta[1]);
        match from.side() {
            // A step cut off at the bound would not be a Marquardt step. The best step along the bound is taken
            // instead.
            Some(side) if candidate.side() == Some(side) => {
                let [a, b, c] = self.jj;
                let along = (self.jr[0] + side * self.jr[1]) / ((a + 2.0 * side * b + c) * (1.0 + damping));
                let slope = from.slope + along;
                slope.is_finite().then(|| Shape::new(slope, side * (slope.abs() + MAX_BEYOND)))
            }
            _ => Some(candidate),
        }
    }

    /// The step (slope, shift) under Marquardt's damping; `None` if no direction changes anything.
    fn solve(&self, damping: f64) -> Option<[f64; 2]> {
        let [a, b, c] = self.jj;
        // A direction without effect gets a step of zero instead of making the system singular.
        let largest = a.max(c);
        let (a, c) = (a + damping * a.max(1e-14 * largest), c + damping * c.max(1e-14 * largest));
        let determinant = a * c - b * b;
        let step = [(c * self.jr[0] - b * self.jr[1]) / determinant, (a * self.jr[1] - b * self.jr[0]) / determinant];
        (determinant > 0.0 && step.iter().all(|value| value.is_finite())).then_some(step)
    }
}

fn dot(xs: &[f64], ys: &[f64]) -> f64 {
    xs.iter().zip(ys).map(|(x, y)| x * y).sum()
}
