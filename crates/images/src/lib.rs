//! Image files: identification by content, decoding to 8-bit RGB, resizing.
//!
//! Decoding follows the networks' reference pipelines, which call Pillow's `convert("RGB")`:
//!
//! | file | decoded as |
//! |---|---|
//! | JPEG | libjpeg-turbo's defaults (accurate integer DCT, fancy upsampling): pixels equal Pillow's |
//! | grey | the value is repeated in all three channels |
//! | palette | colours are looked up |
//! | CMYK or YCCK JPEG | inverted and converted to RGB, with or without an Adobe marker |
//! | 16 bits a channel | scaled to 8 bits |
//! | float | values from 0 to 1, scaled to 8 bits; a file with other values is refused |
//! | alpha | dropped, not composited over anything |
//! | orientation tag | turns a TIFF; ignored in every other format: pixels as they are stored |
//! | animation | first frame |
//!
//! A file that ends early is an error, never a picture with a grey bottom, and so is a JPEG whose decoder warns of lost data.
//! A file that lacks only the marker of its end is whole. `docs/images.md` lists the formats and the differences to Pillow.

use std::io::Read as _;
use std::path::{Path, PathBuf};

mod decode;
mod folder;
mod format;
mod interpolate;
mod jpeg;
mod pillow;
mod resize;
mod tiff;

pub use decode::{decode, probe};
pub use folder::{FindError, Found, LeftOut, Reason, find};
pub use format::Format;
pub use interpolate::interpolate_bicubic;
pub use pillow::{PillowFilter, pad_to_square, resize_as_pillow};
pub use resize::{ResizeFilter, resize};

/// Version of the decoding and resizing rules. It is part of every extractor's fingerprint and is raised if pixels
/// change.
pub const DECODER_VERSION: u32 = 1;

/// Limits of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Greatest number of pixels of an image. The header is checked against it before anything is allocated.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    /// 100 million pixels, 300 MB as RGB: more than any generator makes, less than a decompression bomb.
    fn default() -> Self {
        Self { max_pixels: 100_000_000 }
    }
}

/// Properties of an image, from its file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Format by content: `jpeg`, `png`, `webp`, `bmp`, `gif`, `tiff` or `pnm`.
    pub format: &'static str,
    /// Width as stored, of a TIFF as its orientation tag turns it, pixels.
    pub width_px: u32,
    /// Height as stored, of a TIFF as its orientation tag turns it, pixels.
    pub height_px: u32,
}

/// An 8-bit RGB image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage8 {
    /// Width, pixels.
    pub width_px: u32,
    /// Height, pixels.
    pub height_px: u32,
    /// Row-major, three bytes a pixel.
    pub pixels: Vec<u8>,
}

/// Why a file gives no image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ImageError {
    /// The file does not exist.
    #[error("file `{}` does not exist", path.display())]
    Missing { path: PathBuf },
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The content is not an image of a known format.
    #[error(
        "the content is not in a known image format (jpeg, png, webp, bmp, gif, tiff, pnm); it starts with \
         {starts_with}{}",
        what.map_or_else(String::new, |what| format!(": it is {what}"))
    )]
    NotAnImage {
        /// The first bytes, hexadecimal.
        starts_with: String,
        /// The kind of the file, if it is known, and advice.
        what: Option<&'static str>,
    },
    /// The data ends before the image does.
    #[error("the {format} data ends before the image does: the file is cut short; copy it again")]
    Truncated { format: &'static str },
    /// The data contradicts itself.
    #[error("the {format} data is damaged: {reason}")]
    Damaged { format: &'static str, reason: String },
    /// A JPEG whose decoder has found lost or damaged data in its scans. Part of the picture would be wrong.
    #[error("the jpeg data is damaged, and part of the picture is wrong: {reason}")]
    DamagedScan {
        /// The decoder's warning.
        reason: String,
    },
    /// The image has more pixels than the limit allows.
    #[error(
        "the image claims {width_px} × {height_px} pixels, over the limit of {max_pixels}; raise `max_pixels` if it is \
         real"
    )]
    TooLarge { width_px: u32, height_px: u32, max_pixels: u64 },
    /// A valid file that uses something the decoders lack.
    #[error("the {format} file uses a feature that is not supported: {reason}")]
    Unsupported { format: &'static str, reason: String },
    /// An image of a format that is not decoded.
    #[error("the format {format} is not read: convert the image to PNG")]
    Foreign { format: &'static str },
}

impl ImageError {
    /// One word for the `kind` column of `rejects`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Unreadable { .. } => "unreadable",
            Self::Empty => "empty",
            Self::NotAnImage { .. } => "not-an-image",
            Self::Truncated { .. } => "truncated",
            Self::Damaged { .. } => "damaged",
            Self::TooLarge { .. } => "too-large",
            Self::DamagedScan { .. } => "damaged-scan",
            Self::Unsupported { .. } | Self::Foreign { .. } => "unsupported",
        }
    }
}

/// Largest image file that is read. A larger file counts as unreadable, so that it cannot exhaust the memory.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Reads a whole image file.
///
/// # Errors
/// [`ImageError::Missing`] or [`ImageError::Unreadable`]. A path that is not a regular file is unreadable, because
/// opening a pipe would wait for ever. A file over 2 GiB is unreadable, too.
pub fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ImageError::Missing { path: path.to_owned() },
        _ => ImageError::Unreadable { path: path.to_owned(), source },
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("it is not a regular file")));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let reason = format!("it has {} bytes, over the limit of {MAX_FILE_BYTES} for an image file", metadata.len());
        return Err(unreadable(std::io::Error::other(reason)));
    }
    std::fs::read(path).map_err(unreadable)
}

/// File name extensions of images. They tell no type. A file with such a name and another content was meant to be an
/// image, so it is a broken image and not another file.
const EXTENSIONS: [&str; 19] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "avif", "heic", "jxl",
];

/// Reads the file at `path` if it is an image or has the name of one. `None` for any other file, of which only the first
/// bytes are read.
///
/// # Errors
/// As [`read`].
pub fn read_if_image(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    let mut head = Vec::new();
    let opened = std::fs::File::open(path);
    let sniffed = opened.and_then(|file| file.take(format::HEAD_BYTES as u64).read_to_end(&mut head));
    sniffed.map_err(|source| ImageError::Unreadable { path: path.to_owned(), source })?;
    if is_image(path, &head) { read(path).map(Some) } else { Ok(None) }
}

/// Whether a file is an image by its first bytes, or is meant as one by its name.
pub fn is_image(path: &Path, head: &[u8]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let has_name = extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()));
    has_name || Format::of(&head[..head.len().min(format::HEAD_BYTES)]).is_some()
}
