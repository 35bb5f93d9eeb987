//! `nights`: what the scores of a corpus' nights look like, one row per night and one per generator of it;
//! `nights/scorer=<scorer>/corpus=<corpus>/night=<night>/part-0.parquet`.
//!
//! The rows follow from `night_scores`, `images` and `rejects`, and are replaced as a whole. Nights with one fingerprint form a
//! series with the same bins, so that two rows say how two nights differ.

use arrow::array::RecordBatch;

use super::night_scores::ScoredNight;
use super::{
    Column, ColumnType, PartitionName, counts_array, for_each_batch, integer_array, optional_real_array,
    optional_text_array, real_at, text_array,
};
use crate::identity::Fingerprint;
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "nights", version: 1 };

/// The scope of a whole night.
pub const ALL: &str = "all";

/// Shares of the quantiles, in the order of their columns, from the smallest score to the greatest.
pub const QUANTILES: [f64; 11] = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

const fn real(name: &'static str, doc: &'static str) -> Column {
    Column::optional(name, ColumnType::Real, doc)
}

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("scorer", "run, group of runs, method or rating that scored"),
    Column::partition("corpus", "corpus"),
    Column::partition("night", "label of the night"),
    Column::required("scope", ColumnType::Text, "`all`, or `generator=<generator>`"),
    Column::optional("fingerprint", ColumnType::Text, "first 16 hex digits of the fingerprint of what scored"),
    Column::required("n", ColumnType::Integer, "number of image files with a score"),
    Column::required("n_new", ColumnType::Integer, "those of them whose content no earlier night had"),
    Column::required("n_cached", ColumnType::Integer, "those of them whose content an earlier night had"),
    Column::required("n_rejected", ColumnType::Integer, "images that were rejected and have no score"),
    real("mean", "mean score; higher is better: scores whose lower values are better have their sign changed"),
    real("std", "sample standard deviation of the scores"),
    real("min", "smallest score"),
    real("p01", "1 % quantile"),
    real("p05", "5 % quantile"),
    real("p10", "10 % quantile"),
    real("p25", "25 % quantile"),
    real("p50", "median"),
    real("p75", "75 % quantile"),
    real("p90", "90 % quantile"),
    real("p95", "95 % quantile"),
    real("p99", "99 % quantile"),
    real("max", "greatest score"),
    real("bin_low", "lower end of the first bin of a width"),
    real("bin_width", "width of a bin"),
    Column::optional("counts", ColumnType::Counts, "scores below the first bin, in each bin, and above the last"),
    Column::optional("against", ColumnType::Text, "earlier night that the following columns compare with"),
    real("psi", "population stability index"),
    real("psi_null_p99", "the index that one pair of nights of one distribution in a hundred exceeds"),
    real("ks_d", "Kolmogorov and Smirnov's D, at the ends of the bins"),
    real("ks_null_p99", "the D that one pair of nights of one distribution in a hundred exceeds"),
    real("w1", "Wasserstein's distance within the bins, in units of the score"),
];

/// Counts of scores in bins of one width, with an open one at each end.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// Lower end of the first bin of a width.
    pub low: f64,
    /// Width of a bin.
    pub width: f64,
    /// Scores below the first bin, in each bin, and above the last.
    pub counts: Vec<u64>,
}

/// Mean, deviation and quantiles of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; none of one score.
    pub std: Option<f64>,
    /// The quantiles of [`QUANTILES`].
    pub quantiles: [f64; QUANTILES.len()],
}

/// How a night differs from an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The earlier night.
    pub against: PartitionName,
    /// PSI, its null's 99 % point, D, its null's 99 % point, Wasserstein's distance.
    pub values: [f64; 5],
}

