//! What every invocation did, as tables: `runs`, one row per record in `runs/`, and `run_stages`, one row per stage in them.

use agiqa_store::store::run_log::{InvocationRecord, RowCounts, StageRecord};
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::{Column as TableColumn, ColumnType};
use polars::prelude::*;

use crate::{QueryError, failed};

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// `runs`.
    Runs,
    /// `run_stages`.
    Stages,
}

const RUNS: &[TableColumn] = &[
    TableColumn::required("record", ColumnType::Text, "name of the record: UTC time of the start and command"),
    TableColumn::required(
        "run_id",
        ColumnType::Text,
        "identity of the invocation in its events; empty in older records",
    ),
    TableColumn::required("command", ColumnType::Text, "the subcommand"),
    TableColumn::required("args", ColumnType::Text, "its arguments, a list"),
    TableColumn::required("started_at", ColumnType::Text, "UTC time of the start, RFC 3339"),
    TableColumn::required("elapsed_secs", ColumnType::Real, "seconds from start to end"),
    TableColumn::required("agiqa_version", ColumnType::Text, "version of the program"),
    TableColumn::required("libtorch_version", ColumnType::Text, "version of libtorch"),
    TableColumn::required("exit_code", ColumnType::Integer, "exit code of the process"),
    TableColumn::optional("error", ColumnType::Text, "the error that ended it"),
];

const STAGES: &[TableColumn] = &[
    TableColumn::required("record", ColumnType::Text, "name of the record in `runs`"),
    TableColumn::required("stage", ColumnType::Text, "name of the stage"),
    TableColumn::required("outcome", ColumnType::Text, "`ran`, `skipped`, `interrupted` or `failed`"),
    TableColumn::required("reason", ColumnType::Text, "why, in words"),
    TableColumn::required("elapsed_secs", ColumnType::Real, "seconds that it took"),
    TableColumn::optional(
        "n_in",
        ColumnType::Integer,
        "rows that it was given; null if it failed, as in the next four",
    ),
    TableColumn::optional("n_out", ColumnType::Integer, "rows that it wrote, or found written"),
    TableColumn::optional("n_cached", ColumnType::Integer, "of `n_out`, rows that an earlier run had written"),
    TableColumn::optional("n_rejected", ColumnType::Integer, "rows that it rejected"),
    TableColumn::optional("n_left", ColumnType::Integer, "rows not reached because it was interrupted"),
];

impl Records {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Runs, Self::Stages];

    /// Name of the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Stages => "run_stages",
        }
    }

    /// Its columns.
    pub(crate) fn columns(self) -> &'static [TableColumn] {
        match self {
            Self::Runs => RUNS,
            Self::Stages => STAGES,
        }
    }

    /// Its rows, and what to say of records that cannot be read.
    pub(crate) fn open(self, store: &Store) -> Result<(LazyFrame, Option<String>), QueryError> {
        let (records, n_unread) = read(store)?;
        let frame = match self {
            Self::Runs => runs(&records),
            Self::Stages => stages(&records),
        };
        let message = || format!("{n_unread} records in `runs/` are of another version of agiqa and left out");
        Ok((frame.map_err(failed)?.lazy(), (n_unread > 0).then(message)))
    }
}

/// Number of records and their size.
pub(crate) fn size(store: &Store) -> Result<(usize, u64), StoreError> {
    let objects = store.list("runs")?;
    Ok((objects.len(), objects.iter().map(|object| object.n_bytes).sum()))
}

struct Named {
    name: String,
    record: InvocationRecord,
}

/// The records that this version reads, and how many others there are.
fn read(store: &Store) -> Result<(Vec<Named>, usize), StoreError> {
    let (mut records, mut n_unread) = (Vec::new(), 0);
    for object in store.list("runs")? {
        let Some(name) = object.path.strip_prefix("runs/").and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        match serde_json::from_slice(&store.get(&object.path)?) {
            Ok(record) => records.push(Named { name: name.to_owned(), record }),
            Err(_) => n_unread += 1,
        }
    }
    Ok((records, n_unread))
}

fn runs(records: &[Named]) -> PolarsResult<DataFrame> {
    let text = |name: &str, value: fn(&InvocationRecord) -> &str| {
        Column::new(name.into(), records.iter().map(|named| value(&named.record)).collect::<Vec<_>>())
    };
    let names: Vec<&str> = records.iter().map(|named| named.name.as_str()).collect();
    let mut args = ListStringChunkedBuilder::new("args".into(), records.len(), records.len());
    for named in records {
        args.append_values_iter(named.record.args.iter().map(String::as_str));
    }
    let errors: Vec<Option<&str>> = records.iter().map(|named| named.record.error.as_deref()).collect();
    DataFrame::new(
        records.len(),
        vec![
            Column::new("record".into(), names),
            text("run_id", |record| &record.run_id),
            text("command", |record| &record.command),
            args.finish().into_column(),
            text("started_at", |record| &record.started_at),
            Column::new(
                "elapsed_secs".into(),
                records.iter().map(|named| named.record.elapsed_secs).collect::<Vec<f64>>(),
            ),
            text("agiqa_version", |record| &record.agiqa_version),
            text("libtorch_version", |record| &record.libtorch_version),
            Column::new(
                "exit_code".into(),
                records.iter().map(|named| i64::from(named.record.exit_code)).collect::<Vec<i64>>(),
            ),
            Column::new("error".into(), errors),
        ],
    )
}

fn stages(records: &[Named]) -> PolarsResult<DataFrame> {
    let stages: Vec<(&str, &StageRecord)> =
        records.iter().flat_map(|named| named.record.stages.iter().map(|stage| (named.name.as_str(), stage))).collect();
    let text = |name: &str, value: fn(&StageRecord) -> &str| {
        Column::new(name.into(), stages.iter().map(|(_, stage)| value(stage)).collect::<Vec<_>>())
    };
    let count = |name: &str, value: fn(&RowCounts) -> u64| {
        let rows_of =
            |stage: &StageRecord| stage.rows.as_ref().map(|rows| i64::try_from(value(rows)).unwrap_or(i64::MAX));
        Column::new(name.into(), stages.iter().map(|(_, stage)| rows_of(stage)).collect::<Vec<Option<i64>>>())
    };
    DataFrame::new(
        stages.len(),
        vec![
            Column::new("record".into(), stages.iter().map(|(name, _)| *name).collect::<Vec<&str>>()),
            text("stage", |stage| &stage.stage),
            text("outcome", |stage| &stage.outcome),
            text("reason", |stage| &stage.reason),
            Column::new(
                "elapsed_secs".into(),
                stages.iter().map(|(_, stage)| stage.elapsed_secs).collect::<Vec<f64>>(),
            ),
            count("n_in", |rows| rows.n_in),
            count("n_out", |rows| rows.n_out),
            count("n_cached", |rows| rows.n_cached),
            count("n_rejected", |rows| rows.n_rejected),
            count("n_left", |rows| rows.n_left),
        ],
    )
}
