//! What the decoder of TIFF lacks: palettes of 8 bits, premultiplied colours, and a word for layouts that it misreads.

use std::borrow::Cow;

use super::ImageError;

const FORMAT: &str = "tiff";

/// Tags, and the values of some.
const BITS_PER_SAMPLE: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const SAMPLES_PER_PIXEL: u16 = 277;
const PLANAR_CONFIGURATION: u16 = 284;
const COLOR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const EXTRA_SAMPLES: u16 = 338;
const GREY: u16 = 1;
const PALETTE: u16 = 3;
const PLANAR: u16 = 2;
const LOWEST_BIT_FIRST: u16 = 2;
const ASSOCIATED_ALPHA: u16 = 1;

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
/// The first picture lies in tiles of one channel each, on which the decoder panics, or has the bits of its bytes reversed,
/// which the decoder does not look at.
pub(crate) fn prepared(bytes: &[u8]) -> Result<(Cow<'_, [u8]>, Values), ImageError> {
    let as_it_is = (bytes.into(), Values::Colours);
    let Some(directory) = Directory::first(bytes) else { return Ok(as_it_is) };
    let value = |tag| directory.short(tag);
    let unsupported = |reason: &str| Err(ImageError::Unsupported { format: FORMAT, reason: reason.to_owned() });
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

/// The first directory of a file, of 32-bit offsets. A BigTIFF has none here.
struct Directory<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    /// Place of its first entry, of 12 bytes, and number of entries.
    start: usize,
    n_entries: usize,
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let is_big_endian = match bytes.get(..4)? {
            b"MM\0*" => true,
            b"II*\0" => false,
            _ => return None,
        };
        let mut directory = Self { bytes, is_big_endian, start: 0, n_entries: 0 };
        let start = directory.u32_at(4)? as usize;
        directory.n_entries = usize::from(directory.u16_at(start)?);
        directory.start = start + 2;
        Some(directory)
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Place of the tag's values, of two bytes each: in its entry if there are one or two, else where the entry points.
    fn place_of_value(&self, tag: u16) -> Option<usize> {
        const SHORT: u16 = 3;
        let entry = (0..self.n_entries).map(|i| self.start + 12 * i).find(|at| self.u16_at(*at) == Some(tag))?;
        if self.u16_at(entry + 2)? != SHORT {
            return None;
        }
        if self.u32_at(entry + 4)? <= 2 { Some(entry + 8) } else { Some(self.u32_at(entry + 8)? as usize) }
    }

    /// The first value of a tag; a long one counts as the greatest.
    fn short(&self, tag: u16) -> Option<u16> {
        match self.place_of_value(tag) {
            Some(at) => self.u16_at(at),
            None => (0..self.n_entries).find(|i| self.u16_at(self.start + 12 * i) == Some(tag)).map(|_| u16::MAX),
        }
    }

    /// Reds, then greens, then blues, of 16 bits each. As in Pillow, the high byte counts.
    fn palette(&self) -> Option<Vec<[u8; 3]>> {
        let start = self.place_of_value(COLOR_MAP)?;
        let high = |i: usize| Some((self.u16_at(start + 2 * i)? >> 8) as u8);
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
