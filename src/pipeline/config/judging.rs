//! `[predict]`, `[compare]`, `[experiment]` and `[report]`: what is made of trained heads and of scores.

use serde::{Deserialize, Serialize};

use super::{Reader, TrainSection};
use crate::ingest::IngestSettings;
use crate::pipeline::de;
use crate::pipeline::error::ConfigError;
use crate::pipeline::tree::Origin;
use crate::predict::Weighting;
use agiqa_judge::compare::CompareSettings;
use agiqa_judge::evaluate::EvaluateSettings;
use agiqa_judge::paper;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::splits::Part;

/// `[predict]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PredictSection {
    /// Datasets to score in addition to the dataset of the training.
    #[serde(default)]
    pub also: Vec<PartitionName>,
    /// Weights of the average of each split's runs, of all seeds and heads; `None` for no average.
    pub average: Option<Weighting>,
}

/// `[compare]`.
#[derive(Clone, Debug)]
pub struct CompareSection {
    /// The dataset for the comparison. With training, it must be the dataset of the training.
    pub dataset: PartitionName,
    /// Part of the split, and intervals.
    pub settings: CompareSettings,
    /// Whether the comparison ends with the paper's Table 1, missing methods included.
    pub has_table1: bool,
}

/// `[experiment]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSection {
    /// Number of the paper's table whose figures are listed next to the variants.
    pub paper_table: u32,
}

/// `[report]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportSection {
    /// The method whose errors are compared with those of the runs; `None` for the best.
    pub baseline: Option<String>,
    /// Words whose prompts form subsets; empty for the commonest.
    pub words: Vec<String>,
    /// Whether images have thumbnails.
    pub thumbnails: bool,
}

impl Default for ReportSection {
    fn default() -> Self {
        Self { baseline: None, words: Vec::new(), thumbnails: true }
    }
}

impl Reader<'_> {
    pub(super) fn predict(
        &mut self,
        datasets: &[IngestSettings],
        train: Option<&TrainSection>,
    ) -> Result<PredictSection, ConfigError> {
        let Some(node) = self.document.remove("predict") else { return Ok(PredictSection::default()) };
        let Some(train) = train else {
            return Err(self.wrong(node.origin, "`[predict]` needs a `[train]` table"));
        };
        let section: PredictSection = de::settings(self.sources, "predict", &node, &[])?;
        let origin = node.get("also").map_or(node.origin, |also| also.origin);
        for name in &section.also {
            self.check_dataset(datasets, "predict.also", name, origin)?;
            if *name == train.dataset {
                return Err(self.wrong(origin, format!("`predict.also`: `{name}` is scored anyway")));
            }
            self.check_scored("predict.also", train, name, origin)?;
        }
        Ok(section)
    }

    /// Refuses to score `dataset` with a head from a joint training or a fine-tuning on another dataset. The head reads
    /// features of a network that exists only after the training, so no step of the pipeline could compute them for
    /// `dataset`.
    pub(super) fn check_scored(
        &self,
        path: &str,
        train: &TrainSection,
        dataset: &PartitionName,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        if !train.recipe.makes_features() || *dataset == train.dataset {
            return Ok(());
        }
        if !train.recipe.is_joint() {
            let problem = format!(
                "`{path}`: a fine-tuning computes features of `{}` alone, so its head cannot score `{dataset}` within the \
                 pipeline: leave `{dataset}` out, and once a run is trained, compute the features of `{dataset}` with \
                 `agiqa features --weights STORE/models/run=RUN/backbone` and the extractor and sides of the run, then \
                 score it with `agiqa predict --run RUN --dataset {dataset}`",
                train.dataset
            );
            return Err(self.wrong(origin, problem));
        }
        let problem = format!(
            "`{path}`: a joint training computes f_1 of `{}` alone, so its head cannot score `{dataset}` within the \
             pipeline: leave `{dataset}` out, and once a run is trained, compute the features of `{dataset}` with \
             `agiqa features --extractor maniqa --weights STORE/models/run=RUN/maniqa --dataset {dataset}`, then score \
             it with `agiqa predict --run RUN --dataset {dataset}`",
            train.dataset
        );
        Err(self.wrong(origin, problem))
    }

    pub(super) fn compare(
        &mut self,
        datasets: &[IngestSettings],
        train: Option<&TrainSection>,
    ) -> Result<Option<CompareSection>, ConfigError> {
        let Some(mut node) = self.document.remove("compare") else { return Ok(None) };
        let dataset = match (node.remove("dataset"), train) {
            (Some(dataset), _) => {
                let name = de::settings(self.sources, "compare.dataset", &dataset, &[])?;
                self.check_dataset(datasets, "compare.dataset", &name, dataset.origin)?;
                // Splits belong to one dataset.
                if let Some(train) = train.filter(|train| train.dataset != name) {
                    let problem =
                        format!("`compare.dataset`: the splits belong to the training's dataset, `{}`", train.dataset);
                    return Err(self.wrong(dataset.origin, problem));
                }
                name
            }
            (None, Some(train)) => train.dataset.clone(),
            (None, None) if datasets.len() == 1 => datasets[0].dataset.clone(),
            (None, None) => {
                return Err(self.wrong(node.origin, "`[compare]` needs `dataset`: the pipeline has several"));
            }
        };
        let has_table1 = match node.remove("paper_table") {
            None => false,
            Some(table) => match de::settings::<u32>(self.sources, "compare.paper_table", &table, &[])? {
                1 => true,
                other => {
                    let problem = format!("`compare.paper_table = {other}`: expected 1, the paper's table of methods");
                    return Err(self.wrong(table.origin, problem));
                }
            },
        };
        let settings = de::settings(self.sources, "compare", &node, &["dataset", "paper_table"])?;
        Ok(Some(CompareSection { dataset, settings, has_table1 }))
    }

    pub(super) fn experiment(
        &mut self,
        evaluate: Option<&EvaluateSettings>,
        has_features: bool,
    ) -> Result<Option<ExperimentSection>, ConfigError> {
        let Some(node) = self.document.remove("experiment") else { return Ok(None) };
        if !has_features {
            return Err(self.wrong(node.origin, "`[experiment]` needs a `[features]` table: it is about fusion heads"));
        }
        let section: ExperimentSection = de::settings(self.sources, "experiment", &node, &[])?;
        if !evaluate.is_some_and(|settings| settings.parts.contains(&Part::Test)) {
            return Err(
                self.wrong(node.origin, "`[experiment]` needs an `[evaluate]` table, with `test` among its parts")
            );
        }
        if paper::table(section.paper_table).next().is_none() {
            let problem = format!("`experiment.paper_table`: the paper has tables 1 to 5, not {}", section.paper_table);
            return Err(self.wrong(node.origin, problem));
        }
        Ok(Some(section))
    }
}
