//! `nights`: the statistics of a night's scores, and how they differ from those of the night before.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use crate::check::drift::{Drift, Histogram, N_BINS};
use crate::check::{self, MIN_N, Rejected, moments};
use crate::metrics::quantile;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::nights::{self, ALL, Binned, Bins, Difference, Moments, NightRow, QUANTILES};
use agiqa_store::tables::{PartitionName, images};

/// An earlier night of the same series.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Its label.
    pub night: PartitionName,
    /// Its rows of `nights`.
    rows: Vec<Binned>,
}

impl Earlier {
    fn n(&self) -> u64 {
        self.rows.iter().find(|row| row.scope == ALL).map_or(0, |row| row.bins.counts.iter().sum())
    }
}

/// The nights before `night` that the same scorer has scored, newest first. Scores by other settings, or of an earlier
/// training of a run, are another series. Each night is read when the iterator comes to it.
///
/// # Errors
/// Fails if the nights cannot be listed. An item fails if its table cannot be read.
pub fn backwards(
    store: &Store,
    night: &ScoredNight,
) -> Result<impl Iterator<Item = Result<Earlier, PartError>>, PartError> {
    let fingerprint = night.fingerprint(store)?.map(|fingerprint| fingerprint.short());
    let mut nights = night.nights(store)?;
    nights.retain(|other| other.night < night.night);
    Ok(nights.into_iter().rev().filter_map(move |other| {
        let is_same = |row: &Binned| fingerprint.is_none() || row.fingerprint == fingerprint;
        let rows = nights::read_bins(store, &other);
        let of_series = |rows: Vec<Binned>| rows.iter().any(is_same).then_some(Earlier { night: other.night, rows });
        rows.map(of_series).transpose()
    }))
}

/// The night among `nights`, newest first, to compare with: the newest with enough scores, or else the newest. Later items
/// are not asked for.
///
/// # Errors
/// Fails if an item does.
pub fn previous(nights: impl Iterator<Item = Result<Earlier, PartError>>) -> Result<Option<Earlier>, PartError> {
    let mut newest = None;
    for night in nights {
        let night = night?;
        if night.n() >= MIN_N as u64 {
            return Ok(Some(night));
        }
        newest.get_or_insert(night);
    }
    Ok(newest)
}

/// Where the bins of `night` are; `None` if the table `nights` does not say.
///
/// # Errors
/// Fails if the table cannot be read.
pub fn scale(store: &Store, night: &ScoredNight) -> Result<Option<RangeInclusive<f64>>, PartError> {
    Ok(scale_of(&nights::read_bins(store, night)?))
}

fn scale_of(rows: &[Binned]) -> Option<RangeInclusive<f64>> {
    let Bins { low, width, .. } = rows.iter().find(|row| row.scope == ALL).map(|row| &row.bins)?;
    Some(*low..=low + width * N_BINS as f64)
}

/// A night, or a generator of it.
#[derive(Default)]
struct Scope {
    scores: Vec<f64>,
    n_cached: u64,
    n_rejected: u64,
}

/// Writes the rows of `night` in `nights`. `trained` is the range of the MOS that the scorer has learned from; without one,
/// the night takes the bins of the night before. The first night of a series takes the range of its scores.
///
/// # Errors
/// Fails if a table cannot be read or written.
pub fn summarise(store: &Store, night: &ScoredNight, trained: Option<RangeInclusive<f64>>) -> Result<(), PartError> {
    let mut scopes: BTreeMap<Option<String>, Scope> = BTreeMap::from([(None, Scope::default())]);
    let mut scored: HashSet<ImageId> = HashSet::new();
    let fingerprint = night.for_each(store, |row| {
        scored.insert(row.image_id);
        for generator in [None, Some(row.generator)] {
            // An image without a generator belongs to the whole alone.
            let key = generator.flatten().map(str::to_owned);
            if generator.is_none() || key.is_some() {
                let scope = scopes.entry(key).or_default();
                scope.scores.push(row.score);
                scope.n_cached += u64::from(row.is_cached);
            }
        }
    })?;
    count_rejects(store, night, &scored, &mut scopes)?;
    let previous = previous(backwards(store, night)?)?;
    let scale = trained.or_else(|| scale_of(&previous.as_ref()?.rows)).or_else(|| {
        let scores = &scopes[&None].scores;
        (!scores.is_empty()).then(|| check::middle(scores.clone()))
    });
    let row = |(generator, scope): (Option<String>, Scope)| {
        let scope_name = generator.map_or_else(|| ALL.to_owned(), |generator| format!("generator={generator}"));
        scope.row(scope_name, scale.as_ref(), previous.as_ref())
    };
    let rows: Vec<NightRow> = scopes.into_iter().map(row).collect();
    nights::write(store, night, fingerprint, &rows)
}

/// Counts the images that were rejected and are not among `scored`.
fn count_rejects(
    store: &Store,
    night: &ScoredNight,
    scored: &HashSet<ImageId>,
    scopes: &mut BTreeMap<Option<String>, Scope>,
) -> Result<(), PartError> {
    // The name is a dataset's: its night has been taken up.
    let Ok(dataset) = images::night_dataset(&night.corpus, &night.night) else { return Ok(()) };
    let mut unscored: BTreeMap<ImageId, Option<String>> = BTreeMap::new();
    images::for_each_generator(store, &dataset, |id, generator| {
        if !scored.contains(&id) {
            unscored.insert(id, generator.map(str::to_owned));
        }
    })?;
    let (rejected, n_unread) = Rejected::read(store)?.among(&dataset, &unscored.keys().copied().collect());
    for id in &rejected {
        if let Some(generator) = unscored.get(id).cloned().flatten() {
            scopes.entry(Some(generator)).or_default().n_rejected += 1;
        }
    }
    scopes.entry(None).or_default().n_rejected = (rejected.len() + n_unread) as u64;
    Ok(())
}

impl Scope {
    fn row(self, scope: String, scale: Option<&RangeInclusive<f64>>, previous: Option<&Earlier>) -> NightRow {
        let Self { mut scores, n_cached, n_rejected } = self;
        scores.sort_by(f64::total_cmp);
        let (n, mean, variance) = moments(&scores);
        let of_scores = || Moments {
            mean,
            std: Some(variance.sqrt()).filter(|std| std.is_finite()),
            quantiles: QUANTILES.map(|share| quantile(&scores, share)),
        };
        let histogram = scale.map(|scale| (*scale.start(), Histogram::of(scores.iter().copied(), scale)));
        let before = previous.and_then(|night| Some((night, night.rows.iter().find(|row| row.scope == scope)?)));
        let difference = histogram.as_ref().zip(before).and_then(|((low, now), (night, before))| {
            let Bins { low: low_before, width, counts } = before.bins.clone();
            // A night from before the bins were moved, as by another rating of the training images, says nothing.
            let same = low_before == *low && (width - now.width).abs() <= 1e-9 * width.abs();
            let then = Histogram { width, counts };
            let Drift { psi, psi_null_p99, ks_d, ks_null_p99, w1 } = Drift::between(now, &then).filter(|_| same)?;
            Some(Difference { against: night.night.clone(), values: [psi, psi_null_p99, ks_d, ks_null_p99, w1] })
        });
        NightRow {
            scope,
            n_scored: [scores.len() as u64 - n_cached, n_cached],
            n_rejected,
            moments: (n > 0.0).then(of_scores),
            bins: histogram.map(|(low, Histogram { width, counts })| Bins { low, width, counts }),
            difference,
        }
    }
}
