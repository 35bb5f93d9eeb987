//! Which column of a query does not exist, said with the table that it was looked for in.

use polars::prelude::*;

use crate::catalog::Opened;
use crate::names::{ColumnName, Names};
use crate::{QueryError, failed};

/// What polars' `error` means: a column that no table has, or else what polars says.
pub(crate) fn explained(error: PolarsError, names: &Names, tables: &[Opened]) -> QueryError {
    let error = failed(error);
    let QueryError::Failed { source } = &error else { return error };
    let message = source.to_string();
    // Polars names the culprit in quotes of some kind.
    let is_blamed =
        |name: &str| ['"', '\'', '`'].iter().any(|quote| message.contains(&format!("{quote}{name}{quote}")));
    let unknown = names.columns().iter().find(|column| is_blamed(&column.name) && is_unknown(column, names, tables));
    match unknown {
        Some(column) => unknown_column(column, names, tables),
        None => error,
    }
}

/// The tables that `column` may be of: the table of its qualifier, or all tables of the query.
fn candidates<'a>(column: &ColumnName, names: &Names, tables: &'a [Opened]) -> Vec<&'a Opened> {
    let table = column.qualifier.as_deref().and_then(|qualifier| names.table_called(qualifier));
    match table {
        Some(table) => tables.iter().filter(|opened| opened.name == table).collect(),
        None => tables.iter().collect(),
    }
}

fn is_unknown(column: &ColumnName, names: &Names, tables: &[Opened]) -> bool {
    let is_of_table = candidates(column, names, tables).iter().any(|table| table.schema.contains(&column.name));
    let is_defined = column.qualifier.is_none() && names.defines(&column.name);
    !is_of_table && !is_defined
}

fn unknown_column(column: &ColumnName, names: &Names, tables: &[Opened]) -> QueryError {
    let candidates = candidates(column, names, tables);
    let name = &column.name;
    let all: Vec<&str> = candidates.iter().flat_map(|table| columns_of(table)).collect();
    let nearest = agiqa_suggest::nearest(name, all);
    let (problem, available) = match candidates.as_slice() {
        [] => (format!("no column `{name}`"), "the query has no FROM".to_owned()),
        [table] => {
            (format!("table `{}` has no column `{name}`", table.name), format!("its columns: {}", listed(table)))
        }
        several => {
            let available = several.iter().map(|table| format!("columns of `{}`: {}", table.name, listed(table)));
            (format!("no table of the query has a column `{name}`"), available.collect::<Vec<_>>().join("; "))
        }
    };
    let hint = match (nearest, candidates.as_slice()) {
        (None, _) => ";".to_owned(),
        (Some(nearest), [_]) => format!("; did you mean `{nearest}`?"),
        (Some(nearest), several) => {
            let table = several.iter().find(|table| table.schema.contains(nearest));
            format!("; did you mean `{nearest}` of `{}`?", table.map_or("", |table| &table.name))
        }
    };
    let advice = if column.is_quoted { format!(" (text stands in single quotes: '{name}')") } else { String::new() };
    QueryError::UnknownColumn { problem, hint, available, advice }
}

fn columns_of(table: &Opened) -> impl Iterator<Item = &str> {
    table.schema.iter_names().map(|name| name.as_str())
}

fn listed(table: &Opened) -> String {
    columns_of(table).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
