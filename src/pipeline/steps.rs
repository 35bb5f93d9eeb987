//! Turns a pipeline's settings into stages, in the order of the data, each with the stages that it depends on.

use super::absent::{self, AbsentTraining};
use super::config::{FeaturesSection, Pipeline, ReportSection, TrainSection, Variant};
use super::plan::{StageName, Step};
use crate::baselines::{BaselineSettings, BaselineStage};
use crate::engine::ImageSource;
use crate::features::{FeatureSettings, FeatureStage};
use crate::ingest::{IngestStage, Rerun};
use crate::predict::{AverageStage, PredictStage};
use crate::ratings::RatingStage;
use crate::registry;
use crate::splits::{SplitSettings, SplitStage};
use crate::train::recipes::{HeadKind, RecipeSettings};
use crate::train::{NextStage, RunSeed, TrainError, TrainStage, Training};
use agiqa_judge::compare::CompareStage;
use agiqa_judge::evaluate::EvaluateStage;
use agiqa_judge::experiment::{ExperimentStage, ExperimentVariant, NO_FUSION};
use agiqa_judge::scorer::Scorer;
use agiqa_report::runs::RunsSettings;
use agiqa_report::{ReportStage, Subject};
use agiqa_store::stage::Stage;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;

impl Pipeline {
    /// All steps of the pipeline.
    ///
    /// # Errors
    /// A run's name becomes too long.
    pub fn steps(&self) -> Result<Vec<Step>, TrainError> {
        let mut steps = Steps(Vec::new());
        for dataset in &self.datasets {
            steps.add(StageName::Ingest, IngestStage::new(dataset.clone(), Rerun::IfChanged), &[]);
        }
        if let Some(features) = &self.features {
            for (ingest_idx, dataset) in self.datasets.iter().enumerate() {
                for settings in features.extractors() {
                    let source = ImageSource::Dataset(dataset.dataset.clone());
                    steps.add(StageName::Features, FeatureStage::new(settings.clone(), source), &[ingest_idx]);
                }
            }
            if let Some(join) = &features.join {
                let before_joining = steps.all();
                steps.add(StageName::Features, join.clone(), &before_joining);
            }
        }
        if let Some(settings) = &self.baseline {
            // Where absent parameters are passed over, each method is a step of its own.
            let methods = settings.methods.iter().map(|method| vec![*method]);
            let groups = if self.skip_absent_weights { methods.collect() } else { vec![settings.methods.clone()] };
            for methods in groups {
                for (ingest_idx, dataset) in self.datasets.iter().enumerate() {
                    let source = ImageSource::Dataset(dataset.dataset.clone());
                    let settings = BaselineSettings { methods: methods.clone(), ..settings.clone() };
                    let idx = steps.add(StageName::Baseline, BaselineStage::new(settings, source), &[ingest_idx]);
                    steps.0[idx].method = methods.first().filter(|_| methods.len() == 1).map(|m| method_of(m.as_str()));
                }
            }
        }
        for settings in &self.scorers {
            for (ingest_idx, dataset) in self.datasets.iter().enumerate() {
                let source = ImageSource::Dataset(dataset.dataset.clone());
                let idx = steps.add(StageName::Score, RatingStage::new(settings.clone(), source), &[ingest_idx]);
                steps.0[idx].method = Some(method_of(settings.network.as_str()));
            }
        }
        let (heads, absent) = self.heads_and_absent()?;
        for (dataset, split) in self.split_datasets(&heads) {
            let ingest_idx = self.datasets.iter().position(|ingested| ingested.dataset == dataset);
            let stage = SplitStage { dataset, settings: split };
            steps.add(StageName::Split, stage, &ingest_idx.into_iter().collect::<Vec<_>>());
        }
        let mut evaluate_idx = Vec::new();
        // A run's record is read after the run was trained, so once is enough.
        let records = Runs::default();
        let averages = self.averages(&heads, &records)?;
        let mut predicted = Vec::new();
        // The steps that make the scores of each group of runs.
        let mut makers: Vec<(PartitionName, Vec<usize>)> = Vec::new();
        for head in heads {
            let method = head.method();
            // Columns come from features. A network that rates images needs the images and their parts alone.
            let is_read = |name: StageName| match name {
                StageName::Features => head.recipe.reads_columns(),
                _ => matches!(name, StageName::Ingest | StageName::Split),
            };
            let before_training: Vec<usize> =
                steps.all().into_iter().filter(|idx| is_read(steps.0[*idx].name)).collect();
            let plan = head.train.plan()?;
            let (runs, groups) = (plan.run_names()?, plan.groups()?);
            let predict = PredictStage::new(runs, head.scored.clone(), records.clone());
            let evaluate_stages = self.evaluate_stages_of(&head, &records)?;
            let next = head.train.next()?;
            let mut trained_idx = vec![steps.add_boxed(StageName::Train, head.train, &before_training)];
            steps.0[trained_idx[0]].method = Some(method);
            // The network of a training is applied under the same name, so that `--stage train` makes all that scores need.
            if let Some(next) = next {
                let datasets = if head.recipe.reads_columns() { next.datasets.clone() } else { head.scored };
                let next = NextStage { datasets, ..next };
                trained_idx.push(steps.add(StageName::Train, next, &trained_idx.clone()));
            }
            // A rating network has scored the images when it was applied.
            let scored_idx = match head.recipe.reads_columns() {
                true => vec![steps.add(StageName::Predict, predict, &trained_idx)],
                false => trained_idx,
            };
            predicted.extend(&scored_idx);
            makers.extend(groups.into_iter().map(|(group, _)| (group, scored_idx.clone())));
            for evaluate in evaluate_stages {
                evaluate_idx.push(steps.add(StageName::Evaluate, evaluate, &scored_idx));
            }
        }
        for stage in absent {
            let method = stage.method.clone();
            let idx = steps.add(StageName::Train, stage, &[]);
            steps.0[idx].method = Some(method);
        }
        if let Some(average) = averages {
            let evaluate_stages = self.evaluate_stages_of_average(&average, &records)?;
            let groups = average.groups()?;
            let average_idx = steps.add(StageName::Predict, average, &predicted);
            makers.extend(groups.into_iter().map(|(group, _)| (group, vec![average_idx])));
            for evaluate in evaluate_stages {
                steps.add(StageName::Evaluate, evaluate, &[average_idx]);
            }
        }
        let before_comparing = steps.all();
        for compare in self.compare_stages(&records) {
            steps.add(StageName::Compare, compare, &before_comparing);
        }
        if let Some(experiment) = self.experiment_stage()? {
            steps.add(StageName::Experiment, experiment, &evaluate_idx);
        }
        self.add_reports(&mut steps, &makers, &records)?;
        Ok(steps.0)
    }

