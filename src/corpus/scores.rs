//! The stage that joins a night's images with their scores.

use std::collections::{BTreeSet, HashMap};

use super::rows::CACHED;
use super::{CorpusError, Night};
use crate::engine::is_of_share;
use agiqa_judge::{night, scorer};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::images::{self, ExtraValues, Images};
use agiqa_store::tables::night_scores::NightScore;
use agiqa_store::tables::scores::{Direction, ScoreSet};
use agiqa_store::tables::{PartitionName, gates};

/// What scores a night: a set of scores, or the weighted mean over several of one direction.
#[derive(Clone, Debug)]
pub struct NightScorer {
    /// Its name: a run, a group, a method.
    pub name: PartitionName,
    /// The sets, at least one, each with its weight. An image counts if it has a score in each.
    pub sets: Vec<(ScoreSet, f64)>,
    /// The dataset that it has learned from.
    pub trained_on: Option<PartitionName>,
}

/// Writes a night's rows of `night_scores`, and the statistics of its scores to `nights`.
#[derive(Clone, Debug)]
pub struct NightScoresStage {
    /// The night.
    pub night: Night,
    /// What scores it.
    pub scorer: NightScorer,
    /// The share of its files.
    pub shard: Shard,
}

/// An image's score.
#[derive(Clone, Copy)]
struct Scored {
    score: f64,
    std: Option<f64>,
    gates: [Option<f64>; 3],
}

impl NightScoresStage {
    fn join(&self, store: &Store) -> Result<StageReport, CorpusError> {
        let dataset = self.night.dataset()?;
        let scored = self.scorer.read(store)?;
        let direction = self.scorer.sets.first().map_or(Direction::Higher, |(set, _)| set.direction);
        let fingerprint = self.scorer.fingerprint();
        let table = self.night.scored_by(&self.scorer.name);
        let (mut rows, mut parts) = (RowCounts::default(), BTreeSet::new());
        images::for_each_part(store, &dataset, |images| {
            let (n_in, of_part) = self.rows(images, &scored);
            rows.n_in += n_in;
            rows.n_out += of_part.len() as u64;
            rows.n_cached += of_part.iter().filter(|row| row.is_cached).count() as u64;
            if !of_part.is_empty() {
                parts.insert(table.write_part(store, self.shard, direction, fingerprint, &of_part)?);
            }
            Ok::<_, CorpusError>(())
        })?;
        table.keep_only(store, self.shard, &parts)?;
        let trained = match &self.scorer.trained_on {
            Some(dataset) => scorer::scale(store, dataset)?,
            None => None,
        };
        night::summarise(store, &table, trained)?;
        rows.n_rejected = rows.n_in - rows.n_out;
        let mut summary = format!(
            "{} of {} images have scores, {} of them from earlier nights",
            rows.n_out, rows.n_in, rows.n_cached
        );
        if rows.n_rejected > 0 {
            summary.push_str(&format!(", {} have none (table `rejects`)", rows.n_rejected));
        }
        Ok(StageReport { rows, summary, interrupted: false })
    }

    /// The number of images of a part that belong to this share, and their rows.
    fn rows(&self, images: Images, scored: &HashMap<ImageId, Scored>) -> (u64, Vec<NightScore>) {
        let texts = |name: &str| images.column_text(name);
        let (groups, cached) = (texts("group_id"), images.extra.iter().find(|extra| extra.name == CACHED));
        let is_cached = |row: usize| match cached.map(|cached| &cached.values) {
            Some(ExtraValues::Real(values)) => values[row] == Some(1.0),
            Some(ExtraValues::Text(_)) | None => false,
        };
        let mut n_in = 0;
        let mut rows = Vec::new();
        for (at, image) in images.rows.iter().enumerate().filter(|(_, image)| is_of_share(self.shard, &image.path)) {
            n_in += 1;
            let Some(Scored { score, std, gates }) = scored.get(&image.image_id).copied() else { continue };
            rows.push(NightScore {
                image_id: image.image_id,
                uri: image.path.clone(),
                name: image.name.clone(),
                generator: image.generator.clone(),
                prompt: image.prompt.clone(),
                group_id: groups.as_ref().and_then(|groups| groups[at].clone()),
                score,
                std,
                gates,
                is_cached: is_cached(at),
            });
        }
        (n_in, rows)
    }
}

impl NightScorer {
    /// Identity of all sets together.
    fn fingerprint(&self) -> Fingerprint {
        match self.sets.as_slice() {
            [(set, _)] => set.fingerprint,
            sets => {
                let (fingerprints, weights): (Vec<Fingerprint>, Vec<f64>) =
                    sets.iter().map(|(set, weight)| (set.fingerprint, *weight)).unzip();
                let mut mean = Fingerprint::builder("mean of scores");
                mean.json("sets", &fingerprints);
                // Stores of earlier versions have means without weights.
                if weights.iter().any(|weight| *weight != weights[0]) {
                    mean.json("weights", &weights);
                }
                mean.finish()
            }
        }
    }

    fn read(&self, store: &Store) -> Result<HashMap<ImageId, Scored>, CorpusError> {
        if let [(set, _)] = self.sets.as_slice() {
            let mut gates: HashMap<ImageId, [Option<f64>; 3]> =
                gates::read(store, set)?.into_iter().map(|row| (row.image_id, row.weights)).collect();
            let scored = set.read_rows(store)?.into_iter().map(|(id, row)| {
                let gates = gates.remove(&id).unwrap_or_default();
                (id, Scored { score: row.score, std: row.std, gates })
            });
            return Ok(scored.collect());
        }
        let mut all: HashMap<ImageId, Vec<f64>> = HashMap::new();
        for (set, _) in &self.sets {
            for (id, score) in set.read(store)? {
                all.entry(id).or_default().push(score);
            }
        }
        let n = self.sets.len();
        let sum_of_weights: f64 = self.sets.iter().map(|(_, weight)| weight).sum();
        let mean_of = |values: &mut dyn Iterator<Item = f64>| -> f64 {
            values.zip(&self.sets).map(|(value, (_, weight))| value * weight).sum::<f64>() / sum_of_weights
        };
        let whole = all.into_iter().filter(|(_, scores)| scores.len() == n);
        let mean = whole.map(|(id, scores)| {
            let score = mean_of(&mut scores.iter().copied());
            let variance = mean_of(&mut scores.iter().map(|of_run| (of_run - score).powi(2)));
            (id, Scored { score, std: Some(variance.sqrt()), gates: [None; 3] })
        });
        Ok(mean.collect())
    }
}

impl Stage for NightScoresStage {
    fn name(&self) -> String {
        let Night { corpus, night } = &self.night;
        format!("scores of {corpus}, night {night}, by {}", self.scorer.name)
    }

    fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
        Ok(Freshness::Stale { reason: "images and scores are joined each time".to_owned() })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.join(&context.store)?)
    }
}
