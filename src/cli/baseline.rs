//! `agiqa baseline`: scores of methods that need no training here.

use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use super::images::ImageArgs;
use super::set::SetArgs;
use crate::baselines::{BaselineSettings, BaselineStage};
use agiqa_handcrafted::Method;

/// Arguments of `agiqa baseline`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Methods, separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    methods: Vec<Method>,
    /// Folder with the authors' parameter files: brisque_allmodel and brisque_allrange, niqe_modelparameters.mat,
    /// ilniqe_templateModel.mat. Default: `iqa-params` in the weights folder. `agiqa weights verify brisque niqe
    /// ilniqe` says where to download them.
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Resize images to a square of this side first (bilinear), pixels. Default: images are not resized.
    #[arg(long, value_name = "PX")]
    side: Option<u32>,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (images, defaults) = (args.images, BaselineSettings::default());
    let settings = BaselineSettings {
        methods: if args.methods.is_empty() { defaults.methods } else { args.methods },
        params: args.params,
        side: args.side,
        max_pixels: images.max_pixels.unwrap_or(defaults.max_pixels),
        shard: images.shard,
        retry_rejects: images.retry_rejects,
        part_rows: images.part_rows.unwrap_or(defaults.part_rows),
        part_secs: images.part_secs.unwrap_or(defaults.part_secs),
    };
    let settings = args.set.over(settings)?;
    settings.check()?;
    let store = images.store.clone();
    super::run_stage("baseline", &store, &BaselineStage::new(settings, images.source()?), context)
}
