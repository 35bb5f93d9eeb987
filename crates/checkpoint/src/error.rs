//! What is wrong with a checkpoint.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::{Dtype, TensorInfo};

/// Why a checkpoint, or a tensor of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A folder without a checkpoint.
    #[error("{} holds no checkpoint; looked for {}", path.display(), looked_for.join(", "))]
    NotFound {
        /// The folder.
        path: PathBuf,
        /// File names that would be one.
        looked_for: Vec<&'static str>,
    },
    /// A vision transformer where a network on top of it is asked for.
    #[error(
        "{} holds a vision transformer alone (`{landmark}`), without MANIQA's own layers (`{missing}`): features of these would be \
         those of an untrained network; train MANIQA on it first, with `agiqa train --joint` and this folder as its weights", path.display()
    )]
    BackboneOnly {
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of the transformer that it has.
        landmark: &'static str,
        /// A tensor of the network that it lacks.
        missing: &'static str,
    },
    /// A file could not be read.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that ends too early.
    #[error("{}: {problem}, and the file has {n_bytes} bytes: it is cut short; get it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
        /// What was looked for.
        problem: String,
    },
    /// A file that contradicts itself.
    #[error("{}: {problem}: the file is damaged, or not what it seems to be", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        problem: String,
    },
    /// A pickle that asks for something outside the list.
    #[error(
        "{}: refused at byte {at} of its pickle: {problem}; only tensors, dictionaries and plain values are read from it, \
         and nothing is executed",
        path.display()
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// Position in the pickle.
        at: usize,
        /// The opcode or class, and what is wrong with it.
        problem: String,
    },
    /// A file of `torch.save` before version 1.6.
    #[error(
        "{}: a bare pickle, as torch before 1.6 wrote; convert it with \
         `torch.save(torch.load(path, map_location='cpu'), new_path)`",
        path.display()
    )]
    LegacyPickle {
        /// The file.
        path: PathBuf,
    },
    /// A file of no known format.
    #[error(
        "{}: neither safetensors nor a zip of PyTorch (.bin, .pt, .pth); it starts with {starts_with}",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, hexadecimal.
        starts_with: String,
    },
    /// An index that does not fit its shards.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What does not fit, and where.
        problem: String,
    },
    /// A tensor is absent.
    #[error(
        "{}: no tensor `{name}` among its {n_tensors}{}", path.display(),
        nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest is `{nearest}`"))
    )]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// How many tensors there are.
        n_tensors: usize,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A tensor has another shape.
    #[error(
        "{}: tensor `{name}`: expected shape {expected:?}, found {found:?} ({dtype}): a checkpoint of another geometry",
        path.display()
    )]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What the network has.
        expected: Vec<i64>,
        /// What the file has.
        found: Vec<i64>,
        /// The tensor's type.
        dtype: Dtype,
    },
    /// A tensor has a type that cannot serve.
    #[error("{}: tensor `{name}`: expected floating-point values, found {found}", path.display())]
    NotFloat {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// A list of tensors does not fit.
    #[error("{}: {misfit}", path.display())]
    Unfit {
        /// The checkpoint.
        path: PathBuf,
        /// What is missing, what has another shape, and what has a type that cannot serve.
        misfit: Misfit,
    },
    /// libtorch refused, e.g. for want of memory.
    #[error("placing tensor `{name}`")]
    Place {
        /// The tensor.
        name: String,
        /// What libtorch said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Tensors that a network asks for and a checkpoint lacks, has in another shape or type, or has beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Names that are absent.
    pub missing: Vec<String>,
    /// Name, expected shape, and what there is: another shape, or values that are no floating-point numbers.
    pub misshapen: Vec<(String, Vec<i64>, TensorInfo)>,
    /// Names that nothing asks for.
    pub unused: Vec<String>,
}

/// Most names of a kind in one message.
const MAX_LISTED: usize = 8;

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: Vec<String>, what: &str| {
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "\n  {} {what}:", items.len())?;
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
        let what = "tensors are not floating-point numbers (a quantised checkpoint is not read)";
        list(f, not_float.into_iter().map(described).collect(), what)?;
        list(f, self.unused.iter().map(|name| format!("`{name}`")).collect(), "tensors are unused")
    }
}
