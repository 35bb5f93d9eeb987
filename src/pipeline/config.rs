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
//! [train]                           # settings of `agiqa train`, and `dataset` and `seeds`, a list or one per split, e.g.
//!                                   # `{ official-20 = [0, 1] }`; a table `[train.joint]` or `[train.fine_tune]` trains a
//!                                   # network with the head, `[train.rater]` a network that rates images and needs no
//!                                   # `[features]`
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

use super::de;
use super::error::{ConfigError, suggestion};
use super::params;
use super::score::ScoreSettings;
use super::tree::{Node, NodeValue, Origin, Sources};
use crate::baselines::BaselineSettings;
use crate::ingest::IngestSettings;
use crate::ratings::RatingSettings;
use crate::splits::SplitSettings;
use agiqa_judge::check::CheckSettings;
use agiqa_judge::evaluate::EvaluateSettings;
use agiqa_store::tables::PartitionName;

mod data;
mod features;
mod judging;
mod score;
mod training;

pub use features::FeaturesSection;
pub use judging::{CompareSection, ExperimentSection, PredictSection, ReportSection};
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
    /// Pages about the runs and the night; `None` without `[report]`.
    pub report: Option<ReportSection>,
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
        let variants = self.variants(&datasets, features.is_some(), &splits)?;
        let train = match variants.first() {
            Some(first) => Some(first.train.clone()),
            None => match self.document.remove("train") {
                Some(node) => Some(self.train(node, &datasets, features.is_some(), &splits)?),
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
            Some(node) if train.is_none() && score.is_none() => {
                return Err(self.wrong(node.origin, "`[report]` needs a `[train]` or a `[score]` table"));
            }
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
