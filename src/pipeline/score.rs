//! What scores images, and the stages that do: `agiqa score`, and `[score]` of a pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ConfigError;
use super::overlay::{feature_settings, overlaid, rating_settings};
use crate::baselines::{BaselineSettings, BaselineStage};
use crate::corpus::{CorpusError, CorpusSettings, CorpusStage, Existing, Night, NightScorer, NightScoresStage};
use crate::engine::{GuestError, GuestSettings, ImageSource, Output};
use crate::features::{ExtractError, ExtractorName, FeatureSettings, FeatureStage, JoinError, JoinStage, resolve};
use crate::predict::{PredictStage, StraightSettings, StraightStage, Unready, members_of};
use crate::ratings::RatingStage;
use crate::registry;
use agiqa_handcrafted::Method;
use agiqa_nets::raters::RaterName;
use agiqa_store::stage::Stage;
use agiqa_store::store::Store;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{RunRecord, RunRecordError, Runs};
use agiqa_store::tables::scores::ScoreSet;

/// Whether the features of a scored image stay in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FeaturesKept {
    /// They stay, so that another run scores the image without its pixels.
    #[default]
    Keep,
    /// They are scored as they are computed, and nothing but the score stays.
    Drop,
}

/// A method that scores images by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MethodName {
    /// A handcrafted method.
    Handcrafted(Method),
    /// A network that rates images.
    Network(RaterName),
    /// An extractor whose features have a rating.
    Maniqa,
}

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(method) = text.parse() {
            return Ok(Self::Handcrafted(method));
        }
        if text == ExtractorName::Maniqa.as_str() {
            return Ok(Self::Maniqa);
        }
        text.parse().map(Self::Network).map_err(|_| {
            let names: Vec<&str> = registry::scorers().map(|row| row.name).collect();
            let question = agiqa_suggest::question(text, names.iter().copied());
            format!("unknown method `{text}`: expected {}{question}", names.join(", "))
        })
    }
}

impl TryFrom<String> for MethodName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MethodName> for String {
    fn from(method: MethodName) -> Self {
        method.as_str().to_owned()
    }
}

impl MethodName {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handcrafted(method) => method.as_str(),
            Self::Network(name) => name.as_str(),
            Self::Maniqa => ExtractorName::Maniqa.as_str(),
        }
    }

    /// The handcrafted method, if it is one.
    pub fn handcrafted(self) -> Option<Method> {
        match self {
            Self::Handcrafted(method) => Some(method),
            Self::Network(_) | Self::Maniqa => None,
        }
    }
}

/// Settings that scoring cannot use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ScoreError {
    /// Not exactly one of a run, a group and methods.
    #[error("name exactly one kind of scorer: `run`, `group` or `methods` (options `--run`, `--group`, `--method`)")]
    By,
    /// No night is named.
    #[error("sources become a night of a corpus: name both (`corpus` and `night`; options `--corpus`, `--night`)")]
    NoNight,
    /// A method is repeated.
    #[error("duplicate method `{0}`")]
    Twice(&'static str),
    /// A run reads no features.
    #[error("run `{run}` (recipe `{recipe}`) has no head that scores new images: name runs with one, or their group")]
    NoHead { run: PartitionName, recipe: String },
    /// An extractor gives other features than the run reads.
    #[error(
        "run `{run}` reads other features than `{extractor}` would compute{differences}: give the settings of its \
         training (`--set KEY=VALUE`, `--weights PATH`; in a pipeline `[score.extractor.{extractor}]`)"
    )]
    OtherFeatures { run: PartitionName, extractor: String, differences: String },
    /// Methods have no features.
    #[error("`--features drop` is about the features of runs: methods keep none")]
    NoFeatures,
    /// A run cannot be read.
    #[error(transparent)]
    Record(#[from] RunRecordError),
    /// The settings of an extractor or method are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An extractor cannot be used.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// Features cannot be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The night cannot be taken up.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A method cannot be used.
    #[error(transparent)]
    Guest(GuestError),
}

/// What is to be scored.
pub enum Scored {
    /// The sources of a night, taken up first.
    Night(CorpusSettings),
    /// Images that are known.
    Images(ImageSource),
}

