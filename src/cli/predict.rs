//! `agiqa predict`: scores images with trained heads.

use super::exit::Exit;
use super::{Context, path_argument};
use crate::predict::PredictStage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;

/// Arguments of `agiqa predict`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds runs, images and features, and receives the scores.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
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
    let records = Runs::default();
    let runs = match group {
        Some(group) => records.of_group(&store, &group)?,
        None => run,
    };
    for run in &runs {
        records.get(&store, run)?;
    }
    super::run_stage("predict", &url, &PredictStage { runs, datasets: dataset, records }, context)
}
