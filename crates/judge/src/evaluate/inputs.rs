//! The inputs of a run's metrics: its scores, joined with the images and the split of the dataset, and its training
//! images.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::error::{EvaluateError, listed};
use super::report::Leakage;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError, part};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::{self, Part, SplitRow};
use agiqa_store::tables::{PartitionName, scores};

/// A table with the hash of its bytes.
#[derive(Clone)]
struct Hashed<T> {
    table: Arc<T>,
    hash: String,
}

/// The tables that the runs of a stage share. Each is read once.
pub(super) struct Tables<'a> {
    store: &'a Store,
    images: HashMap<PartitionName, Hashed<Images>>,
    splits: HashMap<(PartitionName, PartitionName), Hashed<Vec<SplitRow>>>,
}

/// An image that a run has scored.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoredImage {
    /// Row of the image in the dataset's table.
    pub(super) row: usize,
    /// The run's score of the image.
    pub(super) score: f64,
    /// Part of the image in the dataset's split that has the same name as the run's split.
    pub(super) part: Option<Part>,
}

/// A run on a dataset.
pub(super) struct RunInput {
    pub(super) record: Arc<RunRecord>,
    /// Images of the dataset.
    pub(super) images: Arc<Images>,
    /// Images of the run's training dataset.
    pub(super) training_images: Arc<Images>,
    /// Ids of the images in the training part.
    pub(super) training: HashSet<ImageId>,
    /// The scored images, at least one, sorted by id and name.
    pub(super) scored: Vec<ScoredImage>,
    /// Whether the run was trained on the dataset.
    pub(super) is_own: bool,
    /// Fingerprint of all fields above.
    pub(super) fingerprint: Fingerprint,
}

impl<'a> Tables<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, images: HashMap::new(), splits: HashMap::new() }
    }

    fn images(&mut self, dataset: &PartitionName) -> Result<Hashed<Images>, EvaluateError> {
        if let Some(images) = self.images.get(dataset) {
            return Ok(images.clone());
        }
        let mut hasher = blake3::Hasher::new();
        for object in part::list(self.store, &images::prefix(dataset))? {
            hasher.update(&self.store.get(&object.path)?);
        }
        let hash = hasher.finalize().to_string();
        let images = Hashed { table: Arc::new(images::read(self.store, dataset)?), hash };
        self.images.insert(dataset.clone(), images.clone());
        Ok(images)
    }

    fn split(
        &mut self,
        dataset: &PartitionName,
        split: &PartitionName,
    ) -> Result<Hashed<Vec<SplitRow>>, EvaluateError> {
        let key = (dataset.clone(), split.clone());
        if let Some(rows) = self.splits.get(&key) {
            return Ok(rows.clone());
        }
        let hash = content_hash(self.store, &splits::path(dataset, split))?;
        let rows = Hashed { table: Arc::new(splits::read(self.store, dataset, split)?), hash };
        self.splits.insert(key, rows.clone());
        Ok(rows)
    }

    /// The inputs of the metrics of `record`'s run on `dataset`.
    ///
    /// # Errors
    /// Fails if the run has scored no image of the dataset, or if a table is broken.
    pub(super) fn input(&mut self, record: Arc<RunRecord>, dataset: &PartitionName) -> Result<RunInput, EvaluateError> {
        let is_own = record.dataset == *dataset;
        let (images, training_images) = (self.images(dataset)?, self.images(&record.dataset)?);
        let (split, training_split) =
            (self.split(dataset, &record.split)?, self.split(&record.dataset, &record.split)?);
        let is_of_fold = |row: &&SplitRow| !is_own || row.fold == record.fold;
        let part_of: HashMap<ImageId, Part> =
            split.table.iter().filter(is_of_fold).map(|row| (row.image_id, row.part)).collect();
        let is_training = |row: &&SplitRow| row.fold == record.fold && row.part == Part::Train;
        let training = training_split.table.iter().filter(is_training).map(|row| row.image_id).collect();
        let score_of = scores::read_of_run(self.store, &record)?;
        let scored_image = |(row, image): (usize, &ImageRow)| {
            let (score, part) = (*score_of.get(&image.image_id)?, part_of.get(&image.image_id).copied());
            Some(ScoredImage { row, score, part })
        };
        let mut scored: Vec<ScoredImage> = images.table.rows.iter().enumerate().filter_map(scored_image).collect();
        if scored.is_empty() {
            return Err(self.no_scores(&record.run, dataset, &score_of));
        }
        let key = |scored: &ScoredImage| {
            let image = &images.table.rows[scored.row];
            (image.image_id, &image.name)
        };
        scored.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut builder = Fingerprint::builder("scored images");
        builder.json("split", &(&record.dataset, &record.split, record.fold));
        for hash in [&images.hash, &training_images.hash, &split.hash, &training_split.hash] {
            builder.field("table", hash.as_bytes());
        }
        builder.field("ridge", content_hash(self.store, &models::ridge_path(&record.run))?.as_bytes());
        for image in &scored {
            builder.field(&image.row.to_string(), &image.score.to_bits().to_le_bytes());
        }
        let fingerprint = builder.finish();
        let (images, training_images) = (images.table, training_images.table);
        Ok(RunInput { record, images, training_images, training, scored, is_own, fingerprint })
    }

    /// The error for a run that has scored no image of `dataset`. It names the datasets that the run has scored.
    fn no_scores(
        &self,
        run: &PartitionName,
        dataset: &PartitionName,
        score_of: &HashMap<ImageId, f64>,
    ) -> EvaluateError {
        let mut datasets = Vec::new();
        for name in images::datasets(self.store).unwrap_or_default() {
            let mut is_scored = false;
            let look = images::for_each_location(self.store, &name, |id, _| is_scored |= score_of.contains_key(&id));
            datasets.extend((look.is_ok() && is_scored).then(|| name.to_string()));
        }
        let datasets = listed(datasets.iter().map(String::as_str));
        EvaluateError::NoScores { run: run.clone(), dataset: dataset.clone(), datasets }
    }
}