/// `[score]`: a night of a corpus, and what scores it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSettings {
    /// Folders, lists, tar files, Parquet files, images.
    pub sources: Vec<String>,
    /// The columns of images of Parquet files, if several hold bytes.
    pub image_columns: Vec<String>,
    /// The corpus. Its name has no dot.
    pub corpus: Option<PartitionName>,
    /// The night's label, such as its date.
    pub night: Option<PartitionName>,
    /// Run whose head scores.
    pub run: Option<PartitionName>,
    /// Group of runs; the mean of their scores counts.
    pub group: Option<PartitionName>,
    /// Methods that score.
    pub methods: Vec<MethodName>,
    /// Whether features stay.
    pub features: FeaturesKept,
    /// The share of the files, `k/N`.
    pub shard: Option<Shard>,
    /// Settings by extractor, network, or `baseline`, as in a pipeline's tables.
    pub extractor: BTreeMap<String, Map<String, Value>>,
    /// Settings of all of them.
    #[serde(skip)]
    pub common: Map<String, Value>,
    /// `--set` arguments for all of them; a key may begin with a name and a dot.
    #[serde(skip)]
    pub set: Vec<String>,
    /// What becomes of a night that exists.
    #[serde(skip)]
    pub existing: Existing,
}

/// Stages, and the scorers that they fill.
#[derive(Default)]
struct Planned {
    stages: Vec<Box<dyn Stage>>,
    scorers: Vec<NightScorer>,
}

impl ScoreSettings {
    /// The night, if sources are named.
    ///
    /// # Errors
    /// Sources are named without a night, or the other way round.
    pub fn scored_night(&self) -> Result<Option<CorpusSettings>, ScoreError> {
        match (&self.corpus, &self.night) {
            (None, None) if self.sources.is_empty() => Ok(None),
            (Some(corpus), Some(night)) if !self.sources.is_empty() => Ok(Some(CorpusSettings {
                night: Night { corpus: corpus.clone(), night: night.clone() },
                sources: self.sources.iter().map(PathBuf::from).collect(),
                image_columns: self.image_columns.clone(),
                shard: self.shard.unwrap_or(Shard::WHOLE),
                existing: self.existing,
            })),
            _ => Err(ScoreError::NoNight),
        }
    }

    /// The stages that score `scored`, in order.
    ///
    /// # Errors
    /// What scores is not named, does not exist, or cannot be used with these settings.
    pub fn stages(&self, store: &Store, records: &Runs, scored: Scored) -> Result<Vec<Box<dyn Stage>>, ScoreError> {
        let (night, source) = match scored {
            Scored::Night(settings) => {
                let (dataset, shard) = (settings.night.dataset()?, settings.shard);
                (Some(settings), ImageSource::Night { dataset, shard })
            }
            Scored::Images(source) => (None, source),
        };
        let planned = match (&self.run, &self.group, self.methods.as_slice()) {
            (Some(run), None, []) => self.by_runs(store, records, run, vec![run.clone()], &source)?,
            (None, Some(group), []) => self.by_runs(store, records, group, records.of_group(store, group)?, &source)?,
            (None, None, [_, ..]) if self.features == FeaturesKept::Drop => return Err(ScoreError::NoFeatures),
            (None, None, [_, ..]) => self.by_methods(&source)?,
            _ => return Err(ScoreError::By),
        };
        let Planned { mut stages, scorers } = planned;
        if let Some(settings) = night {
            for scorer in scorers {
                let (night, shard) = (settings.night.clone(), settings.shard);
                stages.push(Box::new(NightScoresStage { night, scorer, shard }));
            }
            stages.insert(0, Box::new(CorpusStage { settings }));
        }
        Ok(stages)
    }

    /// Settings of the extractor, network or group of methods `name`.
    pub fn own_mut(&mut self, name: &str) -> &mut Map<String, Value> {
        self.extractor.entry(name.to_owned()).or_default()
    }

