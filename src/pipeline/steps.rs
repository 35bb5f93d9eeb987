//! A pipeline's settings as stages, in the order of the data, each with the stages that it builds on.

use super::config::{FeaturesSection, Pipeline, SectionSets, TrainSection};
use super::plan::{StageName, Step};
use crate::baselines::BaselineStage;
use crate::compare::CompareStage;
use crate::evaluate::EvaluateStage;
use crate::features::{FeaturePair, FeatureStage, ImageSource};
use crate::ingest::{IngestStage, Rerun};
use crate::predict::PredictStage;
use crate::splits::{SplitSettings, SplitStage};
use crate::stage::Stage;
use crate::tables::PartitionName;
use crate::train::joint::JointStage;
use crate::train::{RunSeed, TrainError, TrainStage};

impl Pipeline {
    /// The steps.
    ///
    /// # Errors
    /// A name that grows too long when it becomes part of a run's.
    pub fn steps(&self) -> Result<Vec<Step>, TrainError> {
        let mut steps = Steps(Vec::new());
        for dataset in &self.datasets {
            steps.add(StageName::Ingest, IngestStage { settings: dataset.clone(), rerun: Rerun::IfChanged }, &[]);
        }
        if let Some(features) = &self.features {
            for (ingest_idx, dataset) in self.datasets.iter().enumerate() {
                for settings in features.extractors() {
                    let source = ImageSource::Dataset(dataset.dataset.clone());
                    steps.add(StageName::Features, FeatureStage::new(settings.clone(), source), &[ingest_idx]);
                }
            }
        }
        if let Some(settings) = &self.baseline {
            for (ingest_idx, dataset) in self.datasets.iter().enumerate() {
                let source = ImageSource::Dataset(dataset.dataset.clone());
                steps.add(StageName::Baseline, BaselineStage::new(settings.clone(), source), &[ingest_idx]);
            }
        }
        let training = self.training();
        let split_dataset = training.as_ref().map(Training::dataset).or(self.compare_dataset());
        if let Some(split_dataset) = split_dataset {
            let ingest_idx = self.datasets.iter().position(|dataset| dataset.dataset == *split_dataset);
            for split in &self.splits {
                let stage = SplitStage { dataset: split_dataset.clone(), settings: split.clone() };
                steps.add(StageName::Split, stage, &ingest_idx.into_iter().collect::<Vec<_>>());
            }
        }
        if let Some(training) = training {
            let before_training = steps.all();
            let (runs, datasets) = (training.run_names()?, self.scored_datasets(training.dataset()));
            let train_idx = match training {
                Training::Head(stage) => steps.add(StageName::Train, stage, &before_training),
                Training::Joint(stage) => steps.add(StageName::Train, stage, &before_training),
            };
            let predict = PredictStage { runs, datasets };
            let predict_idx = steps.add(StageName::Predict, predict, &[train_idx]);
            for evaluate in self.evaluate_stages()? {
                steps.add(StageName::Evaluate, evaluate, &[predict_idx]);
            }
        }
        let before_comparing = steps.all();
        for compare in self.compare_stages() {
            steps.add(StageName::Compare, compare, &before_comparing);
        }
        Ok(steps.0)
    }

    fn compare_dataset(&self) -> Option<&PartitionName> {
        self.compare.as_ref().map(|compare| &compare.dataset)
    }

    /// One per split, or one over all images; none where nothing is compared.
    pub fn compare_stages(&self) -> Vec<CompareStage> {
        let Some(compare) = &self.compare else { return Vec::new() };
        let splits: Vec<Option<PartitionName>> = match self.splits.as_slice() {
            [] => vec![None],
            splits => splits.iter().map(|split| Some(split.name())).collect(),
        };
        let stage =
            |split| CompareStage { dataset: compare.dataset.clone(), split, settings: compare.settings.clone() };
        splits.into_iter().map(stage).collect()
    }

