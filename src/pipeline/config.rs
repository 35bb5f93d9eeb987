//! The pipeline file: its tables and keys, and their settings.
//!
//! ```toml
//! name = "example"                  # names its runs
//! store = "../.demo"                # the store of the tables; --store overrides it
//! skip_absent_weights = true        # leaves steps without weights out, instead of failing
//!
//! [params.root]                     # a value that the user gives with --set root=…; used as ${root}
//! type = "path"
//! help = "folder of the dataset"
//!
//! [[dataset]]                       # settings of `agiqa ingest`, one table per dataset
//! [features]                        # the extractors of `semantic` and of `quality`
//! [extractor.dinov2-s14]            # settings of one extractor, as in `agiqa features`
//! [baseline]                        # settings of `agiqa baseline`: `methods`, `params`, `side`, …
//! [scorer.hyperiqa]                 # settings of a rating network: `weights`, `variant`, …; a table per network
//! [split]                           # settings of `agiqa split`; `seeds = […]` makes one split per seed; `[[split]]` tables
//!                                   # are several kinds
//! [train]                           # settings of `agiqa train`, and `dataset` and `seeds`; a table `[train.joint]` or
//!                                   # `[train.fine_tune]` trains a network with the head, `[train.rater]` a network that
//!                                   # rates images and needs no `[features]`
//! [predict]                         # `also = ["other"]`: further datasets to score; `average = "equal"` or `"validation"`:
//!                                   # averages the runs of each split
//! [evaluate]                        # settings of `agiqa evaluate`
//! [compare]                         # settings of `agiqa compare`, and `dataset`; on each split, or on all images;
//!                                   # `paper_table = 1` ends with the paper's Table 1, missing methods included
//! [[variant]]                       # a separate training: `name`, `train = { … }` over `[train]`, `test` on a dataset
//! [score]                           # a night of a corpus: `sources`, `corpus`, `night`, and `run`, `group` or `methods`
//! [score.extractor.clip-b16]        # settings of what scores it
//! [[check]]                         # checks of that night, as in `agiqa check`
//! [experiment]                      # `paper_table`: the variants in one table, next to the paper's figures
//! [report]                          # a page per run or group: `baseline`, `words`, `thumbnails`
//! ```
//!
//! `features = "A+B"` (or `"A"` for both) chooses the extractors if the file has the settings of several.
//!
//! Relative paths in the file start from the file's folder. Relative paths in a `--set` argument start from the current
//! folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::de;
use super::error::{ConfigError, suggestion};
use super::overlay::read_rating_settings;
use super::params;
use super::score::ScoreSettings;
use super::tree::{Entry, Node, NodeValue, Origin, Sources};
use crate::baselines::BaselineSettings;
use crate::ingest::IngestSettings;
use crate::predict::Weighting;
use crate::ratings::RatingSettings;
use crate::splits::SplitSettings;
use agiqa_judge::check::CheckSettings;
use agiqa_judge::compare::CompareSettings;
use agiqa_judge::evaluate::EvaluateSettings;
use agiqa_judge::paper;
use agiqa_nets::raters::RaterName;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::splits::Part;

mod features;
mod score;
mod training;

pub use features::FeaturesSection;
pub use training::{TrainSection, Variant};

