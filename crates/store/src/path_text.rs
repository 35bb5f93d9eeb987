//! Paths as text, for tables, records, settings and messages. A system's path is any bytes; a text is UTF-8.
//!
//! A path in UTF-8 is its own text. A byte that is not part of UTF-8 is written `\xNN`, with two lower-case hexadecimal
//! digits: the file `caf<E9>.png` of Latin-1 has the text `caf\xe9.png`. A backslash that such digits follow by themselves
//! is written `\x5c`. So every path has its own text, and [`path_of`] gives the path back.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The text of `path`.
pub fn text_of(path: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in path.as_ref().as_bytes().utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            text.push_str(if escaped_byte(&rest.as_bytes()[at..]).is_some() { "\\x5c" } else { "\\" });
            rest = &rest[at + 1..];
        }
        text.push_str(rest);
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The path that [`text_of`] has written as `text`.
pub fn path_of(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        match escaped_byte(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The byte that `text` begins with in the form `\xNN`.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// serde's functions for a field that holds a path: `#[serde(with = "path_text::field")]`.
pub mod field {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the path as text.
    pub fn serialize<S: Serializer>(path: &PathBuf, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text_of(path))
    }

    /// Reads the path from its text.
    ///
    /// # Errors
    /// The value is not a text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        String::deserialize(deserializer).map(|text| path_of(&text))
    }
}

/// serde's functions for a field that may hold a path: `#[serde(with = "path_text::optional")]`.
pub mod optional {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the path as text.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(text_of).serialize(serializer)
    }

    /// Reads the path from its text.
    ///
    /// # Errors
    /// The value is not a text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Option::<String>::deserialize(deserializer).map(|text| text.as_deref().map(path_of))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_in_utf8_is_its_own_text_and_other_bytes_are_escaped() {
        for text in ["a b/ä.png", r"C:\images\xylophone.png", r"a\\b", ""] {
            assert_eq!(text_of(text), text);
        }
        assert_eq!(text_of(OsStr::from_bytes(b"caf\xe9.png")), r"caf\xe9.png");
        assert_eq!(text_of(r"caf\xe9.png"), r"caf\x5cxe9.png");
    }

    proptest! {
        #[test]
        fn every_path_is_read_back_from_its_text(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'e'), Just(b'9'), any::<u8>()], 0..16,
        )) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            prop_assert_eq!(path_of(&text_of(&path)), path);
        }
    }
}
