//! What a store knows of the images that a run has scored: scores, gates, images and split, joined.

use std::collections::HashMap;

use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::scores::{self, ScoreSet};
use agiqa_store::tables::splits::{self, Part};
use agiqa_store::tables::{PartitionName, gates, images};

/// An image that a run has scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub image_id: ImageId,
    /// Part of the run's split.
    pub part: Option<Part>,
    pub mos: Option<f64>,
    pub score: f64,
    /// Gates of f_1, f_a and f_b; none without gates.
    pub gates: Option<[Option<f64>; 3]>,
}

/// The images of `dataset` that `run` has scored, in the order of the dataset's table.
pub fn scored_of(store: &Store, run: &PartitionName, dataset: &PartitionName) -> Vec<Scored> {
    let record = RunRecord::read(store, run).expect("a record");
    let score_of = scores::read_of_run(store, &record).expect("scores");
    let gates = gates::read(store, &ScoreSet::of_run(&record)).expect("gates");
    let gates: HashMap<ImageId, [Option<f64>; 3]> = gates.into_iter().map(|row| (row.image_id, row.weights)).collect();
    let split = splits::read(store, dataset, &record.split).expect("a split");
    let part_of: HashMap<ImageId, Part> = split.into_iter().map(|row| (row.image_id, row.part)).collect();
    let rows = images::read(store, dataset).expect("images").rows;
    let scored = rows.into_iter().filter_map(|row| {
        let (image_id, score) = (row.image_id, *score_of.get(&row.image_id)?);
        let (part, gates) = (part_of.get(&image_id).copied(), gates.get(&image_id).copied());
        Some(Scored { image_id, part, mos: row.mos, score, gates })
    });
    scored.collect()
}

/// The images of the dataset that `run` was trained on, as far as it has scored them.
pub fn scored(store: &Store, run: &PartitionName) -> Vec<Scored> {
    scored_of(store, run, &RunRecord::read(store, run).expect("a record").dataset)
}