/// A pipeline: its file with the `--set` arguments applied, checked and ready to run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name. The names of its runs start with it.
    pub name: PartitionName,
    /// The store that its file names.
    pub store: Option<String>,
    /// Datasets, in the order of the file, at least one without `[score]`.
    pub datasets: Vec<IngestSettings>,
    /// Extractors of features; `None` without `[features]`.
    pub features: Option<FeaturesSection>,
    /// Handcrafted scores of every dataset; `None` without `[baseline]`.
    pub baseline: Option<BaselineSettings>,
    /// Rating networks that score every dataset, in the order of the file.
    pub scorers: Vec<RatingSettings>,
    /// Splits of the datasets for training, testing or comparison.
    pub splits: Vec<SplitSettings>,
    /// Training; with variants, the first variant's.
    pub train: Option<TrainSection>,
    /// Trainings that replace the single one; empty without `[[variant]]`.
    pub variants: Vec<Variant>,
    /// The final table of the variants.
    pub experiment: Option<ExperimentSection>,
    /// Datasets that a trained head scores.
    pub predict: PredictSection,
    /// Metrics; `None` without `[evaluate]`.
    pub evaluate: Option<EvaluateSettings>,
    /// Comparison of all methods; `None` without `[compare]`.
    pub compare: Option<CompareSection>,
    /// Whether steps whose weights are absent are left out, with those that need their results, instead of being errors.
    pub skip_absent_weights: bool,
    /// The night to score; `None` without `[score]`.
    pub score: Option<ScoreSettings>,
    /// Checks of the night.
    pub checks: Vec<CheckSettings>,
    /// Pages about the runs; `None` without `[report]`.
    pub report: Option<ReportSection>,
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

/// Names of the file's tables and top-level keys.
const KEYS: &[&str] = &[
    "name",
    "store",
    "params",
    "dataset",
    "features",
    "extractor",
    "baseline",
    "scorer",
    "split",
    "train",
    "predict",
    "evaluate",
    "compare",
    "skip_absent_weights",
    "variant",
    "experiment",
    "score",
    "check",
    "report",
];

/// Keys whose values are paths or store URLs. `*` matches any key or position.
const PATHS: &[&str] = &[
    "store",
    "dataset.*.table",
    "dataset.*.images",
    "baseline.params",
    "extractor.*.weights",
    "scorer.*.weights",
    "train.joint.weights",
    "train.fine_tune.weights",
    "variant.*.train.joint.weights",
    "train.rater.weights",
    "variant.*.train.rater.weights",
    "variant.*.train.fine_tune.weights",
    "score.sources.*",
    "score.extractor.*.weights",
    "score.extractor.*.params",
    "split.train",
    "split.validation",
    "split.test",
    "split.*.train",
    "split.*.validation",
    "split.*.test",
];

impl Pipeline {
    /// Reads the pipeline in `path` and lays the `--set` arguments over it.
    ///
    /// # Errors
    /// Anything in the file or the arguments that cannot be used, with its place: syntax errors, unknown keys, values
    /// of a wrong type, parameters without a value, tables without the tables that they need.
    pub fn load(path: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let mut sources = Sources::default();
        let source = sources.add_file(path, &text);
        let mut document = Node::parse(&sources, source, &text)?;
        params::check_names(&sources, &document, KEYS)?;
        params::apply(&mut sources, &mut document, set, &["name", "store", "features", "skip_absent_weights"])?;
        for key in PATHS {
            resolve_paths(&sources, &mut document, &key.split('.').collect::<Vec<_>>());
        }
        Reader { sources: &sources, document }.pipeline()
    }
}

/// Converts the document's tables to settings.
struct Reader<'a> {
    sources: &'a Sources,
    document: Node,
}

