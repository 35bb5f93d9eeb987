//! Pictures at their native size.

use agiqa_images::RgbImage8;

use super::{Prepare, Prepared, Unfit};
use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};

/// Gives a network the whole picture, normalised and neither resized nor cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Native {
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    /// The network's least side.
    pub(super) least_px: u32,
}

impl Native {
    /// With ImageNet's mean and standard deviation.
    pub(super) fn imagenet(least_px: u32) -> Self {
        Self { mean: IMAGENET_MEAN, std: IMAGENET_STD, least_px }
    }
}

impl Prepare for Native {
    fn has_one_shape(&self) -> bool {
        false
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        Unfit::check_least(image, self.least_px)?;
        Unfit::check_seen(image, image.height_px as usize, image.width_px as usize)?;
        let Planes { values, height, width } = Planes::of(image, self.mean, self.std);
        Ok(Prepared { values, shape: vec![3, height as i64, width as i64] })
    }
}

/// A crop, normalised, for a network that averages the ratings of crops: `(1, 3, h, w)`.
pub(super) fn one_crop(crop: &RgbImage8, mean: [f32; 3], std: [f32; 3]) -> Prepared {
    let Planes { values, height, width } = Planes::of(crop, mean, std);
    Prepared { values, shape: vec![1, 3, height as i64, width as i64] }
}
