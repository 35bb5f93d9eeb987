//! `agiqa doctor`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa doctor`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`doctor` is not built yet")
}
