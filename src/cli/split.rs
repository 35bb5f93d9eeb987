//! `agiqa split`: assigns a dataset's images to parts.

use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::Exit;
use super::set::SetArgs;
use super::{Context, path_argument};
use crate::splits::{Fractions, SplitSettings, SplitStage};
use agiqa_store::stage::Stage;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;

/// Seed of the paper's own split. It is also the default seed of a pipeline.
const OFFICIAL_SEED: u32 = 20;

/// Arguments of `agiqa split`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Store that holds the images table and receives the split.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    store: String,
    /// Dataset to split.
    #[arg(long)]
    dataset: PartitionName,
    #[command(flatten)]
    split: SplitArgs,
    /// Seeds, one split for each: a number, a list `0,3,5`, or a range with both ends, `0..9` [default: 0; official:
    /// 20].
    #[arg(long)]
    seeds: Option<Seeds>,
    #[command(flatten)]
    set: SetArgs,
}

/// Options of the split, shared with `agiqa train`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SplitArgs {
    /// Kind of split.
    #[arg(long = "split", value_name = "KIND", value_enum, default_value = "random")]
    kind: SplitKind,
    /// Share of the training part (random, by-prompt).
    #[arg(long, value_name = "SHARE", default_value_t = Fractions::default().train)]
    train_share: f64,
    /// Share of the validation part (random, by-prompt). The rest is the test part.
    #[arg(long, value_name = "SHARE", default_value_t = Fractions::default().validation)]
    validation_share: f64,
    /// CSV file of the training part, with a column `name` (published).
    #[arg(long, value_name = "FILE", required_if_eq("kind", "published"))]
    train_file: Option<PathBuf>,
    /// CSV file of the validation part (published).
    #[arg(long, value_name = "FILE", required_if_eq("kind", "published"))]
    validation_file: Option<PathBuf>,
    /// CSV file of the test part (published).
    #[arg(long, value_name = "FILE", required_if_eq("kind", "published"))]
    test_file: Option<PathBuf>,
    /// Generator whose images are the test part (held-out-generator).
    #[arg(long, value_name = "NAME", required_if_eq("kind", "held-out-generator"))]
    generator: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SplitKind {
    /// Images at random.
    Random,
    /// The published code's own shuffle of the dataset's table. The paper's seed is 20.
    Official,
    /// The dataset's own files.
    Published,
    /// Whole prompts at random.
    ByPrompt,
    /// One generator's images are the test part.
    HeldOutGenerator,
}

impl SplitArgs {
    /// The seed if none is given.
    pub(super) fn default_seed(&self) -> u32 {
        match self.kind {
            SplitKind::Official => OFFICIAL_SEED,
            SplitKind::Random | SplitKind::Published | SplitKind::ByPrompt | SplitKind::HeldOutGenerator => 0,
        }
    }

    /// The split of seed `seed`.
    pub(super) fn settings(&self, seed: u32) -> SplitSettings {
        let fractions = Fractions { train: self.train_share, validation: self.validation_share };
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        match self.kind {
            SplitKind::Random => SplitSettings::Random { seed, fractions },
            SplitKind::Official => SplitSettings::Official { seed },
            SplitKind::Published => SplitSettings::Published {
                train: path(&self.train_file),
                validation: path(&self.validation_file),
                test: path(&self.test_file),
            },
            SplitKind::ByPrompt => SplitSettings::ByPrompt { seed, fractions },
            SplitKind::HeldOutGenerator => {
                SplitSettings::HeldOutGenerator { generator: self.generator.clone().unwrap_or_default(), seed }
            }
        }
    }
}

/// Seeds from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seeds(pub(super) Vec<u32>);

impl std::str::FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| -> anyhow::Result<u32> {
            text.trim().parse().with_context(|| format!("`{text}` is not a seed: expected 0 to 4294967295"))
        };
        let mut seeds = Vec::new();
        for item in text.split(',') {
            match item.split_once("..") {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
                    anyhow::ensure!(first <= last, "`{item}`: a range of seeds goes upwards, e.g. `0..9`");
                    anyhow::ensure!(last - first < 10_000, "`{item}`: more than ten thousand seeds");
                    seeds.extend(first..=last);
                }
                None => seeds.push(number(item)?),
            }
        }
        Ok(Self(seeds))
    }
}

