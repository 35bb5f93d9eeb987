//! A table of the paper for people, as an aligned table or Markdown, and for programs, as JSON lines.

use serde::Serialize;

use crate::layout::{self, NONE, number, with_deviation};
use crate::tables::experiments::{ExperimentKey, ExperimentRow, MeanStd};

/// Number of columns.
const N_COLUMNS: usize = 13;

/// Digits after the point, as in the paper.
const N_DIGITS: usize = 4;

/// One table, ours beside the paper's.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentReport {
    /// Which table.
    pub key: ExperimentKey,
    /// Feature set of f_a and f_b.
    pub semantic: String,
    /// Feature set of f_1.
    pub quality: String,
    /// Its rows.
    pub rows: Vec<ExperimentRow>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "experiment")]
struct Line<'a> {
    #[serde(flatten)]
    key: &'a ExperimentKey,
    #[serde(flatten)]
    row: &'a ExperimentRow,
}

impl ExperimentReport {
    /// One JSON object per line, `{"type":"experiment", …}`, one per row. Undefined is null.
    pub fn json_lines(&self) -> String {
        let line = |row| serde_json::to_string(&Line { key: &self.key, row }).expect("a row is plain data");
        self.rows.iter().map(|row| line(row) + "\n").collect()
    }

    /// An aligned table.
    pub fn text(&self) -> String {
        format!("{}\n{}\n\n{}", self.title(), self.features(), layout::aligned(&self.lines()))
    }

    /// The same as Markdown.
    pub fn markdown(&self) -> String {
        format!("**{}**\n\n{}\n\n{}", self.title(), self.features(), layout::markdown(&self.lines()))
    }

    fn title(&self) -> String {
        let ExperimentKey { experiment, features: _, paper_table } = &self.key;
        format!("{experiment}: table {paper_table} of the paper, test parts; mean ± standard deviation over runs")
    }

    fn features(&self) -> String {
        let is_paper = self.semantic.starts_with("mplug-owl2@") && self.quality.starts_with("maniqa@");
        let whose = if is_paper { "" } else { "; not the paper's features" };
        format!("features: {} (f_a, f_b), {} (f_1){whose}", self.semantic, self.quality)
    }

    fn lines(&self) -> Vec<[String; N_COLUMNS]> {
        let head = [
            "variant",
            "reads",
            "gate",
            "trained on",
            "tested on",
            "SRCC",
            "PLCC",
            "KRCC",
            "RMSE",
            "paper SRCC",
            "PLCC",
            "KRCC",
            "RMSE",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        for ExperimentRow { variant, trained_on, dataset, ours, paper } in &self.rows {
            let metrics = ours
                .as_ref()
                .map_or([MeanStd::default(); 4], |ours| ours.metrics)
                .map(|MeanStd { mean, std }| with_deviation(mean, std, N_DIGITS));
            let [srcc, plcc, krcc, rmse] = metrics;
            let [paper_srcc, paper_plcc, paper_krcc, paper_rmse] = paper.map(|value| number(value, N_DIGITS));
            let of_ours = |text: Option<&String>| text.cloned().unwrap_or_else(|| NONE.to_owned());
            let name = match ours {
                Some(ours) => format!("{variant} ({} {})", ours.n_runs, if ours.n_runs == 1 { "run" } else { "runs" }),
                None => variant.clone(),
            };
            lines.push([
                name,
                of_ours(ours.as_ref().map(|ours| &ours.inputs)),
                of_ours(ours.as_ref().map(|ours| &ours.gate)),
                trained_on.clone(),
                dataset.clone(),
                srcc,
                plcc,
                krcc,
                rmse,
                paper_srcc,
                paper_plcc,
                paper_krcc,
                paper_rmse,
            ]);
        }
        lines
    }
}
