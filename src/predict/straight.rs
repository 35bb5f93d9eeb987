//! Extractors and heads in one pass, as a guest of the engine: an image's features are never stored.
//!
//! Output: `scores` and `gates` of the runs, the same as those of `predict` over stored features, and `rejects` of stage
//! `score`.

use std::rc::Rc;
use std::sync::Arc;

use tch::Tensor;

use super::head::Head;
use super::together::Together;
use crate::engine::{
    Batch, Frame, Guest, GuestError, GuestSettings, GuestWords, ImageStage, Launched, Loaded, Network, Output,
    OutputRows, Score, Task, Work,
};
use crate::features::{FeatureSettings, JoinStage, resolve};
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::scores::ScoreSet;

/// Scores the images of one source by some runs, if the store lacks a score. Stores no features.
pub type StraightStage = ImageStage<StraightSettings>;

/// The extractors and the runs.
#[derive(Clone)]
pub struct StraightSettings {
    /// The extractors, at least one. Together they compute all features that the runs read.
    pub extractors: Vec<FeatureSettings>,
    /// Joins of features of several of them.
    pub joins: Vec<JoinStage>,
    /// The runs, at least one.
    pub records: Vec<Arc<RunRecord>>,
    /// The store that holds their heads.
    pub store: Store,
}

/// A run reads features that the extractors do not compute.
#[derive(Debug, thiserror::Error)]
#[error(
    "run `{run}` reads features that these extractors do not compute, so they must be kept: leave `--features drop` out"
)]
pub struct StraightError {
    /// The run.
    pub run: PartitionName,
}

/// A column of a set that an extractor fills, by the positions of both.
type Place = (usize, usize);

/// A set that heads may read. Each of its columns is made of one column of an extractor or joins several.
#[derive(Clone)]
struct Available {
    set: FeatureSet,
    columns: Vec<Vec<Place>>,
}

struct StraightGuest {
    settings: StraightSettings,
    /// The sets that each extractor fills.
    filled: Vec<Vec<FeatureSet>>,
    available: Vec<Available>,
}

impl StraightGuest {
    fn new(settings: &StraightSettings) -> Result<Self, GuestError> {
        let mut filled: Vec<Vec<FeatureSet>> = Vec::new();
        for extractor in &settings.extractors {
            filled.push(resolve(extractor)?.feature_sets().iter().cloned().collect());
        }
        let own = |(at, set): (usize, &FeatureSet)| Available {
            set: set.clone(),
            columns: (0..set.columns.len()).map(|column| vec![(at, column)]).collect(),
        };
        let sets: Vec<&FeatureSet> = filled.iter().flatten().collect();
        let mut available: Vec<Available> = sets.iter().copied().enumerate().map(own).collect();
        for join in &settings.joins {
            let place = |(set, column): (&FeatureSet, usize)| {
                Some((sets.iter().position(|own| own.fingerprint == set.fingerprint && own.kind == set.kind)?, column))
            };
            let places: Option<Vec<Place>> = join.sources().map(place).collect();
            available.extend(places.map(|places| Available { set: join.joined().clone(), columns: vec![places] }));
        }
        let guest = Self { settings: settings.clone(), filled, available };
        settings.records.iter().try_for_each(|record| guest.inputs_of(record).map(|_| ()))?;
        Ok(guest)
    }

    /// The semantic and the quality set that `record`'s run reads.
    fn inputs_of(&self, record: &RunRecord) -> Result<[&FeatureSet; 2], StraightError> {
        let find = |wanted: &FeatureSet| {
            let is_it = |set: &&FeatureSet| set.fingerprint == wanted.fingerprint && set.kind == wanted.kind;
            self.available.iter().map(|available| &available.set).find(is_it)
        };
        let semantic = record.semantic().and_then(find);
        let both = semantic.zip(record.quality().and_then(find));
        both.map(|(semantic, quality)| [semantic, quality]).ok_or_else(|| StraightError { run: record.run.clone() })
    }
}

