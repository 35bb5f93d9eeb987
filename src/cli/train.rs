//! `agiqa train`: makes missing splits and trains one head per seed.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::exit::Exit;
use super::set::SetArgs;
use super::split::{self, Seeds, SplitArgs};
use super::{Context, path_argument};
use crate::features::{DeviceChoice, Dtype, JoinStage};
use crate::pipeline::training_overlaid;
use crate::splits::SplitStage;
use crate::train::recipes::{
    BatchNorms, FineTuneSettings, HeadInput, HeadKind, HeadSettings, JointSettings, KernelSettings, Protocol,
    RaterSettings, RecipeSettings, Start,
};
use crate::train::{Augment, KeepEpoch, Labels, Optimiser, RunSeed, Schedule, TrainSettings, TrainStage, Training};
use agiqa_nets::fusion::Gate;
use agiqa_nets::raters::RaterName;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::Stage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureSet};
use agiqa_store::tables::models::{self, Runs};

/// Arguments of `agiqa train`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds images and features, and receives the models.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// Dataset to train on.
    #[arg(long)]
    dataset: PartitionName,
    /// Beginning of the runs' names. Default: the semantic extractor's name.
    #[arg(long)]
    name: Option<PartitionName>,
    /// Train MANIQA together with the head, from the images. See the options below.
    #[arg(long, conflicts_with = "quality", group = "network")]
    joint: bool,
    /// Fine-tune the network that made the features, together with the head, from the images. Options that are not given have
    /// other defaults then; see the options below, and `docs/training.md`.
    #[arg(long, group = "network")]
    fine_tune: bool,
    /// Train a network that rates images, e.g. `hyperiqa`, from the images alone. See the options below.
    #[arg(long, value_name = "NETWORK", group = "network", conflicts_with_all = ["features", "semantic", "quality"])]
    rater: Option<RaterName>,
    /// Extractor of the features, `NAME` or `NAME@FINGERPRINT` (or its first digits).
    #[arg(long, value_name = "EXTRACTOR", required_unless_present_any = ["semantic", "rater"])]
    features: Option<String>,
    /// Extractor of f_a and f_b, if it is not the extractor in `--features`.
    #[arg(long, value_name = "EXTRACTOR")]
    semantic: Option<String>,
    /// Extractor of f_1, if it is not the extractor in `--features`. Several, `A,B`, are joined to one f_1.
    #[arg(long, value_name = "EXTRACTOR")]
    quality: Option<String>,
    #[command(flatten)]
    split: SplitArgs,
    /// Seeds of split and training, one run for each: a number, a list `0,3,5`, or a range with both ends, `0..9`
    /// [default: 0; official: 20].
    #[arg(long)]
    seeds: Option<Seeds>,
    /// Seed of the split, if it is not the training's seed. All runs then share one split.
    #[arg(long, value_name = "SEED")]
    split_seed: Option<u32>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    rater_settings: RaterArgs,
    #[command(flatten)]
    set: SetArgs,
}

