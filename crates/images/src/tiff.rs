//! What the decoder of TIFF lacks: palettes of 8 bits, premultiplied colours, and a word for layouts that it misreads.

use std::borrow::Cow;

use super::ImageError;

const FORMAT: &str = "tiff";

/// Tags, and the values of some.
const BITS_PER_SAMPLE: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES_PER_PIXEL: u16 = 277;
const PLANAR_CONFIGURATION: u16 = 284;
const COLOR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_OFFSETS: u16 = 324;
const EXTRA_SAMPLES: u16 = 338;
const GREY: u16 = 1;
const PALETTE: u16 = 3;
const PLANAR: u16 = 2;
const LOWEST_BIT_FIRST: u16 = 2;
const ASSOCIATED_ALPHA: u16 = 1;
const LZW: u16 = 5;

/// Ways of compression that the decoder lacks.
const COMPRESSIONS: [(u16, &str); 27] = [
    (2, "CCITT modified Huffman"),
    (3, "CCITT fax group 3"),
    (6, "old-style JPEG"),
    (9, "JBIG (fax profile T.85)"),
    (10, "JBIG (fax profile T.43)"),
    (32_766, "NeXT"),
    (32_771, "CCITT modified Huffman in words"),
    (32_809, "ThunderScan"),
    (32_895, "IT8"),
    (32_896, "IT8"),
    (32_897, "IT8"),
    (32_898, "IT8"),
    (32_908, "Pixar film"),
    (32_909, "Pixar log"),
    (32_947, "Kodak DCS"),
    (34_661, "JBIG"),
    (34_676, "SGI LogLuv"),
    (34_677, "SGI LogLuv of 24 bits"),
    (33_003, "JPEG 2000"),
    (33_005, "JPEG 2000"),
    (34_712, "JPEG 2000"),
    (34_887, "LERC"),
    (34_892, "lossy JPEG of DNG"),
    (34_925, "LZMA"),
    (50_000, "Zstandard"),
    (50_001, "WebP"),
    (50_002, "JPEG XL"),
];

/// Kinds of colours that the decoder lacks.
const PHOTOMETRICS: [(u16, &str); 9] = [
    (4, "a transparency mask"),
    (6, "YCbCr"),
    (8, "CIELab"),
    (9, "ICCLab"),
    (10, "ITULab"),
    (32_803, "a colour filter array"),
    (32_844, "LogL"),
    (32_845, "LogLuv"),
    (34_892, "linear raw"),
];

/// Number of colours of a palette for 8 bits.
const N_COLOURS: usize = 256;

/// What the decoder's values mean.
pub(crate) enum Values {
    Colours,
    /// Grey values are places in this palette.
    Places(Vec<[u8; 3]>),
    /// Colours are multiplied by their alpha.
    Premultiplied,
}

