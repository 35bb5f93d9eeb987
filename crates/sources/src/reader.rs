//! The bytes of images at their places.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::cells::OpenColumn;
use crate::given::Given;
use crate::place::Place;
use agiqa_images::ImageError;

/// Greatest number of columns of Parquet files that are open at a time.
const N_OPEN: usize = 4;

/// Bytes of a file next to an image that are read.
const MAX_SIDECAR: u64 = 8 << 20;

/// Greatest number of bytes of a member of an archive.
const MAX_MEMBER: u64 = 2 << 30;

/// Reads the bytes at places. Cells of Parquet files are cheap in the order of their rows: a reader keeps the columns open
/// that it has read last.
#[derive(Default)]
pub struct Reader {
    columns: Mutex<Vec<OpenColumn>>,
}

impl Reader {
    /// The bytes at `place`.
    ///
    /// # Errors
    /// The file is absent, ends before the place does, or cannot be read.
    pub fn read(&self, place: &Place) -> Result<Vec<u8>, ImageError> {
        match place {
            Place::File(path) => agiqa_images::read(path),
            Place::Range { file, offset, n_bytes } => read_range(file, *offset, *n_bytes),
            Place::Cell { file, column, row } => self.read_cell(file, column, *row),
        }
    }

    /// The bytes at `place` if they are an image or `name` is that of one. `None` for anything else, of which only the
    /// first bytes are read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_if_image(&self, place: &Place, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match place {
            Place::File(path) => agiqa_images::read_if_image(path),
            Place::Range { file, offset, n_bytes } => {
                let head = read_range(file, *offset, (*n_bytes).min(64))?;
                let is_image = agiqa_images::is_image(Path::new(name), &head);
                if is_image { self.read(place).map(Some) } else { Ok(None) }
            }
            // A column of images holds nothing else, so that other bytes are a broken image.
            Place::Cell { .. } => self.read(place).map(Some),
        }
    }

    /// What the JSON or text at `place` says of an image.
    ///
    /// # Errors
    /// In words: the place cannot be read, or is not an object of JSON.
    pub fn read_given(&self, place: &str) -> Result<Given, String> {
        let parsed = Place::parse(place);
        let n_bytes = match &parsed {
            Place::File(path) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            Place::Range { n_bytes, .. } => *n_bytes,
            Place::Cell { .. } => 0,
        };
        if n_bytes > MAX_SIDECAR {
            return Err(format!("`{place}` has {n_bytes} bytes, over the limit of {MAX_SIDECAR}"));
        }
        let bytes = self.read(&parsed).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        if !text.trim_start().starts_with('{') {
            return Ok(Given::of_prompt(&text));
        }
        let object =
            serde_json::from_str(&text).map_err(|error| format!("`{place}` is not an object of JSON: {error}"))?;
        Ok(Given::of_json(&object))
    }

    fn read_cell(&self, file: &Path, column: &str, row: usize) -> Result<Vec<u8>, ImageError> {
        let mut open = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        let position = open.iter().position(|open| open.is_of(file, column) && open.is_near(row));
        let mut reader = match position {
            Some(position) => open.remove(position),
            None => OpenColumn::open(file, column, row).map_err(|reason| unreadable(file, reason))?,
        };
        let bytes = reader.bytes(row).map_err(|reason| unreadable(file, reason));
        open.insert(0, reader);
        open.truncate(N_OPEN);
        let bytes = bytes?.ok_or_else(|| unreadable(file, format!("row {row} has no value in column `{column}`")))?;
        if bytes.is_empty() { Err(ImageError::Empty) } else { Ok(bytes) }
    }
}

fn unreadable(path: &Path, reason: String) -> ImageError {
    ImageError::Unreadable { path: path.to_owned(), source: std::io::Error::other(reason) }
}

fn read_range(file: &Path, offset: u64, n_bytes: u64) -> Result<Vec<u8>, ImageError> {
    let path: PathBuf = file.to_owned();
    if n_bytes > MAX_MEMBER {
        return Err(unreadable(file, format!("the member has {n_bytes} bytes, over the limit of {MAX_MEMBER}")));
    }
    let read = || {
        let mut file = File::open(file)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(n_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ImageError::Missing { path },
        _ => ImageError::Unreadable { path, source },
    })?;
    if (bytes.len() as u64) < n_bytes {
        let reason = format!("it ends after {} of the {n_bytes} bytes at {offset}", bytes.len());
        return Err(unreadable(file, reason));
    }
    Ok(bytes)
}