fn content_hash(store: &Store, path: &str) -> Result<String, StoreError> {
    Ok(store.get_if_exists(path)?.map_or_else(|| "absent".to_owned(), |bytes| blake3::hash(&bytes).to_string()))
}

impl RunInput {
    /// The row of the scored image in the dataset's table.
    pub(super) fn image(&self, scored: &ScoredImage) -> &ImageRow {
        &self.images.rows[scored.row]
    }

    /// The number of scored images that can be judged, and the number of scored images that lack a MOS.
    pub(super) fn counts(&self) -> RowCounts {
        let n_out = self.scored.iter().filter(|scored| self.image(scored).mos.is_some()).count() as u64;
        let n_in = self.scored.len() as u64;
        RowCounts { n_in, n_out, n_rejected: n_in - n_out, ..RowCounts::default() }
    }

    /// The number of tested images whose exact prompt also occurs in the training part. `None` if no image has a
    /// prompt.
    pub(super) fn leakage(&self) -> Option<Leakage> {
        let training = self.training_images.rows.iter().filter(|row| self.training.contains(&row.image_id));
        let prompts: HashSet<&str> = training.filter_map(|row| row.prompt.as_deref()).collect();
        let is_tested = |scored: &&ScoredImage| !self.is_own || matches!(scored.part, None | Some(Part::Test));
        let tested = self.scored.iter().filter(is_tested).map(|scored| self.image(scored));
        let shared: Vec<bool> = tested.filter_map(|row| Some(prompts.contains(row.prompt.as_deref()?))).collect();
        let n_shared = shared.iter().filter(|is_shared| **is_shared).count() as u64;
        (!shared.is_empty()).then_some(Leakage { n: shared.len() as u64, n_shared, n_runs: 1 })
    }
}
