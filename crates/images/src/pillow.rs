//! Pillow's resize, bit for bit. Networks whose preprocessing is written in Python were trained with it.
//!
//! A port of the 8-bit path of `libImaging/Resample.c` at Pillow 10.4.0. Coefficients are computed in f64 and have 22
//! bits of fixed point. The horizontal pass comes first. Each pass rounds and clips to 8 bits. `fast_image_resize` has
//! the same kernel with other fixed-point widths; a tenth of its values differ by one level.

use super::RgbImage8;

/// `PRECISION_BITS` of the original.
const PRECISION_BITS: u32 = 22;

/// Pillow's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PillowFilter {
    /// `BILINEAR`: a triangle.
    Bilinear,
    /// `BICUBIC`: Keys' cubic with a = -0.5.
    Bicubic,
}

impl PillowFilter {
    /// Half-width of the kernel.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => bicubic(x),
        }
    }
}

/// Keys' cubic with a = -0.5, in the original's order of operations.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The inputs of one output: index of the first, and the weight of each.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc`. When an image shrinks, the kernel is stretched (antialiasing).
fn taps(n_in: usize, n_out: usize, filter: PillowFilter) -> Vec<Taps> {
    let scale = n_in as f64 / n_out as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let per_pixel = 1.0 / filter_scale;
    (0..n_out)
        .map(|out| {
            let center = (out as f64 + 0.5) * scale;
            // Truncated towards zero, as C does.
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let end = ((center + support + 0.5) as i64).min(n_in as i64) as usize;
            let weights: Vec<f64> = (first..end).map(|i| filter.at((i as f64 - center + 0.5) * per_pixel)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1_u32 << PRECISION_BITS);
                (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Taps { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes `image` to `width_px` × `height_px` as Pillow's `resize` does with `filter`.
///
/// # Panics
/// If a side of the target is 0.
pub fn resize_as_pillow(image: &RgbImage8, width_px: u32, height_px: u32, filter: PillowFilter) -> RgbImage8 {
    assert!(width_px > 0 && height_px > 0, "an image has at least one pixel");
    let (w_in, h_in) = (image.width_px as usize, image.height_px as usize);
    let (w_out, h_out) = (width_px as usize, height_px as usize);
    const ROUND: i32 = 1 << (PRECISION_BITS - 1);

    let narrowed = if w_in == w_out {
        image.pixels.clone()
    } else {
        let taps = taps(w_in, w_out, filter);
        let mut pixels = vec![0; h_in * w_out * 3];
        for (row, out) in image.pixels.chunks_exact(w_in * 3).zip(pixels.chunks_exact_mut(w_out * 3)) {
            for (taps, out) in taps.iter().zip(out.chunks_exact_mut(3)) {
                let mut sums = [ROUND; 3];
                for (pixel, &weight) in row[taps.first * 3..].chunks_exact(3).zip(&taps.weights) {
                    for (sum, &level) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(level) * weight;
                    }
                }
                out.copy_from_slice(&sums.map(clip));
            }
        }
        pixels
    };
    if h_in == h_out {
        return RgbImage8 { width_px, height_px, pixels: narrowed };
    }
    let n_row = w_out * 3;
    let mut pixels = vec![0; h_out * n_row];
    let mut sums = vec![0; n_row];
    for (taps, out) in taps(h_in, h_out, filter).iter().zip(pixels.chunks_exact_mut(n_row)) {
        sums.fill(ROUND);
        for (row, &weight) in narrowed[taps.first * n_row..].chunks_exact(n_row).zip(&taps.weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = clip(sum);
        }
    }
    RgbImage8 { width_px, height_px, pixels }
}

/// Pads `image` with `colour` on both sides to a square. If the padding is odd, the extra row or column follows the
/// image.
pub fn pad_to_square(image: &RgbImage8, colour: [u8; 3]) -> RgbImage8 {
    let (w, h) = (image.width_px as usize, image.height_px as usize);
    if w == h {
        return image.clone();
    }
    let side = w.max(h);
    let (left, top) = ((side - w) / 2, (side - h) / 2);
    let mut pixels = colour.repeat(side * side);
    for (row, out) in image.pixels.chunks_exact(w * 3).zip(pixels.chunks_exact_mut(side * 3).skip(top)) {
        out[left * 3..][..w * 3].copy_from_slice(row);
    }
    let side_px = image.width_px.max(image.height_px);
    RgbImage8 { width_px: side_px, height_px: side_px, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_image_stays_constant_and_an_equal_size_changes_nothing() {
        let image = RgbImage8 { width_px: 7, height_px: 5, pixels: [10, 128, 255].repeat(35) };
        assert_eq!(resize_as_pillow(&image, 13, 3, PillowFilter::Bicubic).pixels, [10, 128, 255].repeat(39));
        assert_eq!(resize_as_pillow(&image, 7, 5, PillowFilter::Bilinear), image);
    }

    #[test]
    fn a_shrunk_ramp_is_averaged_with_the_stretched_kernel_and_its_ends_with_what_is_left_of_it() {
        // The kernel's sums in Python, before rounding: 14.97, 61.07, 110.00, 158.93, 205.03.
        let pixels = (0..12_u8).flat_map(|x| [x * 20; 3]).collect();
        let resized = resize_as_pillow(&RgbImage8 { width_px: 12, height_px: 1, pixels }, 5, 1, PillowFilter::Bicubic);
        let levels: Vec<u8> = resized.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect();
        assert_eq!(levels, [15, 61, 110, 159, 205]);
    }

    #[test]
    fn padding_is_centred_and_the_odd_pixel_goes_after() {
        let image = RgbImage8 { width_px: 1, height_px: 4, pixels: [9; 12].to_vec() };
        let padded = pad_to_square(&image, [1, 2, 3]);
        assert_eq!((padded.width_px, padded.height_px), (4, 4));
        assert_eq!(padded.pixels[..12], [1, 2, 3, 9, 9, 9, 1, 2, 3, 1, 2, 3]);
    }
}
