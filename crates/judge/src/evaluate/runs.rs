//! A run as the store has it: its record, its predictions, and whether its metrics are those of its present inputs.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::error::{EvaluateError, listed};
use agiqa_store::identity::{Fingerprint, FingerprintBuilder};
use agiqa_store::store::part::{self, PartError, PartKind};
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::predictions::{self, PredictionRow};
use agiqa_store::tables::{PartitionName, images, metrics, models, splits};

/// What a run's record (`tables::models::RunRecord`) says of it, as far as it concerns its evaluation; no more is read,
/// so that any model that names its dataset and split can be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunInfo {
    /// Dataset that it was trained on.
    pub dataset: PartitionName,
    /// Split of that dataset.
    pub split: PartitionName,
    /// Fold of that split.
    #[serde(default)]
    pub fold: i64,
    /// Runs that differ from it in their seed only share this name.
    #[serde(default)]
    pub group: Option<PartitionName>,
}

impl RunInfo {
    /// Reads the record of `run`.
    ///
    /// # Errors
    /// No such run (the error names those there are), or a record that lacks a field.
    pub fn read(store: &Store, run: &PartitionName) -> Result<Self, EvaluateError> {
        let path = models::record_path(run);
        match store.get_if_exists(&path)? {
            Some(bytes) => parse(store, path, "a run's record with `dataset` and `split`", &bytes),
            None => {
                let there = listed(models::runs(store)?.iter().map(PartitionName::as_str));
                Err(EvaluateError::NoRun { run: run.clone(), path, url: store.url().to_owned(), there })
            }
        }
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(
    store: &Store,
    path: String,
    expected: &'static str,
    bytes: &[u8],
) -> Result<T, EvaluateError> {
    serde_json::from_slice(bytes).map_err(|source| EvaluateError::Json {
        path,
        url: store.url().to_owned(),
        expected,
        source,
    })
}

/// Runs whose record names `group`, in the order of their names.
///
/// # Errors
/// No such run; the error names the groups there are.
pub fn runs_of_group(store: &Store, group: &PartitionName) -> Result<Vec<PartitionName>, EvaluateError> {
    let (mut runs, mut groups) = (Vec::new(), BTreeSet::new());
    for run in models::runs(store)? {
        if let Some(its_group) = RunInfo::read(store, &run)?.group {
            if its_group == *group {
                runs.push(run);
            }
            groups.insert(its_group);
        }
    }
    if runs.is_empty() {
        let there = listed(groups.iter().map(PartitionName::as_str));
        return Err(EvaluateError::NoGroup { url: store.url().to_owned(), group: group.clone(), there });
    }
    Ok(runs)
}

/// Path of the metrics of `run` on `dataset`.
pub(super) fn metrics_path(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
) -> Result<String, EvaluateError> {
    group_path(store, run, run, dataset)
}

/// Path of the metrics of `group`, which holds `run`, on `dataset`.
pub(super) fn group_path(
    store: &Store,
    run: &PartitionName,
    group: &PartitionName,
    dataset: &PartitionName,
) -> Result<String, EvaluateError> {
    let is_own = RunInfo::read(store, run)?.dataset == *dataset;
    Ok(if is_own { metrics::path(group) } else { metrics::path_on(group, dataset) })
}

/// Fingerprint in the metadata of the part at `path`; none where there is no readable part or it has none.
fn fingerprint_at(store: &Store, path: &str, kind: PartKind) -> Result<Option<String>, EvaluateError> {
    match part::written_fingerprint(store, path, kind) {
        Ok(fingerprint) => Ok(fingerprint),
        Err(PartError::Store(error)) => Err(error.into()),
        // A damaged or older part says nothing that could be relied on.
        Err(_) => Ok(None),
    }
}

/// Whether the metrics at `path` are those of `fingerprint`. A damaged part is not: it will be replaced.
pub(super) fn carries(store: &Store, path: &str, fingerprint: Fingerprint) -> Result<bool, EvaluateError> {
    Ok(fingerprint_at(store, path, metrics::KIND)?.is_some_and(|found| found == fingerprint.to_string()))
}

/// Adds to `builder` everything that the metrics of `run` on `dataset` are computed from.
pub(super) fn hash(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
    builder: &mut FingerprintBuilder,
) -> Result<(), EvaluateError> {
    let info = RunInfo::read(store, run)?;
    builder.json("split", &(&info.dataset, &info.split, info.fold));
    let on_other = (info.dataset != *dataset).then(|| predictions::path_on(run, dataset));
    for path in std::iter::once(predictions::path(run)).chain(on_other) {
        match fingerprint_at(store, &path, predictions::KIND)? {
            Some(fingerprint) => builder.field("predictions", fingerprint.as_bytes()),
            None => builder.field("predictions' content", content_hash(store, &path)?.as_bytes()),
        };
    }
    let mut paths = vec![splits::path(&info.dataset, &info.split), models::ridge_path(run)];
    if info.dataset != *dataset {
        paths.push(splits::path(dataset, &info.split));
    }
    for dataset in [dataset, &info.dataset] {
        paths.extend(part::list(store, &images::prefix(dataset))?.into_iter().map(|object| object.path));
    }
    for path in paths {
        builder.field(&path, content_hash(store, &path)?.as_bytes());
    }
    Ok(())
}

fn content_hash(store: &Store, path: &str) -> Result<String, StoreError> {
    Ok(store.get_if_exists(path)?.map_or_else(|| "absent".to_owned(), |bytes| blake3::hash(&bytes).to_string()))
}

/// Predictions of `run` for `dataset`; at least one.
pub(super) fn read_predictions(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
) -> Result<Vec<PredictionRow>, EvaluateError> {
    let (rows, others): (Vec<_>, Vec<_>) =
        predictions::read(store, run)?.into_iter().partition(|row| row.dataset == dataset.as_str());
    if rows.is_empty() {
        let mut there: Vec<&str> = others.iter().map(|row| row.dataset.as_str()).collect();
        there.dedup();
        let there = listed(there.into_iter());
        return Err(EvaluateError::NoPredictions { run: run.clone(), dataset: dataset.clone(), there });
    }
    Ok(rows)
}

/// How many predictions of `run` for `dataset` can be judged, and how many lack a MOS.
pub(super) fn count(store: &Store, run: &PartitionName, dataset: &PartitionName) -> Result<RowCounts, EvaluateError> {
    let rows = read_predictions(store, run, dataset)?;
    let n_out = rows.iter().filter(|row| row.mos.is_some()).count() as u64;
    let n_in = rows.len() as u64;
    Ok(RowCounts { n_in, n_out, n_rejected: n_in - n_out, ..RowCounts::default() })
}