/// A night, or a generator of it.
#[derive(Clone, Debug, PartialEq)]
pub struct NightRow {
    /// [`ALL`], or `generator=<generator>`.
    pub scope: String,
    /// Number of image files with a score: of new contents, and of known ones.
    pub n_scored: [u64; 2],
    /// Images that were rejected and have no score.
    pub n_rejected: u64,
    /// The scores; none without any.
    pub moments: Option<Moments>,
    /// Their distribution; none as long as nothing says where the bins are.
    pub bins: Option<Bins>,
    /// How it differs from an earlier night.
    pub difference: Option<Difference>,
}

/// What a later night needs of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Binned {
    /// [`ALL`], or `generator=<generator>`.
    pub scope: String,
    /// First 16 hex digits of the fingerprint of what scored.
    pub fingerprint: Option<String>,
    /// The distribution of the scores.
    pub bins: Bins,
}

fn path(night: &ScoredNight) -> String {
    format!("{}/part-0.parquet", night.folder(KIND.table))
}

/// Replaces the rows of `night`, which `fingerprint` scored.
pub fn write(
    store: &Store,
    night: &ScoredNight,
    fingerprint: Option<Fingerprint>,
    rows: &[NightRow],
) -> Result<(), PartError> {
    part::write(store, KIND, &path(night), &to_batch(fingerprint, rows)?, fingerprint).map(|_| ())
}

/// The distributions of `night`; empty if it has no rows or no bins.
pub fn read_bins(store: &Store, night: &ScoredNight) -> Result<Vec<Binned>, PartError> {
    let names = ["scope", "fingerprint", "bin_low", "bin_width", "counts"];
    let mut found = Vec::new();
    for_each_batch(store, &night.folder(KIND.table), KIND, Some(&names), |columns, batch| {
        let (scopes, fingerprints) = (columns.text("scope")?, columns.text("fingerprint")?);
        let (lows, widths, counts) =
            (columns.reals("bin_low")?, columns.reals("bin_width")?, columns.counts("counts")?);
        for row in 0..batch.num_rows() {
            if let (Some(low), Some(width), Some(counts)) = (real_at(lows, row), real_at(widths, row), counts(row)) {
                let (scope, fingerprint) = (scopes.value(row).to_owned(), super::text_at(fingerprints, row));
                found.push(Binned { scope, fingerprint, bins: Bins { low, width, counts } });
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn to_batch(fingerprint: Option<Fingerprint>, rows: &[NightRow]) -> Result<RecordBatch, PartError> {
    let fingerprint = fingerprint.map(|fingerprint| fingerprint.short());
    let integers = |value: fn(&NightRow) -> u64| {
        integer_array(rows.iter().map(|row| i64::try_from(value(row)).unwrap_or(i64::MAX)))
    };
    let of_moments = |value: &dyn Fn(&Moments) -> Option<f64>| {
        optional_real_array(rows.iter().map(|row| row.moments.as_ref().and_then(value)))
    };
    let of_bins = |value: fn(&Bins) -> f64| optional_real_array(rows.iter().map(|row| row.bins.as_ref().map(value)));
    let mut columns = vec![
        text_array(rows.iter().map(|row| row.scope.as_str())),
        optional_text_array(rows.iter().map(|_| fingerprint.as_deref())),
        integers(|row| row.n_scored.iter().sum()),
        integers(|row| row.n_scored[0]),
        integers(|row| row.n_scored[1]),
        integers(|row| row.n_rejected),
        of_moments(&|moments| Some(moments.mean)),
        of_moments(&|moments| moments.std),
    ];
    columns.extend((0..QUANTILES.len()).map(|index| of_moments(&|moments| Some(moments.quantiles[index]))));
    columns.extend([of_bins(|bins| bins.low), of_bins(|bins| bins.width)]);
    columns.push(counts_array(rows.iter().map(|row| row.bins.as_ref().map(|bins| bins.counts.as_slice()))));
    let difference = |row: &NightRow| row.difference.as_ref().map(|difference| difference.values);
    columns.push(optional_text_array(rows.iter().map(|row| Some(row.difference.as_ref()?.against.as_str()))));
    columns.extend((0..5).map(|index| optional_real_array(rows.iter().map(|row| Some(difference(row)?[index])))));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
