//! From the bytes of a text to UTF-8.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Number of leading bytes that are looked at for zeros.
const N_LOOKED_AT: usize = 4096;

/// A text in UTF-8 without a byte order mark. Parts of a damaged text may be invalid.
pub(crate) struct Text {
    pub(crate) bytes: Vec<u8>,
    /// The encoding that was assumed, if another is possible.
    pub(crate) note: Option<String>,
}

/// Decodes `bytes`: as the encoding with the name `label`, as the byte order mark says, as UTF-16 if every other byte
/// is zero, as UTF-8, or as windows-1252 if no character outside ASCII is valid UTF-8.
///
/// # Errors
/// The label is unknown, or the bytes are not text.
pub(crate) fn decoded(mut bytes: Vec<u8>, label: Option<&str>) -> Result<Text, String> {
    if let Some(label) = label {
        let unknown = || format!("unknown encoding `{label}`; known are utf-8, utf-16le, windows-1252, gbk, …");
        let encoding = Encoding::for_label(label.as_bytes()).ok_or_else(unknown)?;
        return Ok(Text { bytes: recoded(&bytes, encoding), note: None });
    }
    if let Some(text) = utf_32(&bytes) {
        return Ok(Text { bytes: text.into_bytes(), note: None });
    }
    if let Some((encoding, n)) = Encoding::for_bom(&bytes) {
        if encoding == UTF_8 {
            bytes.drain(..n);
            return Ok(Text { bytes, note: None });
        }
        return Ok(Text { bytes: recoded(&bytes, encoding), note: None });
    }
    // A file that was being written when its machine stopped may end with zeros, and one of DOS with its end mark.
    let n_text = bytes.iter().rposition(|byte| !matches!(byte, 0 | 0x1A)).map_or(0, |last| last + 1);
    if !bytes[..n_text].contains(&0) {
        bytes.truncate(n_text);
    }
    let head = &bytes[..bytes.len().min(N_LOOKED_AT)];
    if head.contains(&0) {
        let zeros = |start| head.iter().skip(start).step_by(2).filter(|byte| **byte == 0).count();
        let (even, odd) = (zeros(0), zeros(1));
        let encoding = match head.len() {
            n if bytes.len().is_multiple_of(2) && odd * 4 > n && even * 8 < n => UTF_16LE,
            n if bytes.len().is_multiple_of(2) && even * 4 > n && odd * 8 < n => UTF_16BE,
            _ => return Err("it is binary data of no known format".to_owned()),
        };
        return Ok(Text { bytes: recoded(&bytes, encoding), note: None });
    }
    let (n_valid, n_invalid) = outside_ascii(&bytes);
    if n_invalid == 0 || n_valid > 0 {
        return Ok(Text { bytes, note: None });
    }
    let control = |byte: &&u8| **byte < 0x20 && !matches!(**byte, b'\t' | b'\n' | b'\r' | 0x0C);
    if head.iter().filter(control).count() * 20 > head.len() {
        return Err("it is binary data of no known format".to_owned());
    }
    let note = "it is not UTF-8 and was read as windows-1252 (Latin-1); `--encoding` names another encoding";
    Ok(Text { bytes: recoded(&bytes, WINDOWS_1252), note: Some(note.to_owned()) })
}

/// A text in UTF-32 with its byte order mark, whose little-endian form begins like that of UTF-16.
fn utf_32(bytes: &[u8]) -> Option<String> {
    let unit = match bytes {
        [0xFF, 0xFE, 0, 0, ..] => u32::from_le_bytes,
        [0, 0, 0xFE, 0xFF, ..] => u32::from_be_bytes,
        _ => return None,
    };
    let (units, _) = bytes[4..].as_chunks::<4>();
    Some(units.iter().map(|bytes| char::from_u32(unit(*bytes)).unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

fn recoded(bytes: &[u8], encoding: &'static Encoding) -> Vec<u8> {
    encoding.decode_with_bom_removal(bytes).0.into_owned().into_bytes()
}

/// Numbers of pieces outside ASCII that are valid and that are invalid UTF-8.
fn outside_ascii(bytes: &[u8]) -> (usize, usize) {
    let (mut n_valid, mut n_invalid) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        n_valid += usize::from(!chunk.valid().is_ascii());
        n_invalid += usize::from(!chunk.invalid().is_empty());
    }
    (n_valid, n_invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(decoded(bytes.to_vec(), None).expect("a text").bytes).expect("UTF-8")
    }

    #[test]
    fn encodings_are_recognised_with_and_without_a_mark() {
        let wide = |swap: bool| -> Vec<u8> {
            let pair = |unit: u16| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() };
            "name,mos\né,1\n".encode_utf16().flat_map(pair).collect()
        };
        for bytes in
            [wide(false), wide(true), [b"\xFF\xFE", &*wide(false)].concat(), [b"\xFE\xFF", &*wide(true)].concat()]
        {
            assert_eq!(text(&bytes), "name,mos\né,1\n");
        }
        for unit in [u32::to_le_bytes, u32::to_be_bytes] {
            let bytes: Vec<u8> = "\u{FEFF}é,1\n".chars().flat_map(|c| unit(c.into())).collect();
            assert_eq!(text(&bytes), "é,1\n");
        }
        assert_eq!(text("\u{FEFF}é".as_bytes()), "é");
        assert_eq!(text(b"caf\xE9"), "café");
    }

    #[test]
    fn one_damaged_character_in_utf_8_does_not_change_the_encoding() {
        let decoded = decoded(b"\xC3\xA9,\xFF".to_vec(), None).expect("a text");
        assert_eq!((decoded.bytes.as_slice(), decoded.note), (&b"\xC3\xA9,\xFF"[..], None));
    }
}
