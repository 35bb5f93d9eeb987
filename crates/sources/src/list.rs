//! Lists: tables whose rows name image files, relative to the list's folder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::given::Given;
use crate::{Entry, Problem, Sink, SourceError, file_version};
use agiqa_intake::{Reading, Row, Table, TableError};
use agiqa_store::path_text::{path_of, text_of};

/// Names of the column with paths; the first that a table has counts.
const PATHS: [&str; 8] = ["path", "uri", "file_name", "filename", "image_name", "image", "file", "name"];

/// A list, read whole.
pub(crate) struct List {
    table: Table,
    /// The column with paths.
    paths: usize,
}

impl List {
    /// Opens the list at `path`. A text without a header that has a known column is a path on each line.
    ///
    /// # Errors
    /// The file is no table, has no rows, or no column with paths.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let table = agiqa_intake::open(path, &Reading::default())?;
        if let Some(paths) = PATHS.iter().find_map(|name| table.column(name).ok().filter(|_| has(&table, name))) {
            table.require_rows()?;
            return Ok(Self { table, paths });
        }
        let is_text = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
        let names_file = table.columns().first().is_some_and(|first| below(path, first.trim()).exists());
        if is_text || (table.columns().len() == 1 && names_file) {
            // A tab is in no name of a file that a list can hold, so that each line is one cell.
            let lines = Reading { no_header: true, delimiter: "tab".parse().ok(), ..Reading::default() };
            let table = agiqa_intake::open(path, &lines)?;
            table.require_rows()?;
            return Ok(Self { table, paths: 0 });
        }
        let available: Vec<String> = table.columns().iter().map(|column| format!("`{column}`")).collect();
        Err(SourceError::Columns {
            path: path.to_owned(),
            problem: format!("no column with paths ({}) and none with image bytes", PATHS.join(", ")),
            available: available.join(", "),
        })
    }

    /// Passes each row to `sink`. A row that names no file of this machine has a problem.
    pub(crate) fn list(&self, path: &Path, sink: &mut Sink<'_>) -> u64 {
        for position in 0..self.table.n_rows() {
            let place = || format!("`{}`, {}", text_of(path), self.table.place(position));
            let broken = |kind: &'static str, message: String| {
                let uri = format!("{}#{}", text_of(path), position + 1);
                Entry { row: Some(position as u64 + 1), ..Entry::broken(&uri, "", "", Problem { kind, message }) }
            };
            let entry = match self.table.row(position) {
                Ok(row) => self
                    .entry(path, row, position)
                    .unwrap_or_else(|(kind, message)| broken(kind, format!("{}: {message}", place()))),
                Err(problem) => broken(problem.kind(), format!("{}: {problem}", place())),
            };
            if let ControlFlow::Break(()) = sink(entry) {
                return position as u64 + 1;
            }
        }
        self.table.n_rows() as u64
    }

    fn entry(&self, path: &Path, row: Row<'_>, position: usize) -> Result<Entry, (&'static str, String)> {
        let name = row.trimmed(self.paths).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| ("empty-name", "it names no file".to_owned()))?;
        let local = name.strip_prefix("file://").unwrap_or(name);
        if local.contains("://") {
            let message = format!("`{name}` is not a file of this machine: download it first, or mount its bucket");
            return Err(("not-local", message));
        }
        let place = text_of(below(path, local));
        let file = match crate::Place::parse(&place) {
            crate::Place::File(file) | crate::Place::Range { file, .. } | crate::Place::Cell { file, .. } => file,
        };
        let metadata = std::fs::metadata(&file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ("missing", format!("file `{}` does not exist", text_of(&file))),
            _ => ("unreadable", format!("cannot read `{}`: {error}", text_of(&file))),
        })?;
        Ok(Entry {
            given: self.given(row),
            row: Some(position as u64 + 1),
            ..Entry::plain(place, name.to_owned(), file_version(&metadata))
        })
    }

    /// The files that the table names below the folder it lies in, with what it says of each.
    pub(crate) fn by_file(&self, path: &Path) -> impl Iterator<Item = (PathBuf, Given)> {
        (0..self.table.n_rows()).filter_map(move |position| {
            let row = self.table.row(position).ok()?;
            Some((below(path, row.trimmed(self.paths)?), self.given(row)))
        })
    }

    /// What the table says of the image in `row`.
    fn given(&self, row: Row<'_>) -> Given {
        Given::of(|column| {
            let at = self.table.columns().iter().position(|name| name == column).filter(|at| *at != self.paths)?;
            row.trimmed(at).map(str::to_owned)
        })
    }
}

fn has(table: &Table, name: &str) -> bool {
    table.columns().iter().any(|column| column == name || *column == format!("{name}.path"))
}

/// The file that `name` names in the list at `path`, without `.` segments.
fn below(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(path_of(name)).components().collect()
}

impl From<TableError> for SourceError {
    fn from(error: TableError) -> Self {
        Self::List(error)
    }
}
