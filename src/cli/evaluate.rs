//! `agiqa evaluate`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa evaluate`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`evaluate` is not built yet")
}
