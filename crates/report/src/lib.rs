//! Two pages of HTML over the tables of a store: a night's scores, for operators ([`night`]), and a group of runs, for
//! researchers ([`runs`]).
//!
//! A page is one file without scripts that loads nothing. It is drawn from aggregates, so its size does not grow with the
//! number of images. The same tables give the same bytes. Its numbers are also in a JSON file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use agiqa_judge::metrics::{MetricsError, quantile};
use agiqa_judge::scorer::{Scorer, ScorerError};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::models::{self, RunRecord, RunRecordError, Runs};
use agiqa_store::tables::{PartitionName, images};

mod chart;
mod html;
mod page;
mod thumbnail;

mod gates;

pub mod night;

pub mod runs;

mod schema;

pub use schema::document;

/// Version of the JSON files. Version 1 is the first.
pub const SCHEMA: u32 = 1;

/// A page cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ReportError {
    /// The store has neither images nor runs.
    #[error(
        "store `{url}` has no images and no runs, so there is nothing to report: `agiqa run PIPELINE.toml` fills a store, and \
         so do `agiqa ingest` and the stages after it"
    )]
    Empty { url: String },
    /// A method was named without a dataset.
    #[error(
        "method `{method}` has no training to report: name a run or a group, or a dataset that the method has scored"
    )]
    NoTraining { method: String },
    /// Nothing can be drawn.
    #[error(
        "the runs of `{name}` have no test image with a score and a MOS: run `agiqa predict` and name runs whose split has a \
         test part"
    )]
    NothingHeldOut { name: PartitionName },
    /// The baseline has no scores.
    #[error("the baseline `{baseline}` has scored no test image of `{dataset}`")]
    NoBaseline { baseline: String, dataset: PartitionName },
    /// Metrics cannot be computed.
    #[error("cannot judge the images of `{subset}`")]
    Metrics { subset: String, source: MetricsError },
    /// The scores cannot be read.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// A run cannot be read.
    #[error(transparent)]
    Run(#[from] RunRecordError),
    /// A table cannot be read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a page is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The scores of a dataset.
    Night(night::NightSettings),
    /// The training of runs.
    Runs(runs::RunsSettings),
}

/// A page and its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The page.
    pub html: String,
    /// The numbers in it.
    pub json: String,
    /// Number of images that the numbers are about.
    pub n_images: usize,
}

impl Report {
    fn new(html: String, numbers: &impl Serialize, n_images: usize) -> Self {
        let json = serde_json::to_string_pretty(numbers).expect("a report is plain data") + "\n";
        Self { html, json, n_images }
    }
}

impl Subject {
    /// Makes the page from the tables of `store`.
    ///
    /// # Errors
    /// Fails if the store is empty, if what the page is about does not exist, or if a table is broken.
    pub fn report(&self, store: &Store, records: &Runs) -> Result<Report, ReportError> {
        if images::datasets(store)?.is_empty() && models::runs(store)?.is_empty() {
            return Err(ReportError::Empty { url: store.url().to_owned() });
        }
        match self {
            Self::Night(settings) => night::report(store, settings, records),
            Self::Runs(settings) => runs::report(store, settings, records),
        }
    }

    /// Folder of the page in a store.
    pub fn folder(&self) -> String {
        match self {
            Self::Night(settings) => format!("reports/dataset={}/scorer={}", settings.dataset, name(&settings.scorer)),
            Self::Runs(settings) => format!("reports/run={}", name(&settings.scorer)),
        }
    }

    /// Path of the page in a store. Its numbers lie beside it, as [`Self::json_path`].
    pub fn html_path(&self) -> String {
        format!("{}/report.html", self.folder())
    }

    /// Path of the page's numbers in a store.
    pub fn json_path(&self) -> String {
        format!("{}/report.json", self.folder())
    }
}

/// The scorer's name as a folder's: letters, digits, `.`, `_` and `-`.
fn name(scorer: &Scorer) -> String {
    match scorer {
        Scorer::Run(name) | Scorer::Group(name) => name.to_string(),
        Scorer::Method(method) => method.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "-"),
    }
}

