//! The `evaluate` stage: how well the scores of runs agree with MOS.
//!
//! Reads `predictions` of each run, the `images` tables of the dataset that was scored and of the one it was trained
//! on, the run's split, and `models/run=<run>/run.json` (fields `dataset`, `split`, `fold`). Writes `metrics`:
//!
//! - one file per run, rows with `statistic = value` for each predictor, part and subset;
//! - one file for the group, rows `mean`, `std` and `median` over its runs, where the group is not itself a run.
//!
//! A model's numbers never stand alone. **Trivial predictors** are judged on the same images: `generator-mean`
//! and `prompt-mean` give each image the mean MOS that its generator or its prompt has in the training part, or the mean
//! of the whole training part where it has none. On AGIQA-3K the generator's name alone reaches SRCC 0.73.
//! Where the model's folder holds `ridge_scores.json` (`{"<image_id>": score}`), `ridge` stands beside them. All
//! predictors share their bootstrap resamples, so that their intervals can be compared.
//!
//! An image without MOS cannot be judged: it is a reject of kind `no-mos`, listed per dataset and run.

use serde::{Deserialize, Serialize};

use crate::metrics::{self, BootstrapSettings};
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::metrics::{MetricsRow, Statistic};
use agiqa_store::tables::rejects;
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{self, PartitionName};

mod error;

mod runs;

mod scored;

pub mod trivial;

mod over_runs;

mod report;

pub mod table;

pub use error::EvaluateError;
pub use report::{Leakage, Report};
pub use runs::{RunInfo, runs_of_group};

use scored::Scored;

/// Changes whenever the same inputs and settings give other rows.
const CODE_VERSION: u32 = 1;

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSettings {
    /// Columns of the images table whose values form subsets of the test part, e.g. `["generator", "style"]`.
    pub by: Vec<String>,
    /// Intervals: number of resamples and seed.
    pub bootstrap: BootstrapSettings,
    /// Parts to evaluate. Of a dataset that the run was not trained on, `all` is evaluated, and these parts where it has a
    /// split of the name of the run's: so a head of one dataset is tested on the test part of another.
    pub parts: Vec<Part>,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { by: Vec::new(), bootstrap: BootstrapSettings::default(), parts: Part::ALL.to_vec() }
    }
}

/// Evaluates `runs` on one dataset, and the group that they form.
#[derive(Clone, Debug)]
pub struct EvaluateStage {
    /// The runs, at least one.
    pub runs: Vec<PartitionName>,
    /// Name of the rows over all runs. Equal to the run's name where there is one run and no group.
    pub group: PartitionName,
    /// Dataset that was scored.
    pub dataset: PartitionName,
    /// Settings.
    pub settings: EvaluateSettings,
}

impl EvaluateStage {
    /// The metrics in the store as a report: of the group, or of the only run.
    ///
    /// # Errors
    /// Tables that are missing or broken.
    pub fn report(&self, store: &Store) -> Result<Report, StageError> {
        let shown = if self.has_group() { &self.group } else { &self.runs[0] };
        let mut rows = tables::metrics::read(store, shown)?;
        rows.retain(|row| row.dataset == self.dataset.as_str());
        let mut leakage = Vec::new();
        for run in &self.runs {
            leakage.extend(scored::leakage(store, run, &self.dataset)?);
        }
        Ok(Report::new(shown.as_str(), self.dataset.as_str(), rows, Leakage::over_runs(&leakage)))
    }

    /// Whether there is a group beside the runs. A single run that is its own group must not overwrite itself.
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

    /// What decides the rows of one run.
    fn fingerprint(&self, store: &Store, run: &PartitionName) -> Result<Fingerprint, StageError> {
        let mut builder = Fingerprint::builder("metrics");
        builder.json("code_version", &CODE_VERSION).json("settings", &self.settings).json("dataset", &self.dataset);
        runs::hash(store, run, &self.dataset, &mut builder)?;
        Ok(builder.finish())
    }

