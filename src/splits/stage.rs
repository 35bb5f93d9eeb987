//! The `split` stage.

use super::{Assignment, SplitError, SplitSettings, assign};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::splits::{self, Part};

/// Writes one split of one dataset.
///
/// Input rows are the images of the dataset. For a published split they are the names in its files, and a name without
/// an image is a reject.
#[derive(Clone, Debug)]
pub struct SplitStage {
    /// Name of the dataset.
    pub dataset: PartitionName,
    /// Rules that assign its images to parts.
    pub settings: SplitSettings,
}

impl SplitStage {
    fn assignment(&self, store: &Store, images: &Images) -> Result<Assignment, StageError> {
        let rejected_rows: Vec<u64> = rejects::read(store, "ingest")?
            .into_iter()
            .filter(|reject| reject.dataset.as_deref() == Some(self.dataset.as_str()))
            .filter_map(|reject| reject.row)
            .collect();
        Ok(assign(images, &rejected_rows, &self.settings)?)
    }

    fn counts(assignment: &Assignment, n_cached: usize) -> RowCounts {
        let n_out = assignment.rows.len();
        let n_rejected = assignment.unmatched.len();
        RowCounts {
            n_in: (n_out + n_rejected) as u64,
            n_out: n_out as u64,
            n_cached: n_cached as u64,
            n_rejected: n_rejected as u64,
            n_left: 0,
        }
    }

    fn sizes(assignment: &Assignment) -> String {
        let [n_train, n_validation, n_test] = Part::ALL.map(|part| assignment.n_in(part));
        let mut text = format!("{n_train} training, {n_validation} validation, {n_test} test images");
        if !assignment.unmatched.is_empty() {
            let n = assignment.unmatched.len();
            let name = &assignment.unmatched[0].0;
            text.push_str(&format!("; {n} names of the files have no image in the store, the first `{name}`"));
        }
        if assignment.n_unassigned > 0 {
            text.push_str(&format!("; {} images are in none of the files", assignment.n_unassigned));
        }
        text
    }
}

impl Stage for SplitStage {
    fn name(&self) -> String {
        format!("split {} {}", self.dataset, self.settings.name())
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let images = images::read(store, &self.dataset)?;
        if images.rows.is_empty() {
            return Ok(Freshness::Stale { reason: format!("dataset `{}` is not ingested yet", self.dataset) });
        }
        let assignment = self.assignment(store, &images)?;
        let stored = splits::read(store, &self.dataset, &self.settings.name())?;
        if stored.is_empty() {
            return Ok(Freshness::Stale { reason: "not made yet".to_owned() });
        }
        if stored != assignment.rows {
            return Ok(Freshness::Stale { reason: "the dataset's images or the split's files changed".to_owned() });
        }
        let rows = Self::counts(&assignment, assignment.rows.len());
        Ok(Freshness::Current { reason: Self::sizes(&assignment), rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        let images = images::read(&context.store, &self.dataset)?;
        if images.rows.is_empty() {
            return Err(SplitError::NoImages { dataset: self.dataset.clone() }.into());
        }
        let assignment = self.assignment(&context.store, &images)?;
        let split = self.settings.name();
        let rejected: Vec<RejectRow> = assignment
            .unmatched
            .iter()
            .map(|(name, part)| {
                let message =
                    format!("it is in the {part} part of split `{split}`, but not in dataset `{}`", self.dataset);
                let mut row = RejectRow::now("not-in-dataset", message);
                row.dataset = Some(self.dataset.to_string());
                row.path = Some(name.clone());
                row
            })
            .collect();
        rejects::replace(&context.store, "split", &rejects::name_of(&self.dataset, &split)?, &rejected)?;
        splits::write(&context.store, &self.dataset, &split, &assignment.rows)?;
        if !rejected.is_empty() || assignment.n_unassigned > 0 {
            context.console.warn(format!("{}: {}", self.name(), Self::sizes(&assignment)));
        }
        let rows = Self::counts(&assignment, 0);
        Ok(StageReport { rows, summary: Self::sizes(&assignment), interrupted: false })
    }
}
