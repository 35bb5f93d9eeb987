//! A dataset's own split: one table per part, matched to the images by their `name`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa_intake::{Reading, RowProblem, TableError};
use agiqa_store::identity::ImageId;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::splits::Part;

/// Published files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PublishedError {
    /// A file cannot be read, or lacks the column `name`.
    #[error("the {part} part")]
    Table { part: Part, source: TableError },
    /// A row cannot be understood, so its name would be lost.
    #[error("`{}`, {place}: {problem}", path.display())]
    Row { path: PathBuf, place: String, problem: RowProblem },
    /// A name is in two parts.
    #[error(
        "`{}`, row {row}: `{name}` is in the {part} part and already in the {other} part; an image can be in one part \
         only",
        path.display()
    )]
    InTwoParts {
        path: PathBuf,
        /// Row of the file, from 1 after the header.
        row: usize,
        name: String,
        part: Part,
        /// The part that already holds the name.
        other: Part,
    },
}

pub(super) struct Found {
    pub(super) parts: Vec<(ImageId, Part)>,
    pub(super) unmatched: Vec<(String, Part)>,
}

pub(super) fn read(rows: &[ImageRow], files: [(Part, &PathBuf); 3]) -> Result<Found, PublishedError> {
    let ids: HashMap<&str, ImageId> = rows.iter().map(|row| (row.name.as_str(), row.image_id)).collect();
    let mut part_of_name: HashMap<String, Part> = HashMap::new();
    let mut found = Found { parts: Vec::new(), unmatched: Vec::new() };
    for (part, path) in files {
        for (index, name) in names(part, path)?.into_iter().enumerate() {
            match part_of_name.insert(name.clone(), part) {
                Some(other) if other != part => {
                    let row = index + 1;
                    return Err(PublishedError::InTwoParts { path: path.clone(), row, name, part, other });
                }
                // A repeated row in one file is ignored.
                Some(_) => continue,
                None => {}
            }
            match ids.get(name.as_str()) {
                Some(id) => found.parts.push((*id, part)),
                None => found.unmatched.push((name, part)),
            }
        }
    }
    Ok(found)
}

fn names(part: Part, path: &Path) -> Result<Vec<String>, PublishedError> {
    let error = |source| PublishedError::Table { part, source };
    let table = agiqa_intake::open(path, &Reading::default()).map_err(error)?;
    let column = table.column("name").map_err(error)?;
    let row = |position| match table.row(position) {
        Ok(row) => Ok(row.trimmed(column).map(str::to_owned)),
        Err(problem) => {
            let (path, place) = (path.to_owned(), table.place(position));
            Err(PublishedError::Row { path, place, problem: problem.clone() })
        }
    };
    (0..table.n_rows()).filter_map(|position| row(position).transpose()).collect()
}
