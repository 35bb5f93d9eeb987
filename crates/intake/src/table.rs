//! A table as its readers see it: rows of cells by column.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::cells::{Cells, Header, Places, RowProblem, Span};
use crate::values;

/// Greatest number of columns that a message lists.
const N_LISTED: usize = 24;

/// A table cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TableError {
    /// The file cannot be read.
    #[error("cannot read table `{}`", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    /// The file as a whole is not a table.
    #[error("cannot understand table `{}`: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    /// A column does not exist.
    #[error("table `{}` has no column `{column}`; the columns are: {available}{hint}", path.display())]
    MissingColumn {
        path: PathBuf,
        column: String,
        /// The existing columns.
        available: String,
        /// The nearest column, or another way; may be empty.
        hint: String,
    },
    /// Several columns have the name.
    #[error(
        "table `{}` has more than one column `{column}`: {positions}; rename all but one, or give the number of one",
        path.display()
    )]
    RepeatedColumn {
        path: PathBuf,
        column: String,
        /// `column 3, column 4`.
        positions: String,
    },
    /// The table has no data rows.
    #[error("table `{}` has no data rows{hint}", path.display())]
    NoRows {
        path: PathBuf,
        /// What the only row is, and where else to look; may be empty.
        hint: String,
    },
}

/// A table in memory.
pub struct Table {
    path: PathBuf,
    hash: String,
    cells: Cells,
    decimal_comma: bool,
}

/// One data row.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    span: Span,
}

impl<'a> Row<'a> {
    /// The text of the cell in `column`, with its blanks; `None` if it has no value.
    pub fn cell(&self, column: usize) -> Option<&'a str> {
        self.table.cells.cell(self.span, column)
    }

    /// The text of the cell in `column`, without surrounding blanks.
    pub fn trimmed(&self, column: usize) -> Option<&'a str> {
        self.cell(column).map(str::trim)
    }
}

impl Table {
    pub(crate) fn new(path: &Path, hash: String, cells: Cells, decimal_comma: bool) -> Self {
        Self { path: path.to_owned(), hash, cells, decimal_comma }
    }

    /// This table with the columns of `other` behind its own. Row belongs to row by its number.
    ///
    /// # Errors
    /// The tables differ in their number of rows.
    pub fn joined(self, other: Self) -> Result<Self, TableError> {
        if self.n_rows() != other.n_rows() {
            let (mine, theirs) = (self.n_rows(), other.n_rows());
            let reason = format!("it has {mine} rows, and `{}` has {theirs}", other.path.display());
            return Err(TableError::Malformed { path: self.path, reason });
        }
        let reason = |reason| TableError::Malformed { path: self.path.clone(), reason };
        let cells = self.cells.joined(&other.cells).map_err(reason)?;
        let hash = blake3::hash(format!("{}{}", self.hash, other.hash).as_bytes()).to_hex().to_string();
        Ok(Self { hash, cells, ..self })
    }

    /// BLAKE3 (hex) of the file's bytes.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Names of the columns. A name may be empty or repeated.
    pub fn columns(&self) -> &[String] {
        &self.cells.columns
    }

    /// What a person should know about how the table was read.
    pub fn notes(&self) -> &[String] {
        &self.cells.notes
    }

    /// Number of data rows.
    pub fn n_rows(&self) -> usize {
        self.cells.rows.len()
    }

