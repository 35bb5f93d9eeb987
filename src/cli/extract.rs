//! `agiqa extract`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa extract`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`extract` is not built yet")
}
