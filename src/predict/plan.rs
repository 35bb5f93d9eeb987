//! The work of the stage: the wanted images without the scored images and without the images that cannot be scored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::stage::{PredictError, Unready};
use crate::engine::is_of_share;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::features::{FeatureIndex, FeatureSet};
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::scores::ScoreSet;
use agiqa_store::tables::{PartitionName, images};

/// Kind of a reject without features.
const NO_FEATURES: &str = "no-features";

/// Kind of a reject with an infinite or NaN score.
const NOT_FINITE: &str = "score-not-finite";

/// A row of a dataset's `images` table.
struct Image {
    id: ImageId,
    path: String,
}

/// The images of a dataset.
struct Wanted {
    dataset: PartitionName,
    images: Vec<Image>,
}

/// The semantic and the quality features that a run reads.
pub(super) struct RunFeatures {
    pub(super) semantic: FeatureSet,
    pub(super) quality: FeatureSet,
    /// Where the rows of both lie.
    pub(super) indexes: [FeatureIndex; 2],
}

impl RunFeatures {
    /// Where `image`'s row of the semantic features lies, if it has both.
    pub(super) fn place(&self, image: &ImageId) -> Option<(u32, u32)> {
        let [semantic, quality] = &self.indexes;
        quality.place(image).and_then(|_| semantic.place(image))
    }
}

/// Tables that several runs share. Each is read once.
pub(super) struct Shared<'a> {
    store: &'a Store,
    images: HashMap<PartitionName, Arc<Wanted>>,
    features: HashMap<[Fingerprint; 2], Arc<RunFeatures>>,
    rejects: Vec<RejectRow>,
    /// The share of the images, by their address.
    shard: Shard,
    unready: Unready,
}

/// The wanted images of one run, and the state of each.
pub(super) struct RunPlan {
    pub(super) record: Arc<RunRecord>,
    pub(super) features: Arc<RunFeatures>,
    pub(super) set: ScoreSet,
    wanted: Vec<Arc<Wanted>>,
    /// Images that had a score before this run of the stage.
    cached: HashSet<ImageId>,
    /// Images that this run of the stage scored.
    pub(super) scored: HashSet<ImageId>,
    /// Images whose score is not finite.
    pub(super) not_finite: HashSet<ImageId>,
    /// Per dataset, the stored rejects: image and kind.
    on_record: HashMap<PartitionName, BTreeSet<(ImageId, String)>>,
    shard: Shard,
}

impl<'a> Shared<'a> {
    pub(super) fn new(store: &'a Store, shard: Shard, unready: Unready) -> Result<Self, PredictError> {
        let rejects = rejects::read(store, "predict")?;
        Ok(Self { store, images: HashMap::new(), features: HashMap::new(), rejects, shard, unready })
    }

    fn wanted(&mut self, dataset: &PartitionName) -> Result<Arc<Wanted>, PredictError> {
        if let Some(wanted) = self.images.get(dataset) {
            return Ok(wanted.clone());
        }
        let mut images = Vec::new();
        let shard = self.shard;
        images::for_each_location(self.store, dataset, |id, path| {
            images.extend(is_of_share(shard, path).then(|| Image { id, path: path.to_owned() }));
        })?;
        if images.is_empty() && self.unready == Unready::Refused {
            return Err(PredictError::NoImages(dataset.clone()));
        }
        let wanted = Arc::new(Wanted { dataset: dataset.clone(), images });
        self.images.insert(dataset.clone(), wanted.clone());
        Ok(wanted)
    }

    fn features(&mut self, record: &RunRecord) -> Result<Arc<RunFeatures>, PredictError> {
        let (Some(semantic), Some(quality)) = (record.semantic(), record.quality()) else {
            let (run, recipe) = (record.run.clone(), record.recipe.clone());
            return Err(PredictError::NoHead { run, recipe });
        };
        let key = [semantic.fingerprint, quality.fingerprint];
        if let Some(features) = self.features.get(&key) {
            return Ok(features.clone());
        }
        let indexes = [semantic.index(self.store, |_| true)?, quality.index(self.store, |_| true)?];
        let (semantic, quality) = (semantic.clone(), quality.clone());
        let features = Arc::new(RunFeatures { semantic, quality, indexes });
        self.features.insert(key, features.clone());
        Ok(features)
    }