    /// Adds the pages, each after all steps but those that make the scores of other groups: a page shows all tables, and
    /// needs the scores of its own group. `makers` are the steps that make the scores of each group.
    fn add_reports(
        &self,
        steps: &mut Steps,
        makers: &[(PartitionName, Vec<usize>)],
        records: &Runs,
    ) -> Result<(), TrainError> {
        for (group, report) in self.report_stages(records)? {
            let own = makers.iter().find(|(made, _)| *made == group).map(|(_, idx)| idx.as_slice()).unwrap_or_default();
            let makes_scores = |idx: usize| matches!(steps.0[idx].name, StageName::Train | StageName::Predict);
            let before: Vec<usize> =
                steps.all().into_iter().filter(|idx| own.contains(idx) || !makes_scores(*idx)).collect();
            steps.add(StageName::Report, report, &before);
        }
        Ok(())
    }

    fn compare_dataset(&self) -> Option<&PartitionName> {
        self.compare.as_ref().map(|compare| &compare.dataset)
    }

    /// One stage per split, or one over all images; empty without `[compare]`.
    pub fn compare_stages(&self, records: &Runs) -> Vec<CompareStage> {
        let Some(compare) = &self.compare else { return Vec::new() };
        let splits: Vec<Option<PartitionName>> = match self.splits.as_slice() {
            [] => vec![None],
            splits => splits.iter().map(|split| Some(split.name())).collect(),
        };
        let (dataset, settings) = (&compare.dataset, &compare.settings);
        let stage = |split| CompareStage {
            dataset: dataset.clone(),
            split,
            settings: settings.clone(),
            records: records.clone(),
        };
        splits.into_iter().map(stage).collect()
    }

