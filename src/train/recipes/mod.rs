//! What can be trained. A recipe is a file here that implements [`Recipe`](super::Recipe), and a variant of
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

/// What is trained, with the settings that only this recipe has.
#[derive(Clone, Debug, PartialEq)]
pub enum RecipeSettings {
    /// The fusion head over cached columns.
    Head(HeadSettings),
    /// MANIQA with the fusion head, from the images.
    Joint {
        /// Of the head.
        head: HeadSettings,
        /// Of MANIQA.
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
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        match self {
            Self::Head(head) => head.check(),
            Self::Joint { head, joint } => joint.check(head),
        }
    }
}

impl TrainStage<RecipeSettings> {
    /// The stage that can run. `quality` is where f_1 comes from, for a recipe that reads a cached one.
    ///
    /// # Errors
    /// No `quality` for a recipe that reads one.
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
