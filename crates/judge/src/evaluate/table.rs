//! Metrics of any table with a column of scores and a column of MOS.
//!
//! A row without score or without MOS (no value, NaN, infinite) is left out and counted. So is a row that cannot be
//! understood, such as one with more cells than the header: its cells may stand in other columns. A cell that is not a
//! number is an error, because the column may then be the wrong one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agiqa_intake::{Reading, Row, Table, TableError as IntakeError};

use super::report::Report;
use crate::metrics::{self, BootstrapSettings, MetricsError};

/// A table cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TableError {
    /// The table cannot be read, or it lacks a column.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A cell is not a number.
    #[error("`{}`: {place}, column `{column}`: expected a number, found `{found}`{hint}", path.display())]
    NotANumber {
        path: PathBuf,
        /// Number of the row, from 1 after the header, and its line.
        place: String,
        column: String,
        found: String,
        /// Another way to read it; may be empty.
        hint: &'static str,
    },
    /// No row has both a score and a MOS.
    #[error("`{}`: none of its {n_rows} rows has both a score (`{score}`) and a MOS (`{mos}`){rejected}", path.display())]
    NoRows {
        path: PathBuf,
        n_rows: usize,
        /// The column of scores.
        score: String,
        /// The column of MOS.
        mos: String,
        /// The first row that cannot be understood; may be empty.
        rejected: String,
    },
    /// The metrics could not be computed.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The table and the columns to evaluate. A column is given by name, or by number from 1.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// The file.
    pub path: PathBuf,
    /// How to read it where its content does not tell.
    pub reading: Reading,
    /// Column of scores.
    pub score: String,
    /// Column of MOS.
    pub mos: String,
    /// Columns whose values form subsets.
    pub by: Vec<String>,
    /// Intervals.
    pub bootstrap: BootstrapSettings,
}

/// What was left out, and what a person should know.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Excluded {
    /// Rows of the table.
    pub n_rows: u64,
    /// Rows left out.
    pub n_excluded: u64,
    /// The number of left-out rows whose score is null or not finite.
    pub n_without_score: u64,
    /// The number of left-out rows whose MOS is null or not finite. A row may lack both.
    pub n_without_mos: u64,
    /// The number of left-out rows that cannot be understood.
    pub n_rejected: u64,
    /// Kind, place and reason of each row that cannot be understood.
    #[serde(skip)]
    pub rejects: Vec<String>,
    /// How the table was read, where that is a choice.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Evaluates a table.
///
/// # Errors
/// Fails if the file cannot be read, a column does not exist, a cell is not a number, or no row can be evaluated.
pub fn evaluate(settings: &TableSettings) -> Result<(Report, Excluded), TableError> {
    let TableSettings { path, reading, score, mos, by, bootstrap } = settings;
    let table = agiqa_intake::open(path, reading)?;
    table.require_rows()?;
    let (score_at, mos_at) = (table.column(score)?, table.column(mos)?);
    let by: Vec<(&String, usize)> =
        by.iter().map(|column| Ok((column, table.column(column)?))).collect::<Result<_, IntakeError>>()?;
    let number = |row: Row<'_>, position: usize, at: usize, column: &str| match row.trimmed(at) {
        None => Ok(None),
        Some(text) => match table.number(text) {
            Some(number) => Ok(Some(number).filter(|number| number.is_finite())),
            None => Err(not_a_number(&table, settings, position, column, text)),
        },
    };
    let notes = table.notes().iter().map(|note| format!("`{}`: {note}", path.display()));
    let notes = notes.chain(table.header_warning(&[score_at, mos_at])).collect();
    let mut excluded = Excluded { n_rows: table.n_rows() as u64, notes, ..Excluded::default() };
    let mut kept = Vec::with_capacity(table.n_rows());
    for position in 0..table.n_rows() {
        let row = match table.row(position) {
            Ok(row) => row,
            Err(problem) => {
                let (kind, place) = (problem.kind(), table.place(position));
                excluded.rejects.push(format!("{kind}: `{}`, {place}: {problem}", path.display()));
                excluded.n_rejected += 1;
                excluded.n_excluded += 1;
                continue;
            }
        };
        let pair = (number(row, position, score_at, score)?, number(row, position, mos_at, mos)?);
        excluded.n_without_score += u64::from(pair.0.is_none());
        excluded.n_without_mos += u64::from(pair.1.is_none());
        match pair {
            (Some(score), Some(mos)) => kept.push((row, score, mos)),
            _ => excluded.n_excluded += 1,
        }
    }
    if kept.is_empty() {
        let (n_rows, n_rejected) = (table.n_rows(), excluded.n_rejected);
        let first = |reject: &String| format!("; {n_rejected} cannot be understood, the first is {reject}");
        let rejected = excluded.rejects.first().map_or_else(String::new, first);
        return Err(TableError::NoRows {
            path: path.clone(),
            n_rows,
            score: score.clone(),
            mos: mos.clone(),
            rejected,
        });
    }
    let mut subsets = vec![("all".to_owned(), (0..kept.len()).collect::<Vec<_>>())];
    for (column, column_at) in by {
        let mut of_value: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, (row, _, _)) in kept.iter().enumerate() {
            of_value.entry(row.trimmed(column_at).unwrap_or("null")).or_default().push(at);
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

fn not_a_number(table: &Table, settings: &TableSettings, position: usize, column: &str, text: &str) -> TableError {
    TableError::NotANumber {
        path: settings.path.clone(),
        place: table.place(position),
        column: column.to_owned(),
        found: text.to_owned(),
        hint: table.number_hint(text),
    }
}

/// ` (did you mean `…`?)` with the name nearest to `wanted`, or an empty text if no name is near.
pub(super) fn suggestion<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    agiqa_suggest::nearest(wanted, names).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
