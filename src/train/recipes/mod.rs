//! The recipes of training. A recipe is a file here that implements [`Recipe`](super::Recipe), and a variant of
//! [`RecipeSettings`].

use super::{SettingsError, TrainError, TrainStage, Training};
use agiqa_store::tables::features::FeatureSet;

mod fusion;

pub use fusion::{HeadInput, HeadSettings};

mod ridge;

mod head;

pub use head::HeadRecipe;

pub mod joint;

pub use joint::{JointRecipe, JointSettings};

/// A recipe, with its own settings.
#[derive(Clone, Debug, PartialEq)]
pub enum RecipeSettings {
    /// The fusion head over cached columns.
    Head(HeadSettings),
    /// MANIQA with the fusion head, from the images.
    Joint {
        /// Settings of the head.
        head: HeadSettings,
        /// Settings of MANIQA.
        joint: JointSettings,
    },
}

impl RecipeSettings {
    /// Settings of the head.
    pub fn head(&self) -> &HeadSettings {
        match self {
            Self::Head(head) | Self::Joint { head, .. } => head,
        }
    }

    /// Whether MANIQA is trained with the head.
    pub fn is_joint(&self) -> bool {
        match self {
            Self::Head(_) => false,
            Self::Joint { .. } => true,
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        match self {
            Self::Head(head) => head.check(),
            Self::Joint { head, joint } => joint.check(head),
        }
    }
}

impl TrainStage<RecipeSettings> {
    /// The stage that trains this recipe. `quality` is the feature set with f_1, for a recipe that reads a cached one.
    ///
    /// # Errors
    /// Fails if `quality` is `None` but the recipe reads one.
    pub fn on(self, semantic: FeatureSet, quality: Option<FeatureSet>) -> Result<Box<dyn Training>, TrainError> {
        let Self { name, dataset, runs, settings, recipe } = self;
        Ok(match recipe {
            RecipeSettings::Head(head) => {
                let quality = quality.ok_or(TrainError::NoQuality)?;
                let recipe = HeadRecipe { semantic, quality, settings: head };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
            RecipeSettings::Joint { head, joint } => {
                let recipe = JointRecipe { semantic, head, joint };
                Box::new(TrainStage { name, dataset, runs, settings, recipe })
            }
        })
    }
}