impl Reader<'_> {
    fn pipeline(mut self) -> Result<Pipeline, ConfigError> {
        if let Some(entry) = self.document.entries().iter().find(|entry| !KEYS.contains(&entry.key.as_str())) {
            let problem = format!("unknown key `{}`{}", entry.key, suggestion(&entry.key, KEYS));
            return Err(self.wrong(entry.key_origin, problem));
        }
        let name = self.required("name", "the name of the pipeline, which its runs' names start with")?;
        let name = de::settings(self.sources, "name", &name, &[])?;
        let store = match self.document.remove("store") {
            Some(node) => Some(de::settings(self.sources, "store", &node, &[])?),
            None => None,
        };
        let skip_absent_weights = match self.document.remove("skip_absent_weights") {
            Some(node) => de::settings(self.sources, "skip_absent_weights", &node, &[])?,
            None => false,
        };
        let datasets = self.datasets()?;
        let features = self.features()?;
        let baseline = self.baseline()?;
        let scorers = self.scorers()?;
        let splits = self.splits()?;
        let train_origin = self.document.get("train").map(|node| node.origin);
        let variants = self.variants(&datasets, features.is_some(), !splits.is_empty())?;
        let train = match variants.first() {
            Some(first) => Some(first.train.clone()),
            None => match self.document.remove("train") {
                Some(node) => Some(self.train(node, &datasets, features.is_some(), !splits.is_empty())?),
                None => None,
            },
        };
        if let (Some(features), Some(train), Some(origin)) = (&features, &train, train_origin) {
            self.check_quality(features, train, &variants, origin)?;
        }
        let predict = self.predict(&datasets, train.as_ref())?;
        let evaluate = match self.document.remove("evaluate") {
            Some(node) if train.is_none() => {
                return Err(self.wrong(node.origin, "`[evaluate]` needs a `[train]` table"));
            }
            Some(node) => Some(de::settings(self.sources, "evaluate", &node, &[])?),
            None => None,
        };
        let compare = self.compare(&datasets, train.as_ref())?;
        let experiment = self.experiment(evaluate.as_ref(), features.is_some())?;
        let (score, checks) = self.score()?;
        let report = match self.document.remove("report") {
            Some(node) if train.is_none() => return Err(self.wrong(node.origin, "`[report]` needs a `[train]` table")),
            Some(node) => Some(de::settings(self.sources, "report", &node, &[])?),
            None => None,
        };
        Ok(Pipeline {
            name,
            store,
            datasets,
            features,
            baseline,
            scorers,
            splits,
            train,
            variants,
            experiment,
            predict,
            evaluate,
            compare,
            score,
            checks,
            report,
            skip_absent_weights,
        })
    }

    fn baseline(&mut self) -> Result<Option<BaselineSettings>, ConfigError> {
        let Some(node) = self.document.remove("baseline") else { return Ok(None) };
        let settings: BaselineSettings = de::settings(self.sources, "baseline", &node, &[])?;
        settings.check().map_err(|error| self.wrong(node.origin, format!("`baseline`: {error}")))?;
        Ok(Some(settings))
    }

    /// A rating network per table `[scorer.<name>]`.
    fn scorers(&mut self) -> Result<Vec<RatingSettings>, ConfigError> {
        let Some(node) = self.document.remove("scorer") else { return Ok(Vec::new()) };
        if !matches!(node.value, NodeValue::Table(_)) {
            let problem = format!("`scorer`: expected tables `[scorer.<name>]`, found {}", node.kind());
            return Err(self.wrong(node.origin, problem));
        }
        let scorer = |entry: &Entry| {
            let name = entry.key.parse::<RaterName>().map_err(|_| {
                let names: Vec<&str> = RaterName::ALL.iter().map(|name| name.as_str()).collect();
                let problem = format!("unknown scorer `{}`{}", entry.key, suggestion(&entry.key, &names));
                self.wrong(entry.key_origin, problem)
            })?;
            read_rating_settings(self.sources, name, entry.node.clone())
        };
        node.entries().iter().map(scorer).collect()
    }

    fn compare(
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

    fn datasets(&mut self) -> Result<Vec<IngestSettings>, ConfigError> {
        if self.document.get("score").is_some() && self.document.get("dataset").is_none() {
            return Ok(Vec::new());
        }
        let node = self.required("dataset", "at least one `[[dataset]]`, or `[score]`")?;
        let NodeValue::Array(items) = &node.value else {
            let problem = format!("`dataset`: expected `[[dataset]]` tables, found {}", node.kind());
            return Err(self.wrong(node.origin, problem));
        };
        let mut datasets: Vec<IngestSettings> = Vec::new();
        for (idx, item) in items.iter().enumerate() {
            let settings: IngestSettings = de::settings(self.sources, &format!("dataset.{idx}"), item, &[])?;
            if datasets.iter().any(|other| other.dataset == settings.dataset) {
                return Err(self.wrong(item.origin, format!("duplicate dataset `{}`", settings.dataset)));
            }
            datasets.push(settings);
        }
        Ok(datasets)
    }

    /// The splits of `[split]`, or of all `[[split]]` tables.
    fn splits(&mut self) -> Result<Vec<SplitSettings>, ConfigError> {
        let Some(node) = self.document.remove("split") else { return Ok(Vec::new()) };
        let tables = match node.value {
            NodeValue::Array(tables) => tables,
            value => vec![Node { origin: node.origin, value }],
        };
        let mut splits: Vec<SplitSettings> = Vec::new();
        for table in tables {
            let origin = table.origin;
            for split in self.splits_of(table)? {
                if splits.iter().any(|other| other.name() == split.name()) {
                    return Err(self.wrong(origin, format!("duplicate split `{}`", split.name())));
                }
                splits.push(split);
            }
        }
        Ok(splits)
    }

    /// One split per element of `seeds` and of `generators`; a single split if the table has neither.
    fn splits_of(&self, mut node: Node) -> Result<Vec<SplitSettings>, ConfigError> {
        let mut variants = Vec::new();
        let lists =
            [("seeds", "seed"), ("generators", "generator")].map(|(list, single)| (node.remove(list), list, single));
        variants.push(node);
        for (list, plural, single) in lists {
            let Some(list) = list else { continue };
            let origin = list.origin;
            let Some(items) = list.into_items() else {
                let problem = format!("`split.{plural}`: expected an array of at least one {single}");
                return Err(self.wrong(origin, problem));
            };
            variants = variants
                .iter()
                .flat_map(|variant| {
                    items.iter().map(|item| {
                        let mut variant = variant.clone();
                        variant.insert(single, item.clone());
                        variant
                    })
                })
                .collect();
        }
        variants.iter().map(|variant| de::settings(self.sources, "split", variant, &["seeds", "generators"])).collect()
    }

    fn experiment(
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

    fn predict(
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

    fn check_dataset(
        &self,
        datasets: &[IngestSettings],
        path: &str,
        name: &PartitionName,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let names: Vec<&str> = datasets.iter().map(|settings| settings.dataset.as_str()).collect();
        if names.contains(&name.as_str()) {
            return Ok(());
        }
        let problem = format!("`{path}`: the pipeline has no dataset `{name}`{}", suggestion(name.as_str(), &names));
        Err(self.wrong(origin, problem))
    }

    /// Refuses to score `dataset` with a head from a joint training or a fine-tuning on another dataset. The head reads
    /// features of a network that exists only after the training, so no step of the pipeline could compute them for
    /// `dataset`.
    fn check_scored(
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

    fn required(&mut self, key: &str, help: &str) -> Result<Node, ConfigError> {
        self.document.remove(key).ok_or_else(|| self.wrong(self.document.origin, format!("`{key}` is missing: {help}")))
    }

    fn wrong(&self, origin: Origin, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(self.sources.place(origin), problem)
    }
}

/// Makes the paths at the dotted path `key` absolute.
fn resolve_paths(sources: &Sources, node: &mut Node, key: &[&str]) {
    let Some((first, rest)) = key.split_first() else {
        if let NodeValue::Text(text) = &mut node.value {
            *text = params::path_below(text, sources.folder(node.origin));
        }
        return;
    };
    if *first != "*" {
        if let Some(node) = node.get_mut(first) {
            resolve_paths(sources, node, rest);
        }
        return;
    }
    match &mut node.value {
        NodeValue::Array(items) => items.iter_mut().for_each(|item| resolve_paths(sources, item, rest)),
        NodeValue::Table(entries) => {
            entries.iter_mut().for_each(|entry| resolve_paths(sources, &mut entry.node, rest));
        }
        // A value of a wrong type. Its conversion to settings reports it.
        NodeValue::Text(_) | NodeValue::Integer(_) | NodeValue::Real(_) | NodeValue::Truth(_) => {}
    }
}
