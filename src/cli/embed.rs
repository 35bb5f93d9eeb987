//! `agiqa embed`: `agiqa extract` for semantic features.

use super::Context;
use super::exit::Exit;
use super::extract;
use agiqa_store::tables::features::FeatureKind;

/// Arguments of `agiqa embed`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    features: extract::Args,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    extract::run_for(FeatureKind::Semantic, "embed", args.features, context)
}
