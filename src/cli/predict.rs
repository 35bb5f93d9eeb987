//! `agiqa predict`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa predict`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`predict` is not built yet")
}
