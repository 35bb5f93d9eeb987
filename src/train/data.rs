//! The inputs of a training, joined: a dataset's MOS, a split's parts, cached columns, and the paths of image files.

use std::collections::{HashMap, HashSet};

use super::head_inputs::Columns;
use super::pictures::Location;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::images;
use agiqa_store::tables::models::PartCounts;
use agiqa_store::tables::splits::{Part, SplitRow};

/// Inputs that do not match.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum DataError {
    /// A table could not be read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The dataset was never ingested.
    #[error("dataset `{0}` has no images in this store: run `agiqa ingest` for it first")]
    NoImages(PartitionName),
    /// The split was never made.
    #[error("dataset `{dataset}` has no split `{split}` in this store: run `agiqa split` first")]
    NoSplit { dataset: PartitionName, split: PartitionName },
    /// Images of the split lack features or MOS.
    #[error(
        "split `{split}` of dataset `{dataset}` has images that training cannot use: {}; {advice}, or set \
         `allow_missing = true` to leave these images out", problems.join("; ")
    )]
    Missing {
        dataset: PartitionName,
        split: PartitionName,
        /// For each kind of gap, the counts by part.
        problems: Vec<String>,
        /// The command that fills the gap.
        advice: String,
    },
    /// A part has no usable image.
    #[error(
        "split `{split}` of dataset `{dataset}`: no usable image in the {part} part ({} in the split, {} of them without \
         features, {} without MOS); compute the missing features, or split again with `agiqa split`",
        counts.n_without_features + counts.n_without_mos, counts.n_without_features, counts.n_without_mos
    )]
    EmptyPart {
        dataset: PartitionName,
        split: PartitionName,
        part: Part,
        /// The counts of the part. None of its images is usable.
        counts: PartCounts,
    },
}

/// All data that the runs of one call share.
#[derive(Debug)]
pub(super) struct TrainingData {
    dataset: PartitionName,
    /// Images that have all cached columns, with these columns.
    pub(super) columns: Columns,
    /// MOS of every image of the dataset that has one.
    mos: HashMap<ImageId, f64>,
    /// Path of every image of the dataset.
    paths: HashMap<ImageId, String>,
    /// Row of each image in the columns.
    row_of: HashMap<ImageId, usize>,
}

/// Usable images of one split: their rows in the features, by part.
#[derive(Clone, Debug, Default)]
pub(super) struct PartRows {
    /// Rows of training, validation and test, in the split's order.
    pub(super) rows: [Vec<i64>; 3],
    /// The counts of used images and of images left out.
    pub(super) counts: [PartCounts; 3],
}

impl TrainingData {
    /// Reads MOS, paths and the columns of `sets` for the dataset's images, except images in `without`.
    pub(super) fn read(
        store: &Store,
        dataset: &PartitionName,
        sets: &[FeatureSet],
        without: &HashSet<ImageId>,
    ) -> Result<Self, DataError> {
        let rows = images::read(store, dataset)?.rows;
        if rows.is_empty() {
            return Err(DataError::NoImages(dataset.clone()));
        }
        let wanted: Vec<ImageId> = rows.iter().map(|row| row.image_id).filter(|id| !without.contains(id)).collect();
        let columns = Columns::read(store, sets, &wanted)?;
        let row_of = columns.image_ids.iter().enumerate().map(|(row, id)| (*id, row)).collect();
        let mos = rows.iter().filter_map(|row| Some((row.image_id, row.mos?))).collect();
        let paths = rows.into_iter().map(|row| (row.image_id, row.path)).collect();
        Ok(Self { dataset: dataset.clone(), columns, mos, paths, row_of })
    }

    /// Rows of `split`'s parts, or an error that counts the missing inputs.
    pub(super) fn part_rows(
        &self,
        split: &PartitionName,
        rows: &[SplitRow],
        allow_missing: bool,
        advice: &str,
    ) -> Result<PartRows, DataError> {
        let mut parts = PartRows::default();
        for SplitRow { image_id, part, .. } in rows {
            let counts = &mut parts.counts[*part as usize];
            match (self.row_of.get(image_id), self.mos.get(image_id)) {
                (None, _) => counts.n_without_features += 1,
                (Some(_), None) => counts.n_without_mos += 1,
                (Some(row), Some(_)) => {
                    counts.n_used += 1;
                    parts.rows[*part as usize].push(*row as i64);
                }
            }
        }
        let (dataset, split) = (self.dataset.clone(), split.clone());
        if !allow_missing {
            let counts = |count: fn(&PartCounts) -> usize| [0, 1, 2].map(|part: usize| count(&parts.counts[part]));
            let kinds = [
                ("without features", counts(|counts| counts.n_without_features)),
                ("without MOS", counts(|counts| counts.n_without_mos)),
            ];
            let mut problems = Vec::new();
            for (what, [n_train, n_validation, n_test]) in kinds {
                let (n, n_images) = (n_train + n_validation + n_test, rows.len());
                if n > 0 {
                    problems.push(format!(
                        "{n} of {n_images} {what} ({n_train} training, {n_validation} validation, {n_test} test)"
                    ));
                }
            }
            if !problems.is_empty() {
                return Err(DataError::Missing { dataset, split, problems, advice: advice.to_owned() });
            }
        }
        for (part, counts) in Part::ALL.into_iter().zip(&parts.counts) {
            // Evaluation handles a test part without labels. A run needs training and validation images.
            if counts.n_used == 0 && part != Part::Test {
                return Err(DataError::EmptyPart { dataset, split, part, counts: *counts });
            }
        }
        Ok(parts)
    }

    /// MOS of the images in `rows`.
    pub(super) fn mos_of(&self, rows: &[i64]) -> Vec<f64> {
        rows.iter().map(|row| self.mos[&self.columns.image_ids[*row as usize]]).collect()
    }

    /// Location of the image in `row`.
    pub(super) fn location(&self, row: i64) -> Location {
        let image_id = self.columns.image_ids[row as usize];
        Location { row, image_id, path: self.paths[&image_id].clone() }
    }
}
