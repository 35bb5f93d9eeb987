//! Gaussian derivatives of a plane. They are fitted block by block and not kept.

use super::elementary::ln;
use super::gaussians::Asymmetric;
use super::moments::Sums;
use super::nss::snapped;
use super::plane::{Border, Plane, before, horizontal_symmetric, pad, padded_len, rows_around};
use super::weibull::Weibull;

/// Taps of a derivative kernel: three standard deviations to each side of the middle, at both scales.
const N_TAPS: usize = 11;

/// Taps on one side of the middle.
const REACH: usize = N_TAPS / 2;

/// Kernels `x exp(-(x² + y²) / 2s²)` and `y exp(-(x² + y²) / 2s²)`, as the factors `smooth` and `slope`, not
/// normalised.
pub(super) struct Gradient {
    /// `exp(-x² / 2s²)`.
    smooth: [f64; N_TAPS],
    /// `x exp(-x² / 2s²)` for x > 0, from the middle outwards; antisymmetric.
    slope: [f64; REACH],
}

impl Gradient {
    /// Kernels of standard deviation `sigma`. Their half width `⌈3 sigma⌉` is 5.
    pub(super) fn new(sigma: f64) -> Self {
        debug_assert_eq!((3.0 * sigma).ceil() as usize, REACH, "both scales have 11 taps");
        let smooth = |x: f64| (-x * x / (2.0 * sigma * sigma)).exp();
        Self {
            smooth: std::array::from_fn(|tap| smooth(tap as f64 - REACH as f64)),
            slope: std::array::from_fn(|tap| (tap + 1) as f64 * smooth((tap + 1) as f64)),
        }
    }
}

/// Fits to a block's derivatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct DerivativeFits {
    /// Fit to the derivative along x.
    pub(super) x: Asymmetric,
    /// Fit to the derivative along y.
    pub(super) y: Asymmetric,
    /// Fit to the gradient's magnitude.
    pub(super) magnitude: Weibull,
}

/// Fits to the derivatives of `plane` in blocks of `block_px` × `block_px`, column by column. Pixels beyond the edge
/// are 0.
///
/// Signs of the derivatives do not matter, because every fit that is used is symmetric in the two sides.
#[inline(always)]
pub(super) fn derivative_fits(plane: &Plane, gradient: &Gradient, block_px: usize) -> Vec<DerivativeFits> {
    let (n_across, n_down) = (plane.width / block_px, plane.height / block_px);
    let mut fits = Vec::with_capacity(n_across * n_down);
    let mut rows = DerivativeRows::new(plane);
    let mut logs = vec![vec![0.0; block_px * block_px]; n_across];
    for block_y in 0..n_down {
        let mut sums = vec![[Sums::default(), Sums::default()]; n_across];
        for y in 0..block_px {
            rows.compute(plane, gradient, block_y * block_px + y);
            for (block_x, (sums, logs)) in sums.iter_mut().zip(&mut logs).enumerate() {
                let start = block_x * block_px;
                let (dx, dy) = (&rows.dx[start..][..block_px], &rows.dy[start..][..block_px]);
                sums[0].add(dx);
                sums[1].add(dy);
                // A loop instead of `extend`, which is a separate function and would not get the wide vectors.
                for (log, (dx, dy)) in logs[y * block_px..][..block_px].iter_mut().zip(dx.iter().zip(dy)) {
                    *log = ln((dx * dx + dy * dy).sqrt() + f64::EPSILON);
                }
            }
        }
        for (sums, logs) in sums.iter().zip(&mut logs) {
            let [x, y] = sums.each_ref().map(|sums| Asymmetric::fit(&sums.moments()));
            fits.push(DerivativeFits { x, y, magnitude: Weibull::fit_logs(logs) });
        }
    }
    // The fits lie row by row; the caller gets them column by column.
    (0..n_across * n_down).map(|index| fits[index % n_down * n_across + index / n_down]).collect()
}

/// One row of both derivatives, and the intermediate rows of its computation.
struct DerivativeRows {
    dx: Vec<f64>,
    dy: Vec<f64>,
    /// Smoothed down the columns, with margins.
    smoothed: Vec<f64>,
    /// Derived down the columns, with margins.
    derived: Vec<f64>,
    zeros: Vec<f64>,
}

impl DerivativeRows {
    fn new(plane: &Plane) -> Self {
        let zeros = |n| vec![0.0; n];
        let (width, padded) = (plane.width, padded_len(plane.width, N_TAPS));
        Self {
            dx: zeros(width),
            dy: zeros(width),
            smoothed: zeros(padded),
            derived: zeros(padded),
            zeros: zeros(width),
        }
    }

    #[inline(always)]
    fn compute(&mut self, plane: &Plane, gradient: &Gradient, y: usize) {
        let width = plane.width;
        let Gradient { smooth, slope } = gradient;
        let rows: [&[f64]; N_TAPS] = rows_around(plane, y, Border::Zero, &self.zeros);
        let rows = rows.map(|row| &row[..width]);
        let smoothed = &mut self.smoothed[before(N_TAPS)..][..width];
        let derived = &mut self.derived[before(N_TAPS)..][..width];
        for x in 0..width {
            let (mut sum, mut difference) = (smooth[REACH] * rows[REACH][x], 0.0);
            for tap in 0..REACH {
                let (above, below) = (rows[REACH - 1 - tap][x], rows[REACH + 1 + tap][x]);
                sum += smooth[REACH + 1 + tap] * (below + above);
                difference += slope[tap] * (below - above);
            }
            smoothed[x] = sum;
            derived[x] = difference;
        }
        pad::<N_TAPS>(&mut self.smoothed, width, Border::Zero);
        pad::<N_TAPS>(&mut self.derived, width, Border::Zero);
        horizontal_symmetric(&self.derived, smooth, &mut self.dy);
        for (window, value) in self.smoothed.array_windows::<N_TAPS>().zip(&mut self.dx) {
            let mut difference = 0.0;
            for tap in 0..REACH {
                difference += slope[tap] * (window[REACH + 1 + tap] - window[REACH - 1 - tap]);
            }
            *value = snapped(difference);
        }
        for value in &mut self.dy {
            *value = snapped(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_agree_with_the_two_dimensional_kernel() {
        let (width, height, sigma) = (23, 19, 1.66);
        let values = (0..width * height).map(|i| f64::from((i * i % 97) as u32)).collect();
        let plane = Plane { width, height, values };
        let mut rows = DerivativeRows::new(&plane);
        let at = |x: i64, y: i64| {
            let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
            if inside { plane.values[(y * width as i64 + x) as usize] } else { 0.0 }
        };
        for y in 0..height {
            rows.compute(&plane, &Gradient::new(sigma), y);
            for x in 0..width {
                let (mut dx, mut dy) = (0.0, 0.0);
                for v in -5_i64..=5 {
                    for u in -5_i64..=5 {
                        let value = at(x as i64 + u, y as i64 + v);
                        let window = (-((u * u + v * v) as f64) / (2.0 * sigma * sigma)).exp();
                        dx += u as f64 * window * value;
                        dy += v as f64 * window * value;
                    }
                }
                assert!((rows.dx[x] - dx).abs() < 1e-9 && (rows.dy[x] - dy).abs() < 1e-9, "{x}, {y}");
            }
        }
    }
}
