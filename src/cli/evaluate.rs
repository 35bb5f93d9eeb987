//! `agiqa evaluate`: metrics of runs in a store, or of any table with scores and MOS.

use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::Exit;
use super::judging::{BootstrapArgs, parse_part};
use super::set::SetArgs;
use super::{Context, path_argument};
use agiqa_intake::Reading;
use agiqa_judge::evaluate::table::{self, Excluded, TableSettings};
use agiqa_judge::evaluate::{EvaluateSettings, EvaluateStage, Report};
use agiqa_store::panics;
use agiqa_store::stage::MaxRejects;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::splits::Part;

/// Number of rows that cannot be understood and are shown.
const N_SHOWN: usize = 5;

/// Arguments of `agiqa evaluate`.
///
/// Either a store with the scores of runs, or a table with scores and MOS.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["store", "table"]))]
pub(super) struct Args {
    /// Store that holds the runs' scores. Metrics are written there and printed.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: Option<String>,
    /// Run to evaluate. Repeatable.
    #[arg(long, value_name = "RUN", requires = "store")]
    run: Vec<PartitionName>,
    /// Name of the rows over all runs. Without --run, all runs of this group are evaluated.
    #[arg(long, value_name = "NAME", requires = "store")]
    group: Option<PartitionName>,
    /// Dataset that the runs have scored. Default: the dataset of their training.
    #[arg(long, value_name = "NAME", requires = "store")]
    dataset: Option<PartitionName>,
    /// Parts to evaluate. Default: all.
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = parse_part, requires = "store")]
    part: Vec<Part>,
    /// Table to evaluate: delimited text, JSON, JSON lines, Parquet or xlsx, also compressed; `-` is standard input. Rows
    /// without score or MOS, and rows with more or fewer cells than the header, are left out and counted (exit code 1).
    #[arg(long, value_name = "FILE", requires_all = ["score", "mos"])]
    table: Option<PathBuf>,
    /// Column of scores, by name or by number from 1.
    #[arg(long, value_name = "COL", requires = "table")]
    score: Option<String>,
    /// Column of MOS.
    #[arg(long, value_name = "COL", requires = "table")]
    mos: Option<String>,
    /// Column whose values form subsets, e.g. generator. Repeatable.
    #[arg(long, value_name = "COL")]
    by: Vec<String>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let bootstrap = args.bootstrap.settings();
    match (args.store, args.table, args.score, args.mos) {
        (None, Some(path), Some(score), Some(mos)) => {
            run_table(&TableSettings { path, reading: args.reading, score, mos, by: args.by, bootstrap }, context)
        }
        (Some(_), None, None, None) if args.reading != Reading::default() => {
            anyhow::bail!(
                "a store is read without `--format`, `--sheet`, `--delimiter` and the like; they go with --table"
            )
        }
        (Some(url), None, None, None) => {
            let parts = if args.part.is_empty() { Part::ALL.to_vec() } else { args.part };
            let settings = args.set.over(EvaluateSettings { by: args.by, bootstrap, parts })?;
            let store = Store::open(&url, OpenMode::Existing)?;
            let stage = stage(&store, args.run, args.group, args.dataset, settings)?;
            let exit = super::run_stage("evaluate", &url, &stage, context)?;
            if exit != Exit::Interrupted {
                print(&stage.report(&store).map_err(anyhow::Error::from_boxed)?, context);
            }
            Ok(exit)
        }
        _ => anyhow::bail!("give either --store with --run or --group, or --table with --score and --mos"),
    }
}

/// The stage for the arguments. Missing arguments are taken from the runs' records.
fn stage(
    store: &Store,
    runs: Vec<PartitionName>,
    group: Option<PartitionName>,
    dataset: Option<PartitionName>,
    settings: EvaluateSettings,
) -> anyhow::Result<EvaluateStage> {
    let records = Runs::default();
    let runs = match (&group, runs.is_empty()) {
        (Some(group), true) => records.of_group(store, group)?,
        (None, true) => anyhow::bail!("name the runs to evaluate: --run RUN (repeatable) or --group NAME"),
        (_, false) => runs,
    };
    let named = runs.iter().map(|run| records.get(store, run)).collect::<Result<Vec<_>, _>>()?;
    let dataset = dataset.unwrap_or_else(|| named[0].dataset.clone());
    let common = named.iter().all(|record| record.group == named[0].group).then(|| named[0].group.clone());
    let group = match group {
        Some(group) => group,
        None if runs.len() == 1 => runs[0].clone(),
        None => common.context("the runs do not belong to one group: name the rows over them with --group NAME")?,
    };
    Ok(EvaluateStage::new(runs, group, dataset, settings, records))
}

fn run_table(settings: &TableSettings, context: &Context) -> anyhow::Result<Exit> {
    let (report, excluded) = panics::of_file(&settings.path, || table::evaluate(settings))?;
    for note in &excluded.notes {
        context.console.warn(note.clone());
    }
    print(&report, context);
    let Excluded { n_rows, n_excluded, n_without_score, n_without_mos, n_rejected, rejects, notes: _ } = excluded;
    if n_excluded == 0 {
        return Ok(Exit::Done);
    }
    for reject in rejects.iter().take(N_SHOWN) {
        context.console.warn(reject.clone());
    }
    if rejects.len() > N_SHOWN {
        context.console.warn(format!("and {} more such rows", rejects.len() - N_SHOWN));
    }
    context.console.warn(format!(
        "{n_excluded} of {n_rows} rows left out: {n_without_score} without a finite `{}`, {n_without_mos} without a \
         finite `{}`, {n_rejected} that cannot be understood",
        settings.score, settings.mos
    ));
    context.console.event(&serde_json::json!({
        "type": "excluded",
        "n_rows": n_rows,
        "n_excluded": n_excluded,
        "n_without_score": n_without_score,
        "n_without_mos": n_without_mos,
        "n_rejected": n_rejected,
    }));
    let is_exceeded = MaxRejects::is_exceeded(context.max_rejects, n_excluded, n_rows);
    Ok(if is_exceeded { Exit::Rejected } else { Exit::Done })
}

fn print(report: &Report, context: &Context) {
    let text = if context.console.is_json() { report.json_lines() } else { report.text() };
    agiqa_store::console::print(text);
}
