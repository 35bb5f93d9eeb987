//! `agiqa schemas`: the tables' schemas as JSON.

use std::path::PathBuf;

use anyhow::Context as _;

use super::Context;
use super::exit::Exit;
use crate::tables::schema_json;

/// Arguments of `agiqa schemas`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Write one file per table into this folder instead of printing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    for (name, text) in schema_json::documents() {
        match &args.out {
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make folder `{}`", folder.display()))?;
                let path = folder.join(name);
                std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
                context.console.info(format!("wrote {}", path.display()));
            }
            None => print!("{text}"),
        }
    }
    Ok(Exit::Done)
}
