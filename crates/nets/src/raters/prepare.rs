//! From pictures to inputs of rating networks.

use agiqa_images::RgbImage8;

/// Makes inputs of a rating network.
pub trait Prepare: Send + Sync {
    /// Whether all inputs have one shape, so that they can be stacked.
    fn has_one_shape(&self) -> bool;

    /// The input of `image`.
    ///
    /// # Errors
    /// The network cannot rate an image of this size.
    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit>;

    /// The picture as training keeps it, resized where [`Self::prepare`] begins so, which then makes the same input of it.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Unfit> {
        Ok(image)
    }

    /// The input that is all of `crop`, neither resized nor cut.
    ///
    /// # Errors
    /// The network cannot rate a picture of this size.
    fn whole(&self, crop: &RgbImage8) -> Result<Prepared, Unfit> {
        self.prepare(crop)
    }
}

/// One image as an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The values, row-major.
    pub values: Vec<f32>,
    /// Their shape.
    pub shape: Vec<i64>,
}

/// Why a network cannot rate an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Unfit {
    /// The image is smaller than the network's least size.
    #[error("the image has {width_px} × {height_px} pixels, and the network needs {least_px} on each side")]
    TooSmall { width_px: u32, height_px: u32, least_px: u32 },
    /// The network would see more pixels than memory is meant for.
    #[error(
        "the image has {width_px} × {height_px} pixels, of which the network would see {n_seen}, over the limit of \
         {limit}; make a smaller copy"
    )]
    TooLarge { width_px: u32, height_px: u32, n_seen: u64, limit: u64 },
}

/// Greatest number of pixels that a network sees in a picture that it reads at its own size or enlarged, as many as in
/// 2048 × 2048. More would take over 2 GiB of memory for activations.
const MAX_SEEN: u64 = 1 << 22;

impl Unfit {
    /// Refuses an image with a side below `least_px`.
    pub(super) fn check_least(image: &RgbImage8, least_px: u32) -> Result<(), Self> {
        let RgbImage8 { width_px, height_px, .. } = *image;
        match width_px.min(height_px) < least_px {
            true => Err(Self::TooSmall { width_px, height_px, least_px }),
            false => Ok(()),
        }
    }

    /// Refuses an image of which a network would see `height` × `width` pixels, if these are too many.
    pub(super) fn check_seen(image: &RgbImage8, height: usize, width: usize) -> Result<(), Self> {
        Self::check_limit(image, height as u64 * width as u64, MAX_SEEN)
    }

    /// Refuses an image of which a network would see `n_seen` pixels, if these are more than `limit`.
    pub(super) fn check_limit(image: &RgbImage8, n_seen: u64, limit: u64) -> Result<(), Self> {
        let RgbImage8 { width_px, height_px, .. } = *image;
        match n_seen > limit {
            true => Err(Self::TooLarge { width_px, height_px, n_seen, limit }),
            false => Ok(()),
        }
    }
}
