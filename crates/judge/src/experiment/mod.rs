//! `experiment`: a table of the paper as this program computes it, with the paper's figures for comparison.
//!
//! Reads the `metrics` of the variants of a pipeline: for each variant, the model's metrics on the test part, as mean
//! and standard deviation over its runs. Writes `experiments`, and the same table as Markdown in the same folder. A
//! variant is compared with the row of the same table of the paper that was trained and tested on the same datasets,
//! read the same features, and agrees on having a gate. Dataset names are compared with the paper's names, ignoring
//! case. Methods of that table that this program does not train follow, with the paper's figures only.

use serde::Serialize;

use crate::paper::{self, PaperRow};
use agiqa_store::identity::Fingerprint;
use agiqa_store::metric::{Metric, N_PAPER};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::derived::Derived;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::experiments::{self, ExperimentKey, ExperimentRow, MeanStd, Ours};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::metrics::{self, Statistic};
use agiqa_store::tables::{PartitionName, PartitionNameError};

mod report;

pub use report::ExperimentReport;

/// Must be raised when the same inputs and settings give other rows.
const CODE_VERSION: u32 = 1;

/// A table cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ExperimentError {
    /// A variant has no metrics.
    #[error(
        "variant `{variant}` has no metrics of its model on the test part of `{dataset}` (run `{run}`): evaluate it first, \
         with `test` among the parts; `agiqa run` without `--stage` does"
    )]
    NoMetrics { variant: String, dataset: PartitionName, run: PartitionName },
    /// A table cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One row of the table: the variant's training, and the source of its metrics.
#[derive(Clone, Debug, Serialize)]
pub struct ExperimentVariant {
    /// Its name.
    pub name: String,
    /// Columns that the head reads, in the order `f_1`, `f_a`, `f_b`.
    pub inputs: Vec<String>,
    /// `sigmoid`, `linear`, `concat`, or [`NO_FUSION`].
    pub gate: String,
    /// Whether MANIQA was trained together with the head.
    pub is_joint: bool,
    /// Dataset whose training part the run learned from.
    pub trained_on: PartitionName,
    /// Dataset whose test part is judged.
    pub dataset: PartitionName,
    /// Run or group in `metrics`.
    pub run: PartitionName,
}

impl ExperimentVariant {
    fn metrics_path(&self) -> String {
        if self.trained_on == self.dataset {
            metrics::path(&self.run)
        } else {
            metrics::path_on(&self.run, &self.dataset)
        }
    }

    fn is_paper_row(&self, row: &PaperRow) -> bool {
        let is_gated = self.gate != "concat";
        row.method == paper::METHOD
            && self.gate != NO_FUSION
            && row.is_of(self.trained_on.as_str(), self.dataset.as_str())
            && (&row.inputs, row.gated) == (&self.inputs, is_gated)
    }

    fn row(&self, store: &Store, stage: &ExperimentStage) -> Result<ExperimentRow, ExperimentError> {
        let rows = metrics::read(store, &self.run)?;
        let row_with = |statistic: Statistic| {
            rows.iter().find(|row| {
                (row.dataset.as_str(), row.part.as_str(), row.predictor.as_str(), row.subset.as_str())
                    == (self.dataset.as_str(), "test", "model", "all")
                    && row.statistic == statistic
            })
        };
        let (mean, std) = match row_with(Statistic::Mean) {
            Some(mean) => (mean, row_with(Statistic::Std)),
            None => {
                let alone = row_with(Statistic::Value).ok_or_else(|| ExperimentError::NoMetrics {
                    variant: self.name.clone(),
                    dataset: self.dataset.clone(),
                    run: self.run.clone(),
                })?;
                (alone, None)
            }
        };
        let metric = |metric: Metric| MeanStd {
            mean: mean.metrics[metric].value,
            std: std.and_then(|std| std.metrics[metric].value),
        };
        let ours = Ours {
            inputs: self.inputs.join(" + "),
            gate: self.gate.clone(),
            semantic: named(&stage.semantic),
            quality: if self.is_joint { JOINT.to_owned() } else { stage.quality_name() },
            run: self.run.to_string(),
            n_runs: mean.n_runs,
            metrics: Metric::PAPER.map(metric),
        };
        let paper = paper::table(stage.paper_table).find(|row| self.is_paper_row(row));
        Ok(ExperimentRow {
            variant: self.name.clone(),
            trained_on: self.trained_on.to_string(),
            dataset: self.dataset.to_string(),
            ours: Some(ours),
            paper: paper.map_or([None; N_PAPER], PaperRow::figures),
        })
    }
}

/// The gate of a head that is no fusion, which the paper does not have.
pub const NO_FUSION: &str = "none";

/// The name of the quality features of a joint training.
const JOINT: &str = "maniqa, trained jointly";

/// A feature set in words.
fn named(set: &FeatureSet) -> String {
    format!("{}@{}", set.extractor, set.fingerprint.short())
}

