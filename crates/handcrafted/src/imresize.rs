//! MATLAB's `imresize` with its default bicubic kernel, as the reference pipelines call it.
//!
//! The kernel is Keys' cubic with a = -0.5, stretched when an image shrinks. Weights are normalised. Beyond the edge,
//! the image is mirrored with its edge pixels repeated. 8-bit images are rounded and clipped after each axis;
//! floating-point planes are not.

use super::plane::Plane;
use agiqa_images::RgbImage8;

/// Keys' cubic convolution kernel, a = -0.5, in MATLAB's order of operations: the last bit decides how a pixel half way
/// between two levels is rounded.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    let (x2, x3) = (x * x, x * x * x);
    if x <= 1.0 {
        1.5 * x3 - 2.5 * x2 + 1.0
    } else if x <= 2.0 {
        -0.5 * x3 + 2.5 * x2 - 4.0 * x + 2.0
    } else {
        0.0
    }
}

/// Position `at` along an axis of `n` pixels, mirrored into it.
fn mirrored(at: i64, n: usize) -> usize {
    let n = n as i64;
    let at = at.rem_euclid(2 * n);
    let inside = if at < n { at } else { 2 * n - 1 - at };
    usize::try_from(inside).unwrap_or(0)
}

/// Source pixels and their weights for each pixel of a resized axis.
fn contributions(n_in: usize, n_out: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = n_out as f64 / n_in as f64;
    let stretch = scale.min(1.0);
    let width = 4.0 / stretch;
    let n_taps = width.ceil() as i64 + 2;
    (1..=n_out)
        .map(|out| {
            let centre = out as f64 / scale + 0.5 * (1.0 - 1.0 / scale);
            let first = (centre - width / 2.0).floor();
            let weights: Vec<f64> =
                (0..n_taps).map(|tap| stretch * cubic(stretch * (centre - (first + tap as f64)))).collect();
            let sum: f64 = weights.iter().sum();
            let at = |tap: usize| mirrored(first as i64 + tap as i64 - 1, n_in);
            weights
                .iter()
                .enumerate()
                .filter(|(_, weight)| **weight != 0.0)
                .map(|(tap, weight)| (at(tap), weight / sum))
                .collect()
        })
        .collect()
}

/// `imresize(plane, 0.5)`. Half of an odd side is rounded up.
#[inline(always)]
pub(super) fn halve(plane: &Plane) -> Plane {
    const N_TAPS: usize = 8;
    // Pixel `i` lies between source pixels 2i and 2i + 1; the kernel reaches four to each side.
    let kernel: [f64; N_TAPS] = std::array::from_fn(|tap| cubic((tap as f64 - 3.5) / 2.0));
    let sum: f64 = kernel.iter().sum();
    let kernel = kernel.map(|weight| weight / sum);
    let reach = N_TAPS / 2 - 1;
    let mut halved = Plane::zeros(plane.width.div_ceil(2), plane.height.div_ceil(2));
    let source = |position: usize, n: usize| mirrored(position as i64 - reach as i64, n);
    // Room for the taps of the last pixel, which lies half outside if the width is odd.
    let mut padded = vec![0.0; 2 * halved.width + N_TAPS - 2];
    for y in 0..halved.height {
        let rows: [&[f64]; N_TAPS] = std::array::from_fn(|tap| plane.row(source(2 * y + tap, plane.height)));
        let rows = rows.map(|row| &row[..plane.width]);
        let sums = &mut padded[reach..][..plane.width];
        for x in 0..plane.width {
            let mut sum = rows[0][x] * kernel[0];
            for tap in 1..N_TAPS {
                sum += rows[tap][x] * kernel[tap];
            }
            sums[x] = sum;
        }
        for position in (0..reach).chain(reach + plane.width..padded.len()) {
            padded[position] = padded[reach + source(position, plane.width)];
        }
        for (window, value) in padded.array_windows::<N_TAPS>().step_by(2).zip(halved.row_mut(y)) {
            *value = window.iter().zip(&kernel).map(|(value, weight)| value * weight).sum();
        }
    }
    halved
}

/// `imresize(image, [height width])`, rounded and clipped to 8 bits after each axis. The axis that shrinks most is
/// first.
pub(super) fn resize(image: &RgbImage8, width_px: u32, height_px: u32) -> RgbImage8 {
    let by_width = f64::from(width_px) / f64::from(image.width_px);
    let by_height = f64::from(height_px) / f64::from(image.height_px);
    if by_height <= by_width {
        resize_width(&resize_height(image, height_px), width_px)
    } else {
        resize_height(&resize_width(image, width_px), height_px)
    }
}

fn resize_height(image: &RgbImage8, height_px: u32) -> RgbImage8 {
    let stride = 3 * image.width_px as usize;
    let mut pixels = Vec::with_capacity(stride * height_px as usize);
    let mut sums = vec![0.0; stride];
    for sources in contributions(image.height_px as usize, height_px as usize) {
        sums.fill(0.0);
        for (y, weight) in sources {
            for (sum, level) in sums.iter_mut().zip(&image.pixels[y * stride..][..stride]) {
                *sum += weight * f64::from(*level);
            }
        }
        pixels.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    RgbImage8 { width_px: image.width_px, height_px, pixels }
}

fn resize_width(image: &RgbImage8, width_px: u32) -> RgbImage8 {
    let all_sources = contributions(image.width_px as usize, width_px as usize);
    let mut pixels = Vec::with_capacity(3 * width_px as usize * image.height_px as usize);
    for row in image.pixels.chunks_exact(3 * image.width_px as usize) {
        for sources in &all_sources {
            let mut sums = [0.0; 3];
            for (x, weight) in sources {
                for (sum, level) in sums.iter_mut().zip(&row[3 * x..]) {
                    *sum += weight * f64::from(*level);
                }
            }
            pixels.extend(sums.map(rounded));
        }
    }
    RgbImage8 { width_px, height_px: image.height_px, pixels }
}

/// MATLAB's conversion to `uint8`: half away from zero, clipped. The cast saturates.
fn rounded(value: f64) -> u8 {
    (value + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_is_the_general_case_at_half_the_size() {
        let plane = Plane { width: 12, height: 1, values: (0..12).map(|x| f64::from(x * x % 11)).collect() };
        let tall = Plane { width: 12, height: 6, values: plane.values.repeat(6) };
        let expected: Vec<f64> = contributions(12, 6)
            .iter()
            .map(|sources| sources.iter().map(|(x, weight)| plane.values[*x] * weight).sum())
            .collect();
        for row in halve(&tall).values.chunks_exact(6) {
            for (found, expected) in row.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-12, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_side_of_any_length_keeps_its_upper_half() {
        for n in 1..12 {
            let plane = Plane { width: n, height: n, values: vec![5.0; n * n] };
            let halved = halve(&plane);
            assert_eq!((halved.width, halved.height), (n.div_ceil(2), n.div_ceil(2)));
            assert!(halved.values.iter().all(|value| (value - 5.0).abs() < 1e-12));
        }
    }

    #[test]
    fn a_constant_image_keeps_its_levels_at_any_size() {
        let image = RgbImage8 { width_px: 7, height_px: 30, pixels: [0, 131, 255].repeat(210) };
        assert_eq!(resize(&image, 19, 11).pixels, [0, 131, 255].repeat(19 * 11));
        let pixel = RgbImage8 { width_px: 1, height_px: 1, pixels: vec![1, 2, 3] };
        assert_eq!(resize(&pixel, 4, 4).pixels, [1, 2, 3].repeat(16));
    }
}
