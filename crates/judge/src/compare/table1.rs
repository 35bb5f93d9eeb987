//! The paper's Table 1 from comparisons: each of its methods with what this program measured, or why it has not.
//!
//! A method's figures are means over the splits of a kind, a training's over its runs. Neighbours are compared by the
//! paired bootstraps of the single splits.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::ComparisonReport;
use crate::paper;
use agiqa_store::layout::{self, NONE, number, with_deviation, with_interval};
use agiqa_store::metric::{Estimate, Metric, N_PAPER};
use agiqa_store::tables::comparison::ComparisonRow;
use agiqa_store::tables::scores::ScorerKind;

/// Digits after the point, as in the paper.
const N_DIGITS: usize = 4;

/// How far a method got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Published weights or parameters scored the images.
    Scored,
    /// It was trained here.
    Trained {
        /// Number of runs, each with a seed and a split.
        n_runs: usize,
    },
    /// It has no scores.
    Missing {
        /// Why, and what to do.
        reason: String,
    },
}

impl State {
    fn words(&self) -> String {
        match self {
            Self::Scored => "scored".to_owned(),
            Self::Trained { n_runs: 1 } => "trained, 1 seed".to_owned(),
            Self::Trained { n_runs } => format!("trained, {n_runs} seeds"),
            Self::Missing { .. } => "missing".to_owned(),
        }
    }
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name, the paper's if it has a row there.
    pub method: String,
    /// How far it got.
    #[serde(flatten)]
    pub state: State,
    /// Mean of SRCC, PLCC, KRCC and RMSE over splits or runs.
    pub mean: [Option<f64>; N_PAPER],
    /// Their standard deviation; null of fewer than two.
    pub std: [Option<f64>; N_PAPER],
    /// The paper's figures.
    pub paper: [Option<f64>; N_PAPER],
    /// Its name in sentences, which tells a trained network from a published one.
    #[serde(skip)]
    label: String,
    /// The method's interval of SRCC, if one split was judged.
    #[serde(skip)]
    interval: Option<Estimate>,
}

/// The table of one dataset on the splits of one kind.
#[derive(Clone, Debug)]
pub struct Table1 {
    dataset: String,
    /// The splits' names without their seeds.
    splits: String,
    n_splits: usize,
    rows: Vec<Row>,
    /// What the paired bootstraps say of neighbours.
    notes: Vec<String>,
    /// What is missing, with the reason and what to do.
    missing: Vec<(String, String)>,
}

/// What the table cannot find in comparisons.
pub struct Lacking<'a> {
    /// Methods that are to be trained, rows of the paper or not.
    pub trained: Vec<String>,
    /// Why published weights of a method have no scores, and what to do; `None` if nobody publishes any.
    pub scores: &'a dyn Fn(&str) -> Option<String>,
    /// Why a method was not trained, and what to do; `None` if it was, or was not to be.
    pub training: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "table1")]
struct Line<'a> {
    dataset: &'a str,
    splits: &'a str,
    n_splits: usize,
    #[serde(flatten)]
    row: &'a Row,
}

