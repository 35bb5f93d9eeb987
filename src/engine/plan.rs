//! The engine's work: wanted rows without rows already done and rows rejected earlier.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::guest::{Output, Task, Work};
use super::left_out::LeftOutFiles;
use super::source::{Candidate, Candidates, Unreadable};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::rejects::{self, RejectRow};

/// Kinds of rejects that depend on the guest or the settings. Other kinds depend only on the file.
const KINDS_OF_GUESTS: [&str; 4] = ["too-small", "too-large", "flat", "non-finite"];

/// Whether a reject of `kind` says that the file holds no picture.
pub(super) fn is_undecodable(kind: &str) -> bool {
    !KINDS_OF_GUESTS.contains(&kind)
}

/// One image to compute.
#[derive(Clone, Debug)]
pub(super) struct Todo {
    /// The image's file.
    pub(super) image: Candidate,
    /// Positions of the tasks that the image lacks, ascending, at least one.
    pub(super) tasks: Vec<usize>,
    /// For each output of all tasks, whether the image lacks a row in it.
    pub(super) lacks: Vec<bool>,
}

/// The work to do, and the rows already done. Rows are pairs of file and task.
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    /// Images to compute, each with distinct content.
    pub(super) todo: Vec<Todo>,
    /// Unreadable files, with the positions of the tasks that do not have a reject of them yet.
    pub(super) unreadable: Vec<(Unreadable, Vec<usize>)>,
    /// Images of this source, in any shard, whose files could not be decoded according to earlier rejects.
    pub(super) undecodable: HashSet<ImageId>,
    /// Numbers of rows: in, cached, and rejected earlier. The rows of `todo` and `unreadable` are `n_left`.
    pub(super) rows: RowCounts,
    /// Rows of the corpus, if the source is a folder.
    pub(super) corpus: Option<Vec<ImageRow>>,
    /// Other files, if the source is a folder.
    pub(super) left_out: LeftOutFiles,
}

/// Earlier rejects of one task.
#[derive(Default)]
struct EarlierRejects {
    /// Kind of reject, per image.
    ids: HashMap<ImageId, String>,
    paths: HashSet<String>,
}

impl Plan {
    /// Compares `candidates` with the rows of `tasks` in `store`. `stage` is the name of the stage in `rejects`.
    pub(super) fn of(
        store: &Store,
        stage: &str,
        tasks: Vec<Task>,
        work: &Work,
        candidates: Candidates,
    ) -> Result<Self, PartError> {
        let done: Vec<HashSet<ImageId>> =
            tasks.iter().flat_map(|task| &task.outputs).map(|output| output.done(store)).collect::<Result<_, _>>()?;
        let earlier = earlier_rejects(store, stage, &tasks)?;
        let Candidates { images, unreadable, corpus, left_out } = candidates;
        let mut plan = Self {
            tasks,
            todo: Vec::new(),
            unreadable: Vec::new(),
            undecodable: HashSet::new(),
            rows: RowCounts::default(),
            corpus,
            left_out,
        };
        for image in images {
            plan.add_image(image, &done, &earlier, work);
        }
        for file in unreadable {
            plan.add_unreadable(file, &earlier, work);
        }
        plan.rows.n_out = plan.rows.n_cached;
        Ok(plan)
    }

    fn add_image(&mut self, image: Candidate, done: &[HashSet<ImageId>], earlier: &[EarlierRejects], work: &Work) {
        let in_shard = work.shard.contains(&image.image_id);
        let lacks: Vec<bool> = done.iter().map(|done| !done.contains(&image.image_id)).collect();
        let mut tasks = Vec::new();
        for (task, outputs) in self.outputs().into_iter().enumerate() {
            let is_done = !lacks[outputs].contains(&true);
            let kind = earlier[task].ids.get(&image.image_id).filter(|_| !(in_shard && work.retry_rejects));
            let counter = match (is_done, kind) {
                (true, _) => &mut self.rows.n_cached,
                (false, Some(kind)) => {
                    if is_undecodable(kind) {
                        self.undecodable.insert(image.image_id);
                    }
                    &mut self.rows.n_rejected
                }
                (false, None) => {
                    tasks.push(task);
                    &mut self.rows.n_left
                }
            };
            if in_shard {
                *counter += image.n_files;
                self.rows.n_in += image.n_files;
            }
        }
        if in_shard && !tasks.is_empty() {
            self.todo.push(Todo { image, tasks, lacks });
        }
    }

