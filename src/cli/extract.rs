//! `agiqa extract`, and what it shares with `agiqa embed`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use crate::features::{
    DeviceChoice, Dtype, ExtractError, ExtractorName, FeatureSettings, FeatureStage, ImageSource, resolve,
};
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
    /// Side of the square that images are resized to, pixels; default: the extractor's.
    #[arg(long, value_name = "PX")]
    side: Option<u32>,
    /// Number type of the network: `f32` or `bf16`; default: f32.
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

/// Runs the stage for a command that wants features of `kind`.
pub(super) fn run_for(kind: FeatureKind, command: &str, args: Args, context: &Context) -> anyhow::Result<Exit> {
    let defaults = FeatureSettings::default();
    let settings = FeatureSettings {
        extractor: args.extractor,
        weights: args.weights,
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
    let source = match (args.images, args.dataset) {
        (Some(folder), dataset) => ImageSource::Folder { folder, dataset },
        (None, Some(dataset)) => ImageSource::Dataset(dataset),
        (None, None) => anyhow::bail!("nothing to do: give `--dataset NAME` or `--images DIR`"),
    };
    super::run_stage(command, &args.store, &FeatureStage::new(settings, source), context)
}
