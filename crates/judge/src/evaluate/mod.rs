//! The `evaluate` stage: how well the scores of runs agree with MOS.
//!
//! Reads the `scores` of each run, its record and its split, and the `images` tables of the scored dataset and of the
//! training dataset. Writes `metrics`:
//!
//! - one file per run: rows with `statistic = value` for each predictor, part and subset;
//! - one file for the group: rows `mean`, `std` and `median` over its runs, if the group is not itself a run.
//!
//! A model's numbers always come with numbers for comparison. **Trivial predictors** are judged on the same images.
//! `generator-mean` and `prompt-mean` give each image the mean MOS of its generator or its prompt in the training part.
//! If the generator or prompt does not occur there, they give the mean of the whole training part. On AGIQA-3K the
//! generator's name alone reaches SRCC 0.73. If the model's folder holds `ridge_scores.json` (`{"<image_id>": score}`),
//! the predictor `ridge` is judged too. All predictors share their bootstrap resamples, so their intervals can be
//! compared.
//!
//! An image without MOS cannot be judged. It is a reject of kind `no-mos`, listed per dataset and run.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::metrics::{self, BootstrapSettings};
use agiqa_store::identity::Fingerprint;
use agiqa_store::metric::{Estimates, N_METRICS};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::derived::Derived;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::metrics::{MetricsRow, Statistic};
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::rejects;
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{self, PartitionName};

mod error;

mod inputs;

mod scored;

pub mod trivial;

mod over_runs;

mod report;

pub mod table;

pub use error::EvaluateError;
pub(crate) use error::listed;
use inputs::{RunInput, Tables};
pub use report::{Leakage, Report};
use scored::Scored;

/// Must be raised when the same inputs and settings give other rows.
const CODE_VERSION: u32 = 2;

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSettings {
    /// Columns of the images table whose values form subsets of the test part, e.g. `["generator", "style"]`.
    pub by: Vec<String>,
    /// Intervals: number of resamples and seed.
    pub bootstrap: BootstrapSettings,
    /// Parts to evaluate. On a dataset that the run was not trained on, `all` is evaluated. If that dataset has a split
    /// with the same name as the run's split, these parts are evaluated too. A head of one dataset can thus be tested
    /// on the test part of another.
    pub parts: Vec<Part>,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { by: Vec::new(), bootstrap: BootstrapSettings::default(), parts: Part::ALL.to_vec() }
    }
}

/// Evaluates `runs` and their group on one dataset.
#[derive(Clone, Debug)]
pub struct EvaluateStage {
    /// The runs, at least one.
    runs: Vec<PartitionName>,
    /// Name of the rows over all runs. It equals the run's name if a single run has no group.
    group: PartitionName,
    /// Dataset that was scored.
    dataset: PartitionName,
    /// Settings.
    settings: EvaluateSettings,
    /// The records of the runs.
    records: Runs,
    /// The leakage of each run, once it is counted.
    leakage: Arc<Mutex<Option<Vec<Leakage>>>>,
}

impl EvaluateStage {
    /// Evaluates `runs` on `dataset`. `records` may already hold the records of the runs.
    pub fn new(
        runs: Vec<PartitionName>,
        group: PartitionName,
        dataset: PartitionName,
        settings: EvaluateSettings,
        records: Runs,
    ) -> Self {
        Self { runs, group, dataset, settings, records, leakage: Arc::default() }
    }

    /// The metrics in the store as a report, for the group or for the only run.
    ///
    /// # Errors
    /// Fails if a table is missing or broken.
    pub fn report(&self, store: &Store) -> Result<Report, StageError> {
        let shown = if self.has_group() { &self.group } else { &self.runs[0] };
        let mut rows = tables::metrics::read(store, shown)?;
        rows.retain(|row| row.dataset == self.dataset.as_str());
        let counted = self.leakage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let leakage = match counted {
            Some(leakage) => leakage,
            None => self.inputs(store)?.iter().filter_map(RunInput::leakage).collect(),
        };
        Ok(Report::new(shown.as_str(), self.dataset.as_str(), rows, Leakage::over_runs(&leakage)))
    }

