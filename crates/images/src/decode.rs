//! Decoding by content.

use std::io::{self, BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageError as CrateError, ImageFormat, ImageReader};
use mozjpeg::{ColorSpace, Decompress, Marker};

use super::{DecodeLimits, ImageError, ImageInfo, RgbImage8};

/// Adobe's marker in JPEG files, which tells that CMYK values are stored inverted.
const ADOBE: Marker = Marker::APP(14);

/// Identifies and decodes an image file's `bytes`. The crate's documentation says how each kind of file is decoded.
///
/// # Errors
/// Content that cannot be decoded. A decoder that panics on hostile input gives an error, too.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<(ImageInfo, RgbImage8), ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = image::guess_format(bytes).ok().and_then(format_name).ok_or_else(|| not_an_image(bytes))?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        "jpeg" => decode_jpeg(bytes, limits),
        _ => decode_other(bytes, format, limits),
    }));
    decoded.unwrap_or_else(|panic| {
        // libjpeg's fatal errors arrive as panics that carry its message.
        let reason = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "the decoder gave up".to_owned());
        Err(if is_early_end(&reason) {
            ImageError::Truncated { format }
        } else {
            ImageError::Damaged { format, reason }
        })
    })
}

/// Reads the header of an image file's `bytes`. No pixel is decoded, so the file may still be cut short.
///
/// # Errors
/// Content that is not an image of a known format, or whose header is damaged.
pub fn probe(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let guessed = image::guess_format(bytes).map_err(|_| not_an_image(bytes))?;
    let format = format_name(guessed).ok_or_else(|| not_an_image(bytes))?;
    let damaged = |reason: String| ImageError::Damaged { format, reason };
    let header = || ImageReader::with_format(Cursor::new(bytes), guessed).into_dimensions();
    let (width_px, height_px) = catch_unwind(header)
        .map_err(|_| damaged("the decoder gave up".to_owned()))?
        .map_err(|error| damaged(error.to_string()))?;
    Ok(ImageInfo { format, width_px, height_px })
}

fn format_name(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("jpeg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::WebP => Some("webp"),
        ImageFormat::Bmp => Some("bmp"),
        ImageFormat::Gif => Some("gif"),
        ImageFormat::Tiff => Some("tiff"),
        ImageFormat::Pnm => Some("pnm"),
        _ => None,
    }
}

fn not_an_image(bytes: &[u8]) -> ImageError {
    let head: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    ImageError::NotAnImage { starts_with: head.join(" ") }
}

fn check_size(width_px: u32, height_px: u32, limits: &DecodeLimits) -> Result<(), ImageError> {
    if u64::from(width_px) * u64::from(height_px) > limits.max_pixels {
        return Err(ImageError::TooLarge { width_px, height_px, max_pixels: limits.max_pixels });
    }
    Ok(())
}

/// Error message of [`JpegBytes`] if libjpeg asks for bytes that the file does not have.
const EARLY_END: &str = "the file ends early";

fn is_early_end(reason: &str) -> bool {
    // libjpeg passes the reader's error on as JERR_FILE_READ.
    reason.contains("Input file read error") || reason.contains(EARLY_END)
}

/// A file's bytes for libjpeg. Reading beyond their end is an error: libjpeg would fill the rest of the image with
/// grey.
struct JpegBytes<'a>(&'a [u8]);

impl Read for JpegBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for JpegBytes<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.is_empty() { Err(io::Error::other(EARLY_END)) } else { Ok(self.0) }
    }

    fn consume(&mut self, n: usize) {
        self.0 = &self.0[n..];
    }
}