/// Hyperparameters. An absent option takes the paper's value.
#[derive(clap::Args)]
struct SettingsArgs {
    /// `gated` (the paper's fusion), `kernel-ridge`, or `both`.
    #[arg(long, value_parser = named::<HeadKind>)]
    head: Option<HeadKind>,
    /// Features that the head reads, separated by commas.
    #[arg(long, value_name = "FEATURES", value_delimiter = ',', value_parser = named::<HeadInput>)]
    inputs: Option<Vec<HeadInput>>,
    /// `sigmoid` (paper), `linear` (published code), or `concat` (no gate).
    #[arg(long, value_parser = named::<Gate>)]
    gate: Option<Gate>,
    /// Width of the fusion.
    #[arg(long)]
    width: Option<u32>,
    /// `adam` or `adamw`.
    #[arg(long, value_parser = named::<Optimiser>)]
    optimiser: Option<Optimiser>,
    /// Learning rate.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Weight decay.
    #[arg(long)]
    weight_decay: Option<f64>,
    /// `cosine`, `constant`, `steps` (times 0.9 every 10 epochs) or `official` (a cosine of 100 batches, as published).
    #[arg(long, value_parser = named::<Schedule>)]
    schedule: Option<Schedule>,
    /// Images per step.
    #[arg(long)]
    batch_size: Option<u32>,
    /// Epochs.
    #[arg(long)]
    epochs: Option<u32>,
    /// Share of input values dropped.
    #[arg(long)]
    input_dropout: Option<f64>,
    /// Share of the semantic projections' values dropped.
    #[arg(long)]
    dropout: Option<f64>,
    /// Whether inputs are standardised on the training part.
    #[arg(long)]
    standardise: Option<bool>,
    /// `raw` or `standardised`.
    #[arg(long, value_parser = named::<Labels>)]
    labels: Option<Labels>,
    /// Decay per step of the weights' moving average; 0 for no average.
    #[arg(long)]
    weight_average: Option<f64>,
    /// `best` (by validation) or `last`.
    #[arg(long, value_parser = named::<KeepEpoch>)]
    keep_epoch: Option<KeepEpoch>,
    /// Whether ridge regression is fitted as well, for comparison.
    #[arg(long)]
    ridge: Option<bool>,
    /// Start of the gated head: `random`, or `ridge`, whose scores stay a fixed part.
    #[arg(long, value_parser = named::<Start>)]
    start: Option<Start>,
    /// Factor on the strength of the regression of a ridge start.
    #[arg(long, value_name = "FACTOR")]
    shrinkage: Option<f64>,
    /// Width of the kernel of kernel ridge regression; 0 for a linear kernel.
    #[arg(long)]
    gamma: Option<f64>,
    #[arg(skip)]
    kernel: Option<KernelSettings>,
    /// Leave out images without features or MOS and count them, instead of stopping.
    #[arg(long)]
    allow_missing: bool,
    /// Number of epochs between two saved states.
    #[arg(long)]
    checkpoint_epochs: Option<u32>,
}

/// Further options of a training from the images. They need `--joint`, `--fine-tune` or `--rater`.
#[derive(clap::Args)]
#[command(next_help_heading = "Training from the images (with --joint, --fine-tune or --rater)")]
struct NetworkArgs {
    /// Folder with the weights to start from. `--joint`: with `config.json` [default: ViT-S/14 on the weights `dinov2-s14`].
    /// `--fine-tune`: of the network that made the features [default: the fetched weights]. `--rater`: a checkpoint of the
    /// network or of its trunk, or a folder with its trunks [default: `imagenet` in the weights folder].
    #[arg(long, value_name = "PATH", requires = "network")]
    weights: Option<std::path::PathBuf>,
    /// Side of the input, pixels. `--joint`: on `dinov2-s14`, a multiple of 56 [default: 392]. `--fine-tune`: one of the
    /// features' sides [default: their first].
    #[arg(long, value_name = "PX", requires = "network", conflicts_with = "rater")]
    side: Option<u32>,
    /// Number type of products, `f32` or `bf16`. Weights are f32.
    #[arg(long, requires = "network", conflicts_with = "rater")]
    dtype: Option<Dtype>,
    /// `auto`, `cpu` or `cuda:N`.
    #[arg(long, requires = "network")]
    device: Option<DeviceChoice>,
    /// `horizontal`, `flip` (without turns), `official` (flips upside down, as published) or `none`.
    #[arg(long, requires = "network", conflicts_with = "rater", value_parser = named::<Augment>)]
    augment: Option<Augment>,
    /// Do not train the transformer.
    #[arg(long, requires = "joint")]
    freeze_backbone: bool,
    /// Number of the transformer's first blocks that are not trained.
    #[arg(long, value_name = "N", requires = "network", conflicts_with = "rater")]
    freeze_blocks: Option<u32>,
    /// Factor on the learning rate of the transformer's last block.
    #[arg(long, value_name = "FACTOR", requires = "network", conflicts_with = "rater")]
    backbone_rate: Option<f64>,
    /// Factor on the learning rate from each block of the transformer to the previous one.
    #[arg(long, value_name = "FACTOR", requires = "network", conflicts_with = "rater")]
    layer_decay: Option<f64>,
    /// Factor on the learning rate of MANIQA's parts above the transformer.
    #[arg(long, value_name = "FACTOR", requires = "joint")]
    quality_rate: Option<f64>,
    /// Factor on the learning rate of the fusion.
    #[arg(long, value_name = "FACTOR", requires = "joint")]
    fusion_rate: Option<f64>,
    /// Weight of the loss of MANIQA's own rating, added to the fusion's loss.
    #[arg(long, value_name = "WEIGHT", requires = "joint")]
    rating_loss: Option<f64>,
    /// Number of steps over which the learning rate rises.
    #[arg(long, value_name = "N", requires = "network", conflicts_with = "fine_tune")]
    warmup_steps: Option<u32>,
    /// Number of images in the network at once. A batch's gradients are summed [default: the batch].
    #[arg(long, value_name = "N", requires = "network")]
    micro_batch: Option<u32>,
    /// Sides at which the fine-tuned network scores, separated by commas; a score is their mean [default: the side of
    /// training].
    #[arg(long, value_name = "PX", value_delimiter = ',', requires = "fine_tune")]
    score_sides: Vec<u32>,
    /// Whether the fine-tuned network takes the mean over an image and its mirror image [default: as the features do].
    #[arg(long, requires = "fine_tune")]
    mirror: Option<bool>,
    /// Memory for resized images. Images that do not fit are kept in a file.
    #[arg(long, value_name = "MIB", requires = "network")]
    image_memory_mib: Option<u32>,
    /// Minutes between two saved states within an epoch.
    #[arg(long, value_name = "MINUTES", requires = "network")]
    checkpoint_minutes: Option<f64>,
}

