//! The training of a network that rates images: the systems that the paper compares with. The network reads the images
//! alone, and all of it learns.
//!
//! A run leaves the network under `models/run=<run>/rater/`. The stage after the training rates the dataset's images by
//! it, and the ratings are the run's scores. `evaluate` and `compare` read them like those of any other run.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::engine::ImageSource;
use crate::features::{CommonSettings, DeviceChoice};
use crate::ratings::{RatingOptions, RatingSettings, RatingStage, TrainedRater};
use crate::train::TrainSettings;
use crate::train::initial::{initial, normal_values};
use crate::train::pictures::PictureSettings;
use crate::train::trainer::{
    Application, Batch, Course, Exported, Finished, Lesson, Loss, Pace, Recipe, RecipeError, RunData, StepLoss,
    TrainError, Validated, Weights, by_steps,
};
use agiqa_nets::layers::{NamedTensors, NetworkError, Phase};
use agiqa_nets::raters::{Prepare, Rater, RaterName, RaterStart};
use agiqa_nets::trained_head::{LabelScale, tensors_to_bytes};
use agiqa_store::console::Progress;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::{Stage, StageContext, StageError};
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::scores::ScoreSet;
use agiqa_store::tables::splits::Part;

mod settings;

pub use settings::{BatchNorms, Protocol, RaterSettings};

mod view;

use view::RaterView;

/// Version of the training. It must be raised if equal inputs give new numbers.
const RATER_VERSION: u32 = 1;

/// Images per forward pass of validation on a GPU. On a CPU, the crops of one image fill its threads.
const GPU_BATCH: usize = 8;

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

/// One run.
pub struct RaterLesson<'a> {
    settings: &'a RaterSettings,
    start: RaterStart,
    prepare: Arc<dyn Prepare>,
    labels: LabelScale,
    device: Device,
    data: &'a RunData<'a>,
}

impl RaterLesson<'_> {
    /// What published code starts with, where that is not PyTorch's default.
    fn own_initial(&self, read: &mut NamedTensors) {
        let seed = self.data.draws.seed();
        for (name, shape) in self.start.parameters() {
            if read.contains_key(name) {
                continue;
            }
            let filled = |value: f64| Tensor::full(shape.as_slice(), value, (Kind::Float, Device::Cpu));
            let of_norm =
                |unit: f64| if name.ends_with("weight") || name.ends_with("running_var") { unit } else { 0.0 };
            let tensor = match (self.settings.network, name.as_str()) {
                // The block around attention starts as the identity.
                (RaterName::Baid, "NLB.W.1.weight") => filled(0.0),
                _ if self.start.is_of_batch_norm(name) => filled(of_norm(1.0)),
                // Kaiming's normal distribution for an activation that keeps half of the values.
                (RaterName::Dbcnn, "fc.weight") => normal_values(name, shape, (2.0 / shape[1] as f64).sqrt(), seed),
                (RaterName::Dbcnn, "fc.bias") => filled(0.0),
                _ => continue,
            };
            read.insert(name.clone(), tensor);
        }
    }
}

impl Lesson for RaterLesson<'_> {
    type Network = Box<dyn Rater>;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        let mut read = self.start.read()?;
        let n_read = read.len();
        self.own_initial(&mut read);
        let seed = self.data.draws.seed();
        let (tensors, _) = initial(self.start.parameters(), &read, seed);
        let files: Vec<String> = self.start.files().map(|path| path.display().to_string()).collect();
        let n_drawn = tensors.len() - n_read;
        let mut notes = vec![format!("{n_read} tensors from {}, {n_drawn} begin by seed {seed}", files.join(", "))];
        let LabelScale { scale, offset } = self.labels;
        if self.settings.network.is_bounded() && self.labels != (LabelScale { scale: 1.0, offset: 0.0 }) {
            notes.push(format!(
                "ratings of `{}` lie between 0 and 1, and MOS do not: it learns (MOS - {offset}) / {scale}, and scores are \
                 mapped back",
                self.settings.network
            ));
        }
        Ok((tensors, notes))
    }

    fn rate(&self, parameter: &str) -> f64 {
        let is_fixed = self.settings.batch_norm == BatchNorms::Frozen && self.start.is_of_batch_norm(parameter);
        let is_trained = !is_fixed && !self.start.is_frozen(parameter) && !self.start.is_statistic(parameter);
        f64::from(u8::from(is_trained))
    }

    fn moves(&self, parameter: &str) -> bool {
        let is_by_batch = self.settings.batch_norm == BatchNorms::Train;
        is_by_batch && self.start.is_statistic(parameter) && !self.start.is_frozen(parameter)
    }

    fn device(&self) -> Device {
        self.device
    }

    fn network(&self, tensors: &NamedTensors) -> Result<Box<dyn Rater>, NetworkError> {
        let by_batch = self.settings.batch_norm == BatchNorms::Train;
        let phase = match tensors.values().any(Tensor::requires_grad) {
            true => Phase::Learning { by_batch, drops: true },
            false => Phase::Rating,
        };
        self.start.network(tensors, self.device, phase)
    }

    fn step(&self, network: &Box<dyn Rater>, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let places = Tensor::arange(batch.rows.len() as i64, (Kind::Int64, Device::Cpu));
        let loss = |part: &dyn Fn(&Tensor) -> Tensor| {
            let ratings = match &batch.pixels {
                Some(pixels) => network.rate(&part(pixels)),
                None => {
                    let places = Vec::<i64>::try_from(part(&places).to_device(Device::Cpu)).expect("whole numbers");
                    let ratings = places.iter().map(|place| network.rate(&batch.varied[*place as usize]));
                    Tensor::cat(&ratings.collect::<Vec<_>>(), 0)
                }
            };
            let squared_errors = (ratings - part(&batch.targets)).square().sum(Kind::Float);
            Loss { squared_errors, minimised: None }
        };
        let seed = self.data.draws.torch_seed(batch.step);
        Ok(weights.step_by_autograd(batch, self.settings.micro_batch, seed, loss))
    }

    fn validate(&self, network: &Box<dyn Rater>) -> Result<Validated, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let (data, rows) = (self.data, self.data.part(Part::Validation));
        let batch_size = if self.device != Device::Cpu && self.prepare.has_one_shape() { GPU_BATCH } else { 1 };
        let mut validated = Validated::default();
        data.pictures().for_each_batch(rows, batch_size, data.n_threads, self.device, |_, inputs| {
            let ratings = network.rate(&inputs).to_device(Device::Cpu);
            let ratings = Vec::<f64>::try_from(ratings.to_kind(Kind::Double))?;
            validated.scores.extend(ratings.into_iter().map(|rating| self.labels.mos(rating)));
            Ok::<_, RecipeError>(())
        })?;
        Ok(validated)
    }

    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        let (run, LabelScale { scale, offset }) = (&self.data.run, self.labels);
        let mut named: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let RaterSettings { network, variant, .. } = self.settings.clone();
        let description = serde_json::to_vec_pretty(&Description { network, variant, scale, offset })?;
        let folder = models::rater_prefix(run);
        store.put(&format!("{folder}/{}", models::RATER_DESCRIPTION), description)?;
        let bytes = tensors_to_bytes(&named, std::collections::HashMap::new());
        store.put(&format!("{folder}/{}", models::RATER_WEIGHTS), bytes)?;
        Ok(Exported::default())
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
