//! Mean, standard deviation and median of each metric over runs.

use agiqa_store::metric::{Estimate, Estimates};
use agiqa_store::tables::metrics::{MetricsRow, Statistic};

/// Rows `mean`, `std` and `median` for each dataset, part, predictor and subset in any of `runs`, in the order of their
/// first appearance.
///
/// `std` is the sample standard deviation, with `n - 1`; null for one run. A metric is null if it is undefined in any
/// run that has the row. A mean over only some of the runs would be a different quantity.
pub(super) fn aggregate(runs: &[Vec<MetricsRow>]) -> Vec<MetricsRow> {
    let mut groups: Vec<Vec<&MetricsRow>> = Vec::new();
    let mut group_of = std::collections::HashMap::new();
    for row in runs.iter().flatten() {
        let index = *group_of.entry((&row.dataset, &row.part, &row.predictor, &row.subset)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[index].push(row);
    }
    let statistics = [Statistic::Mean, Statistic::Std, Statistic::Median];
    groups.iter().flat_map(|rows| statistics.map(|statistic| over(rows, statistic))).collect()
}

fn over(rows: &[&MetricsRow], statistic: Statistic) -> MetricsRow {
    let metrics = Estimates::from_fn(|metric| {
        let values: Option<Vec<f64>> = rows.iter().map(|row| row.metrics[metric].value).collect();
        Estimate { value: values.and_then(|values| summarise(values, statistic)), low: None, high: None }
    });
    let n = rows.iter().map(|row| row.n).sum();
    MetricsRow { statistic, n_runs: rows.len() as u64, n, metrics, ..rows[0].clone() }
}

fn summarise(mut values: Vec<f64>, statistic: Statistic) -> Option<f64> {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    match statistic {
        Statistic::Value => None,
        Statistic::Mean => Some(mean),
        Statistic::Std if n < 2 => None,
        Statistic::Std => {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            Some((squares / (n - 1) as f64).sqrt())
        }
        Statistic::Median => {
            values.sort_unstable_by(f64::total_cmp);
            Some((values[(n - 1) / 2] + values[n / 2]) / 2.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_over_runs_divides_by_n_less_one_and_one_run_has_none() {
        let values = vec![3.0, 1.0, 8.0];
        assert_eq!(summarise(values.clone(), Statistic::Mean), Some(4.0));
        assert_eq!(summarise(values.clone(), Statistic::Std), Some(13.0_f64.sqrt()));
        assert_eq!(summarise(values, Statistic::Median), Some(3.0));
        assert_eq!(summarise(vec![2.0], Statistic::Std), None);
        assert_eq!(summarise(vec![2.0, 3.0], Statistic::Median), Some(2.5));
    }
}