    /// One per group of runs and dataset; none where nothing is evaluated.
    ///
    /// # Errors
    /// A name that grows too long when it becomes part of a run's.
    pub fn evaluate_stages(&self) -> Result<Vec<EvaluateStage>, TrainError> {
        let (Some(train), Some(settings)) = (self.training(), &self.evaluate) else { return Ok(Vec::new()) };
        let mut stages = Vec::new();
        for group in train.group_names()? {
            let mut runs = Vec::new();
            for run in train.runs() {
                if train.group_name(run)? == group {
                    runs.push(train.run_name(run)?);
                }
            }
            for dataset in self.scored_datasets(train.dataset()) {
                // A run alone is its own group: a mean over one run would say nothing.
                let group = if let [run] = runs.as_slice() { run.clone() } else { group.clone() };
                stages.push(EvaluateStage { runs: runs.clone(), group, dataset, settings: settings.clone() });
            }
        }
        Ok(stages)
    }

    fn scored_datasets(&self, trained_on: &PartitionName) -> Vec<PartitionName> {
        std::iter::once(trained_on).chain(&self.predict.also).cloned().collect()
    }

    fn training(&self) -> Option<Training> {
        let (Some(features), Some(train)) = (&self.features, &self.train) else { return None };
        let (name, dataset, settings) = (self.name.clone(), train.dataset.clone(), train.settings.clone());
        let runs = self.splits.iter().flat_map(|split| train.runs_of(split)).collect();
        Some(match features.sets.clone() {
            SectionSets::Pair(FeaturePair { semantic, quality }) => {
                Training::Head(TrainStage { name, dataset, runs, semantic, quality, settings })
            }
            SectionSets::Semantic(semantic) => Training::Joint(JointStage { name, dataset, runs, semantic, settings }),
        })
    }
}

/// The training of a pipeline.
enum Training {
    /// Of a head over cached columns.
    Head(TrainStage),
    /// Of MANIQA with the head.
    Joint(JointStage),
}

impl Training {
    fn dataset(&self) -> &PartitionName {
        match self {
            Self::Head(stage) => &stage.dataset,
            Self::Joint(stage) => &stage.dataset,
        }
    }

    fn runs(&self) -> &[RunSeed] {
        match self {
            Self::Head(stage) => &stage.runs,
            Self::Joint(stage) => &stage.runs,
        }
    }

    fn run_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        match self {
            Self::Head(stage) => stage.run_name(run),
            Self::Joint(stage) => stage.run_name(run),
        }
    }

    fn run_names(&self) -> Result<Vec<PartitionName>, TrainError> {
        match self {
            Self::Head(stage) => stage.run_names(),
            Self::Joint(stage) => stage.run_names(),
        }
    }

    fn group_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        match self {
            Self::Head(stage) => stage.group_name(run),
            Self::Joint(stage) => stage.group_name(run),
        }
    }

    fn group_names(&self) -> Result<Vec<PartitionName>, TrainError> {
        match self {
            Self::Head(stage) => stage.group_names(),
            Self::Joint(stage) => stage.group_names(),
        }
    }
}

impl FeaturesSection {
    /// The extractors, each once.
    fn extractors(&self) -> Vec<&crate::features::FeatureSettings> {
        let others = self.quality.iter().filter(|quality| **quality != self.semantic);
        std::iter::once(&self.semantic).chain(others).collect()
    }
}

impl TrainSection {
    /// Without seeds of its own, a run takes the one that its split was drawn with.
    fn runs_of(&self, split: &SplitSettings) -> Vec<RunSeed> {
        let seeds = self.seeds.clone().unwrap_or_else(|| vec![split.seed().unwrap_or(0)]);
        seeds.into_iter().map(|seed| RunSeed { split: split.name(), seed }).collect()
    }
}

struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, name: StageName, stage: impl Stage + 'static, after: &[usize]) -> usize {
        self.0.push(Step { name, stage: Box::new(stage), after: after.to_vec() });
        self.0.len() - 1
    }

    fn all(&self) -> Vec<usize> {
        (0..self.0.len()).collect()
    }
}
