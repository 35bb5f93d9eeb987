//! Bytes of a table: a file or a pipe, decompressed, and told apart by their content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::cells::Cells;
use crate::contained::contained;
use crate::{Reading, TableFormat, delimited, foreign, json, labels, parquet, sheet, text};

/// Greatest size of a table that is not Parquet.
const MAX_BYTES: u64 = 2 << 30;

/// A compressed table may grow to this size, or to [`MAX_GROWTH`] times its own if that is more.
const MIN_UNPACKED: u64 = 256 << 20;

const MAX_GROWTH: u64 = 100;

/// A table's bytes.
pub(crate) enum Source {
    /// A Parquet file, which is read part by part.
    Parquet(File),
    /// The content of any other file or of a pipe.
    Bytes(Vec<u8>),
}

impl Source {
    /// Reads the file at `path`; `-` is standard input.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            return Self::whole(std::io::stdin().lock(), bytes);
        }
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::Error::other("it is a folder; a table is a file"));
        }
        file.by_ref().take(4).read_to_end(&mut bytes)?;
        if metadata.is_file() && bytes == foreign::PARQUET {
            return Ok(Self::Parquet(file));
        }
        bytes.reserve(usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0));
        Self::whole(file, bytes)
    }

    fn whole(reader: impl Read, mut bytes: Vec<u8>) -> std::io::Result<Self> {
        reader.take(MAX_BYTES).read_to_end(&mut bytes)?;
        match bytes.len() as u64 >= MAX_BYTES {
            true => Err(std::io::Error::other("it has more than 2 GiB; divide it, or save it as Parquet")),
            false => Ok(Self::Bytes(bytes)),
        }
    }

    /// BLAKE3 (hex) of the file as it is.
    pub(crate) fn hash(&self) -> std::io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Bytes(bytes) => hasher.update(bytes),
            Self::Parquet(file) => {
                use std::io::{Seek, SeekFrom};
                let mut file = file;
                file.seek(SeekFrom::Start(0))?;
                hasher.update_reader(file)?
            }
        };
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The cells of the table.
    pub(crate) fn cells(self, reading: &Reading) -> Result<Cells, String> {
        let mut bytes = match self {
            Self::Parquet(file) => return contained(|| parquet::read(file)),
            Self::Bytes(bytes) => bytes,
        };
        // Compressed once more by mistake still is the same table.
        for _ in 0..2 {
            match unpacked(&bytes)? {
                Some(inner) => bytes = inner,
                None => break,
            }
        }
        if bytes.starts_with(foreign::PARQUET) {
            return contained(|| parquet::read(bytes::Bytes::from(bytes)));
        }
        if bytes.starts_with(b"PK\x03\x04") {
            return contained(|| sheet::read(&bytes, reading));
        }
        if bytes.starts_with(b"MATLAB ") {
            return contained(|| labels::read(&bytes));
        }
        if let Some(what) = foreign::name(&bytes) {
            return Err(format!("it is {what}"));
        }
        if let Some(format @ (TableFormat::Parquet | TableFormat::Xlsx | TableFormat::Mat)) = reading.format {
            return Err(format!("it is text, not {format:?}; leave the format out"));
        }
        contained(|| {
            let text = text::decoded(bytes, reading.encoding.as_deref())?;
            let is_json = match reading.format {
                Some(TableFormat::Json | TableFormat::Jsonl) => true,
                Some(_) => false,
                None => reading.delimiter.is_none() && json::is_likely(&text.bytes),
            };
            let mut cells = if is_json { json::read(text.bytes, reading) } else { delimited::read(&text, reading) }?;
            cells.notes.extend(text.note);
            Ok(cells)
        })
    }
}

/// The content of compressed bytes; `None` if they are not compressed.
fn unpacked(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let limit = (bytes.len() as u64 * MAX_GROWTH).clamp(MIN_UNPACKED, MAX_BYTES);
    let is_zlib = matches!(bytes, [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..]);
    let mut inner = Vec::new();
    let (name, read) = match bytes {
        [0x1F, 0x8B, ..] => ("gzip", read_members(bytes, limit, &mut inner)),
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| error.to_string())?;
            ("zstd", decoder.take(limit).read_to_end(&mut inner))
        }
        _ if is_zlib => ("zlib", flate2::read::ZlibDecoder::new(bytes).take(limit).read_to_end(&mut inner)),
        _ => return Ok(None),
    };
    match read {
        // Text may begin with the two characters that zlib begins with.
        Err(_) if is_zlib && inner.is_empty() => Ok(None),
        Err(error) => Err(format!("its {name} compression is damaged or cut short: {error}")),
        Ok(_) if inner.len() as u64 >= limit => {
            Err(format!("its {name} compression unpacks to more than {} MiB; unpack it and divide it", limit >> 20))
        }
        Ok(_) => Ok(Some(inner)),
    }
}

/// Unpacks the members of a gzip file one after the other. Zeros behind the last are padding, as a tape's blocks have.
fn read_members(mut bytes: &[u8], limit: u64, inner: &mut Vec<u8>) -> std::io::Result<usize> {
    loop {
        let mut member = flate2::bufread::GzDecoder::new(bytes);
        member.by_ref().take(limit - inner.len() as u64).read_to_end(inner)?;
        bytes = member.into_inner();
        if inner.len() as u64 >= limit || bytes.iter().all(|byte| *byte == 0) {
            return Ok(inner.len());
        }
    }
}
