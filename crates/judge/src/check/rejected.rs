//! What became of the images of a dataset: scored, rejected, neither.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::rejects::{self, RejectRow};

/// Counts of a dataset's images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// Images, with files that never became a row of the table.
    pub n_images: f64,
    /// Images that were rejected and have no score.
    pub n_rejected: f64,
    /// Images that have neither score nor reject.
    pub n_unscored: f64,
    /// Rows whose image stands in an earlier row.
    pub n_duplicates: f64,
}

/// The rejects of a store that are failures of scoring. Those of the stages that judge scores are images that were scored, or
/// could have been.
#[derive(Clone, Debug)]
pub struct Rejected(Vec<(String, RejectRow)>);

impl Rejected {
    /// Reads them.
    ///
    /// # Errors
    /// Fails if a table cannot be read.
    pub fn read(store: &Store) -> Result<Self, PartError> {
        Ok(Self(rejects::read_stages(store, |stage| !matches!(stage, "select" | "evaluate"))?))
    }

    /// Those of `dataset`, each with its stage.
    pub fn of_dataset(&self, dataset: &PartitionName) -> impl Iterator<Item = &(String, RejectRow)> {
        self.0.iter().filter(move |(_, row)| row.dataset.as_deref() == Some(dataset.as_str()))
    }

    /// The images among `ids` that were rejected on any night, because a fault of an image stays. Also the number of files of
    /// `dataset` that never became a row of its table.
    pub(crate) fn among(&self, dataset: &PartitionName, ids: &HashSet<ImageId>) -> (HashSet<ImageId>, usize) {
        let (mut rejected, mut unread) = (HashSet::new(), BTreeSet::new());
        for (_, row) in &self.0 {
            match row.image_id.filter(|id| ids.contains(id)) {
                Some(id) => _ = rejected.insert(id),
                None if row.dataset.as_deref() == Some(dataset.as_str()) => _ = unread.insert((&row.path, row.row)),
                None => {}
            }
        }
        (rejected, unread.len())
    }

    /// Counts of `dataset`, whose rows are of the images `ids`.
    pub fn counts(
        &self,
        dataset: &PartitionName,
        ids: impl Iterator<Item = ImageId>,
        is_scored: impl Fn(&ImageId) -> bool,
    ) -> Counts {
        let mut n_rows = 0;
        let ids: HashSet<ImageId> = ids.inspect(|_| n_rows += 1).collect();
        let (rejected, n_unread) = self.among(dataset, &ids);
        let unscored: Vec<&ImageId> = ids.iter().filter(|id| !is_scored(id)).collect();
        let n_rejected = unscored.iter().filter(|id| rejected.contains(**id)).count();
        Counts {
            n_images: (ids.len() + n_unread) as f64,
            n_rejected: (n_rejected + n_unread) as f64,
            n_unscored: (unscored.len() - n_rejected) as f64,
            n_duplicates: (n_rows - ids.len()) as f64,
        }
    }
}
