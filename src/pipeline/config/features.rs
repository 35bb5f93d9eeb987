//! `[features]` and `[extractor.…]`: which extractors fill which table.

use serde::Deserialize;

use super::{Reader, TrainSection, Variant};
use crate::features::{FeaturePair, FeatureSettings, JoinStage, resolve};
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::tree::{Entry, Node, NodeValue, Origin};
use agiqa_store::tables::features::FeatureSet;

/// `[features]` with the `[extractor.…]` tables that it names.
#[derive(Clone, Debug)]
pub struct FeaturesSection {
    /// Fills `semantic`.
    pub semantic: FeatureSettings,
    /// Fill `quality`; the same extractor as `semantic` fills both in one pass. Several are joined; none where every
    /// training is joint, in which MANIQA makes the quality features itself.
    pub qualities: Vec<FeatureSettings>,
    /// Makes one `f_1` of several.
    pub join: Option<JoinStage>,
    /// What is trained on as f_a and f_b.
    pub semantic_set: FeatureSet,
    /// What is trained on as f_1, where MANIQA does not make it in training.
    pub quality_set: Option<FeatureSet>,
}

/// `[features]` as written: names of extractors.
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
    /// What a list that `,` separates says; a single name is a list of one.
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
                    Err(self.wrong(entry.key_origin, "an extractor is set up, but there is no `[features]`"))
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
        // A choice leaves others unchosen; what they say must make sense all the same.
        for entry in extractors.entries().iter().filter(is_unused).filter(|_| is_choice) {
            self.extractor(
                &entry.key,
                &entry.node,
                &Node { origin: entry.key_origin, value: NodeValue::Text(entry.key.clone()) },
            )?;
        }
        if let Some(entry) = extractors.entries().iter().find(is_unused).filter(|_| !is_choice) {
            let problem =
                format!("`[features]` does not use extractor `{}`{}", entry.key, suggestion(&entry.key, &used));
            return Err(self.wrong(entry.key_origin, problem));
        }
        let extractor = |key: &str, name: &str| {
            let origin = node.get(key).unwrap_or(&node).origin;
            let table = extractors.get(name).cloned().unwrap_or_else(|| empty(origin));
            let settings = self.extractor(name, &table, &Node { origin, value: NodeValue::Text(name.to_owned()) })?;
            let path = format!("extractor.{name}");
            // Fingerprints need no weights, so what an extractor refuses is told before anything runs.
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

    /// Whoever trains a head alone needs an extractor of f_1; whoever only trains MANIQA with it must not name one.
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
        let n_joint = trainings.iter().filter(|train| train.recipe.is_joint()).count();
        let problem = match &features.quality_set {
            None if n_joint < trainings.len() => {
                "`features.quality` is missing: the extractor of f_1 (only a joint training, `[train.joint]`, makes its own)"
            }
            Some(_) if n_joint == trainings.len() => {
                "`[train.joint]` trains MANIQA from the images: leave `features.quality` out"
            }
            _ => return Ok(()),
        };
        Err(self.wrong(origin, problem))
    }

    /// Settings of one extractor. They take its name as a key of theirs; the file gives it once, in the table's header.
    fn extractor(&self, name: &str, table: &Node, name_node: &Node) -> Result<FeatureSettings, ConfigError> {
        let mut table = table.clone();
        table.insert("extractor", name_node.clone());
        de::settings(self.sources, &format!("extractor.{name}"), &table, &[])
    }
}

/// An error and its causes in one line, as the command line prints them.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
