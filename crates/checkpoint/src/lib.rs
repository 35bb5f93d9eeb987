//! File formats of checkpoints, read without torch: what tensors there are, of which type and shape, and at which
//! bytes of which file. Nothing here executes what a file says, trusts a length that it claims, or holds more memory
//! than a small multiple of its headers, or, for a pickle, than 64 MiB or the file's own size.
//!
//! | file | read by |
//! |---|---|
//! | `.safetensors` | [`mod@safetensors`] |
//! | PyTorch's zip: `.bin`, `.pt`, `.pth` | [`zip`], [`pickle`], [`mod@pytorch`] |
//! | `*.index.json` and its shards, or a folder | [`shards`] |
//!
//! The module depends on nothing else of the project, so that the fuzz target builds without libtorch.

mod dtype;

pub use dtype::Dtype;

mod error;

pub use error::{CheckpointError, Misfit};

mod source;

pub use source::{FileSource, ReadAt};

mod tensors;

pub use tensors::{StoredTensor, TensorInfo};

pub mod zip;

pub mod pickle;

pub mod pytorch;

pub mod safetensors;

pub mod shards;

use std::path::Path;

/// Tensors of one checkpoint file, told by its content: safetensors or PyTorch's zip.
///
/// # Errors
/// A file of neither format, or a damaged one.
pub fn read_file(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let n = source.n_bytes().min(16) as usize;
    let head = source.read(path, 0, n)?;
    match head[..] {
        [b'P', b'K', 3, 4, ..] => pytorch::read(path, source),
        // A header's length in eight bytes, then its JSON.
        [_, _, _, _, _, _, 0, 0, b'{', ..] => safetensors::read(path, source),
        // A pickle without a zip around it, of protocol 2 to 5, or a tar archive of torch before 0.1.
        [0x80, 2..=5, ..] => Err(CheckpointError::LegacyPickle { path: path.to_owned() }),
        _ => Err(CheckpointError::UnknownFormat {
            path: path.to_owned(),
            starts_with: head.iter().map(|byte| format!("{byte:02x}")).collect(),
        }),
    }
}

/// Compares a file with the sums that it has of itself: the CRC-32 of each member of PyTorch's zip. Safetensors have
/// none. Reads the whole file, a few MB at a time.
///
/// # Errors
/// The first member that is not what its sum says, or a file that is damaged otherwise.
pub fn check_sums(path: &Path, source: &dyn ReadAt) -> Result<(), CheckpointError> {
    let n = source.n_bytes().min(4) as usize;
    match source.read(path, 0, n)?[..] {
        [b'P', b'K', 3, 4] => zip::Directory::read(path, source)?.check_sums(path, source),
        _ => Ok(()),
    }
}
