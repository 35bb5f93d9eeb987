//! `agiqa schemas`: the tables' schemas, the events and the reports' numbers as JSON.

use std::path::PathBuf;

use anyhow::Context as _;

use super::Context;
use super::events;
use super::exit::Exit;
use agiqa_store::tables::schema_json;

/// Arguments of `agiqa schemas`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Write one file per table into this folder instead of printing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut documents = schema_json::documents();
    documents.extend([events::document(), agiqa_report::document()]);
    let Some(folder) = args.out else {
        let text: String = documents.into_iter().map(|(_, text)| text).collect();
        agiqa_store::console::print(text);
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make folder `{}`", folder.display()))?;
    for (name, text) in documents {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        context.console.info(format!("wrote {}", path.display()));
    }
    Ok(Exit::Done)
}
