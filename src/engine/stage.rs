//! The stage over one source of images. It plans, computes, and keeps the table of a corpus up to date.

use super::guest::{Guest, GuestError, GuestSettings};
use super::left_out::LeftOutFiles;
use super::plan::Plan;
use super::run::{Outcome, Run};
use super::source::{FolderError, ImageSource, KnownSource};
use agiqa_sources::Reader;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::scores;

/// An error that stops a whole stage over images.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The guest cannot be set up, or fails.
    #[error(transparent)]
    Guest(GuestError),
    /// The images cannot be found.
    #[error(transparent)]
    Source(#[from] FolderError),
    /// A part cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Computes the rows of one guest that are missing for the images of one source.
pub struct ImageStage<S> {
    settings: S,
    images: KnownSource,
}

impl<S: GuestSettings> ImageStage<S> {
    /// A stage over `source`.
    pub fn new(settings: S, source: ImageSource) -> Self {
        Self { settings, images: KnownSource::new(source) }
    }

    fn plan(&self, store: &Store) -> Result<(Box<dyn Guest>, Plan), EngineError> {
        let guest = self.settings.resolve().map_err(EngineError::Guest)?;
        let candidates = self.images.candidates(store)?;
        let plan = Plan::of(store, self.settings.words().stage, guest.tasks(), &self.settings.work(), candidates)?;
        Ok((guest, plan))
    }

    /// Computes and writes the rows that the store lacks.
    ///
    /// # Errors
    /// The stage as a whole fails. An image that cannot be used is a reject and not an error.
    pub fn compute(&self, context: &StageContext) -> Result<StageReport, EngineError> {
        let (guest, mut plan) = self.plan(&context.store)?;
        let (words, dataset) = (self.settings.words(), self.images.source.dataset()?);
        let mut outcome = Outcome::default();
        if !plan.is_empty() {
            let (work, reader) = (self.settings.work(), Reader::default());
            let run = Run { words: &words, work, dataset: &dataset, plan: &plan, context, reader: &reader };
            outcome = run.compute(guest.as_ref())?;
        }
        for features in plan.features() {
            scores::copy_ratings(&context.store, features)?;
        }
        let undecodable = plan.undecodable.union(&outcome.undecodable).copied().collect();
        self.images.write_corpus(&context.store, plan.corpus.take(), &undecodable)?;
        let mut rows = plan.rows;
        rows.n_out += outcome.n_out;
        rows.n_rejected += outcome.n_rejected;
        rows.n_left -= outcome.n_out + outcome.n_rejected;
        plan.left_out.emit(&dataset, context.console);
        let summary = self.summary(&rows, &plan.left_out);
        Ok(StageReport { summary, rows, interrupted: outcome.interrupted })
    }

    fn summary(&self, rows: &RowCounts, left_out: &LeftOutFiles) -> String {
        let words = self.settings.words();
        let mut text = agiqa_store::stage::summary(rows, words.done, words.stage);
        if let Some(hint) = words.retry_hint.filter(|_| rows.n_rejected > 0) {
            text.push_str(&format!("; {hint}"));
        }
        text + &left_out.to_string()
    }
}

impl<S: GuestSettings> Stage for ImageStage<S> {
    fn name(&self) -> String {
        format!("{} of {}", self.settings.words().title, self.images.source)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        let (_, mut plan) = self.plan(store)?;
        let words = self.settings.words();
        let RowCounts { n_in, n_left, n_rejected, .. } = plan.rows;
        if n_left > 0 {
            return Ok(Freshness::Stale { reason: format!("{n_left} of {n_in} {}", words.lacking) });
        }
        if let Some(reason) = self.images.stale_corpus(store, plan.corpus.take(), &plan.undecodable)? {
            return Ok(Freshness::Stale { reason });
        }
        for features in plan.features() {
            let n_ratings = scores::lacking_ratings(store, features)?.len();
            if n_ratings > 0 {
                return Ok(Freshness::Stale { reason: format!("{n_ratings} ratings are not in `scores`") });
            }
        }
        let reason = match n_rejected {
            0 => format!("all {n_in} {}{}", words.done, plan.left_out),
            _ => self.summary(&plan.rows, &plan.left_out),
        };
        Ok(Freshness::Current { reason, rows: plan.rows })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.compute(context)?)
    }
}
