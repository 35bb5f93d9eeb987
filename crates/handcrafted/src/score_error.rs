//! Images without a score.

use agiqa_images::RgbImage8;

/// Why an image has no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ScoreError {
    /// The image is too small for the method's statistics.
    #[error(
        "the image has {width_px} × {height_px} pixels, the method needs at least {min_width_px} × {min_height_px}"
    )]
    TooSmall { width_px: u32, height_px: u32, min_width_px: u32, min_height_px: u32 },
    /// The image is constant, completely or nearly, so its statistics are undefined.
    #[error(
        "the image is so flat that its statistics are undefined: a distribution cannot be fitted to samples on one side \
         of zero only; this method cannot score it"
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
