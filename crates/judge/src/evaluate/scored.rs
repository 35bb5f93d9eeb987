//! The judged images of one run, with the predictors for comparison.

use std::collections::{BTreeMap, HashMap};

use super::error::{EvaluateError, listed};
use super::inputs::{RunInput, ScoredImage};
use super::trivial::GroupMeans;
use agiqa_store::console::Console;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::{ImageRow, Images};
use agiqa_store::tables::models;
use agiqa_store::tables::rejects::RejectRow;
use agiqa_store::tables::splits::Part;

/// The column of an image that a trivial predictor groups by.
type GroupOf = fn(&ImageRow) -> Option<&str>;

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

/// The judged images of one run, with all inputs of the metrics.
pub(super) struct Scored {
    /// Part of each image. On another dataset than the run's own, the part comes from the split with the same name
    /// there.
    parts: Vec<Option<Part>>,
    /// Whether the run was trained on this dataset.
    is_own: bool,
    pub(super) mos: Vec<f64>,
    pub(super) predictors: Vec<Predictor>,
    /// Columns that form subsets, with one value per image.
    columns: Vec<(String, Vec<Option<String>>)>,
    /// Images without MOS.
    pub(super) rejects: Vec<RejectRow>,
}

impl Scored {
    /// The images of `input` that have a MOS, with the columns `by` for subsets.
    ///
    /// # Errors
    /// Fails if no image has a MOS, if no training image has a MOS, or if a column does not exist.
    pub(super) fn new(
        input: &RunInput,
        dataset: &PartitionName,
        by: &[String],
        store: &Store,
        console: &Console,
    ) -> Result<Self, EvaluateError> {
        let record = &input.record;
        let (judged, unjudged): (Vec<&ScoredImage>, Vec<&ScoredImage>) =
            input.scored.iter().partition(|scored| input.image(scored).mos.is_some());
        if judged.is_empty() {
            let (run, n) = (record.run.clone(), unjudged.len());
            return Err(EvaluateError::NoMos { run, dataset: dataset.clone(), n });
        }
        let is_training = |row: &&ImageRow| input.training.contains(&row.image_id);
        let training: Vec<&ImageRow> = input.training_images.rows.iter().filter(is_training).collect();
        if training.iter().all(|row| row.mos.is_none()) {
            let (run, dataset) = (record.run.clone(), record.dataset.clone());
            return Err(EvaluateError::NoTraining { run, dataset, split: record.split.clone(), fold: record.fold });
        }
        let mut columns = Vec::with_capacity(by.len());
        for column in by {
            let values =
                input.images.column_text(column).ok_or_else(|| unknown_column(dataset, column, &input.images))?;
            columns.push((column.clone(), judged.iter().map(|scored| values[scored.row].clone()).collect()));
        }
        let rows: Vec<&ImageRow> = judged.iter().map(|scored| input.image(scored)).collect();
        let model = Predictor { name: "model", scores: judged.iter().map(|scored| scored.score).collect() };
        let mut predictors = vec![model];
        predictors.extend(ridge(store, &record.run, &rows, console)?);
        let groupings: [(_, GroupOf); 2] =
            [("generator-mean", |row| row.generator.as_deref()), ("prompt-mean", |row| row.prompt.as_deref())];
        for (name, group) in groupings {
            let means = GroupMeans::of(training.iter().filter_map(|row| Some((group(row), row.mos?))));
            // Without any group, every image gets the same number. Such a predictor carries no information.
            if let Some(means) = means.filter(GroupMeans::has_groups) {
                let scores = rows.iter().map(|row| means.predict(group(row))).collect();
                predictors.push(Predictor { name, scores });
            }
        }
        Ok(Self {
            parts: judged.iter().map(|scored| scored.part).collect(),
            is_own: input.is_own,
            mos: rows.iter().filter_map(|row| row.mos).collect(),
            predictors,
            columns,
            rejects: unjudged.iter().map(|scored| no_mos(dataset, input.image(scored))).collect(),
        })
    }

    /// Parts that hold images. `None` stands for images without a part, or for all images of another dataset than the
    /// run's own.
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

    /// All images of `part`, then one subset per value of each column, in the order of columns and values.
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
    judged: &[&ImageRow],
    console: &Console,
) -> Result<Option<Predictor>, EvaluateError> {
    let path = models::ridge_path(run);
    let Some(bytes) = store.get_if_exists(&path)? else { return Ok(None) };
    let of_image: HashMap<ImageId, f64> = serde_json::from_slice(&bytes).map_err(|source| {
        let (path, url) = (path.clone(), store.url().to_owned());
        EvaluateError::Ridge { path, url, source }
    })?;
    let scores: Vec<f64> = judged.iter().filter_map(|row| of_image.get(&row.image_id).copied()).collect();
    if scores.len() == judged.len() {
        return Ok(Some(Predictor { name: "ridge", scores }));
    }
    // Predictors must be compared on the same images. If no image has a ridge score, the dataset is a different one,
    // and no warning is needed.
    if !scores.is_empty() {
        let n_missing = judged.len() - scores.len();
        console.warn(format!("`{path}` lacks {n_missing} of {} images: `ridge` is left out", judged.len()));
    }
    Ok(None)
}

fn no_mos(dataset: &PartitionName, image: &ImageRow) -> RejectRow {
    let message = "the image has no MOS to compare its score with; add one and ingest again";
    RejectRow {
        dataset: Some(dataset.to_string()),
        image_id: Some(image.image_id),
        path: Some(image.name.clone()),
        ..RejectRow::now("no-mos", message)
    }
}

fn unknown_column(dataset: &PartitionName, column: &str, images: &Images) -> EvaluateError {
    let available = images.groupable_columns();
    EvaluateError::UnknownColumn {
        dataset: dataset.clone(),
        column: column.to_owned(),
        hint: super::table::suggestion(column, available.iter().map(String::as_str)),
        available: listed(available.iter().map(String::as_str)),
    }
}
