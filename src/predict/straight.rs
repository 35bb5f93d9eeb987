//! Extractor and heads in one pass, as a guest of the engine: an image's features are never stored.
//!
//! Output: `scores` and `gates` of the runs, the same as those of `predict` over stored features, and `rejects` of stage
//! `score`.

use std::rc::Rc;
use std::sync::Arc;

use tch::Tensor;

use super::head::Head;
use super::stage::PredictError;
use crate::engine::{
    Batch, Frame, Guest, GuestError, GuestSettings, GuestWords, ImageStage, Launched, Loaded, Network, Output,
    OutputRows, Score, Task, Work,
};
use crate::features::{FeatureSets, FeatureSettings, resolve};
use agiqa_store::store::Store;
use agiqa_store::tables::features::{FeatureKind, FeatureSet};
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::scores::ScoreSet;

/// Scores the images of one source by some runs, if the store lacks a score. Stores no features.
pub type StraightStage = ImageStage<StraightSettings>;

/// The extractor and the runs.
#[derive(Clone)]
pub struct StraightSettings {
    /// The extractor. It computes all features that the runs read.
    pub extractor: FeatureSettings,
    /// The runs, at least one.
    pub records: Vec<Arc<RunRecord>>,
    /// The store that holds their heads.
    pub store: Store,
}

/// Features cannot be scored as they are computed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum StraightError {
    /// The extractor does not fill both tables, or has no network.
    #[error(
        "extractor `{0}` alone does not compute the features that the run reads, so they must be kept: leave \
         `--features drop` out"
    )]
    NotAlone(String),
    /// The scores cannot be computed.
    #[error(transparent)]
    Predict(#[from] PredictError),
}

struct StraightGuest {
    settings: StraightSettings,
    sets: FeatureSets,
}

impl StraightGuest {
    fn of(&self, kind: FeatureKind) -> Result<&FeatureSet, StraightError> {
        self.sets.of(kind).ok_or_else(|| StraightError::NotAlone(self.settings.extractor.network.name().to_string()))
    }
}

impl Guest for StraightGuest {
    fn tasks(&self) -> Vec<Task> {
        let output = |record: &Arc<RunRecord>| Output::Scores(ScoreSet::of_run(record));
        let outputs = self.settings.records.iter().map(output).collect();
        vec![Task { name: self.settings.words().title, outputs }]
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        let (semantic, quality) = (self.of(FeatureKind::Semantic)?, self.of(FeatureKind::Quality)?);
        let read = |record: &Arc<RunRecord>| Head::read(record, semantic, quality, &self.settings.store);
        let heads = self.settings.records.iter().map(read).collect::<Result<Vec<_>, PredictError>>()?;
        let guest = GuestSettings::resolve(&self.settings.extractor)?;
        match guest.load()? {
            Loaded::Network(network) => {
                let sets = self.sets.iter().cloned().collect();
                Ok(Loaded::Network(Box::new(StraightNetwork { network, heads: Rc::new(Heads { sets, heads }) })))
            }
            Loaded::PerImage(_) => {
                Err(StraightError::NotAlone(self.settings.extractor.network.name().to_string()).into())
            }
        }
    }
}

/// A network with heads behind it.
struct StraightNetwork {
    network: Box<dyn Network>,
    heads: Rc<Heads>,
}

/// The heads behind a network.
struct Heads {
    /// The sets that the network fills, in its order.
    sets: Vec<FeatureSet>,
    /// The heads, each with the columns that it reads.
    heads: Vec<(Head, Vec<FeatureSet>)>,
}

impl Heads {
    /// The columns of `wanted` among the network's rows, `(n, d)` each.
    fn inputs(&self, rows: &[OutputRows], wanted: &[FeatureSet], n_images: usize) -> Vec<Tensor> {
        let mut inputs = Vec::new();
        for set in wanted {
            let position = self.sets.iter().position(|own| own.fingerprint == set.fingerprint);
            let Some((own, OutputRows::Vectors { columns, .. })) = position.map(|at| (&self.sets[at], &rows[at]))
            else {
                unreachable!("heads are read over the sets of this extractor, which are vectors")
            };
            for column in &set.columns {
                let at = own.columns.iter().position(|own| own.name == column.name);
                let values = at.map_or(&[][..], |at| &columns[at][..n_images * column.dim]);
                inputs.push(Tensor::from_slice(values).view([n_images as i64, column.dim as i64]));
            }
        }
        inputs
    }

    /// The scores by each head, from the network's rows.
    fn scores(&self, mut rows: Vec<OutputRows>, n_images: usize) -> Result<Vec<OutputRows>, tch::TchError> {
        // An image with a feature that is not finite has no score: the engine rejects a score that is not finite.
        let is_finite: Vec<bool> = (0..n_images).map(|image| is_finite(&rows, &self.sets, image)).collect();
        rows.truncate(self.sets.len());
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

fn is_finite(rows: &[OutputRows], sets: &[FeatureSet], image: usize) -> bool {
    rows.iter().zip(sets).all(|(rows, set)| match rows {
        OutputRows::Vectors { columns, .. } => columns
            .iter()
            .zip(&set.columns)
            .all(|(values, column)| values[image * column.dim..][..column.dim].iter().all(|value| value.is_finite())),
        OutputRows::Scores(_) => true,
    })
}

impl GuestSettings for StraightSettings {
    fn words(&self) -> GuestWords {
        let title = match self.records.as_slice() {
            [record] => format!("score {}", record.run),
            records => format!("score {} runs", records.len()),
        };
        let words = GuestSettings::words(&self.extractor);
        GuestWords { stage: "score", title, done: "images have scores", lacking: "images lack scores", ..words }
    }

    fn work(&self) -> Work {
        GuestSettings::work(&self.extractor)
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        let sets = resolve(&self.extractor)?.feature_sets();
        let guest = StraightGuest { settings: self.clone(), sets };
        guest.of(FeatureKind::Semantic)?;
        guest.of(FeatureKind::Quality)?;
        Ok(Box::new(guest))
    }
}
