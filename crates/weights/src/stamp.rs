//! The stamp next to a verified file: `<file>.verified`, one JSON object with the file's size, time of modification
//! and BLAKE3. It vouches for the file as long as the file's size and time of modification equal the stamp's.

use std::fs::Metadata;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    n_bytes: u64,
    /// Nanoseconds since 1970, as text: JSON readers may round numbers of that size.
    modified_nanos: String,
    blake3: String,
}

impl Stamp {
    fn of(metadata: &Metadata, blake3: &str) -> Result<Self> {
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(Error::other)?;
        Ok(Self { n_bytes: metadata.len(), modified_nanos: modified.as_nanos().to_string(), blake3: blake3.to_owned() })
    }
}

fn path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".verified");
    PathBuf::from(name)
}

/// BLAKE3 of the file at `path`, hexadecimal.
pub(super) fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether the stamp says that the file with `metadata` at `path` has the hash `blake3`. A broken stamp does not count.
pub(super) fn vouches(path: &Path, metadata: &Metadata, blake3: &str) -> bool {
    let stamp = std::fs::read(path_of(path)).ok().and_then(|bytes| serde_json::from_slice::<Stamp>(&bytes).ok());
    stamp.is_some() && stamp == Stamp::of(metadata, blake3).ok()
}

/// The hash in the stamp of `path`, if the stamp fits `metadata`.
pub(super) fn recall(path: &Path, metadata: &Metadata) -> Option<String> {
    let stamp: Stamp = serde_json::from_slice(&std::fs::read(path_of(path)).ok()?).ok()?;
    let is_current = stamp == Stamp::of(metadata, &stamp.blake3).ok()?;
    (is_current && blake3::Hash::from_hex(&stamp.blake3).is_ok()).then_some(stamp.blake3)
}

/// Writes the stamp of the file with `metadata` at `path`, whose hash is `blake3`.
pub(super) fn write(path: &Path, metadata: &Metadata, blake3: &str) -> Result<()> {
    let bytes = serde_json::to_vec(&Stamp::of(metadata, blake3)?)?;
    let folder = path.parent().ok_or_else(|| Error::other("a file lies in a folder"))?;
    // The stamp gets the file's own permissions: a weights folder may be shared, and temporary files are private by
    // default.
    let mut aside = tempfile::Builder::new().permissions(metadata.permissions()).tempfile_in(folder)?;
    std::io::Write::write_all(&mut aside, &bytes)?;
    aside.persist(path_of(path))?;
    Ok(())
}