    /// The plan to score `datasets` with `record`'s run. If `datasets` is empty, the plan is for the run's own dataset.
    pub(super) fn plan(&mut self, record: Arc<RunRecord>, datasets: &[PartitionName]) -> Result<RunPlan, PredictError> {
        let own = std::slice::from_ref(&record.dataset);
        let datasets = if datasets.is_empty() { own } else { datasets };
        let wanted = datasets.iter().map(|dataset| self.wanted(dataset)).collect::<Result<Vec<_>, _>>()?;
        let features = self.features(&record)?;
        let set = ScoreSet::of_run(&record);
        let fingerprint = set.fingerprint.to_string();
        let (mut not_finite, mut on_record) = (HashSet::new(), HashMap::<_, BTreeSet<_>>::new());
        for row in self.rejects.iter().filter(|row| row.fingerprint.as_ref() == Some(&fingerprint)) {
            let (Some(id), Some(dataset)) = (row.image_id, &row.dataset) else { continue };
            not_finite.extend((row.kind == NOT_FINITE).then_some(id));
            on_record.entry(dataset.parse()?).or_default().insert((id, row.kind.clone()));
        }
        let cached = set.done(self.store)?;
        let (scored, shard) = (HashSet::new(), self.shard);
        Ok(RunPlan { record, features, set, wanted, cached, scored, not_finite, on_record, shard })
    }
}

/// State of an image.
#[derive(PartialEq)]
enum State {
    /// It had a score before this run of the stage.
    Cached,
    /// This run of the stage scored it.
    Scored,
    /// It cannot be scored. The value is the kind of reject.
    Rejected(&'static str),
    /// It must still be scored.
    Lacking,
}

impl RunPlan {
    fn state(&self, image: &Image) -> State {
        let id = &image.id;
        if self.cached.contains(id) {
            State::Cached
        } else if self.scored.contains(id) {
            State::Scored
        } else if self.features.place(id).is_none() {
            State::Rejected(NO_FEATURES)
        } else if self.not_finite.contains(id) {
            State::Rejected(NOT_FINITE)
        } else {
            State::Lacking
        }
    }

    /// The images to score.
    pub(super) fn lacking(&self) -> HashSet<ImageId> {
        let images = self.wanted.iter().flat_map(|wanted| &wanted.images);
        images.filter(|image| self.state(image) == State::Lacking).map(|image| image.id).collect()
    }

    /// The counts of the wanted rows. An image in two rows counts as two.
    pub(super) fn rows(&self) -> RowCounts {
        let mut rows = RowCounts::default();
        for image in self.wanted.iter().flat_map(|wanted| &wanted.images) {
            let state = self.state(image);
            rows.n_in += 1;
            rows.n_out += u64::from(matches!(state, State::Cached | State::Scored));
            rows.n_cached += u64::from(state == State::Cached);
            rows.n_rejected += u64::from(matches!(state, State::Rejected(_)));
            rows.n_left += u64::from(state == State::Lacking);
        }
        rows
    }

    fn rejected<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = (&'a Image, &'static str)> {
        wanted.images.iter().filter_map(|image| match self.state(image) {
            State::Rejected(kind) => Some((image, kind)),
            State::Cached | State::Scored | State::Lacking => None,
        })
    }

    /// Whether the stored rejects differ from the rejects of the current images and features.
    pub(super) fn has_stale_rejects(&self) -> bool {
        self.wanted.iter().any(|wanted| {
            let rejected = self.rejected(wanted).map(|(image, kind)| (image.id, kind.to_owned()));
            self.on_record.get(&wanted.dataset).cloned().unwrap_or_default() != rejected.collect()
        })
    }

    /// Replaces the stored rejects of each dataset.
    pub(super) fn write_rejects(&self, store: &Store) -> Result<(), PredictError> {
        for wanted in &self.wanted {
            let reject = |(image, kind)| self.reject(&wanted.dataset, image, kind);
            let rows: Vec<RejectRow> = self.rejected(wanted).map(reject).collect();
            let share = match self.shard {
                Shard::WHOLE => String::new(),
                // Each share has its own rejects.
                shard => format!("{}-", shard.in_names()),
            };
            let of = format!("{share}{}", self.record.run);
            rejects::replace(store, "predict", &rejects::name_of(&wanted.dataset, of)?, &rows)?;
        }
        Ok(())
    }

    fn reject(&self, dataset: &PartitionName, image: &Image, kind: &str) -> RejectRow {
        let message = match kind {
            NOT_FINITE => "the head's score overflows",
            _ => "semantic or quality features are missing; run `agiqa features`",
        };
        RejectRow {
            dataset: Some(dataset.to_string()),
            image_id: Some(image.id),
            path: Some(image.path.clone()),
            fingerprint: Some(self.set.fingerprint.to_string()),
            ..RejectRow::now(kind, format!("run `{}`: {message}", self.record.run))
        }
    }
}
