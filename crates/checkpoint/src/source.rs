//! Reading bytes at an offset of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::CheckpointError;

/// A file, or its stand-in in tests.
pub trait ReadAt {
    /// Length of the file.
    fn n_bytes(&self) -> u64;

    /// Fills `buffer` from the bytes at `offset` on; the caller has checked that they exist.
    ///
    /// # Errors
    /// The system's error, also if the file has become shorter since it was opened.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The `n` bytes at `offset`. Memory is taken only if the file is long enough. `path` appears in messages.
    ///
    /// # Errors
    /// The file ends before them, or cannot be read.
    fn read(&self, path: &Path, offset: u64, n: usize) -> Result<Vec<u8>, CheckpointError> {
        if offset.checked_add(n as u64).is_none_or(|end| end > self.n_bytes()) {
            return Err(CheckpointError::Truncated {
                path: path.to_owned(),
                n_bytes: self.n_bytes(),
                problem: format!("{n} bytes at {offset} are beyond its end"),
            });
        }
        let mut buffer = vec![0; n];
        self.read_exact_at(&mut buffer, offset).map_err(|source| CheckpointError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(buffer)
    }
}

/// An open file and the length that it had when it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    n_bytes: u64,
}

impl FileSource {
    /// Opens `path`.
    ///
    /// # Errors
    /// The file does not exist, must not be read, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let error = |source| CheckpointError::Io { action: "open", path: path.to_owned(), source };
        // Checked first, because opening a pipe waits for ever.
        let metadata = std::fs::metadata(path).map_err(error)?;
        if !metadata.is_file() {
            return Err(error(io::Error::other("it is not a regular file")));
        }
        let file = File::open(path).map_err(error)?;
        Ok(Self { file, n_bytes: metadata.len() })
    }
}

impl ReadAt for FileSource {
    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn n_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
