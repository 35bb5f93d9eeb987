//! Checkpoints that no package index carries. Users download them from the authors' hub and put them into the weights
//! folder, or name a folder of their own.
//!
//! The files were not at hand when this was written, so no hashes are known. This module checks the layout. The files'
//! own checksums are checked as well. The network that reads a checkpoint checks every tensor's name and shape.

use std::error::Error;
use std::path::{Path, PathBuf};

use super::stamp;
use agiqa_checkpoint::shards;

/// A checkpoint to be placed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// Its name on the command line; its folder in the weights folder has the same.
    pub name: &'static str,
    /// Description in one line.
    pub about: &'static str,
    /// Name of its repository on the authors' hub.
    pub repository: &'static str,
    /// Address of its publication.
    pub url: &'static str,
    /// The authors' terms of use.
    pub licence: &'static str,
    /// Commands that read it.
    pub used_by: &'static [&'static str],
    /// Approximate size of all its files together.
    pub n_bytes: u64,
    /// Its files without the shards.
    pub files: &'static [&'static str],
    /// Published names of the files that hold its tensors.
    pub shards: Shards,
}

/// Published names of shards: `{prefix}{i}{suffix}` with `i` from 1 to `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    prefix: &'static str,
    suffix: &'static str,
    n: u32,
}

/// mPLUG-Owl2 7B, as released with its paper.
pub static MPLUG_OWL2: ByHand = ByHand {
    name: "mplug-owl2",
    about: "mPLUG-Owl2 7B, which reads an image under a prompt: the semantic features of the paper",
    repository: "MAGAer13/mplug-owl2-llama2-7b",
    url: "https://huggingface.co/MAGAer13/mplug-owl2-llama2-7b",
    licence: "see its model card; the language model is under the Llama 2 Community License",
    used_by: &["features"],
    // 8.2 billion values of 16 bits, by the sizes of its configuration.
    n_bytes: 16_400_000_000,
    files: &["config.json", "preprocessor_config.json", "tokenizer.model", "pytorch_model.bin.index.json"],
    shards: Shards { prefix: "pytorch_model-", suffix: "-of-33.bin", n: 33 },
};

/// All checkpoints to be placed by hand.
pub static ALL: [&ByHand; 1] = [&MPLUG_OWL2];

/// A checkpoint that is absent from its folder, or incomplete.
#[derive(Debug, thiserror::Error)]
#[error(
    "weights `{name}`: {found}\n\
     hint: the licence does not allow redistribution; download {repository} (about {gigabytes} GB: {files}) from \
     {url}, e.g. `huggingface-cli download {repository} --local-dir {place}`; put the files into {place}, or name \
     their folder (`--weights DIR`, in a pipeline `weights = \"DIR\"`); then run `agiqa weights verify {name}` (with \
     `--weights DIR` for a folder of your own), which checks that every shard is present and complete, that config, \
     tokenizer and preprocessor fit each other, and every tensor's name and shape",
    name = checkpoint.name,
    repository = checkpoint.repository,
    url = checkpoint.url,
    gigabytes = checkpoint.n_bytes / 1_000_000_000,
    files = checkpoint.file_list(),
    place = place.display()
)]
pub struct ByHandError {
    /// The checkpoint that was looked for.
    pub checkpoint: &'static ByHand,
    /// Its folder in the weights folder.
    pub place: PathBuf,
    /// The missing file or folder, in words.
    pub found: String,
}

impl ByHand {
    /// Its folder in the weights folder.
    pub fn folder(&self) -> PathBuf {
        super::folder().join(self.name)
    }

    /// Its files in `folder` without tensors: settings and tokenizers.
    pub fn small_files(&self, folder: &Path) -> Vec<PathBuf> {
        let settings = self.files.iter().filter(|file| !is_replaceable(file));
        settings.chain(&TOKENIZERS).map(|file| folder.join(file)).filter(|path| path.is_file()).collect()
    }

    /// Its files in words.
    fn file_list(&self) -> String {
        let Shards { prefix, suffix, n } = self.shards;
        format!("{}, and {prefix}1{suffix} to {prefix}{n}{suffix}", self.files.join(", "))
    }

    /// Checks that `folder` holds all files of a checkpoint: the settings, a tokenizer, and tensors in any of the known
    /// layouts, with every shard that their index names. An interrupted download fails this check.
    ///
    /// # Errors
    /// A file is missing. The message says how to get it.
    pub fn check(&'static self, folder: &Path) -> Result<(), ByHandError> {
        let missing = |found: String| ByHandError { checkpoint: self, place: self.folder(), found };
        if !folder.is_dir() {
            return Err(missing(format!("the folder {} is absent", folder.display())));
        }
        for file in self.files.iter().filter(|file| !is_replaceable(file)) {
            if !folder.join(file).is_file() {
                return Err(missing(format!("{} is absent", folder.join(file).display())));
            }
        }
        if !TOKENIZERS.iter().any(|file| folder.join(file).is_file()) {
            return Err(missing(format!("{} holds neither {}", folder.display(), TOKENIZERS.join(" nor "))));
        }
        shards::find(folder).map_err(|error| match error.source() {
            Some(source) => missing(format!("{error}: {source}")),
            None => missing(error.to_string()),
        })?;
        Ok(())
    }
}

/// Names of a tokenizer's file. One of them is enough.
const TOKENIZERS: [&str; 2] = ["tokenizer.model", "tokenizer.json"];

/// Whether `file` has another name in another layout of the same checkpoint.
fn is_replaceable(file: &str) -> bool {
    matches!(file, "pytorch_model.bin.index.json" | "tokenizer.model")
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

/// The checkpoint called `name`.
pub fn find(name: &str) -> Option<&'static ByHand> {
    ALL.into_iter().find(|checkpoint| checkpoint.name == name)
}
