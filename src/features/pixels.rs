//! Pixels as networks' inputs.

use crate::engine::{Input, Values};
use agiqa_images::RgbImage8;

/// The pixels of a square `image` as a network's input, `(pixel / 255 − mean) / std`, channel by channel.
pub(super) fn normalised(image: &RgbImage8, mean: [f32; 3], std: [f32; 3]) -> Input {
    let mut values = vec![0.0; image.pixels.len()];
    normalise(image, mean, std, &mut values);
    let shape = vec![3, i64::from(image.height_px), i64::from(image.width_px)];
    Input { values: Values::F32(values), shape }
}

/// Fills `input` with `(pixel / 255 − mean) / std`, channel by channel.
///
/// # Panics
/// If `input` does not hold three values per pixel.
pub(super) fn normalise(image: &RgbImage8, mean: [f32; 3], std: [f32; 3], input: &mut [f32]) {
    assert_eq!(input.len(), image.pixels.len(), "three values per pixel");
    for (channel, plane) in input.chunks_exact_mut(image.pixels.len() / 3).enumerate() {
        // A table of 256 values replaces a division per pixel. The expression is the same, so the bits are the same.
        let table: Vec<f32> =
            (0..=255_u8).map(|level| (f32::from(level) / 255.0 - mean[channel]) / std[channel]).collect();
        for (value, pixel) in plane.iter_mut().zip(image.pixels.chunks_exact(3)) {
            *value = table[usize::from(pixel[channel])];
        }
    }
}