fn decode_jpeg(bytes: &[u8], limits: &DecodeLimits) -> Result<(ImageInfo, RgbImage8), ImageError> {
    let format = "jpeg";
    let jpeg_error = |error: io::Error| {
        let reason = error.to_string();
        if is_early_end(&reason) { ImageError::Truncated { format } } else { ImageError::Damaged { format, reason } }
    };
    let markers = [ADOBE];
    let decompress = Decompress::with_markers(&markers).from_reader(JpegBytes(bytes)).map_err(jpeg_error)?;
    let (width, height) = decompress.size();
    let side = |n: usize| {
        u32::try_from(n).map_err(|_| ImageError::Damaged { format, reason: format!("a side of {n} pixels") })
    };
    let (width_px, height_px) = (side(width)?, side(height)?);
    check_size(width_px, height_px, limits)?;
    let pixels = match decompress.color_space() {
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let inverted = decompress.markers().any(|marker| marker.data.starts_with(b"Adobe"));
            let mut started = decompress.to_colorspace(ColorSpace::JCS_CMYK).map_err(jpeg_error)?;
            let cmyk = started.read_scanlines::<u8>().map_err(jpeg_error)?;
            started.finish().map_err(jpeg_error)?;
            rgb_from_cmyk(&cmyk, inverted)
        }
        _ => {
            let mut started = decompress.rgb().map_err(jpeg_error)?;
            let rgb = started.read_scanlines::<u8>().map_err(jpeg_error)?;
            // Reads as far as the end marker, which a file that lost its last bytes does not have.
            started.finish().map_err(jpeg_error)?;
            rgb
        }
    };
    if pixels.len() != 3 * width * height {
        return Err(ImageError::Truncated { format });
    }
    Ok((ImageInfo { format, width_px, height_px }, RgbImage8 { width_px, height_px, pixels }))
}

/// Pillow's `cmyk2rgb`: each colour is the white that ink and black leave, `(255 - k) - c (255 - k) / 255`, rounded.
fn rgb_from_cmyk(cmyk: &[u8], inverted: bool) -> Vec<u8> {
    let flip = if inverted { 0xFF } else { 0 };
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for pixel in cmyk.chunks_exact(4) {
        let white = u32::from(255 - (pixel[3] ^ flip));
        for ink in &pixel[..3] {
            let product = u32::from(ink ^ flip) * white + 128;
            let inked = (product + (product >> 8)) >> 8;
            rgb.push(u8::try_from(white.saturating_sub(inked)).unwrap_or(0));
        }
    }
    rgb
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
            let early = ["unexpected end", "UnexpectedEof", "failed to fill whole buffer", "truncated", "no more data"];
            let reason_is_early = early.iter().any(|words| reason.to_lowercase().contains(&words.to_lowercase()));
            if reason_is_early || is_riff_cut_short(bytes) {
                ImageError::Truncated { format }
            } else {
                ImageError::Damaged { format, reason }
            }
        }
    };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| crate_error(error.into()))?;
    // The widest pixel is four 32-bit floats. The rest is for metadata, which can be a decompression bomb, too.
    let mut allocations = image::Limits::default();
    allocations.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(allocations);
    let decoder = reader.into_decoder().map_err(crate_error)?;
    let (width_px, height_px) = decoder.dimensions();
    check_size(width_px, height_px, limits)?;
    if width_px == 0 || height_px == 0 {
        return Err(ImageError::Damaged { format, reason: format!("{width_px} × {height_px} pixels") });
    }
    let pixels = rgb8_of(DynamicImage::from_decoder(decoder).map_err(crate_error)?);
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

/// 8-bit RGB: alpha is dropped, grey is repeated, and 16-bit values are divided by 257 and rounded.
fn rgb8_of(image: DynamicImage) -> Vec<u8> {
    image.into_rgb8().into_raw()
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
            assert_eq!(Some(info.format), format_name(format));
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
    fn a_jpeg_without_its_last_bytes_is_truncated() {
        let bytes = encoded(ImageFormat::Jpeg);
        for n_lost in 1..64 {
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

    #[test]
    fn cmyk_follows_pillow() {
        // Pillow: Image.new("CMYK", (1, 1), (10, 200, 30, 40)).convert("RGB").getpixel((0, 0)) == (207, 46, 190)
        assert_eq!(rgb_from_cmyk(&[10, 200, 30, 40], false), [207, 46, 190]);
        assert_eq!(rgb_from_cmyk(&[245, 55, 225, 215], true), [207, 46, 190]);
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
