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

/// Least number of bytes that are worth a thread.
const LEAST_PER_THREAD: usize = 4 << 20;

/// Fills `buffer` from the bytes at `offset` on, by up to `n_threads` threads. One thread copies from the page cache at a
/// fraction of what memory and a GPU's bus take. `path` appears in messages.
///
/// # Errors
/// The file ends before them, or cannot be read.
pub fn read_in_parallel(
    source: &(impl ReadAt + Sync),
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
    n_threads: usize,
) -> Result<(), CheckpointError> {
    let (n, n_file) = (buffer.len(), source.n_bytes());
    if offset.checked_add(n as u64).is_none_or(|end| end > n_file) {
        let problem = format!("{n} bytes at {offset} are beyond its end");
        return Err(CheckpointError::Truncated { path: path.to_owned(), n_bytes: n_file, problem });
    }
    let n_chunk = n.div_ceil(n_threads.max(1)).max(LEAST_PER_THREAD);
    let read = std::thread::scope(|scope| {
        let chunks = buffer.chunks_mut(n_chunk).enumerate();
        let started: Vec<_> = chunks
            .map(|(i, chunk)| scope.spawn(move || source.read_exact_at(chunk, offset + (i * n_chunk) as u64)))
            .collect();
        let ended = started.into_iter().map(|thread| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        ended.collect::<io::Result<Vec<()>>>()
    });
    read.map_err(|source| CheckpointError::Io { action: "read", path: path.to_owned(), source }).map(|_| ())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_read_what_one_reads() {
        let stored: Vec<u8> = (0..9 * LEAST_PER_THREAD / 4).map(|i| (i % 251) as u8).collect();
        let (path, offset) = (Path::new("x"), 5);
        for (n, n_threads) in [(0, 4), (7, 4), (2 * LEAST_PER_THREAD + 3, 1), (2 * LEAST_PER_THREAD + 3, 8)] {
            let mut buffer = vec![0; n];
            read_in_parallel(&stored, path, offset, &mut buffer, n_threads).expect("inside");
            assert!(buffer == stored[offset as usize..][..n]);
        }
        let mut buffer = vec![0; stored.len()];
        read_in_parallel(&stored, path, offset, &mut buffer, 2).expect_err("it ends before");
    }
}
