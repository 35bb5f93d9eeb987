//! `agiqa train`: makes the splits that are not there yet and trains one head per seed.

use std::io::Write;

use serde::de::DeserializeOwned;

use super::Context;
use super::exit::Exit;
use super::split::{self, Seeds, SplitArgs};
use crate::features::JoinStage;
use crate::models::fusion::Gate;
use crate::store::{OpenMode, Store};
use crate::tables::PartitionName;
use crate::tables::features::{FeatureKind, FeatureSet};
use crate::train::{HeadInput, KeepEpoch, Labels, Optimiser, RunSeed, Schedule, TrainSettings, TrainStage};

/// Arguments of `agiqa train`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds images and features and gets the models.
    #[arg(long, value_name = "URL")]
    store: String,
    /// Dataset to train on.
    #[arg(long)]
    dataset: PartitionName,
    /// What the runs' names begin with; default: the semantic extractor's name.
    #[arg(long)]
    name: Option<PartitionName>,
    /// Extractor whose features are read, `NAME` or `NAME@FINGERPRINT` (or its first digits).
    #[arg(long, value_name = "EXTRACTOR", required_unless_present_all(["semantic", "quality"]))]
    features: Option<String>,
    /// Extractor of f_a and f_b where it is not that of `--features`.
    #[arg(long, value_name = "EXTRACTOR")]
    semantic: Option<String>,
    /// Extractor of f_1 where it is not that of `--features`; several, `A,B`, are joined to one f_1.
    #[arg(long, value_name = "EXTRACTOR")]
    quality: Option<String>,
    #[command(flatten)]
    split: SplitArgs,
    /// Seeds, one run each, of split and training: a number, a list `0,3,5`, or a range with both ends, `0..9`.
    #[arg(long, default_value = "0")]
    seeds: Seeds,
    /// Seed of the split where it is not the training's: then all runs share one split.
    #[arg(long, value_name = "SEED")]
    split_seed: Option<u32>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Hyperparameters; what is not given is the paper's.
#[derive(clap::Args)]
struct SettingsArgs {
    /// Features that the head reads, separated by commas [default: f_1,f_a,f_b].
    #[arg(long, value_name = "FEATURES", value_delimiter = ',', value_parser = named::<HeadInput>)]
    inputs: Option<Vec<HeadInput>>,
    /// `sigmoid` (paper), `linear` (published code), or `concat` (no gate) [default: sigmoid].
    #[arg(long, value_parser = named::<Gate>)]
    gate: Option<Gate>,
    /// Width of the fusion [default: 784].
    #[arg(long)]
    width: Option<u32>,
    /// `adam` or `adamw` [default: adam].
    #[arg(long, value_parser = named::<Optimiser>)]
    optimiser: Option<Optimiser>,
    /// Learning rate [default: 1e-5].
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Weight decay [default: 1e-5].
    #[arg(long)]
    weight_decay: Option<f64>,
    /// `cosine` or `constant` [default: cosine].
    #[arg(long, value_parser = named::<Schedule>)]
    schedule: Option<Schedule>,
    /// Images per step [default: 8].
    #[arg(long)]
    batch_size: Option<u32>,
    /// Epochs [default: 30].
    #[arg(long)]
    epochs: Option<u32>,
    /// Share of input values dropped [default: 0].
    #[arg(long)]
    input_dropout: Option<f64>,
    /// Share of the semantic projections' values dropped [default: 0.1].
    #[arg(long)]
    dropout: Option<f64>,
    /// Whether inputs are standardised on the training part [default: true].
    #[arg(long)]
    standardise: Option<bool>,
    /// `raw` or `standardised` [default: raw].
    #[arg(long, value_parser = named::<Labels>)]
    labels: Option<Labels>,
    /// Decay per step of the average of weights that is kept; 0 for none [default: 0].
    #[arg(long)]
    weight_average: Option<f64>,
    /// `best` (by validation) or `last` [default: best].
    #[arg(long, value_parser = named::<KeepEpoch>)]
    keep_epoch: Option<KeepEpoch>,
    /// Whether ridge regression is fitted beside the head [default: true].
    #[arg(long)]
    ridge: Option<bool>,
    /// Leave out images without features or MOS, with a count, rather than stop.
    #[arg(long)]
    allow_missing: bool,
    /// Epochs between two saved states [default: 10].
    #[arg(long)]
    checkpoint_epochs: Option<u32>,
}

/// A setting by its name in the TOML.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}

