//! `agiqa weights`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa weights`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`weights` is not built yet")
}