/// Further options of a rating network's training. They need `--rater`.
#[derive(clap::Args)]
#[command(next_help_heading = "Training of a rating network (with --rater)")]
struct RaterArgs {
    /// Variant of the network, as for `agiqa score`.
    #[arg(long, value_name = "NAME", requires = "rater")]
    variant: Option<String>,
    /// `train` (statistics of the batch), `eval` (stored statistics) or `frozen`.
    #[arg(long, requires = "rater", value_parser = named::<BatchNorms>)]
    batch_norm: Option<BatchNorms>,
    /// Side of the random square of a training image [default: by the network's protocol].
    #[arg(long, value_name = "PX", requires = "rater")]
    crop: Option<u32>,
    /// Whether training images are flipped at random [default: by the network's protocol].
    #[arg(long, requires = "rater")]
    flip: Option<bool>,
}

/// Settings whose fields are the arguments that were given, and the defaults for the others.
macro_rules! given_or_default {
    ($settings:ident, $args:ident, $default:ident, [$($field:ident),*], $($as_given:ident),*) => {
        $settings { $($field: $args.$field.unwrap_or($default.$field),)* $($as_given: $args.$as_given),* }
    };
}

impl NetworkArgs {
    #[rustfmt::skip]
    fn joint(self) -> JointSettings {
        let default = JointSettings::default();
        given_or_default!(
            JointSettings, self, default,
            [dtype, device, augment, freeze_blocks, backbone_rate, layer_decay, quality_rate, fusion_rate, rating_loss,
             warmup_steps, image_memory_mib, checkpoint_minutes],
            weights, side, freeze_backbone, micro_batch
        )
    }

    fn fine_tune(self) -> FineTuneSettings {
        let default = FineTuneSettings::default();
        FineTuneSettings {
            weights: self.weights,
            side: self.side,
            score_sides: self.score_sides,
            mirror: self.mirror,
            dtype: self.dtype,
            device: self.device.unwrap_or(default.device),
            augment: self.augment.unwrap_or(default.augment),
            freeze_blocks: self.freeze_blocks.unwrap_or(default.freeze_blocks),
            backbone_rate: self.backbone_rate.unwrap_or(default.backbone_rate),
            layer_decay: self.layer_decay.unwrap_or(default.layer_decay),
            micro_batch: self.micro_batch,
            image_memory_mib: self.image_memory_mib.unwrap_or(default.image_memory_mib),
            checkpoint_minutes: self.checkpoint_minutes.unwrap_or(default.checkpoint_minutes),
            ..default
        }
    }
}

impl RaterArgs {
    fn settings(self, name: RaterName, network: NetworkArgs) -> RaterSettings {
        let default = RaterSettings::of(name);
        RaterSettings {
            network: name,
            weights: network.weights,
            variant: self.variant,
            device: network.device.unwrap_or(default.device),
            batch_norm: self.batch_norm.unwrap_or(default.batch_norm),
            crop: self.crop,
            flip: self.flip,
            micro_batch: network.micro_batch,
            warmup_steps: network.warmup_steps.unwrap_or(default.warmup_steps),
            image_memory_mib: network.image_memory_mib.unwrap_or(default.image_memory_mib),
            checkpoint_minutes: network.checkpoint_minutes.unwrap_or(default.checkpoint_minutes),
        }
    }
}

