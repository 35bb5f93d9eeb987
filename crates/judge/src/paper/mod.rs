//! The figures of the paper's Tables 1 to 5 (Wang et al. 2024, arXiv 2404.17762), typed in from the paper. They are the
//! figures that this program's results are compared with.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use agiqa_store::metric::N_PAPER;
use agiqa_store::tables::features::FeatureSet;

/// The paper's own method.
pub const METHOD: &str = "MA-AGIQA";

/// The settings by which feature sets of the paper's networks are recognised.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperFeatures {
    /// The prompts for mPLUG-Owl2. Each has the name of its column and its whole text.
    pub prompts: Vec<PaperPrompt>,
    /// The sizes of MANIQA, as its feature sets state them.
    pub config: serde_json::Value,
}

/// One prompt of the paper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperPrompt {
    /// Column of its embeddings.
    pub column: String,
    /// Its text, template included.
    pub text: String,
}

/// The paper's prompts and sizes. A test compares them with the networks' own.
pub fn features() -> &'static PaperFeatures {
    static FEATURES: LazyLock<PaperFeatures> =
        LazyLock::new(|| serde_json::from_str(include_str!("features.json")).expect("a test reads the features"));
    &FEATURES
}

/// Whether `set` holds the paper's f_a and f_b: features of mPLUG-Owl2, with the paper's prompts under these column
/// names.
pub fn is_semantic_set(set: &FeatureSet) -> bool {
    let asked = set.settings["prompts"].as_array().map_or(&[][..], Vec::as_slice);
    let is_asked = |prompt: &PaperPrompt| {
        asked.iter().any(|asked| asked["column"] == prompt.column && asked["text"] == prompt.text)
    };
    set.extractor.as_str() == "mplug-owl2" && features().prompts.iter().all(is_asked)
}

/// Whether `set` holds the paper's f_1: features of a MANIQA of the paper's sizes, whatever its training data.
pub fn is_quality_set(set: &FeatureSet) -> bool {
    set.extractor.as_str() == "maniqa" && set.settings["config"] == features().config
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    /// Number of the table.
    pub table: u32,
    /// Test dataset, as the paper writes it.
    pub dataset: String,
    /// Training dataset, if it differs from the test dataset.
    #[serde(default)]
    pub trained_on: Option<String>,
    /// Method, as the paper writes it.
    pub method: String,
    /// Features that [`METHOD`] read, in the order `f_1`, `f_a`, `f_b`. Empty for other methods.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Whether [`METHOD`] weighed the features with gates instead of concatenating them.
    #[serde(default)]
    pub gated: bool,
    /// Spearman's rank correlation, its absolute value.
    pub srcc: f64,
    /// Pearson's correlation after the mapping.
    pub plcc: f64,
    /// Kendall's tau-b, its absolute value.
    pub krcc: f64,
    /// RMSE after the mapping, if the table has it.
    #[serde(default)]
    pub rmse: Option<f64>,
}

impl PaperRow {
    /// SRCC, PLCC, KRCC and RMSE.
    pub fn figures(&self) -> [Option<f64>; N_PAPER] {
        [Some(self.srcc), Some(self.plcc), Some(self.krcc), self.rmse]
    }

    /// Whether the row was trained and tested on these datasets, ignoring case.
    pub fn is_of(&self, trained_on: &str, dataset: &str) -> bool {
        let of_training = self.trained_on.as_ref().unwrap_or(&self.dataset);
        self.dataset.eq_ignore_ascii_case(dataset) && of_training.eq_ignore_ascii_case(trained_on)
    }
}

/// All rows, in the paper's order.
pub fn rows() -> &'static [PaperRow] {
    #[derive(Deserialize)]
    struct Tables {
        rows: Vec<PaperRow>,
    }
    static TABLES: LazyLock<Tables> =
        LazyLock::new(|| serde_json::from_str(include_str!("tables.json")).expect("a test reads the figures"));
    &TABLES.rows
}

/// The rows of table `number`; empty if the paper has no results with that number.
pub fn table(number: u32) -> impl Iterator<Item = &'static PaperRow> {
    rows().iter().filter(move |row| row.table == number)
}

/// Table 1's row on `dataset` with these figures. A comparison keeps the figures of the row that a scorer belongs to, by
/// whatever name; no two rows have the same.
pub fn row_of(dataset: &str, figures: [Option<f64>; N_PAPER]) -> Option<&'static PaperRow> {
    table(1).find(|row| row.dataset.eq_ignore_ascii_case(dataset) && row.figures() == figures)
}

/// Table 1's row of `method` on `dataset`, ignoring case and hyphens. The names of scorers have `-plus` for the paper's `+`.
pub fn row(dataset: &str, method: &str) -> Option<&'static PaperRow> {
    let plain = |name: &str| name.to_ascii_lowercase().replace("-plus", "+").replace('-', "");
    let method = plain(method);
    table(1).find(|row| row.dataset.eq_ignore_ascii_case(dataset) && plain(&row.method) == method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_the_paper_s_rows() {
        assert_eq!([1, 2, 3, 4, 5, 6].map(|number| table(number).count()), [26, 6, 7, 7, 4, 0]);
        assert_eq!(row("agiqa-3k", "brisque").map(|row| (row.srcc, row.rmse)), Some((0.4726, Some(0.8299))));
        assert_eq!(row("agiqa-3k", "clipiqa-plus").map(|row| row.srcc), Some(0.6933));
        assert_eq!(row("agiqa-3k", "qalign").map(|row| row.method.as_str()), Some("Q-Align"));
        assert_eq!(row("agiqa-3k", "unheard-of"), None);
        for found in table(1) {
            assert_eq!(row_of(&found.dataset.to_lowercase(), found.figures()), Some(found), "{found:?}");
        }
        assert_eq!(row_of("agiqa-3k", [None; N_PAPER]), None);
        for row in rows() {
            let correlations = [row.srcc, row.plcc, row.krcc];
            assert!(correlations.iter().all(|value| (0.0..1.0).contains(value)), "{row:?}");
            assert!(row.rmse.is_none_or(|rmse| rmse > 0.0), "{row:?}");
            assert_eq!(row.method == METHOD, !row.inputs.is_empty(), "{row:?}");
        }
        let cross: Vec<_> = table(2).filter(|row| row.is_of("aigcqa-20k", "agiqa-3k")).map(|row| row.srcc).collect();
        assert_eq!(cross, [0.8053, 0.682, 0.4335]);
    }
}