    /// One stage per group of runs and dataset; empty without `[evaluate]`.
    ///
    /// # Errors
    /// A run's name becomes too long.
    pub fn evaluate_stages(&self, records: &Runs) -> Result<Vec<EvaluateStage>, TrainError> {
        let mut stages = Vec::new();
        let heads = self.heads()?;
        for head in &heads {
            stages.extend(self.evaluate_stages_of(head, records)?);
        }
        if let Some(average) = self.averages(&heads, records)? {
            stages.extend(self.evaluate_stages_of_average(&average, records)?);
        }
        Ok(stages)
    }

    /// The average of all runs, which `[predict]` may ask for.
    fn averages(&self, heads: &[Head], records: &Runs) -> Result<Option<AverageStage>, TrainError> {
        let (Some(weighting), [first, ..]) = (self.predict.average, heads) else { return Ok(None) };
        let mut members = Vec::new();
        for head in heads {
            members.extend(head.train.plan()?.members()?);
        }
        let name = PartitionName::new(&format!("{}-average", self.name))?;
        let dataset = first.train.dataset().clone();
        Ok(Some(AverageStage { name, dataset, members, weighting, records: records.clone() }))
    }

    fn evaluate_stages_of_average(
        &self,
        average: &AverageStage,
        records: &Runs,
    ) -> Result<Vec<EvaluateStage>, TrainError> {
        let Some(settings) = &self.evaluate else { return Ok(Vec::new()) };
        let stage =
            |(group, runs)| EvaluateStage::new(runs, group, average.dataset.clone(), settings.clone(), records.clone());
        Ok(average.groups()?.into_iter().map(stage).collect())
    }

    fn evaluate_stages_of(&self, head: &Head, records: &Runs) -> Result<Vec<EvaluateStage>, TrainError> {
        let Some(settings) = &self.evaluate else { return Ok(Vec::new()) };
        let mut stages = Vec::new();
        for (group, runs) in head.train.plan()?.groups()? {
            for dataset in &head.scored {
                let (runs, group, dataset) = (runs.clone(), group.clone(), dataset.clone());
                stages.push(EvaluateStage::new(runs, group, dataset, settings.clone(), records.clone()));
            }
        }
        Ok(stages)
    }

    /// The stage of the variants' final table; `None` without `[experiment]`.
    ///
    /// # Errors
    /// A run's name becomes too long.
    pub fn experiment_stage(&self) -> Result<Option<ExperimentStage>, TrainError> {
        let (Some(section), Some(features)) = (&self.experiment, &self.features) else { return Ok(None) };
        let mut variants = Vec::new();
        for head in self.heads()? {
            for (run, _) in head.train.plan()?.groups()? {
                // A rating network fuses nothing, so it has no row of the table.
                let Some(settings) = head.recipe.head() else { continue };
                let is_kernel_ridge = settings.head == HeadKind::KernelRidge;
                variants.push(ExperimentVariant {
                    name: format!("{}{}", head.variant, if is_kernel_ridge { " (kernel ridge)" } else { "" }),
                    inputs: settings.sorted_inputs().iter().map(|input| input.as_str().to_owned()).collect(),
                    gate: if is_kernel_ridge { NO_FUSION } else { settings.gate.as_str() }.to_owned(),
                    is_joint: head.recipe.is_joint(),
                    trained_on: head.train.dataset().clone(),
                    dataset: head.tested.clone(),
                    run,
                });
            }
        }
        Ok(Some(ExperimentStage {
            name: self.name.clone(),
            paper_table: section.paper_table,
            variants,
            semantic: features.semantic_set.clone(),
            quality: features.quality_set.clone(),
        }))
    }