/// Parses a setting's name in TOML.
pub(super) fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}

impl SettingsArgs {
    /// The settings of the trainer, and those of the head. Absent ones are those of `defaults`.
    #[rustfmt::skip]
    fn settings(mut self, defaults: (TrainSettings, HeadSettings)) -> (TrainSettings, HeadSettings) {
        let (default, of_head) = defaults;
        self.kernel = self.gamma.map(|gamma| KernelSettings { gamma, ..KernelSettings::default() });
        let settings = given_or_default!(
            TrainSettings, self, default,
            [optimiser, learning_rate, weight_decay, schedule, batch_size, epochs, labels, weight_average, keep_epoch,
             checkpoint_epochs],
            allow_missing
        );
        let head = given_or_default!(
            HeadSettings, self, of_head,
            [head, inputs, gate, width, input_dropout, dropout, standardise, ridge, start, shrinkage, kernel],
        );
        (settings, head)
    }
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store, dataset, name, joint, fine_tune, features, semantic, quality, split, seeds, split_seed, .. } =
        args;
    let rater = args.rater;
    // Clap asks for no option that another one excludes.
    let RaterArgs { variant, batch_norm, crop, flip } = &args.rater_settings;
    let has_options = variant.is_some() || batch_norm.is_some() || crop.is_some() || flip.is_some();
    anyhow::ensure!(
        rater.is_some() || !has_options,
        "`--variant`, `--batch-norm`, `--crop` and `--flip` need `--rater NETWORK`"
    );
    let defaults = match rater.and_then(|name| Protocol::of(name).schedule) {
        _ if fine_tune => FineTuneSettings::defaults(),
        Some(schedule) => (TrainSettings { schedule, ..TrainSettings::default() }, HeadSettings::default()),
        None => Default::default(),
    };
    let (settings, head) = args.settings.settings(defaults);
    let recipe = match (joint, fine_tune, rater) {
        (true, ..) => RecipeSettings::Joint { head, joint: args.network.joint() },
        (false, true, _) => RecipeSettings::FineTune { head, fine_tune: args.network.fine_tune() },
        (false, false, Some(name)) => {
            let has_options = head != HeadSettings::default();
            anyhow::ensure!(!has_options, "a rating network has no head: leave out the options of one");
            RecipeSettings::Rater(args.rater_settings.settings(name, args.network))
        }
        (false, false, None) => RecipeSettings::Head(head),
    };
    let (settings, recipe) = training_overlaid(settings, recipe, args.set.arguments())?;
    let store = Store::open(&store, OpenMode::Existing)?;
    let sets = FeatureSet::list(&store)?;
    let of_runs = features_of_runs(&store)?;
    let set = |name: Option<String>, kind| {
        let name = name.or_else(|| features.clone()).unwrap_or_default();
        feature_set(&sets, &of_runs, &name, kind, store.url())
    };
    let semantic = match rater {
        Some(_) => None,
        None => Some(set(semantic, FeatureKind::Semantic)?),
    };
    // If the split has a seed of its own, the training's default seed is 0.
    let default_seed = if split_seed.is_some() { 0 } else { split.default_seed() };
    let seeds = seeds.unwrap_or_else(|| Seeds(vec![default_seed]));
    let split_of = |seed: u32| split.settings(split_seed.unwrap_or(seed));
    let runs: Vec<RunSeed> =
        seeds.0.iter().map(|seed| RunSeed { split: split_of(*seed).name(), seed: *seed }).collect();
    let name = match (name, &semantic) {
        (Some(name), _) => name,
        (None, Some(semantic)) => semantic.extractor.clone(),
        (None, None) => PartitionName::new(rater.map_or("", RaterName::as_str))?,
    };
    let split_seeds = split_seed.map_or_else(|| seeds.0.clone(), |seed| vec![seed]);
    let splits = split::stages(&dataset, &split, &split_seeds);
    if joint || rater.is_some() {
        let training = TrainStage { name, dataset, runs, settings, recipe }.on(semantic, None)?;
        return train(&[training], None, &splits, &store, context);
    }
    anyhow::ensure!(
        quality.is_some() || features.is_some(),
        "the extractor of f_1 is missing: give `--quality EXTRACTOR`, or `--features EXTRACTOR` for all three, or \
         `--joint`"
    );
    let quality_sets = match quality {
        Some(names) => names
            .split(',')
            .map(|name| feature_set(&sets, &of_runs, name, FeatureKind::Quality, store.url()))
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
    let training = |recipe| {
        let (name, dataset, runs, settings) = (name.clone(), dataset.clone(), runs.clone(), settings.clone());
        TrainStage { name, dataset, runs, settings, recipe }.on(semantic.clone(), Some(quality.clone()))
    };
    let trainings = recipe.each().into_iter().map(training).collect::<Result<Vec<_>, _>>()?;
    train(&trainings, join.as_ref(), &splits, &store, context)
}

