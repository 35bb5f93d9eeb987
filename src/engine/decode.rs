//! Decoding of images whose content must not have changed.

use agiqa_images::{DecodeLimits, ImageError, RgbImage8};
use agiqa_sources::{Place, Reader};
use agiqa_store::identity::ImageId;

/// Why an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind of error.
    pub kind: &'static str,
    /// What was found, what was expected, and the next step.
    pub message: String,
}

/// Decodes the image at `place`, whose content must still have the identity `image_id`.
///
/// # Errors
/// The image is absent, changed, damaged, too large or none.
pub fn decode_verified(
    reader: &Reader,
    place: &str,
    image_id: &ImageId,
    limits: &DecodeLimits,
) -> Result<RgbImage8, Failure> {
    let bytes = reader
        .read(&Place::parse(place))
        .map_err(|error: ImageError| Failure { kind: error.kind(), message: error.to_string() })?;
    let found = ImageId::of_bytes(&bytes);
    if found != *image_id {
        let message = format!(
            "`{place}`: the file has changed: expected image {image_id}, found {found}; ingest the dataset again"
        );
        return Err(Failure { kind: "changed", message });
    }
    let (_, image) = agiqa_images::decode(&bytes, limits)
        .map_err(|error| Failure { kind: error.kind(), message: format!("`{place}`: {error}") })?;
    Ok(image)
}
