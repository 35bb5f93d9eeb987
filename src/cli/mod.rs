//! The command line: one file per subcommand, with the subcommand's name.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::baselines::BaselineSettings;
use crate::features::CommonSettings;
use crate::train::TrainSettings;
use crate::train::recipes::{HeadSettings, JointSettings, KernelSettings};
use agiqa_store::console::{self, Console, EventFormat, Verbosity};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::panics;
use agiqa_store::path_text;
use agiqa_store::stage::{self, MaxRejects, Outcome, Stage, StageContext};
use agiqa_store::store::run_log::RunLog;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::FeatureKind;

pub mod exit;

mod baseline;
mod check;
mod compare;
mod defaults;
mod doctor;
mod done;
mod evaluate;
mod events;
mod features;
mod images;
mod ingest;
mod inspect;
mod judging;
mod methods;
mod output;
mod predict;
mod query;
mod report;
mod reproduce;
mod run;
mod schemas;
mod score;
mod select;
mod set;
mod split;
mod train;
mod weights;

use done::{Done, DoneArgs};
use exit::Exit;

/// Scores the quality of AI-generated images: MA-AGIQA as a batch pipeline over parquet feature stores.
#[derive(Parser)]
#[command(name = "agiqa", version, about, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct GlobalArgs {
    /// Print only warnings and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print results and events as JSON on stdout, one object per line.
    #[arg(long, global = true)]
    json: bool,
    /// Number of CPU threads to use. Default: all.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// Share of rows that a stage may reject before the exit code is 1, e.g. 1%. Default: none.
    #[arg(long, global = true, value_name = "SHARE")]
    max_rejects: Option<MaxRejects>,
    #[command(flatten)]
    done: DoneArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the stages of a pipeline whose inputs have changed.
    Run(run::Args),
    /// Read a dataset's MOS table and images into the `images` table.
    Ingest(ingest::Args),
    /// Compute features of images: semantic (f_a, f_b), quality (f_1), or both.
    Features(features::Args),
    /// Older name of `features`, for an extractor of semantic features.
    #[command(hide = true)]
    Embed(features::Args),
    /// Older name of `features`, for an extractor of quality features.
    #[command(hide = true)]
    Extract(features::Args),
    /// Score images by handcrafted methods: BRISQUE, NIQE, ILNIQE.
    Baseline(baseline::Args),
    /// Score images by published networks and handcrafted methods.
    Score(Box<score::Args>),
    /// Assign a dataset's images to training, validation and test parts.
    Split(split::Args),
    /// Fit the fusion head on cached features.
    Train(Box<train::Args>),
    /// Score images with a trained head.
    Predict(predict::Args),
    /// Compute metrics of runs, or of any table with scores and MOS.
    Evaluate(Box<evaluate::Args>),
    /// Compare every method that has scored a dataset, next to the paper's figures.
    Compare(compare::Args),
    /// Choose the best images of each prompt or other group by their scores.
    Select(select::Args),
    /// Check a dataset's rejects and scores, and compare them with another's.
    Check(check::Args),
    /// Write a page about a night's scores, or about a run or group of runs.
    Report(report::Args),
    /// Train a run again from its record and say whether its scores and metrics are the same bytes.
    Reproduce(reproduce::Args),
    /// Ask the store's tables in SQL.
    Query(query::Args),
    /// Print what generators wrote into image files: prompts, seeds, models, marks.
    Inspect(inspect::Args),
    /// List, fetch and verify network weights.
    Weights(weights::Args),
    /// Show properties of this machine: libtorch, devices, threads, weights, disk.
    Doctor(doctor::Args),
    /// List every network and method with its tables, weights and settings.
    Methods(methods::Args),
    /// Print the tables' schemas, or write them to a folder.
    Schemas(schemas::Args),
}

/// Parses an argument that is a path or URL, as `path_text` writes it.
fn path_argument() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(path_text::text_of)
}

