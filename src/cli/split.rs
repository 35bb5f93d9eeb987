//! `agiqa split`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa split`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`split` is not built yet")
}
