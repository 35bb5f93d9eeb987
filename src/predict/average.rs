//! Averages of runs: for each split, the mean of the scores of its runs, as the scores of a run of its own.
//!
//! Input: scores and records of the members. Output: rows of `scores`, with the members' spread as `score_std`, and a
//! record of the recipe `average`, which `evaluate` and `compare` read like any other. Images that a member has not scored
//! are not averaged.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::stage::PredictError;
use crate::train::{Member, RunPlan, RunSeed, TrainError};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, RunRecord, Runs};
use agiqa_store::tables::scores::{self, ScoreRow, ScoreSet};

/// Name of the recipe in records.
const AVERAGE: &str = "average";

/// The weights of an average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// Each run counts as much as the others.
    #[default]
    Equal,
    /// A run counts by the inverse of its mean squared error on the validation part.
    Validation,
}

/// The members of the average `record`, each with its weight; `None` for another recipe.
pub fn members_of(record: &RunRecord) -> Option<Vec<(PartitionName, f64)>> {
    if record.recipe != AVERAGE {
        return None;
    }
    let members: Vec<PartitionName> = serde_json::from_value(record.settings["members"].clone()).ok()?;
    let weights: Vec<f64> = serde_json::from_value(record.settings["weights"].clone()).ok()?;
    Some(members.into_iter().zip(weights).collect())
}

/// Averages the runs of each split.
#[derive(Clone, Debug)]
pub struct AverageStage {
    /// Beginning of the names of the averages.
    pub name: PartitionName,
    /// Dataset that the members were trained on.
    pub dataset: PartitionName,
    /// The members of all splits.
    pub members: Vec<Member>,
    /// Their weights.
    pub weighting: Weighting,
    /// The records of the runs.
    pub records: Runs,
}

/// An average on one split.
struct Average {
    record: RunRecord,
    weights: Vec<f64>,
    members: Vec<Arc<RunRecord>>,
}

impl AverageStage {
    /// The splits with two members or more.
    fn runs(&self) -> Vec<RunSeed> {
        let mut n_members: BTreeMap<&PartitionName, usize> = BTreeMap::new();
        self.members.iter().for_each(|member| *n_members.entry(&member.split).or_default() += 1);
        let several = n_members.into_iter().filter(|(_, n)| *n > 1);
        several.map(|(split, _)| RunSeed { split: split.clone(), seed: 0 }).collect()
    }

    /// The names of the averages of `runs`. They follow from the members' groups and the weights.
    fn plan<'a>(&'a self, runs: &'a [RunSeed]) -> RunPlan<'a> {
        let groups: BTreeSet<&PartitionName> = self.members.iter().map(|member| &member.group).collect();
        let settings = Fingerprint::builder("average settings")
            .json("dataset", &self.dataset)
            .json("groups", &groups)
            .json("weights", &self.weighting)
            .finish();
        RunPlan::new(AVERAGE, &self.name, &self.dataset, runs, settings)
    }

    /// The groups of averages, each with its runs; none if no split has two members.
    ///
    /// # Errors
    /// Fails if a name is too long.
    pub fn groups(&self) -> Result<Vec<(PartitionName, Vec<PartitionName>)>, TrainError> {
        self.plan(&self.runs()).groups()
    }

    /// The averages of the members' present training.
    fn averages(&self, store: &Store) -> Result<Vec<Average>, PredictError> {
        let runs = self.runs();
        if runs.is_empty() {
            return Err(PredictError::NothingToAverage);
        }
        runs.iter().map(|run| self.average(store, &self.plan(&runs), run)).collect()
    }