impl Guest for StraightGuest {
    fn tasks(&self) -> Vec<Task> {
        let output = |record: &Arc<RunRecord>| Output::Scores(ScoreSet::of_run(record));
        let outputs = self.settings.records.iter().map(output).collect();
        vec![Task { name: self.settings.words().title, outputs }]
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        let mut heads = Vec::new();
        for record in &self.settings.records {
            let [semantic, quality] = self.inputs_of(record)?;
            heads.push(Head::read(record, semantic, quality, &self.settings.store)?);
        }
        let heads =
            Rc::new(Heads { n_sets: self.filled.iter().flatten().count(), available: self.available.clone(), heads });
        let mut loaded = Vec::new();
        for (extractor, sets) in self.settings.extractors.iter().zip(&self.filled) {
            loaded.push((GuestSettings::resolve(extractor)?.load()?, sets.clone()));
        }
        let network: Box<dyn Network> = match loaded.pop() {
            // One network alone has the inputs that it makes itself.
            Some((Loaded::Network(network), _)) if loaded.is_empty() => network,
            last => Box::new(Together::new(loaded.into_iter().chain(last).collect())),
        };
        Ok(Loaded::Network(Box::new(StraightNetwork { network, heads })))
    }
}

/// A network with heads behind it.
struct StraightNetwork {
    network: Box<dyn Network>,
    heads: Rc<Heads>,
}

/// The heads behind a network.
struct Heads {
    /// Number of sets that the network fills.
    n_sets: usize,
    /// The sets that the heads may read. The first are those that the network fills, in its order.
    available: Vec<Available>,
    /// The heads, each with the columns that it reads.
    heads: Vec<(Head, Vec<FeatureSet>)>,
}

impl Heads {
    /// The columns of `wanted`, `(n, d)` each, of the network's rows.
    fn inputs(&self, rows: &[OutputRows], wanted: &[FeatureSet], n_images: usize) -> Vec<Tensor> {
        let mut inputs = Vec::new();
        for set in wanted {
            let is_it = |own: &&Available| own.set.fingerprint == set.fingerprint && own.set.kind == set.kind;
            let Some(own) = self.available.iter().find(is_it) else {
                unreachable!("heads are read over the sets that are available")
            };
            for column in &set.columns {
                let at = own.set.columns.iter().position(|own| own.name == column.name);
                let places = at.map_or(&[][..], |at| &own.columns[at]);
                let part = |&(set, column): &Place| {
                    let dim = self.available[set].set.columns[column].dim;
                    let OutputRows::Vectors { columns, .. } = &rows[set] else {
                        unreachable!("extractors give vectors")
                    };
                    Tensor::from_slice(&columns[column][..n_images * dim]).view([n_images as i64, dim as i64])
                };
                inputs.push(Tensor::cat(&places.iter().map(part).collect::<Vec<_>>(), 1));
            }
        }
        inputs
    }

    /// The scores by each head, from the network's rows.
    fn scores(&self, rows: Vec<OutputRows>, n_images: usize) -> Result<Vec<OutputRows>, tch::TchError> {
        // An image with a feature that is not finite has no score: the engine rejects a score that is not finite.
        let is_finite: Vec<bool> = (0..n_images).map(|image| self.is_finite(&rows, image)).collect();
        let score = |(head, wanted): &(Head, Vec<FeatureSet>)| {
            let mut scores = head.score(&self.inputs(&rows, wanted, n_images), 1)?;
            for (score, is_finite) in scores.iter_mut().zip(&is_finite) {
                if !is_finite {
                    *score = Score::from(f64::NAN);
                }
            }
            Ok(OutputRows::Scores(scores))
        };
        self.heads.iter().map(score).collect()
    }

    fn is_finite(&self, rows: &[OutputRows], image: usize) -> bool {
        rows.iter().zip(&self.available[..self.n_sets]).all(|(rows, own)| match rows {
            OutputRows::Vectors { columns, .. } => columns.iter().zip(&own.set.columns).all(|(values, column)| {
                values[image * column.dim..][..column.dim].iter().all(|value| value.is_finite())
            }),
            OutputRows::Scores(_) => true,
        })
    }
}

impl Network for StraightNetwork {
    fn frame(&self) -> &Frame {
        self.network.frame()
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let rows = self.network.launch(batch)?;
        let (heads, n_images) = (Rc::clone(&self.heads), batch.n_images());
        Ok(Box::new(move || Ok(heads.scores(rows()?, n_images)?)))
    }
}

impl GuestSettings for StraightSettings {
    fn words(&self) -> GuestWords {
        let title = match self.records.as_slice() {
            [record] => format!("score {}", record.run),
            records => format!("score {} runs", records.len()),
        };
        let words = GuestSettings::words(&self.extractors[0]);
        GuestWords { stage: "score", title, done: "images have scores", lacking: "images lack scores", ..words }
    }

    fn work(&self) -> Work {
        GuestSettings::work(&self.extractors[0])
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(StraightGuest::new(self)?))
    }
}
