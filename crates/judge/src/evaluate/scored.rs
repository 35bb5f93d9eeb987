//! The judged images of one run: predictions joined with images, and the predictors that they are compared with.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::{EvaluateError, listed};
use super::report::Leakage;
use super::runs::{RunInfo, parse, read_predictions};
use super::trivial::GroupMeans;
use agiqa_store::console::Console;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::models;
use agiqa_store::tables::predictions::PredictionRow;
use agiqa_store::tables::rejects::RejectRow;
use agiqa_store::tables::splits::{self, Part};

/// The column of an image that a trivial predictor groups by.
type GroupOf = fn(&images::ImageRow) -> Option<&str>;

/// A run's training images: the table they are in and which of its rows are in the training part.
struct Training {
    info: RunInfo,
    images: Images,
    is_training: Vec<bool>,
}

impl Training {
    fn read(store: &Store, run: &PartitionName) -> Result<Self, EvaluateError> {
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
            return Err(EvaluateError::NoTraining { run: run.clone(), dataset, split, fold });
        }
        Ok(Self { info, images, is_training })
    }

    /// Mean MOS per value of the column that `group` gives.
    fn means(&self, group: GroupOf) -> Option<GroupMeans> {
        let rows = self.images.rows.iter().zip(&self.is_training).filter(|(_, is_training)| **is_training);
        GroupMeans::of(rows.filter_map(|(row, _)| Some((group(row), row.mos?))))
    }

    /// Images of the evaluated dataset: its own table, or the training one where it is the same.
    fn images_of(&self, store: &Store, dataset: &PartitionName) -> Result<Images, EvaluateError> {
        Ok(if self.info.dataset == *dataset { self.images.clone() } else { images::read(store, dataset)? })
    }
}

/// How many of the images that `run` is tested on share their exact prompt with one of its training images. None where
/// no image has a prompt.
pub(super) fn leakage(
    store: &Store,
    run: &PartitionName,
    dataset: &PartitionName,
) -> Result<Option<Leakage>, EvaluateError> {
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
    /// Of another dataset than the run's own: the part in the split of that dataset that has the name of the run's.
    parts: Vec<Option<Part>>,
    /// Whether it is the dataset that the run was trained on.
    is_own: bool,
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
    ) -> Result<Self, EvaluateError> {
        let training = Training::read(store, run)?;
        let images = training.images_of(store, dataset)?;
        let (judged, unjudged): (Vec<_>, Vec<_>) =
            read_predictions(store, run, dataset)?.into_iter().partition(|row| row.mos.is_some());
        if judged.is_empty() {
            return Err(EvaluateError::NoMos { run: run.clone(), dataset: dataset.clone(), n: unjudged.len() });
        }
        let row_of: HashMap<ImageId, usize> =
            images.rows.iter().enumerate().map(|(index, row)| (row.image_id, index)).collect();
        let mut at = Vec::with_capacity(judged.len());
        for row in &judged {
            at.push(*row_of.get(&row.image_id).ok_or_else(|| EvaluateError::ImageGone {
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
        let groupings: [(_, GroupOf); 2] =
            [("generator-mean", |row| row.generator.as_deref()), ("prompt-mean", |row| row.prompt.as_deref())];
        for (name, group) in groupings {
            // Without any group every image gets the same number, which predicts nothing and says nothing.
            if let Some(means) = training.means(group).filter(GroupMeans::has_groups) {
                let scores = at.iter().map(|&row| means.predict(group(&images.rows[row]))).collect();
                predictors.push(Predictor { name, scores });
            }
        }
        let is_own = training.info.dataset == *dataset;
        let parts = if is_own {
            judged.iter().map(|row| row.part).collect()
        } else {
            let assigned = splits::read(store, dataset, &training.info.split)?;
            let part_of: HashMap<ImageId, Part> = assigned.into_iter().map(|row| (row.image_id, row.part)).collect();
            judged.iter().map(|row| part_of.get(&row.image_id).copied()).collect()
        };
        Ok(Self {
            parts,
            is_own,
            mos: judged.iter().filter_map(|row| row.mos).collect(),
            predictors,
            columns,
            rejects: unjudged.iter().map(no_mos).collect(),
        })
    }

    /// Parts that hold images; none stands for those of no part, or for all of another dataset than the run's own.
    pub(super) fn parts(&self) -> Vec<Option<Part>> {
        let all = Part::ALL.into_iter().map(Some).chain([None]);
        all.filter(|part| self.parts.contains(part) || (part.is_none() && !self.is_own)).collect()
    }

    /// All images of `part`.
    pub(super) fn whole(&self, part: Option<Part>) -> Subset {
        let is_all = part.is_none() && !self.is_own;
        let positions = (0..self.parts.len()).filter(|&at| is_all || self.parts[at] == part).collect();
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
) -> Result<Option<Predictor>, EvaluateError> {
    let path = models::ridge_path(run);
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

fn unknown_column(dataset: &PartitionName, column: &str, images: &Images) -> EvaluateError {
    let there = images.groupable_columns();
    EvaluateError::UnknownColumn {
        dataset: dataset.clone(),
        column: column.to_owned(),
        hint: super::table::suggestion(column, there.iter().map(String::as_str)),
        there: listed(there.iter().map(String::as_str)),
    }
}
