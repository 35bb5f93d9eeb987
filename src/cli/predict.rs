//! `agiqa predict`: scores images with trained heads.

use super::Context;
use super::exit::Exit;
use crate::predict::PredictStage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, RunRecord};

/// Arguments of `agiqa predict`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds runs, images and features, and receives the predictions.
    #[arg(long, value_name = "URL")]
    store: String,
    /// Run whose head scores. Repeatable.
    #[arg(long, value_name = "RUN", required_unless_present("group"))]
    run: Vec<PartitionName>,
    /// Group whose runs score.
    #[arg(long, value_name = "GROUP", conflicts_with("run"))]
    group: Option<PartitionName>,
    /// Dataset or corpus to score. Repeatable. Default: the dataset of the run's training.
    #[arg(long, value_name = "DATASET")]
    dataset: Vec<PartitionName>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store: url, run, group, dataset } = args;
    let store = Store::open(&url, OpenMode::Existing)?;
    let runs = match group {
        Some(group) => group_runs(&store, &group)?,
        None => run,
    };
    for run in &runs {
        RunRecord::read(&store, run)?;
    }
    super::run_stage("predict", &url, &PredictStage { runs, datasets: dataset }, context)
}

fn group_runs(store: &Store, group: &PartitionName) -> anyhow::Result<Vec<PartitionName>> {
    let mut groups = std::collections::BTreeSet::new();
    let mut runs = Vec::new();
    for run in models::runs(store)? {
        let record = RunRecord::read(store, &run)?;
        if record.group == *group {
            runs.push(run);
        }
        groups.insert(format!("`{}`", record.group));
    }
    let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
    anyhow::ensure!(!runs.is_empty(), "there is no group `{group}` in store `{}`; there are: {groups}", store.url());
    Ok(runs)
}
