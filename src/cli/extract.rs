//! `agiqa extract`, and what it shares with `agiqa embed`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use crate::features::{DeviceChoice, Dtype, ExtractError, ExtractorName, FeatureSettings, FeatureStage, resolve};
use crate::models::mplug_owl2::Prompt;
use crate::store::shard::Shard;
use crate::tables::PartitionName;
use crate::tables::features::FeatureKind;

/// Arguments of `agiqa extract` and `agiqa embed`.
///
/// An extractor that fills both tables fills them in one pass, whichever of the two commands runs first.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store to write to: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    store: String,
    /// Ingested dataset whose images to use; with `--images`, the name of the corpus that the folder becomes (default:
    /// the folder's own name).
    #[arg(long, value_name = "NAME", required_unless_present = "images")]
    dataset: Option<PartitionName>,
    /// Folder of images to use instead of an ingested dataset; no MOS needed.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Extractor.
    #[arg(long, value_name = "NAME", default_value_t)]
    extractor: ExtractorName,
    /// Folder with the extractor's weights and their `config.json`; for extractors whose weights no one may pass on.
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Question to put to a language model about each image, and the column for its answer's embedding; can be given
    /// several times. Default: the two of the paper, as `f_a` and `f_b`.
    #[arg(long = "prompt", value_name = "COLUMN=QUESTION", value_parser = prompt_of)]
    prompts: Vec<Prompt>,
    /// Side of the square that images are resized to, pixels; default: the extractor's.
    #[arg(long, value_name = "PX")]
    side: Option<u32>,
    /// Number type of the network: `f32`, `bf16` or `f16` (CUDA only); default: f32.
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Where the network runs: `auto` (a GPU where there is one), `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,
    /// Images per batch; default: the extractor's. Decides speed and memory, and at most the last bits of the numbers.
    #[arg(long, value_name = "N")]
    batch_size: Option<NonZeroUsize>,
    /// Reject images with more pixels than this before decoding them.
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Compute just this share of the images, for several machines on one store: `k/N`.
    #[arg(long, value_name = "K/N", default_value_t = Shard::WHOLE)]
    shard: Shard,
    /// Try images again that an earlier run rejected.
    #[arg(long)]
    retry_rejects: bool,
    /// Rows at which a part is written.
    #[arg(long, value_name = "N")]
    part_rows: Option<NonZeroUsize>,
    /// Seconds after which a part is written even when it has fewer rows.
    #[arg(long, value_name = "SECS")]
    part_secs: Option<u64>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    run_for(FeatureKind::Quality, "extract", args, context)
}

/// `COLUMN=QUESTION`.
fn prompt_of(text: &str) -> Result<Prompt, String> {
    let (column, question) = text.split_once('=').ok_or("expected COLUMN=QUESTION")?;
    Ok(Prompt { column: column.to_owned(), question: question.to_owned() })
}

/// Runs the stage for a command that wants features of `kind`.
pub(super) fn run_for(kind: FeatureKind, command: &str, args: Args, context: &Context) -> anyhow::Result<Exit> {
    let defaults = FeatureSettings::default();
    let settings = FeatureSettings {
        extractor: args.extractor,
        weights: args.weights,
        prompts: (!args.prompts.is_empty()).then_some(args.prompts),
        side: args.side,
        dtype: args.dtype,
        device: args.device,
        batch_size: args.batch_size,
        max_pixels: args.max_pixels.unwrap_or(defaults.max_pixels),
        shard: args.shard,
        retry_rejects: args.retry_rejects,
        part_rows: args.part_rows.unwrap_or(defaults.part_rows),
        part_secs: args.part_secs.unwrap_or(defaults.part_secs),
    };
    let sets = resolve(&settings)?.feature_sets();
    if sets.of(kind).is_none() {
        let filled = sets.iter().map(|set| set.kind.part_kind().table).next().unwrap_or_default();
        let missing = kind.part_kind().table;
        return Err(ExtractError::NotFilled { extractor: settings.extractor, filled, missing }.into());
    }
    let source = super::image_source(args.images, args.dataset)?;
    super::run_stage(command, &args.store, &FeatureStage::new(settings, source), context)
}