/// One stage per distinct split. Several `seeds` may give the same split.
pub(super) fn stages(dataset: &PartitionName, split: &SplitArgs, seeds: &[u32]) -> Vec<SplitStage> {
    let mut stages: Vec<SplitStage> = Vec::new();
    for seed in seeds {
        let settings = split.settings(*seed);
        if stages.iter().all(|stage| stage.settings != settings) {
            stages.push(SplitStage { dataset: dataset.clone(), settings });
        }
    }
    stages
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let Args { store, dataset, split, seeds, set } = args;
    let seeds = seeds.unwrap_or_else(|| Seeds(vec![split.default_seed()]));
    let store = Store::open(&store, OpenMode::Existing)?;
    let mut splits = stages(&dataset, &split, &seeds.0);
    for split in &mut splits {
        split.settings = set.over(split.settings.clone())?;
    }
    let splits: Vec<&dyn Stage> = splits.iter().map(|split| split as &dyn Stage).collect();
    super::with_run_log("split", &store.clone(), context, |log| super::execute_all(&splits, &context.on(store), log))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use agiqa_store::console::{Console, EventFormat, Verbosity};
    use agiqa_store::interrupt::Interrupt;
    use agiqa_store::stage::{Freshness, StageContext, StageError, StageReport};
    use agiqa_store::store::run_log::RunLog;

    /// A stage that always has something to do, and ends interrupted if `interrupted` is set.
    struct Ends {
        interrupted: bool,
        n_runs: Cell<u32>,
    }

    impl Ends {
        fn new(interrupted: bool) -> Self {
            Self { interrupted, n_runs: Cell::new(0) }
        }
    }

    impl Stage for Ends {
        fn name(&self) -> String {
            "test".to_owned()
        }

        fn freshness(&self, _: &Store) -> Result<Freshness, StageError> {
            Ok(Freshness::Stale { reason: "it is a test".to_owned() })
        }

        fn run(&self, _: &StageContext) -> Result<StageReport, StageError> {
            self.n_runs.set(self.n_runs.get() + 1);
            Ok(StageReport { interrupted: self.interrupted, ..StageReport::default() })
        }
    }

    #[test]
    fn nothing_is_begun_after_an_interrupted_stage() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().display().to_string(), OpenMode::CreateIfMissing).expect("a store");
        let console = Console::new(Verbosity::Quiet, EventFormat::Text);
        let context = StageContext { store, console, interrupt: Interrupt::default(), n_threads: 1, max_rejects: None };
        let mut log = RunLog::start("test", "none", console.run_id());
        let stages = [Ends::new(false), Ends::new(true), Ends::new(false)];
        let in_turn: Vec<&dyn Stage> = stages.iter().map(|stage| stage as &dyn Stage).collect();
        let n_runs = || [0, 1, 2].map(|i: usize| stages[i].n_runs.get());
        assert_eq!(super::super::execute_all(&in_turn, &context, &mut log).expect("no stage fails"), Exit::Interrupted);
        assert_eq!(n_runs(), [1, 1, 0]);
        assert_eq!(super::super::execute_all(&in_turn[2..], &context, &mut log).expect("no stage fails"), Exit::Done);
        assert_eq!(n_runs(), [1, 1, 1]);
        context.interrupt.raise();
        assert_eq!(super::super::execute_all(&in_turn, &context, &mut log).expect("no stage fails"), Exit::Interrupted);
        assert_eq!(n_runs(), [1, 1, 1]);
    }

    #[test]
    fn the_official_split_has_the_default_seed_of_a_pipeline() {
        let in_a_pipeline: SplitSettings = toml::from_str("kind = \"official\"").expect("the seed has a default");
        assert_eq!(in_a_pipeline, SplitSettings::Official { seed: OFFICIAL_SEED });
    }

    #[test]
    fn seeds_are_numbers_lists_and_ranges_with_both_ends() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0).map_err(|error| error.to_string());
        assert_eq!(seeds("7"), Ok(vec![7]));
        assert_eq!(seeds("0..3"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(seeds("5,0..=1"), Ok(vec![5, 0, 1]));
        assert!(seeds("3..1").is_err());
        assert!(seeds("x").is_err());
    }
}
