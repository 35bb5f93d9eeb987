//! A table of the paper as an aligned table or Markdown for people, and as JSON lines for programs.

use serde::Serialize;

use agiqa_store::layout::{self, NONE, number, with_deviation};
use agiqa_store::metric::Metric;
use agiqa_store::tables::experiments::{ExperimentKey, ExperimentRow, MeanStd};

/// Number of columns.
const N_COLUMNS: usize = 13;

/// Digits after the point, as in the paper.
const N_DIGITS: usize = 4;

/// One table: this program's numbers next to the paper's.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentReport {
    /// Key of the table.
    pub key: ExperimentKey,
    /// Feature set of f_a and f_b.
    pub semantic: String,
    /// Feature set of f_1.
    pub quality: String,
    /// Whether the feature sets match the paper's: mPLUG-Owl2 under its two prompts, and MANIQA on ViT-B/8.
    pub is_paper: bool,
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

    /// The same table as Markdown.
    pub fn markdown(&self) -> String {
        format!("**{}**\n\n{}\n\n{}", self.title(), self.features(), layout::markdown(&self.lines()))
    }

    fn title(&self) -> String {
        let ExperimentKey { experiment, features: _, paper_table } = &self.key;
        format!("{experiment}: table {paper_table} of the paper, test parts; mean ± standard deviation over runs")
    }

    fn features(&self) -> String {
        let whose = if self.is_paper { "" } else { "; not the paper's features" };
        format!("features: {} (f_a, f_b), {} (f_1){whose}", self.semantic, self.quality)
    }

    fn lines(&self) -> Vec<[String; N_COLUMNS]> {
        let [srcc, plcc, krcc, rmse] = Metric::PAPER.map(Metric::heading);
        let paper = format!("paper {srcc}");
        let head =
            ["variant", "reads", "gate", "trained on", "tested on", srcc, plcc, krcc, rmse, &paper, plcc, krcc, rmse];
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
                Some(ours) => {
                    let runs = if ours.n_runs == 1 { "run" } else { "runs" };
                    // The heading names the quality features. A row names its own only if they differ.
                    let other =
                        if ours.quality == self.quality { String::new() } else { format!("; f_1: {}", ours.quality) };
                    format!("{variant} ({} {runs}{other})", ours.n_runs)
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use agiqa_store::tables::PartitionName;
    use agiqa_store::tables::experiments::Ours;

    #[test]
    fn a_variant_with_features_of_its_own_says_so() {
        let name = |text: &str| PartitionName::new(text).expect("a valid name");
        let row = |variant: &str, quality: &str| {
            let ours = Ours {
                inputs: "f_1 + f_a + f_b".to_owned(),
                gate: "sigmoid".to_owned(),
                semantic: "s@1".to_owned(),
                quality: quality.to_owned(),
                run: "r".to_owned(),
                n_runs: 1,
                metrics: [MeanStd::default(); 4],
            };
            let dataset = "d".to_owned();
            let (trained_on, paper) = (dataset.clone(), [None; 4]);
            ExperimentRow { variant: variant.to_owned(), trained_on, dataset, ours: Some(ours), paper }
        };
        let report = ExperimentReport {
            key: ExperimentKey { experiment: name("e"), features: name("f"), paper_table: 1 },
            semantic: "s@1".to_owned(),
            quality: "q@2".to_owned(),
            is_paper: false,
            rows: vec![row("frozen", "q@2"), row("joint", "maniqa, trained jointly")],
        };
        let text = report.text();
        assert!(
            text.contains("\nfrozen (1 run) ") && text.contains("\njoint (1 run; f_1: maniqa, trained jointly) "),
            "{text}"
        );
        assert!(text.contains("q@2 (f_1); not the paper's features"), "{text}");
        assert!(!ExperimentReport { is_paper: true, ..report }.markdown().contains("not the paper's"));
    }
}
