//! Metric columns that several tables share: value and interval, mean and deviation, the paper's figure.

use arrow::array::ArrayRef;

use super::{Column, ColumnType, Columns, optional_real_array, real_at};
use crate::metric::{Estimate, Estimates, Metric, N_METRICS, with_metrics};
use crate::store::part::PartError;

macro_rules! metric_columns {
    ($($variant:ident $name:literal $heading:literal $doc:literal;)*) => {
        /// Per metric: value, lower end and upper end of the interval.
        const OF_ESTIMATES: [[Column; 3]; N_METRICS] = [$([
            real($name, $doc),
            real(concat!($name, "_low"), "lower end of the 95 % bootstrap interval"),
            real(concat!($name, "_high"), "upper end of the 95 % bootstrap interval"),
        ]),*];

        /// Per metric: mean and standard deviation over runs.
        const OF_MEANS: [[Column; 2]; N_METRICS] = [$([
            real($name, concat!($doc, "; mean over the runs")),
            real(concat!($name, "_std"), "sample standard deviation over the runs; null for one run"),
        ]),*];

        /// The paper's figure of each metric.
        const OF_THE_PAPER: [Column; N_METRICS] = [$(
            real(concat!("paper_", $name), "the paper's figure; null where it has none")
        ),*];
    };
}

with_metrics!(metric_columns);

const fn real(name: &'static str, doc: &'static str) -> Column {
    Column::optional(name, ColumnType::Real, doc)
}

/// Columns of the estimates of the first `n` metrics.
pub(super) const fn estimates(n: usize) -> &'static [Column] {
    OF_ESTIMATES.as_slice().split_at(n).0.as_flattened()
}

/// Columns of the means over runs of the first `n` metrics.
pub(super) const fn means(n: usize) -> &'static [Column] {
    OF_MEANS.as_slice().split_at(n).0.as_flattened()
}

/// Columns of the paper's figures of the first `n` metrics.
pub(super) const fn paper(n: usize) -> &'static [Column] {
    OF_THE_PAPER.as_slice().split_at(n).0
}

/// The columns of all `lists` in order. `N` is the total number of columns.
pub(super) const fn joined<const N: usize>(lists: &[&[Column]]) -> [Column; N] {
    let mut all = [lists[0][0]; N];
    let (mut n, mut list) = (0, 0);
    while list < lists.len() {
        let mut index = 0;
        while index < lists[list].len() {
            all[n] = lists[list][index];
            (n, index) = (n + 1, index + 1);
        }
        list += 1;
    }
    assert!(n == N, "the number of columns");
    all
}

/// The three columns of `estimates`, one row per estimate.
pub(super) fn arrays(estimates: impl Iterator<Item = Estimate> + Clone) -> [ArrayRef; 3] {
    let column = |end: fn(Estimate) -> Option<f64>| optional_real_array(estimates.clone().map(end));
    [column(|estimate| estimate.value), column(|estimate| estimate.low), column(|estimate| estimate.high)]
}

impl<'a> Columns<'a> {
    /// Values of the columns `names` by row; null becomes `None`.
    pub(super) fn optional_reals<const N: usize>(
        &self,
        names: [String; N],
    ) -> Result<impl Fn(usize) -> [Option<f64>; N] + use<'a, N>, PartError> {
        let arrays = names.iter().map(|name| self.reals(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(move |row| std::array::from_fn(|index| real_at(arrays[index], row)))
    }

    /// The estimate in the columns `name`, `name_low` and `name_high`, by row.
    pub(super) fn estimate(&self, name: &str) -> Result<impl Fn(usize) -> Estimate + use<'a>, PartError> {
        let ends = self.optional_reals([name.to_owned(), format!("{name}_low"), format!("{name}_high")])?;
        Ok(move |row| {
            let [value, low, high] = ends(row);
            Estimate { value, low, high }
        })
    }

    /// The estimates of the first `N` metrics, by row.
    pub(super) fn estimates<const N: usize>(&self) -> Result<impl Fn(usize) -> Estimates<N> + use<'a, N>, PartError> {
        let readers =
            Metric::ALL[..N].iter().map(|metric| self.estimate(metric.as_str())).collect::<Result<Vec<_>, _>>()?;
        Ok(move |row| Estimates(std::array::from_fn(|index| readers[index](row))))
    }
}
