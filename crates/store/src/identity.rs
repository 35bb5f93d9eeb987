//! Identities computed from content: [`ImageId`] from an image file's bytes, [`Fingerprint`] from settings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A string that is not a valid identity of the expected kind.
#[derive(Debug, thiserror::Error)]
#[error("`{found}` is not {what}: expected {n_hex} hexadecimal digits")]
pub struct IdentityError {
    what: &'static str,
    n_hex: usize,
    found: String,
}

/// Identity of an image: the first 32 hex digits (16 bytes) of the BLAKE3 hash of the image file's bytes.
///
/// A renamed file is the same image. A re-encoded file is another image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId([u8; 16]);

impl ImageId {
    /// Identity of the image file that holds `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(id)
    }

    /// The 16 bytes behind the hex form.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Position of this id in the hash space `[0, 1)`, scaled to 64 bits. Shards are ranges of this space.
    pub fn hash_position(&self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(head)
    }
}

/// BLAKE3 hash of every input that decides the numbers of a derived object.
///
/// Build one with [`Fingerprint::builder`]. Folders and table metadata carry the first 16 hex digits ([`Self::short`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Starts the fingerprint of an object of this `kind`, e.g. `extractor` or `run`.
    pub fn builder(kind: &str) -> FingerprintBuilder {
        let mut builder = FingerprintBuilder { hasher: blake3::Hasher::new() };
        builder.field("kind", kind.as_bytes());
        builder
    }

    /// The first 16 hex digits, as used in paths.
    pub fn short(&self) -> String {
        hex(&self.0[..8])
    }
}

/// Collects named fields. Names and lengths are hashed too, so different lists of fields give different hashes.
pub struct FingerprintBuilder {
    hasher: blake3::Hasher,
}

impl FingerprintBuilder {
    /// Adds one named field of raw bytes.
    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Self {
        for part in [name.as_bytes(), value] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
        self
    }

    /// Adds one named field by its JSON form. Any serialisable setting can be hashed this way.
    pub fn json<T: Serialize>(&mut self, name: &str, value: &T) -> &mut Self {
        let json = serde_json::to_vec(value).expect("settings are plain data and always serialise");
        self.field(name, &json)
    }

    /// The fingerprint of the fields given so far.
    pub fn finish(&self) -> Fingerprint {
        Fingerprint(*self.hasher.finalize().as_bytes())
    }
}

/// Lower-case hex form of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

fn parse_hex<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], IdentityError> {
    let error = || IdentityError { what, n_hex: 2 * N, found: text.to_owned() };
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(error());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    Ok(bytes)
}

macro_rules! hex_identity {
    ($name:ident, $n:literal, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                parse_hex::<$n>(text, $what).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, IdentityError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

hex_identity!(ImageId, 16, "an image id");
hex_identity!(Fingerprint, 32, "a fingerprint");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_id_round_trips_through_its_text() {
        let id = ImageId::of_bytes(b"image");
        assert_eq!(id.to_string().parse::<ImageId>().expect("its own text"), id);
        assert_eq!(id.to_string().len(), 32);
    }

    #[test]
    fn an_id_of_wrong_length_or_case_is_refused() {
        assert!("abc".parse::<ImageId>().is_err());
        assert!("A".repeat(32).parse::<ImageId>().is_err());
    }

    #[test]
    fn moving_a_byte_between_fields_changes_the_fingerprint() {
        let joined = Fingerprint::builder("x").field("ab", b"c").finish();
        let split = Fingerprint::builder("x").field("a", b"bc").finish();
        assert_ne!(joined, split);
    }
}
