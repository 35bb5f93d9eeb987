//! `agiqa select`: the best images of each group.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::Exit;
use super::judging::{BootstrapArgs, DatasetArgs, ScorerArgs, parse_part, scored_night};
use super::query;
use super::weights::print_line;
use super::{Context, path_argument};
use agiqa_judge::select::{Gain, LinkKind, SelectStage, Selection};
use agiqa_query::Answer;
use agiqa_store::layout;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::splits::Part;

/// Arguments of `agiqa select`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds images and scores.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    #[command(flatten)]
    dataset: DatasetArgs,
    #[command(flatten)]
    scorer: ScorerArgs,
    /// Columns whose values form the groups: prompt, group_id, or any column of the dataset; several separated by commas.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', default_value = "prompt")]
    by: Vec<String>,
    /// Number of images to choose from each group.
    #[arg(long, value_name = "K", default_value = "1")]
    top: NonZeroUsize,
    /// Split whose part is selected from. Default: all images.
    #[arg(long, value_name = "NAME")]
    split: Option<PartitionName>,
    /// Part of the split.
    #[arg(long, value_name = "PART", value_parser = parse_part, default_value = "test", requires = "split")]
    part: Part,
    /// Margin below which a choice is uncertain. Default: the run's RMSE on its test part divided by √2.
    #[arg(long, value_name = "MARGIN")]
    uncertain_below: Option<f64>,
    /// Write all ranked images to this file; its extension gives the format: csv, json, parquet, md, txt.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Put links to the chosen images into this folder: hard links, or symbolic ones to another file system.
    #[arg(long, value_name = "DIR")]
    link: Option<PathBuf>,
    /// Make symbolic links only.
    #[arg(long, requires = "link", conflicts_with = "copy")]
    symbolic: bool,
    /// Copy the images instead of linking them.
    #[arg(long, requires = "link")]
    copy: bool,
    #[command(flatten)]
    bootstrap: BootstrapArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let out = args.out.map(|path| query::format_of(&path).map(|format| (path, format))).transpose()?;
    let kind = match (args.symbolic, args.copy) {
        (true, _) => LinkKind::Symbolic,
        (false, true) => LinkKind::Copy,
        (false, false) => LinkKind::Link,
    };
    let scorer = args.scorer.scorer()?;
    let night = args.dataset.night().filter(|_| args.split.is_none());
    let stage = SelectStage {
        dataset: args.dataset.dataset()?,
        night: night.map(|night| scored_night(&night, &scorer)).transpose()?,
        part: args.split.map(|split| (split, args.part)),
        scorer,
        by: args.by,
        top: args.top.get(),
        uncertain_below: args.uncertain_below,
        bootstrap: args.bootstrap.settings(),
        links: args.link.map(|folder| (folder, kind)),
        records: Runs::default(),
        selection: std::sync::Mutex::default(),
    };
    Store::open(&args.store, OpenMode::Existing)?;
    let exit = super::run_stage("select", &args.store, &stage, context)?;
    let found = stage.selection.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let selection = found.context("the stage made no selection; this is a bug of agiqa, please report it")?;
    if let Some((path, format)) = out {
        let answer = Answer::new(selection.frame()?, Vec::new());
        query::write(&answer, format, &path)?;
        context.done.add_output(&path);
        context.console.info(format!("wrote {}: {} rows", path.display(), answer.n_rows()));
    }
    print(&selection, context);
    Ok(exit)
}

fn print(selection: &Selection, context: &Context) {
    let Selection { scored, uncertain_below, gains: [score, mos], .. } = selection;
    if context.console.is_json() {
        context.console.event(&serde_json::json!({
            "type": "selection", "scorer": scored.scores.scorer, "top": selection.top, "uncertain_below": uncertain_below,
            "score": score, "mos": mos,
        }));
        return;
    }
    let lines =
        [("score", score), ("MOS", mos)].into_iter().filter(|(_, gain)| gain.n_groups > 0).map(|(name, gain)| {
            let Gain { n_groups, chosen, random, best, gain, hit, random_hit } = *gain;
            let share = |share: Option<f64>| layout::number(share.map(|share| 100.0 * share), 1);
            let hits =
                if name == "MOS" { format!("{} % ({} %)", share(hit), share(random_hit)) } else { String::new() };
            let numbers = [chosen, random, best].map(|value| layout::number(value, 3));
            [name.to_owned()]
                .into_iter()
                .chain(numbers)
                .chain([layout::with_interval(gain, 3), hits, n_groups.to_string()])
                .collect()
        });
    let head = ["by", "chosen", "random", "best", "gain", "best found (random)", "groups of 2 or more"];
    if score.n_groups == 0 {
        return context.console.info("no group has two images: nothing was chosen over anything");
    }
    let lines: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec()).chain(lines).collect();
    print_line(layout::aligned(&lines).trim_end());
}
