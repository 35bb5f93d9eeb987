//! The scores that one scorer gave to the images of a dataset: a run, the mean of a group's runs, or a method.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::evaluate::listed;
use crate::evaluate::trivial::GroupMeans;
use agiqa_store::identity::ImageId;
use agiqa_store::metric::Metric;
use agiqa_store::store::part::PartError;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::metrics::{self, Statistic};
use agiqa_store::tables::models::{RunRecordError, Runs};
use agiqa_store::tables::scores::{self, Direction, ScoreSet};
use agiqa_store::tables::splits::{self, Part};
use agiqa_store::tables::{PartitionName, PartitionNameError};

/// The name that stands for the mean MOS of an image's generator in the training part. It uses no pixels.
pub const GENERATOR_MEAN: &str = "generator-mean";

/// What gives the scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scorer {
    /// A run.
    Run(PartitionName),
    /// The mean over the runs of a group, of images that all of them have scored.
    Group(PartitionName),
    /// A method or a rating, as `name` or `name@fingerprint`, or [`GENERATOR_MEAN`].
    Method(String),
}

/// The scores cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ScorerError {
    /// The dataset is not in the store.
    #[error("store `{url}` has no images of dataset `{dataset}`; the datasets are: {known}; `agiqa ingest` adds one")]
    NoDataset { url: String, dataset: PartitionName, known: String },
    /// The part of the split holds no image.
    #[error("dataset `{dataset}` has no images in part `{part}` of split `{split}`; `agiqa split` adds a split")]
    NoPart { dataset: PartitionName, split: PartitionName, part: Part },
    /// The method has scored nothing.
    #[error("no method `{method}` has scored images in this store; the methods with scores are: {known}")]
    NoMethod { method: String, known: String },
    /// The method has scored under several settings.
    #[error("`{method}` has scored under several settings: choose one of {known}")]
    Ambiguous { method: String, known: String },
    /// The generator's mean needs a training part.
    #[error("`{GENERATOR_MEAN}` is a mean over training images: name a split whose training part has MOS (`--split`)")]
    NoTraining,
    /// No image of the dataset has a score.
    #[error("`{scorer}` has scored no image of dataset `{dataset}`; `agiqa predict` and `agiqa baseline` make scores")]
    NoScores { scorer: PartitionName, dataset: PartitionName },
    /// The name of a method cannot name a table's part.
    #[error(transparent)]
    Name(#[from] PartitionNameError),
    /// A run cannot be read.
    #[error(transparent)]
    Run(#[from] RunRecordError),
    /// A table cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One scorer's scores of all images, whatever their dataset.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Name of the scorer.
    pub scorer: PartitionName,
    /// Score per image. Higher is better: the scores of a method whose lower scores are better have their sign changed.
    pub of_image: HashMap<ImageId, f64>,
    /// Root mean squared error of the scores on the scorer's test part, if it was evaluated.
    pub rmse: Option<f64>,
    /// Smallest and largest MOS of the images that the scorer learned from; none for a method.
    pub scale: Option<RangeInclusive<f64>>,
}

impl Scores {
    /// All scores of `scorer`, which is not [`GENERATOR_MEAN`].
    ///
    /// # Errors
    /// Fails if the scorer does not exist, or if a table is broken.
    pub fn read(store: &Store, scorer: &Scorer, records: &Runs) -> Result<Self, ScorerError> {
        match scorer {
            Scorer::Run(run) => of_runs(store, records, run, std::slice::from_ref(run), Statistic::Value),
            Scorer::Group(group) => of_runs(store, records, group, &records.of_group(store, group)?, Statistic::Mean),
            Scorer::Method(method) if method == GENERATOR_MEAN => Err(ScorerError::NoTraining),
            Scorer::Method(method) => of_method(store, method),
        }
    }

    fn plain(scorer: PartitionName, of_image: HashMap<ImageId, f64>) -> Self {
        Self { scorer, of_image, rmse: None, scale: None }
    }
}

/// Images of a dataset with one scorer's scores.
#[derive(Clone, Debug)]
pub struct ScoredImages {
    /// The dataset's table.
    pub images: Images,
    /// Rows of the images of the part, or of all images.
    pub rows: Vec<usize>,
    /// The scores of these images, and of others.
    pub scores: Arc<Scores>,
}

impl ScoredImages {
    /// The scores that `scorer` gave to the images of `dataset`, to all or to those of a part of a split.
    ///
    /// # Errors
    /// Fails if the dataset, the part or the scorer does not exist, or if the scorer has scored none of the images.
    pub fn read(
        store: &Store,
        dataset: &PartitionName,
        part: Option<&(PartitionName, Part)>,
        scorer: &Scorer,
        records: &Runs,
    ) -> Result<Self, ScorerError> {
        let (images, rows) = rows(store, dataset, part)?;
        let scores = match (scorer, part) {
            (Scorer::Method(method), Some((split, _))) if method == GENERATOR_MEAN => {
                generator_mean(store, dataset, split, &images)?
            }
            _ => Scores::read(store, scorer, records)?,
        };
        Self::joined(dataset, images, rows, Arc::new(scores))
    }

    /// The images of `dataset`, or of a part of a split, with scores that were read before.
    ///
    /// # Errors
    /// Fails if the dataset or the part does not exist, or if none of its images has a score.
    pub fn of(
        store: &Store,
        dataset: &PartitionName,
        part: Option<&(PartitionName, Part)>,
        scores: Arc<Scores>,
    ) -> Result<Self, ScorerError> {
        let (images, rows) = rows(store, dataset, part)?;
        Self::joined(dataset, images, rows, scores)
    }

    /// All images of `dataset`, of which there may be none, with scores that were read before, of which there may be none.
    ///
    /// # Errors
    /// Fails if a table cannot be read.
    pub fn of_all(store: &Store, dataset: &PartitionName, scores: Arc<Scores>) -> Result<Self, PartError> {
        let images = images::read(store, dataset)?;
        Ok(Self { rows: (0..images.rows.len()).collect(), images, scores })
    }

    fn joined(
        dataset: &PartitionName,
        images: Images,
        rows: Vec<usize>,
        scores: Arc<Scores>,
    ) -> Result<Self, ScorerError> {
        if !rows.iter().any(|&row| scores.of_image.contains_key(&images.rows[row].image_id)) {
            return Err(ScorerError::NoScores { scorer: scores.scorer.clone(), dataset: dataset.clone() });
        }
        Ok(Self { images, rows, scores })
    }

    /// The score of each image that has one.
    pub fn all_scores(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().filter_map(|row| self.score(*row))
    }

    /// The score of the image in `row`.
    pub fn score(&self, row: usize) -> Option<f64> {
        self.scores.of_image.get(&self.images.rows[row].image_id).copied()
    }
}

/// The images of `dataset`, and the rows of the images that belong to the part. Without a part, all rows.
fn rows(
    store: &Store,
    dataset: &PartitionName,
    part: Option<&(PartitionName, Part)>,
) -> Result<(Images, Vec<usize>), ScorerError> {
    let images = images::read(store, dataset)?;
    if images.rows.is_empty() {
        return Err(no_dataset(store, dataset)?);
    }
    let mut rows: Vec<usize> = (0..images.rows.len()).collect();
    if let Some((split, part)) = part {
        let assigned = splits::read(store, dataset, split)?.into_iter().filter(|row| row.part == *part);
        let wanted: HashSet<ImageId> = assigned.map(|row| row.image_id).collect();
        rows.retain(|&row| wanted.contains(&images.rows[row].image_id));
        if rows.is_empty() {
            return Err(ScorerError::NoPart { dataset: dataset.clone(), split: split.clone(), part: *part });
        }
    }
    Ok((images, rows))
}

/// The error of a dataset without images.
///
/// # Errors
/// Fails if the store does.
pub fn no_dataset(store: &Store, dataset: &PartitionName) -> Result<ScorerError, StoreError> {
    let known = listed(images::datasets(store)?.iter().map(PartitionName::as_str));
    Ok(ScorerError::NoDataset { url: store.url().to_owned(), dataset: dataset.clone(), known })
}

/// The mean over `runs`, and the error that the metrics of `name` give.
fn of_runs(
    store: &Store,
    records: &Runs,
    name: &PartitionName,
    runs: &[PartitionName],
    statistic: Statistic,
) -> Result<Scores, ScorerError> {
    let mut sums: HashMap<ImageId, (f64, usize)> = HashMap::new();
    for run in runs {
        for (id, score) in scores::read_of_run(store, records.get(store, run)?.as_ref())? {
            let (sum, n) = sums.entry(id).or_default();
            (*sum, *n) = (*sum + score, *n + 1);
        }
    }
    let scale = match runs.first() {
        Some(run) => scale(store, &records.get(store, run)?.dataset)?,
        None => None,
    };
    let of_all = sums.into_iter().filter(|(_, (_, n))| *n == runs.len());
    let of_image = of_all.map(|(id, (sum, n))| (id, sum / n as f64)).collect();
    let is_test = |row: &metrics::MetricsRow| {
        row.statistic == statistic && row.predictor == "model" && row.part == "test" && row.subset == "all"
    };
    let rmse =
        metrics::read(store, name)?.iter().find(|row| is_test(row)).and_then(|row| row.metrics[Metric::RmseRaw].value);
    Ok(Scores { rmse, scale, ..Scores::plain(name.clone(), of_image) })
}

/// Smallest and largest MOS of `dataset`, which a scorer has learned from.
///
/// # Errors
/// Fails if a table cannot be read.
pub fn scale(store: &Store, dataset: &PartitionName) -> Result<Option<RangeInclusive<f64>>, PartError> {
    Ok(range(images::mos(store, dataset)?.into_iter()))
}

/// Smallest and largest of `values`.
pub fn range(values: impl Iterator<Item = f64>) -> Option<RangeInclusive<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    (low <= high).then_some(low..=high)
}