/// Makes a file readable: places in a palette become grey values, with the palette apart.
///
/// # Errors
/// The first picture is compressed or coloured in a way that the decoder lacks, which is named. Or it lies in tiles of one
/// channel each, on which the decoder panics, or has the bits of its bytes reversed, which the decoder does not look at.
pub(crate) fn prepared(bytes: &[u8]) -> Result<(Cow<'_, [u8]>, Values), ImageError> {
    let as_it_is = (bytes.into(), Values::Colours);
    let Some(directory) = Directory::first(bytes) else { return Ok(as_it_is) };
    let value = |tag| directory.short(tag);
    let unsupported = |reason: &str| Err(ImageError::Unsupported { format: FORMAT, reason: reason.to_owned() });
    let named = |tag, names: &[(u16, &'static str)]| {
        value(tag).and_then(|value| names.iter().find(|(other, _)| *other == value)).map(|(_, name)| *name)
    };
    if let Some(name) = named(COMPRESSION, &COMPRESSIONS) {
        return unsupported(&format!("its compression is {name}; save it with LZW, Deflate or no compression"));
    }
    if value(COMPRESSION) == Some(LZW) && directory.has_old_lzw() {
        return unsupported("its compression is old-style LZW; save it with LZW, Deflate or no compression");
    }
    if let Some(name) = named(PHOTOMETRIC, &PHOTOMETRICS) {
        return unsupported(&format!("its colours are {name}; save it as RGB"));
    }
    let is_planar = value(PLANAR_CONFIGURATION) == Some(PLANAR) && value(SAMPLES_PER_PIXEL) > Some(1);
    if is_planar && value(TILE_WIDTH).is_some() {
        return unsupported("its tiles hold one channel each; save it with the channels of a pixel together");
    }
    if value(FILL_ORDER) == Some(LOWEST_BIT_FIRST) {
        return unsupported("the bits of its bytes are in reverse order; save it with the highest bit first");
    }
    if value(EXTRA_SAMPLES) == Some(ASSOCIATED_ALPHA) {
        return Ok((bytes.into(), Values::Premultiplied));
    }
    let is_palette = value(PHOTOMETRIC) == Some(PALETTE) && value(SAMPLES_PER_PIXEL).unwrap_or(1) == 1;
    if !is_palette || value(BITS_PER_SAMPLE) != Some(8) {
        return Ok(as_it_is);
    }
    let (Some(palette), Some(at)) = (directory.palette(), directory.place_of_value(PHOTOMETRIC)) else {
        return Ok(as_it_is);
    };
    let mut bytes = bytes.to_vec();
    let grey = if directory.is_big_endian { GREY.to_be_bytes() } else { GREY.to_le_bytes() };
    bytes[at..at + 2].copy_from_slice(&grey);
    Ok((bytes.into(), Values::Places(palette)))
}

/// Whether the first picture's orientation tag exchanges its sides. As in Pillow, the tag turns a TIFF, and no other format.
pub(crate) fn is_on_its_side(bytes: &[u8]) -> bool {
    let orientation = Directory::first(bytes).and_then(|directory| directory.short(ORIENTATION));
    matches!(orientation, Some(5..=8))
}

/// The first directory of a file.
struct Directory<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    /// A BigTIFF, whose places and counts have eight bytes instead of four.
    is_big: bool,
    /// Place of its first entry, and number of entries.
    start: usize,
    n_entries: usize,
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (is_big_endian, is_big) = match bytes.get(..4)? {
            b"MM\0*" => (true, false),
            b"II*\0" => (false, false),
            b"MM\0+" => (true, true),
            b"II+\0" => (false, true),
            _ => return None,
        };
        let mut directory = Self { bytes, is_big_endian, is_big, start: 0, n_entries: 0 };
        let start = directory.place_at(if is_big { 8 } else { 4 })?;
        directory.n_entries = if is_big { directory.place_at(start)? } else { directory.u16_at(start)?.into() };
        directory.start = start.checked_add(if is_big { 8 } else { 2 })?;
        Some(directory)
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// A place or a count.
    fn place_at(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..)?.get(..self.n_place())?;
        let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        let place = if self.is_big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) };
        usize::try_from(place).ok()
    }

    /// Number of bytes of a place or a count.
    fn n_place(&self) -> usize {
        if self.is_big { 8 } else { 4 }
    }

    /// Place of the tag's entry: tag, type, count, and the values or their place.
    fn entry(&self, tag: u16) -> Option<usize> {
        let n_entry = 4 + 2 * self.n_place();
        let entry = |i: usize| self.start.checked_add(n_entry.checked_mul(i)?);
        // The entries of a valid directory fit the file.
        let n_entries = self.n_entries.min(self.bytes.len() / n_entry);
        (0..n_entries).filter_map(entry).find(|at| self.u16_at(*at) == Some(tag))
    }

    /// Place of the tag's values, of two bytes each: in its entry if they fit, else where the entry points.
    fn place_of_value(&self, tag: u16) -> Option<usize> {
        const SHORT: u16 = 3;
        let entry = self.entry(tag)?;
        if self.u16_at(entry + 2)? != SHORT {
            return None;
        }
        let value = entry + 4 + self.n_place();
        if self.place_at(entry + 4)? <= self.n_place() / 2 { Some(value) } else { self.place_at(value) }
    }

    /// The first value of a tag; a long one counts as the greatest.
    fn short(&self, tag: u16) -> Option<u16> {
        match self.place_of_value(tag) {
            Some(at) => self.u16_at(at),
            None => self.entry(tag).map(|_| u16::MAX),
        }
    }

    /// Whether the first strip or tile begins with the clear code of LZW before TIFF 6, which fills bytes from the lowest bit.
    fn has_old_lzw(&self) -> bool {
        const LONG: u16 = 4;
        let first = |tag| {
            let entry = self.entry(tag)?;
            if self.u16_at(entry + 2)? != LONG && !self.is_big {
                return Some(usize::from(self.short(tag)?));
            }
            let value = entry + 4 + self.n_place();
            if self.place_at(entry + 4)? == 1 { self.place_at(value) } else { self.place_at(self.place_at(value)?) }
        };
        let place = first(STRIP_OFFSETS).or_else(|| first(TILE_OFFSETS));
        let head = place.and_then(|place| self.bytes.get(place..)?.first_chunk::<2>());
        matches!(head, Some([0, second]) if second & 1 == 1)
    }

    /// Reds, then greens, then blues, of 16 bits each. As in Pillow, the high byte counts.
    fn palette(&self) -> Option<Vec<[u8; 3]>> {
        let start = self.place_of_value(COLOR_MAP)?;
        let high = |i: usize| Some((self.u16_at(start.checked_add(2 * i)?)? >> 8) as u8);
        (0..N_COLOURS).map(|i| Some([high(i)?, high(i + N_COLOURS)?, high(i + 2 * N_COLOURS)?])).collect()
    }
}

/// Colours without the alpha that they are multiplied by, as in Pillow's `RGBa` to `RGBA`.
pub(crate) fn divided_by_alpha(rgba: &[u8]) -> Vec<u8> {
    let colour = |value: u8, alpha: u8| match alpha {
        0 => value,
        alpha => (255 * u32::from(value) / u32::from(alpha)).min(255) as u8,
    };
    let (pixels, _) = rgba.as_chunks::<4>();
    pixels.iter().flat_map(|[r, g, b, alpha]| [r, g, b].map(|value| colour(*value, *alpha))).collect()
}
