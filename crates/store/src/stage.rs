//! What every stage of the pipeline is: something that can tell whether it is up to date, and that can run.

use std::error::Error;

use crate::console::Console;
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::store::run_log::RowCounts;

/// Any stage's error; its own type stays reachable through the chain of causes.
pub type StageError = Box<dyn Error + Send + Sync>;

/// What a running stage may use.
#[derive(Clone)]
pub struct StageContext {
    /// The store that it reads tables from and writes tables to.
    pub store: Store,
    /// Where messages and progress go.
    pub console: Console,
    /// Raised by Ctrl-C and SIGTERM: commit what is finished and return.
    pub interrupt: Interrupt,
    /// CPU threads to use.
    pub n_threads: usize,
}

/// Whether a stage's outputs in the store are those of its inputs and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing to do; the reason in words, e.g. `all 2982 images have features`.
    Current {
        /// Why.
        reason: String,
        /// Rows that the stage is accountable for, as an earlier run left them.
        rows: RowCounts,
    },
    /// Something to do; the reason in words, e.g. `120 of 2982 images lack features`.
    Stale {
        /// Why.
        reason: String,
    },
}

/// What a run of a stage did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageReport {
    /// Row counts; they balance.
    pub rows: RowCounts,
    /// One line for people, e.g. `2982 images, 0 rejected`.
    pub summary: String,
    /// Whether the stage stopped early because [`StageContext::interrupt`] was raised.
    pub interrupted: bool,
}

/// How far a stage that computes row by row has come: `2980 of 2982 images have features, 2 rejected (…)`.
///
/// `what` says of `n_out` rows what they are or have; `stage` is the stage whose rejects tell the reasons.
pub fn summary(rows: &RowCounts, what: &str, stage: &str) -> String {
    let mut text = format!("{} of {} {what}", rows.n_out, rows.n_in);
    if rows.n_rejected > 0 {
        text.push_str(&format!(
            ", {} rejected (reasons: table `rejects`, stage `{stage}`; `--retry-rejects` tries them again)",
            rows.n_rejected
        ));
    }
    if rows.n_left > 0 {
        text.push_str(&format!(", {} left: run the same command again", rows.n_left));
    }
    text
}

/// One stage with its settings.
pub trait Stage {
    /// Name for people and records: the command and what it is about, e.g. `ingest agiqa-3k`.
    fn name(&self) -> String;

    /// Whether the store already holds what this stage would write.
    ///
    /// # Errors
    /// Inputs that are missing or broken, settings that make no sense, a store that cannot be read.
    fn freshness(&self, store: &Store) -> Result<Freshness, StageError>;

    /// Computes and writes what the store lacks.
    ///
    /// # Errors
    /// Whatever keeps the stage as a whole from working; single bad rows are rejects and no error.
    fn run(&self, context: &StageContext) -> Result<StageReport, StageError>;
}