    /// Row at `position`, from 0 after the header, or why it cannot be understood.
    pub fn row(&self, position: usize) -> Result<Row<'_>, &RowProblem> {
        let span = self.cells.rows[position];
        match span.n {
            Some(_) => Ok(Row { table: self, span }),
            None => Err(&self.cells.problems[span.first as usize]),
        }
    }

    /// `row 3 (line 4)`: the row's number after the header, and the line or sheet row of its start if there is one.
    pub fn place(&self, position: usize) -> String {
        let (row, place) = (position + 1, self.cells.rows[position].place);
        match self.cells.places {
            Places::None => format!("row {row}"),
            Places::Lines => format!("row {row} (line {place})"),
            Places::SheetRows => format!("row {row} (sheet row {place})"),
        }
    }

    /// The finite or infinite number that a cell's `text` is.
    pub fn number(&self, text: &str) -> Option<f64> {
        values::number(text, self.decimal_comma)
    }

    /// `text` with a decimal point if it is a number with a decimal comma and the table has those.
    pub fn with_point<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let has_comma = self.decimal_comma && values::has_decimal_comma(text);
        if has_comma { text.replace(',', ".").into() } else { text.into() }
    }

    /// Why `text` may not have been read as a number: a hint behind a message, or nothing.
    pub fn number_hint(&self, text: &str) -> &'static str {
        let is_comma = !self.decimal_comma && values::has_decimal_comma(text);
        if is_comma { "; if its comma is a decimal mark, give `--decimal-comma`" } else { "" }
    }

    /// Fails if there are no rows.
    pub fn require_rows(&self) -> Result<(), TableError> {
        if self.n_rows() > 0 {
            return Ok(());
        }
        let mut hint = if self.looks_like_data(0..self.columns().len()) { self.header_hint() } else { String::new() };
        hint.push_str(&self.cells.elsewhere);
        Err(TableError::NoRows { path: self.path.clone(), hint })
    }

    /// Position of the column with the name `wanted` or, if there is none, with this number from 1. The name of a
    /// structure stands for its field `path`, as pictures in Parquet have it.
    ///
    /// # Errors
    /// There is no such column, or there are several. The error names those there are, and the nearest.
    pub fn column(&self, wanted: &str) -> Result<usize, TableError> {
        let columns = self.columns();
        let found: Vec<usize> = (0..columns.len()).filter(|at| columns[*at] == wanted).collect();
        match (found.as_slice(), wanted.parse::<usize>()) {
            ([at], _) => Ok(*at),
            ([], Ok(number)) if (1..=columns.len()).contains(&number) => Ok(number - 1),
            ([], _) if columns.contains(&format!("{wanted}.path")) => self.column(&format!("{wanted}.path")),
            ([], _) => Err(self.missing_column(wanted)),
            (several, _) => {
                let positions: Vec<String> = several.iter().map(|at| format!("column {}", at + 1)).collect();
                Err(TableError::RepeatedColumn {
                    path: self.path.clone(),
                    column: wanted.to_owned(),
                    positions: positions.join(", "),
                })
            }
        }
    }

    fn missing_column(&self, wanted: &str) -> TableError {
        let columns = self.columns();
        let mut available: Vec<String> = columns.iter().take(N_LISTED).map(|column| format!("`{column}`")).collect();
        if columns.len() > N_LISTED {
            available.push(format!("and {} more", columns.len() - N_LISTED));
        }
        if columns.is_empty() {
            available.push("none".to_owned());
        }
        let mut hint = agiqa_suggest::question(wanted, columns.iter().map(String::as_str));
        if self.cells.header == Header::Missing {
            hint = "; the table has no header: give the number of a column".to_owned();
        } else if self.looks_like_data(0..columns.len()) {
            hint = self.header_hint();
        } else if self.cells.places == Places::Lines && columns.len() == 1 && columns[0].contains(wanted) {
            hint = "; if another character divides the cells, give it with `--delimiter`".to_owned();
        }
        hint.push_str(&self.cells.elsewhere);
        TableError::MissingColumn {
            path: self.path.clone(),
            column: wanted.to_owned(),
            available: available.join(", "),
            hint,
        }
    }

    fn header_hint(&self) -> String {
        "; the first row looks like data: `--no-header` reads it as a row, and columns are given by number".to_owned()
    }

    /// A warning if the header is likely to be a row of data, seen by the `used` columns.
    pub fn header_warning(&self, used: &[usize]) -> Option<String> {
        let columns = self.columns();
        let is_number = used.iter().any(|at| values::number(&columns[*at], true).is_some());
        (self.cells.header == Header::Row && (is_number || self.looks_like_data(used.iter().copied()))).then(|| {
            let cells: Vec<&str> = columns.iter().take(4).map(String::as_str).collect();
            format!("`{}`: its first row, `{}`, was read as the header{}", self.path.display(), cells.join("`, `"), {
                self.header_hint()
            })
        })
    }

    /// Whether one of these header cells is a fraction or the name of an image.
    fn looks_like_data(&self, mut columns: impl Iterator<Item = usize>) -> bool {
        self.cells.header == Header::Row
            && columns.any(|at| {
                let name = &self.columns()[at];
                let is_fraction = name.contains(['.', ',']) && values::number(name, true).is_some();
                is_fraction || values::names_image(name)
            })
    }
}
