//! Places of images as text, for the tables: a file, a range of a file, a cell of a Parquet file.

use std::path::PathBuf;

use agiqa_store::path_text::path_of;

/// The place of an image's bytes. [`Place::parse`] reads its text, which is
///
/// - the path of a file, as `path_text` writes it;
/// - `PATH#OFFSET+BYTES` for a range of a file, such as a member of a tar file;
/// - `PATH#COLUMN[ROW]` for a cell of a Parquet file, with rows from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A whole file.
    File(PathBuf),
    /// Some bytes of a file.
    Range {
        /// The file.
        file: PathBuf,
        /// Position of the first byte.
        offset: u64,
        /// Number of bytes.
        n_bytes: u64,
    },
    /// The bytes in a cell of a Parquet file.
    Cell {
        /// The file.
        file: PathBuf,
        /// Name of the column.
        column: String,
        /// Row, from 0.
        row: usize,
    },
}

impl Place {
    /// The place that `text` names. A file that exists under the whole text is that file.
    pub fn parse(text: &str) -> Self {
        Self::within(text).filter(|_| !path_of(text).exists()).unwrap_or_else(|| Self::File(path_of(text)))
    }

    fn within(text: &str) -> Option<Self> {
        // A column's name may hold a `#`; a range has digits only.
        if let Some((file, (offset, n_bytes))) =
            text.rsplit_once('#').and_then(|(file, rest)| Some((file, rest.split_once('+')?)))
            && let (Ok(offset), Ok(n_bytes)) = (offset.parse(), n_bytes.parse())
        {
            return Some(Self::Range { file: path_of(file), offset, n_bytes });
        }
        let (cell, row) = text.strip_suffix(']')?.rsplit_once('[')?;
        let (file, column) = cell.rsplit_once('#')?;
        Some(Self::Cell { file: path_of(file), column: column.to_owned(), row: row.parse().ok()? })
    }
}

/// The text of the file in which the place with this text lies: what decides the share of a divided work that does it, so
/// that one share reads a file.
pub fn shard_key(place: &str) -> &str {
    let is_within = Place::within(place).is_some();
    place.rsplit_once('#').filter(|_| is_within).map_or(place, |(file, _)| file)
}

/// The text of a range of the file that has the text `file`.
pub(crate) fn range(file: &str, offset: u64, n_bytes: u64) -> String {
    format!("{file}#{offset}+{n_bytes}")
}

/// The text of a cell of the file that has the text `file`.
pub(crate) fn cell(file: &str, column: &str, row: usize) -> String {
    format!("{file}#{column}[{row}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_the_text_that_names_it() {
        let file = PathBuf::from("/no/x.tar");
        let range = Place::Range { file: file.clone(), offset: 512, n_bytes: 10 };
        assert_eq!(Place::parse(&super::range("/no/x.tar", 512, 10)), range);
        let of_cell = Place::Cell { file, column: "image".to_owned(), row: 7 };
        assert_eq!(Place::parse(&cell("/no/x.tar", "image", 7)), of_cell);
        for text in ["/no/x.png", "/no/#1.png", "/no/a#1+b", "/no/x]", "/no/x[1]"] {
            assert_eq!(Place::parse(text), Place::File(text.into()), "{text}");
        }
    }

    #[test]
    fn a_file_whose_name_looks_like_a_range_is_that_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x#1+2");
        std::fs::write(&path, "x").expect("it can be written");
        assert_eq!(Place::parse(&path.display().to_string()), Place::File(path));
    }
}
