//! Checkpoints that no package index carries: their users get them from the authors' hub and put them into the weights
//! folder, or name a folder of their own. As their files were not at hand when this was written, no hashes are known;
//! what is checked is the layout here, the sums that files have of themselves, and every tensor's name and shape by the
//! network that reads them.

use std::error::Error;
use std::path::{Path, PathBuf};

use super::stamp;
use agiqa_checkpoint::shards;

/// A checkpoint to be placed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// Its name on the command line; its folder in the weights folder has the same.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What its authors call it.
    pub repository: &'static str,
    /// Where it is published.
    pub url: &'static str,
    /// What the authors say of its use.
    pub licence: &'static str,
    /// Commands that read it.
    pub used_by: &'static [&'static str],
    /// About how much all its files are together.
    pub n_bytes: u64,
    /// Its files but for the shards.
    pub files: &'static [&'static str],
    /// How the files with its tensors are called as published.
    pub shards: Shards,
}

/// Names of shards as published, `{prefix}{i}{suffix}` with `i` from 1 to `n`.
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
    used_by: &["embed"],
    // 8.2 billion values of 16 bits, by the sizes of its configuration.
    n_bytes: 16_400_000_000,
    files: &["config.json", "preprocessor_config.json", "tokenizer.model", "pytorch_model.bin.index.json"],
    shards: Shards { prefix: "pytorch_model-", suffix: "-of-33.bin", n: 33 },
};

/// All of them.
pub static ALL: [&ByHand; 1] = [&MPLUG_OWL2];

/// A checkpoint that is not where it should be, or not whole.
#[derive(Debug, thiserror::Error)]
#[error(
    "weights `{name}`: {found}\n\
     hint: nobody may pass them on with this program; download {repository} (about {gigabytes} GB: {files}) from {url}, \
     e.g. `huggingface-cli download {repository} --local-dir {place}`, put the files into {place} or name their folder \
     (`--weights DIR`, in a pipeline `weights = \"DIR\"`), and run `agiqa weights verify {name}`, with `--weights DIR` \
     where it is a folder of your own, which checks that every shard is there and whole, that config, tokenizer and \
     preprocessor fit each other, and every tensor's name and shape",
    name = checkpoint.name,
    repository = checkpoint.repository,
    url = checkpoint.url,
    gigabytes = checkpoint.n_bytes / 1_000_000_000,
    files = checkpoint.file_list(),
    place = place.display()
)]
pub struct ByHandError {
    /// The checkpoint.
    pub checkpoint: &'static ByHand,
    /// Its folder in the weights folder.
    pub place: PathBuf,
    /// What is missing, and where.
    pub found: String,
}

impl ByHand {
    /// Its folder in the weights folder.
    pub fn folder(&self) -> PathBuf {
        super::folder().join(self.name)
    }

    /// Its files in `folder` that are not of tensors: settings and tokenizers.
    pub fn small_files(&self, folder: &Path) -> Vec<PathBuf> {
        let settings = self.files.iter().filter(|file| !is_replaceable(file));
        settings.chain(&TOKENIZERS).map(|file| folder.join(file)).filter(|path| path.is_file()).collect()
    }

    /// Its files in words.
    fn file_list(&self) -> String {
        let Shards { prefix, suffix, n } = self.shards;
        format!("{}, and {prefix}1{suffix} to {prefix}{n}{suffix}", self.files.join(", "))
    }

    /// Whether `folder` holds all files of a checkpoint: those of settings, a tokenizer, and tensors in any of the known
    /// layouts, with every shard that their index names. A download that was interrupted does not.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn check(&'static self, folder: &Path) -> Result<(), ByHandError> {
        let missing = |what: String| ByHandError { checkpoint: self, place: self.folder(), found: what };
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

/// Names of a tokenizer's file; one of them is enough.
const TOKENIZERS: [&str; 2] = ["tokenizer.model", "tokenizer.json"];

/// Files that another layout of the same checkpoint has under other names.
fn is_replaceable(file: &str) -> bool {
    matches!(file, "pytorch_model.bin.index.json" | "tokenizer.model")
}

/// Why a file cannot be vouched for.
#[derive(Debug, thiserror::Error)]
pub enum RehashError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its content is another one, and neither its size nor its time of modification says so.
    #[error(
        "{}: expected BLAKE3 {expected}, its hash when it was last read in full, found {found}, with size and time of \
         modification as they were: the file is damaged; get it again",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The hash in its stamp.
        expected: String,
        /// Its hash.
        found: String,
    },
}

/// Hashes the file at `path` whatever its stamp says, and compares the two. Writes a stamp where there is none of the
/// file as it is.
///
/// # Errors
/// A file that cannot be read, or one that is not what it was when its stamp was written.
pub fn rehash(path: &Path) -> Result<(), RehashError> {
    let io_error = |source| RehashError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    let found = stamp::hash(path).map_err(io_error)?;
    match stamp::recall(path, &metadata) {
        Some(expected) if expected != found => Err(RehashError::Changed { path: path.to_owned(), expected, found }),
        Some(_) => Ok(()),
        None => {
            // Without a stamp (a folder that is not ours to write) the next look only takes longer.
            let _ = stamp::write(path, &metadata, &found);
            Ok(())
        }
    }
}

/// The checkpoint called `name`.
pub fn find(name: &str) -> Option<&'static ByHand> {
    ALL.into_iter().find(|checkpoint| checkpoint.name == name)
}
