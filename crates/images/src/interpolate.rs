//! Bicubic interpolation as OpenCV's `cv2.resize(…, INTER_CUBIC)` computes it on 8-bit images.
//!
//! Unlike [`super::resize`], it does not widen its kernel when it shrinks an image, so it aliases, and its cubic has a
//! = -0.75. Networks trained on images resized by OpenCV expect this. The arithmetic follows OpenCV's portable code bit
//! for bit: weights are rounded to 1/2048, rows are summed in integers, columns in f32 with fused multiply-adds.
//! (OpenCV's default build for x86-64 calls Intel's library, which does not round the weights; 2 to 4 % of its values
//! differ by one level.)

use super::RgbImage8;

/// Keys' parameter.
const A: f32 = -0.75;

/// One over the step that weights are rounded to.
const WEIGHT_ONE: f32 = 2048.0;

/// Positions and weights of a target pixel's four source pixels.
struct Taps {
    /// Indices, clamped to the edge.
    at: [usize; 4],
    /// Weights in units of 1/2048; they need not sum to 2048.
    weights: [i32; 4],
}

/// Taps of each of `n_target` pixels along an axis of `n_source` pixels.
fn taps(n_source: u32, n_target: u32) -> Vec<Taps> {
    let scale = f64::from(n_source) / f64::from(n_target);
    let last = i64::from(n_source) - 1;
    (0..n_target)
        .map(|i| {
            let position = ((f64::from(i) + 0.5) * scale - 0.5) as f32;
            let floor = position.floor();
            let x = position - floor;
            let outer = ((A * (x + 1.0) - 5.0 * A) * (x + 1.0) + 8.0 * A) * (x + 1.0) - 4.0 * A;
            let inner = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let (second, third) = (inner(x), inner(1.0 - x));
            let weights = [outer, second, third, 1.0 - outer - second - third];
            Taps {
                at: [-1, 0, 1, 2].map(|offset| (floor as i64 + offset).clamp(0, last) as usize),
                weights: weights.map(|weight| (weight * WEIGHT_ONE).round_ties_even() as i32),
            }
        })
        .collect()
}

/// Resizes `image` to `width_px` × `height_px`. The aspect ratio may change.
///
/// # Panics
/// If a side of the target or of the image is 0.
pub fn interpolate_bicubic(image: &RgbImage8, width_px: u32, height_px: u32) -> RgbImage8 {
    assert!(width_px > 0 && height_px > 0 && image.width_px > 0 && image.height_px > 0, "an image has a pixel");
    if (image.width_px, image.height_px) == (width_px, height_px) {
        return image.clone();
    }
    let (columns, rows) = (taps(image.width_px, width_px), taps(image.height_px, height_px));
    let (source_row, target_row) = (3 * image.width_px as usize, 3 * width_px as usize);
    // Sums along the rows that are read. They are exact in f32: at most 255 * 2048 * 1.6.
    let mut summed: Vec<Vec<f32>> = vec![Vec::new(); image.height_px as usize];
    let mut pixels = Vec::with_capacity(target_row * height_px as usize);
    let mut n_forgotten = 0;
    for Taps { at, weights } in &rows {
        for row in *at {
            if summed[row].is_empty() {
                summed[row] = sum_row(&image.pixels[row * source_row..][..source_row], &columns);
            }
        }
        let weights = weights.map(|weight| weight as f32 / (WEIGHT_ONE * WEIGHT_ONE));
        let [first, second, third, fourth] = at.map(|row| summed[row].as_slice());
        pixels.extend((0..target_row).map(|i| {
            let sum = fourth[i] * weights[3];
            let sum = third[i].mul_add(weights[2], sum);
            let sum = second[i].mul_add(weights[1], sum);
            let sum = first[i].mul_add(weights[0], sum);
            sum.round_ties_even().clamp(0.0, 255.0) as u8
        }));
        // Rows above the first tap are not read again.
        for done in &mut summed[n_forgotten..at[0]] {
            *done = Vec::new();
        }
        n_forgotten = n_forgotten.max(at[0]);
    }
    RgbImage8 { width_px, height_px, pixels }
}

/// A row's weighted sums for each target column, in units of 1/2048.
fn sum_row(source: &[u8], columns: &[Taps]) -> Vec<f32> {
    let mut sums = Vec::with_capacity(3 * columns.len());
    for Taps { at, weights } in columns {
        for channel in 0..3 {
            let term = |i: usize| i32::from(source[3 * at[i] + channel]) * weights[i];
            sums.push((term(0) + term(1) + term(2) + term(3)) as f32);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_image_stays_constant_within_the_rounding_of_weights() {
        let image = RgbImage8 { width_px: 7, height_px: 5, pixels: [10, 128, 255].repeat(35) };
        for (width, height) in [(13, 3), (7, 9), (2, 2), (1, 1)] {
            let resized = interpolate_bicubic(&image, width, height);
            for (found, expected) in resized.pixels.iter().zip([10_u8, 128, 255].iter().cycle()) {
                assert!(found.abs_diff(*expected) <= 1, "{found} for {expected} at {width} × {height}");
            }
        }
    }

    #[test]
    fn halving_a_line_overshoots_at_its_edge_as_a_cubic_of_minus_three_quarters_does() {
        // Weights of a position half way: -0.09375, 0.59375, 0.59375, -0.09375.
        let grey = |levels: &[u8]| levels.iter().flat_map(|level| [*level; 3]).collect::<Vec<u8>>();
        let image = RgbImage8 { width_px: 4, height_px: 1, pixels: grey(&[0, 0, 100, 100]) };
        let resized = interpolate_bicubic(&image, 2, 1);
        // Taps of the first: pixels 0 (clamped), 0, 1, 2; of the second: 1, 2, 3, 3 (clamped).
        assert_eq!(resized.pixels, grey(&[0, 109]));
    }
}
