//! What the stage reads of a run: its record, its predictions, the images and the split behind them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::report::Leakage;
use super::trivial::GroupMeans;
use crate::console::Console;
use crate::identity::{Fingerprint, FingerprintBuilder, ImageId};
use crate::metrics::MetricsError;
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::run_log::RowCounts;
use crate::store::{Store, StoreError};
use crate::tables::images::{self, Images};
use crate::tables::predictions::{self, PredictionRow};
use crate::tables::rejects::RejectRow;
use crate::tables::splits::{self, Part};
use crate::tables::{PartitionName, metrics};

/// Runs that cannot be evaluated as asked.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table is broken.
    #[error(transparent)]
    Part(#[from] PartError),
    /// No run was named.
    #[error("there is no run to evaluate: name at least one")]
    NoRuns,
    /// A run was named twice.
    #[error("run `{run}` is named twice; each run counts once")]
    RunTwice {
        /// The run.
        run: PartitionName,
    },
    /// The group's name is that of one of its runs.
    #[error("group `{group}` has the name of one of its runs, whose metrics it would replace: choose another name")]
    GroupIsRun {
        /// The name.
        group: PartitionName,
    },
    /// No run belongs to the group.
    #[error("store `{url}` has no run of group `{group}`; groups there: {there}")]
    NoGroup {
        /// The store.
        url: String,
        /// The group.
        group: PartitionName,
        /// Groups there are.
        there: String,
    },
    /// A run has no record.
    #[error("run `{run}`: there is no `{path}` in store `{url}`; runs there: {there}")]
    NoRun {
        /// The run.
        run: PartitionName,
        /// Path of the record.
        path: String,
        /// The store.
        url: String,
        /// Runs there are.
        there: String,
    },
    /// A JSON file beside a model is not what it should be.
    #[error("`{path}` in store `{url}` is not {expected}; rerun `agiqa train`")]
    Json {
        /// The file.
        path: String,
        /// The store.
        url: String,
        /// What was expected.
        expected: &'static str,
        /// Cause.
        source: serde_json::Error,
    },
    /// A run has not scored the dataset.
    #[error("run `{run}` has no predictions for dataset `{dataset}` (it has: {there}); run `agiqa predict` first")]
    NoPredictions {
        /// The run.
        run: PartitionName,
        /// The dataset.
        dataset: PartitionName,
        /// Datasets that it has scored.
        there: String,
    },
    /// None of the images has a MOS.
    #[error(
        "none of the {n} images of `{dataset}` that run `{run}` scored has a MOS: there is nothing to compare with"
    )]
    NoMos {
        /// The run.
        run: PartitionName,
        /// The dataset.
        dataset: PartitionName,
        /// Number of images.
        n: usize,
    },
    /// A predicted image is not in the images table any more.
    #[error(
        "run `{run}` scored image {image_id} (`{name}`), which is not in `images/dataset={dataset}`: the dataset was \
         ingested anew; rerun `agiqa predict`"
    )]
    ImageGone {
        /// The run.
        run: PartitionName,
        /// The dataset.
        dataset: PartitionName,
        /// The image.
        image_id: ImageId,
        /// Its name.
        name: String,
    },
    /// The run's split has no training image with a MOS.
    #[error(
        "run `{run}`: split `{split}` (fold {fold}) of dataset `{dataset}` has no training image with a MOS; rerun \
         `agiqa split` and `agiqa train`"
    )]
    NoTraining {
        /// The run.
        run: PartitionName,
        /// Dataset of the training.
        dataset: PartitionName,
        /// The split.
        split: PartitionName,
        /// The fold.
        fold: i64,
    },
    /// A column to form subsets by does not exist.
    #[error("dataset `{dataset}` has no column `{column}` to form subsets by; there are: {there}{hint}")]
    UnknownColumn {
        /// The dataset.
        dataset: PartitionName,
        /// The column asked for.
        column: String,
        /// Columns there are.
        there: String,
        /// ` (did you mean …?)` or nothing.
        hint: String,
    },
    /// Scores that no metric can be computed from.
    #[error("predictor `{predictor}`, subset `{subset}`")]
    Metrics {
        /// The predictor.
        predictor: String,
        /// The subset.
        subset: String,
        /// Cause.
        source: MetricsError,
    },
}

