//! `compare`: every method that has scores in a store, judged on the same images, with the paper's Table 1 for
//! comparison.
//!
//! Reads `images`, a split if one is named, `scores`, and the records of runs. Writes `comparison`, one row per method.
//! A method is judged on all images of the part that it has scored (column `n`). Differences between methods are judged
//! on the images that all methods have scored, by a paired bootstrap.
//!
//! A run has learned from the other parts of its own split. It can therefore be compared on that split only. A run
//! trained on another dataset can be compared on any part. Runs that are left out are named in the output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluate::listed;
use crate::metrics::{self, BootstrapSettings, MetricsError, PairedSrcc};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::metric::{Estimate, Metric};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::derived::Derived;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::comparison::{self, ComparisonRow, Judged};
use agiqa_store::tables::models::{RunRecordError, Runs};
use agiqa_store::tables::splits::Part;

mod methods;

mod report;

pub use report::ComparisonReport;

pub mod table1;

use methods::{LeftOut, MethodScores};

/// How many of the methods that are left out for one reason are named.
const N_NAMED: usize = 3;

/// Must be raised when the same inputs and settings give other rows.
const CODE_VERSION: u32 = 1;

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompareSettings {
    /// Part of the split that is judged.
    pub part: Part,
    /// Intervals: number of resamples and seed.
    pub bootstrap: BootstrapSettings,
}

impl Default for CompareSettings {
    fn default() -> Self {
        Self { part: Part::Test, bootstrap: BootstrapSettings::default() }
    }
}

/// Methods that cannot be compared.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum CompareError {
    /// The dataset is not in the store.
    #[error("store `{url}` has no images of dataset `{dataset}`; the datasets are: {known}; `agiqa ingest` adds one")]
    NoDataset { url: String, dataset: PartitionName, known: String },
    /// The split is not in the store.
    #[error("dataset `{dataset}` has no split `{split}`; the splits are: {known}; `agiqa split` adds one")]
    NoSplit { dataset: PartitionName, split: PartitionName, known: String },
    /// No image has a MOS.
    #[error("no image of dataset `{dataset}` that is to be judged has a MOS: nothing tells which method is right")]
    NoMos { dataset: PartitionName },
    /// Nothing has scored the images.
    #[error(
        "no method has scored the images of dataset `{dataset}` that are to be judged{left_out}; `agiqa baseline` and \
         `agiqa predict` make scores"
    )]
    NoMethods {
        dataset: PartitionName,
        /// The methods left out, with reasons.
        left_out: String,
    },
    /// Metrics cannot be computed.
    #[error("cannot judge method `{method}`")]
    Metrics { method: String, source: MetricsError },
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

/// Compares all methods on one dataset.
#[derive(Clone, Debug)]
pub struct CompareStage {
    /// Dataset.
    pub dataset: PartitionName,
    /// Split; `None` for all images.
    pub split: Option<PartitionName>,
    /// Settings.
    pub settings: CompareSettings,
    /// The records of the runs.
    pub records: Runs,
}

impl CompareStage {
    fn judged(&self) -> Judged {
        let part = self.split.as_ref().map(|split| (split.clone(), self.settings.part));
        Judged { dataset: self.dataset.clone(), part }
    }

    fn fingerprint(&self, store: &Store) -> Result<Fingerprint, CompareError> {
        let mut builder = Fingerprint::builder("comparison");
        builder.json("code_version", &CODE_VERSION).json("settings", &self.settings).json("judged", &self.judged());
        methods::hash(store, &self.records.all(store)?, &self.judged(), &mut builder)?;
        Ok(builder.finish())
    }

    /// The comparison in the store as a report.
    ///
    /// # Errors
    /// Fails if a table is missing or broken.
    pub fn report(&self, store: &Store) -> Result<ComparisonReport, StageError> {
        Ok(ComparisonReport { judged: self.judged(), rows: comparison::read(store, &self.judged())? })
    }

