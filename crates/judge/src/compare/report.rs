//! The comparison as an aligned table or Markdown for people, and as JSON lines for programs.

use serde::Serialize;

use agiqa_store::layout::{self, NONE, number, with_interval};
use agiqa_store::metric::Metric;
use agiqa_store::tables::comparison::{ComparisonRow, Judged};

/// Number of columns.
const N_COLUMNS: usize = 8;

/// Digits after the point, as in the paper.
const N_DIGITS: usize = 4;

/// The comparison of one dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonReport {
    /// The images that were judged.
    pub judged: Judged,
    /// One row per method, best first.
    pub rows: Vec<ComparisonRow>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "comparison")]
struct Line<'a> {
    #[serde(flatten)]
    judged: &'a Judged,
    #[serde(flatten)]
    row: &'a ComparisonRow,
}

impl ComparisonReport {
    /// One JSON object per line, `{"type":"comparison", …}`, one per method. Undefined is null.
    pub fn json_lines(&self) -> String {
        let line = |row| serde_json::to_string(&Line { judged: &self.judged, row }).expect("a row is plain data");
        self.rows.iter().map(|row| line(row) + "\n").collect()
    }

    /// An aligned table, followed by the notes on its order.
    pub fn text(&self) -> String {
        format!("{}\n\n{}\n{}", self.title(), layout::aligned(&self.lines()), self.notes("  "))
    }

    /// The same table and notes as Markdown.
    pub fn markdown(&self) -> String {
        format!("**{}**\n\n{}\n{}", self.title(), layout::markdown(&self.lines()), self.notes("- "))
    }

    fn title(&self) -> String {
        let of_part = match &self.judged.part {
            Some((split, part)) => format!(", {part} part of split {split}"),
            None => ", all images".to_owned(),
        };
        let has_intervals = self.rows.iter().any(|row| row.metrics[Metric::Srcc].low.is_some());
        let intervals = if has_intervals { "; 95 % bootstrap intervals" } else { "" };
        format!("{}{of_part}{intervals}", self.judged.dataset)
    }

    fn lines(&self) -> Vec<[String; N_COLUMNS]> {
        let headings = Metric::PAPER.map(Metric::heading);
        let paper = format!("paper: {}", headings.join(" "));
        let [srcc, plcc, krcc, rmse] = headings;
        let head = ["", "method", srcc, plcc, krcc, rmse, &paper, "n"];
        let mut lines = vec![head.map(str::to_owned)];
        for row in &self.rows {
            let paper = if row.paper.iter().all(Option::is_none) {
                NONE.to_owned()
            } else {
                row.paper.map(|value| number(value, N_DIGITS)).join(" ")
            };
            let [srcc, plcc, krcc, rmse] = row.metrics.0.map(|metric| with_interval(metric, N_DIGITS));
            lines.push([row.rank.to_string(), row.method.clone(), srcc, plcc, krcc, rmse, paper, row.n.to_string()]);
        }
        lines
    }

    /// Notes that tell for each step of the ranking whether the difference is real.
    fn notes(&self, bullet: &str) -> String {
        let Some(first) = self.rows.first().filter(|_| self.rows.len() > 1) else { return String::new() };
        let mut text = format!(
            "Difference in SRCC from the next method, by paired bootstrap on the {} images that all have scored:\n",
            first.n_paired
        );
        for (row, next) in self.rows.iter().zip(&self.rows[1..]) {
            let verdict = match (row.lead.low, row.lead.high) {
                (Some(low), _) if low > 0.0 => "real",
                (Some(_), Some(high)) if high < 0.0 => "reversed on these images",
                (Some(_), Some(_)) => "not distinguishable",
                _ => "no interval",
            };
            let lead = with_interval(row.lead, N_DIGITS);
            text.push_str(&format!("{bullet}{} over {}: {lead}, {verdict}\n", row.method, next.method));
        }
        text
    }
}
