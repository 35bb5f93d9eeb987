//! `agiqa score`: scores of images by published networks and handcrafted methods.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::json;

use super::exit::Exit;
use super::images::ImageArgs;
use super::set::SetArgs;
use super::{Context, path_argument};
use crate::baselines::BaselineSettings;
use crate::features::{DeviceChoice, ExtractorName, FeatureStage};
use crate::pipeline::{feature_settings, rating_settings};
use crate::ratings::RatingStage;
use crate::registry;
use agiqa_handcrafted::Method;
use agiqa_nets::raters::RaterName;
use agiqa_store::stage::Stage;

/// Arguments of `agiqa score`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Network or method that scores, as listed by `agiqa methods`. Repeatable.
    #[arg(long = "method", value_name = "NAME", required = true, value_delimiter = ',')]
    methods: Vec<Scorer>,
    /// Checkpoint of a network: a file, or a folder with it. With several networks, `NAME=PATH`. Repeatable. Default:
    /// the folder of the network's name in the weights folder.
    #[arg(long = "weights", value_name = "[NAME=]PATH", value_parser = path_argument())]
    weights: Vec<String>,
    /// Folder with the parameter files of handcrafted methods. Default: `iqa-params` in the weights folder.
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Variant of a network, e.g. the dataset of its head. Default: the first that `agiqa methods` lists.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Device of networks: `auto` (a GPU if the machine has one), `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,
    /// Number of images per batch. It decides speed and memory, and may change the last bits of the numbers.
    #[arg(long, value_name = "N")]
    batch_size: Option<NonZeroUsize>,
    #[command(flatten)]
    set: SetArgs,
}

/// What can score images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scorer {
    /// A handcrafted method.
    Handcrafted(Method),
    /// A network that rates images.
    Network(RaterName),
    /// An extractor whose features have a rating.
    Maniqa,
}

impl FromStr for Scorer {
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

impl Scorer {
    fn handcrafted(self) -> Option<Method> {
        match self {
            Self::Handcrafted(method) => Some(method),
            Self::Network(_) | Self::Maniqa => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Handcrafted(method) => method.as_str(),
            Self::Network(name) => name.as_str(),
            Self::Maniqa => ExtractorName::Maniqa.as_str(),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { images, methods, params, variant, device, batch_size, set, .. } = &args;
    if let Some(twice) = methods.iter().enumerate().find(|(i, method)| methods[..*i].contains(method)) {
        anyhow::bail!("duplicate method `{}`", twice.1.name());
    }
    let weights = weights_of(methods, &args.weights)?;
    let mut stages: Vec<Box<dyn Stage>> = Vec::new();
    let handcrafted: Vec<Method> = methods.iter().filter_map(|method| method.handcrafted()).collect();
    if !handcrafted.is_empty() {
        let given = BaselineSettings { methods: handcrafted, params: params.clone(), ..BaselineSettings::default() };
        stages.push(Box::new(images.baseline(given, set)?));
    }
    for (method, weights) in methods.iter().zip(weights) {
        let mut options = images.options();
        options["weights"] = json!(weights);
        options["variant"] = json!(variant);
        options["device"] = json!(device);
        options["batch_size"] = json!(batch_size);
        match method {
            Scorer::Handcrafted(_) => {}
            Scorer::Network(name) => {
                let settings = rating_settings(*name, &options, set.arguments())?;
                stages.push(Box::new(RatingStage::new(settings, images.source()?)));
            }
            Scorer::Maniqa => {
                let settings = feature_settings(ExtractorName::Maniqa, &options, set.arguments())?;
                stages.push(Box::new(FeatureStage::new(settings, images.source()?)));
            }
        }
    }
    let stages: Vec<&dyn Stage> = stages.iter().map(AsRef::as_ref).collect();
    super::run_stages("score", &images.store, &stages, context)
}

/// The path of each method's weights, as text, among the arguments `given`.
fn weights_of(methods: &[Scorer], given: &[String]) -> anyhow::Result<Vec<Option<String>>> {
    let mut weights = vec![None; methods.len()];
    let networks: Vec<usize> = (0..methods.len()).filter(|i| methods[*i].handcrafted().is_none()).collect();
    for text in given {
        let named = text.split_once('=').and_then(|(name, path)| {
            let i = methods.iter().position(|method| method.name() == name)?;
            Some((i, path))
        });
        let (i, path) = match (named, networks.as_slice()) {
            (Some(named), _) => named,
            (None, [sole]) => (*sole, text.as_str()),
            (None, []) => anyhow::bail!("`--weights {text}`: no network is among the methods"),
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|i| methods[*i].name()).collect();
                anyhow::bail!(
                    "`--weights {text}`: several networks score, so name one: {}=PATH",
                    names.join("=PATH or ")
                );
            }
        };
        if weights[i].replace(path.to_owned()).is_some() {
            anyhow::bail!("`--weights {text}`: `{}` has weights already", methods[i].name());
        }
    }
    Ok(weights)
}
