//! The parts of a table as one lazy frame.
//!
//! Parts of the same columns are one scan. Scans are united: a column that one lacks is null there, and types that differ
//! are cast to the one that holds both. The columns of the table's schema come first, in its order. The parts' own columns
//! follow.
//!
//! Vectors are lists here, whatever their widths: SQL's functions of lists do not take arrays of fixed width.

use std::collections::HashSet;
use std::path::Path;

use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::ColumnType;
use agiqa_store::tables::registry::Table;
use polars::io::HiveOptions;
use polars::prelude::*;

use crate::parts::Part;
use crate::{QueryError, failed};

/// The columns of `table` if it has no parts.
pub(crate) fn empty(table: &Table) -> LazyFrame {
    let columns = table.columns.iter().map(|column| Field::new(column.name.into(), dtype_of(column.ty)));
    DataFrame::empty_with_schema(&columns.collect::<Schema>()).lazy()
}

/// The rows of `parts`, of which there is at least one, all of `table`.
pub(crate) fn of_parts(store: &Store, table: &'static Table, parts: &[Part]) -> Result<LazyFrame, QueryError> {
    let mut scans = Vec::new();
    for group in grouped(store, parts) {
        scans.push(Scan::of(store, &group)?);
    }
    let columns = united(table, &scans)?;
    let frames: Vec<LazyFrame> = scans.into_iter().map(|scan| scan.with_columns(&columns)).collect();
    let frame = match <[LazyFrame; 1]>::try_from(frames) {
        Ok([frame]) => frame,
        Err(frames) => concat(frames, UnionArgs::default()).map_err(failed)?,
    };
    if is_written_twice(&frame, table, parts).map_err(failed)? {
        return Ok(frame.unique_stable(Some(cols(table.key.iter().copied())), UniqueKeepStrategy::First));
    }
    Ok(frame)
}

/// The parts in groups, each of which can be one scan. The order of the paths stays.
fn grouped<'a>(store: &Store, parts: &'a [Part]) -> Vec<Vec<&'a Part>> {
    let is_of_paths = paths_tell_partitions(store);
    let mut groups: Vec<Vec<&Part>> = Vec::new();
    for part in parts {
        let fits = |group: &Vec<&Part>| {
            let first = group[0];
            let same_partitions = if is_of_paths {
                first.partitions.iter().map(|(name, _)| name).eq(part.partitions.iter().map(|(name, _)| name))
            } else {
                first.partitions == part.partitions
            };
            same_partitions && first.schema.fields() == part.schema.fields()
        };
        match groups.iter_mut().find(|group| fits(group)) {
            Some(group) => group.push(part),
            None => groups.push(vec![part]),
        }
    }
    groups
}

/// Whether polars may read partition columns off the paths, which lets it skip whole files. A bucket gives it no paths, and
/// it takes a folder `name=value` above the store for a partition too.
fn paths_tell_partitions(store: &Store) -> bool {
    utf8_folder(store).is_some_and(|folder| !folder.contains('='))
}

/// The store's folder, if polars can name it: polars knows paths in UTF-8 alone.
fn utf8_folder(store: &Store) -> Option<&str> {
    store.folder()?.to_str()
}

/// Parts of the same columns.
struct Scan {
    /// Path of one of them.
    path: String,
    frame: LazyFrame,
    schema: SchemaRef,
}

impl Scan {
    fn of(store: &Store, parts: &[&Part]) -> Result<Self, QueryError> {
        let first = parts[0];
        let partitions = first.partitions.iter().map(|(name, _)| Field::new(name.as_str().into(), DataType::String));
        let is_of_paths = paths_tell_partitions(store) && !first.partitions.is_empty();
        let hive_options = HiveOptions {
            enabled: Some(is_of_paths),
            hive_start_idx: 0,
            schema: is_of_paths.then(|| Arc::new(partitions.collect::<Schema>())),
            try_parse_dates: false,
        };
        // A file name is a name here, not a pattern.
        let options = ScanArgsParquet { hive_options, glob: false, ..ScanArgsParquet::default() };
        let mut frame = LazyFrame::scan_parquet_sources(sources(store, parts)?, options).map_err(failed)?;
        if !is_of_paths {
            let value = |(name, value): &(String, String)| lit(value.as_str()).alias(name.as_str());
            frame = frame.with_columns(first.partitions.iter().map(value).collect::<Vec<_>>());
        }
        let schema = frame.collect_schema().map_err(failed)?;
        Ok(Self { path: first.path.clone(), frame, schema })
    }

    /// The frame with just `columns`.
    fn with_columns(self, columns: &[UnitedColumn]) -> LazyFrame {
        let expression = |UnitedColumn { name, dtype, .. }: &UnitedColumn| match self.schema.get(name) {
            Some(found) if found == dtype => col(name.clone()),
            Some(_) => col(name.clone()).cast(dtype.clone()),
            None => lit(NULL).cast(dtype.clone()).alias(name.clone()),
        };
        let expressions: Vec<Expr> = columns.iter().map(expression).collect();
        self.frame.select(expressions)
    }
}

