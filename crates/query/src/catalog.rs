//! The tables by name: tables of parquet parts and tables of records.

use agiqa_store::store::Store;
use agiqa_store::tables::registry::{TABLES, Table};
use agiqa_store::tables::{Column as TableColumn, ColumnPlace};
use polars::prelude::*;

use crate::answer::Answer;
use crate::records::{self, Records};
use crate::{QueryError, failed, parts, scan};

/// A table opened for a query; its rows have not been read.
pub(crate) struct Opened {
    /// Name.
    pub(crate) name: String,
    /// The rows.
    pub(crate) frame: LazyFrame,
    /// Its columns.
    pub(crate) schema: SchemaRef,
    /// What to say about it.
    pub(crate) note: Option<String>,
}

#[derive(Clone, Copy)]
enum Known {
    Parts(&'static Table),
    Records(Records),
}

impl Known {
    fn all() -> impl Iterator<Item = Self> {
        TABLES.iter().map(Self::Parts).chain(Records::ALL.into_iter().map(Self::Records))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Parts(table) => table.name(),
            Self::Records(records) => records.name(),
        }
    }

    fn columns(self) -> &'static [TableColumn] {
        match self {
            Self::Parts(table) => table.columns,
            Self::Records(records) => records.columns(),
        }
    }
}

/// Whether there can be a table called `name`.
pub(crate) fn is_table(name: &str) -> bool {
    Known::all().any(|entry| entry.name() == name)
}

/// Opens the table `name` of `store`.
pub(crate) fn open(store: &Store, name: &str) -> Result<Opened, QueryError> {
    let (mut frame, note) = match find(store, name)? {
        Known::Parts(table) => match parts::open_all(store, table)?.as_slice() {
            [] => (scan::empty(table), Some(absence(table))),
            parts => (scan::of_parts(store, table, parts)?, None),
        },
        Known::Records(records) => records.open(store)?,
    };
    let schema = frame.collect_schema().map_err(failed)?;
    Ok(Opened { name: name.to_owned(), frame, schema, note })
}

fn find(store: &Store, name: &str) -> Result<Known, QueryError> {
    if let Some(known) = Known::all().find(|known| known.name() == name) {
        return Ok(known);
    }
    let hint = match agiqa_suggest::nearest(name, Known::all().map(Known::name)) {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => ";".to_owned(),
    };
    let sizes = sizes(store)?;
    let available: Vec<String> =
        sizes.iter().filter(|size| size.n_parts > 0).map(|size| format!("`{}`", size.known.name())).collect();
    let available = if available.is_empty() { "this store has no tables yet".to_owned() } else { available.join(", ") };
    Err(QueryError::UnknownTable {
        name: name.to_owned(),
        hint,
        available: format!("tables of this store: {available}"),
    })
}

fn absence(table: &Table) -> String {
    format!("table `{}` has no parts in this store yet; {} writes it", table.name(), table.written_by)
}

struct Size {
    known: Known,
    n_parts: usize,
    n_bytes: u64,
    n_rows: Option<u64>,
}

fn sizes(store: &Store) -> Result<Vec<Size>, QueryError> {
    let size = |known| match known {
        Known::Parts(table) => {
            let parts = parts::open_all(store, table)?;
            let n_bytes = parts.iter().map(|part| part.n_bytes).sum();
            let n_rows = Some(parts.iter().map(|part| part.n_rows).sum());
            Ok(Size { known, n_parts: parts.len(), n_bytes, n_rows })
        }
        Known::Records(_) => {
            let (n_parts, n_bytes) = records::size(store)?;
            Ok(Size { known, n_parts, n_bytes, n_rows: None })
        }
    };
    Known::all().map(size).collect()
}

/// The answer to `SHOW TABLES`: all tables, also those that the store has not yet.
pub(crate) fn show_tables(store: &Store) -> Result<DataFrame, QueryError> {
    let sizes = sizes(store)?;
    let written_by = |size: &Size| match size.known {
        Known::Parts(table) => table.written_by.replace('`', ""),
        Known::Records(_) => "every command".to_owned(),
    };
    let n_parts: Vec<u64> = sizes.iter().map(|size| size.n_parts as u64).collect();
    DataFrame::new(
        sizes.len(),
        vec![
            Column::new("table".into(), sizes.iter().map(|size| size.known.name()).collect::<Vec<_>>()),
            Column::new("n_parts".into(), n_parts),
            Column::new("n_rows".into(), sizes.iter().map(|size| size.n_rows).collect::<Vec<_>>()),
            Column::new("n_bytes".into(), sizes.iter().map(|size| size.n_bytes).collect::<Vec<_>>()),
            Column::new("written_by".into(), sizes.iter().map(written_by).collect::<Vec<_>>()),
        ],
    )
    .map_err(failed)
}

/// The answer to `DESCRIBE name`: columns, types and what they hold.
pub(crate) fn describe(store: &Store, name: &str) -> Result<Answer, QueryError> {
    let documented = find(store, name)?.columns();
    let Opened { schema, note, .. } = open(store, name)?;
    let document = |column: &str| documented.iter().find(|entry| entry.name == column);
    let kept_in = |column: &str| match document(column).map(|known| known.place) {
        Some(ColumnPlace::Partition) => "hive partition",
        Some(ColumnPlace::File) | None => "file",
    };
    let doc = |column: &str| document(column).map_or("a column of the parts' own", |entry| entry.doc);
    let names: Vec<&str> = schema.iter_names().map(|name| name.as_str()).collect();
    let frame = DataFrame::new(
        names.len(),
        vec![
            Column::new("column".into(), names.clone()),
            Column::new("type".into(), schema.iter_values().map(type_name).collect::<Vec<_>>()),
            Column::new("kept_in".into(), names.iter().map(|name| kept_in(name)).collect::<Vec<_>>()),
            Column::new("description".into(), names.iter().map(|name| doc(name)).collect::<Vec<_>>()),
        ],
    );
    Ok(Answer::new(frame.map_err(failed)?, note.into_iter().collect()))
}

/// A type in the words of `schemas/*.json`.
fn type_name(dtype: &DataType) -> String {
    match dtype {
        DataType::String => "Utf8".to_owned(),
        DataType::Int64 => "Int64".to_owned(),
        DataType::Float64 => "Float64".to_owned(),
        DataType::Float32 => "Float32".to_owned(),
        DataType::List(values) => format!("List<{}>", type_name(values)),
        other => other.to_string(),
    }
}
