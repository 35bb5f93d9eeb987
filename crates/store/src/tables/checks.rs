//! `checks`: what the last `agiqa check` of a corpus' night found;
//! `checks/scorer=<scorer>/corpus=<corpus>/night=<night>/part-0.parquet`.

use super::night_scores::ScoredNight;
use super::{Column, ColumnType, integer_array, optional_real_array, text_array};
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "checks", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("scorer", "run, group of runs, method or rating that scored"),
    Column::partition("corpus", "corpus"),
    Column::partition("night", "label of the night"),
    Column::required("check", ColumnType::Text, "what the check looks at, as `of` of its settings names it"),
    Column::required("scope", ColumnType::Text, "images that it looks at: `all`, or `<column>=<value>`"),
    Column::optional("value", ColumnType::Real, "what it found; null if nothing could be compared"),
    Column::optional("limit", ColumnType::Real, "what it allows"),
    Column::required("passed", ColumnType::Integer, "1 if the value is within the limit or is null, else 0"),
    Column::required("severity", ColumnType::Text, "`fail` or `warn`: what it means if it does not pass"),
    Column::required("message", ColumnType::Text, "the finding in words"),
];

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRow<'a> {
    /// What it looked at.
    pub check: &'a str,
    /// The images that it looked at.
    pub scope: &'a str,
    /// What it found.
    pub value: Option<f64>,
    /// What it allows.
    pub limit: Option<f64>,
    /// Whether the value is within the limit, or nothing could be compared.
    pub has_passed: bool,
    /// `fail` or `warn`.
    pub severity: &'a str,
    /// The finding in words.
    pub message: &'a str,
}

/// Replaces the rows of `night`.
pub fn write(store: &Store, night: &ScoredNight, rows: &[CheckRow<'_>]) -> Result<(), PartError> {
    let columns = vec![
        text_array(rows.iter().map(|row| row.check)),
        text_array(rows.iter().map(|row| row.scope)),
        optional_real_array(rows.iter().map(|row| row.value)),
        optional_real_array(rows.iter().map(|row| row.limit)),
        integer_array(rows.iter().map(|row| i64::from(row.has_passed))),
        text_array(rows.iter().map(|row| row.severity)),
        text_array(rows.iter().map(|row| row.message)),
    ];
    let batch = part::batch(KIND.table, super::schema_of(COLUMNS), columns)?;
    let path = format!("{}/part-0.parquet", night.folder(KIND.table));
    part::write(store, KIND, &path, &batch, None).map(|_| ())
}
