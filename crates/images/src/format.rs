//! Image formats by content: those that are decoded here, and those that are only known by name.

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// It is decoded: `jpeg`, `png`, `webp`, `bmp`, `gif`, `tiff` or `pnm`.
    Decoded(&'static str),
    /// An image that is not decoded, e.g. `AVIF`.
    Foreign(&'static str),
}

/// Number of bytes that tell the format.
pub const HEAD_BYTES: usize = 64;

/// Formats with a fixed beginning that are not decoded.
const FOREIGN: [(&[u8], &str); 27] = [
    (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
    (b"\xFF\x0A", "JPEG XL"),
    (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xFF\x4F\xFF\x51", "JPEG 2000"),
    (b"II\xBC\x01", "JPEG XR"),
    (b"\xFF\xD8\xFF\xF7", "JPEG-LS"),
    (b"8BPS", "Photoshop"),
    (b"gimp xcf ", "GIMP"),
    (b"DDS ", "DirectDraw surface"),
    (b"qoif", "QOI"),
    (b"farbfeld", "farbfeld"),
    (b"\x76\x2F\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"icns", "Apple icon"),
    (b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (b"\x8AMNG\r\n\x1A\n", "MNG"),
    (b"\x8BJNG\r\n\x1A\n", "JNG"),
    (b"BPG\xFB", "BPG"),
    (b"FLIF", "FLIF"),
    (b"SIMPLE  =", "FITS"),
    (b"\x01\xDA\x00", "SGI"),
    (b"\x01\xDA\x01", "SGI"),
    (b"\x0A\x05\x01", "PCX"),
    (b"BLP1", "Blizzard texture"),
    (b"BLP2", "Blizzard texture"),
    (b"\x59\xA6\x6A\x95", "Sun raster"),
];

/// Brands of files in the form of ISO 14496-12 (`ftyp`) that hold an image.
const BRANDS: [(&[u8; 4], &str); 13] = [
    (b"avif", "AVIF"),
    (b"avis", "AVIF"),
    (b"heic", "HEIC"),
    (b"heix", "HEIC"),
    (b"heim", "HEIC"),
    (b"heis", "HEIC"),
    (b"hevc", "HEIC"),
    (b"hevx", "HEIC"),
    (b"hevm", "HEIC"),
    (b"hevs", "HEIC"),
    (b"mif1", "HEIF"),
    (b"msf1", "HEIF"),
    (b"crx ", "Canon raw"),
];

impl Format {
    /// The format of a file by `head`, the file's first `HEAD_BYTES` bytes. A shorter file is its own head. `None` if the
    /// file is not an image.
    ///
    /// Two letters begin a PNM or BMP file, and many a text, too. So the numbers that must follow them are looked at.
    pub fn of(head: &[u8]) -> Option<Self> {
        if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Some(Self::Foreign(name));
        }
        match head {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Decoded("jpeg")),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Decoded("png")),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Decoded("webp")),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Decoded("gif")),
            [b'I', b'I', 42, 0, ..] if head.get(8..10) == Some(b"CR") => Some(Self::Foreign("Canon raw")),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Decoded("tiff")),
            [b'B', b'M', ..] if is_bmp(head) => Some(Self::Decoded("bmp")),
            [b'P', b'1'..=b'7', rest @ ..] if is_pnm(rest) => Some(Self::Decoded("pnm")),
            [b'P', b'F' | b'f', b'\n', b'0'..=b'9', ..] => Some(Self::Foreign("PFM")),
            // Reserved, of type icon, then the number of its pictures and the width of the first.
            [0, 0, 1, 0, 1..=255, 0, _, _, _, 0, ..] => Some(Self::Foreign("icon")),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => brand(head).map(Self::Foreign),
            _ => None,
        }
    }
}

/// Whether the header's length, the first field after the file header, is one that BMP knows.
fn is_bmp(head: &[u8]) -> bool {
    matches!(head.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

/// Whether a blank and then a number or a comment follow, or the names of PAM.
fn is_pnm(after_magic: &[u8]) -> bool {
    let n_blanks = after_magic.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let is_begun = |byte: &u8| byte.is_ascii_digit() || *byte == b'#' || after_magic[n_blanks..].starts_with(b"WIDTH");
    n_blanks > 0 && after_magic.get(n_blanks).is_some_and(is_begun)
}

/// The image format among the brands of an `ftyp` box: the major one first, then those that it is compatible with.
fn brand(head: &[u8]) -> Option<&'static str> {
    let n_box = usize::try_from(u32::from_be_bytes(std::array::from_fn(|i| head[i]))).ok()?.min(head.len());
    let named = |brand: &[u8]| BRANDS.iter().find(|(known, _)| brand == known.as_slice()).map(|(_, name)| *name);
    let brands = head.get(8..12).into_iter().chain(head.get(16..n_box).unwrap_or_default().chunks_exact(4));
    // `mif1` says only that it is an image. A more exact brand may follow.
    let mut found = brands.filter_map(named).collect::<Vec<_>>();
    found.sort_by_key(|name| *name == "HEIF");
    found.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_begin_like_images_are_no_images() {
        for text in ["P5 is the fifth plan of the five", "BMW and other cars of this kind", "P1", "BM", "GIF89", "II*"]
        {
            assert_eq!(Format::of(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Format::of(b"P5\n# by hand\n2 2\n255\n"), Some(Format::Decoded("pnm")));
        assert_eq!(Format::of(b"P7\nWIDTH 2\n"), Some(Format::Decoded("pnm")));
    }

    #[test]
    fn the_most_exact_brand_names_the_format() {
        let file = |brands: &[u8]| [&(8 + brands.len() as u32).to_be_bytes(), b"ftyp".as_slice(), brands].concat();
        assert_eq!(Format::of(&file(b"avif\0\0\0\0mif1avif")), Some(Format::Foreign("AVIF")));
        assert_eq!(Format::of(&file(b"mif1\0\0\0\0mif1heic")), Some(Format::Foreign("HEIC")));
        assert_eq!(Format::of(&file(b"mif1\0\0\0\0mif1")), Some(Format::Foreign("HEIF")));
        assert_eq!(Format::of(&file(b"isom\0\0\0\0isommp42")), None, "a film");
        assert_eq!(Format::of(b"\xFF\xFF\xFF\xFFftypavif"), Some(Format::Foreign("AVIF")));
    }
}
