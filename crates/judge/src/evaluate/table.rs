//! Metrics of any table with a column of scores and a column of MOS, in parquet, CSV or TSV.
//!
//! Only the requested columns are read. A row without score or without MOS (null, an empty cell, NaN, infinite) is left
//! out and counted. A cell that is not a number is an error, because the column may then be the wrong one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use polars::prelude::*;

use super::error::listed;
use super::report::Report;
use crate::metrics::{self, BootstrapSettings, MetricsError};

/// A table cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TableError {
    /// The file cannot be opened.
    #[error("cannot open `{}`", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    /// The file is not a table, or it is damaged.
    #[error("cannot read `{}` as {format}", path.display())]
    Read {
        path: PathBuf,
        /// `parquet`, `CSV` or `TSV`.
        format: &'static str,
        source: PolarsError,
    },
    /// A column does not exist.
    #[error("`{}` has no column `{column}`; there are: {there}{hint}", path.display())]
    UnknownColumn {
        path: PathBuf,
        column: String,
        /// The existing columns.
        there: String,
        /// ` (did you mean …?)`, or empty.
        hint: String,
    },
    /// A cell is not a number.
    #[error("`{}`: row {row} (from 1, after the header), column `{column}`: expected a number, found `{found}`", path.display())]
    NotANumber {
        path: PathBuf,
        /// Number of the row, from 1.
        row: usize,
        column: String,
        found: String,
    },
    /// A column holds neither numbers nor text.
    #[error("`{}`: column `{column}`: expected numbers, found values of type {found}", path.display())]
    WrongType { path: PathBuf, column: String, found: String },
    /// No row has both a score and a MOS.
    #[error("`{}`: none of its {n_rows} rows has both a score (`{score}`) and a MOS (`{mos}`)", path.display())]
    NoRows {
        path: PathBuf,
        n_rows: usize,
        /// The column of scores.
        score: String,
        /// The column of MOS.
        mos: String,
    },
    /// The metrics could not be computed.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The table and the columns to evaluate.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// The file. Parquet is recognised by content, TSV by file name. Any other file is read as CSV.
    pub path: PathBuf,
    /// Column of scores.
    pub score: String,
    /// Column of MOS.
    pub mos: String,
    /// Columns whose values form subsets.
    pub by: Vec<String>,
    /// Intervals.
    pub bootstrap: BootstrapSettings,
}

/// The number of rows that were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Excluded {
    /// Rows of the table.
    pub n_rows: u64,
    /// Rows left out.
    pub n_excluded: u64,
    /// The number of left-out rows whose score is null or not finite.
    pub n_without_score: u64,
    /// The number of left-out rows whose MOS is null or not finite. A row may lack both.
    pub n_without_mos: u64,
}

/// Evaluates a table.
///
/// # Errors
/// Fails if the file cannot be read, a column does not exist, a cell is not a number, or no row can be evaluated.
pub fn evaluate(settings: &TableSettings) -> Result<(Report, Excluded), TableError> {
    let TableSettings { path, score, mos, by, bootstrap } = settings;
    let frame = read(settings)?;
    let (scores, moses) = (numbers(&frame, score, path)?, numbers(&frame, mos, path)?);
    let mut excluded = Excluded { n_rows: scores.len() as u64, ..Excluded::default() };
    let mut kept = Vec::with_capacity(scores.len());
    for (row, pair) in scores.iter().zip(&moses).enumerate() {
        excluded.n_without_score += u64::from(pair.0.is_none());
        excluded.n_without_mos += u64::from(pair.1.is_none());
        match pair {
            (Some(score), Some(mos)) => kept.push((row, *score, *mos)),
            _ => excluded.n_excluded += 1,
        }
    }
    if kept.is_empty() {
        let n_rows = scores.len();
        return Err(TableError::NoRows { path: path.clone(), n_rows, score: score.clone(), mos: mos.clone() });
    }
    let mut subsets = vec![("all".to_owned(), (0..kept.len()).collect::<Vec<_>>())];
    for column in by {
        let values = texts(&frame, column, path)?;
        let mut of_value: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, &(row, _, _)) in kept.iter().enumerate() {
            of_value.entry(values[row].clone().unwrap_or_else(|| "null".to_owned())).or_default().push(at);
        }
        subsets.extend(of_value.into_iter().map(|(value, positions)| (format!("{column}={value}"), positions)));
    }
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut rows = Vec::with_capacity(subsets.len());
    for (subset, positions) in subsets {
        let scores: Vec<f64> = positions.iter().map(|&at| kept[at].1).collect();
        let mos: Vec<f64> = positions.iter().map(|&at| kept[at].2).collect();
        let values = metrics::evaluate(&scores, &mos, Some(bootstrap))?;
        rows.push(super::row(&name, None, score, &subset, scores.len() as u64, values));
    }
    Ok((Report::new(score, &name, rows, None), excluded))
}

