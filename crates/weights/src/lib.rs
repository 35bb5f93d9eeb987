//! Checkpoints: the [`mod@manifest`], the folder they lie in, and whether a file there is what the manifest says.
//!
//! A file counts as verified when its BLAKE3 has been computed and equals the manifest's. That takes a moment for large
//! files, so the result is kept in a stamp beside the file (`<file>.verified`) with the file's size and
//! time of modification; a file that changed since is hashed again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub mod manifest;

mod stamp;

pub mod fetch;

pub mod by_hand;

pub mod params;

pub use manifest::{Checkpoint, CheckpointFile, Source, manifest};

/// Folder of the weights: `AGIQA_WEIGHTS`, else `agiqa/weights` under the user's cache folder.
pub fn folder() -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
    };
    std::env::var_os("AGIQA_WEIGHTS").map_or_else(|| cache().join("agiqa").join("weights"), PathBuf::from)
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The manifest knows no such name.
    #[error("no weights are called `{name}`; there are: {}", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A file is not there.
    #[error("weights `{name}`: {} is absent; run `agiqa weights fetch {name}`", path.display())]
    Absent {
        /// The checkpoint.
        name: String,
        /// Where its file should be.
        path: PathBuf,
    },
    /// A file is shorter or longer than it should be.
    #[error(
        "weights `{name}`: {}: expected {expected} bytes, found {found}: the file is {}; \
         run `agiqa weights fetch {name}` to replace it",
        path.display(), if found < expected { "truncated" } else { "another one" }
    )]
    Size {
        /// The checkpoint.
        name: String,
        /// The file.
        path: PathBuf,
        /// Size in the manifest.
        expected: u64,
        /// Its size.
        found: u64,
    },
    /// A file's content is not that of the manifest.
    #[error(
        "weights `{name}`: {}: expected BLAKE3 {expected}, found {found}: the file is damaged or another one; \
         run `agiqa weights fetch {name}` to replace it",
        path.display()
    )]
    Hash {
        /// The checkpoint.
        name: String,
        /// The file.
        path: PathBuf,
        /// Hash in the manifest, hexadecimal.
        expected: String,
        /// Its hash.
        found: String,
    },
    /// A file could not be read or written.
    #[error("weights `{name}`: cannot {action} {}", path.display())]
    Io {
        /// The checkpoint.
        name: String,
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
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

/// Path of the (first) file of the checkpoint `name`, verified.
///
/// Quick where the file has been verified before and did not change since; else it is hashed once.
///
/// # Errors
/// An unknown name; a file that is absent, of another size or of another hash, with what to do about it.
pub fn locate(name: &str) -> Result<PathBuf, WeightsError> {
    let checkpoint = find(name)?;
    for file in &checkpoint.files {
        check(checkpoint, file, &folder(), Effort::StampServes)?;
    }
    Ok(checkpoint.files[0].path_in(&folder(), &checkpoint.name))
}

/// What identifies the checkpoint `name` in a fingerprint: the BLAKE3 of the manifest's hashes of its files.
///
/// Needs no file: the numbers that a checkpoint gives follow from the content that the manifest promises, and
/// [`locate`] refuses any other content.
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

/// BLAKE3 of any file, hexadecimal: of a checkpoint that the manifest has no hash of. Computed once per content: a stamp
/// beside the file keeps it, or this process where the folder is not ours to write.
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

/// How sure [`check`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A stamp of an earlier verification serves where the file did not change since.
    StampServes,
    /// The file is hashed whatever the stamp says.
    Full,
}

/// Whether `file` of `checkpoint` in `folder` is what the manifest says.
///
/// # Errors
/// It is absent, of another size, of another hash, or cannot be read.
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
    // Without a stamp (a folder that is not ours to write) the next check only takes longer.
    let _ = stamp::write(&path, &metadata, &found);
    Ok(())
}