    fn add_unreadable(&mut self, file: Unreadable, earlier: &[EarlierRejects], work: &Work) {
        // A file without content has no id, so its path decides its shard.
        if !work.shard.contains(&ImageId::of_bytes(file.path.as_bytes())) {
            return;
        }
        let is_new = |earlier: &EarlierRejects| work.retry_rejects || !earlier.paths.contains(&file.path);
        let tasks: Vec<usize> = (0..earlier.len()).filter(|task| is_new(&earlier[*task])).collect();
        self.rows.n_in += earlier.len() as u64;
        self.rows.n_left += tasks.len() as u64;
        self.rows.n_rejected += (earlier.len() - tasks.len()) as u64;
        if !tasks.is_empty() {
            self.unreadable.push((file, tasks));
        }
    }

    /// For each task, the positions of its outputs in the list of all tasks' outputs.
    pub(super) fn outputs(&self) -> Vec<Range<usize>> {
        let mut next = 0;
        let range = |task: &Task| {
            let start = next;
            next += task.outputs.len();
            start..next
        };
        self.tasks.iter().map(range).collect()
    }

    /// The outputs of all tasks.
    pub(super) fn all_outputs(&self) -> Vec<&Output> {
        self.tasks.iter().flat_map(|task| &task.outputs).collect()
    }

    /// The feature sets among the outputs.
    pub(super) fn features(&self) -> impl Iterator<Item = &FeatureSet> {
        self.tasks.iter().flat_map(|task| &task.outputs).filter_map(|output| match output {
            Output::Vectors(set) => Some(set),
            Output::Scores(_) => None,
        })
    }

    /// Whether the plan has neither an image to compute nor a file to reject.
    pub(super) fn is_empty(&self) -> bool {
        self.todo.is_empty() && self.unreadable.is_empty()
    }

    /// Removes the earlier rejects of the images and files that will be tried again.
    pub(super) fn forget_retried(&self, store: &Store, stage: &str) -> Result<(), PartError> {
        let ids = self.todo.iter().map(|todo| todo.image.image_id).collect();
        let paths = self.unreadable.iter().map(|(file, _)| file.path.as_str()).collect();
        rejects::forget(store, stage, &ids, &paths, |row| task_of(row, &self.tasks).is_some())
    }
}

fn earlier_rejects(store: &Store, stage: &str, tasks: &[Task]) -> Result<Vec<EarlierRejects>, PartError> {
    let mut earlier: Vec<EarlierRejects> = tasks.iter().map(|_| EarlierRejects::default()).collect();
    for row in rejects::read(store, stage)? {
        let Some(task) = task_of(&row, tasks) else { continue };
        match (row.image_id, row.path) {
            (Some(id), _) => _ = earlier[task].ids.insert(id, row.kind),
            (None, Some(path)) => _ = earlier[task].paths.insert(path),
            (None, None) => {}
        }
    }
    Ok(earlier)
}

/// Position of the task that rejected `row`. A reject carries the fingerprint of one of its task's outputs.
fn task_of(row: &RejectRow, tasks: &[Task]) -> Option<usize> {
    let found = row.fingerprint.as_ref()?;
    let has_output = |task: &Task| task.outputs.iter().any(|output| output.fingerprint().to_string() == *found);
    tasks.iter().position(has_output)
}