    fn run_stage(&self, context: &StageContext) -> Result<StageReport, CompareError> {
        let store = &context.store;
        let judged = self.judged();
        let images = methods::judged_images(store, &judged)?;
        let ids: Vec<ImageId> = images.iter().map(|(id, _)| *id).collect();
        let (methods, left_out) = methods::all(store, &self.records.all(store)?, &judged, &ids)?;
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for LeftOut { method, reason } in &left_out {
            by_reason.entry(reason).or_default().push(method);
        }
        for (reason, methods) in by_reason {
            let n_more = methods.len().saturating_sub(N_NAMED);
            let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
            let named = listed(methods.into_iter().take(N_NAMED));
            context.console.info(format!("compare: left out: {named}{more}: {reason}"));
        }
        if methods.is_empty() {
            let left_out: Vec<String> =
                left_out.iter().map(|left_out| format!("; `{}`: {}", left_out.method, left_out.reason)).collect();
            return Err(CompareError::NoMethods { dataset: self.dataset.clone(), left_out: left_out.concat() });
        }
        let rows = compare(&judged, &images, &methods, &self.settings.bootstrap)?;
        comparison::write(store, &judged, &rows, self.fingerprint(store)?)?;
        let n = methods.len() as u64;
        let best = rows.first().map(|row| format!("; best: {}", row.method)).unwrap_or_default();
        Ok(StageReport {
            rows: RowCounts { n_in: n, n_out: n, ..RowCounts::default() },
            summary: format!("{n} methods on {} images{best}", images.len()),
            interrupted: false,
        })
    }
}

/// One row per method, best first.
fn compare(
    judged: &Judged,
    images: &[(ImageId, f64)],
    methods: &[MethodScores],
    bootstrap: &BootstrapSettings,
) -> Result<Vec<ComparisonRow>, CompareError> {
    let mut rows = Vec::with_capacity(methods.len());
    for method in methods {
        let scored: Vec<(f64, f64)> = images
            .iter()
            .filter_map(|(id, mos)| Some((method.direction.ascending(*method.of_image.get(id)?), *mos)))
            .collect();
        let (scores, mos): (Vec<f64>, Vec<f64>) = scored.into_iter().unzip();
        let values = metrics::evaluate(&scores, &mos, Some(bootstrap))
            .map_err(|source| CompareError::Metrics { method: method.name.clone(), source })?;
        rows.push(ComparisonRow {
            method: method.name.clone(),
            kind: method.kind,
            direction: method.direction,
            rank: 0,
            n: scores.len() as u64,
            metrics: values.first(),
            paper: methods::paper_figures(judged, method),
            n_paired: 0,
            lead: Estimate::default(),
            beats: Vec::new(),
        });
    }
    // An undefined SRCC comes last. Methods with equal SRCC are sorted by name.
    let srcc = |row: &ComparisonRow| row.metrics[Metric::Srcc].value.unwrap_or(f64::NEG_INFINITY);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| srcc(&rows[b]).total_cmp(&srcc(&rows[a])).then_with(|| rows[a].method.cmp(&rows[b].method)));
    let in_all = |id: &ImageId| methods.iter().all(|method| method.of_image.contains_key(id));
    let paired_images: Vec<&(ImageId, f64)> = images.iter().filter(|(id, _)| in_all(id)).collect();
    let mos: Vec<f64> = paired_images.iter().map(|(_, mos)| *mos).collect();
    let scores: Vec<Vec<f64>> = methods
        .iter()
        .map(|method| paired_images.iter().map(|(id, _)| method.direction.ascending(method.of_image[id])).collect())
        .collect();
    let paired = PairedSrcc::of(&scores, &mos, bootstrap)
        .map_err(|source| CompareError::Metrics { method: "all, paired".to_owned(), source })?;
    let mut sorted = Vec::with_capacity(rows.len());
    for (place, &index) in order.iter().enumerate() {
        let below = &order[place + 1..];
        let is_real = |other: &&usize| paired.difference(index, **other).low.is_some_and(|low| low > 0.0);
        sorted.push(ComparisonRow {
            rank: place as u64 + 1,
            n_paired: paired_images.len() as u64,
            lead: below.first().map_or_else(Estimate::default, |next| paired.difference(index, *next)),
            beats: below.iter().filter(is_real).map(|other| rows[*other].method.clone()).collect(),
            ..rows[index].clone()
        });
    }
    Ok(sorted)
}

impl Stage for CompareStage {
    fn name(&self) -> String {
        match &self.split {
            Some(split) => format!("compare on {} {split} {}", self.dataset, self.settings.part),
            None => format!("compare on {}", self.dataset),
        }
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let found = Derived::of(store, &self.judged().path(), comparison::KIND, self.fingerprint(store)?)?;
        let reason = match found {
            Derived::Current => "",
            Derived::Absent => "nothing has been compared yet",
            Derived::Unreadable | Derived::Outdated => "scores, images or settings have changed",
        };
        if !found.is_current() {
            return Ok(Freshness::Stale { reason: reason.to_owned() });
        }
        let n = comparison::read(store, &self.judged())?.len() as u64;
        let rows = RowCounts { n_in: n, n_out: n, n_cached: n, ..RowCounts::default() };
        Ok(Freshness::Current { reason: format!("{n} methods are compared"), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.run_stage(context)?)
    }
}
