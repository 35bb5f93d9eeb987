//! The end of a command: what it did as its last event, as a summary file, and as metrics for Prometheus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::output;
use agiqa_store::store::run_log::{RowCounts, StageRecord};
use agiqa_store::tables::PartitionName;

/// Version of the event `done`.
const SCHEMA: u32 = 1;

/// Files that say how a command ended. They are written even if it failed.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DoneArgs {
    /// Write the event `done` to this file at the end, also on failure.
    #[arg(long, global = true, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Write exit code, rows, checks and seconds to this file at the end, for Prometheus' textfile collector.
    #[arg(long, global = true, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

/// What the command has done so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    rows: RowCounts,
    checks: BTreeMap<&'static str, usize>,
    outputs: Vec<String>,
    night: Option<String>,
}

impl Done {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_stages(&self, stages: &[StageRecord]) {
        stages.iter().filter_map(|stage| stage.rows).for_each(|rows| self.counts().rows += rows);
    }

    pub(super) fn add_checks(&self, checks: [(&'static str, usize); 3]) {
        self.counts().checks.extend(checks);
    }

    /// Names the night that the command is about.
    pub(super) fn set_night(&self, corpus: &PartitionName, night: &PartitionName) {
        self.counts().night = Some(format!("{corpus}.{night}"));
    }

    /// Adds a file or folder that the command wrote for its user.
    pub(super) fn add_output(&self, path: &Path) {
        self.counts().outputs.push(path.display().to_string());
    }

    /// The event.
    pub(super) fn event(&self, run_id: &str, command: &str, code: u8, error: Option<String>, secs: f64) -> Value {
        let counts = self.counts();
        json!({
            "type": "done", "schema": SCHEMA, "run_id": run_id, "command": command, "exit_code": code, "error": error, "night": counts.night,
            "rows": counts.rows, "checks": counts.checks, "outputs": counts.outputs, "elapsed_secs": secs,
        })
    }
}

impl DoneArgs {
    /// Writes the files that the command line asked for.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub(super) fn write(&self, event: &Value) -> anyhow::Result<()> {
        if let Some(path) = &self.summary {
            replace(path, &format!("{event}\n"))?;
        }
        if let Some(path) = &self.metrics_file {
            replace(path, &prometheus(event))?;
        }
        Ok(())
    }
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    output::replace(path, |out| out.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// The event as metrics: one gauge a name, with the command as a label.
fn prometheus(event: &Value) -> String {
    let command = event["command"].as_str().unwrap_or_default();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, String)]| {
        text.push_str(&format!("# HELP agiqa_{name} {help}\n# TYPE agiqa_{name} gauge\n"));
        values.iter().for_each(|(label, value)| {
            text.push_str(&format!("agiqa_{name}{{command=\"{command}\"{label}}} {value}\n"))
        });
    };
    let alone = |value: String| [(String::new(), value)];
    let by = |label: &str, object: &Value| -> Vec<(String, String)> {
        let values = object.as_object().into_iter().flatten();
        values
            .map(|(name, value)| (format!(",{label}=\"{}\"", name.trim_start_matches("n_")), value.to_string()))
            .collect()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    gauge("exit_code", "Exit code of the last run.", &alone(event["exit_code"].to_string()));
    gauge("elapsed_seconds", "Duration of the last run.", &alone(event["elapsed_secs"].to_string()));
    gauge("finished_timestamp_seconds", "End of the last run, Unix time.", &alone(now.to_string()));
    gauge("rows", "Rows of the last run's stages.", &by("kind", &event["rows"]));
    if event["checks"].as_object().is_some_and(|checks| !checks.is_empty()) {
        gauge("checks", "Checks of the last run.", &by("outcome", &event["checks"]));
    }
    text
}
