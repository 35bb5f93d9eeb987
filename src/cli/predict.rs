//! `agiqa predict`: scores images with trained heads and trained rating networks.

use std::sync::Arc;

use super::exit::Exit;
use super::set::SetArgs;
use super::train::named;
use super::{Context, path_argument};
use crate::features::DeviceChoice;
use crate::pipeline::PredictSection;
use crate::predict::{AverageStage, PredictStage, Weighting};
use crate::train::recipes::rater_application;
use crate::train::{Member, NextStage};
use agiqa_store::stage::Stage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, RunRecord, Runs};

/// Arguments of `agiqa predict`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds runs, images and features, and receives the scores.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// Run whose head or network scores. Repeatable.
    #[arg(long, value_name = "RUN", required_unless_present("group"))]
    run: Vec<PartitionName>,
    /// Group whose runs score. Repeatable.
    #[arg(long, value_name = "GROUP")]
    group: Vec<PartitionName>,
    /// Average the scores of the runs of each split, under this name.
    #[arg(long, value_name = "NAME")]
    average: Option<PartitionName>,
    /// Weights of the average: `equal`, or `validation` (by the inverse squared error there) [default: equal].
    #[arg(long, value_parser = named::<Weighting>, requires = "average")]
    weights: Option<Weighting>,
    /// Dataset or corpus to score. Repeatable. Default: the dataset of the run's training.
    #[arg(long, value_name = "DATASET")]
    dataset: Vec<PartitionName>,
    #[command(flatten)]
    set: SetArgs,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store: url, run, group, average, weights, dataset: mut datasets, set } = args;
    let PredictSection { also, average: weighting } =
        set.over(PredictSection { also: Vec::new(), average: weights })?;
    let store = Store::open(&url, OpenMode::Existing)?;
    let records = Runs::default();
    let mut runs = run;
    for group in group {
        let of_group = records.of_group(&store, &group)?;
        runs.extend(of_group.into_iter().filter(|run| !runs.contains(run)).collect::<Vec<_>>());
    }
    let known = runs.iter().map(|run| records.get(&store, run)).collect::<Result<Vec<_>, _>>()?;
    // An empty list stands for the datasets of the trainings. A list of further datasets names them, too.
    if datasets.is_empty() && !also.is_empty() {
        for record in &known {
            if !datasets.contains(&record.dataset) {
                datasets.push(record.dataset.clone());
            }
        }
    }
    datasets.extend(also);
    let mut stages: Vec<Box<dyn Stage>> = Vec::new();
    // A trained rating network reads the images, and every other run reads columns.
    let (raters, others): (Vec<_>, Vec<_>) = known.iter().partition(|record| record.recipe == models::RATER);
    if !others.is_empty() {
        let (runs, datasets) = (others.iter().map(|record| record.run.clone()).collect(), datasets.clone());
        stages.push(Box::new(PredictStage::new(runs, datasets, records.clone())));
    }
    for record in raters {
        let (name, application) = (record.run.clone(), rater_application(DeviceChoice::Auto));
        let datasets = if datasets.is_empty() { vec![record.dataset.clone()] } else { datasets.clone() };
        stages.push(Box::new(NextStage { runs: vec![name.clone()], name, datasets, application }));
    }
    if let Some(name) = average {
        let trained_on = known[0].dataset.clone();
        if let Some(other) = known.iter().find(|record| record.dataset != trained_on) {
            anyhow::bail!(
                "run `{}` was trained on `{}`, not on `{trained_on}`: an average has one dataset",
                other.run,
                other.dataset
            );
        }
        let member = |record: &Arc<RunRecord>| {
            let RunRecord { run, group, split, .. } = record.as_ref();
            Member { run: run.clone(), group: group.clone(), split: split.clone() }
        };
        let (members, weighting) = (known.iter().map(member).collect(), weighting.unwrap_or_default());
        stages.push(Box::new(AverageStage { name, dataset: trained_on, members, weighting, records }));
    }
    let stages: Vec<&dyn Stage> = stages.iter().map(AsRef::as_ref).collect();
    super::run_stages("predict", &url, &stages, context)
}
