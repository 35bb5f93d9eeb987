//! Users' tables in several file formats, all read as text cells.

use serde::{Deserialize, Serialize};

mod delimited;
mod json;
mod parquet;
mod sheet;

/// Format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Comma-separated, quoted as in RFC 4180.
    Csv,
    /// Tab-separated, quoted likewise.
    Tsv,
    /// One array of objects.
    Json,
    /// One object per line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// Excel workbook.
    Xlsx,
}

impl TableFormat {
    /// The format of a file name's extension.
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" | "pq" => Some(Self::Parquet),
            "xlsx" => Some(Self::Xlsx),
            _ => None,
        }
    }
}

/// A table with the cells of its file as text. An empty cell, a null and a missing key are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTable {
    /// Names of the columns. A name may be empty or repeated.
    pub(super) columns: Vec<String>,
    /// Data rows in the order of the file.
    pub(super) rows: Vec<RawRow>,
}

/// One data row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawRow {
    /// Number of the row, from 1 after the header.
    pub(super) number: u64,
    /// Place of its start in the file, as an editor counts: `line 7`, `sheet row 7`; `None` if the format has no lines.
    pub(super) place: Option<String>,
    /// One cell per column, or why the row cannot be understood.
    pub(super) cells: Result<Vec<Option<String>>, RowProblem>,
}

/// Why a row cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowProblem {
    /// It has more or fewer cells than the header.
    Ragged { expected: usize, found: usize },
    /// It is not UTF-8 text.
    NotUtf8 { column: usize },
    /// It is not an object.
    NotAnObject { found: String },
}

/// Reads a table of `format` from a file's `bytes`. `sheet` names the sheet of a workbook.
///
/// # Errors
/// The reason, in words, if the file as a whole cannot be understood.
pub(super) fn read(bytes: Vec<u8>, format: TableFormat, sheet: Option<&str>) -> Result<RawTable, String> {
    match format {
        TableFormat::Csv => delimited::read(text_bytes(&bytes)?, b','),
        TableFormat::Tsv => delimited::read(text_bytes(&bytes)?, b'\t'),
        TableFormat::Json => json::read_array(text_bytes(&bytes)?),
        TableFormat::Jsonl => Ok(json::read_lines(text_bytes(&bytes)?)),
        TableFormat::Parquet => contained(|| parquet::read(bytes)),
        TableFormat::Xlsx => contained(|| sheet::read(&bytes, sheet)),
    }
}

/// `bytes` without UTF-8's byte order mark.
fn text_bytes(bytes: &[u8]) -> Result<&[u8], String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("it is text in UTF-16; save it as UTF-8".to_owned());
    }
    Ok(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))
}

/// Runs a decoder of a binary format. A panic on a damaged file becomes an error of that file.
fn contained(read: impl FnOnce() -> Result<RawTable, String>) -> Result<RawTable, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|_| Err("it is damaged".to_owned()))
}
