//! Decoding of image files whose content must not have changed.

use std::path::Path;

use agiqa_images::{DecodeLimits, ImageError, RgbImage8};
use agiqa_store::identity::ImageId;
use agiqa_store::path_text::text_of;

/// Why an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind of error.
    pub kind: &'static str,
    /// What was found, what was expected, and the next step.
    pub message: String,
}

/// Decodes the file at `path`, whose content must still have the identity `image_id`.
///
/// # Errors
/// The file is absent, changed, damaged, too large or not an image.
pub fn decode_verified(path: &Path, image_id: &ImageId, limits: &DecodeLimits) -> Result<RgbImage8, Failure> {
    let bytes = agiqa_images::read(path)
        .map_err(|error: ImageError| Failure { kind: error.kind(), message: error.to_string() })?;
    let found = ImageId::of_bytes(&bytes);
    if found != *image_id {
        let message = format!(
            "`{}`: the file has changed: expected image {image_id}, found {found}; ingest the dataset again",
            text_of(path)
        );
        return Err(Failure { kind: "changed", message });
    }
    let (_, image) = agiqa_images::decode(&bytes, limits)
        .map_err(|error| Failure { kind: error.kind(), message: format!("`{}`: {error}", text_of(path)) })?;
    Ok(image)
}
