//! Images of a page: small pictures inside it, if the files can still be read.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use serde::Serialize;

use agiqa_images::{DecodeLimits, ResizeFilter, decode, resize};
use agiqa_store::identity::ImageId;
use agiqa_store::tables::images::ImageRow;

/// Longer side of a thumbnail, pixels.
const SIDE_PX: u32 = 160;

/// Quality of its JPEG.
const QUALITY: u8 = 80;

/// Characters of a prompt that are shown.
const PROMPT_CHARS: usize = 240;

/// Characters of a name that are shown.
const NAME_CHARS: usize = 80;

/// A small picture.
#[derive(Clone, Debug)]
pub(crate) struct Thumbnail {
    /// Its bytes as a `data:` URI.
    pub(crate) uri: String,
    pub(crate) width_px: u32,
    pub(crate) height_px: u32,
}

/// An image that a page shows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) image_id: String,
    pub(crate) name: String,
    pub(crate) generator: Option<String>,
    /// The beginning of the prompt.
    pub(crate) prompt: Option<String>,
    pub(crate) score: f64,
    pub(crate) mos: Option<f64>,
    /// The score of the method that is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<f64>,
    /// Gates of f_1, f_a and f_b.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gates: Option<[Option<f64>; 3]>,
    #[serde(skip)]
    pub(crate) thumbnail: Option<Thumbnail>,
}

impl Shown {
    /// The image of `row`, with a thumbnail if `has_thumbnail`.
    pub(crate) fn of(row: &ImageRow, score: f64, has_thumbnail: bool) -> Self {
        Self {
            image_id: row.image_id.to_string(),
            name: crate::excerpt(&row.name, NAME_CHARS),
            generator: row.generator.as_deref().map(|name| crate::excerpt(name, NAME_CHARS)),
            prompt: row.prompt.as_deref().map(|prompt| crate::excerpt(prompt, PROMPT_CHARS)),
            score,
            mos: row.mos,
            baseline: None,
            gates: None,
            thumbnail: if has_thumbnail { thumbnail(row) } else { None },
        }
    }
}

/// `None` if the file is gone, has other content now, or cannot be decoded.
fn thumbnail(row: &ImageRow) -> Option<Thumbnail> {
    let bytes = agiqa_images::read(Path::new(&row.path)).ok()?;
    if ImageId::of_bytes(&bytes) != row.image_id {
        return None;
    }
    let (_, image) = decode(&bytes, &DecodeLimits::default()).ok()?;
    let scale = (f64::from(SIDE_PX) / f64::from(image.width_px.max(image.height_px))).min(1.0);
    let [width_px, height_px] =
        [image.width_px, image.height_px].map(|side| ((f64::from(side) * scale).round() as u32).max(1));
    let small = resize(&image, width_px, height_px, ResizeFilter::Bilinear);
    let mut jpeg = Vec::new();
    let encoder = &mut JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
    encoder.encode(&small.pixels, width_px, height_px, image::ExtendedColorType::Rgb8).ok()?;
    Some(Thumbnail { uri: format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)), width_px, height_px })
}
