//! The layout of checkpoints from a hub, whose hashes are unknown. The files' own checksums are checked as well. The
//! network that reads a checkpoint checks every tensor's name and shape.

use std::error::Error;
use std::path::{Path, PathBuf};

use super::manifest::Hub;
use super::stamp;
use agiqa_checkpoint::shards;

/// Names of a tokenizer's file. One of them is enough.
const TOKENIZERS: [&str; 2] = ["tokenizer.model", "tokenizer.json"];

/// Whether `file` has another name in another layout of the same checkpoint.
fn is_replaceable(file: &str) -> bool {
    matches!(file, "pytorch_model.bin.index.json" | "tokenizer.model")
}

impl Hub {
    /// Its files in `folder` without tensors: settings and tokenizers.
    pub fn small_files(&self, folder: &Path) -> Vec<PathBuf> {
        let settings = self.files.iter().map(String::as_str).filter(|file| !is_replaceable(file));
        settings.chain(TOKENIZERS).map(|file| folder.join(file)).filter(|path| path.is_file()).collect()
    }

    /// What `folder` lacks of the settings, a tokenizer, and tensors in any of the known layouts with every shard that
    /// their index names; `None` if it is complete. An interrupted download is not.
    pub(super) fn lack_in(&self, folder: &Path) -> Option<String> {
        if !folder.is_dir() {
            return Some(format!("the folder {} is absent", folder.display()));
        }
        let absent = |file: &&String| !is_replaceable(file) && !folder.join(file).is_file();
        if let Some(file) = self.files.iter().find(absent) {
            return Some(format!("{} is absent", folder.join(file).display()));
        }
        if !TOKENIZERS.iter().any(|file| folder.join(file).is_file()) {
            return Some(format!("{} holds neither {}", folder.display(), TOKENIZERS.join(" nor ")));
        }
        let error = shards::find(folder).err()?;
        Some(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

/// Why a file cannot be verified.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RehashError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Its content has changed, but neither its size nor its time of modification has.
    #[error(
        "{}: expected BLAKE3 {expected}, the file's hash when it was last read in full, found {found}, although size \
         and time of modification are the same: the file is damaged; get it again",
        path.display()
    )]
    Changed {
        path: PathBuf,
        /// The hash in its stamp.
        expected: String,
        found: String,
    },
}

/// Hashes the file at `path`, even if it has a stamp, and compares the hash with the stamp. Writes a stamp if the file
/// has no current one.
///
/// # Errors
/// The file cannot be read, or its content has changed since its stamp was written.
pub fn rehash(path: &Path) -> Result<(), RehashError> {
    let io_error = |source| RehashError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    let found = stamp::hash(path).map_err(io_error)?;
    match stamp::recall(path, &metadata) {
        Some(expected) if expected != found => Err(RehashError::Changed { path: path.to_owned(), expected, found }),
        Some(_) => Ok(()),
        None => {
            // Writing fails in a read-only folder. Without a stamp, the next check only takes longer.
            let _ = stamp::write(path, &metadata, &found);
            Ok(())
        }
    }
}
