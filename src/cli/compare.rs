//! `agiqa compare`: every method that has scored a dataset, next to the paper's figures.

use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::Exit;
use super::judging::{BootstrapArgs, parse_part};
use super::set::SetArgs;
use super::{Context, output, path_argument};
use agiqa_judge::compare::{CompareSettings, CompareStage};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::comparison;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::splits::Part;

/// Format of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// An aligned table.
    Text,
    /// A Markdown table.
    Markdown,
    /// A parquet file, which needs `--out`.
    Parquet,
}

/// Arguments of `agiqa compare`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds images and scores. The comparison is written there and printed.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// Dataset that was scored.
    #[arg(long, value_name = "NAME")]
    dataset: PartitionName,
    /// Split whose part is judged, e.g. official-20. Default: all images.
    #[arg(long, value_name = "NAME")]
    split: Option<PartitionName>,
    /// Part of the split.
    #[arg(long, value_name = "PART", value_parser = parse_part, default_value = "test", requires = "split")]
    part: Part,
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Write the comparison to this file instead of printing it.
    #[arg(long, value_name = "FILE", required_if_eq("format", "parquet"))]
    out: Option<PathBuf>,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let bootstrap = args.bootstrap.settings();
    let stage = CompareStage {
        dataset: args.dataset,
        split: args.split,
        settings: args.set.over(CompareSettings { part: args.part, bootstrap })?,
        records: Runs::default(),
    };
    let store = Store::open(&args.store, OpenMode::Existing)?;
    let exit = super::run_stage("compare", &args.store, &stage, context)?;
    let report = stage.report(&store).map_err(anyhow::Error::from_boxed)?;
    let bytes = match args.format {
        Format::Parquet => comparison::encode(&report.rows)?.to_vec(),
        Format::Text if context.console.is_json() => report.json_lines().into_bytes(),
        Format::Text => report.text().into_bytes(),
        Format::Markdown => report.markdown().into_bytes(),
    };
    match args.out {
        Some(path) => {
            output::replace(&path, |out| out.write_all(&bytes))
                .with_context(|| format!("cannot write `{}`", path.display()))?;
            context.done.add_output(&path);
            context.console.info(format!("wrote {}", path.display()));
        }
        None => agiqa_store::console::print(bytes),
    }
    Ok(exit)
}
