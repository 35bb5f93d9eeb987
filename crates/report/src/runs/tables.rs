//! The paper's tables, next to numbers of the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::ReportError;
use agiqa_judge::paper::{self, PaperRow};
use agiqa_store::metric::{Metric, N_PAPER};
use agiqa_store::store::Store;
use agiqa_store::tables::comparison::{self, Judged};
use agiqa_store::tables::metrics::{MetricsRow, Statistic};
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, experiments};

/// A table of the paper, next to numbers of this store.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PaperTable {
    pub(super) title: String,
    pub(super) rows: Vec<PaperLine>,
}

/// One row: SRCC, PLCC, KRCC and RMSE.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PaperLine {
    pub(super) method: String,
    pub(super) ours: [Option<f64>; N_PAPER],
    pub(super) ours_std: [Option<f64>; N_PAPER],
    pub(super) paper: [Option<f64>; N_PAPER],
}

/// The tables of experiments that have these runs, and Table 1 of the paper.
pub(super) fn tables(
    store: &Store,
    name: &PartitionName,
    records: &[Arc<RunRecord>],
    metrics: &[MetricsRow],
) -> Result<Vec<PaperTable>, ReportError> {
    let mut tables = Vec::new();
    let is_ours = |run: &str| name.as_str() == run || records.iter().any(|record| record.run.as_str() == run);
    for key in experiments::keys(store)? {
        let rows = experiments::read(store, &key)?;
        if !rows.iter().any(|row| row.ours.as_ref().is_some_and(|ours| is_ours(&ours.run))) {
            continue;
        }
        let line = |row: experiments::ExperimentRow| {
            let metrics = row.ours.map(|ours| ours.metrics).unwrap_or_default();
            let (ours, ours_std) = (metrics.map(|metric| metric.mean), metrics.map(|metric| metric.std));
            PaperLine { method: format!("{} on {}", row.variant, row.dataset), ours, ours_std, paper: row.paper }
        };
        let title =
            format!("Table {} of the paper, by experiment {} on {}", key.paper_table, key.experiment, key.features);
        tables.push(PaperTable { title, rows: rows.into_iter().map(line).collect() });
    }
    tables.push(table_1(store, name, &records[0], metrics)?);
    Ok(tables)
}

/// Table 1: this group, the methods that were compared on its first run's test part, and the paper's other rows.
fn table_1(
    store: &Store,
    name: &PartitionName,
    record: &RunRecord,
    metrics: &[MetricsRow],
) -> Result<PaperTable, ReportError> {
    let model = |statistic: Statistic| {
        let is_whole =
            |row: &&MetricsRow| row.predictor == "model" && row.subset == "all" && row.statistic == statistic;
        let row = metrics.iter().find(is_whole);
        Metric::PAPER.map(|metric| row.and_then(|row| row.metrics[metric].value))
    };
    let has_runs = metrics.iter().any(|row| row.statistic == Statistic::Mean);
    let (ours, ours_std) = if has_runs {
        (model(Statistic::Mean), model(Statistic::Std))
    } else {
        (model(Statistic::Value), [None; N_PAPER])
    };
    let dataset = record.dataset.as_str();
    let of_method = paper::row(dataset, paper::METHOD).map_or([None; N_PAPER], PaperRow::figures);
    let mut rows =
        vec![PaperLine { method: format!("{name} (paper: {})", paper::METHOD), ours, ours_std, paper: of_method }];
    let judged = Judged { dataset: record.dataset.clone(), part: Some((record.split.clone(), Part::Test)) };
    let mut named = BTreeSet::from([paper::METHOD]);
    for row in comparison::read(store, &judged)? {
        named.extend(paper::row_of(dataset, row.paper).map(|row| row.method.as_str()));
        let ours = row.metrics.0.map(|estimate| estimate.value);
        rows.push(PaperLine { method: row.method, ours, ours_std: [None; N_PAPER], paper: row.paper });
    }
    let others = paper::table(1).filter(|row| row.is_of(dataset, dataset) && !named.contains(row.method.as_str()));
    rows.extend(others.map(|row| {
        let (ours, ours_std) = ([None; N_PAPER], [None; N_PAPER]);
        PaperLine { method: row.method.clone(), ours, ours_std, paper: row.figures() }
    }));
    Ok(PaperTable { title: format!("Table 1 of the paper, on {dataset}"), rows })
}
