//! `agiqa predict`: scores images with trained heads.

use super::exit::Exit;
use super::set::SetArgs;
use super::{Context, path_argument};
use crate::pipeline::PredictSection;
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
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store: url, run, group, dataset: mut datasets, set } = args;
    let PredictSection { also } = set.over(PredictSection::default())?;
    let store = Store::open(&url, OpenMode::Existing)?;
    let records = Runs::default();
    let runs = match group {
        Some(group) => records.of_group(&store, &group)?,
        None => run,
    };
    // An empty list stands for the datasets of the trainings. A list of further datasets names them, too.
    let adds_own = datasets.is_empty() && !also.is_empty();
    for run in &runs {
        let record = records.get(&store, run)?;
        if adds_own && !datasets.contains(&record.dataset) {
            datasets.push(record.dataset.clone());
        }
    }
    datasets.extend(also);
    super::run_stage("predict", &url, &PredictStage { runs, datasets, records }, context)
}
