//! Metrics as an aligned table for people, and as JSON lines for programs.

use std::collections::BTreeSet;

use serde::Serialize;

use agiqa_store::layout;
use agiqa_store::metric::{Metric, N_METRICS};
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::metrics::{MetricsRow, Statistic};
use agiqa_store::tables::splits::Part;

/// The name of the part that means all images.
const ALL: &str = "all";

/// Digits after the point in text.
const N_DIGITS: usize = 3;

/// The number of tested images that share their exact prompt with a training image, summed over runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Leakage {
    /// Tested images that have a prompt.
    pub n: u64,
    /// Tested images whose exact prompt also occurs in the training part.
    pub n_shared: u64,
    /// Number of runs.
    pub n_runs: u64,
}

impl Leakage {
    /// The sums over runs; `None` without runs.
    pub(super) fn over_runs(runs: &[Self]) -> Option<Self> {
        let sum = |count: fn(&Self) -> u64| runs.iter().map(count).sum();
        let leakage = Self { n: sum(|run| run.n), n_shared: sum(|run| run.n_shared), n_runs: sum(|run| run.n_runs) };
        (leakage.n > 0).then_some(leakage)
    }

    /// Share of tested images whose prompt also occurs in the training part, in [0, 1].
    pub fn share(&self) -> f64 {
        self.n_shared as f64 / self.n as f64
    }
}

/// The metrics of one run, of a group of runs, or of a user's table.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    run: String,
    dataset: String,
    rows: Vec<MetricsRow>,
    leakage: Option<Leakage>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Metrics {
        run: &'a str,
        #[serde(flatten)]
        row: &'a MetricsRow,
    },
    Leakage {
        run: &'a str,
        dataset: &'a str,
        #[serde(flatten)]
        leakage: Leakage,
        share: f64,
    },
}

impl Report {
    pub(super) fn new(run: &str, dataset: &str, rows: Vec<MetricsRow>, leakage: Option<Leakage>) -> Self {
        Self { run: run.to_owned(), dataset: dataset.to_owned(), rows, leakage }
    }

    /// One JSON object per line: `{"type":"metrics", …}` for each row of the table, then `{"type":"leakage", …}`.
    ///
    /// Undefined is null.
    pub fn json_lines(&self) -> String {
        let metrics = self.rows.iter().map(|row| Line::Metrics { run: &self.run, row });
        let leakage = self.leakage.map(|leakage| Line::Leakage {
            run: &self.run,
            dataset: &self.dataset,
            leakage,
            share: leakage.share(),
        });
        let lines = metrics.chain(leakage).map(|line| serde_json::to_string(&line).expect("metrics are plain data"));
        lines.map(|line| line + "\n").collect()
    }

    /// An aligned table: predictors on the main part, the model on the other parts, subsets, and the leakage.
    pub fn text(&self) -> String {
        let over_runs = self.rows.iter().any(|row| row.statistic == Statistic::Mean);
        let has_intervals = self.rows.iter().any(|row| row.metrics.0.iter().any(|metric| metric.low.is_some()));
        let spread = match (over_runs, has_intervals) {
            (true, _) => "; mean ± standard deviation over runs",
            (false, true) => "; 95 % bootstrap intervals",
            (false, false) => "",
        };
        let main = main_part(&self.rows);
        let of_part = if main == ALL { String::new() } else { format!(", {main} part") };
        let mut text = format!("{} on {}{of_part}{spread}\n\n", self.run, self.dataset);
        let headings = Metric::ALL.map(|metric| metric.heading().to_owned());
        let mut lines = vec![table_line(String::new(), headings, "n".to_owned())];
        let (whole, subsets): (Vec<&MetricsRow>, Vec<_>) = self.shown().partition(|row| row.subset == "all");
        for row in whole.iter().filter(|row| row.part == main) {
            lines.push(self.line(row.predictor.clone(), row));
        }
        for row in whole.iter().filter(|row| row.part != main && row.predictor == "model") {
            lines.push(self.line(format!("model ({})", row.part), row));
        }
        let subsets: Vec<&MetricsRow> = subsets.into_iter().filter(|row| row.part == main).collect();
        let predictors: BTreeSet<&str> = subsets.iter().map(|row| row.predictor.as_str()).collect();
        // Trivial predictors are nearly constant within a subset, so they are not shown. The table in the store has
        // them.
        let shown = if predictors.contains("model") { Some("model") } else { predictors.first().copied() };
        for row in subsets.iter().filter(|row| Some(row.predictor.as_str()) == shown) {
            lines.push(self.line(row.subset.clone(), row));
        }
        text.push_str(&layout::aligned(&lines));
        if let Some(leakage) = self.leakage {
            let Leakage { n, n_shared, .. } = leakage;
            let percent = 100.0 * leakage.share();
            text.push_str(&format!(
                "\nLeakage: {percent:.1} % of the tested images ({n_shared} of {n}) share their exact prompt with a \
                 training image.\n"
            ));
        }
        text
    }

