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
const FOREIGN: [(&[u8], &str); 29] = [
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
    (b"%!PS", "PostScript"),
    (b"\xC5\xD0\xD3\xC6", "PostScript"),
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
            _ => is_svg(head).then_some(Self::Foreign("SVG")),
        }
    }
}

/// Whether a text is a drawing in SVG by its first characters.
fn is_svg(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let holds = |words: &[u8]| head.windows(words.len()).any(|part| part == words);
    head.starts_with(b"<svg") || (head.starts_with(b"<") && (holds(b"<svg") || holds(b"<!DOCTYPE svg")))
}

/// Kinds of files that users often have in the place of an image, by their first bytes.
const OTHERS: [(&[u8], &str); 16] = [
    (b"version https://git-lfs", "a pointer of Git LFS; get the file with `git lfs pull`"),
    (b"\x89PNG\n\x1A\n", "a PNG that was copied as text; copy it again as binary data"),
    (b"\x89PNG\r\r\n\x1A", "a PNG that was copied as text; copy it again as binary data"),
    (b"<", "a web page or XML, such as a server's answer; download the file itself"),
    (b"{", "JSON, such as a server's answer; download the file itself"),
    (b"data:image/", "a data URL; decode it"),
    (b"iVBORw0KGgo", "a PNG in base64; decode it"),
    (b"/9j/", "a JPEG in base64; decode it"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1F\x8B", "compressed by gzip; unpack it"),
    (b"\x28\xB5\x2F\xFD", "compressed by zstd; unpack it"),
    (b"\x1A\x45\xDF\xA3", "a film (Matroska or WebM)"),
    (b"OggS", "a film or sound (Ogg)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
];

/// The kind of a file that is not an image, by its first bytes `head`; `None` if the kind is unknown.
pub fn other(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    match head {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] | [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => {
            Some("a film")
        }
        _ if !head.is_empty() && head.iter().all(|byte| *byte == 0) => {
            Some("zeros, as an interrupted copy leaves; copy it again")
        }
        _ => OTHERS.iter().find(|(start, _)| head.starts_with(start)).map(|(_, what)| *what),
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

    #[test]
    fn drawings_are_named_and_so_is_what_is_no_image() {
        for text in ["<svg xmlns=''/>", "\u{FEFF}<?xml version=\"1.0\"?>\n<svg>", "<!DOCTYPE svg PUBLIC>"] {
            assert_eq!(Format::of(text.as_bytes()), Some(Format::Foreign("SVG")), "{text}");
        }
        for (head, words) in [
            (b"<html>".as_slice(), "a web page"),
            (b"\xEF\xBB\xBF {\"error\": 1}", "JSON"),
            (b"\0\0\0\x18ftypmp42", "a film"),
            (b"\0\0\0\0", "zeros"),
        ] {
            assert_eq!(Format::of(head), None);
            assert!(other(head).is_some_and(|what| what.contains(words)), "{words}");
        }
        assert_eq!(other(b"ratings"), None);
    }
}