impl Table1 {
    /// One table per kind of split among `reports`, all of one dataset. `names` gives a run's name in the table if the
    /// paper has no row for it. A method that has scores of published weights and is trained here has two rows.
    pub fn of(reports: &[ComparisonReport], names: &BTreeMap<String, String>, lacking: &Lacking<'_>) -> Vec<Self> {
        let mut kinds: BTreeMap<String, Vec<&ComparisonReport>> = BTreeMap::new();
        for report in reports {
            kinds.entry(kind_of_split(report)).or_default().push(report);
        }
        let table = |(splits, reports): (String, Vec<&ComparisonReport>)| {
            let dataset = reports.first().map(|report| report.judged.dataset.to_string()).unwrap_or_default();
            let key = |row: &ComparisonRow| (method_of(&dataset, row, names), row.kind == ScorerKind::Run);
            let mut found: BTreeMap<(String, bool), Vec<&ComparisonRow>> = BTreeMap::new();
            for row in reports.iter().flat_map(|report| &report.rows) {
                found.entry(key(row)).or_default().push(row);
            }
            let has = |method: &str, is_trained: bool| found.contains_key(&(method.to_owned(), is_trained));
            let label = |(method, is_trained): &(String, bool)| match *is_trained && has(method, false) {
                true => format!("{method} (trained)"),
                false => method.clone(),
            };
            let mut rows: Vec<Row> = found.iter().map(|(key, rows)| measured(&key.0, label(key), rows)).collect();
            let srcc = |row: &Row| row.mean[0].unwrap_or(f64::NEG_INFINITY);
            rows.sort_by(|a, b| srcc(b).total_cmp(&srcc(a)).then_with(|| a.label.cmp(&b.label)));
            let name = |row: &ComparisonRow| label(&key(row));
            let notes = rows.windows(2).map(|pair| note(&reports, &pair[0].label, &pair[1].label, &name)).collect();
            let mut methods: Vec<(String, [Option<f64>; N_PAPER])> = paper::table(1)
                .filter(|row| row.dataset.eq_ignore_ascii_case(&dataset))
                .map(|row| (row.method.clone(), row.figures()))
                .collect();
            for method in &lacking.trained {
                if methods.iter().all(|(other, _)| other != method) {
                    methods.push((method.clone(), [None; N_PAPER]));
                }
            }
            let mut missing = Vec::new();
            for (method, paper) in methods {
                let (is_scored, is_trained) = (has(&method, false), has(&method, true));
                let scores = (lacking.scores)(&method).filter(|_| !is_scored);
                let training = (lacking.training)(&method).filter(|_| !is_trained);
                if is_scored || is_trained {
                    missing.extend(scores.map(|reason| (format!("{method}, as published"), reason)));
                    missing.extend(training.map(|reason| (format!("{method}, trained"), reason)));
                    continue;
                }
                let reasons: Vec<String> = scores.into_iter().chain(training).collect();
                if reasons.is_empty() {
                    continue;
                }
                let reason = reasons.join("; or ");
                missing.push((method.clone(), reason.clone()));
                let (mean, std) = ([None; N_PAPER], [None; N_PAPER]);
                let (label, state) = (method.clone(), State::Missing { reason });
                rows.push(Row { method, state, mean, std, paper, label, interval: None });
            }
            Self { dataset, splits, n_splits: reports.len(), rows, notes, missing }
        };
        kinds.into_iter().map(table).collect()
    }

    /// One JSON object per method, `{"type":"table1", …}`.
    pub fn json_lines(&self) -> String {
        let Self { dataset, splits, n_splits, .. } = self;
        let line = |row| {
            let line = Line { dataset, splits, n_splits: *n_splits, row };
            serde_json::to_string(&line).expect("a row is plain data") + "\n"
        };
        self.rows.iter().map(line).collect()
    }

