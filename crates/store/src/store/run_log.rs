//! `runs/<utc time>-<command>.json`: what every invocation did.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// How many rows went into a stage and where they went; the three always add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows the stage was given.
    pub n_in: u64,
    /// Rows it wrote, or found written by an earlier run.
    pub n_out: u64,
    /// Of `n_out`, rows that an earlier run had written.
    pub n_cached: u64,
    /// Rows it rejected, now or in an earlier run.
    pub n_rejected: u64,
    /// Rows not reached because the run was interrupted.
    pub n_left: u64,
}

impl RowCounts {
    /// Whether no row vanished: rows in = rows out + rows rejected + rows left by an interruption.
    pub fn balanced(&self) -> bool {
        self.n_in == self.n_out + self.n_rejected + self.n_left
    }
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { n_in, n_out, n_cached, n_rejected, n_left } = other;
        self.n_in += n_in;
        self.n_out += n_out;
        self.n_cached += n_cached;
        self.n_rejected += n_rejected;
        self.n_left += n_left;
    }
}

/// One stage of an invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Name of the stage, e.g. `ingest agiqa-3k`.
    pub stage: String,
    /// `ran`, `skipped`, `interrupted` or `failed`.
    pub outcome: String,
    /// Why, in words.
    pub reason: String,
    /// Seconds it took.
    pub elapsed_secs: f64,
    /// Row counts, where the stage has rows.
    pub rows: Option<RowCounts>,
}

/// The record of one invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvocationRecord {
    /// The subcommand, e.g. `ingest`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// UTC time of the start, RFC 3339.
    pub started_at: String,
    /// Seconds from start to end.
    pub elapsed_secs: f64,
    /// Version of this program.
    pub agiqa_version: String,
    /// Version of libtorch.
    pub libtorch_version: String,
    /// Process exit code.
    pub exit_code: u8,
    /// The error that ended it, where one did.
    pub error: Option<String>,
    /// What its stages did.
    pub stages: Vec<StageRecord>,
}

/// Collects what an invocation does and writes it into the store at its end.
pub struct RunLog {
    record: InvocationRecord,
    started: Instant,
    stamp: String,
}

impl RunLog {
    /// Starts the record of `command` of a program with this version of libtorch; arguments are those of the process.
    pub fn start(command: &str, libtorch_version: &str) -> Self {
        let now = jiff::Timestamp::now();
        let record = InvocationRecord {
            command: command.to_owned(),
            args: std::env::args().skip(1).collect(),
            started_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            elapsed_secs: 0.0,
            agiqa_version: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch_version: libtorch_version.to_owned(),
            exit_code: 0,
            error: None,
            stages: Vec::new(),
        };
        Self { record, started: Instant::now(), stamp: now.strftime("%Y%m%dT%H%M%SZ").to_string() }
    }

    /// Adds what a stage did.
    pub fn stage(&mut self, stage: StageRecord) {
        self.record.stages.push(stage);
    }

    /// The stages so far.
    pub fn stages(&self) -> &[StageRecord] {
        &self.record.stages
    }

    /// Writes the record under a name of its own. Returns the path.
    pub fn finish(mut self, store: &Store, exit_code: u8, error: Option<String>) -> Result<String, StoreError> {
        self.record.elapsed_secs = self.started.elapsed().as_secs_f64();
        self.record.exit_code = exit_code;
        self.record.error = error;
        let json = serde_json::to_vec_pretty(&self.record).expect("a run record is plain data");
        for n in 0_u32.. {
            // Two invocations may start within one second.
            let suffix = if n == 0 { String::new() } else { format!("-{n}") };
            let path = format!("runs/{}-{}{suffix}.json", self.stamp, self.record.command);
            if store.put_if_absent(&path, json.clone())? {
                return Ok(path);
            }
        }
        unreachable!("four thousand million invocations within one second")
    }
}