/// Parses `KEY=VALUE`. An argument in UTF-8 stays as it is, because the value need not be a path.
fn set_argument() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|text| text.into_string().unwrap_or_else(path_text::text_of))
}

/// Context of every command.
#[derive(Clone, Debug)]
pub struct Context {
    /// Prints messages and events.
    pub console: Console,
    /// Raised by Ctrl-C and SIGTERM.
    pub interrupt: Interrupt,
    /// Number of CPU threads to use.
    pub n_threads: usize,
    /// The share of rows that a stage may reject.
    max_rejects: Option<MaxRejects>,
    /// What the command has done so far.
    done: Done,
}

impl Context {
    /// The context of a stage over `store`.
    fn on(&self, store: Store) -> StageContext {
        let Self { console, interrupt, n_threads, max_rejects, done: _ } = self.clone();
        StageContext { store, console, interrupt, n_threads, max_rejects }
    }
}

/// The command line, with the settings' defaults in the help of their options.
fn command_line() -> clap::Command {
    Cli::command()
        .mut_subcommand("features", |command| defaults::shown(command, &CommonSettings::default()))
        .mut_subcommand("baseline", |command| defaults::shown(command, &BaselineSettings::default()))
        .mut_subcommand("train", |command| {
            let command = defaults::shown(command, &TrainSettings::default());
            let command = defaults::shown(command, &HeadSettings::default());
            defaults::shown(defaults::shown(command, &KernelSettings::default()), &JointSettings::default())
        })
}

/// Parses the command line, runs the command, prints its error if any, says what it did, and returns the exit code.
pub fn main() -> ExitCode {
    crate::allocator::keep_freed_memory();
    let started = Instant::now();
    let matches = command_line().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    panics::keep();
    let verbosity = if cli.global.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let events = if cli.global.json { EventFormat::Json } else { EventFormat::Text };
    let (console, done, files) = (Console::new(verbosity, events), Done::default(), cli.global.done.clone());
    let result = panics::caught(|| run_command(cli, console, done.clone())).map_err(anyhow::Error::new).flatten();
    let result = with_stdout(result);
    let (code, error) = end(&result);
    let command = matches.subcommand_name().unwrap_or_default();
    let event = done.event(&console.run_id().to_string(), command, code, error, started.elapsed().as_secs_f64());
    let written = files.write(&event);
    console.event(&event);
    let code = if code == 0 && written.is_err() { exit::EXIT_CANNOT_RUN } else { code };
    for error in [result.err(), written.err()].into_iter().flatten() {
        // Prints the whole chain of causes. A closed stderr is not a further error.
        let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
    }
    ExitCode::from(code)
}

/// Exit code and error of a command.
fn end(result: &anyhow::Result<Exit>) -> (u8, Option<String>) {
    match result {
        Ok(exit) => (exit.code(), None),
        Err(error) => (exit::code_of_error(error), Some(format!("{error:#}"))),
    }
}

/// `result`, or the failure of printing what the command has to print.
fn with_stdout(result: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match (result, console::stdout_failure()) {
        (Ok(_), Some(error)) => Err(error).context("cannot write to stdout"),
        (result, _) => result,
    }
}

/// Greatest number of CPU threads.
const MAX_THREADS: usize = 1024;