    /// Options and `--set` arguments of the extractor, network or group of methods `name`.
    fn own(&self, name: &str) -> (Value, Vec<String>) {
        let mut options = self.common.clone();
        options.extend(self.extractor.get(name).cloned().unwrap_or_default());
        let is_others = |key: &str| key.split_once('.').is_some_and(|(other, _)| registry::find(other).is_some());
        let own = |text: &String| match text.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) {
            Some(own) => Some(own.to_owned()),
            None => (!is_others(text)).then(|| text.clone()),
        };
        (Value::Object(options), self.set.iter().filter_map(own).collect())
    }

    fn by_methods(&self, source: &ImageSource) -> Result<Planned, ScoreError> {
        let methods = &self.methods;
        if let Some(twice) = methods.iter().enumerate().find(|(i, method)| methods[..*i].contains(method)) {
            return Err(ScoreError::Twice(twice.1.as_str()));
        }
        let mut planned = Planned::default();
        let handcrafted: Vec<Method> = methods.iter().filter_map(|method| method.handcrafted()).collect();
        if !handcrafted.is_empty() {
            let settings = self.baseline(handcrafted)?;
            planned.add(&settings)?;
            planned.stages.push(Box::new(BaselineStage::new(settings, source.clone())));
        }
        for method in methods {
            let (options, set) = self.own(method.as_str());
            match method {
                MethodName::Handcrafted(_) => {}
                MethodName::Network(name) => {
                    let settings = rating_settings(*name, &options, &set)?;
                    planned.add(&settings)?;
                    planned.stages.push(Box::new(RatingStage::new(settings, source.clone())));
                }
                MethodName::Maniqa => {
                    let settings = feature_settings(ExtractorName::Maniqa, &options, &set)?;
                    planned.add(&settings)?;
                    planned.stages.push(Box::new(FeatureStage::new(settings, source.clone())));
                }
            }
        }
        Ok(planned)
    }

    fn baseline(&self, methods: Vec<Method>) -> Result<BaselineSettings, ScoreError> {
        let (options, set) = self.own("baseline");
        let mut settings = serde_json::to_value(BaselineSettings { methods, ..BaselineSettings::default() });
        if let (Ok(Value::Object(settings)), Value::Object(options)) = (&mut settings, options) {
            // Networks have further options.
            let is_own = |(key, value): &(String, Value)| settings.contains_key(key) && !value.is_null();
            let own: Vec<(String, Value)> = options.into_iter().filter(is_own).collect();
            settings.extend(own);
        }
        let wrong = |error: serde_json::Error| ConfigError::new("`baseline`", error.to_string());
        let settings = settings.and_then(serde_json::from_value::<BaselineSettings>).map_err(wrong)?;
        let settings = overlaid(settings, &set)?;
        settings.check().map_err(|error| ScoreError::Guest(error.into()))?;
        Ok(settings)
    }

    fn by_runs(
        &self,
        store: &Store,
        records: &Runs,
        name: &PartitionName,
        runs: Vec<PartitionName>,
        source: &ImageSource,
    ) -> Result<Planned, ScoreError> {
        let mut weighted = Vec::new();
        for run in &runs {
            let record = records.get(store, run)?;
            // An average has no head: its members score.
            for (member, weight) in members_of(&record).unwrap_or_else(|| vec![(run.clone(), 1.0)]) {
                weighted.push((records.get(store, &member)?, weight));
            }
        }
        let (extractors, joins) = self.inputs_of(weighted.iter().map(|(record, _)| record.as_ref()))?;
        let sets = weighted.iter().map(|(record, weight)| (ScoreSet::of_run(record), *weight)).collect();
        let trained_on = weighted.first().map(|(record, _)| record.dataset.clone());
        let scorers = vec![NightScorer { name: name.clone(), sets, trained_on }];
        let known: Vec<Arc<RunRecord>> = weighted.into_iter().map(|(record, _)| record).collect();
        let runs: Vec<PartitionName> = known.iter().map(|record| record.run.clone()).collect();
        let mut stages: Vec<Box<dyn Stage>> = Vec::new();
        if self.features == FeaturesKept::Drop {
            let settings = StraightSettings { extractors, joins, records: known, store: store.clone() };
            GuestSettings::resolve(&settings).map_err(ScoreError::Guest)?;
            stages.push(Box::new(StraightStage::new(settings, source.clone())));
            return Ok(Planned { stages, scorers });
        }
        for settings in extractors {
            stages.push(Box::new(FeatureStage::new(settings, source.clone())));
        }
        for join in joins {
            stages.push(Box::new(join));
        }
        let shard = match source {
            ImageSource::Night { shard, .. } => *shard,
            ImageSource::Dataset(_) | ImageSource::Folder { .. } => Shard::WHOLE,
        };
        let datasets = vec![source.dataset().map_err(|error| ScoreError::Guest(error.into()))?];
        let predict = PredictStage::new(runs, datasets, records.clone());
        // The stage before has computed all features that can be.
        stages.push(Box::new(PredictStage { unready: Unready::Rejected, shard, ..predict }));
        Ok(Planned { stages, scorers })
    }

    /// The extractors and joins that compute what `records` read.
    fn inputs_of<'a>(
        &self,
        records: impl Iterator<Item = &'a RunRecord>,
    ) -> Result<(Vec<FeatureSettings>, Vec<JoinStage>), ScoreError> {
        let (mut extractors, mut joins): (Vec<FeatureSettings>, Vec<JoinStage>) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for record in records {
            if record.semantic().is_none() || record.quality().is_none() {
                let (run, recipe) = (record.run.clone(), record.recipe.clone());
                return Err(ScoreError::NoHead { run, recipe });
            }
            for wanted in record.inputs.iter().map(|input| &input.features) {
                if !seen.insert(wanted.fingerprint.to_string()) {
                    continue;
                }
                let mut sets = Vec::new();
                // Joined features are named after all their extractors.
                for name in wanted.extractor.as_str().split('.') {
                    let other = || other_features(record, wanted, None);
                    let name: ExtractorName = name.parse().map_err(|_| other())?;
                    let known = extractors.iter().find(|known| known.network.name() == name).cloned();
                    let settings = match known {
                        Some(settings) => settings,
                        None => {
                            let (options, set) = self.own(name.as_str());
                            let settings = feature_settings(name, &options, &set)?;
                            extractors.push(settings.clone());
                            settings
                        }
                    };
                    sets.push(resolve(&settings)?.feature_sets().of(wanted.kind).cloned().ok_or_else(other)?);
                }
                let found = match sets.as_slice() {
                    [set] => set.clone(),
                    several => {
                        let join = JoinStage::new(several.to_vec())?;
                        let joined = join.joined().clone();
                        joins.push(join);
                        joined
                    }
                };
                if found.fingerprint != wanted.fingerprint {
                    return Err(other_features(record, wanted, Some(&found)));
                }
            }
        }
        Ok((extractors, joins))
    }
}

