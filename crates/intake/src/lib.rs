//! Opens every table that a person brings, and gives its cells as text with their places.
//!
//! The format follows from the content, never from the name. A table may be compressed (gzip, zstd, zlib) and may come
//! from a pipe, which is read once.
//!
//! | content | read as |
//! |---|---|
//! | delimited text | fields separated by `,` `;` tab `|` or blanks, recognised or given; a line `sep=;` is obeyed; UTF-8, UTF-16 or another encoding |
//! | JSON | objects in an array, one per line or by name; columns of values; arrays in an array; any of them under a key |
//! | Parquet | every codec; the fields of structures are columns of their own |
//! | xlsx | the first sheet with a table, or the named one; a merged cell's value counts for all its cells |
//! | MATLAB v5 | the vectors and lists of text of the greatest length, one column each |
//!
//! An empty cell and the usual words for "no value" ([`is_missing`]) are one thing: no value. A row that cannot be
//! understood stays in its place as a [`RowProblem`]. A panic of a library on a damaged file is an error of that file.

mod cells;

mod values;

mod contained;

mod source;

mod foreign;

mod text;

mod dialect;

mod delimited;

mod json;

mod repair;

mod parquet;

mod sheet;

mod labels;

mod table;

pub use cells::RowProblem;
pub use table::{Row, Table, TableError};
pub use values::is_missing;

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Kind of a table's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Delimited text. The delimiter is recognised or given.
    Csv,
    /// Text delimited by tabs.
    Tsv,
    /// JSON in one piece.
    Json,
    /// One JSON value per line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// Excel workbook.
    Xlsx,
    /// MATLAB v5 file.
    Mat,
}

/// What separates the fields of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Delimiter {
    /// This character.
    Byte(u8),
    /// Any number of blanks and tabs.
    Blanks,
}

impl std::str::FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.as_bytes()) {
            ("comma", _) => Ok(Self::Byte(b',')),
            ("semicolon", _) => Ok(Self::Byte(b';')),
            ("tab" | "\\t", _) => Ok(Self::Byte(b'\t')),
            ("pipe" | "bar", _) => Ok(Self::Byte(b'|')),
            ("blank" | "blanks" | "space" | " ", _) => Ok(Self::Blanks),
            (_, [byte @ (b'\t' | b'!'..=b'~')]) if !matches!(byte, b'"' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') => {
                Ok(Self::Byte(*byte))
            }
            _ => Err("expected `comma`, `semicolon`, `tab`, `pipe`, `blank`, or one punctuation mark".to_owned()),
        }
    }
}

impl TryFrom<String> for Delimiter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Delimiter> for String {
    fn from(delimiter: Delimiter) -> Self {
        match delimiter {
            Delimiter::Byte(b'\t') => "tab".to_owned(),
            Delimiter::Byte(byte) => char::from(byte).into(),
            Delimiter::Blanks => "blank".to_owned(),
        }
    }
}

/// How to read a table, where its content does not tell.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Reading {
    /// Format of the table. Default: by its content.
    #[arg(long)]
    pub format: Option<TableFormat>,
    /// Sheet of a workbook, or key of a JSON file that holds several tables. Default: the first one.
    #[arg(long, value_name = "NAME")]
    pub sheet: Option<String>,
    /// Delimiter: `comma`, `semicolon`, `tab`, `pipe`, `blank`, or one punctuation mark. Default: recognised.
    #[arg(long, value_name = "DELIMITER", allow_hyphen_values = true)]
    pub delimiter: Option<Delimiter>,
    /// Numbers have a decimal comma: `1,5` is one and a half.
    #[arg(long)]
    pub decimal_comma: bool,
    /// The first row is data. Columns are then given by number, from 1.
    #[arg(long)]
    pub no_header: bool,
    /// Encoding of a text that is not UTF-8, such as `gbk`. Default: UTF-16 is recognised, the rest is `windows-1252`.
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
}

/// Opens the table at `path`; `-` is standard input.
///
/// # Errors
/// The file cannot be read, is not a table, or is damaged as a whole. The error names the kind of file, if it is known.
pub fn open(path: &Path, reading: &Reading) -> Result<Table, TableError> {
    let malformed = |reason| TableError::Malformed { path: path.to_owned(), reason };
    let open_error = |source| TableError::Open { path: path.to_owned(), source };
    let source = source::Source::open(path).map_err(open_error)?;
    let hash = source.hash().map_err(open_error)?;
    let cells = source.cells(reading).map_err(malformed)?;
    Ok(Table::new(path, hash, cells, reading.decimal_comma))
}

/// Reads a table from its `bytes`, as the fuzz target does.
///
/// # Errors
/// As [`open`].
pub fn read(bytes: Vec<u8>, reading: &Reading) -> Result<Table, TableError> {
    let path = Path::new("-");
    let malformed = |reason| TableError::Malformed { path: path.to_owned(), reason };
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let cells = source::Source::Bytes(bytes).cells(reading).map_err(malformed)?;
    Ok(Table::new(path, hash, cells, reading.decimal_comma))
}

#[cfg(test)]
mod mutations;