    /// The inputs of the metrics of each run.
    fn inputs(&self, store: &Store) -> Result<Vec<RunInput>, EvaluateError> {
        let mut tables = Tables::new(store);
        let mut inputs = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            inputs.push(tables.input(self.records.get(store, run)?, &self.dataset)?);
        }
        let leakage = inputs.iter().filter_map(RunInput::leakage).collect();
        *self.leakage.lock().unwrap_or_else(PoisonError::into_inner) = Some(leakage);
        Ok(inputs)
    }

    /// Path of the metrics of `name`, which is `input`'s run or its group.
    fn path(&self, input: &RunInput, name: &PartitionName) -> String {
        if input.is_own { tables::metrics::path(name) } else { tables::metrics::path_on(name, &self.dataset) }
    }

    /// Whether the runs form a separate group. A single run that is its own group must not overwrite itself.
    fn has_group(&self) -> bool {
        self.runs.len() > 1 || self.runs.first() != Some(&self.group)
    }

    fn check(&self) -> Result<(), EvaluateError> {
        if self.runs.is_empty() {
            return Err(EvaluateError::NoRuns);
        }
        if self.runs.len() > 1 && self.runs.contains(&self.group) {
            return Err(EvaluateError::GroupIsRun { group: self.group.clone() });
        }
        match self.runs.iter().enumerate().find(|(index, run)| self.runs[..*index].contains(run)) {
            Some((_, run)) => Err(EvaluateError::RunTwice { run: run.clone() }),
            None => Ok(()),
        }
    }

    /// Fingerprint of every input that decides the rows of one run.
    fn fingerprint(&self, input: &RunInput) -> Fingerprint {
        Fingerprint::builder("metrics")
            .json("code_version", &CODE_VERSION)
            .json("settings", &self.settings)
            .json("dataset", &self.dataset)
            .json("inputs", &input.fingerprint)
            .finish()
    }

    fn group_fingerprint(&self, runs: &[Fingerprint]) -> Fingerprint {
        Fingerprint::builder("group metrics").json("code_version", &CODE_VERSION).json("runs", &runs).finish()
    }

    /// Rows of one run: all predictors for each part, and each subset of the test part (or of `all`).
    fn rows_of(&self, scored: &Scored, context: &StageContext) -> Result<Option<Vec<MetricsRow>>, StageError> {
        let mut rows = Vec::new();
        for part in scored.parts() {
            let is_wanted = part.is_none_or(|part| self.settings.parts.contains(&part));
            if !is_wanted {
                continue;
            }
            let has_subsets = matches!(part, None | Some(Part::Test));
            let subsets = if has_subsets { scored.subsets(part) } else { vec![scored.whole(part)] };
            for subset in subsets {
                for predictor in &scored.predictors {
                    if context.interrupt.is_raised() {
                        return Ok(None);
                    }
                    let pick = |values: &[f64]| subset.positions.iter().map(|index| values[*index]).collect::<Vec<_>>();
                    let (scores, mos) = (pick(&predictor.scores), pick(&scored.mos));
                    let values =
                        metrics::evaluate(&scores, &mos, Some(&self.settings.bootstrap)).map_err(|source| {
                            EvaluateError::Metrics {
                                predictor: predictor.name.to_owned(),
                                subset: subset.name.clone(),
                                source,
                            }
                        })?;
                    let n = scores.len() as u64;
                    rows.push(row(self.dataset.as_str(), part, predictor.name, &subset.name, n, values));
                }
            }
        }
        Ok(Some(rows))
    }
}

/// The table row of one run.
fn row(
    dataset: &str,
    part: Option<Part>,
    predictor: &str,
    subset: &str,
    n: u64,
    metrics: Estimates<N_METRICS>,
) -> MetricsRow {
    MetricsRow {
        dataset: dataset.to_owned(),
        part: part.map_or("all", Part::as_str).to_owned(),
        predictor: predictor.to_owned(),
        subset: subset.to_owned(),
        statistic: Statistic::Value,
        n_runs: 1,
        n,
        metrics,
    }
}