fn of_method(store: &Store, method: &str) -> Result<Scores, ScorerError> {
    let (name, fingerprint) = method.split_once('@').unwrap_or((method, ""));
    let sets = ScoreSet::list(store)?;
    let full_name = |set: &ScoreSet| format!("{}@{}", set.scorer, set.fingerprint.short());
    let is_meant = |set: &&ScoreSet| set.scorer.as_str() == name && set.fingerprint.short().starts_with(fingerprint);
    let meant: Vec<&ScoreSet> = sets.iter().filter(is_meant).collect();
    let names = |sets: &[&ScoreSet], name: &dyn Fn(&ScoreSet) -> String| {
        listed(sets.iter().map(|set| name(set)).collect::<Vec<_>>().iter().map(String::as_str))
    };
    match meant.as_slice() {
        [] => {
            let known = names(&sets.iter().collect::<Vec<_>>(), &|set| set.scorer.to_string());
            Err(ScorerError::NoMethod { method: method.to_owned(), known })
        }
        [set] => {
            let ascending = |(id, score)| (id, Direction::ascending(set.direction, score));
            Ok(Scores::plain(set.scorer.clone(), set.read(store)?.into_iter().map(ascending).collect()))
        }
        several => Err(ScorerError::Ambiguous { method: method.to_owned(), known: names(several, &full_name) }),
    }
}

fn generator_mean(
    store: &Store,
    dataset: &PartitionName,
    split: &PartitionName,
    images: &Images,
) -> Result<Scores, ScorerError> {
    let assigned = splits::read(store, dataset, split)?.into_iter().filter(|row| row.part == Part::Train);
    let training: HashSet<ImageId> = assigned.map(|row| row.image_id).collect();
    let learned = images.rows.iter().filter(|row| training.contains(&row.image_id));
    let means = GroupMeans::of(learned.filter_map(|row| Some((row.generator.as_deref(), row.mos?))));
    let means = means.ok_or(ScorerError::NoTraining)?;
    let of_image = images.rows.iter().map(|row| (row.image_id, means.predict(row.generator.as_deref()))).collect();
    Ok(Scores::plain(PartitionName::new(GENERATOR_MEAN)?, of_image))
}
