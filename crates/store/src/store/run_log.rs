//! `runs/<utc time>-<command>.json`: the record of every invocation.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// Identity of one invocation, in its events and in its record. The text form has 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(u64);

impl RunId {
    /// A new identity, of the time and the process.
    pub fn now() -> Self {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let hash = blake3::hash(format!("{nanos} {}", std::process::id()).as_bytes());
        Self(u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes")))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The row counts of a stage. Rows in must equal rows out, rejected and left together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows given to the stage.
    pub n_in: u64,
    /// Rows that the stage wrote, or that an earlier run had written.
    pub n_out: u64,
    /// The rows among `n_out` that an earlier run had written.
    pub n_cached: u64,
    /// Rows that the stage rejected, now or in an earlier run.
    pub n_rejected: u64,
    /// Rows that the stage did not reach because of an interrupt.
    pub n_left: u64,
}

impl RowCounts {
    /// Whether no row is lost: rows in = rows out + rows rejected + rows left.
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

/// The record of one stage of an invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Name of the stage, e.g. `ingest agiqa-3k`.
    pub stage: String,
    /// `ran`, `skipped`, `interrupted` or `failed`.
    pub outcome: String,
    /// The reason for the outcome, in words.
    pub reason: String,
    /// Duration in seconds.
    pub elapsed_secs: f64,
    /// Row counts, if the stage has rows.
    pub rows: Option<RowCounts>,
}

/// The record of one invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvocationRecord {
    /// Identity of the invocation, as in its events; empty in older records.
    #[serde(default)]
    pub run_id: String,
    /// The subcommand, e.g. `ingest`.
    pub command: String,
    /// The command's arguments, as [`crate::path_text`] writes them.
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
    /// The error that ended the invocation, if one did.
    pub error: Option<String>,
    /// The records of its stages.
    pub stages: Vec<StageRecord>,
}

/// Collects the record of an invocation and writes it into the store at the end.
pub struct RunLog {
    record: InvocationRecord,
    started: Instant,
    stamp: String,
}

impl RunLog {
    /// Starts the record of `command`, the invocation `run_id`. `libtorch_version` is the version that the program uses.
    /// The arguments are read from the process.
    pub fn start(command: &str, libtorch_version: &str, run_id: RunId) -> Self {
        let now = jiff::Timestamp::now();
        let record = InvocationRecord {
            run_id: run_id.to_string(),
            command: command.to_owned(),
            args: std::env::args_os().skip(1).map(crate::path_text::text_of).collect(),
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

    /// Adds the record of a stage.
    pub fn stage(&mut self, stage: StageRecord) {
        self.record.stages.push(stage);
    }

    /// The records of the stages so far.
    pub fn stages(&self) -> &[StageRecord] {
        &self.record.stages
    }

    /// Writes the record under a unique name. Returns the path.
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
