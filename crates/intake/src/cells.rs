//! Storage of a table's cells: one text for all, so that a million rows take little more than their bytes.

use std::fmt::Write as _;

use crate::values::is_missing;

/// Why a row cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RowProblem {
    /// It has more or fewer cells than the header.
    #[error("expected {expected} cells as in the header, found {found}")]
    Ragged { expected: usize, found: usize },
    /// A cell is not text in the file's encoding.
    #[error("column {}: the text is not UTF-8; `--encoding` names another encoding", column + 1)]
    NotUtf8 {
        /// From 0.
        column: usize,
    },
    /// Its form differs from the other rows, or it is not JSON.
    #[error("expected {expected}, found {found}")]
    OtherShape { expected: &'static str, found: String },
    /// A JSON object has a key twice.
    #[error("duplicate key `{key}`")]
    RepeatedKey { key: String },
}

impl RowProblem {
    /// The kind of the reject.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotUtf8 { .. } => "not-utf8",
            Self::Ragged { .. } | Self::OtherShape { .. } | Self::RepeatedKey { .. } => "ragged-row",
        }
    }
}

/// What the places of rows count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Places {
    /// The format has no lines.
    #[default]
    None,
    Lines,
    SheetRows,
}

/// Where the names of the columns come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Header {
    /// The format names its columns.
    #[default]
    Names,
    /// A row of the table.
    Row,
    /// Nowhere: they are numbered.
    Missing,
}

impl Header {
    /// The header of a format whose columns are named by the first row, if at all.
    pub(crate) fn of_rows(no_header: bool) -> Self {
        if no_header { Self::Missing } else { Self::Row }
    }
}

/// A row: its place in the file, and its cells or its problem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) place: u32,
    /// Index of its first cell, or of its problem.
    pub(crate) first: u32,
    /// Number of its cells; `None` for a problem.
    pub(crate) n: Option<u32>,
}

/// Cells row by row. A missing cell is an empty text.
#[derive(Default)]
pub(crate) struct Cells {
    pub(crate) columns: Vec<String>,
    pub(crate) places: Places,
    /// What a person should know about the table.
    pub(crate) notes: Vec<String>,
    /// The next step if a column is not found, e.g. other sheets.
    pub(crate) elsewhere: String,
    pub(crate) header: Header,
    pub(crate) problems: Vec<RowProblem>,
    pub(crate) rows: Vec<Span>,
    text: String,
    /// Ends of the cells in `text`.
    ends: Vec<u32>,
    /// Index of the first cell of the row that is being written.
    open: usize,
}

/// Greatest number of bytes of text that a table may hold, and of cells.
const MAX: usize = u32::MAX as usize - 1;

impl Cells {
    pub(crate) fn new(places: Places, header: Header) -> Self {
        Self { places, header, ..Self::default() }
    }

    /// Appends a cell to the open row.
    pub(crate) fn push(&mut self, text: &str) {
        if !is_missing(text) {
            self.text.push_str(text);
        }
        self.close_cell();
    }

    /// Appends a cell that displays as text to the open row.
    pub(crate) fn push_display(&mut self, value: impl std::fmt::Display) {
        let start = self.text.len();
        // Writing to a String cannot fail; what a Display refuses to print is a missing value.
        if write!(self.text, "{value}").is_err() || is_missing(&self.text[start..]) {
            self.text.truncate(start);
        }
        self.close_cell();
    }

    fn close_cell(&mut self) {
        self.ends.push(self.text.len().min(MAX) as u32);
    }

    /// Ends the open row, which starts at `place`.
    ///
    /// # Errors
    /// The table holds more text or cells than a table may.
    pub(crate) fn end_row(&mut self, place: u64) -> Result<(), String> {
        if self.text.len() >= MAX || self.ends.len() >= MAX {
            return Err("it holds more than 4 GiB of text; divide it".to_owned());
        }
        let n = (self.ends.len() - self.open) as u32;
        self.rows.push(Span { place: place.min(MAX as u64) as u32, first: self.open as u32, n: Some(n) });
        self.open = self.ends.len();
        Ok(())
    }

    /// Gives the open row up for a problem.
    pub(crate) fn end_row_with(&mut self, place: u64, problem: RowProblem) {
        self.ends.truncate(self.open);
        self.text.truncate(self.start_of(self.open));
        let first = self.problems.len() as u32;
        self.problems.push(problem);
        self.rows.push(Span { place: place.min(MAX as u64) as u32, first, n: None });
    }

    fn start_of(&self, cell: usize) -> usize {
        cell.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// The text of a row's cell; `None` if it is missing. `column` may lie behind the row's last cell.
    pub(crate) fn cell(&self, row: Span, column: usize) -> Option<&str> {
        if column >= row.n? as usize {
            return None;
        }
        let at = row.first as usize + column;
        Some(&self.text[self.start_of(at)..self.ends[at] as usize]).filter(|text| !text.is_empty())
    }

    /// Names for columns without a header.
    pub(crate) fn number_columns(&mut self, n: usize) {
        self.columns = (1..=n).map(|n| format!("column_{n}")).collect();
    }

    /// Takes the columns out that `is_left_out` names, by position.
    pub(crate) fn without(&self, is_left_out: &[bool]) -> Result<Self, String> {
        self.copied(&Self::default(), |column| !is_left_out[column])
    }

    /// These columns, followed by the columns of `other`, which has the same number of rows.
    pub(crate) fn joined(&self, other: &Self) -> Result<Self, String> {
        self.copied(other, |_| true)
    }

    fn copied(&self, other: &Self, is_kept: impl Fn(usize) -> bool) -> Result<Self, String> {
        let kept: Vec<usize> = (0..self.columns.len()).filter(|column| is_kept(*column)).collect();
        let notes = self.notes.iter().chain(&other.notes).cloned().collect();
        let columns = kept.iter().map(|column| &self.columns[*column]).chain(&other.columns).cloned().collect();
        let mut copy =
            Self { columns, notes, elsewhere: self.elsewhere.clone(), ..Self::new(self.places, self.header) };
        for (at, row) in self.rows.iter().enumerate() {
            for column in &kept {
                copy.push(self.cell(*row, *column).unwrap_or_default());
            }
            for column in 0..other.columns.len() {
                copy.push(other.cell(other.rows[at], column).unwrap_or_default());
            }
            copy.end_row(u64::from(row.place))?;
        }
        Ok(copy)
    }
}
