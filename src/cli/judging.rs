//! Options shared by the commands that judge scores.

use anyhow::Context as _;

use crate::corpus::Night;
use agiqa_judge::metrics::BootstrapSettings;
use agiqa_judge::scorer::Scorer;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::splits::Part;

/// Estimation of intervals.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct BootstrapArgs {
    /// Number of bootstrap resamples for the 95 % intervals; 0 leaves intervals out.
    #[arg(long, value_name = "N", default_value_t = BootstrapSettings::default().resamples)]
    resamples: u32,
    /// Seed of the resamples.
    #[arg(long, value_name = "N", default_value_t = BootstrapSettings::default().seed)]
    seed: u64,
}

impl BootstrapArgs {
    pub(super) fn settings(self) -> BootstrapSettings {
        BootstrapSettings { resamples: self.resamples, seed: self.seed }
    }
}

/// The images: a dataset, or a night of a corpus.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DatasetArgs {
    /// Dataset.
    #[arg(long, value_name = "NAME", required_unless_present = "corpus", conflicts_with = "corpus")]
    dataset: Option<PartitionName>,
    /// Corpus whose night it is about.
    #[arg(long, value_name = "NAME", requires = "night")]
    corpus: Option<PartitionName>,
    /// Label of the night.
    #[arg(long, value_name = "LABEL", requires = "corpus")]
    night: Option<PartitionName>,
}

impl DatasetArgs {
    /// The night, if it is one.
    pub(super) fn night(&self) -> Option<Night> {
        Some(Night { corpus: self.corpus.clone()?, night: self.night.clone()? })
    }

    /// The name of the dataset.
    pub(super) fn dataset(&self) -> anyhow::Result<PartitionName> {
        match (&self.dataset, self.night()) {
            (Some(dataset), _) => Ok(dataset.clone()),
            (None, Some(night)) => Ok(night.dataset()?),
            (None, None) => anyhow::bail!("give `--dataset`, or `--corpus` and `--night`"),
        }
    }
}

/// What gives the scores: exactly one of a run, a group and a method.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct ScorerArgs {
    /// Run whose scores count.
    #[arg(long, value_name = "RUN")]
    run: Option<PartitionName>,
    /// Group of runs: the mean of their scores counts.
    #[arg(long, value_name = "GROUP")]
    group: Option<PartitionName>,
    /// Method whose scores count, e.g. niqe; with settings of its own `niqe@FINGERPRINT`; or generator-mean.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
}

impl ScorerArgs {
    pub(super) fn scorer(self) -> anyhow::Result<Scorer> {
        let Self { run, group, method } = self;
        let scorer = run.map(Scorer::Run).or(group.map(Scorer::Group)).or(method.map(Scorer::Method));
        scorer.context("give one of `--run`, `--group` and `--method`")
    }
}

/// A part of a split by its name.
pub(super) fn parse_part(name: &str) -> Result<Part, String> {
    Part::from_name(name).ok_or_else(|| "expected `train`, `validation` or `test`".to_owned())
}