fn run_command(cli: Cli, console: Console, done: Done) -> anyhow::Result<Exit> {
    let n_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let n_threads = cli.global.threads.map_or(n_cpus, std::num::NonZeroUsize::get);
    if n_threads > MAX_THREADS {
        anyhow::bail!("`--threads {n_threads}`: expected 1 to {MAX_THREADS}; this machine has {n_cpus} CPUs");
    }
    tch::set_num_threads(i32::try_from(n_threads).unwrap_or(i32::MAX));
    // Building fails if a pool exists already, which then serves as well.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global();
    let max_rejects = cli.global.max_rejects;
    let context = Context { console, interrupt: Interrupt::install()?, n_threads, max_rejects, done };
    match cli.command {
        Command::Run(args) => run::run(args, &context),
        Command::Ingest(args) => ingest::run(args, &context),
        Command::Features(args) => features::run("features", None, args, &context),
        Command::Embed(args) => features::run("embed", Some(FeatureKind::Semantic), args, &context),
        Command::Extract(args) => features::run("extract", Some(FeatureKind::Quality), args, &context),
        Command::Baseline(args) => baseline::run(args, &context),
        Command::Score(args) => score::run(*args, &context),
        Command::Split(args) => split::run(args, &context),
        Command::Train(args) => train::run(*args, &context),
        Command::Predict(args) => predict::run(args, &context),
        Command::Evaluate(args) => evaluate::run(*args, &context),
        Command::Compare(args) => compare::run(args, &context),
        Command::Select(args) => select::run(args, &context),
        Command::Check(args) => check::run(args, &context),
        Command::Report(args) => report::run(args, &context),
        Command::Reproduce(args) => reproduce::run(args, &context),
        Command::Query(args) => query::run(args, &context),
        Command::Inspect(args) => inspect::run(args, &context),
        Command::Weights(args) => weights::run(args, &context),
        Command::Doctor(args) => doctor::run(args, &context),
        Command::Methods(args) => methods::run(&args, &context),
        Command::Schemas(args) => schemas::run(args, &context),
    }
}

/// Runs `work` and records its result in `store`, even if it fails. The record in `runs/` is named `command`.
fn with_run_log(
    command: &str,
    store: &Store,
    context: &Context,
    work: impl FnOnce(&mut RunLog) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let mut log = RunLog::start(command, env!("AGIQA_LIBTORCH_VERSION"), context.console.run_id());
    let result = with_stdout(work(&mut log));
    context.done.add_stages(log.stages());
    let (code, message) = end(&result);
    match (log.finish(store, code, message), result) {
        (Ok(_), result) => result,
        // The work's own error is more useful than the error of writing its record.
        (Err(_), Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error.into()),
    }
}

/// Runs one stage as a separate command: opens the store, skips the stage if it is up to date, and records the run.
fn run_stage(command: &str, store_url: &str, stage: &dyn Stage, context: &Context) -> anyhow::Result<Exit> {
    run_stages(command, store_url, &[stage], context)
}

/// Runs `stages` one after the other as one command.
fn run_stages(command: &str, store_url: &str, stages: &[&dyn Stage], context: &Context) -> anyhow::Result<Exit> {
    let store = Store::open(store_url, OpenMode::CreateIfMissing)?;
    with_run_log(command, &store.clone(), context, |log| execute_all(stages, &context.on(store), log))
}

/// Runs `stages` one after the other, up to an interrupt: the next stage would read the interrupted stage's output.
fn execute_all(stages: &[&dyn Stage], context: &StageContext, log: &mut RunLog) -> anyhow::Result<Exit> {
    in_turn(stages, context, |stage| execute(*stage, context, log))
}

/// Runs `items` one after the other by `run`, up to an interrupt.
fn in_turn<T>(
    items: impl IntoIterator<Item = T>,
    context: &StageContext,
    mut run: impl FnMut(T) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for item in items {
        if context.interrupt.is_raised() {
            return Ok(Exit::Interrupted);
        }
        exit = exit.and(run(item)?);
        if exit == Exit::Interrupted {
            return Ok(exit);
        }
    }
    Ok(exit)
}

/// Runs `stage` through [`stage::execute`]. Rejected rows and interrupts become exit codes.
fn execute(stage: &dyn Stage, context: &StageContext, log: &mut RunLog) -> anyhow::Result<Exit> {
    let executed = stage::execute(stage, context, log)?;
    Ok(match (executed.outcome, executed.has_too_many_rejects) {
        (Outcome::Interrupted, _) => Exit::Interrupted,
        (Outcome::Ran | Outcome::Skipped, false) => Exit::Done,
        (Outcome::Ran | Outcome::Skipped, true) => Exit::Rejected,
    })
}