impl Stage for EvaluateStage {
    fn name(&self) -> String {
        format!("evaluate {} on {}", self.group, self.dataset)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        self.check()?;
        let mut rows = RowCounts::default();
        let mut fingerprints = Vec::new();
        let mut n_stale = 0;
        let inputs = self.inputs(store)?;
        for input in &inputs {
            let fingerprint = self.fingerprint(input);
            n_stale += usize::from(!is_current(store, &self.path(input, &input.record.run), fingerprint)?);
            fingerprints.push(fingerprint);
            rows += input.counts();
        }
        rows.n_cached = rows.n_out;
        if n_stale > 0 {
            let reason = format!("{n_stale} of {} runs lack metrics of their present scores", self.runs.len());
            return Ok(Freshness::Stale { reason });
        }
        if self.has_group()
            && !is_current(store, &self.path(&inputs[0], &self.group), self.group_fingerprint(&fingerprints))?
        {
            return Ok(Freshness::Stale { reason: "the group lacks metrics of its present runs".to_owned() });
        }
        Ok(Freshness::Current { reason: format!("metrics of {} runs are present", self.runs.len()), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        self.check()?;
        let store = &context.store;
        let mut report = StageReport::default();
        let (mut all_rows, mut fingerprints) = (Vec::new(), Vec::new());
        let progress = context.console.progress("evaluate", "runs", self.runs.len() as u64);
        let inputs = self.inputs(store)?;
        for input in &inputs {
            let (run, counted) = (&input.record.run, input.counts());
            let (fingerprint, path) = (self.fingerprint(input), self.path(input, run));
            report.rows.n_in += counted.n_in;
            if report.interrupted {
                report.rows.n_left += counted.n_in;
                continue;
            }
            let is_cached = is_current(store, &path, fingerprint)?;
            let rows = if is_cached {
                let mut rows = tables::metrics::read(store, run)?;
                rows.retain(|row| row.dataset == self.dataset.as_str());
                rows
            } else {
                let n_unscored = input.images.rows.len() - input.scored.len();
                if n_unscored > 0 {
                    let (n_images, dataset) = (input.images.rows.len(), &self.dataset);
                    context
                        .console
                        .warn(format!("run {run}: {n_unscored} of {n_images} images of `{dataset}` have no score"));
                }
                let scored = Scored::new(input, &self.dataset, &self.settings.by, store, &context.console)?;
                rejects::replace(store, "evaluate", &rejects::name_of(&self.dataset, run)?, &scored.rejects)?;
                let Some(rows) = self.rows_of(&scored, context)? else {
                    report.interrupted = true;
                    report.rows.n_left += counted.n_in;
                    continue;
                };
                tables::metrics::write_to(store, &path, &rows, Some(fingerprint))?;
                rows
            };
            report.rows.n_out += counted.n_out;
            report.rows.n_rejected += counted.n_rejected;
            report.rows.n_cached += if is_cached { counted.n_out } else { 0 };
            all_rows.push(rows);
            fingerprints.push(fingerprint);
            progress.add(1);
        }
        progress.finish();
        if report.interrupted {
            report.summary = format!("metrics of {} of {} runs written", all_rows.len(), self.runs.len());
            return Ok(report);
        }
        let mut shown = all_rows.concat();
        if self.has_group() {
            shown = over_runs::aggregate(&all_rows);
            let path = self.path(&inputs[0], &self.group);
            tables::metrics::write_to(store, &path, &shown, Some(self.group_fingerprint(&fingerprints)))?;
        }
        report.summary = report::summary(&shown, report.rows);
        Ok(report)
    }
}

fn is_current(store: &Store, path: &str, fingerprint: Fingerprint) -> Result<bool, EvaluateError> {
    Ok(Derived::of(store, path, tables::metrics::KIND, fingerprint)?.is_current())
}
