//! The figures of the paper's Table 1, typed in from the paper.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// One method's figures on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    /// Dataset, as the paper writes it.
    pub dataset: String,
    /// Method, as the paper writes it.
    pub method: String,
    /// Spearman's rank correlation, its absolute value.
    pub srcc: f64,
    /// Pearson's correlation after the mapping.
    pub plcc: f64,
    /// Kendall's tau-b, its absolute value.
    pub krcc: f64,
    /// RMSE after the mapping.
    pub rmse: f64,
}

/// All rows, in the paper's order.
pub fn rows() -> &'static [PaperRow] {
    #[derive(Deserialize)]
    struct Table {
        rows: Vec<PaperRow>,
    }
    static TABLE: LazyLock<Table> =
        LazyLock::new(|| serde_json::from_str(include_str!("paper-table1.json")).expect("a test reads the figures"));
    &TABLE.rows
}

/// The row of `method` on `dataset`; upper and lower case do not matter.
pub fn row(dataset: &str, method: &str) -> Option<&'static PaperRow> {
    rows().iter().find(|row| row.dataset.eq_ignore_ascii_case(dataset) && row.method.eq_ignore_ascii_case(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_per_method_and_dataset() {
        let of = |dataset: &str| rows().iter().filter(|row| row.dataset == dataset).count();
        assert_eq!((of("AGIQA-3k"), of("AIGCQA-20k"), rows().len()), (13, 13, 26));
        assert_eq!(row("agiqa-3k", "brisque").map(|row| (row.srcc, row.rmse)), Some((0.4726, 0.8299)));
        assert_eq!(row("agiqa-3k", "unheard-of"), None);
        for row in rows() {
            let correlations = [row.srcc, row.plcc, row.krcc];
            assert!(correlations.iter().all(|value| (0.0..1.0).contains(value)) && row.rmse > 0.0, "{row:?}");
        }
    }
}
