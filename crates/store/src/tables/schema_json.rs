//! `schemas/*.json`: the tables' schemas for other programs, printed from the code.

use serde_json::{Value, json};

use super::{
    Column, ColumnPlace, ColumnType, comparison, experiments, features, gates, images, metrics, rejects, scores,
    splits, train_log,
};
use crate::store::part::PartKind;

/// Name and text of every file in `schemas/`.
pub fn documents() -> Vec<(String, String)> {
    let tables: [(PartKind, &str, &[Column], bool); 11] = [
        (images::KIND, "images/dataset=<dataset>/part-0.parquet", images::COLUMNS, true),
        (splits::KIND, "splits/dataset=<dataset>/split=<split>/part-0.parquet", splits::COLUMNS, false),
        (
            features::SEMANTIC,
            "features/extractor=<extractor>/fingerprint=<16 hex>/part-<16 hex>.parquet",
            features::SEMANTIC_COLUMNS,
            false,
        ),
        (
            features::QUALITY,
            "features/extractor=<extractor>/fingerprint=<16 hex>/part-<16 hex>.parquet",
            features::QUALITY_COLUMNS,
            false,
        ),
        (train_log::KIND, "train_log/run=<run>/part-0.parquet", train_log::COLUMNS, false),
        (scores::KIND, "scores/scorer=<name>/fingerprint=<16 hex>/part-<16 hex>.parquet", scores::COLUMNS, false),
        (gates::KIND, "gates/run=<run>/fingerprint=<16 hex>/part-<16 hex>.parquet", gates::COLUMNS, false),
        (metrics::KIND, "metrics/run=<run>/metrics.parquet", metrics::COLUMNS, false),
        (
            comparison::KIND,
            "comparison/dataset=<dataset>/split=<split>/part=<part>/methods.parquet",
            comparison::COLUMNS,
            false,
        ),
        (
            experiments::KIND,
            "experiments/experiment=<pipeline>/features=<extractors>-<8 hex>/rows.parquet",
            experiments::COLUMNS,
            false,
        ),
        (rejects::KIND, "rejects/stage=<stage>/part-<name>.parquet", rejects::COLUMNS, false),
    ];
    tables
        .into_iter()
        .map(|(kind, path, columns, extra)| {
            let document = document(kind, path, columns, extra);
            let text = serde_json::to_string_pretty(&document).expect("a schema is plain data");
            (format!("{}.json", kind.table), text + "\n")
        })
        .collect()
}

fn document(kind: PartKind, path: &str, columns: &[Column], keeps_extra_columns: bool) -> Value {
    let columns: Vec<Value> = columns
        .iter()
        .map(|Column { name, ty, nullable, place, doc }| {
            let ty = match ty {
                ColumnType::Text => "Utf8",
                ColumnType::Integer => "Int64",
                ColumnType::Real => "Float64",
                ColumnType::Vector => "FixedSizeList<Float32, dim>",
            };
            let place = match place {
                ColumnPlace::File => "file",
                ColumnPlace::Partition => "hive partition",
            };
            json!({ "name": name, "type": ty, "nullable": nullable, "kept_in": place, "description": doc })
        })
        .collect();
    json!({
        "table": kind.table,
        "schema_version": kind.version,
        "path": path,
        "columns": columns,
        "extra_columns": if keeps_extra_columns { "columns of the dataset's own follow, Utf8 or Float64, nullable" } else { "none" },
    })
}
