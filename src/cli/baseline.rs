//! `agiqa baseline`: scores of methods that need no training here.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use crate::baselines::{BaselineSettings, BaselineStage, Method};
use crate::store::shard::Shard;
use crate::tables::PartitionName;

/// Arguments of `agiqa baseline`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store to write to: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    store: String,
    /// Ingested dataset whose images to score; with `--images`, the name of the corpus that the folder becomes (default:
    /// the folder's own name).
    #[arg(long, value_name = "NAME", required_unless_present = "images")]
    dataset: Option<PartitionName>,
    /// Folder of images to score instead of an ingested dataset; no MOS needed.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Methods: brisque, niqe, ilniqe; default: all.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    methods: Vec<Method>,
    /// Folder with the authors' parameter files: brisque_allmodel and brisque_allrange, niqe_modelparameters.mat,
    /// ilniqe_templateModel.mat; default: `iqa-params` in the weights folder. `agiqa weights verify brisque niqe ilniqe`
    /// says where they come from.
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Resize images to a square of this side first (bilinear), pixels; default: score them as they are.
    #[arg(long, value_name = "PX")]
    side: Option<u32>,
    /// Reject images with more pixels than this before decoding them.
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Score just this share of the images, for several machines on one store: `k/N`.
    #[arg(long, value_name = "K/N", default_value_t = Shard::WHOLE)]
    shard: Shard,
    /// Try images again that an earlier run rejected.
    #[arg(long)]
    retry_rejects: bool,
    /// Scores at which a part is written.
    #[arg(long, value_name = "N")]
    part_rows: Option<NonZeroUsize>,
    /// Seconds after which a part is written even when it has fewer scores.
    #[arg(long, value_name = "SECS")]
    part_secs: Option<u64>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let defaults = BaselineSettings::default();
    let settings = BaselineSettings {
        methods: if args.methods.is_empty() { defaults.methods } else { args.methods },
        params: args.params,
        side: args.side,
        max_pixels: args.max_pixels.unwrap_or(defaults.max_pixels),
        shard: args.shard,
        retry_rejects: args.retry_rejects,
        part_rows: args.part_rows.unwrap_or(defaults.part_rows),
        part_secs: args.part_secs.unwrap_or(defaults.part_secs),
    };
    settings.check()?;
    let source = super::image_source(args.images, args.dataset)?;
    super::run_stage("baseline", &args.store, &BaselineStage::new(settings, source), context)
}
