//! The interface of every stage of the pipeline. A stage can tell whether it is up to date, and it can run.
//!
//! [`execute`] runs a stage: it skips a stage that is up to date, records the outcome, and refuses row counts that do
//! not balance. The command line, a pipeline and any other driver run stages through it.

use std::error::Error;
use std::time::Instant;

use crate::console::Console;
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::store::run_log::{RowCounts, RunLog, StageRecord};

/// Any stage's error. Its own type stays reachable through the chain of causes.
pub type StageError = Box<dyn Error + Send + Sync>;

/// The resources of a running stage.
#[derive(Clone)]
pub struct StageContext {
    /// The store that the stage reads tables from and writes tables to.
    pub store: Store,
    /// The output for messages and progress.
    pub console: Console,
    /// Raised by Ctrl-C and SIGTERM: the stage must then commit its finished work and return.
    pub interrupt: Interrupt,
    /// The number of CPU threads to use.
    pub n_threads: usize,
    /// The share of rows that may be rejected, if any may.
    pub max_rejects: Option<MaxRejects>,
}

/// The share of a stage's rows that may be rejected without a word in the exit code. The text form is `1%` or `0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxRejects(f64);

impl MaxRejects {
    /// The share, from 0 to 1.
    pub fn share(self) -> f64 {
        self.0
    }

    /// Whether `n_rejected` of `n_in` rows are more than `allowed`; without a share none are allowed.
    pub fn is_exceeded(allowed: Option<Self>, n_rejected: u64, n_in: u64) -> bool {
        n_rejected as f64 > allowed.map_or(0.0, Self::share) * n_in as f64
    }
}

impl std::str::FromStr for MaxRejects {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
        let share = number.trim().parse::<f64>().ok().map(|number| number * unit);
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .map(Self)
            .ok_or_else(|| "expected a share such as `1%` or `0.01`".to_owned())
    }
}

/// Whether the stage's outputs in the store match its inputs and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The stage is up to date.
    Current {
        /// The reason in words, e.g. `all 2982 images have features`.
        reason: String,
        /// Row counts of the stage, as an earlier run left them.
        rows: RowCounts,
    },
    /// The stage has work to do.
    Stale {
        /// The reason in words, e.g. `120 of 2982 images lack features`.
        reason: String,
    },
}

/// The result of one run of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageReport {
    /// Row counts, which must balance.
    pub rows: RowCounts,
    /// One line for people, e.g. `2982 images, 0 rejected`.
    pub summary: String,
    /// Whether the stage stopped early because [`StageContext::interrupt`] was raised.
    pub interrupted: bool,
}

/// The progress of a stage that computes row by row: `2980 of 2982 images have features, 2 rejected (…)`.
///
/// `what` describes the `n_out` finished rows. `stage` is the stage whose rejects hold the reasons.
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
    /// Name for people and records: the command and its subject, e.g. `ingest agiqa-3k`.
    fn name(&self) -> String;

    /// Whether the store already holds the stage's outputs.
    ///
    /// # Errors
    /// Fails if inputs are missing or broken, if settings are invalid, or if the store cannot be read.
    fn freshness(&self, store: &Store) -> Result<Freshness, StageError>;

    /// Computes and writes the missing outputs.
    ///
    /// # Errors
    /// Fails if the stage as a whole cannot work. A single bad row is a reject, not an error.
    fn run(&self, context: &StageContext) -> Result<StageReport, StageError>;
}

/// The outcome of an executed stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stage was already up to date.
    Skipped,
    /// The stage ran to its end.
    Ran,
    /// The stage stopped early because of an interrupt. Its finished work is written.
    Interrupted,
}

impl Outcome {
    /// The name in records and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Ran => "ran",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A stage that could not be executed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ExecuteError {
    /// The stage could not tell whether it is up to date.
    #[error(transparent)]
    Freshness(StageError),
    /// The stage failed.
    #[error("stage `{stage}`")]
    Failed { stage: String, source: StageError },
    /// The stage lost rows.
    #[error("stage `{stage}` lost rows: {rows:?}; this is a bug of agiqa, please report it")]
    Unbalanced { stage: String, rows: RowCounts },
}

/// The result of [`execute`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Whether the stage ran.
    pub outcome: Outcome,
    /// Row counts, which must balance.
    pub rows: RowCounts,
    /// Whether more rows are rejected than [`StageContext::max_rejects`] allows; without it none are allowed.
    pub has_too_many_rejects: bool,
}

