//! The command line: one file per subcommand, with the subcommand's name.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::stage::{self, Outcome, Stage, StageContext};
use agiqa_store::store::run_log::RunLog;
use agiqa_store::store::{OpenMode, Store};

pub mod exit;

mod baseline;
mod compare;
mod doctor;
mod embed;
mod evaluate;
mod extract;
mod images;
mod ingest;
mod judging;
mod predict;
mod run;
mod schemas;
mod split;
mod train;
mod weights;

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
    /// Say only warnings and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print results and events as JSON, one object a line, on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// CPU threads to use; default: all.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the stages of a pipeline, each only where its inputs changed.
    Run(run::Args),
    /// Read a dataset's MOS table and images into the `images` table.
    Ingest(ingest::Args),
    /// Compute semantic features (f_a, f_b) of images.
    Embed(embed::Args),
    /// Compute quality features (f_1) of images.
    Extract(extract::Args),
    /// Score images by handcrafted methods: BRISQUE, NIQE, ILNIQE.
    Baseline(baseline::Args),
    /// Assign a dataset's images to training, validation and test parts.
    Split(split::Args),
    /// Fit the fusion head on cached features.
    Train(Box<train::Args>),
    /// Score images with a trained head.
    Predict(predict::Args),
    /// Compute metrics of predictions, or of any table with scores and MOS.
    Evaluate(Box<evaluate::Args>),
    /// Compare every method that has scored a dataset, beside the paper's figures.
    Compare(compare::Args),
    /// List, fetch and verify network weights.
    Weights(weights::Args),
    /// Show what this machine has: libtorch, devices, threads, weights, disk.
    Doctor(doctor::Args),
    /// Print the tables' schemas, or write them to a folder.
    Schemas(schemas::Args),
}

/// What every command gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where messages and events go.
    pub console: Console,
    /// Raised by Ctrl-C and SIGTERM.
    pub interrupt: Interrupt,
    /// CPU threads to use.
    pub n_threads: usize,
}

impl Context {
    /// The same for a stage over `store`.
    fn on(&self, store: Store) -> StageContext {
        StageContext { store, console: self.console, interrupt: self.interrupt.clone(), n_threads: self.n_threads }
    }
}

/// Parses the command line, runs the command, prints its error if any, and returns the process exit code.
pub fn main() -> ExitCode {
    crate::allocator::keep_freed_memory();
    let cli = Cli::parse();
    let verbosity = if cli.global.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let events = if cli.global.json { EventFormat::Json } else { EventFormat::Text };
    match run_command(cli, Console::new(verbosity, events)) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            // The whole chain once; a closed stderr is no further error.
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::from(exit::code_of_error(&error))
        }
    }
}

fn run_command(cli: Cli, console: Console) -> anyhow::Result<Exit> {
    let n_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let n_threads = cli.global.threads.map_or(n_cpus, std::num::NonZeroUsize::get);
    tch::set_num_threads(i32::try_from(n_threads).unwrap_or(i32::MAX));
    // A pool that something else has built already serves as well.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global();
    let context = Context { console, interrupt: Interrupt::install()?, n_threads };
    match cli.command {
        Command::Run(args) => run::run(args, &context),
        Command::Ingest(args) => ingest::run(args, &context),
        Command::Embed(args) => embed::run(args, &context),
        Command::Extract(args) => extract::run(args, &context),
        Command::Baseline(args) => baseline::run(args, &context),
        Command::Split(args) => split::run(args, &context),
        Command::Train(args) => train::run(*args, &context),
        Command::Predict(args) => predict::run(args, &context),
        Command::Evaluate(args) => evaluate::run(*args, &context),
        Command::Compare(args) => compare::run(args, &context),
        Command::Weights(args) => weights::run(args, &context),
        Command::Doctor(args) => doctor::run(args, &context),
        Command::Schemas(args) => schemas::run(args, &context),
    }
}

/// Runs `work` and records in `store` what it did, also when it fails. Named `command` in `runs/`.
fn with_run_log(
    command: &str,
    store: &Store,
    work: impl FnOnce(&mut RunLog) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let mut log = RunLog::start(command, env!("AGIQA_LIBTORCH_VERSION"));
    let result = work(&mut log);
    let (code, message) = match &result {
        Ok(exit) => (exit.code(), None),
        Err(error) => (exit::code_of_error(error), Some(format!("{error:#}"))),
    };
    match (log.finish(store, code, message), result) {
        (Ok(_), result) => result,
        // The work's own error says more than that its record could not be written either.
        (Err(_), Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error.into()),
    }
}

/// Runs one stage as a command of its own: opens the store, skips where nothing is to do, records what was done.
fn run_stage(command: &str, store_url: &str, stage: &dyn Stage, context: &Context) -> anyhow::Result<Exit> {
    let store = Store::open(store_url, OpenMode::CreateIfMissing)?;
    with_run_log(command, &store.clone(), |log| execute(stage, &context.on(store), log))
}

/// Runs `stage` through [`stage::execute`]; rejected rows and interrupts become exit codes.
fn execute(stage: &dyn Stage, context: &StageContext, log: &mut RunLog) -> anyhow::Result<Exit> {
    let executed = stage::execute(stage, context, log)?;
    Ok(match (executed.outcome, executed.rows.n_rejected) {
        (Outcome::Interrupted, _) => Exit::Interrupted,
        (Outcome::Ran | Outcome::Skipped, 0) => Exit::Done,
        (Outcome::Ran | Outcome::Skipped, _) => Exit::Rejected,
    })
}