/// Where polars reads the parts: the files of a folder, or else the bytes that the store hands over.
fn sources(store: &Store, parts: &[&Part]) -> Result<ScanSources, QueryError> {
    match utf8_folder(store) {
        Some(folder) => {
            let paths = parts.iter().map(|part| PlRefPath::try_from_path(&Path::new(folder).join(&part.path)));
            let paths = paths.collect::<PolarsResult<Vec<PlRefPath>>>().map_err(failed)?;
            Ok(ScanSources::Paths(paths.into_iter().collect()))
        }
        None => {
            let bytes = parts.iter().map(|part| Ok(Vec::from(store.get(&part.path)?).into()));
            Ok(ScanSources::Buffers(bytes.collect::<Result<Vec<_>, StoreError>>()?.into()))
        }
    }
}

/// A column of the whole table.
struct UnitedColumn {
    name: PlSmallStr,
    dtype: DataType,
    /// Path of the first part that has it; empty if none has.
    path: String,
}

/// The columns of all scans and those that the table's schema lets be null, each with a type that holds all its values.
fn united(table: &'static Table, scans: &[Scan]) -> Result<Vec<UnitedColumn>, QueryError> {
    let mut columns: Vec<UnitedColumn> = Vec::new();
    for scan in scans {
        for (name, dtype) in scan.schema.iter() {
            let dtype = &without_width(dtype);
            let Some(known) = columns.iter_mut().find(|known| known.name == *name) else {
                columns.push(UnitedColumn { name: name.clone(), dtype: dtype.clone(), path: scan.path.clone() });
                continue;
            };
            known.dtype = common(&known.dtype, dtype).ok_or_else(|| QueryError::Types {
                table: table.name(),
                column: name.to_string(),
                first: format!("{} in `{}`", known.dtype, known.path),
                other: format!("{dtype} in `{}`", scan.path),
            })?;
        }
    }
    for column in table.columns.iter().filter(|column| column.nullable) {
        if !columns.iter().any(|known| known.name == column.name) {
            columns.push(UnitedColumn { name: column.name.into(), dtype: dtype_of(column.ty), path: String::new() });
        }
    }
    let place = |name: &str| table.columns.iter().position(|column| column.name == name).unwrap_or(usize::MAX);
    columns.sort_by_key(|column| place(&column.name));
    Ok(columns)
}

/// The type that holds the values of both.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    let is_plain = |dtype: &DataType| dtype.is_primitive_numeric() || *dtype == DataType::Boolean;
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        (a, b) if a.is_integer() && b.is_integer() => Some(DataType::Int64),
        (a, b) if a.is_primitive_numeric() && b.is_primitive_numeric() => Some(DataType::Float64),
        (DataType::String, other) | (other, DataType::String) if is_plain(other) => Some(DataType::String),
        (DataType::List(a), DataType::List(b)) => common(a, b).map(|values| DataType::List(Box::new(values))),
        _ => None,
    }
}

/// The type, a list for a vector.
fn without_width(dtype: &DataType) -> DataType {
    match dtype {
        DataType::Array(values, _) => DataType::List(values.clone()),
        other => other.clone(),
    }
}

/// Type of a column that no part has.
fn dtype_of(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::Text => DataType::String,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Real => DataType::Float64,
        ColumnType::Vector => DataType::List(Box::new(DataType::Float32)),
        ColumnType::Counts => DataType::List(Box::new(DataType::Int64)),
    }
}

/// Whether two writers have both written some row. Only folders with several parts can have such rows; their keys are read.
fn is_written_twice(frame: &LazyFrame, table: &Table, parts: &[Part]) -> PolarsResult<bool> {
    let folders: HashSet<&str> = parts.iter().map(Part::folder).collect();
    if table.key.is_empty() || folders.len() == parts.len() {
        return Ok(false);
    }
    let key: Vec<Expr> = table.key.iter().map(|name| col(*name)).collect();
    let distinct = frame.clone().select(key).unique(None, UniqueKeepStrategy::Any).select([len()]).collect()?;
    let n_distinct = distinct.columns()[0].get(0)?.extract::<u64>();
    let n_rows: u64 = parts.iter().map(|part| part.n_rows).sum();
    Ok(n_distinct != Some(n_rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_differ_have_one_that_holds_both_or_none() {
        let list = |values| DataType::List(Box::new(values));
        let vector = DataType::Array(Box::new(DataType::Float32), 3);
        assert_eq!(common(&DataType::Int64, &DataType::Int32), Some(DataType::Int64));
        assert_eq!(common(&DataType::Int64, &DataType::Float32), Some(DataType::Float64));
        assert_eq!(common(&DataType::Float64, &DataType::String), Some(DataType::String));
        assert_eq!(common(&list(DataType::Float32), &list(DataType::Float64)), Some(list(DataType::Float64)));
        assert_eq!(without_width(&vector), list(DataType::Float32));
        assert_eq!(common(&list(DataType::Float32), &DataType::Float64), None);
    }
}
