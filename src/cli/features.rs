//! `agiqa features`, and its older names `embed` and `extract`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::exit::Exit;
use super::images::ImageArgs;
use super::set::SetArgs;
use crate::features::{DeviceChoice, Dtype, ExtractError, ExtractorName, FeatureStage, resolve};
use crate::pipeline::feature_settings;
use crate::registry;
use agiqa_nets::mplug_owl2::Prompt;
use agiqa_store::path_text::text_of;
use agiqa_store::tables::features::FeatureKind;

/// Arguments of `agiqa features`.
///
/// An extractor that fills both tables fills them in one pass.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Name of the extractor.
    #[arg(long, value_name = "NAME", default_value_t)]
    extractor: ExtractorName,
    /// Folder with the weights and their `config.json`, for extractors whose licence does not allow redistribution.
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Question for a language model about each image, and the column for its embedding. Repeatable. Default: the
    /// paper's two questions, as `f_a` and `f_b`.
    #[arg(long = "prompt", value_name = "COLUMN=QUESTION", value_parser = prompt_of)]
    prompts: Vec<Prompt>,
    /// Side of the square that images are resized to, pixels. Some extractors take several. Default: the extractor's
    /// own.
    #[arg(long = "side", value_name = "PX", value_delimiter = ',')]
    sides: Vec<u32>,
    /// Number type of the network: `f32`, `bf16` or `f16` (CUDA only). Default: f32 on a CPU, f16 on a GPU.
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Device of the network: `auto` (a GPU if the machine has one), `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,
    /// Number of images per batch. It decides speed and memory, and may change the last bits of the numbers. Default:
    /// the extractor's own; on a GPU, no more than fit its memory.
    #[arg(long, value_name = "N")]
    batch_size: Option<NonZeroUsize>,
    #[command(flatten)]
    set: SetArgs,
}

/// Parses `COLUMN=QUESTION`.
fn prompt_of(text: &str) -> Result<Prompt, String> {
    let (column, question) = text.split_once('=').ok_or("expected COLUMN=QUESTION")?;
    Ok(Prompt { column: column.to_owned(), question: question.to_owned() })
}

/// Runs the stage for `command`. A command for features of one `kind` refuses an extractor that does not fill that
/// table.
pub(super) fn run(command: &str, kind: Option<FeatureKind>, args: Args, context: &Context) -> anyhow::Result<Exit> {
    let images = args.images;
    let takes_several = registry::find(args.extractor.as_str()).is_some_and(|row| row.has_setting("sides"));
    let side = match args.sides.as_slice() {
        [side] if !takes_several => Some(json!(side)),
        sides => (!sides.is_empty()).then(|| json!(sides)),
    };
    let mut options = images.options();
    options["weights"] = json!(args.weights.map(text_of));
    options["prompts"] = json!((!args.prompts.is_empty()).then_some(args.prompts));
    options["dtype"] = json!(args.dtype);
    options["device"] = json!(args.device);
    options["batch_size"] = json!(args.batch_size);
    options[if takes_several { "sides" } else { "side" }] = json!(side);
    let settings = feature_settings(args.extractor, &options, args.set.arguments())?;
    let sets = resolve(&settings)?.feature_sets();
    if let Some(kind) = kind.filter(|kind| sets.of(*kind).is_none()) {
        let filled = sets.iter().map(|set| set.kind.part_kind().table).next().unwrap_or_default();
        let missing = kind.part_kind().table;
        return Err(ExtractError::NotFilled { extractor: args.extractor, filled, missing }.into());
    }
    let store = images.store.clone();
    super::run_stage(command, &store, &FeatureStage::new(settings, images.source()?), context)
}
