//! Decoding by content.

use std::any::Any;
use std::borrow::Cow;
use std::io::{self, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError as CrateError, ImageFormat, ImageReader};

use super::format::{self, Format, HEAD_BYTES};
use super::{DecodeLimits, ImageError, ImageInfo, RgbImage8, jpeg, tiff};

/// Identifies and decodes an image file's `bytes`. The crate's documentation says how each kind of file is decoded.
///
/// # Errors
/// Content that cannot be decoded. A decoder that panics on hostile input gives an error, too.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<(ImageInfo, RgbImage8), ImageError> {
    let format = format_of(bytes)?;
    if format == "jpeg" {
        return jpeg::decode(bytes, limits);
    }
    let decode = |bytes: &[u8]| {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode_other(bytes, format, limits)));
        decoded.unwrap_or_else(|panic| Err(ImageError::Damaged { format, reason: panic_message(panic) }))
    };
    match (decode(bytes), png_with_end(bytes)) {
        // A PNG that lacks only the chunk that marks its end is whole.
        (Err(ImageError::Truncated { format }), Some(bytes)) => {
            decode(&bytes).map_err(|_| ImageError::Truncated { format })
        }
        (decoded, _) => decoded,
    }
}

/// Reads the header of an image file's `bytes`. No pixel is decoded, so the file may still be cut short.
///
/// # Errors
/// Content that is not an image of a known format, or whose header is damaged.
pub fn probe(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    let format = format_of(bytes)?;
    if format == "jpeg" {
        let (width_px, height_px) = jpeg::size(bytes)?;
        return Ok(ImageInfo { format, width_px, height_px });
    }
    let damaged = |reason: String| ImageError::Damaged { format, reason };
    let (bytes, _) = readable(bytes, format)?;
    let header = || ImageReader::with_format(Cursor::new(&*bytes), crate_format(format)).into_dimensions();
    let (width_px, height_px) = catch_unwind(AssertUnwindSafe(header))
        .map_err(|panic| damaged(panic_message(panic)))?
        .map_err(|error| damaged(error.to_string()))?;
    Ok(match format == "tiff" && tiff::is_on_its_side(&bytes) {
        true => ImageInfo { format, width_px: height_px, height_px: width_px },
        false => ImageInfo { format, width_px, height_px },
    })
}

fn format_of(bytes: &[u8]) -> Result<&'static str, ImageError> {
    match Format::of(&bytes[..bytes.len().min(HEAD_BYTES)]) {
        Some(Format::Decoded(format)) => Ok(format),
        Some(Format::Foreign(format)) => Err(ImageError::Foreign { format }),
        None if bytes.is_empty() => Err(ImageError::Empty),
        None => {
            let head: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let what = format::other(&bytes[..bytes.len().min(HEAD_BYTES)]);
            Err(ImageError::NotAnImage { starts_with: head.join(" "), what })
        }
    }
}

fn crate_format(format: &str) -> ImageFormat {
    match format {
        "png" => ImageFormat::Png,
        "webp" => ImageFormat::WebP,
        "bmp" => ImageFormat::Bmp,
        "gif" => ImageFormat::Gif,
        "tiff" => ImageFormat::Tiff,
        "pnm" => ImageFormat::Pnm,
        _ => ImageFormat::Jpeg,
    }
}

/// What the decoder can read of the file `bytes`, and what its values then mean.
fn readable<'a>(bytes: &'a [u8], format: &str) -> Result<(Cow<'a, [u8]>, tiff::Values), ImageError> {
    if format == "tiff" { tiff::prepared(bytes) } else { Ok((bytes.into(), tiff::Values::Colours)) }
}

/// The words of a caught panic.
pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast_ref::<&str>().map_or("the decoder gave up", |text| text).to_owned(),
    }
}