impl SettingsArgs {
    fn settings(self) -> TrainSettings {
        let default = TrainSettings::default();
        TrainSettings {
            inputs: self.inputs.unwrap_or(default.inputs),
            gate: self.gate.unwrap_or(default.gate),
            width: self.width.unwrap_or(default.width),
            optimiser: self.optimiser.unwrap_or(default.optimiser),
            learning_rate: self.learning_rate.unwrap_or(default.learning_rate),
            weight_decay: self.weight_decay.unwrap_or(default.weight_decay),
            schedule: self.schedule.unwrap_or(default.schedule),
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            epochs: self.epochs.unwrap_or(default.epochs),
            input_dropout: self.input_dropout.unwrap_or(default.input_dropout),
            dropout: self.dropout.unwrap_or(default.dropout),
            standardise: self.standardise.unwrap_or(default.standardise),
            labels: self.labels.unwrap_or(default.labels),
            weight_average: self.weight_average.unwrap_or(default.weight_average),
            keep_epoch: self.keep_epoch.unwrap_or(default.keep_epoch),
            ridge: self.ridge.unwrap_or(default.ridge),
            allow_missing: self.allow_missing,
            checkpoint_epochs: self.checkpoint_epochs.unwrap_or(default.checkpoint_epochs),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store, dataset, name, features, semantic, quality, split, seeds, split_seed, settings } = args;
    let store = Store::open(&store, OpenMode::Existing)?;
    let sets = FeatureSet::list(&store)?;
    let set = |given: Option<String>, kind| {
        let given = given.or_else(|| features.clone()).unwrap_or_default();
        feature_set(&sets, &given, kind, store.url())
    };
    let semantic = set(semantic, FeatureKind::Semantic)?;
    let quality_sets = match quality {
        Some(names) => names
            .split(',')
            .map(|name| feature_set(&sets, name, FeatureKind::Quality, store.url()))
            .collect::<anyhow::Result<Vec<_>>>()?,
        None => vec![set(None, FeatureKind::Quality)?],
    };
    let (quality, join) = match quality_sets.as_slice() {
        [quality] => (quality.clone(), None),
        _ => {
            let join = JoinStage::new(quality_sets)?;
            (join.joined().clone(), Some(join))
        }
    };
    let split_of = |seed: u32| split.settings(split_seed.unwrap_or(seed));
    let stage = TrainStage {
        name: name.unwrap_or_else(|| semantic.extractor.clone()),
        runs: seeds.0.iter().map(|seed| RunSeed { split: split_of(*seed).name(), seed: *seed }).collect(),
        dataset: dataset.clone(),
        semantic,
        quality,
        settings: settings.settings(),
    };
    let split_seeds = split_seed.map_or(seeds.0, |seed| vec![seed]);
    super::with_run_log("train", &store.clone(), |log| {
        let stage_context = context.on(store.clone());
        let mut exit = Exit::Done;
        if let Some(join) = &join {
            exit = super::execute(join, &stage_context, log)?;
        }
        for stage in split::stages(&dataset, &split, &split_seeds) {
            exit = exit.and(super::execute(&stage, &stage_context, log)?);
        }
        exit = exit.and(super::execute(&stage, &stage_context, log)?);
        if exit != Exit::Interrupted && !context.console.is_json() {
            for run in stage.run_names()? {
                // Whoever closed the pipe has read enough.
                let _ = writeln!(std::io::stdout().lock(), "{run}");
            }
        }
        Ok(exit)
    })
}

/// The feature set that `given` (`NAME` or `NAME@FINGERPRINT`) means among those of kind `kind`.
fn feature_set(sets: &[FeatureSet], given: &str, kind: FeatureKind, url: &str) -> anyhow::Result<FeatureSet> {
    let (name, digits) = given.split_once('@').unwrap_or((given, ""));
    let of_kind: Vec<&FeatureSet> = sets.iter().filter(|set| set.kind == kind).collect();
    let named = |set: &FeatureSet| format!("`{}@{}`", set.extractor, set.fingerprint.short());
    let list = |sets: &[&FeatureSet]| sets.iter().map(|set| named(set)).collect::<Vec<_>>().join(", ");
    let matching: Vec<&FeatureSet> = of_kind
        .iter()
        .copied()
        .filter(|set| set.extractor.as_str() == name && set.fingerprint.to_string().starts_with(digits))
        .collect();
    let kind_name = match kind {
        FeatureKind::Semantic => "semantic",
        FeatureKind::Quality => "quality",
    };
    match matching.as_slice() {
        [set] => Ok((*set).clone()),
        [] if of_kind.is_empty() => anyhow::bail!(
            "there are no {kind_name} features in store `{url}`: run `agiqa {}` first",
            if kind == FeatureKind::Semantic { "embed" } else { "extract" }
        ),
        [] => anyhow::bail!("no {kind_name} features `{given}` in store `{url}`; there are: {}", list(&of_kind)),
        several => anyhow::bail!(
            "`{given}` may be any of several {kind_name} features in store `{url}`; name one with its fingerprint: {}",
            list(several)
        ),
    }
}
