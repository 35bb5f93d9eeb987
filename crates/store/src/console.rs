//! The output of a running command: to people on stderr, or to programs as JSON lines on stdout.
//!
//! stdout carries data only. Messages and progress go to stderr. `--quiet` keeps only warnings and errors. `--json`
//! prints typed events, one per line. Each event has a `type` field.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::store::run_log::RunId;

/// Seconds between progress lines if stderr is not a terminal.
const LINE_PERIOD: Duration = Duration::from_secs(30);

/// How many messages a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors only.
    Quiet,
    /// Progress messages, too.
    Normal,
}

/// The format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFormat {
    /// Lines for people, on stderr.
    Text,
    /// One JSON object per line, on stdout.
    Json,
}

/// The only type that prints progress and messages.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    verbosity: Verbosity,
    events: EventFormat,
    run_id: RunId,
}

impl Console {
    /// A console with this verbosity and this event format.
    pub fn new(verbosity: Verbosity, events: EventFormat) -> Self {
        Self { verbosity, events, run_id: RunId::now() }
    }

    /// The identity of the invocation, which every event carries.
    pub fn run_id(&self) -> RunId {
        self.run_id
    }

    /// Whether events are printed as JSON lines.
    pub fn is_json(&self) -> bool {
        self.events == EventFormat::Json
    }

    /// Prints a message, unless `--quiet` is set.
    pub fn info(&self, message: impl AsRef<str>) {
        if self.verbosity == Verbosity::Normal {
            stderr_line(message.as_ref());
        }
    }

    /// Prints a warning. The command goes on.
    pub fn warn(&self, message: impl AsRef<str>) {
        stderr_line(&format!("warning: {}", message.as_ref()));
    }

    /// Prints `event` as one JSON line on stdout if `--json` is set. `event` must serialise with a `type` field.
    pub fn event<T: Serialize>(&self, event: &T) {
        if self.events == EventFormat::Json {
            let mut event = serde_json::to_value(event).expect("events are plain data");
            if let Value::Object(fields) = &mut event {
                fields.insert("run_id".to_owned(), self.run_id.to_string().into());
            }
            print(format!("{event}\n"));
        }
    }

    /// Starts a progress display over `n_total` items. `unit` is their name in the plural, e.g. `images`.
    ///
    /// A terminal shows a bar with the rate and the time left. Otherwise, a line appears every 30 seconds and at the
    /// end.
    pub fn progress(&self, what: impl Into<Cow<'static, str>>, unit: &'static str, n_total: u64) -> Progress {
        let what = what.into();
        let on_terminal = self.verbosity == Verbosity::Normal && std::io::stderr().is_terminal();
        let bar = if on_terminal {
            let template = format!("{{msg}} [{{bar:32}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left");
            let style = ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ")
                .with_key("per_sec", |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = write!(w, "{:.1}/s", state.per_sec());
                });
            let bar = ProgressBar::with_draw_target(Some(n_total), ProgressDrawTarget::stderr_with_hz(4));
            bar.set_style(style);
            bar.set_message(what.clone());
            Some(bar)
        } else {
            None
        };
        let now = Instant::now();
        Progress {
            console: *self,
            what,
            unit,
            n_total,
            bar,
            started: now,
            state: Mutex::new(ProgressCount { n_done: 0, last_line: now, note: String::new() }),
        }
    }
}

/// The first failure of writing to stdout.
static FAILURE: Mutex<Option<(ErrorKind, String)>> = Mutex::new(None);

/// Writes data to stdout. A failure does not end the work; [`stdout_failure`] tells it at the end.
pub fn print(data: impl AsRef<[u8]>) {
    keep_failure(std::io::stdout().lock().write_all(data.as_ref()));
}

/// Stdout, for data that is written piece by piece. A failure ends the writing, and [`stdout_failure`] tells it.
#[derive(Debug, Default)]
pub struct Stdout {
    has_failed: bool,
}

impl Stdout {
    /// Whether writing has failed. A closed pipe is a failure here, since nobody reads what would follow.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl Write for Stdout {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().lock().write_all(data).map(|()| data.len()).map_err(|error| {
            self.has_failed = true;
            let kind = error.kind();
            keep_failure(Err(error));
            kind.into()
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The first failure of writing to stdout, of which all is written now. A closed pipe is none: its reader has read enough.
pub fn stdout_failure() -> Option<std::io::Error> {
    keep_failure(std::io::stdout().lock().flush());
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    failure.as_ref().map(|(kind, message)| std::io::Error::new(*kind, message.clone()))
}

fn keep_failure(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| (error.kind(), error.to_string()));
    }
}

struct ProgressCount {
    n_done: u64,
    last_line: Instant,
    note: String,
}

/// A running progress display. Dropping it ends the display.
pub struct Progress {
    console: Console,
    what: Cow<'static, str>,
    unit: &'static str,
    n_total: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    state: Mutex<ProgressCount>,
}

impl Progress {
    /// Counts `n` more finished items.
    pub fn add(&self, n: u64) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.n_done += n;
        if let Some(bar) = &self.bar {
            bar.set_position(state.n_done);
        } else if state.last_line.elapsed() >= LINE_PERIOD {
            state.last_line = Instant::now();
            let note = if state.note.is_empty() { String::new() } else { format!(" ({})", state.note) };
            self.console.info(format!("{}{note}", self.line(state.n_done)));
        }
    }

    /// Shows `note` next to the count, e.g. `epoch 3, loss 0.41`.
    pub fn note(&self, note: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {note}", self.what));
        }
        self.state.lock().expect("no holder of this lock panics").note = note;
    }

    /// Ends the display and prints a summary.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let n_done = self.state.lock().expect("no holder of this lock panics").n_done;
        self.console.info(self.line(n_done));
    }

    fn line(&self, n_done: u64) -> String {
        let elapsed_secs = self.started.elapsed().as_secs_f64();
        let rate = if elapsed_secs > 0.0 { n_done as f64 / elapsed_secs } else { 0.0 };
        let mut line = format!("{}: {n_done}/{} {}, {rate:.1} {}/s", self.what, self.n_total, self.unit, self.unit);
        if n_done < self.n_total && rate > 0.0 {
            let left_secs = (self.n_total - n_done) as f64 / rate;
            line.push_str(&format!(", {left_secs:.0} s left"));
        } else {
            line.push_str(&format!(", {elapsed_secs:.1} s"));
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn stderr_line(line: &str) {
    // A closed stderr must not end the work.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
