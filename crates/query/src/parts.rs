//! The parts of a table in a store, their footers read.

use agiqa_store::store::part::{self, PartError, PartReader};
use agiqa_store::store::{ObjectInfo, Store};
use agiqa_store::tables::registry::{TABLES, Table};
use arrow::datatypes::SchemaRef;

/// One part.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Path within the store.
    pub(crate) path: String,
    /// Size of the file.
    pub(crate) n_bytes: u64,
    /// Number of rows.
    pub(crate) n_rows: u64,
    /// Columns of the file.
    pub(crate) schema: SchemaRef,
    /// Columns of the path: names and values of its folders `column=value`, outermost first.
    pub(crate) partitions: Vec<(String, String)>,
}

impl Part {
    /// The folder of the part.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// The parts of `table`, sorted by path. Unfinished ones are not listed by the store.
///
/// # Errors
/// A part that is damaged, of a table that does not belong into this folder, or of another schema version.
pub(crate) fn open_all(store: &Store, table: &Table) -> Result<Vec<Part>, PartError> {
    let mut parts = Vec::new();
    for object in part::list(store, table.folder())? {
        match PartReader::open(store, &object, table.kind) {
            Ok(reader) => parts.push(of(&object, &reader)),
            Err(PartError::WrongTable { found, .. }) if shares_folder(table, &found) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parts)
}

fn of(object: &ObjectInfo, reader: &PartReader) -> Part {
    let folders = object.path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let partition = |folder: &str| folder.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Part {
        path: object.path.clone(),
        n_bytes: object.n_bytes,
        n_rows: reader.n_rows(),
        schema: reader.schema().clone(),
        partitions: folders.split('/').filter_map(partition).collect(),
    }
}

/// Whether `found`, a table's name in backquotes, is another table whose parts lie in the folder of `table`.
fn shares_folder(table: &Table, found: &str) -> bool {
    TABLES.iter().any(|other| other.folder() == table.folder() && found == format!("`{}`", other.name()))
}