    /// An aligned table, then what the bootstraps say.
    pub fn text(&self) -> String {
        let headings = Metric::PAPER.map(Metric::heading);
        let paper_heading = format!("paper: {}", headings.join(" "));
        let [srcc, plcc, krcc, rmse] = headings;
        let mut lines = vec![["method", "state", srcc, plcc, krcc, rmse, &paper_heading].map(str::to_owned)];
        for row in &self.rows {
            let cell = |i: usize| with_deviation(row.mean[i], row.std[i], N_DIGITS);
            let srcc = row.interval.map_or_else(|| cell(0), |interval| with_interval(interval, N_DIGITS));
            let paper = match row.paper.iter().all(Option::is_none) {
                true => NONE.to_owned(),
                false => row.paper.map(|value| number(value, N_DIGITS)).join(" "),
            };
            lines.push([row.method.clone(), row.state.words(), srcc, cell(1), cell(2), cell(3), paper]);
        }
        let plural = if self.n_splits == 1 { "" } else { "s" };
        let mut text = format!(
            "Table 1 of the paper on {}, {} ({} split{plural})\n\n{}",
            self.dataset,
            self.splits,
            self.n_splits,
            layout::aligned(&lines)
        );
        if !self.notes.is_empty() {
            text.push_str("\nDifference in SRCC from the next method, by paired bootstrap on each split:\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    /// How to get what is missing; empty if nothing is.
    pub fn missing(&self) -> String {
        let lines: String = self.missing.iter().map(|(what, reason)| format!("  {what}: {reason}\n")).collect();
        if lines.is_empty() { lines } else { format!("Missing:\n{lines}") }
    }
}

/// The name of the split without its seed, or `all images`.
fn kind_of_split(report: &ComparisonReport) -> String {
    let Some((split, part)) = &report.judged.part else { return "all images".to_owned() };
    let name = split.as_str();
    let is_seed = |end: &str| !end.is_empty() && end.chars().all(|c| c.is_ascii_digit());
    let kind = name.rsplit_once('-').filter(|(_, end)| is_seed(end)).map_or(name, |(kind, _)| kind);
    format!("{part} part of {kind} splits")
}

/// The method that `row` belongs to in the table.
fn method_of(dataset: &str, row: &ComparisonRow, names: &BTreeMap<String, String>) -> String {
    // A comparison keeps the paper's figures, which are another method's for no row.
    let of_paper = paper::row_of(dataset, row.paper).map(|paper| paper.method.clone());
    let name = || names.get(&row.method).unwrap_or(&row.method);
    // The paper's own method on features that are not the paper's has no figures there.
    let own = || if name() == paper::METHOD { format!("{} (other features)", paper::METHOD) } else { name().clone() };
    of_paper.unwrap_or_else(own)
}

fn measured(method: &str, label: String, rows: &[&ComparisonRow]) -> Row {
    let values = |metric: Metric| -> Vec<f64> { rows.iter().filter_map(|row| row.metrics[metric].value).collect() };
    let mean = |xs: &[f64]| (!xs.is_empty()).then(|| xs.iter().sum::<f64>() / xs.len() as f64);
    let deviation = |xs: &[f64]| {
        let mean = mean(xs).filter(|_| xs.len() > 1)?;
        Some((xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (xs.len() - 1) as f64).sqrt())
    };
    let n_runs = rows.iter().filter(|row| row.kind == ScorerKind::Run).count();
    Row {
        method: method.to_owned(),
        state: if n_runs > 0 { State::Trained { n_runs } } else { State::Scored },
        mean: Metric::PAPER.map(|metric| mean(&values(metric))),
        std: Metric::PAPER.map(|metric| deviation(&values(metric))),
        paper: rows.first().map_or([None; N_PAPER], |row| row.paper),
        label,
        interval: match rows {
            [row] => Some(row.metrics[Metric::Srcc]),
            _ => None,
        },
    }
}

/// On how many pairs of scores the difference between two neighbours is real.
fn note(reports: &[&ComparisonReport], better: &str, next: &str, name: &impl Fn(&ComparisonRow) -> String) -> String {
    let (mut n_real, mut n_reversed, mut n_pairs) = (0, 0, 0);
    for report in reports {
        let of = |method: &str| report.rows.iter().filter(|row| name(row) == method).collect::<Vec<_>>();
        for first in of(better) {
            for second in of(next) {
                n_pairs += 1;
                n_real += usize::from(first.beats.contains(&second.method));
                n_reversed += usize::from(second.beats.contains(&first.method));
            }
        }
    }
    let reversed = if n_reversed > 0 { format!(", reversed on {n_reversed}") } else { String::new() };
    match (n_pairs, n_real) {
        (0, _) => format!("{better} over {next}: no split has both"),
        (1, 1) => format!("{better} over {next}: real"),
        (1, _) if n_reversed == 0 => format!("{better} over {next}: not distinguishable"),
        _ => format!("{better} over {next}: real on {n_real} of {n_pairs}{reversed}"),
    }
}
