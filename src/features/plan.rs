//! What a feature stage has to do: images wanted, minus those done, minus those rejected earlier.

use std::collections::HashSet;

use super::source::{Candidate, Candidates, Unreadable};
use super::{FeatureSets, FeatureSettings};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::rejects::{self, RejectRow};

/// Name of the stage in `rejects`.
pub(super) const STAGE: &str = "features";

/// One image to compute.
#[derive(Clone, Debug)]
pub(super) struct Todo {
    /// The image.
    pub(super) image: Candidate,
    /// Per set of the extractor, whether the image lacks features there.
    pub(super) lacks: Vec<bool>,
}

/// What is to be done, and what is done already.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Images to compute, distinct contents.
    pub(super) todo: Vec<Todo>,
    /// Unreadable files that no earlier reject names.
    pub(super) unreadable: Vec<Unreadable>,
    /// Images of this source, in any shard, that an earlier run rejected and that are not tried again.
    pub(super) rejected: HashSet<ImageId>,
    /// Rows in, cached and rejected earlier; the rows of `todo` and `unreadable` are `n_left`.
    pub(super) rows: RowCounts,
}

/// Earlier rejects of an extractor.
#[derive(Clone, Debug, Default)]
struct EarlierRejects {
    ids: HashSet<ImageId>,
    paths: HashSet<String>,
}

/// Whether `row` is a reject of one of the extractor's `sets`.
pub(super) fn is_of(row: &RejectRow, sets: &FeatureSets) -> bool {
    row.fingerprint.as_ref().is_some_and(|found| sets.iter().any(|set| set.fingerprint.to_string() == *found))
}

fn earlier_rejects(store: &Store, sets: &FeatureSets) -> Result<EarlierRejects, PartError> {
    let mut earlier = EarlierRejects::default();
    for row in rejects::read(store, STAGE)?.into_iter().filter(|row| is_of(row, sets)) {
        match (row.image_id, row.path) {
            (Some(id), _) => _ = earlier.ids.insert(id),
            (None, Some(path)) => _ = earlier.paths.insert(path),
            (None, None) => {}
        }
    }
    Ok(earlier)
}

/// Compares `candidates` with what `store` holds.
pub(super) fn plan(
    store: &Store,
    sets: &FeatureSets,
    settings: &FeatureSettings,
    candidates: &Candidates,
) -> Result<Plan, PartError> {
    let done = sets.iter().map(|set| set.done(store)).collect::<Result<Vec<_>, _>>()?;
    let earlier = earlier_rejects(store, sets)?;
    let mut plan = Plan::default();
    for image in &candidates.images {
        let in_shard = settings.shard.contains(&image.image_id);
        let lacks: Vec<bool> = done.iter().map(|done| !done.contains(&image.image_id)).collect();
        let is_done = !lacks.contains(&true);
        let is_retried = in_shard && settings.retry_rejects;
        let is_rejected = !is_done && earlier.ids.contains(&image.image_id) && !is_retried;
        if is_rejected {
            plan.rejected.insert(image.image_id);
        }
        if !in_shard {
            continue;
        }
        plan.rows.n_in += image.n_files;
        if is_done {
            plan.rows.n_cached += image.n_files;
        } else if is_rejected {
            plan.rows.n_rejected += image.n_files;
        } else {
            plan.rows.n_left += image.n_files;
            plan.todo.push(Todo { image: image.clone(), lacks });
        }
    }
    // A file without content has no id; its path places it in one shard.
    let in_shard = |file: &&Unreadable| settings.shard.contains(&ImageId::of_bytes(file.path.as_bytes()));
    for file in candidates.unreadable.iter().filter(in_shard) {
        plan.rows.n_in += 1;
        if earlier.paths.contains(&file.path) && !settings.retry_rejects {
            plan.rows.n_rejected += 1;
        } else {
            plan.rows.n_left += 1;
            plan.unreadable.push(file.clone());
        }
    }
    plan.rows.n_out = plan.rows.n_cached;
    Ok(plan)
}

/// Removes the earlier rejects of what `plan` is going to try again.
pub(super) fn forget_retried(store: &Store, sets: &FeatureSets, plan: &Plan) -> Result<(), PartError> {
    let ids = plan.todo.iter().map(|todo| todo.image.image_id).collect();
    let paths = plan.unreadable.iter().map(|file| file.path.as_str()).collect();
    rejects::forget(store, STAGE, &ids, &paths, |row| is_of(row, sets))
}
