//! `agiqa query`: SQL over the tables of a store.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use agiqa_query::{Answer, Format, QueryError, WriteError};
use agiqa_store::store::{OpenMode, Store};
use anyhow::Context as _;

use super::exit::Exit;
use super::{Context, path_argument};

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
    /// SELECT, WITH … SELECT, SHOW TABLES, DESCRIBE <table> or EXPLAIN SELECT.
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
            write(&answer, format, &path).with_context(|| format!("cannot write `{}`", path.display()))?;
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
    let mut out = BufWriter::new(std::io::stdout().lock());
    match answer.write(format, &mut out).and_then(|()| Ok(out.flush()?)) {
        // Whoever closed the pipe has read enough.
        Err(WriteError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// Writes the answer such that the file at `path` is the old one or the whole new one.
pub(super) fn write(answer: &Answer, format: Format, path: &Path) -> Result<(), WriteError> {
    // A device or pipe is written to; a file of its name would take its place.
    if path.exists() && !path.is_file() {
        let mut out = BufWriter::new(std::fs::OpenOptions::new().write(true).open(path)?);
        answer.write(format, &mut out)?;
        return Ok(out.flush()?);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".agiqa-query-");
    // Temporary files are private by default; this one becomes a file like any other.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = builder.tempfile_in(folder)?;
    let mut out = BufWriter::new(aside);
    answer.write(format, &mut out)?;
    let aside = out.into_inner().map_err(|error| error.into_error())?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|error| error.error)?;
    Ok(())
}
