//! Errors of checkpoints.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::{StoredDtype, TensorInfo};

/// Why a checkpoint, or a tensor of it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum CheckpointError {
    /// A folder without a checkpoint.
    #[error("{} holds no checkpoint; looked for {}", path.display(), looked_for.join(", "))]
    NotFound { path: PathBuf, looked_for: Vec<&'static str> },
    /// The checkpoint holds a vision transformer alone, without the layers on top of it.
    #[error(
        "{} holds a vision transformer alone (`{landmark}`), without MANIQA's own layers (`{missing}`), whose features \
         would be untrained; train MANIQA on it first, with `agiqa train --joint` and this folder as its weights",
        path.display()
    )]
    BackboneOnly {
        path: PathBuf,
        /// A tensor of the transformer, present.
        landmark: &'static str,
        /// A tensor of the network, absent.
        missing: &'static str,
    },
    /// A file could not be read.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file ends too early.
    #[error("{}: {problem}, and the file has {n_bytes} bytes: it is cut short; get it again", path.display())]
    Truncated { path: PathBuf, n_bytes: u64, problem: String },
    /// The file contradicts itself.
    #[error("{}: {problem}: the file is damaged, or has another format", path.display())]
    Damaged { path: PathBuf, problem: String },
    /// The pickle has an opcode or class that is not on the list.
    #[error(
        "{}: refused at byte {at} of its pickle{}: {problem}; only tensors, dictionaries and plain values are read from \
         it, and nothing is executed; convert it where you trust it: `torch.save(torch.load(path, map_location='cpu', \
         weights_only=False).state_dict(), new_path)`",
        path.display(),
        near.as_ref().map_or_else(String::new, |name| format!(", near `{name}`"))
    )]
    Refused {
        path: PathBuf,
        /// Byte offset in the pickle.
        at: usize,
        /// The latest name before it, often the tensor's.
        near: Option<String>,
        /// The opcode or class, and the problem with it.
        problem: String,
    },
    /// The file is a pickle that `torch.save` did not write.
    #[error(
        "{}: a bare pickle, which torch did not write; convert it with \
         `torch.save(pickle.load(open(path, 'rb')), new_path)`",
        path.display()
    )]
    BarePickle { path: PathBuf },
    /// The file is known to be something else.
    #[error("{}: neither safetensors nor a zip of PyTorch (.bin, .pt, .pth), but {found}", path.display())]
    Other {
        path: PathBuf,
        /// What it is, and what to do.
        found: String,
    },
    /// A tensor's values are not all finite.
    #[error(
        "{}: tensor `{name}` has values that are not finite: the training diverged, or the file is damaged",
        path.display()
    )]
    NotFinite { path: PathBuf, name: String },
    /// The file's format is unknown.
    #[error(
        "{}: neither safetensors nor a zip of PyTorch (.bin, .pt, .pth); it starts with {starts_with}",
        path.display()
    )]
    UnknownFormat {
        path: PathBuf,
        /// The first bytes, hexadecimal.
        starts_with: String,
    },
    /// The index does not fit its shards.
    #[error("{}: {problem}", path.display())]
    Index { path: PathBuf, problem: String },
    /// A tensor is absent.
    #[error(
        "{}: no tensor `{name}` among its {n_tensors}{}", path.display(),
        nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest is `{nearest}`"))
    )]
    Missing { path: PathBuf, name: String, n_tensors: usize, nearest: Option<String> },
    /// A tensor has another shape.
    #[error(
        "{}: tensor `{name}`: expected shape {expected:?}, found {found:?} ({dtype}): a checkpoint of another geometry",
        path.display()
    )]
    Shape { path: PathBuf, name: String, expected: Vec<i64>, found: Vec<i64>, dtype: StoredDtype },
    /// A tensor's values are not floating-point numbers.
    #[error("{}: tensor `{name}`: expected floating-point values, found {found}", path.display())]
    NotFloat { path: PathBuf, name: String, found: StoredDtype },
    /// A list of tensors does not fit.
    #[error("{}: {misfit}", path.display())]
    Unfit { path: PathBuf, misfit: Misfit },
    /// libtorch failed, e.g. because memory is short.
    #[error("placing tensor `{name}`")]
    Place {
        name: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Differences between the tensors of a network and the tensors of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Names that the checkpoint lacks.
    pub missing: Vec<String>,
    /// Name, expected shape, and the tensor found: its shape differs, or its values are not floating-point numbers.
    pub misshapen: Vec<(String, Vec<i64>, TensorInfo)>,
    /// Names that the network does not use.
    pub unused: Vec<String>,
}

/// Greatest number of names of a kind in one message.
const MAX_LISTED: usize = 8;

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: Vec<String>, heading: &str| {
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "\n  {} {heading}:", items.len())?;
            for item in items.iter().take(MAX_LISTED) {
                write!(f, " {item}")?;
            }
            let n_more = items.len().saturating_sub(MAX_LISTED);
            if n_more > 0 { write!(f, " and {n_more} more") } else { Ok(()) }
        };
        f.write_str("a checkpoint of another network, geometry or number type")?;
        list(f, self.missing.iter().map(|name| format!("`{name}`")).collect(), "tensors are missing")?;
        let (misshapen, not_float): (Vec<_>, Vec<_>) =
            self.misshapen.iter().partition(|(_, expected, found)| found.shape != *expected);
        let described = |(name, expected, TensorInfo { dtype, shape }): &(String, Vec<i64>, TensorInfo)| {
            format!("`{name}` expected {expected:?} found {shape:?} ({dtype})")
        };
        list(f, misshapen.into_iter().map(described).collect(), "tensors have another shape")?;
        let heading = "tensors are not floating-point numbers (a quantised checkpoint is not read)";
        list(f, not_float.into_iter().map(described).collect(), heading)?;
        list(f, self.unused.iter().map(|name| format!("`{name}`")).collect(), "tensors are unused")
    }
}
