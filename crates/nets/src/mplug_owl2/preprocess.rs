//! The steps from an image to the network's input: `preprocessor_config.json`, and the published code's
//! `mplug_owl2/mm_utils.py` (`expand2square`, then the image processor).

use std::path::Path;

use serde::Deserialize;

use super::{Frontend, LoadError};
use crate::device::Normalisation;
use crate::pixels::Planes;
use agiqa_images::{PillowFilter, RgbImage8, pad_to_square, resize_as_pillow};

/// Pillow's number for bicubic.
const BICUBIC: i64 = 3;

#[derive(Deserialize)]
struct File {
    size: Side,
    crop_size: Side,
    image_mean: [f64; 3],
    image_std: [f64; 3],
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    resample: Option<i64>,
}

fn yes() -> bool {
    true
}

/// A plain integer in older files, an object in newer ones.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Side {
    Plain(u32),
    Shortest { shortest_edge: u32 },
    Both { height: u32, width: u32 },
}

impl Side {
    fn px(self) -> Option<u32> {
        match self {
            Self::Plain(px) | Self::Shortest { shortest_edge: px } => Some(px),
            Self::Both { height, width } => (height == width).then_some(height),
        }
    }
}

/// The steps' settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Side of the network's input, pixels.
    pub side_px: u32,
    mean: [f32; 3],
    std: [f32; 3],
    pad_colour: [u8; 3],
}

impl Preprocessing {
    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or asks for steps that the published preprocessing does not have.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let bytes = super::read(path, Frontend::MAX_BYTES)?;
        let unusable = |problem: String| LoadError::Unusable { path: path.to_owned(), problem };
        let file: File = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        let side_px = match (file.size.px(), file.crop_size.px()) {
            (Some(size), Some(crop)) if size == crop && (1..=4096).contains(&size) => size,
            _ => return Err(unusable("expected `size` and `crop_size` to be the same square".to_owned())),
        };
        if !file.do_resize || !file.do_normalize || file.resample.is_some_and(|resample| resample != BICUBIC) {
            return Err(unusable(format!("expected `do_resize`, `do_normalize`, and `resample` {BICUBIC} (bicubic)")));
        }
        if file.image_mean.iter().chain(&file.image_std).any(|value| !(0.0..=1.0).contains(value))
            || file.image_std.contains(&0.0)
        {
            return Err(unusable("expected `image_mean` and `image_std` on a scale of 0 to 1".to_owned()));
        }
        Ok(Self {
            side_px,
            mean: file.image_mean.map(|mean| mean as f32),
            std: file.image_std.map(|std| std as f32),
            // Truncated, as `int(x * 255)` does.
            pad_colour: file.image_mean.map(|mean| (mean * 255.0) as u8),
        })
    }

    /// The image at the network's size, in 8 bits.
    pub fn resized(&self, image: &RgbImage8) -> RgbImage8 {
        let square = pad_to_square(image, self.pad_colour);
        resize_as_pillow(&square, self.side_px, self.side_px, PillowFilter::Bicubic)
    }

    /// What turns [`Self::resized`] into the network's input, on `device`.
    pub fn normalisation(&self, device: tch::Device) -> Normalisation {
        Normalisation::new(self.mean, self.std, device)
    }

    /// The network's input in floats, with the bits that [`Self::normalisation`] makes on a device.
    pub fn prepare(&self, image: &RgbImage8) -> Planes {
        Planes::of(&self.resized(image), self.mean, self.std)
    }
}