pub(crate) fn check_size(width_px: u32, height_px: u32, limits: &DecodeLimits) -> Result<(), ImageError> {
    if u64::from(width_px) * u64::from(height_px) > limits.max_pixels {
        return Err(ImageError::TooLarge { width_px, height_px, max_pixels: limits.max_pixels });
    }
    Ok(())
}

/// A PNG file of whole chunks, with the last chunk that it lacks. `None` for any other file.
fn png_with_end(bytes: &[u8]) -> Option<Vec<u8>> {
    const END: &[u8] = b"\0\0\0\0IEND\xAE\x42\x60\x82";
    let mut at = bytes.starts_with(b"\x89PNG\r\n\x1a\n").then_some(8)?;
    while let Some([a, b, c, d, kind @ ..]) = bytes.get(at..at + 8) {
        if kind == b"IEND" {
            return None;
        }
        let next = at + 12 + usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
        if next > bytes.len() {
            break;
        }
        at = next;
    }
    Some([&bytes[..at], END].concat())
}

fn decode_other(
    bytes: &[u8],
    format: &'static str,
    limits: &DecodeLimits,
) -> Result<(ImageInfo, RgbImage8), ImageError> {
    let crate_error = |error: CrateError| match error {
        CrateError::IoError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => ImageError::Truncated { format },
        CrateError::Unsupported(error) => ImageError::Unsupported { format, reason: error.to_string() },
        CrateError::Limits(error) => {
            ImageError::Damaged { format, reason: format!("it needs too much memory: {error}") }
        }
        error => {
            let reason = error.to_string();
            if reason.contains("Unknown image compression type") {
                return ImageError::Unsupported { format, reason };
            }
            let early = ["unexpected end", "UnexpectedEof", "failed to fill whole buffer", "truncated", "no more data"];
            let reason_is_early = early.iter().any(|words| reason.to_lowercase().contains(&words.to_lowercase()));
            if reason_is_early || is_riff_cut_short(bytes) {
                ImageError::Truncated { format }
            } else {
                ImageError::Damaged { format, reason }
            }
        }
    };
    let (bytes, values) = readable(bytes, format)?;
    let mut reader = ImageReader::with_format(Cursor::new(&*bytes), crate_format(format));
    // The widest pixel is four 32-bit floats. The rest is for metadata, which can be a decompression bomb, too.
    let mut allocations = image::Limits::default();
    allocations.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(allocations);
    let mut decoder = reader.into_decoder().map_err(crate_error)?;
    let (width_px, height_px) = decoder.dimensions();
    check_size(width_px, height_px, limits)?;
    if width_px == 0 || height_px == 0 {
        return Err(ImageError::Damaged { format, reason: format!("{width_px} × {height_px} pixels") });
    }
    let orientation = match format {
        "tiff" => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        _ => Orientation::NoTransforms,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(crate_error)?;
    image.apply_orientation(orientation);
    let (width_px, height_px) = (image.width(), image.height());
    let pixels = match (values, image) {
        (tiff::Values::Places(palette), DynamicImage::ImageLuma8(places)) => {
            places.as_raw().iter().flat_map(|place| palette[usize::from(*place)]).collect()
        }
        (tiff::Values::Premultiplied, image @ (DynamicImage::ImageRgba8(_) | DynamicImage::ImageRgba16(_))) => {
            tiff::divided_by_alpha(image.to_rgba8().as_raw())
        }
        (_, image) => rgb8_of(image, format)?,
    };
    Ok((ImageInfo { format, width_px, height_px }, RgbImage8 { width_px, height_px, pixels }))
}

/// Whether a WebP file is shorter than its own header says. The decoder reports such a file as damaged.
fn is_riff_cut_short(bytes: &[u8]) -> bool {
    match bytes {
        [b'R', b'I', b'F', b'F', a, b, c, d, ..] => {
            let n_bytes = u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 8;
            (bytes.len() as u64) < n_bytes
        }
        _ => false,
    }
}

/// Values of float images that are clipped to 0 to 1: what sharpening and resizing add. Beyond them, the scale is another.
const FLOATS: std::ops::RangeInclusive<f32> = -1.0..=2.0;

/// 8-bit RGB: alpha is dropped, grey is repeated, 16-bit values are divided by 257 and rounded, and floats from 0 to 1 are
/// multiplied by 255 and rounded.
fn rgb8_of(image: DynamicImage, format: &'static str) -> Result<Vec<u8>, ImageError> {
    let floats: Cow<'_, [f32]> = match &image {
        DynamicImage::ImageRgb32F(image) => image.as_raw().into(),
        DynamicImage::ImageRgba32F(image) => image.as_raw().into(),
        _ => Cow::Borrowed(&[]),
    };
    if let Some(value) = floats.iter().find(|value| !FLOATS.contains(*value)) {
        let reason = format!(
            "a float value of {value}: expected 0 to 1, because the file does not tell another scale; save it with 8 or 16 \
             bits a channel"
        );
        return Err(ImageError::Unsupported { format, reason });
    }
    Ok(image.into_rgb8().into_raw())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let image = image::RgbImage::from_fn(37, 29, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("the crate encodes what it decodes");
        bytes.into_inner()
    }

    const FORMATS: [ImageFormat; 6] =
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm];

    #[test]
    fn every_format_is_known_by_its_content() {
        for format in FORMATS {
            let (info, image) = decode(&encoded(format), &DecodeLimits::default()).expect("a valid file");
            assert_eq!(crate_format(info.format), format);
            assert_eq!((info.width_px, info.height_px, image.pixels.len()), (37, 29, 37 * 29 * 3));
        }
    }

    #[test]
    fn a_file_cut_short_is_truncated_wherever_it_is_cut() {
        for format in FORMATS {
            let bytes = encoded(format);
            for n in [bytes.len() / 2, bytes.len() * 3 / 4, bytes.len() - 20] {
                let error = decode(&bytes[..n], &DecodeLimits::default()).expect_err("a part of a file");
                assert_eq!(error.kind(), "truncated", "{format:?} cut to {n} of {} bytes: {error}", bytes.len());
            }
        }
    }

    #[test]
    fn a_jpeg_without_its_last_bytes_is_truncated_unless_they_are_its_end_marker_alone() {
        let bytes = encoded(ImageFormat::Jpeg);
        for n_lost in 0..3 {
            decode(&bytes[..bytes.len() - n_lost], &DecodeLimits::default()).expect("all of its scan is there");
        }
        for n_lost in 3..64 {
            let error =
                decode(&bytes[..bytes.len() - n_lost], &DecodeLimits::default()).expect_err("its end is missing");
            assert_eq!(error.kind(), "truncated", "{n_lost} bytes lost: {error}");
        }
    }

    #[test]
    fn bytes_after_the_end_of_a_jpeg_are_harmless() {
        let mut bytes = encoded(ImageFormat::Jpeg);
        bytes.extend_from_slice(b"trailing");
        decode(&bytes, &DecodeLimits::default()).expect("the image is whole");
    }

    #[test]
    fn a_header_over_the_pixel_limit_is_refused() {
        for format in FORMATS {
            let error =
                decode(&encoded(format), &DecodeLimits { max_pixels: 37 * 29 - 1 }).expect_err("one pixel too many");
            assert_eq!(error.kind(), "too-large", "{format:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(format in 0..FORMATS.len(), at in 0_usize..4096, value: u8, cut in 0_usize..8192) {
            let mut bytes = encoded(FORMATS[format]);
            let n = bytes.len();
            bytes[at % n] = value;
            bytes.truncate(cut.max(1));
            let _ = (probe(&bytes), decode(&bytes, &DecodeLimits { max_pixels: 1_000_000 }));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = (probe(&bytes), decode(&bytes, &DecodeLimits { max_pixels: 1_000_000 }));
        }
    }
}
