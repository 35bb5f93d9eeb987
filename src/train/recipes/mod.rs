//! The recipes of training. A recipe is a file here that implements [`Recipe`](super::Recipe), and a variant of
//! [`RecipeSettings`].

use std::collections::BTreeSet;

use super::{TrainError, TrainSettingsError, TrainStage, Training};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::{PartitionName, models};

mod fusion;

pub use fusion::{HeadInput, HeadKind, HeadSettings, Start};

mod linear_start;

mod ridge;

mod head;

pub use head::HeadRecipe;

mod kernel_ridge;

pub use kernel_ridge::{KernelRidgeRecipe, KernelSettings};

pub mod joint;

pub use joint::{JointRecipe, JointSettings};

pub mod fine_tune;

pub use fine_tune::{FineTuneRecipe, FineTuneSettings};

mod rater;

pub use rater::{BatchNorms, Protocol, RaterRecipe, RaterSettings, rater_application};

/// Factor on the learning rate of the transformer's parameter `name`: `last` in the last of the `n_blocks` blocks that are
/// read, and `decay` times less in each block before it; 0 in the first `n_frozen` blocks and, if blocks are frozen, before
/// them.
fn rate_in_transformer(name: &str, n_blocks: usize, n_frozen: usize, last: f64, decay: f64) -> f64 {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let n_above = match block {
        // Nothing reads a block above the last.
        Some(block) if block < n_frozen || block >= n_blocks => return 0.0,
        Some(block) => n_blocks - 1 - block,
        None if n_frozen > 0 => return 0.0,
        None => n_blocks,
    };
    last * decay.powi(n_above as i32)
}

/// Fingerprint of a training of the recipe `kind` over the columns of a semantic and a quality set.
fn fingerprint_over(
    kind: &str,
    version: u32,
    dataset: &PartitionName,
    [semantic, quality]: [&FeatureSet; 2],
    deciding: &serde_json::Value,
) -> Fingerprint {
    Fingerprint::builder(kind)
        .json("version", &version)
        .json("dataset", dataset)
        .json("semantic", &semantic.fingerprint)
        .json("quality", &quality.fingerprint)
        .json("settings", deciding)
        .finish()
}

/// A recipe, with its own settings.
#[derive(Clone, Debug, PartialEq)]
pub enum RecipeSettings {
    /// Heads over cached columns: the fusion head, kernel ridge regression, or both.
    Head(HeadSettings),
    /// The network of an extractor with the fusion head, from the images.
    FineTune {
        /// Settings of the head.
        head: HeadSettings,
        /// Settings of the network and its training.
        fine_tune: FineTuneSettings,
    },
    /// MANIQA with the fusion head, from the images.
    Joint {
        /// Settings of the head.
        head: HeadSettings,
        /// Settings of MANIQA.
        joint: JointSettings,
    },
    /// A network that rates images, from the images.
    Rater(RaterSettings),
}

impl RecipeSettings {
    /// Settings of the head; `None` for a network without one.
    pub fn head(&self) -> Option<&HeadSettings> {
        match self {
            Self::Head(head) | Self::Joint { head, .. } | Self::FineTune { head, .. } => Some(head),
            Self::Rater(_) => None,
        }
    }

    /// Settings of the network that rates images, if one is trained.
    pub fn rater(&self) -> Option<&RaterSettings> {
        match self {
            Self::Rater(rater) => Some(rater),
            Self::Head(_) | Self::Joint { .. } | Self::FineTune { .. } => None,
        }
    }

    /// Whether cached columns are read.
    pub fn reads_columns(&self) -> bool {
        self.head().is_some()
    }

    /// The recipes to train one by one: both heads, or the only one.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Head(head) if head.head == HeadKind::Both => [HeadKind::Gated, HeadKind::KernelRidge]
                .map(|kind| Self::Head(HeadSettings { head: kind, ..head.clone() }))
                .into(),
            one => vec![one],
        }
    }

    /// Whether MANIQA is trained with the head.
    pub fn is_joint(&self) -> bool {
        match self {
            Self::Head(_) | Self::FineTune { .. } | Self::Rater(_) => false,
            Self::Joint { .. } => true,
        }
    }

    /// Whether each run leaves a network of its own, which has computed features of the training's dataset alone.
    pub fn makes_features(&self) -> bool {
        match self {
            Self::Head(_) | Self::Rater(_) => false,
            Self::Joint { .. } | Self::FineTune { .. } => true,
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainSettingsError> {
        match self {
            Self::Head(head) => head.check(),
            Self::Joint { head, joint } => joint.check(head),
            Self::Rater(rater) => rater.check(),
            Self::FineTune { head, fine_tune } => fine_tune.check(head),
        }
    }
}

impl TrainStage<RecipeSettings> {
    /// The stage that trains this recipe, which is not both heads. The runs of a kernel ridge regression have a name of
    /// their own, and there is one per split. `semantic` is the feature set with f_a and f_b, `quality` that with f_1, for
    /// a recipe that reads cached ones.
    ///
    /// # Errors
    /// Fails if a set is `None` but the recipe reads one.
    pub fn on(
        self,
        semantic: Option<FeatureSet>,
        quality: Option<FeatureSet>,
    ) -> Result<Box<dyn Training>, TrainError> {
        let Self { name, dataset, runs, settings, recipe } = self;
        Ok(match recipe {
            RecipeSettings::Head(head) => {
                let (semantic, quality) =
                    (semantic.ok_or(TrainError::NoSemantic)?, quality.ok_or(TrainError::NoQuality)?);
                if head.head == HeadKind::KernelRidge {
                    let name = PartitionName::new(&format!("{name}-{}", models::KERNEL_RIDGE))?;
                    let mut seen = BTreeSet::new();
                    let runs = runs.into_iter().filter(|run| seen.insert(run.split.clone())).collect();
                    let recipe = KernelRidgeRecipe { semantic, quality, settings: head };
                    return Ok(Box::new(TrainStage { name, dataset, runs, settings, recipe }));
                }
                let recipe = HeadRecipe { semantic, quality, settings: head };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
            RecipeSettings::FineTune { head, fine_tune } => {
                let (semantic, quality) =
                    (semantic.ok_or(TrainError::NoSemantic)?, quality.ok_or(TrainError::NoQuality)?);
                let recipe = FineTuneRecipe { semantic, quality, head, settings: fine_tune };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
            RecipeSettings::Joint { head, joint } => {
                let semantic = semantic.ok_or(TrainError::NoSemantic)?;
                let recipe = JointRecipe { semantic, head, joint };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
            RecipeSettings::Rater(rater) => {
                let recipe = RaterRecipe { settings: rater };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
        })
    }
}
