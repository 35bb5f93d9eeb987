//! What a baseline stage has to do: pairs of image and method, minus those scored, minus those rejected earlier.

use std::collections::{HashMap, HashSet};

use super::settings::{BaselineError, BaselineSettings};
use crate::features::{Candidate, Candidates, Unreadable};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::baselines::ScoreSet;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::rejects::{self, RejectRow};

/// Name of the stage in `rejects`.
pub(super) const STAGE: &str = "baseline";

/// Kinds of rejects that say something about the method and nothing about the file.
const OF_METHOD: [&str; 3] = ["too-small", "flat", "non-finite"];

/// One image to score.
pub(super) struct Todo {
    pub(super) image: Candidate,
    /// Positions of the methods without a score of it.
    pub(super) lacks: Vec<usize>,
}

/// What is to be done, and what is done already. Rows are pairs of file and method.
pub(super) struct Plan {
    pub(super) sets: Vec<ScoreSet>,
    pub(super) todo: Vec<Todo>,
    /// Unreadable files, with the positions of the methods that have no reject of them yet.
    pub(super) unreadable: Vec<(Unreadable, Vec<usize>)>,
    /// Images that are no readable picture, by earlier rejects; they are no part of a corpus.
    pub(super) undecodable: HashSet<ImageId>,
    pub(super) rows: RowCounts,
    pub(super) corpus: Option<Vec<ImageRow>>,
}

/// Earlier rejects of one score set.
#[derive(Default)]
struct EarlierRejects {
    /// Kind of reject per image.
    ids: HashMap<ImageId, String>,
    paths: HashSet<String>,
}

impl Plan {
    /// Compares `candidates` with what `store` holds.
    pub(super) fn of(
        store: &Store,
        settings: &BaselineSettings,
        candidates: Candidates,
    ) -> Result<Self, BaselineError> {
        settings.check()?;
        let BaselineSettings { methods, shard, retry_rejects, .. } = settings;
        let sets = methods.iter().map(|method| settings.score_set(*method)).collect::<Result<Vec<_>, _>>()?;
        let done = sets.iter().map(|set| set.done(store)).collect::<Result<Vec<_>, _>>()?;
        let earlier = earlier_rejects(store, &sets)?;
        let Candidates { images, unreadable, corpus } = candidates;
        let mut plan = Self {
            todo: Vec::new(),
            unreadable: Vec::new(),
            undecodable: HashSet::new(),
            rows: RowCounts::default(),
            corpus,
            sets,
        };
        for image in images {
            let in_shard = shard.contains(&image.image_id);
            let mut lacks = Vec::new();
            for (index, (done, earlier)) in done.iter().zip(&earlier).enumerate() {
                let kind = earlier.ids.get(&image.image_id).filter(|_| !(in_shard && *retry_rejects));
                let counter = match (done.contains(&image.image_id), kind) {
                    (true, _) => &mut plan.rows.n_cached,
                    (false, Some(kind)) => {
                        if !OF_METHOD.contains(&kind.as_str()) {
                            plan.undecodable.insert(image.image_id);
                        }
                        &mut plan.rows.n_rejected
                    }
                    (false, None) => {
                        lacks.push(index);
                        &mut plan.rows.n_left
                    }
                };
                if in_shard {
                    *counter += image.n_files;
                    plan.rows.n_in += image.n_files;
                }
            }
            if in_shard && !lacks.is_empty() {
                plan.todo.push(Todo { image, lacks });
            }
        }
        // A file without content has no id; its path places it in one shard.
        let in_shard = |file: &Unreadable| shard.contains(&ImageId::of_bytes(file.path.as_bytes()));
        for file in unreadable.into_iter().filter(in_shard) {
            let is_new = |earlier: &EarlierRejects| *retry_rejects || !earlier.paths.contains(&file.path);
            let lacks: Vec<usize> = (0..earlier.len()).filter(|index| is_new(&earlier[*index])).collect();
            plan.rows.n_in += earlier.len() as u64;
            plan.rows.n_left += lacks.len() as u64;
            plan.rows.n_rejected += (earlier.len() - lacks.len()) as u64;
            if !lacks.is_empty() {
                plan.unreadable.push((file, lacks));
            }
        }
        plan.rows.n_out = plan.rows.n_cached;
        Ok(plan)
    }

    /// Removes the earlier rejects of what is going to be tried again.
    pub(super) fn forget_retried(&self, store: &Store) -> Result<(), PartError> {
        let ids = self.todo.iter().map(|todo| todo.image.image_id).collect();
        let paths = self.unreadable.iter().map(|(file, _)| file.path.as_str()).collect();
        rejects::forget(store, STAGE, &ids, &paths, |row| set_of(row, &self.sets).is_some())
    }
}

fn earlier_rejects(store: &Store, sets: &[ScoreSet]) -> Result<Vec<EarlierRejects>, PartError> {
    let mut earlier: Vec<EarlierRejects> = sets.iter().map(|_| EarlierRejects::default()).collect();
    for row in rejects::read(store, STAGE)? {
        let Some(index) = set_of(&row, sets) else { continue };
        match (row.image_id, row.path) {
            (Some(id), _) => _ = earlier[index].ids.insert(id, row.kind),
            (None, Some(path)) => _ = earlier[index].paths.insert(path),
            (None, None) => {}
        }
    }
    Ok(earlier)
}

/// Position of the set that `row` is a reject of.
fn set_of(row: &RejectRow, sets: &[ScoreSet]) -> Option<usize> {
    let found = row.fingerprint.as_ref()?;
    sets.iter().position(|set| set.fingerprint.to_string() == *found)
}
