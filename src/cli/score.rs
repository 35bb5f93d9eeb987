//! `agiqa score`: scores of images by trained heads, published networks and handcrafted methods.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::images::ImageArgs;
use super::set::SetArgs;
use super::{Context, path_argument};
use crate::corpus::Existing;
use crate::features::{DeviceChoice, ExtractorName};
use crate::pipeline::{FeaturesKept, MethodName, ScoreSettings, Scored};
use crate::registry;
use agiqa_store::path_text::text_of;
use agiqa_store::stage::Stage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;

/// Arguments of `agiqa score`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the images of a night are: folders, lists (txt, csv, tsv, jsonl, parquet), tar files, Parquet files with image
    /// bytes, images. They become a night of a corpus.
    #[arg(value_name = "SOURCE", requires = "corpus", requires = "night", conflicts_with_all = ["dataset", "images"])]
    sources: Vec<PathBuf>,
    /// Corpus that the sources belong to. A file that one of its nights has had is not read again.
    #[arg(long, value_name = "NAME", requires = "sources")]
    corpus: Option<PartitionName>,
    /// Label of the night, such as its date. Labels are in the order of their text.
    #[arg(long, value_name = "LABEL", requires = "sources")]
    night: Option<PartitionName>,
    /// Take up a night again that exists, instead of adding to it.
    #[arg(long, requires = "sources")]
    replace: bool,
    /// Columns of Parquet files that hold images, if several hold bytes.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "sources")]
    image_column: Vec<String>,
    #[command(flatten)]
    images: ImageArgs,
    /// Run whose head scores, over the features that it was trained on.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["group", "methods"])]
    run: Option<PartitionName>,
    /// Group of runs whose heads score. The score of an image is their mean.
    #[arg(long, value_name = "GROUP", conflicts_with = "methods")]
    group: Option<PartitionName>,
    /// Network or method that scores, as listed by `agiqa methods`. Repeatable.
    #[arg(long = "method", value_name = "NAME", value_delimiter = ',', required_unless_present_any = ["run", "group"])]
    methods: Vec<MethodName>,
    /// With a run: `keep` its features in the store, or `drop` them and keep scores alone.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "keep")]
    features: FeaturesKept,
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

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let url = args.images.store.clone();
    let settings = args.settings()?;
    let night = settings.scored_night()?;
    let mode = if settings.methods.is_empty() { OpenMode::Existing } else { OpenMode::CreateIfMissing };
    let store = Store::open(&url, mode)?;
    if let Some(night) = &night {
        context.done.set_night(&night.night.corpus, &night.night.night);
    }
    let scored = match night {
        Some(night) => Scored::Night(night),
        None => Scored::Images(args.images.source()?),
    };
    let stages = settings.stages(&store, &Runs::default(), scored)?;
    let stages: Vec<&dyn Stage> = stages.iter().map(AsRef::as_ref).collect();
    super::run_stages("score", &url, &stages, context)
}

impl Args {
    fn settings(&self) -> anyhow::Result<ScoreSettings> {
        let mut common: Map<String, Value> = Map::new();
        if let Value::Object(options) = self.images.options() {
            common.extend(options);
        }
        let is_night = !self.sources.is_empty();
        if is_night {
            // The share of a night is one of its files, which the night's table has already.
            common.remove("shard");
        }
        common.extend([("device".to_owned(), json!(self.device)), ("batch_size".to_owned(), json!(self.batch_size))]);
        let mut settings = ScoreSettings {
            sources: self.sources.iter().map(text_of).collect(),
            image_columns: self.image_column.clone(),
            corpus: self.corpus.clone(),
            night: self.night.clone(),
            run: self.run.clone(),
            group: self.group.clone(),
            methods: self.methods.clone(),
            features: self.features,
            shard: Some(self.images.shard),
            common,
            set: self.set.arguments().to_vec(),
            existing: if self.replace { Existing::Replaced } else { Existing::Kept },
            ..ScoreSettings::default()
        };
        if let Some(params) = &self.params {
            settings.own_mut("baseline").insert("params".to_owned(), json!(text_of(params)));
        }
        for (name, path) in weights_of(&self.methods, &self.weights)? {
            settings.own_mut(&name).insert("weights".to_owned(), json!(path));
        }
        if let Some(variant) = &self.variant {
            for method in self.methods.iter().filter(|method| method.handcrafted().is_none()) {
                settings.own_mut(method.as_str()).insert("variant".to_owned(), json!(variant));
            }
        }
        Ok(settings)
    }
}

/// The networks among the arguments `given`, each with the path of its weights.
fn weights_of(methods: &[MethodName], given: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let networks: Vec<&str> =
        methods.iter().filter(|method| method.handcrafted().is_none()).map(|method| method.as_str()).collect();
    let is_by_run = methods.is_empty();
    let mut weights: Vec<(String, String)> = Vec::new();
    for text in given {
        let is_network = |name: &str| {
            if is_by_run {
                registry::find(name).is_some()
            } else {
                methods.iter().any(|method| method.as_str() == name)
            }
        };
        let named = text.split_once('=').filter(|(name, _)| is_network(name));
        let (name, path) = match (named, networks.as_slice()) {
            (Some(named), _) => named,
            (None, [sole]) => (*sole, text.as_str()),
            (None, []) if is_by_run => {
                let names: Vec<&str> = ExtractorName::ALL.iter().map(|name| name.as_str()).collect();
                anyhow::bail!("`--weights {text}`: name the extractor of the run: NAME=PATH with {}", names.join(", "));
            }
            (None, []) => anyhow::bail!("`--weights {text}`: no network is among the methods"),
            (None, several) => {
                anyhow::bail!(
                    "`--weights {text}`: several networks score, so name one: {}=PATH",
                    several.join("=PATH or ")
                )
            }
        };
        if weights.iter().any(|(known, _)| known == name) {
            anyhow::bail!("`--weights {text}`: `{name}` has weights already");
        }
        weights.push((name.to_owned(), path.to_owned()));
    }
    Ok(weights)
}
