//! `agiqa run`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa run`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`run` is not built yet")
}
