//! The training of a network that rates images: the systems that the paper compares with. The network reads the images
//! alone, and all of it learns.
//!
//! A run leaves the network under `models/run=<run>/rater/`. The stage after the training rates the dataset's images by
//! it, and the ratings are the run's scores. `evaluate` and `compare` read them like those of any other run.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::ImageSource;
use crate::features::{CommonSettings, DeviceChoice};
use crate::ratings::{RatingOptions, RatingSettings, RatingStage, TrainedRater};
use crate::train::TrainSettings;
use crate::train::pictures::PictureSettings;
use crate::train::trainer::{Application, Course, Finished, Pace, Recipe, RecipeError, RunData, TrainError, by_steps};
use agiqa_nets::raters::{RaterName, RaterStart};
use agiqa_nets::trained_head::LabelScale;
use agiqa_store::console::Progress;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::{Stage, StageContext, StageError};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::scores::ScoreSet;

mod settings;

pub use settings::{BatchNorms, Protocol, RaterSettings};

mod view;

use view::RaterView;

mod lesson;

pub use lesson::RaterLesson;

/// Version of the training. It must be raised if equal inputs give new numbers.
const RATER_VERSION: u32 = 1;

/// Upper ends of scales of ratings that begin at 0.
const SCALES: [f64; 4] = [1.0, 5.0, 10.0, 100.0];

/// Trains a rating network.
#[derive(Clone, Debug)]
pub struct RaterRecipe {
    /// Its settings.
    pub settings: RaterSettings,
}

/// `rater.json`: what the weights of a run need to rate images on the MOS scale.
#[derive(Serialize, Deserialize)]
struct Description {
    network: RaterName,
    variant: Option<String>,
    /// MOS = rating · scale + offset.
    scale: f64,
    offset: f64,
}

impl RaterRecipe {
    fn start(&self) -> Result<RaterStart, RecipeError> {
        let RaterSettings { network, weights, variant, .. } = &self.settings;
        let variant = network.variant(variant.as_deref())?;
        Ok(RaterStart::open(*network, variant, weights.as_deref())?)
    }
}

/// How the network of a run is applied on `device`: it rates images, and its ratings are the run's scores.
pub fn rater_application(device: DeviceChoice) -> Application {
    let stage = move |record: &RunRecord, folder: &Path, source: ImageSource| {
        let text = std::fs::read(folder.join(models::RATER_DESCRIPTION))?;
        let Description { network, variant, scale, offset } = serde_json::from_slice(&text)?;
        let options = RatingOptions { weights: Some(folder.join(models::RATER_WEIGHTS)), variant, dtype: None };
        let trained = TrainedRater { set: ScoreSet::of_run(record), labels: LabelScale { scale, offset } };
        let common = CommonSettings { device, ..CommonSettings::default() };
        let settings = RatingSettings { network, options, common, trained: Some(trained) };
        Ok::<_, StageError>(Box::new(RatingStage::new(settings, source)) as Box<dyn Stage>)
    };
    Application { title: "scores", prefix_of: models::rater_prefix, stage: Box::new(stage) }
}

impl Recipe for RaterRecipe {
    const RUN_KIND: &'static str = "rater run";
    const NAME: &'static str = models::RATER;

    fn title(&self, name: &PartitionName) -> String {
        format!("{name}, {},", self.settings.network)
    }

    fn check(&self) -> Result<(), RecipeError> {
        Ok(self.settings.check()?)
    }

    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError> {
        self.settings.check_labels(settings)?;
        Ok(Fingerprint::builder("rater training")
            .json("version", &RATER_VERSION)
            .json("dataset", dataset)
            .json("weights", &self.start()?.content_hash()?)
            .json("settings", &self.deciding(settings))
            .finish())
    }

    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value {
        self.settings.deciding(settings)
    }

    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError> {
        Ok(Vec::new())
    }

    fn advice(&self, dataset: &PartitionName) -> String {
        format!("ingest `{dataset}` again with a MOS for each image")
    }

    fn pictures(&self) -> Result<Option<PictureSettings>, RecipeError> {
        let (prepare, settings) = (self.start()?.preprocessor(), &self.settings);
        let view = RaterView { prepare, crop_px: settings.crop_px(), flips: settings.flips() };
        Ok(Some(PictureSettings { memory_mib: settings.image_memory_mib, view: Box::new(view) }))
    }

    fn pace(&self) -> Pace {
        Pace::InTurn { checkpoint_minutes: self.settings.checkpoint_minutes }
    }

    fn check_machine(&self) -> Result<(), RecipeError> {
        self.settings.device.device()?;
        Ok(())
    }

    fn application(&self) -> Option<Application> {
        Some(rater_application(self.settings.device))
    }

    fn learn(
        &self,
        data: &RunData<'_>,
        context: &StageContext,
        progress: &Progress,
    ) -> Result<Option<Finished>, TrainError> {
        by_steps(self, data, context, progress)
    }
}

impl Course for RaterRecipe {
    type Lesson<'a> = RaterLesson<'a>;

    fn warmup_steps(&self, _n_steps: u64) -> u64 {
        u64::from(self.settings.warmup_steps)
    }

    fn label_scale(&self, data: &RunData<'_>) -> LabelScale {
        match self.settings.network.is_bounded() {
            true => bounded(&data.train_mos),
            false => data.label_scale(),
        }
    }

    fn lesson<'a>(&'a self, data: &'a RunData<'_>) -> Result<RaterLesson<'a>, RecipeError> {
        let (start, device) = (self.start()?, self.settings.device.device()?);
        let prepare = start.preprocessor();
        Ok(RaterLesson { settings: &self.settings, start, prepare, labels: self.label_scale(data), device, data })
    }
}

/// The scale on which `mos` lie between 0 and 1.
fn bounded(mos: &[f64]) -> LabelScale {
    let (least, largest) = mos.iter().fold((f64::MAX, f64::MIN), |(low, high), mos| (low.min(*mos), high.max(*mos)));
    match SCALES.into_iter().find(|scale| largest <= *scale) {
        Some(scale) if least >= 0.0 => LabelScale { scale, offset: 0.0 },
        _ => LabelScale { scale: if largest > least { largest - least } else { 1.0 }, offset: least },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_bounded_network_take_the_first_scale_that_holds_them() {
        let scale = |mos: &[f64]| {
            let LabelScale { scale, offset } = bounded(mos);
            (scale, offset)
        };
        assert_eq!(scale(&[0.1, 0.9]), (1.0, 0.0));
        assert_eq!(scale(&[0.0, 4.49]), (5.0, 0.0));
        assert_eq!(scale(&[3.0, 87.0]), (100.0, 0.0));
        assert_eq!(scale(&[-1.0, 2.0]), (3.0, -1.0));
        assert_eq!(scale(&[-2.0, -2.0]), (1.0, -2.0));
    }
}
