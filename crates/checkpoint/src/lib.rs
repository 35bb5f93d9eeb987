//! File formats of checkpoints, read without torch: the name, type and shape of each tensor, its file and its bytes.
//!
//! Nothing here executes code from a file or trusts a length that a file claims. Memory stays within a small multiple
//! of a file's headers; for a pickle, it stays within 64 MiB or the file's size, whichever is larger.
//!
//! | file | read by |
//! |---|---|
//! | `.safetensors` | [`mod@safetensors`] |
//! | PyTorch's zip, TorchScript's too: `.bin`, `.pt`, `.pth` | [`zip`], [`pickle`], [`mod@pytorch`] |
//! | PyTorch's files before version 1.6: `.pkl`, `.pth` | [`pickle`], [`legacy`] |
//! | numpy's archives: `.npz` | [`zip`], [`npz`] |
//! | `*.index.json` and its shards, or a folder | [`shards`] |
//!
//! The crate depends on no other crate of the project, so that the fuzz target builds without libtorch.

mod dtype;

pub use dtype::StoredDtype;

mod error;

pub use error::{CheckpointError, Misfit};

pub mod other;

mod source;

pub use source::{FileSource, ReadAt, read_in_parallel};

mod tensors;

pub use tensors::{StoredTensor, TensorInfo};

pub mod zip;

pub mod pickle;

pub mod pytorch;

pub mod legacy;

pub mod npz;

pub mod safetensors;

pub mod shards;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Reads the tensors of one checkpoint file. Its content decides the format.
///
/// # Errors
/// The file has neither format, or is damaged. A reader that panics on it gives an error that names the file, too.
pub fn read_file(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    catch_unwind(AssertUnwindSafe(|| read_by_content(path, source))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let problem = format!("the reader gave up: {}", words.unwrap_or("no message"));
        Err(CheckpointError::Damaged { path: path.to_owned(), problem })
    })
}

fn read_by_content(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let head = source.read(path, 0, source.n_bytes().min(other::HEAD_BYTES as u64) as usize)?;
    match head[..] {
        [b'P', b'K', 3, 4, ..] => {
            let archive = zip::Directory::read(path, source)?;
            match npz::has_arrays(&archive) {
                true => npz::read(path, source, &archive),
                false => pytorch::read(path, source),
            }
        }
        // The header's length in eight bytes, then the header in JSON.
        [_, _, _, _, _, _, 0, 0, b'{', ..] => safetensors::read(path, source),
        _ if head.starts_with(legacy::MAGIC) => legacy::read(path, source),
        // A pickle of protocol 2 to 5 without a zip around it.
        [0x80, 2..=5, ..] => Err(CheckpointError::BarePickle { path: path.to_owned() }),
        _ => Err(match other::content(&head) {
            Some(found) => CheckpointError::Other { path: path.to_owned(), found },
            None => CheckpointError::UnknownFormat {
                path: path.to_owned(),
                starts_with: head.iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
            },
        }),
    }
}

/// Compares a file with the checksums stored in it: the CRC-32 of each member of PyTorch's zip. Safetensors store none.
/// Reads the whole file, a few MB at a time.
///
/// # Errors
/// The first member whose checksum differs, or other damage.
pub fn check_sums(path: &Path, source: &dyn ReadAt) -> Result<(), CheckpointError> {
    let n = source.n_bytes().min(4) as usize;
    match source.read(path, 0, n)?[..] {
        [b'P', b'K', 3, 4] => zip::Directory::read(path, source)?.check_sums(path, source),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_panics_is_an_error_with_the_file_and_the_words() {
        struct Broken;
        impl ReadAt for Broken {
            fn n_bytes(&self) -> u64 {
                100
            }

            fn read_exact_at(&self, _: &mut [u8], offset: u64) -> std::io::Result<()> {
                panic!("nothing at {offset}")
            }
        }
        let error = read_file(Path::new("x.pt"), &Broken).expect_err("it panics").to_string();
        assert!(error.starts_with("x.pt: the reader gave up: nothing at 0"), "{error}");
    }
}
