//! Planes of float64, and the separable filters of all three methods.

use agiqa_images::RgbImage8;

/// One channel of an image, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<f64>,
}

impl Plane {
    /// A plane of zeros.
    pub fn zeros(width: usize, height: usize) -> Self {
        Self { width, height, values: vec![0.0; width * height] }
    }

    /// Row `y` from the top.
    pub fn row(&self, y: usize) -> &[f64] {
        &self.values[y * self.width..][..self.width]
    }

    /// Row `y` from the top.
    pub fn row_mut(&mut self, y: usize) -> &mut [f64] {
        &mut self.values[y * self.width..][..self.width]
    }

    /// The `width` × `height` pixels at the top left.
    ///
    /// # Panics
    /// If the plane is smaller.
    pub fn top_left(&self, width: usize, height: usize) -> Self {
        assert!(width <= self.width && height <= self.height, "a crop lies inside its plane");
        let values = (0..height).flat_map(|y| &self.row(y)[..width]).copied().collect();
        Self { width, height, values }
    }
}

/// Luma of BRISQUE and NIQE: MATLAB's `rgb2gray`, rounded half up to 8 bits.
///
/// Its weights are the first row of the inverse of the NTSC matrix, so they differ slightly from 0.299, 0.587, 0.114.
#[inline(always)]
pub fn luma(image: &RgbImage8) -> Plane {
    let [red, green, blue] = LUMA_WEIGHTS.map(|weight| std::array::from_fn::<f64, 256, _>(|v| weight * v as f64));
    let mut plane = Plane::zeros(image.width_px as usize, image.height_px as usize);
    for (value, [r, g, b]) in plane.values.iter_mut().zip(image.pixels.as_chunks::<3>().0) {
        let sum = red[usize::from(*r)] + green[usize::from(*g)] + blue[usize::from(*b)];
        *value = f64::from((sum + 0.5) as u8);
    }
    plane
}

/// First row of `inv([1 .956 .621; 1 -.272 -.647; 1 -1.106 1.703])`.
const LUMA_WEIGHTS: [f64; 3] = {
    let [a, b] = [0.956, 0.621];
    let [c, d] = [-0.272, -0.647];
    let [e, f] = [-1.106, 1.703];
    // Cofactors of the first column. Its entries are all 1, so the cofactors' sum is the determinant.
    let cofactors = [c * f - d * e, b * e - a * f, a * d - b * c];
    let determinant = cofactors[0] + cofactors[1] + cofactors[2];
    [cofactors[0] / determinant, cofactors[1] / determinant, cofactors[2] / determinant]
};

/// The pixels beyond the edge of a plane, as a filter sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Zeros.
    Zero,
    /// The nearest pixel.
    Replicate,
}

/// Values at `n` taps of a Gaussian of standard deviation `sigma` around the middle of the taps, with sum 1.
pub fn gaussian<const N: usize>(sigma: f64) -> [f64; N] {
    let taps: [f64; N] = std::array::from_fn(|tap| {
        let x = tap as f64 - (N as f64 - 1.0) / 2.0;
        (-x * x / (2.0 * sigma * sigma)).exp()
    });
    let sum: f64 = taps.iter().sum();
    taps.map(|tap| tap / sum)
}

/// Rows that an `N`-tap vertical filter reads for row `y`. A filter with an even number of taps has its extra tap
/// below.
#[inline(always)]
pub(super) fn rows_around<'a, const N: usize>(
    plane: &'a Plane,
    y: usize,
    border: Border,
    zeros: &'a [f64],
) -> [&'a [f64]; N] {
    std::array::from_fn(|tap| {
        let shifted = y + tap;
        let at = shifted.saturating_sub(before(N)).min(plane.height - 1);
        let is_inside = shifted >= before(N) && shifted - before(N) < plane.height;
        if border == Border::Zero && !is_inside { &zeros[..plane.width] } else { plane.row(at) }
    })
}

/// Number of taps before the tap on the pixel itself.
pub(super) const fn before(n_taps: usize) -> usize {
    (n_taps - 1) / 2
}

/// Length of a row and of the `n_taps - 1` pixels that a horizontal filter reads beyond it.
pub(super) const fn padded_len(width: usize, n_taps: usize) -> usize {
    width + n_taps - 1
}

/// Fills the margins of `padded`, whose middle is a row of `width` values.
#[inline(always)]
pub(super) fn pad<const N: usize>(padded: &mut [f64], width: usize, border: Border) {
    let start = before(N);
    let (left, right) = match border {
        Border::Zero => (0.0, 0.0),
        Border::Replicate => (padded[start], padded[start + width - 1]),
    };
    padded[..start].fill(left);
    padded[start + width..].fill(right);
}

/// `out[x] = Σ taps[i] · padded[x + i]`, for taps that are symmetric about their middle. `N` must be odd.
#[inline(always)]
pub(super) fn horizontal_symmetric<const N: usize>(padded: &[f64], taps: &[f64; N], out: &mut [f64]) {
    for (window, value) in padded.array_windows::<N>().zip(out) {
        let mut sum = taps[N / 2] * window[N / 2];
        for tap in 0..N / 2 {
            sum += taps[tap] * (window[tap] + window[N - 1 - tap]);
        }
        *value = sum;
    }
}

/// Filters with an `N` × `N` Gaussian and keeps every second row and column, starting with the first.
pub(super) fn blur_and_halve<const N: usize>(plane: &Plane, taps: &[f64; N]) -> Plane {
    let (width, height) = (plane.width.div_ceil(2), plane.height.div_ceil(2));
    let mut halved = Plane::zeros(width, height);
    let mut padded = vec![0.0; padded_len(plane.width, N)];
    for y in 0..height {
        let rows: [&[f64]; N] = rows_around(plane, 2 * y, Border::Replicate, &[]);
        let middle = &mut padded[before(N)..][..plane.width];
        middle.fill(0.0);
        for (row, weight) in rows.iter().zip(taps) {
            for (sum, value) in middle.iter_mut().zip(*row) {
                *sum += weight * value;
            }
        }
        pad::<N>(&mut padded, plane.width, Border::Replicate);
        for (window, value) in padded.array_windows::<N>().step_by(2).zip(halved.row_mut(y)) {
            *value = window.iter().zip(taps).map(|(value, weight)| value * weight).sum();
        }
    }
    halved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_weights_agree_with_matlab() {
        let expected = [0.298936021, 0.587043074, 0.114020904];
        for (weight, expected) in LUMA_WEIGHTS.iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-9, "{weight} {expected}");
        }
    }

    #[test]
    fn a_blurred_constant_stays_constant_under_a_replicated_border() {
        let plane = Plane { width: 9, height: 5, values: vec![7.0; 45] };
        let halved = blur_and_halve(&plane, &gaussian::<6>(0.9));
        assert_eq!((halved.width, halved.height), (5, 3));
        assert!(halved.values.iter().all(|value| (value - 7.0).abs() < 1e-12));
    }
}
