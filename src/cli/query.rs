//! `agiqa query`: SQL over the tables of a store.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use agiqa_query::{Answer, Format, QueryError};
use agiqa_store::console::Stdout;
use agiqa_store::store::{OpenMode, Store};
use anyhow::Context as _;

use super::exit::Exit;
use super::{Context, output, path_argument};

/// How often a query that runs looks for a signal.
const INTERRUPT_PERIOD: Duration = Duration::from_millis(50);

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OutputFormat {
    /// An aligned table: six digits after the point, long lists abbreviated.
    Text,
    /// Comma-separated values, exact; lists are JSON.
    Csv,
    /// One JSON object a line, exact.
    Json,
    /// A parquet file, which needs `--out`.
    Parquet,
    /// A Markdown table.
    Markdown,
}

impl From<OutputFormat> for Format {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Text => Self::Text,
            OutputFormat::Csv => Self::Csv,
            OutputFormat::Json => Self::Json,
            OutputFormat::Parquet => Self::Parquet,
            OutputFormat::Markdown => Self::Markdown,
        }
    }
}

/// Arguments of `agiqa query`.
#[derive(clap::Args)]
#[command(
    after_long_help = "Each table has its name: images, splits, semantic, quality, predictions, metrics, …, and \
                             runs, the records of every invocation. The store's folders `column=value` are columns.\n\n\
                             Examples:\n  \
                             agiqa query --store .demo 'SHOW TABLES'\n  \
                             agiqa query --store .demo 'DESCRIBE predictions'\n  \
                             agiqa query --store .demo \"SELECT run, srcc, plcc FROM metrics WHERE part = 'test' AND subset = 'all'\"\n  \
                             agiqa query --store .demo 'SELECT * FROM predictions' --out predictions.csv"
)]
pub(super) struct Args {
    /// Store whose tables are asked.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// SELECT, WITH … SELECT, SHOW TABLES, DESCRIBE TABLE_NAME or EXPLAIN SELECT.
    #[arg(value_name = "SQL")]
    sql: String,
    /// What to write; default: what the extension of `--out` stands for, else text.
    #[arg(long, value_name = "FORMAT")]
    format: Option<OutputFormat>,
    /// Write the answer to this file instead of printing it.
    #[arg(long, value_name = "FILE", required_if_eq("format", "parquet"))]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store, sql, format, out } = args;
    let format = match (format, &out) {
        (Some(format), _) => format.into(),
        (None, Some(path)) => format_of(path)?,
        (None, None) if context.console.is_json() => Format::Json,
        (None, None) => Format::Text,
    };
    let store = Store::open(&store, OpenMode::Existing)?;
    let Some(answer) = answered(store, sql, context)? else { return Ok(Exit::Interrupted) };
    let answer = answer?;
    for note in answer.notes() {
        context.console.warn(note);
    }
    match out {
        Some(path) => {
            write(&answer, format, &path)?;
            context.done.add_output(&path);
            context.console.info(format!("wrote {}: {} rows", path.display(), answer.n_rows()));
        }
        None => print(&answer, format)?,
    }
    Ok(Exit::Done)
}

pub(super) fn format_of(path: &Path) -> anyhow::Result<Format> {
    Format::of_path(path).with_context(|| {
        format!(
            "`--out {}`: its extension is none of txt, csv, json, jsonl, ndjson, parquet, md, markdown: give `--format`",
            path.display()
        )
    })
}

/// The answer, or none after a signal: polars cannot be stopped, so that it works in a thread that may be left behind.
fn answered(store: Store, sql: String, context: &Context) -> anyhow::Result<Option<Result<Answer, QueryError>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more if the command was interrupted.
        let _ = sender.send(agiqa_query::ask(&store, &sql));
    });
    loop {
        match receiver.recv_timeout(INTERRUPT_PERIOD) {
            Ok(answer) => return Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) if context.interrupt.is_raised() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let words = agiqa_store::panics::latest().map_or_else(String::new, |panicked| panicked.words);
                anyhow::bail!("polars gave up on the query ({words}): a bug there; another way to write it may help")
            }
        }
    }
}

fn print(answer: &Answer, format: Format) -> anyhow::Result<()> {
    let mut out = BufWriter::new(Stdout::default());
    let written = answer.write(format, &mut out).and_then(|()| Ok(out.flush()?));
    match written {
        // The console tells it at the end, unless whoever closed the pipe has read enough.
        Err(_) if out.get_ref().has_failed() => Ok(()),
        written => written.context("cannot print the answer"),
    }
}

/// Writes the answer to the file at `path`.
pub(super) fn write(answer: &Answer, format: Format, path: &Path) -> anyhow::Result<()> {
    output::replace(path, |out| answer.write(format, out)).with_context(|| format!("cannot write `{}`", path.display()))
}
