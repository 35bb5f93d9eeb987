//! `agiqa reproduce`: trains a run again and compares.

use super::exit::Exit;
use super::judging::BootstrapArgs;
use super::{Context, path_argument};
use crate::reproduce;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;

/// Arguments of `agiqa reproduce`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run to train again: a head over cached columns. Nothing in the store changes.
    #[arg(value_name = "RUN")]
    run: PartitionName,
    /// Store that holds the run, its features and its images.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let store = Store::open(&args.store, OpenMode::Existing)?;
    let found = reproduce::reproduce(&args.run, args.bootstrap.settings(), &context.on(store))?;
    let Some(found) = found else { return Ok(Exit::Interrupted) };
    if context.console.is_json() {
        #[derive(serde::Serialize)]
        #[serde(tag = "type", rename = "reproduced")]
        struct Event<'a> {
            #[serde(flatten)]
            found: &'a reproduce::Reproduction,
        }
        context.console.event(&Event { found: &found });
    } else {
        agiqa_store::console::print(format!("{}\n{}\n", found.text(), found.verdict()));
    }
    Ok(if found.same { Exit::Done } else { Exit::Rejected })
}