/// What `models/run=<run>/run.json` says of a run, as far as it concerns its evaluation.
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
    pub fn read(store: &Store, run: &PartitionName) -> Result<Self, InputError> {
        let path = format!("models/run={run}/run.json");
        match store.get_if_exists(&path)? {
            Some(bytes) => parse(store, path, "a run's record with `dataset` and `split`", &bytes),
            None => {
                let there = listed(run_names(store)?.iter().map(PartitionName::as_str));
                Err(InputError::NoRun { run: run.clone(), path, url: store.url().to_owned(), there })
            }
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    store: &Store,
    path: String,
    expected: &'static str,
    bytes: &[u8],
) -> Result<T, InputError> {
    serde_json::from_slice(bytes).map_err(|source| InputError::Json {
        path,
        url: store.url().to_owned(),
        expected,
        source,
    })
}

fn run_names(store: &Store) -> Result<Vec<PartitionName>, StoreError> {
    let objects = store.list("models")?;
    let folders =
        objects.iter().filter_map(|object| object.path.strip_prefix("models/run=")?.strip_suffix("/run.json"));
    Ok(folders.filter_map(|run| PartitionName::new(run).ok()).collect())
}

/// Runs whose record names `group`, in the order of their names.
///
/// # Errors
/// No such run; the error names the groups there are.
pub fn runs_of_group(store: &Store, group: &PartitionName) -> Result<Vec<PartitionName>, InputError> {
    let (mut runs, mut groups) = (Vec::new(), BTreeMap::new());
    for run in run_names(store)? {
        if let Some(its_group) = RunInfo::read(store, &run)?.group {
            if its_group == *group {
                runs.push(run);
            }
            groups.insert(its_group, ());
        }
    }
    if runs.is_empty() {
        let there = listed(groups.keys().map(PartitionName::as_str));
        return Err(InputError::NoGroup { url: store.url().to_owned(), group: group.clone(), there });
    }
    Ok(runs)
}

/// Path of the metrics of `run` on `dataset`.
pub(super) fn metrics_path(store: &Store, run: &PartitionName, dataset: &PartitionName) -> Result<String, InputError> {
    group_path(store, run, run, dataset)
}

/// Path of the metrics of `group`, which holds `run`, on `dataset`.
pub(super) fn group_path(
    store: &Store,
    run: &PartitionName,
    group: &PartitionName,
    dataset: &PartitionName,
) -> Result<String, InputError> {
    let is_own = RunInfo::read(store, run)?.dataset == *dataset;
    Ok(if is_own { metrics::path(group) } else { metrics::path_on(group, dataset) })
}

/// Fingerprint in the metadata of the part at `path`; none where there is no readable part or it has none.
fn fingerprint_at(store: &Store, path: &str, kind: PartKind) -> Result<Option<String>, InputError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let Some(object) = part::list(store, folder)?.into_iter().find(|object| object.path == path) else {
        return Ok(None);
    };
    match PartReader::open(store, &object, kind) {
        Ok(reader) => Ok(reader.metadata_value("agiqa.fingerprint")),
        Err(PartError::Store(error)) => Err(error.into()),
        // A damaged or older part says nothing that could be relied on.
        Err(_) => Ok(None),
    }
}

/// Whether the metrics at `path` are those of `fingerprint`. A damaged part is not: it will be replaced.
pub(super) fn carries(store: &Store, path: &str, fingerprint: Fingerprint) -> Result<bool, InputError> {
    Ok(fingerprint_at(store, path, metrics::KIND)?.is_some_and(|found| found == fingerprint.to_string()))
}

