//! `agiqa extract`, and what it shares with `agiqa embed`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use super::images::ImageArgs;
use crate::features::{DeviceChoice, Dtype, ExtractError, ExtractorName, FeatureSettings, FeatureStage, resolve};
use agiqa_nets::mplug_owl2::Prompt;
use agiqa_store::tables::features::FeatureKind;

/// Arguments of `agiqa extract` and `agiqa embed`.
///
/// An extractor that fills both tables fills them in one pass, whichever of the two commands runs first.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    images: ImageArgs,
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
    let (images, defaults) = (args.images, FeatureSettings::default());
    let settings = FeatureSettings {
        extractor: args.extractor,
        weights: args.weights,
        prompts: (!args.prompts.is_empty()).then_some(args.prompts),
        side: args.side,
        dtype: args.dtype,
        device: args.device,
        batch_size: args.batch_size,
        max_pixels: images.max_pixels.unwrap_or(defaults.max_pixels),
        shard: images.shard,
        retry_rejects: images.retry_rejects,
        part_rows: images.part_rows.unwrap_or(defaults.part_rows),
        part_secs: images.part_secs.unwrap_or(defaults.part_secs),
    };
    let sets = resolve(&settings)?.feature_sets();
    if sets.of(kind).is_none() {
        let filled = sets.iter().map(|set| set.kind.part_kind().table).next().unwrap_or_default();
        let missing = kind.part_kind().table;
        return Err(ExtractError::NotFilled { extractor: settings.extractor, filled, missing }.into());
    }
    let store = images.store.clone();
    super::run_stage(command, &store, &FeatureStage::new(settings, images.source()?), context)
}