    /// One page per group of runs, and per run without a group, by name; empty without `[report]`.
    ///
    /// # Errors
    /// A run's name becomes too long.
    pub fn report_stages(&self, records: &Runs) -> Result<Vec<(PartitionName, ReportStage)>, TrainError> {
        let Some(ReportSection { baseline, words, thumbnails }) = &self.report else { return Ok(Vec::new()) };
        let heads = self.heads()?;
        let mut groups = Vec::new();
        for head in &heads {
            groups.extend(head.train.plan()?.groups()?);
        }
        if let Some(average) = self.averages(&heads, records)? {
            groups.extend(average.groups()?);
        }
        let stage = |(name, runs): (PartitionName, Vec<PartitionName>)| {
            let scorer = if runs == [name.clone()] { Scorer::Run(name.clone()) } else { Scorer::Group(name.clone()) };
            let (baseline, words) = (baseline.clone(), words.clone());
            let subject = Subject::Runs(RunsSettings { scorer, baseline, words, has_thumbnails: *thumbnails });
            (name, ReportStage::new(subject, records.clone()))
        };
        Ok(groups.into_iter().map(stage).collect())
    }

    /// Names of the runs, each with the name of its variant, or of the pipeline if it has no variants.
    ///
    /// # Errors
    /// A run's name becomes too long.
    pub fn runs(&self) -> Result<Vec<(String, PartitionName)>, TrainError> {
        let mut runs = Vec::new();
        for head in self.heads()? {
            runs.extend(head.train.plan()?.run_names()?.into_iter().map(|run| (head.variant.clone(), run)));
        }
        Ok(runs)
    }

    /// The trainings that can start.
    fn heads(&self) -> Result<Vec<Head>, TrainError> {
        Ok(self.heads_and_absent()?.0)
    }

    /// The trainings, and those that lack the weights that they start from. These count as any other unless absent weights are
    /// passed over.
    fn heads_and_absent(&self) -> Result<(Vec<Head>, Vec<AbsentTraining>), TrainError> {
        let (mut heads, mut absent) = (Vec::new(), Vec::new());
        for head in self.all_heads()? {
            let problem = match self.skip_absent_weights {
                true => head.train.plan().and_then(|plan| plan.run_names()).err(),
                false => None,
            };
            match problem.and_then(|error| absent::absence(&error)) {
                Some(reason) => {
                    absent.push(AbsentTraining { method: head.method(), name: head.train.name(), reason });
                }
                None => heads.push(head),
            }
        }
        Ok((heads, absent))
    }

