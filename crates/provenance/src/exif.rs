//! The few tags of Exif that generators write: user comment, make, model, description and software.
//!
//! Only IFD0 and the Exif IFD are read, each tag as a slice of the chunk. A general reader of Exif copies every value and
//! refuses the user comments of AUTOMATIC1111, which are followed by a broken link to a next IFD.

use crate::container::{Found, decoded};

const IMAGE_DESCRIPTION: u16 = 0x010e;
const MAKE: u16 = 0x010f;
const MODEL: u16 = 0x0110;
const SOFTWARE: u16 = 0x0131;
const EXIF_IFD: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl<'a> Tiff<'a> {
    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn u32_at(&self, at: usize) -> Option<usize> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize)
    }

    /// Tag, place of the value's field, and value of the entry at `at`.
    fn entry(&self, at: usize) -> Option<(u16, usize, &'a [u8])> {
        let size = match self.u16_at(at + 2)? {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 => 8,
            _ => 1,
        };
        let n_bytes = self.u32_at(at + 4)?.checked_mul(size)?;
        let start = if n_bytes <= 4 { at + 8 } else { self.u32_at(at + 8)? };
        Some((self.u16_at(at)?, at + 8, self.bytes.get(start..start.checked_add(n_bytes)?)?))
    }

    fn entries(&self, ifd: usize) -> impl Iterator<Item = (u16, usize, &'a [u8])> {
        let n_entries = self.u16_at(ifd).unwrap_or(0);
        (0..usize::from(n_entries)).filter_map(move |index| self.entry(ifd + 2 + 12 * index))
    }
}

/// Adds the texts of the Exif chunk `data` to `found`.
pub(crate) fn read(data: &[u8], found: &mut Found) {
    let bytes = data.strip_prefix(b"Exif\0").and_then(|rest| rest.get(1..)).unwrap_or(data);
    let is_little = match bytes.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return found.note("the Exif data do not begin as TIFF".to_owned()),
    };
    let tiff = Tiff { bytes, is_little };
    let Some(ifd0) = tiff.u32_at(4) else { return };
    for (tag, field, value) in tiff.entries(ifd0) {
        if tag == EXIF_IFD {
            let ifd = tiff.u32_at(field).unwrap_or(usize::MAX);
            let comments = tiff.entries(ifd).filter(|(tag, ..)| *tag == USER_COMMENT);
            // A hostile file may name the same long value ten thousand times.
            comments.take(4).for_each(|(_, _, value)| add(USER_COMMENT, value, found));
        } else {
            add(tag, value, found);
        }
    }
}

fn add(tag: u16, value: &[u8], found: &mut Found) {
    if !matches!(tag, IMAGE_DESCRIPTION | MAKE | MODEL | SOFTWARE | USER_COMMENT) || !found.allows(value.len()) {
        return;
    }
    if tag == USER_COMMENT {
        found.comments.push(user_comment(value));
        return;
    }
    let text = decoded(value).trim_end_matches('\0').to_owned();
    match tag {
        IMAGE_DESCRIPTION => found.texts.push(("Description".to_owned(), text)),
        SOFTWARE => found.texts.push(("Software".to_owned(), text)),
        // ComfyUI names its keys inside the values.
        _ => {
            let named = text.split_once(':').filter(|(key, _)| matches!(*key, "prompt" | "workflow"));
            found.texts.extend(named.map(|(key, text)| (key.to_owned(), text.to_owned())));
        }
    }
}

/// The text of a user comment: eight bytes name its encoding, or are missing, or lie.
fn user_comment(value: &[u8]) -> String {
    let text = match value.split_first_chunk::<8>() {
        Some((b"UNICODE\0", body)) => utf16(body),
        Some((b"ASCII\0\0\0" | [0, 0, 0, 0, 0, 0, 0, 0], body)) => decoded(body),
        _ => decoded(value),
    };
    text.trim_end_matches('\0').to_owned()
}

/// UTF-16 in either order of bytes; a mark at the beginning decides, else the reading that holds more of ASCII, which
/// settings and JSON are mostly written in. Some tools write UTF-8 in its place.
fn utf16(body: &[u8]) -> String {
    let read = |body: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = body.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match body {
        [0xfe, 0xff, body @ ..] => read(body, u16::from_be_bytes),
        [0xff, 0xfe, body @ ..] => read(body, u16::from_le_bytes),
        _ if !body.contains(&0) && std::str::from_utf8(body).is_ok() => decoded(body),
        _ => {
            let (big, little) = (read(body, u16::from_be_bytes), read(body, u16::from_le_bytes));
            let n_ascii = |text: &str| text.bytes().filter(|byte| matches!(byte, b'\n' | b' '..=b'~')).count();
            if n_ascii(&little) > n_ascii(&big) { little } else { big }
        }
    }
}
