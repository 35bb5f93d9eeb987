//! Checkpoints: the [`mod@manifest`], the weights folder, and the comparison of the files there with the manifest.
//!
//! A file counts as verified if its BLAKE3 has been computed and equals the manifest's. Hashing takes a moment for
//! large files, so the result is kept in a stamp next to the file (`<file>.verified`) with the file's size and time of
//! modification. A file that has changed since is hashed again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub mod manifest;

mod stamp;

pub mod fetch;

pub mod by_hand;

pub mod params;

pub use manifest::{Checkpoint, CheckpointFile, Source, manifest};

/// A folder that cannot exist, for an environment that names none. In a folder that all users share, such as `/tmp`, anyone
/// could put weights.
const NO_FOLDER: &str = "/dev/null/set HOME or AGIQA_WEIGHTS";

/// Folder of the weights: `AGIQA_WEIGHTS`, else `agiqa/weights` under the user's cache folder. Without a home folder, the
/// folder can be neither read nor written, and its name says why.
pub fn folder() -> PathBuf {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    let weights = named("AGIQA_WEIGHTS").or_else(|| Some(cache?.join("agiqa").join("weights")));
    weights.unwrap_or_else(|| NO_FOLDER.into())
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum WeightsError {
    /// The name is not in the manifest.
    #[error("no weights are called `{name}`; there are: {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    /// A file is absent.
    #[error("weights `{name}`: {} is absent; run `agiqa weights fetch {name}`", path.display())]
    Absent { name: String, path: PathBuf },
    /// A file is shorter or longer than the manifest says.
    #[error(
        "weights `{name}`: {}: expected {expected} bytes, found {found}: the file is {}; \
         run `agiqa weights fetch {name}` to replace it",
        path.display(), if found < expected { "truncated" } else { "another one" }
    )]
    Size {
        name: String,
        path: PathBuf,
        /// Size in the manifest.
        expected: u64,
        found: u64,
    },
    /// A file's content differs from the manifest.
    #[error(
        "weights `{name}`: {}: expected BLAKE3 {expected}, found {found}: the file is damaged or another one; \
         run `agiqa weights fetch {name}` to replace it",
        path.display()
    )]
    Hash {
        name: String,
        path: PathBuf,
        /// Hash in the manifest, hexadecimal.
        expected: String,
        found: String,
    },
    /// A file could not be read or written.
    #[error("weights `{name}`: cannot {action} {}", path.display())]
    Io {
        name: String,
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The entry of the manifest called `name`.
///
/// # Errors
/// No entry has that name.
pub fn find(name: &str) -> Result<&'static Checkpoint, WeightsError> {
    manifest().iter().find(|checkpoint| checkpoint.name == name).ok_or_else(|| WeightsError::Unknown {
        name: name.to_owned(),
        known: manifest()
            .iter()
            .map(|checkpoint| checkpoint.name.clone())
            .chain(by_hand::ALL.iter().map(|checkpoint| checkpoint.name.to_owned()))
            .chain(params::ALL.iter().map(|params| params.name.to_owned()))
            .collect(),
    })
}

/// Path of the first file of the checkpoint `name`. All its files are verified.
///
/// A file that has been verified before and has not changed since is not hashed again.
///
/// # Errors
/// The name is unknown, or a file is absent or has another size or hash. The message says what to do.
pub fn locate(name: &str) -> Result<PathBuf, WeightsError> {
    let checkpoint = find(name)?;
    for file in &checkpoint.files {
        check(checkpoint, file, &folder(), Effort::StampServes)?;
    }
    Ok(checkpoint.files[0].path_in(&folder(), &checkpoint.name))
}

/// Identifies the checkpoint `name` in a fingerprint: the file's BLAKE3, or the BLAKE3 of all its files' hashes.
///
/// Reads no file. The hashes come from the manifest, and [`locate`] refuses any other content.
///
/// # Errors
/// An unknown name.
pub fn content_hash(name: &str) -> Result<String, WeightsError> {
    let checkpoint = find(name)?;
    if let [only] = &checkpoint.files[..] {
        return Ok(only.blake3.clone());
    }
    let mut hasher = blake3::Hasher::new();
    for file in &checkpoint.files {
        hasher.update(file.blake3.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 of any file, hexadecimal, for checkpoints without a hash in the manifest. It is computed once per content and
/// kept in a stamp next to the file, or in this process if the folder is read-only.
///
/// # Errors
/// The file cannot be read.
pub fn hash_of_file(path: &Path) -> std::io::Result<String> {
    type Key = (PathBuf, u64, std::time::SystemTime);
    static SEEN: Mutex<Option<HashMap<Key, String>>> = Mutex::new(None);
    let metadata = std::fs::metadata(path)?;
    if let Some(hash) = stamp::recall(path, &metadata) {
        return Ok(hash);
    }
    let key = (path.to_owned(), metadata.len(), metadata.modified()?);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.get_or_insert_default();
    if let Some(hash) = seen.get(&key) {
        return Ok(hash.clone());
    }
    let hash = stamp::hash(path)?;
    let _ = stamp::write(path, &metadata, &hash);
    seen.insert(key, hash.clone());
    Ok(hash)
}

/// How thoroughly [`check`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// The stamp of an earlier verification is enough if the file has not changed since.
    StampServes,
    /// The file is hashed even if it has a stamp.
    Full,
}

/// Checks that `file` of `checkpoint` in `folder` agrees with the manifest.
///
/// # Errors
/// The file is absent, has another size or hash, or cannot be read.
pub fn check(
    checkpoint: &Checkpoint,
    file: &CheckpointFile,
    folder: &Path,
    effort: Effort,
) -> Result<(), WeightsError> {
    let name = checkpoint.name.clone();
    let path = file.path_in(folder, &checkpoint.name);
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(WeightsError::Absent { name, path }),
        Err(source) => return Err(WeightsError::Io { name, action: "read", path, source }),
    };
    if metadata.len() != file.n_bytes {
        return Err(WeightsError::Size { name, path, expected: file.n_bytes, found: metadata.len() });
    }
    if effort == Effort::StampServes && stamp::vouches(&path, &metadata, &file.blake3) {
        return Ok(());
    }
    let found = match stamp::hash(&path) {
        Ok(found) => found,
        Err(source) => return Err(WeightsError::Io { name, action: "read", path, source }),
    };
    if found != file.blake3 {
        return Err(WeightsError::Hash { name, path, expected: file.blake3.clone(), found });
    }
    // Writing fails in a read-only folder. Without a stamp, the next check only takes longer.
    let _ = stamp::write(&path, &metadata, &found);
    Ok(())
}