/// Runs `stage` if the store lacks its outputs. Prints the outcome with its reason, records it in `log`, and emits it
/// as an event.
///
/// # Errors
/// Fails if the freshness check fails, if the stage fails, or if the stage loses rows. The record then says so.
pub fn execute(stage: &dyn Stage, context: &StageContext, log: &mut RunLog) -> Result<Executed, ExecuteError> {
    let started = Instant::now();
    let name = stage.name();
    let mut record = |outcome: &str, reason: String, rows: Option<RowCounts>| {
        let elapsed_secs = started.elapsed().as_secs_f64();
        log.stage(StageRecord { stage: name.clone(), outcome: outcome.to_owned(), reason, elapsed_secs, rows });
    };
    let freshness = stage.freshness(&context.store).map_err(|source| {
        record("failed", chain(source.as_ref()), None);
        ExecuteError::Freshness(source)
    })?;
    let (outcome, reason, report) = match freshness {
        Freshness::Current { reason, rows } => {
            (Outcome::Skipped, reason, StageReport { rows, ..StageReport::default() })
        }
        Freshness::Stale { reason } => {
            context.console.info(format!("{name}: {reason}"));
            let report = stage.run(context).map_err(|source| {
                record("failed", chain(source.as_ref()), None);
                ExecuteError::Failed { stage: name.clone(), source }
            })?;
            (if report.interrupted { Outcome::Interrupted } else { Outcome::Ran }, reason, report)
        }
    };
    let StageReport { rows, summary, .. } = report;
    let line = if summary.is_empty() { &reason } else { &summary };
    context.console.info(format!("{name}: {}: {line}", outcome.as_str()));
    record(outcome.as_str(), line.clone(), Some(rows));
    context.console.event(&serde_json::json!({
        "type": "stage",
        "stage": name,
        "outcome": outcome.as_str(),
        "reason": reason,
        "summary": summary,
        "rows": rows,
        "elapsed_secs": started.elapsed().as_secs_f64(),
    }));
    let has_too_many_rejects = MaxRejects::is_exceeded(context.max_rejects, rows.n_rejected, rows.n_in);
    if rows.balanced() {
        Ok(Executed { outcome, rows, has_too_many_rejects })
    } else {
        Err(ExecuteError::Unbalanced { stage: name, rows })
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{EventFormat, Verbosity};
    use crate::store::OpenMode;

    /// A stage that gives fixed answers.
    struct Fixed {
        freshness: Freshness,
        rows: RowCounts,
    }

    impl Stage for Fixed {
        fn name(&self) -> String {
            "fixed".to_owned()
        }

        fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
            Ok(self.freshness.clone())
        }

        fn run(&self, _context: &StageContext) -> Result<StageReport, StageError> {
            if self.rows.n_in == 0 {
                return Err(std::io::Error::other(std::io::Error::other("no rows")).into());
            }
            Ok(StageReport { rows: self.rows, summary: "done".to_owned(), interrupted: self.rows.n_left > 0 })
        }
    }

    fn executed(freshness: Freshness, rows: RowCounts) -> (Result<Executed, ExecuteError>, Vec<StageRecord>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().display().to_string(), OpenMode::Existing).expect("a store");
        let console = Console::new(Verbosity::Quiet, EventFormat::Text);
        let context = StageContext { store, console, interrupt: Interrupt::default(), n_threads: 1, max_rejects: None };
        let mut log = RunLog::start("test", "none", console.run_id());
        let executed = execute(&Fixed { freshness, rows }, &context, &mut log);
        (executed, log.stages().to_vec())
    }

    fn stale() -> Freshness {
        Freshness::Stale { reason: "it lacks rows".to_owned() }
    }

    #[test]
    fn a_stage_that_is_up_to_date_is_recorded_and_not_run() {
        let rows = RowCounts { n_in: 3, n_out: 3, n_cached: 3, ..RowCounts::default() };
        let (executed, log) =
            executed(Freshness::Current { reason: "all there".to_owned(), rows }, RowCounts::default());
        assert_eq!(
            executed.expect("nothing to do"),
            Executed { outcome: Outcome::Skipped, rows, has_too_many_rejects: false }
        );
        assert_eq!(
            (log[0].outcome.as_str(), log[0].reason.as_str(), log[0].rows),
            ("skipped", "all there", Some(rows))
        );
    }

    #[test]
    fn a_share_of_rejects_is_a_fraction_or_a_percentage() {
        let shares: Vec<Option<f64>> = ["1%", "0.01", " 50 %", "0", "1.5", "-1%", "nan", ""]
            .map(|text| text.parse().ok().map(MaxRejects::share))
            .to_vec();
        assert_eq!(shares, [Some(0.01), Some(0.01), Some(0.5), Some(0.0), None, None, None, None]);
    }

    #[test]
    fn an_interrupted_stage_balances_by_the_rows_it_left() {
        let rows = RowCounts { n_in: 3, n_out: 1, n_left: 2, ..RowCounts::default() };
        let (executed, log) = executed(stale(), rows);
        assert_eq!(executed.expect("it balances").outcome, Outcome::Interrupted);
        assert_eq!(log[0].outcome, "interrupted");
    }

    #[test]
    fn a_stage_that_loses_rows_or_fails_is_an_error_and_on_record() {
        let (lost, log) = executed(stale(), RowCounts { n_in: 3, n_out: 2, ..RowCounts::default() });
        assert!(matches!(lost, Err(ExecuteError::Unbalanced { .. })), "{lost:?}");
        assert_eq!(log[0].outcome, "ran");
        let (failed, log) = executed(stale(), RowCounts::default());
        assert!(matches!(failed, Err(ExecuteError::Failed { .. })), "{failed:?}");
        assert_eq!((log[0].outcome.as_str(), log[0].reason.contains("no rows")), ("failed", true));
    }
}
