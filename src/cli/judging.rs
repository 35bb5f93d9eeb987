//! Options shared by the commands that judge scores.

use anyhow::Context as _;

use crate::corpus::Night;
use agiqa_judge::metrics::BootstrapSettings;
use agiqa_judge::night::{self, Earlier};
use agiqa_judge::scorer::Scorer;
use agiqa_store::store::Store;
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, images};

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
    #[arg(long, value_name = "NAME", conflicts_with = "corpus")]
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

    /// What is judged: the images, compared with the datasets, or the nights of the same corpus, that `against` names. Without
    /// any, a night is compared with the nights before.
    pub(super) fn judged(&self, store: &Store, scorer: &Scorer, against: Vec<PartitionName>) -> anyhow::Result<Judged> {
        let Some(night) = self.night() else {
            return Ok(Judged { dataset: self.dataset()?, night: None, previous: against.last().cloned(), against });
        };
        if against.is_empty() {
            return Judged::of_night(store, &night, scorer);
        }
        let dataset = |label: PartitionName| Night { night: label, ..night.clone() }.dataset();
        let against = against.into_iter().map(dataset).collect::<Result<Vec<_>, _>>()?;
        let (dataset, scored) = (night.dataset()?, scored_night(&night, scorer)?);
        Ok(Judged { dataset, night: Some(scored), previous: against.last().cloned(), against })
    }

    /// Whether images are named.
    pub(super) fn is_given(&self) -> bool {
        self.dataset.is_some() || self.corpus.is_some()
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

/// Earlier nights of a corpus that a night is seen with.
const N_NIGHTS: usize = 30;

/// Images whose scores are judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// The dataset.
    pub(super) dataset: PartitionName,
    /// The corpus' night that it is.
    pub(super) night: Option<ScoredNight>,
    /// Earlier datasets, oldest first.
    pub(super) against: Vec<PartitionName>,
    /// The one of them that scores are compared with.
    pub(super) previous: Option<PartitionName>,
}

impl Judged {
    /// `night`, compared with those before that what scored it has scored and that are still there.
    pub(super) fn of_night(store: &Store, night: &Night, scorer: &Scorer) -> anyhow::Result<Self> {
        let scored = scored_night(night, scorer)?;
        let dataset = |label: &PartitionName| Night { night: label.clone(), ..night.clone() }.dataset();
        let there = images::datasets(store)?;
        let is_there = |earlier: &Earlier| dataset(&earlier.night).is_ok_and(|dataset| there.contains(&dataset));
        let earlier = night::backwards(store, &scored)?.filter(|earlier| earlier.as_ref().map_or(true, is_there));
        let earlier: Vec<Earlier> = earlier.take(N_NIGHTS).collect::<Result<_, _>>()?;
        let against = earlier.iter().rev().map(|earlier| dataset(&earlier.night)).collect::<Result<Vec<_>, _>>()?;
        let previous = night::previous(earlier.into_iter().map(Ok))?;
        let previous = previous.map(|earlier| dataset(&earlier.night)).transpose()?;
        Ok(Self { dataset: night.dataset()?, night: Some(scored), against, previous })
    }
}

/// `night` in the tables of what `scorer` has scored.
pub(super) fn scored_night(night: &Night, scorer: &Scorer) -> anyhow::Result<ScoredNight> {
    let name = match scorer {
        Scorer::Run(name) | Scorer::Group(name) => name.clone(),
        Scorer::Method(text) => text.split('@').next().unwrap_or(text).parse()?,
    };
    Ok(night.scored_by(&name))
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
