//! Walks through the chunks of PNG and WebP files and the segments of JPEG files, and keeps the texts in them.
//!
//! A chunk is never longer than the rest of the file, whatever it claims. Texts are kept until [`MAX_TEXTS`] bytes.

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::{Container, MAX_TEXT, MAX_TEXTS, exif, xmp};

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const XMP_KEY: &str = "XML:com.adobe.xmp";
const XMP_SEGMENT: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Notes that are kept; a hostile file could make millions.
const MAX_NOTES: usize = 20;

/// The texts of a file.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) container: Option<Container>,
    /// Key and text: PNG's own, and those of Exif that stand for one.
    pub(crate) texts: Vec<(String, String)>,
    /// Exif user comments, which have no key.
    pub(crate) comments: Vec<String>,
    pub(crate) declared_synthetic: Option<String>,
    pub(crate) has_c2pa: bool,
    pub(crate) notes: Vec<String>,
    n_text_bytes: usize,
}

impl Found {
    pub(crate) fn in_file(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        if let Some(chunks) = bytes.strip_prefix(PNG_SIGNATURE) {
            found.container = Some(Container::Png);
            png(chunks, &mut found);
        } else if let Some(segments) = bytes.strip_prefix(b"\xff\xd8") {
            found.container = Some(Container::Jpeg);
            jpeg(segments, &mut found);
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            found.container = Some(Container::Webp);
            webp(&bytes[12..], &mut found);
        } else {
            found.note("the file is neither PNG nor JPEG nor WebP".to_owned());
        }
        found
    }

    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Whether a text of `n_bytes` may be kept; counts it.
    pub(crate) fn allows(&mut self, n_bytes: usize) -> bool {
        if n_bytes > MAX_TEXT || self.n_text_bytes + n_bytes > MAX_TEXTS {
            self.note(format!(
                "a text of {n_bytes} bytes is left out: at most {MAX_TEXT} are read, of all texts {MAX_TEXTS}"
            ));
            return false;
        }
        self.n_text_bytes += n_bytes;
        true
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.texts.iter().find(|(found, _)| found == key).map(|(_, text)| text.as_str())
    }

    fn add(&mut self, key: &[u8], text: &[u8]) {
        if !self.allows(text.len()) {
            return;
        }
        let (key, text) = (decoded(key), decoded(text));
        if key == XMP_KEY { xmp::read(&text, self) } else { self.texts.push((key, text)) }
    }

    fn add_xmp(&mut self, text: &[u8]) {
        self.add(XMP_KEY.as_bytes(), text);
    }

    fn add_inflated(&mut self, key: &[u8], compressed: &[u8]) {
        let n_left = MAX_TEXT.min(MAX_TEXTS - self.n_text_bytes);
        let mut text = Vec::new();
        match ZlibDecoder::new(compressed).take(n_left as u64 + 1).read_to_end(&mut text) {
            Ok(_) if text.len() <= n_left => self.add(key, &text),
            Ok(_) => {
                // Inflating it has cost as much time as reading it would have.
                self.n_text_bytes += n_left;
                self.note(format!("text `{}` inflates to more than {n_left} bytes: it is left out", decoded(key)));
            }
            Err(error) => self.note(format!("text `{}` cannot be inflated: {error}", decoded(key))),
        }
    }
}

/// PNG's texts are Latin-1 by the standard, and UTF-8 by many tools.
pub(crate) fn decoded(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// What is before and after the first NUL.
fn at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn png(mut rest: &[u8], found: &mut Found) {
    while let Some((&[a, b, c, d, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let n_claimed = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some((data, after)) = after.split_at_checked(n_claimed) else {
            let kind = kind.escape_ascii();
            found.note(format!("PNG chunk `{kind}` claims {n_claimed} bytes, and {} are left", after.len()));
            return;
        };
        match kind {
            // ComfyUI's animated images carry the form of tEXt in a chunk of its own, behind the pixels.
            b"tEXt" | b"comf" => at_nul(data).into_iter().for_each(|(key, text)| found.add(key, text)),
            b"zTXt" => match at_nul(data) {
                Some((key, [0, compressed @ ..])) => found.add_inflated(key, compressed),
                _ => found.note("PNG chunk `zTXt` has no known compression".to_owned()),
            },
            b"iTXt" => match international_text(data) {
                Some((key, false, text)) => found.add(key, text),
                Some((key, true, text)) => found.add_inflated(key, text),
                None => found.note("PNG chunk `iTXt` lacks its fields".to_owned()),
            },
            b"eXIf" => exif::read(data, found),
            b"caBX" => found.has_c2pa = true,
            b"IEND" => return,
            _ => {}
        }
        // Four bytes are the chunk's sum.
        rest = after.get(4..).unwrap_or_default();
    }
}

/// Key, whether the text is compressed, and the text.
fn international_text(data: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let (key, rest) = at_nul(data)?;
    let [is_compressed, _method, rest @ ..] = rest else { return None };
    let (_language, rest) = at_nul(rest)?;
    let (_translated_key, text) = at_nul(rest)?;
    Some((key, *is_compressed != 0, text))
}

fn jpeg(mut rest: &[u8], found: &mut Found) {
    loop {
        // Any number of fill bytes may precede a marker.
        let marker = match rest {
            [0xff, 0xff, ..] => {
                rest = &rest[1..];
                continue;
            }
            // Pixels follow, or nothing.
            [0xff, 0xda | 0xd9, ..] | [] => return,
            [0xff, marker, after @ ..] => {
                rest = after;
                *marker
            }
            _ => return found.note("a JPEG segment does not begin with a marker".to_owned()),
        };
        // Markers without a length.
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        let n_claimed = rest.first_chunk::<2>().map_or(0, |bytes| usize::from(u16::from_be_bytes(*bytes)));
        let Some((segment, after)) = rest.split_at_checked(n_claimed.max(2)) else {
            return found.note(format!("a JPEG segment claims {n_claimed} bytes, and {} are left", rest.len()));
        };
        let data = &segment[2..];
        match marker {
            0xe1 if data.starts_with(b"Exif\0") => exif::read(data, found),
            0xe1 => data.strip_prefix(XMP_SEGMENT).into_iter().for_each(|text| found.add_xmp(text)),
            // A JUMBF box, whose label names C2PA.
            0xeb => found.has_c2pa |= data.starts_with(b"JP") && data.windows(4).take(96).any(|label| label == b"c2pa"),
            0xfe => found.add(b"Comment", data),
            _ => {}
        }
        rest = after;
    }
}

fn webp(mut rest: &[u8], found: &mut Found) {
    while let Some((&[ref kind @ .., a, b, c, d], after)) = rest.split_first_chunk::<8>() {
        let n_claimed = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((data, after)) = after.split_at_checked(n_claimed) else {
            let kind = kind.escape_ascii();
            found.note(format!("WebP chunk `{kind}` claims {n_claimed} bytes, and {} are left", after.len()));
            return;
        };
        match kind {
            b"EXIF" => exif::read(data, found),
            b"XMP " => found.add_xmp(data),
            b"C2PA" => found.has_c2pa = true,
            _ => {}
        }
        // Chunks begin at even places.
        rest = after.get(n_claimed % 2..).unwrap_or_default();
    }
}
