//! Pixels as networks' inputs.

use crate::engine::{Input, Values};
use agiqa_images::RgbImage8;
use agiqa_nets::pixels::Planes;

/// The pixels of `image` as a network's input, `(pixel / 255 − mean) / std`, channel by channel.
pub(super) fn normalised(image: &RgbImage8, mean: [f32; 3], std: [f32; 3]) -> Input {
    let Planes { values, height, width } = Planes::of(image, mean, std);
    Input { values: Values::F32(values), shape: vec![3, height as i64, width as i64] }
}