/// Makes one table.
#[derive(Clone, Debug)]
pub struct ExperimentStage {
    /// Name of the pipeline.
    pub name: PartitionName,
    /// Number of the paper's table.
    pub paper_table: u32,
    /// Its rows.
    pub variants: Vec<ExperimentVariant>,
    /// The feature set with f_a and f_b.
    pub semantic: FeatureSet,
    /// The feature set with f_1; `None` if each variant trains MANIQA jointly and makes its own.
    pub quality: Option<FeatureSet>,
}

impl ExperimentStage {
    fn key(&self) -> Result<ExperimentKey, PartitionNameError> {
        let semantic = self.semantic.extractor.as_str();
        let quality = self.quality.as_ref().map_or("joint", |set| set.extractor.as_str());
        let both = Fingerprint::builder("feature sets")
            .json("semantic", &self.semantic.fingerprint)
            .json("quality", &self.quality.as_ref().map(|set| set.fingerprint))
            .finish();
        let names = if semantic == quality { semantic.to_owned() } else { format!("{semantic}-{quality}") };
        let features = PartitionName::new(&format!("{names}-{}", &both.short()[..8]))?;
        Ok(ExperimentKey { experiment: self.name.clone(), features, paper_table: self.paper_table })
    }

    fn quality_name(&self) -> String {
        self.quality.as_ref().map_or_else(|| JOINT.to_owned(), named)
    }

    /// Fingerprint of the metrics and of all other inputs of the table.
    fn fingerprint(&self, store: &Store) -> Result<Fingerprint, ExperimentError> {
        let mut builder = Fingerprint::builder("experiment");
        builder.json("code_version", &CODE_VERSION).json("variants", &self.variants);
        builder.json("paper", &paper::table(self.paper_table).collect::<Vec<_>>());
        for set in std::iter::once(&self.semantic).chain(&self.quality) {
            builder.json("features", &set.fingerprint);
        }
        for variant in &self.variants {
            let path = variant.metrics_path();
            let bytes = store.get_if_exists(&path)?.unwrap_or_default();
            builder.field(&path, blake3::hash(&bytes).as_bytes());
        }
        Ok(builder.finish())
    }

    /// The table in the store as a report.
    ///
    /// # Errors
    /// Fails if a table is missing or broken.
    pub fn report(&self, store: &Store) -> Result<ExperimentReport, StageError> {
        let key = self.key()?;
        let rows = experiments::read(store, &key)?;
        // For a jointly trained MANIQA, the names of the runs identify the features.
        let is_paper =
            paper::is_semantic_set(&self.semantic) && self.quality.as_ref().is_none_or(paper::is_quality_set);
        Ok(ExperimentReport { key, semantic: named(&self.semantic), quality: self.quality_name(), is_paper, rows })
    }

    fn rows(&self, store: &Store) -> Result<Vec<ExperimentRow>, ExperimentError> {
        let mut rows = Vec::with_capacity(self.variants.len());
        for variant in &self.variants {
            rows.push(variant.row(store, self)?);
        }
        let is_tried = |row: &&PaperRow| {
            let same_data =
                |variant: &ExperimentVariant| row.is_of(variant.trained_on.as_str(), variant.dataset.as_str());
            row.method != paper::METHOD && self.variants.iter().any(same_data)
        };
        rows.extend(paper::table(self.paper_table).filter(is_tried).map(|row| ExperimentRow {
            variant: row.method.clone(),
            trained_on: row.trained_on.as_ref().unwrap_or(&row.dataset).to_lowercase(),
            dataset: row.dataset.to_lowercase(),
            ours: None,
            paper: row.figures(),
        }));
        Ok(rows)
    }
}

impl Stage for ExperimentStage {
    fn name(&self) -> String {
        format!("experiment {} (table {} of the paper)", self.name, self.paper_table)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let key = self.key()?;
        let table = Derived::of(store, &key.path(), experiments::KIND, self.fingerprint(store)?)?;
        if !table.is_current() {
            return Ok(Freshness::Stale { reason: format!("the table {}", table.reason()) });
        }
        if !store.exists(&key.markdown_path())? {
            return Ok(Freshness::Stale { reason: "the table as Markdown is missing".to_owned() });
        }
        let n = self.variants.len() as u64;
        let rows = RowCounts { n_in: n, n_out: n, n_cached: n, ..RowCounts::default() };
        Ok(Freshness::Current { reason: format!("the table of {n} variants is up to date"), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        let store = &context.store;
        let key = self.key()?;
        let rows = self.rows(store)?;
        experiments::write(store, &key, &rows, self.fingerprint(store)?)?;
        store.put(&key.markdown_path(), self.report(store)?.markdown().into_bytes())?;
        let n = self.variants.len() as u64;
        let rows = RowCounts { n_in: n, n_out: n, ..RowCounts::default() };
        let summary = format!("{n} variants in `{}`, as Markdown in `{}`", key.path(), key.markdown_path());
        Ok(StageReport { rows, summary, interrupted: false })
    }
}