    /// One training per variant and kind of head.
    fn all_heads(&self) -> Result<Vec<Head>, TrainError> {
        let Some(train) = &self.train else { return Ok(Vec::new()) };
        let features = self.features.as_ref();
        let semantic = features.map(|features| features.semantic_set.clone());
        let quality = features.and_then(|features| features.quality_set.clone());
        let heads =
            |variant: String, name: PartitionName, train: &TrainSection, scored: Vec<_>, tested: PartitionName| {
                let TrainSection { dataset, settings, recipe, .. } = train.clone();
                let runs: Vec<RunSeed> = self.splits.iter().flat_map(|split| train.runs_of(split)).collect();
                let head = |recipe: RecipeSettings| {
                    let (name, dataset, runs) = (name.clone(), dataset.clone(), runs.clone());
                    let training =
                        TrainStage { name, dataset, runs, settings: settings.clone(), recipe: recipe.clone() };
                    let train = training.on(semantic.clone(), quality.clone())?;
                    let (variant, scored, tested) = (variant.clone(), scored.clone(), tested.clone());
                    Ok::<_, TrainError>(Head { variant, train, recipe, scored, tested })
                };
                recipe.each().into_iter().map(head).collect::<Result<Vec<_>, _>>()
            };
        if self.variants.is_empty() {
            let scored = std::iter::once(&train.dataset).chain(&self.predict.also).cloned().collect();
            return heads(self.name.to_string(), self.name.clone(), train, scored, train.dataset.clone());
        }
        let heads_of_variant = |Variant { name, train, test }: &Variant| {
            let mut scored = vec![train.dataset.clone()];
            scored.extend((*test != train.dataset).then(|| test.clone()));
            let run_name = PartitionName::new(&format!("{}-{name}", self.name))?;
            heads(name.to_string(), run_name, train, scored, test.clone())
        };
        Ok(self.variants.iter().map(heads_of_variant).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Every needed split with its dataset. Splits are needed of datasets for training, testing or comparison.
    fn split_datasets(&self, heads: &[Head]) -> Vec<(PartitionName, SplitSettings)> {
        let mut datasets: Vec<&PartitionName> = Vec::new();
        let head_datasets = heads.iter().flat_map(|head| [head.train.dataset(), &head.tested]);
        for dataset in head_datasets.chain(self.compare_dataset().filter(|_| heads.is_empty())) {
            if !datasets.contains(&dataset) {
                datasets.push(dataset);
            }
        }
        let with_splits = |dataset: &PartitionName| {
            let dataset = dataset.clone();
            self.splits.iter().map(move |split| (dataset.clone(), split.clone())).collect::<Vec<_>>()
        };
        datasets.into_iter().flat_map(with_splits).collect()
    }
}

/// One training of a pipeline, and the datasets for its heads.
struct Head {
    /// Name of the variant, or of the pipeline.
    variant: String,
    train: Box<dyn Training>,
    recipe: RecipeSettings,
    /// Datasets that its heads score; the dataset of the training comes first.
    scored: Vec<PartitionName>,
    /// The dataset whose test part is in an experiment's table.
    tested: PartitionName,
}

impl Head {
    /// The row of the paper's Table 1 that its scores have, or else its variant.
    fn method(&self) -> String {
        let network = self.recipe.rater().map(|rater| rater.network.as_str());
        network.and_then(|name| registry::find(name)?.paper_row).map_or_else(|| self.variant.clone(), str::to_owned)
    }
}

impl FeaturesSection {
    /// The extractors, each once.
    fn extractors(&self) -> Vec<&FeatureSettings> {
        let others = self.qualities.iter().filter(|quality| **quality != self.semantic);
        std::iter::once(&self.semantic).chain(others).collect()
    }
}

impl TrainSection {
    fn runs_of(&self, split: &SplitSettings) -> Vec<RunSeed> {
        let seeds = self.seeds.on(split);
        seeds.into_iter().map(|seed| RunSeed { split: split.name(), seed }).collect()
    }
}

/// The row of the paper's Table 1 that the network or method `name` of the registry has, or else its name.
fn method_of(name: &str) -> String {
    registry::find(name).and_then(|row| row.paper_row).unwrap_or(name).to_owned()
}

struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, name: StageName, stage: impl Stage + 'static, after: &[usize]) -> usize {
        self.add_boxed(name, Box::new(stage), after)
    }

    fn add_boxed(&mut self, name: StageName, stage: Box<dyn Stage>, after: &[usize]) -> usize {
        self.0.push(Step { name, stage, after: after.to_vec(), method: None });
        self.0.len() - 1
    }

    fn all(&self) -> Vec<usize> {
        (0..self.0.len()).collect()
    }
}
