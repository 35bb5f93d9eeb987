//! Why an image has no score.

use agiqa_images::RgbImage8;

/// Why an image has no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The image has fewer pixels than the method's statistics need.
    #[error(
        "the image has {width_px} × {height_px} pixels, the method needs at least {min_width_px} × {min_height_px}"
    )]
    TooSmall {
        /// Its width.
        width_px: u32,
        /// Its height.
        height_px: u32,
        /// Least width.
        min_width_px: u32,
        /// Least height.
        min_height_px: u32,
    },
    /// The image is constant, or nearly everywhere: its statistics are undefined.
    #[error(
        "the image is so flat that its statistics are undefined: samples on one side of zero, or none at all, have no \
         distribution to fit; it has no score by this method"
    )]
    Flat,
}

impl ScoreError {
    /// One word for the `kind` column of `rejects`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "too-small",
            Self::Flat => "flat",
        }
    }

    pub(super) fn too_small(image: &RgbImage8, min_width_px: u32, min_height_px: u32) -> Self {
        Self::TooSmall { width_px: image.width_px, height_px: image.height_px, min_width_px, min_height_px }
    }
}
