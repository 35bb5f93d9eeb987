//! Pixels as networks read them.

use agiqa_images::RgbImage8;

/// Mean of ImageNet's red, green and blue on a scale of 0 to 1.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of ImageNet's red, green and blue on a scale of 0 to 1.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Fills `input` with `(pixel / 255 − mean) / std`, channel by channel.
///
/// # Panics
/// If `input` does not hold three values per pixel.
pub fn normalise(image: &RgbImage8, mean: [f32; 3], std: [f32; 3], input: &mut [f32]) {
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

/// A picture in floats, channel by channel: `(3, height, width)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// The values, row-major.
    pub values: Vec<f32>,
    /// Height, pixels.
    pub height: usize,
    /// Width, pixels.
    pub width: usize,
}

impl Planes {
    /// `(pixel / 255 − mean) / std` of `image`.
    pub fn of(image: &RgbImage8, mean: [f32; 3], std: [f32; 3]) -> Self {
        let mut values = vec![0.0; image.pixels.len()];
        normalise(image, mean, std, &mut values);
        Self { values, height: image.height_px as usize, width: image.width_px as usize }
    }

    /// Appends the square of `side` pixels at row `top` and column `left` to `values`, channel by channel.
    ///
    /// # Panics
    /// If the square exceeds the picture.
    pub(crate) fn append_crop(&self, top: usize, left: usize, side: usize, values: &mut Vec<f32>) {
        for plane in self.values.chunks_exact(self.height * self.width) {
            for row in plane.chunks_exact(self.width).skip(top).take(side) {
                values.extend(&row[left..left + side]);
            }
        }
    }
}