    fn average(&self, store: &Store, plan: &RunPlan<'_>, run: &RunSeed) -> Result<Average, PredictError> {
        let of_split = self.members.iter().filter(|member| member.split == run.split);
        let members = of_split.map(|member| self.records.get(store, &member.run)).collect::<Result<Vec<_>, _>>()?;
        let error_of = |record: &RunRecord| {
            let epoch = record.epochs.get((record.best_epoch as usize).checked_sub(1)?)?;
            (epoch.validation_mse > 0.0).then_some(epoch.validation_mse)
        };
        let inverse = |record: &Arc<RunRecord>| match self.weighting {
            Weighting::Equal => 1.0,
            Weighting::Validation => error_of(record).map_or(1.0, f64::recip),
        };
        let weights: Vec<f64> = members.iter().map(inverse).collect();
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        let names: Vec<&PartitionName> = members.iter().map(|record| &record.run).collect();
        let fingerprints: Vec<Fingerprint> = members.iter().map(|record| record.fingerprint).collect();
        let first = members[0].as_ref();
        let record = RunRecord {
            schema_version: models::RECORD_VERSION,
            run: plan.run_name(run).map_err(Box::new)?,
            group: plan.group_name(run).map_err(Box::new)?,
            dataset: self.dataset.clone(),
            split: run.split.clone(),
            fold: first.fold,
            seed: run.seed,
            fingerprint: Fingerprint::builder(AVERAGE)
                .json("members", &fingerprints)
                .json("weights", &weights)
                .finish(),
            recipe: AVERAGE.to_owned(),
            inputs: Vec::new(),
            settings: serde_json::json!({ "members": names, "weights": weights }),
            parts: first.parts,
            chosen_by: "no choice".to_owned(),
            best_epoch: 0,
            epochs: Vec::new(),
            ridge: None,
            kernel_ridge: None,
            agiqa_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Average { record, weights, members })
    }

    fn run_stage(&self, context: &StageContext) -> Result<StageReport, PredictError> {
        let store = &context.store;
        let mut report = StageReport::default();
        let averages = self.averages(store)?;
        for average in &averages {
            let set = ScoreSet::of_run(&average.record);
            let rows = average.rows(store)?;
            let done = set.done(store)?;
            let lacking: Vec<ScoreRow> = rows.iter().filter(|row| !done.contains(&row.image_id)).copied().collect();
            set.write_description(store)?;
            set.write_rows(store, &lacking)?;
            average.record.write(store)?;
            let (n, n_cached) = (rows.len() as u64, (rows.len() - lacking.len()) as u64);
            report.rows += RowCounts { n_in: n, n_out: n, n_cached, ..RowCounts::default() };
        }
        report.summary = format!("{} scores of {} averages", report.rows.n_out, averages.len());
        Ok(report)
    }
}

impl Average {
    /// The images that all members have scored.
    fn rows(&self, store: &Store) -> Result<Vec<ScoreRow>, PredictError> {
        let read = |record: &Arc<RunRecord>| scores::read_of_run(store, record);
        let of_members = self.members.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut rows = Vec::with_capacity(of_members[0].len());
        for image_id in of_members[0].keys() {
            let scores: Option<Vec<f64>> = of_members.iter().map(|scores| scores.get(image_id).copied()).collect();
            let Some(scores) = scores else { continue };
            let mean = |values: &mut dyn Iterator<Item = f64>| -> f64 {
                values.zip(&self.weights).map(|(value, weight)| value * weight).sum()
            };
            let score = mean(&mut scores.iter().copied());
            let variance = mean(&mut scores.iter().map(|member| (member - score).powi(2)));
            rows.push(ScoreRow { image_id: *image_id, score, std: Some(variance.sqrt()) });
        }
        Ok(rows)
    }
}

impl Stage for AverageStage {
    fn name(&self) -> String {
        format!("average {} of {} runs", self.name, self.members.len())
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        for Member { run, .. } in &self.members {
            if self.records.get_if_finished(store, run)?.is_none() {
                return Ok(Freshness::Stale { reason: format!("run `{run}` is not trained yet") });
            }
        }
        let mut rows = RowCounts::default();
        for average in self.averages(store)? {
            let run = &average.record.run;
            if RunRecord::read_if_finished(store, run)?
                .is_none_or(|record| record.fingerprint != average.record.fingerprint)
            {
                return Ok(Freshness::Stale { reason: format!("the members of `{run}` have changed") });
            }
            let done: HashSet<ImageId> = ScoreSet::of_run(&average.record).done(store)?;
            let wanted = average.rows(store)?;
            let n_lacking = wanted.iter().filter(|row| !done.contains(&row.image_id)).count();
            if n_lacking > 0 {
                return Ok(Freshness::Stale { reason: format!("{n_lacking} scores of `{run}` are lacking") });
            }
            let n = wanted.len() as u64;
            rows += RowCounts { n_in: n, n_out: n, n_cached: n, ..RowCounts::default() };
        }
        Ok(Freshness::Current { reason: format!("all {} scores are present", rows.n_out), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.run_stage(context)?)
    }
}
