//! `[features]` and `[extractor.…]`: the extractors of each table.

use serde::Deserialize;

use super::{Reader, TrainSection, Variant};
use crate::features::{ExtractorName, FeaturePair, FeatureSettings, JoinStage, resolve};
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::overlay::read_feature_settings;
use crate::pipeline::tree::{Entry, Node, NodeValue, Origin};
use agiqa_store::tables::features::FeatureSet;

/// `[features]` with the `[extractor.…]` tables that it names.
#[derive(Clone, Debug)]
pub struct FeaturesSection {
    /// The extractor that fills `semantic`.
    pub semantic: FeatureSettings,
    /// The extractors that fill `quality`. If the extractor is the same as in `semantic`, it fills both tables in one
    /// pass. Several are joined. The list is empty if every training is joint, because MANIQA then computes the quality
    /// features.
    pub qualities: Vec<FeatureSettings>,
    /// Joins the `f_1` of several extractors.
    pub join: Option<JoinStage>,
    /// The set with f_a and f_b for training.
    pub semantic_set: FeatureSet,
    /// The set with f_1 for training; `None` if every training is joint.
    pub quality_set: Option<FeatureSet>,
}

/// The names of extractors written in `[features]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeatureNames {
    semantic: String,
    #[serde(default)]
    quality: Option<OneOrSeveral>,
}

/// An extractor's name, or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an extractor's name or a list of them")]
enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

impl OneOrSeveral {
    /// Parses names that are separated by `,`.
    fn of_text(text: &str) -> Self {
        Self::Several(text.split(',').map(|name| name.trim().to_owned()).collect())
    }

    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl Reader<'_> {
    pub(super) fn features(&mut self) -> Result<Option<FeaturesSection>, ConfigError> {
        let empty = |origin: Origin| Node { origin, value: NodeValue::Table(Vec::new()) };
        let extractors = self.document.remove("extractor").unwrap_or_else(|| empty(self.document.origin));
        if !matches!(extractors.value, NodeValue::Table(_)) {
            let problem = format!("`extractor`: expected tables `[extractor.<name>]`, found {}", extractors.kind());
            return Err(self.wrong(extractors.origin, problem));
        }
        let Some(node) = self.document.remove("features") else {
            return match extractors.entries().first() {
                Some(entry) => {
                    Err(self.wrong(entry.key_origin, "an extractor has settings, but the pipeline has no `[features]`"))
                }
                None => Ok(None),
            };
        };
        let (names, is_choice) = if let NodeValue::Text(text) = &node.value {
            let (semantic, quality) = text.split_once('+').unwrap_or((text, text));
            let quality = Some(OneOrSeveral::of_text(quality));
            (FeatureNames { semantic: semantic.trim().to_owned(), quality }, true)
        } else {
            (de::settings(self.sources, "features", &node, &[])?, false)
        };
        let qualities = names.quality.as_ref().map_or(&[][..], OneOrSeveral::names);
        if names.quality.is_some() && qualities.is_empty() {
            return Err(self.wrong(node.origin, "`features.quality`: expected at least one extractor, found none"));
        }
        let used: Vec<&str> = std::iter::once(&names.semantic).chain(qualities).map(String::as_str).collect();
        let is_unused = |entry: &&Entry| !used.contains(&entry.key.as_str());
        // A choice leaves some extractors unused. Their settings must be valid, too.
        for entry in extractors.entries().iter().filter(is_unused).filter(|_| is_choice) {
            self.extractor(&entry.key, &entry.node, entry.key_origin)?;
        }
        if let Some(entry) = extractors.entries().iter().find(is_unused).filter(|_| !is_choice) {
            let problem =
                format!("`[features]` does not use extractor `{}`{}", entry.key, suggestion(&entry.key, &used));
            return Err(self.wrong(entry.key_origin, problem));
        }
        let extractor = |key: &str, name: &str| {
            let origin = node.get(key).unwrap_or(&node).origin;
            let table = extractors.get(name).cloned().unwrap_or_else(|| empty(origin));
            let settings = self.extractor(name, &table, origin)?;
            let path = format!("extractor.{name}");
            // Fingerprints do not need loaded weights, so invalid settings are reported before anything runs.
            resolve(&settings)
                .map_err(|error| self.wrong(table.origin, format!("`{path}`: {}", with_causes(&error))))?;
            Ok(settings)
        };
        let semantic = extractor("semantic", &names.semantic)?;
        let qualities = qualities.iter().map(|name| extractor("quality", name)).collect::<Result<Vec<_>, _>>()?;
        let semantic_set = FeaturePair::semantic_of(&semantic);
        let semantic_set = semantic_set.map_err(|error| self.wrong(node.origin, error.to_string()))?;
        let sets = qualities.iter().map(FeaturePair::quality_of).collect::<Result<Vec<_>, _>>();
        let mut sets = sets.map_err(|error| self.wrong(node.origin, error.to_string()))?;
        let join = match sets.as_slice() {
            [] | [_] => None,
            several => {
                let join = JoinStage::new(several.to_vec());
                Some(join.map_err(|error| self.wrong(node.origin, error.to_string()))?)
            }
        };
        let quality_set = join.as_ref().map(|join| join.joined().clone()).or_else(|| sets.pop());
        Ok(Some(FeaturesSection { semantic, qualities, join, semantic_set, quality_set }))
    }

    /// Checks `features.quality`. Training a head alone needs an extractor of f_1. If all trainings are joint, the file
    /// must not name one.
    pub(super) fn check_quality(
        &self,
        features: &FeaturesSection,
        train: &TrainSection,
        variants: &[Variant],
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let trainings: Vec<&TrainSection> = match variants {
            [] => vec![train],
            variants => variants.iter().map(|variant| &variant.train).collect(),
        };
        let trainings: Vec<&TrainSection> =
            trainings.into_iter().filter(|train| train.recipe.reads_columns()).collect();
        if trainings.is_empty() {
            return Ok(());
        }
        let n_joint = trainings.iter().filter(|train| train.recipe.is_joint()).count();
        let problem = match &features.quality_set {
            None if n_joint < trainings.len() => {
                "`features.quality` is missing: the extractor of f_1 (only a joint training, `[train.joint]`, has none)"
            }
            Some(_) if n_joint == trainings.len() => {
                "`[train.joint]` trains MANIQA from the images: leave `features.quality` out"
            }
            _ => return Ok(()),
        };
        Err(self.wrong(origin, problem))
    }

    /// Settings of the extractor `name`, which was written at `origin`.
    fn extractor(&self, name: &str, table: &Node, origin: Origin) -> Result<FeatureSettings, ConfigError> {
        let name = name.parse::<ExtractorName>().map_err(|_| {
            let names: Vec<&str> = ExtractorName::ALL.iter().map(|name| name.as_str()).collect();
            let problem = format!("unknown extractor `{name}`{}", suggestion(name, &names));
            self.wrong(origin, problem)
        })?;
        read_feature_settings(self.sources, name, table.clone())
    }
}

/// An error and its causes in one line, in the format of the command line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