/// The records of the runs behind `scorer`; none of a method.
fn records_of(store: &Store, scorer: &Scorer, records: &Runs) -> Result<Vec<Arc<RunRecord>>, ReportError> {
    let runs = match scorer {
        Scorer::Run(run) => vec![run.clone()],
        Scorer::Group(group) => records.of_group(store, group)?,
        Scorer::Method(_) => Vec::new(),
    };
    Ok(runs.iter().map(|run| records.get(store, run)).collect::<Result<Vec<_>, _>>()?)
}

/// Writes a page and its numbers into the store, below `reports/`.
#[derive(Debug)]
pub struct ReportStage {
    /// What the page is about.
    pub subject: Subject,
    /// The records of the runs.
    pub records: Runs,
    /// The page that [`Stage::freshness`] made to compare, which [`Stage::run`] then writes.
    made: Mutex<Option<Report>>,
}

impl ReportStage {
    /// The stage of a page about `subject`.
    pub fn new(subject: Subject, records: Runs) -> Self {
        Self { subject, records, made: Mutex::default() }
    }

    fn made(&self) -> MutexGuard<'_, Option<Report>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage for ReportStage {
    fn name(&self) -> String {
        match &self.subject {
            Subject::Night(settings) => format!("report {} by {}", settings.dataset, name(&settings.scorer)),
            Subject::Runs(settings) => format!("report {}", name(&settings.scorer)),
        }
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let stale = |reason: &str| Ok(Freshness::Stale { reason: reason.to_owned() });
        // Earlier stages may have run since the last call.
        *self.made() = None;
        let paths = [self.subject.html_path(), self.subject.json_path()];
        let [Some(html), Some(json)] = [store.get_if_exists(&paths[0])?, store.get_if_exists(&paths[1])?] else {
            return stale("there is no page yet");
        };
        let report = self.subject.report(store, &self.records)?;
        if html != report.html.as_bytes() || json != report.json.as_bytes() {
            *self.made() = Some(report);
            return stale("its tables have changed");
        }
        Ok(Freshness::Current { reason: format!("`{}` shows the present tables", paths[0]), rows: rows(&report) })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        let store = &context.store;
        let made = self.made().take();
        let report = made.map_or_else(|| self.subject.report(store, &self.records), Ok)?;
        let (rows, path) = (rows(&report), self.subject.html_path());
        let summary =
            format!("{} kB about {} images in {}/{path}", report.html.len() / 1000, report.n_images, store.url());
        store.put(&self.subject.json_path(), report.json)?;
        store.put(&path, report.html)?;
        Ok(StageReport { rows, summary, interrupted: false })
    }
}

fn rows(report: &Report) -> RowCounts {
    let n = report.n_images as u64;
    RowCounts { n_in: n, n_out: n, ..RowCounts::default() }
}

/// The first `n` characters of `text`, and how many it has if that is not all.
fn excerpt(text: &str, n: usize) -> String {
    // Counting the characters of a long text is cheap; keeping it in the page is not.
    match text.char_indices().nth(n) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
    }
}

/// Quantiles of `sorted` by linear interpolation between the two nearest values; 0 for no values.
fn quantiles<const N: usize>(sorted: &[f64], shares: [f64; N]) -> [f64; N] {
    shares.map(|share| if sorted.is_empty() { 0.0 } else { quantile(sorted, share) })
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Mean of `values`; `None` without values.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        assert_eq!(quantiles(&[0.0, 1.0, 2.0, 4.0], [0.0, 0.5, 0.9, 1.0]), [0.0, 1.5, 3.4000000000000004, 4.0]);
        assert_eq!(quantiles(&[], [0.5]), [0.0]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_its_length() {
        assert_eq!(excerpt("éé", 2), "éé");
        assert_eq!(excerpt("ééé", 2), "éé… (3 characters)");
    }
}
