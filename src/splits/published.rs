//! A dataset's own split: one CSV file per part, matched to the images by their `name`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa_store::identity::ImageId;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::splits::Part;

/// Published files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PublishedError {
    /// A file could not be opened.
    #[error("cannot read the {part} part's file `{}`", path.display())]
    Open { part: Part, path: PathBuf, source: std::io::Error },
    /// A row could not be parsed.
    #[error("`{}`: not a CSV table", path.display())]
    Csv {
        path: PathBuf,
        /// The cause, which names the line.
        source: csv::Error,
    },
    /// The column `name` is missing.
    #[error("`{}`: there is no column `name`; there are: {}", path.display(), columns.join(", "))]
    NoNameColumn { path: PathBuf, columns: Vec<String> },
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
    let bytes = std::fs::read(path).map_err(|source| PublishedError::Open { part, path: path.to_owned(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let csv_error = |source| PublishedError::Csv { path: path.to_owned(), source };
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let headers = reader.headers().map_err(csv_error)?.clone();
    let column = headers.iter().position(|header| header.trim() == "name").ok_or_else(|| {
        PublishedError::NoNameColumn { path: path.to_owned(), columns: headers.iter().map(str::to_owned).collect() }
    })?;
    let mut names = Vec::new();
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        names.extend(record.get(column).map(str::to_owned).filter(|name| !name.is_empty()));
    }
    Ok(names)
}