    /// The rows to print: values of one run, means over several runs.
    fn shown(&self) -> impl Iterator<Item = &MetricsRow> {
        self.rows.iter().filter(|row| matches!(row.statistic, Statistic::Value | Statistic::Mean))
    }

    fn line(&self, label: String, row: &MetricsRow) -> [String; N_METRICS + 2] {
        let deviation = self.rows.iter().find(|other| {
            other.statistic == Statistic::Std
                && (&other.part, &other.predictor, &other.subset) == (&row.part, &row.predictor, &row.subset)
        });
        let cell = |metric: Metric| match row.statistic {
            Statistic::Mean => {
                let deviation = deviation.and_then(|row| row.metrics[metric].value);
                layout::with_deviation(row.metrics[metric].value, deviation, N_DIGITS)
            }
            Statistic::Value | Statistic::Std | Statistic::Median => {
                layout::with_interval(row.metrics[metric], N_DIGITS)
            }
        };
        let n = match row.n_runs {
            1 => row.n.to_string(),
            n_runs if row.n.is_multiple_of(n_runs) => format!("{n_runs} × {}", row.n / n_runs),
            n_runs => format!("{} in {n_runs} runs", row.n),
        };
        table_line(label, Metric::ALL.map(cell), n)
    }
}

/// A line of the table: a label, a cell per metric, the number of images.
fn table_line(label: String, cells: [String; N_METRICS], n: String) -> [String; N_METRICS + 2] {
    let mut cells = std::iter::once(label).chain(cells).chain([n]);
    std::array::from_fn(|_| cells.next().expect("two cells beside those of the metrics"))
}

/// The part that is reported in full, with every predictor: `test` if it has rows, or else the first part.
fn main_part(rows: &[MetricsRow]) -> &str {
    let test = rows.iter().find(|row| row.part == Part::Test.as_str());
    test.or(rows.first()).map_or(ALL, |row| row.part.as_str())
}

/// The stage's summary line: SRCC and PLCC of each predictor on the main part.
pub(super) fn summary(rows: &[MetricsRow], counts: RowCounts) -> String {
    let part = main_part(rows);
    let values = rows.iter().filter(|row| matches!(row.statistic, Statistic::Value | Statistic::Mean));
    let main = values.filter(|row| row.subset == "all" && row.part == part);
    let predictors: Vec<String> = main
        .map(|row| {
            let [srcc, plcc] = [Metric::Srcc, Metric::Plcc].map(|metric| number(row.metrics[metric].value));
            format!("{} SRCC {srcc} PLCC {plcc}", row.predictor)
        })
        .collect();
    let mut summary = format!("{} images", counts.n_out);
    if counts.n_rejected > 0 {
        summary.push_str(&format!(", {} without MOS", counts.n_rejected));
    }
    if !predictors.is_empty() {
        // The line names the part unless it is the test part.
        let of_part = if part == ALL || part == Part::Test.as_str() { String::new() } else { format!("{part} part: ") };
        summary.push_str(&format!("; {of_part}{}", predictors.join("; ")));
    }
    summary
}

fn number(value: Option<f64>) -> String {
    layout::number(value, N_DIGITS)
}