/// Reads only the requested columns.
fn read(settings: &TableSettings) -> Result<DataFrame, TableError> {
    let path = &settings.path;
    let open_error = |source| TableError::Open { path: path.clone(), source };
    let mut head = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut head)).map_err(open_error)?;
    let is_parquet = head == b"PAR1";
    let is_tsv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    let format = match (is_parquet, is_tsv) {
        (true, _) => "parquet",
        (false, true) => "TSV",
        (false, false) => "CSV",
    };
    let read_error = |source| TableError::Read { path: path.clone(), format, source };
    let location = PlRefPath::try_from_path(path).map_err(read_error)?;
    let scan = if is_parquet {
        // The file name must not be taken for a glob pattern.
        LazyFrame::scan_parquet(location, ScanArgsParquet { glob: false, ..ScanArgsParquet::default() })
    } else {
        // Every cell is read as text. An invalid number is then found with its row, regardless of the types in the
        // first rows.
        LazyCsvReader::new(location)
            .with_glob(false)
            .with_separator(if is_tsv { b'\t' } else { b',' })
            .with_infer_schema_length(Some(0))
            .finish()
    };
    let mut scan = scan.map_err(read_error)?;
    let schema = scan.collect_schema().map_err(read_error)?;
    let mut columns: Vec<&String> = Vec::new();
    for column in [&settings.score, &settings.mos].into_iter().chain(&settings.by) {
        if !schema.contains(column) {
            let there = || schema.iter_names().map(|name| name.as_str());
            return Err(TableError::UnknownColumn {
                path: path.clone(),
                column: column.clone(),
                there: listed(there()),
                hint: suggestion(column, there()),
            });
        }
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let columns: Vec<Expr> = columns.into_iter().map(|column| col(column.as_str())).collect();
    scan.select(columns).collect().map_err(read_error)
}

/// Finite numbers of a column; `None` for null, empty, NaN and infinite cells.
fn numbers(frame: &DataFrame, name: &str, path: &Path) -> Result<Vec<Option<f64>>, TableError> {
    let column = column_of(frame, name, path)?;
    let dtype = column.dtype();
    if dtype.is_primitive_numeric() || dtype.is_decimal() || *dtype == DataType::Null {
        let reals = column.cast(&DataType::Float64).map_err(|source| wrong(path, source))?;
        let reals = reals.f64().map_err(|source| wrong(path, source))?;
        return Ok(reals.iter().map(|value| value.filter(|value| value.is_finite())).collect());
    }
    if *dtype != DataType::String {
        let (path, column) = (path.to_owned(), name.to_owned());
        return Err(TableError::WrongType { path, column, found: dtype.to_string() });
    }
    let texts = column.str().map_err(|source| wrong(path, source))?;
    let parsed = texts.iter().enumerate().map(|(row, text)| match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<f64>().map(|value| Some(value).filter(|value| value.is_finite())).map_err(|_| {
            let (path, column) = (path.to_owned(), name.to_owned());
            TableError::NotANumber { path, row: row + 1, column, found: text.to_owned() }
        }),
    });
    parsed.collect()
}

/// Values of a column as text; `None` for null.
fn texts(frame: &DataFrame, name: &str, path: &Path) -> Result<Vec<Option<String>>, TableError> {
    let column = column_of(frame, name, path)?;
    let texts = column.cast(&DataType::String).map_err(|source| wrong(path, source))?;
    let texts = texts.str().map_err(|source| wrong(path, source))?;
    Ok(texts.iter().map(|text| text.map(str::to_owned)).collect())
}

fn column_of<'a>(frame: &'a DataFrame, name: &str, path: &Path) -> Result<&'a Column, TableError> {
    frame.column(name).map_err(|source| wrong(path, source))
}

fn wrong(path: &Path, source: PolarsError) -> TableError {
    TableError::Read { path: path.to_owned(), format: "a table", source }
}

/// ` (did you mean `…`?)` with the name nearest to `wanted`, or an empty text if no name is near.
pub(super) fn suggestion<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    agiqa_suggest::nearest(wanted, names).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
