//! `agiqa embed`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa embed`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`embed` is not built yet")
}
