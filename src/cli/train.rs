//! `agiqa train`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa train`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`train` is not built yet")
}
