//! `schemas/*.json`: the tables' schemas for other programs, printed from the code.

use serde_json::{Value, json};

use super::registry::{OwnColumns, TABLES, Table};
use super::{Column, ColumnPlace, ColumnType};

/// Name and text of every file in `schemas/`.
pub fn documents() -> Vec<(String, String)> {
    TABLES
        .iter()
        .map(|table| {
            let text = serde_json::to_string_pretty(&document(table)).expect("a schema is plain data");
            (format!("{}.json", table.name()), text + "\n")
        })
        .collect()
}

fn document(table: &Table) -> Value {
    let columns: Vec<Value> = table
        .columns
        .iter()
        .map(|Column { name, ty, nullable, place, doc }| {
            let ty = match ty {
                ColumnType::Text => "Utf8",
                ColumnType::Integer => "Int64",
                ColumnType::Real => "Float64",
                ColumnType::Vector => "FixedSizeList<Float32, dim>",
                ColumnType::Counts => "List<Int64>",
            };
            let place = match place {
                ColumnPlace::File => "file",
                ColumnPlace::Partition => "hive partition",
            };
            json!({ "name": name, "type": ty, "nullable": nullable, "kept_in": place, "description": doc })
        })
        .collect();
    json!({
        "table": table.name(),
        "schema_version": table.kind.version,
        "path": table.path,
        "columns": columns,
        "extra_columns": match table.own_columns {
            OwnColumns::None => "none",
            OwnColumns::OfDataset => "columns of the dataset's own follow, Utf8 or Float64, nullable",
        },
    })
}