/// Makes missing joined features and splits, trains, applies the trained networks, and prints the runs' names.
fn train(
    trainings: &[Box<dyn Training>],
    join: Option<&JoinStage>,
    splits: &[SplitStage],
    store: &Store,
    context: &Context,
) -> anyhow::Result<Exit> {
    super::with_run_log("train", &store.clone(), context, |log| {
        let mut stages: Vec<&dyn Stage> = join.into_iter().map(|join| join as &dyn Stage).collect();
        stages.extend(splits.iter().map(|split| split as &dyn Stage));
        let nexts = trainings.iter().map(|training| training.next()).collect::<Result<Vec<_>, _>>()?;
        for (training, next) in trainings.iter().zip(&nexts) {
            stages.push(training.as_ref());
            stages.extend(next.iter().map(|next| next as &dyn Stage));
        }
        let exit = super::execute_all(&stages, &context.on(store.clone()), log)?;
        if exit != Exit::Interrupted && !context.console.is_json() {
            for training in trainings {
                for run in training.plan()?.run_names()? {
                    agiqa_store::console::print(format!("{run}\n"));
                }
            }
        }
        Ok(exit)
    })
}

/// The features that the fine-tuned networks of runs computed.
fn features_of_runs(store: &Store) -> anyhow::Result<HashSet<Fingerprint>> {
    let records = Runs::default().all(store)?;
    let tuned = records.iter().filter(|record| record.recipe == models::FINE_TUNE);
    Ok(tuned.flat_map(|record| &record.inputs).map(|input| input.features.fingerprint).collect())
}

/// The feature set of kind `kind` that `given` (`NAME` or `NAME@FINGERPRINT`) selects. A name alone means none of
/// `of_runs`.
fn feature_set(
    sets: &[FeatureSet],
    of_runs: &HashSet<Fingerprint>,
    given: &str,
    kind: FeatureKind,
    url: &str,
) -> anyhow::Result<FeatureSet> {
    let (name, digits) = given.split_once('@').unwrap_or((given, ""));
    let same_kind: Vec<&FeatureSet> = sets.iter().filter(|set| set.kind == kind).collect();
    let named = |set: &FeatureSet| format!("`{}@{}`", set.extractor, set.fingerprint.short());
    let list = |sets: &[&FeatureSet]| sets.iter().map(|set| named(set)).collect::<Vec<_>>().join(", ");
    let matching: Vec<&FeatureSet> = same_kind
        .iter()
        .copied()
        .filter(|set| set.extractor.as_str() == name && set.fingerprint.to_string().starts_with(digits))
        .filter(|set| !digits.is_empty() || !of_runs.contains(&set.fingerprint))
        .collect();
    let kind_name = match kind {
        FeatureKind::Semantic => "semantic",
        FeatureKind::Quality => "quality",
    };
    match matching.as_slice() {
        [set] => Ok((*set).clone()),
        [] if same_kind.is_empty() => {
            anyhow::bail!("no {kind_name} features in store `{url}`: run `agiqa features` first")
        }
        [] => anyhow::bail!(
            "no {kind_name} features `{given}` in store `{url}`; the {kind_name} features are: {}",
            list(&same_kind)
        ),
        several => anyhow::bail!(
            "`{given}` may be any of several {kind_name} features in store `{url}`; name one with its fingerprint: {}",
            list(several)
        ),
    }
}