/// The error of a run that reads `wanted`, where these settings give `found`.
fn other_features(record: &RunRecord, wanted: &FeatureSet, found: Option<&FeatureSet>) -> ScoreError {
    let mut differences = Vec::new();
    if let Some((Value::Object(wanted), Value::Object(found))) = found.map(|found| (&wanted.settings, &found.settings))
    {
        for (key, value) in wanted {
            if found.get(key) != Some(value) {
                differences.push(format!("`{key}` was {value}, and is {}", found.get(key).unwrap_or(&Value::Null)));
            }
        }
    }
    let differences = if differences.is_empty() { String::new() } else { format!(" ({})", differences.join("; ")) };
    ScoreError::OtherFeatures { run: record.run.clone(), extractor: wanted.extractor.to_string(), differences }
}

impl Planned {
    /// Adds the scorers that a guest with these settings fills.
    fn add(&mut self, settings: &impl GuestSettings) -> Result<(), ScoreError> {
        for output in settings.resolve().map_err(ScoreError::Guest)?.tasks().into_iter().flat_map(|task| task.outputs) {
            let set = match output {
                Output::Scores(set) => Some(set),
                Output::Vectors(set) => ScoreSet::of_rating(&set),
            };
            self.scorers.extend(set.map(|set| NightScorer {
                name: set.scorer.clone(),
                sets: vec![(set, 1.0)],
                trained_on: None,
            }));
        }
        Ok(())
    }
}