    fn group_fingerprint(&self, runs: &[Fingerprint]) -> Fingerprint {
        Fingerprint::builder("group metrics").json("code_version", &CODE_VERSION).json("runs", &runs).finish()
    }

    /// Rows of one run: per part all predictors, and on the test part (or `all`) each subset.
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
                    let pick = |values: &[f64]| subset.positions.iter().map(|&at| values[at]).collect::<Vec<_>>();
                    let (scores, mos) = (pick(&predictor.scores), pick(&scored.mos));
                    let values =
                        metrics::evaluate(&scores, &mos, Some(&self.settings.bootstrap)).map_err(|source| {
                            EvaluateError::Metrics {
                                predictor: predictor.name.to_owned(),
                                subset: subset.name.clone(),
                                source,
                            }
                        })?;
                    rows.push(row(self.dataset.as_str(), part, predictor.name, &subset.name, &values));
                }
            }
        }
        Ok(Some(rows))
    }
}

/// The table row of one run's `values`.
fn row(dataset: &str, part: Option<Part>, predictor: &str, subset: &str, values: &metrics::MetricValues) -> MetricsRow {
    let metrics::MetricValues { n, srcc, plcc, krcc, rmse, plcc_raw, rmse_raw } = *values;
    MetricsRow {
        dataset: dataset.to_owned(),
        part: part.map_or("all", Part::as_str).to_owned(),
        predictor: predictor.to_owned(),
        subset: subset.to_owned(),
        statistic: Statistic::Value,
        n_runs: 1,
        n,
        srcc,
        plcc,
        krcc,
        rmse,
        plcc_raw,
        rmse_raw,
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
        for run in &self.runs {
            let fingerprint = self.fingerprint(store, run)?;
            let path = runs::metrics_path(store, run, &self.dataset)?;
            n_stale += usize::from(!runs::carries(store, &path, fingerprint)?);
            fingerprints.push(fingerprint);
            let counted = runs::count(store, run, &self.dataset)?;
            rows.n_in += counted.n_in;
            rows.n_out += counted.n_out;
            rows.n_rejected += counted.n_rejected;
        }
        rows.n_cached = rows.n_out;
        if n_stale > 0 {
            let reason = format!("{n_stale} of {} runs lack metrics of their present predictions", self.runs.len());
            return Ok(Freshness::Stale { reason });
        }
        if self.has_group() {
            let path = runs::group_path(store, &self.runs[0], &self.group, &self.dataset)?;
            if !runs::carries(store, &path, self.group_fingerprint(&fingerprints))? {
                return Ok(Freshness::Stale { reason: "the group lacks metrics of its present runs".to_owned() });
            }
        }
        Ok(Freshness::Current { reason: format!("metrics of {} runs are present", self.runs.len()), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        self.check()?;
        let store = &context.store;
        let mut report = StageReport::default();
        let (mut all_rows, mut fingerprints) = (Vec::new(), Vec::new());
        let progress = context.console.progress("evaluate", "runs", self.runs.len() as u64);
        for run in &self.runs {
            let fingerprint = self.fingerprint(store, run)?;
            let path = runs::metrics_path(store, run, &self.dataset)?;
            let counted = runs::count(store, run, &self.dataset)?;
            report.rows.n_in += counted.n_in;
            if report.interrupted {
                report.rows.n_left += counted.n_in;
                continue;
            }
            let is_cached = runs::carries(store, &path, fingerprint)?;
            let rows = if is_cached {
                tables::metrics::read(store, run)?
                    .into_iter()
                    .filter(|row| row.dataset == self.dataset.as_str())
                    .collect()
            } else {
                let scored = Scored::load(store, run, &self.dataset, &self.settings.by, &context.console)?;
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
            let path = runs::group_path(store, &self.runs[0], &self.group, &self.dataset)?;
            tables::metrics::write_to(store, &path, &shown, Some(self.group_fingerprint(&fingerprints)))?;
        }
        report.summary = report::summary(&shown, report.rows);
        Ok(report)
    }
}
