//! `agiqa baseline`: scores of methods that need no training here.

use std::path::PathBuf;

use super::Context;
use super::exit::Exit;
use super::images::ImageArgs;
use super::set::SetArgs;
use crate::baselines::BaselineSettings;
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
    let mut given = BaselineSettings { params: args.params, side: args.side, ..BaselineSettings::default() };
    if !args.methods.is_empty() {
        given.methods = args.methods;
    }
    super::run_stage("baseline", &args.images.store, &args.images.baseline(given, &args.set)?, context)
}
