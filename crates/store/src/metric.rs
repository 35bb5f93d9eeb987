//! The list of metrics that judge scores, and metric values with intervals.

use std::ops::Index;

use serde::{Serialize, Serializer};

/// Calls macro `$list` with every metric: its variant, its name in tables, its heading, its description.
macro_rules! with_metrics {
    ($list:ident) => {
        $list! {
            Srcc "srcc" "SRCC" "Spearman's rank correlation";
            Plcc "plcc" "PLCC" "Pearson's correlation after the 4-parameter logistic mapping";
            Krcc "krcc" "KRCC" "Kendall's tau-b";
            Rmse "rmse" "RMSE" "root mean squared error after the mapping, on the MOS scale";
            PlccRaw "plcc_raw" "PLCC raw" "Pearson's correlation of the scores as they are";
            RmseRaw "rmse_raw" "RMSE raw" "root mean squared error of the scores as they are";
        }
    };
}

pub(crate) use with_metrics;

macro_rules! metric_enum {
    ($($variant:ident $name:literal $heading:literal $doc:literal;)*) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $doc] $variant,)*
        }

        impl Metric {
            /// All metrics, in the order of their columns.
            pub const ALL: [Self; N_METRICS] = [$(Self::$variant),*];

            /// The name in tables.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The heading above the values in printed tables.
            pub fn heading(self) -> &'static str {
                match self {
                    $(Self::$variant => $heading,)*
                }
            }
        }
    };
}

with_metrics!(metric_enum);

/// The number of metrics.
pub const N_METRICS: usize = 6;

/// The number of metrics that the paper reports. They come first in [`Metric::ALL`].
pub const N_PAPER: usize = 4;

impl Metric {
    /// The metrics that the paper reports.
    pub const PAPER: [Self; N_PAPER] = [Self::Srcc, Self::Plcc, Self::Krcc, Self::Rmse];
}

/// A value with its interval. `None` means undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Value on all images.
    pub value: Option<f64>,
    /// Lower end of the 95 % bootstrap interval.
    pub low: Option<f64>,
    /// Upper end of the 95 % bootstrap interval.
    pub high: Option<f64>,
}

/// Estimates of the first `N` metrics. The JSON form is an object whose keys are the names of the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates<const N: usize>(pub [Estimate; N]);

impl<const N: usize> Estimates<N> {
    /// Calls `estimate` for each metric and collects the results.
    pub fn from_fn(estimate: impl FnMut(Metric) -> Estimate) -> Self {
        let mut metrics = Metric::ALL.into_iter().map(estimate);
        Self(std::array::from_fn(|_| metrics.next().expect("`N` is at most the number of metrics")))
    }

    /// The estimates of the first `M` metrics.
    pub fn first<const M: usize>(&self) -> Estimates<M> {
        Estimates(std::array::from_fn(|index| self.0[index]))
    }
}

impl<const N: usize> Default for Estimates<N> {
    fn default() -> Self {
        Self([Estimate::default(); N])
    }
}

impl<const N: usize> Index<Metric> for Estimates<N> {
    type Output = Estimate;

    fn index(&self, metric: Metric) -> &Estimate {
        &self.0[metric as usize]
    }
}

impl<const N: usize> Serialize for Estimates<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Metric::ALL.into_iter().map(Metric::as_str).zip(&self.0))
    }
}