/// Adds to `builder` everything that the metrics of `run` on `dataset` are computed from.
pub(super) fn hash(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
    builder: &mut FingerprintBuilder,
) -> Result<(), InputError> {
    let info = RunInfo::read(store, run)?;
    builder.json("split", &(&info.dataset, &info.split, info.fold));
    let path = predictions::path(run);
    match fingerprint_at(store, &path, predictions::KIND)? {
        Some(fingerprint) => builder.field("predictions", fingerprint.as_bytes()),
        None => builder.field("predictions' content", content_hash(store, &path)?.as_bytes()),
    };
    let mut paths = vec![splits::path(&info.dataset, &info.split), ridge_path(run)];
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

fn ridge_path(run: &PartitionName) -> String {
    format!("models/run={run}/ridge_scores.json")
}

/// Predictions of `run` for `dataset`; at least one.
fn read_predictions(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
) -> Result<Vec<PredictionRow>, InputError> {
    let (rows, others): (Vec<_>, Vec<_>) =
        predictions::read(store, run)?.into_iter().partition(|row| row.dataset == dataset.as_str());
    if rows.is_empty() {
        let mut there: Vec<&str> = others.iter().map(|row| row.dataset.as_str()).collect();
        there.dedup();
        let there = listed(there.into_iter());
        return Err(InputError::NoPredictions { run: run.clone(), dataset: dataset.clone(), there });
    }
    Ok(rows)
}

/// How many predictions of `run` for `dataset` can be judged, and how many lack a MOS.
pub(super) fn count(store: &Store, run: &PartitionName, dataset: &PartitionName) -> Result<RowCounts, InputError> {
    let rows = read_predictions(store, run, dataset)?;
    let n_out = rows.iter().filter(|row| row.mos.is_some()).count() as u64;
    let n_in = rows.len() as u64;
    Ok(RowCounts { n_in, n_out, n_rejected: n_in - n_out, ..RowCounts::default() })
}

/// A run's training images: the table they are in and which of its rows are in the training part.
struct Training {
    info: RunInfo,
    images: Images,
    is_training: Vec<bool>,
}

impl Training {
    fn read(store: &Store, run: &PartitionName) -> Result<Self, InputError> {
        let info = RunInfo::read(store, run)?;
        let images = images::read(store, &info.dataset)?;
        let ids: HashSet<ImageId> = splits::read(store, &info.dataset, &info.split)?
            .into_iter()
            .filter(|row| row.fold == info.fold && row.part == Part::Train)
            .map(|row| row.image_id)
            .collect();
        let is_training: Vec<bool> = images.rows.iter().map(|row| ids.contains(&row.image_id)).collect();
        if !images.rows.iter().zip(&is_training).any(|(row, &is_training)| is_training && row.mos.is_some()) {
            let RunInfo { dataset, split, fold, .. } = info;
            return Err(InputError::NoTraining { run: run.clone(), dataset, split, fold });
        }
        Ok(Self { info, images, is_training })
    }

    /// Mean MOS per value of the column that `group` gives.
    fn means(&self, group: fn(&images::ImageRow) -> Option<&str>) -> Option<GroupMeans> {
        let rows = self.images.rows.iter().zip(&self.is_training).filter(|(_, is_training)| **is_training);
        GroupMeans::of(rows.filter_map(|(row, _)| Some((group(row), row.mos?))))
    }

    /// Images of the evaluated dataset: its own table, or the training one where it is the same.
    fn images_of(&self, store: &Store, dataset: &PartitionName) -> Result<Images, InputError> {
        Ok(if self.info.dataset == *dataset { self.images.clone() } else { images::read(store, dataset)? })
    }
}

/// How many of the images that `run` is tested on share their exact prompt with one of its training images. None where
/// no image has a prompt.
pub(super) fn leakage(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
) -> Result<Option<Leakage>, InputError> {
    let training = Training::read(store, run)?;
    let rows = training.images.rows.iter().zip(&training.is_training).filter(|(_, is_training)| **is_training);
    let prompts: HashSet<&str> = rows.filter_map(|(row, _)| row.prompt.as_deref()).collect();
    let tested: HashSet<ImageId> = read_predictions(store, run, dataset)?
        .into_iter()
        .filter(|row| matches!(row.part, None | Some(Part::Test)))
        .map(|row| row.image_id)
        .collect();
    let images = training.images_of(store, dataset)?;
    let tested = images.rows.iter().filter(|row| tested.contains(&row.image_id));
    let shared: Vec<bool> = tested.filter_map(|row| Some(prompts.contains(row.prompt.as_deref()?))).collect();
    let n_shared = shared.iter().filter(|shared| **shared).count() as u64;
    Ok((!shared.is_empty()).then_some(Leakage { n: shared.len() as u64, n_shared, n_runs: 1 }))
}

/// One predictor's scores of all judged images.
pub(super) struct Predictor {
    pub(super) name: &'static str,
    pub(super) scores: Vec<f64>,
}

/// Some of the judged images.
pub(super) struct Subset {
    /// `all`, or `<column>=<value>`.
    pub(super) name: String,
    /// Positions among the judged images.
    pub(super) positions: Vec<usize>,
}

/// The judged images of one run with everything the metrics are computed from.
pub(super) struct Scored {
    parts: Vec<Option<Part>>,
    pub(super) mos: Vec<f64>,
    pub(super) predictors: Vec<Predictor>,
    /// Columns that form subsets, with one value per image.
    columns: Vec<(String, Vec<Option<String>>)>,
    /// Images without MOS.
    pub(super) rejects: Vec<RejectRow>,
}

impl Scored {
    /// Joins the predictions of `run` for `dataset` with the images and the run's training part.
    pub(super) fn load(
        store: &Store,
        run: &PartitionName,
        dataset: &PartitionName,
        by: &[String],
        console: &Console,
    ) -> Result<Self, InputError> {
        let training = Training::read(store, run)?;
        let images = training.images_of(store, dataset)?;
        let (judged, unjudged): (Vec<_>, Vec<_>) =
            read_predictions(store, run, dataset)?.into_iter().partition(|row| row.mos.is_some());
        if judged.is_empty() {
            return Err(InputError::NoMos { run: run.clone(), dataset: dataset.clone(), n: unjudged.len() });
        }
        let row_of: HashMap<ImageId, usize> =
            images.rows.iter().enumerate().map(|(index, row)| (row.image_id, index)).collect();
        let mut at = Vec::with_capacity(judged.len());
        for row in &judged {
            at.push(*row_of.get(&row.image_id).ok_or_else(|| InputError::ImageGone {
                run: run.clone(),
                dataset: dataset.clone(),
                image_id: row.image_id,
                name: row.name.clone(),
            })?);
        }
        let mut columns = Vec::with_capacity(by.len());
        for column in by {
            let values = images.column_text(column).ok_or_else(|| unknown_column(dataset, column, &images))?;
            columns.push((column.clone(), at.iter().map(|&row| values[row].clone()).collect()));
        }
        let model = Predictor { name: "model", scores: judged.iter().map(|row| row.score).collect() };
        let mut predictors = vec![model];
        predictors.extend(ridge(store, run, &judged, console)?);
        let groupings: [(_, fn(&images::ImageRow) -> Option<&str>); 2] =
            [("generator-mean", |row| row.generator.as_deref()), ("prompt-mean", |row| row.prompt.as_deref())];
        for (name, group) in groupings {
            // Without any group every image gets the same number, which predicts nothing and says nothing.
            if let Some(means) = training.means(group).filter(GroupMeans::has_groups) {
                let scores = at.iter().map(|&row| means.predict(group(&images.rows[row]))).collect();
                predictors.push(Predictor { name, scores });
            }
        }
        Ok(Self {
            parts: judged.iter().map(|row| row.part).collect(),
            mos: judged.iter().filter_map(|row| row.mos).collect(),
            predictors,
            columns,
            rejects: unjudged.iter().map(no_mos).collect(),
        })
    }

    /// Parts that hold images; none stands for a dataset without parts.
    pub(super) fn parts(&self) -> Vec<Option<Part>> {
        let all = Part::ALL.into_iter().map(Some).chain([None]);
        all.filter(|part| self.parts.contains(part)).collect()
    }

    /// All images of `part`.
    pub(super) fn whole(&self, part: Option<Part>) -> Subset {
        let positions = (0..self.parts.len()).filter(|&at| self.parts[at] == part).collect();
        Subset { name: "all".to_owned(), positions }
    }

    /// All images of `part`, then each value of each column in the order of columns and values.
    pub(super) fn subsets(&self, part: Option<Part>) -> Vec<Subset> {
        let whole = self.whole(part);
        let mut subsets = Vec::new();
        for (column, values) in &self.columns {
            let mut of_value: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for &at in &whole.positions {
                of_value.entry(values[at].as_deref().unwrap_or("null")).or_default().push(at);
            }
            let named = of_value.into_iter();
            subsets.extend(named.map(|(value, positions)| Subset { name: format!("{column}={value}"), positions }));
        }
        subsets.insert(0, whole);
        subsets
    }
}

fn ridge(
    store: &Store,
    run: &PartitionName,
    judged: &[PredictionRow],
    console: &Console,
) -> Result<Option<Predictor>, InputError> {
    let path = ridge_path(run);
    let Some(bytes) = store.get_if_exists(&path)? else { return Ok(None) };
    let of_image: HashMap<ImageId, f64> = parse(store, path.clone(), "an object of image ids and scores", &bytes)?;
    let scores: Vec<f64> = judged.iter().filter_map(|row| of_image.get(&row.image_id).copied()).collect();
    if scores.len() == judged.len() {
        return Ok(Some(Predictor { name: "ridge", scores }));
    }
    // Predictors are compared on the same images or not at all. None scored means another dataset: nothing to say.
    if !scores.is_empty() {
        let n_missing = judged.len() - scores.len();
        console.warn(format!("`{path}` lacks {n_missing} of {} images: `ridge` is left out", judged.len()));
    }
    Ok(None)
}

fn no_mos(row: &PredictionRow) -> RejectRow {
    let message = "the image has no MOS to compare its score with; add one and ingest again";
    RejectRow {
        dataset: Some(row.dataset.clone()),
        image_id: Some(row.image_id),
        path: Some(row.name.clone()),
        ..RejectRow::now("no-mos", message)
    }
}

fn unknown_column(dataset: &PartitionName, column: &str, images: &Images) -> InputError {
    let there = images.groupable_columns();
    InputError::UnknownColumn {
        dataset: dataset.clone(),
        column: column.to_owned(),
        hint: super::table::suggestion(column, there.iter().map(String::as_str)),
        there: listed(there.iter().map(String::as_str)),
    }
}

/// Names in backquotes, or `none`.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
