//! `agiqa ingest`.

use super::Context;
use super::exit::Exit;

/// Arguments of `agiqa ingest`.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _context: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("`ingest` is not built yet")
}
