//! Joint training: MANIQA learns from the images together with the fusion module, as in the paper. The semantic vectors
//! come from cached columns.
//!
//! A run leaves the same files as a head's training. It also leaves the trained network under
//! `models/run=<run>/maniqa/`, in the form that `agiqa features --extractor maniqa` reads. The stage after the training
//! computes the network's `f_1` of the dataset's images. The run's record names this quality feature set. A finished
//! run is therefore a head over cached columns like any other, and `predict` and `evaluate` need no special case. To
//! score other datasets, run `features` with the network's weights first.

use std::path::PathBuf;

use agiqa_images::interpolate_bicubic;
use agiqa_judge::metrics;
use tch::{Device, Kind, Tensor};

use super::fusion::{HeadColumns, HeadSettings};
use crate::features::maniqa::ManiqaOptions;
use crate::features::{CommonSettings, FeatureSettings, FeatureStage, NetworkSettings};
use crate::train::head_inputs;
use crate::train::initial::initial;
use crate::train::pictures::PictureSettings;
use crate::train::trainer::{
    Application, Batch, Course, Exported, Finished, Lesson, Loss, Pace, Recipe, RecipeError, RunData, StepLoss,
    TrainError, Validated, Weights, by_steps, in_words,
};
use crate::train::{TrainSettings, TrainSettingsError};
use agiqa_nets::device::Normalisation;
use agiqa_nets::fusion::ProjectionMasks;
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::ma_agiqa::{MaAgiqa, MaAgiqaConfig};
use agiqa_nets::maniqa::Mode;
use agiqa_nets::trained_head::LabelScale;
use agiqa_store::console::Progress;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::StageContext;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models;
use agiqa_store::tables::splits::Part;

mod settings;

pub use settings::JointSettings;

mod start;

use start::CannotStart;
pub use start::StartError;

mod export;

/// Version of the joint training. It must be raised if equal inputs give new numbers.
const JOINT_VERSION: u32 = 1;

/// Images per forward pass of validation. On a CPU, larger batches gain nothing; a GPU needs larger batches.
const CPU_BATCH: usize = 2;
const GPU_BATCH: usize = 16;

/// Smallest share of values of f_1 above 0. Below it, the network has practically nothing left to learn from.
const LEAST_F_1_SHARE: f64 = 0.01;

/// Trains MANIQA and the fusion module together.
#[derive(Clone, Debug)]
pub struct JointRecipe {
    /// The feature set with f_a and f_b.
    pub semantic: FeatureSet,
    /// Settings of the fusion module.
    pub head: HeadSettings,
    /// Settings of the other parts.
    pub joint: JointSettings,
}

impl JointRecipe {
    fn config(&self) -> Result<MaAgiqaConfig, RecipeError> {
        let maniqa = start::maniqa_config(&self.joint).map_err(CannotStart::from)?;
        let (n_frozen, n_blocks) = (self.joint.freeze_blocks, maniqa.vit_config().n_blocks);
        if n_frozen as usize > n_blocks {
            let found = format!("{n_frozen} of the {n_blocks} blocks that are read");
            return Err(TrainSettingsError::new("joint.freeze_blocks", found, "at most all of them").into());
        }
        let [semantic_dim, coherence_dim] = head_inputs::semantic_dims(&self.semantic)?;
        let dims = [semantic_dim, coherence_dim, maniqa.n_tokens()];
        let [semantic_dim, coherence_dim, _] = self.head.read_dims(dims);
        Ok(MaAgiqaConfig::new(maniqa, semantic_dim, coherence_dim, i64::from(self.head.width), self.head.gate))
    }

    /// The network of a run as an extractor, with its weights in `folder`.
    fn extractor(&self, folder: PathBuf) -> FeatureSettings {
        let options = ManiqaOptions { weights: Some(folder), dtype: Some(self.joint.dtype) };
        let common = CommonSettings { device: self.joint.device, ..CommonSettings::default() };
        FeatureSettings { network: NetworkSettings::Maniqa(options), common }
    }
}

impl Recipe for JointRecipe {
    const RUN_KIND: &'static str = "joint run";
    const NAME: &'static str = models::JOINT;

    fn title(&self, name: &PartitionName) -> String {
        format!("{name} with MANIQA")
    }

    fn check(&self) -> Result<(), RecipeError> {
        Ok(self.joint.check(&self.head)?)
    }

    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError> {
        let config = self.config()?;
        let weights = start::content_hash(&self.joint, &config).map_err(CannotStart::from)?;
        let mut builder = Fingerprint::builder("joint training");
        if let Some(products) = self.joint.dtype.other_products(self.joint.device) {
            builder.json("products", &products);
        }
        Ok(builder
            .json("version", &JOINT_VERSION)
            .json("dataset", dataset)
            .json("semantic", &self.semantic.fingerprint)
            .json("maniqa", &config.maniqa)
            .json("weights", &weights)
            .json("settings", &self.deciding(settings))
            .finish())
    }

    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value {
        self.head.deciding(settings, Some(&self.joint))
    }

    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError> {
        Ok(vec![head_inputs::semantic_inputs(&self.semantic)?])
    }

    fn advice(&self, dataset: &PartitionName) -> String {
        let (extractor, fingerprint) = (&self.semantic.extractor, self.semantic.fingerprint.short());
        format!(
            "run `agiqa features --dataset {dataset}` (semantic features `{extractor}@{fingerprint}`), or ingest again if \
             MOS are missing"
        )
    }

    fn pictures(&self) -> Result<Option<PictureSettings>, RecipeError> {
        let config = self.config()?.maniqa;
        let (side_px, memory_mib) = (u32::try_from(config.vit.img_size)?, self.joint.image_memory_mib);
        let resize = |image: &_, side_px| interpolate_bicubic(image, side_px, side_px).pixels;
        Ok(Some(PictureSettings::squares(side_px, memory_mib, self.joint.augment, resize)))
    }

    fn pace(&self) -> Pace {
        Pace::InTurn { checkpoint_minutes: self.joint.checkpoint_minutes }
    }

    fn check_machine(&self) -> Result<(), RecipeError> {
        Ok(self.joint.dtype.check_on(self.joint.device.device()?)?)
    }

    fn application(&self) -> Option<Application> {
        let recipe = self.clone();
        Some(Application {
            title: "features by MANIQA",
            prefix_of: models::maniqa_prefix,
            stage: Box::new(move |_, folder, source| {
                Ok(Box::new(FeatureStage::new(recipe.extractor(folder.to_owned()), source)))
            }),
        })
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

impl Course for JointRecipe {
    type Lesson<'a> = JointLesson<'a>;

    fn warmup_steps(&self, _n_steps: u64) -> u64 {
        u64::from(self.joint.warmup_steps)
    }

    fn lesson<'a>(&'a self, data: &'a RunData<'_>) -> Result<JointLesson<'a>, RecipeError> {
        let (config, device) = (self.config()?, self.joint.device.device()?);
        Ok(JointLesson {
            recipe: self,
            columns: HeadColumns::new(data, &self.head, config.fusion).on(device)?,
            normalisation: Normalisation::new(config.maniqa.pixel_mean, config.maniqa.pixel_std, device),
            labels: data.label_scale(),
            least_target: data.targets().min(),
            device,
            data,
            config,
        })
    }
}

/// One run.
pub struct JointLesson<'a> {
    recipe: &'a JointRecipe,
    data: &'a RunData<'a>,
    config: MaAgiqaConfig,
    /// f_a and f_b, on the device.
    columns: HeadColumns<'a>,
    normalisation: Normalisation,
    labels: LabelScale,
    /// The smallest label of the training part. It corresponds to a rating of 0.
    least_target: Tensor,
    device: Device,
}

impl Lesson for JointLesson<'_> {
    type Network = MaAgiqa;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        let start = start::read(&self.recipe.joint, &self.config).map_err(CannotStart::from)?;
        let seed = self.data.draws.seed();
        let (tensors, drawn) = initial(&self.config.parameters(), &start.tensors, seed);
        let n_read = tensors.len() - drawn.len();
        let mut notes = vec![format!(
            "{n_read} tensors from the weights, {} drawn by seed {seed}; products are computed in {}",
            drawn.len(),
            self.recipe.joint.dtype
        )];
        if !start.unused.is_empty() {
            notes.push(format!(
                "{} tensors of the weights are not read, those of a fusion module among them, which is drawn by the seed: {}",
                start.unused.len(),
                start.unused.join(", ")
            ));
        }
        Ok((tensors, notes))
    }

    fn rate(&self, parameter: &str) -> f64 {
        self.recipe.joint.rate(parameter, self.config.maniqa.vit_config().n_blocks)
    }

    fn device(&self) -> Device {
        self.device
    }

    fn network(&self, tensors: &NamedTensors) -> Result<MaAgiqa, NetworkError> {
        MaAgiqa::new(&self.config, tensors, self.device, self.recipe.joint.dtype.kind())
    }

    fn step(&self, network: &MaAgiqa, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let (joint, targets) = (&self.recipe.joint, &batch.targets);
        let pixels = batch.pixels.as_ref().expect("the recipe asked for pictures");
        let (columns, masks) = (self.columns.batch(batch), self.columns.masks(batch));
        let loss = |part: &dyn Fn(&Tensor) -> Tensor| {
            let maniqa = network.maniqa().forward(&self.normalisation.forward(&part(pixels)), Mode::Train);
            let masks = masks.as_ref().map(|ProjectionMasks { semantic, coherence }| ProjectionMasks {
                semantic: part(semantic),
                coherence: part(coherence),
            });
            let (f_a, f_b) = (part(&columns[0]), part(&columns[1]));
            let score = network.fusion().forward(&f_a, &f_b, &maniqa.f_1, masks.as_ref()).score;
            let squared_errors = (score - part(targets)).square().sum(Kind::Float);
            let minimised = (joint.rating_loss > 0.0).then(|| {
                // Ratings cannot be negative.
                let ratings = part(&(targets - &self.least_target));
                &squared_errors + joint.rating_loss * (maniqa.rating() - ratings).square().sum(Kind::Float)
            });
            Loss { squared_errors, minimised }
        };
        Ok(weights.step_by_autograd(batch, joint.micro_batch, self.data.draws.torch_seed(batch.step), loss))
    }

    fn validate(&self, network: &MaAgiqa) -> Result<Validated, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let (data, rows) = (self.data, self.data.part(Part::Validation));
        let batch_size = if self.device == Device::Cpu { CPU_BATCH } else { GPU_BATCH };
        let mut validated = Validated::default();
        let (mut ratings, mut n_above_0) = (Vec::with_capacity(rows.len()), 0.0);
        data.pictures().for_each_batch(rows, batch_size, data.n_threads, self.device, |rows, pixels| {
            let (columns, pixels) = (self.columns.rows(rows), self.normalisation.forward(&pixels));
            let output = network.forward(&pixels, &columns[0], &columns[1], Mode::Evaluate);
            let raw = Vec::<f32>::try_from(output.fusion.score.to_device(Device::Cpu))?;
            validated.scores.extend(raw.into_iter().map(|raw| self.labels.mos(f64::from(raw))));
            let rated = Vec::<f32>::try_from(output.maniqa.rating().to_device(Device::Cpu))?;
            ratings.extend(rated.into_iter().map(f64::from));
            n_above_0 += output.maniqa.f_1.gt(0.0).sum(Kind::Float).double_value(&[]);
            Ok::<_, RecipeError>(())
        })?;
        if self.recipe.joint.rating_loss > 0.0 {
            let mos = &data.validation_mos;
            let (srcc, plcc) = (in_words(metrics::srcc(&ratings, mos)), in_words(metrics::plcc(&ratings, mos)));
            validated.notes.push(format!("MANIQA's own rating: validation SRCC {srcc}, PLCC {plcc}"));
        }
        let f_1_share = n_above_0 / (rows.len() as f64 * self.config.maniqa.n_tokens() as f64);
        if f_1_share < LEAST_F_1_SHARE {
            validated.warnings.push(format!(
                "{:.1} % of the values of f_1 are 0 on the validation images: MANIQA's scores end in a ReLU, which no longer \
                 learns where it is 0; start again with a lower learning rate for it (`quality_rate`), a longer warm-up \
                 (`warmup_steps`) or a loss of its own (`rating_loss`)",
                100.0 * (1.0 - f_1_share)
            ));
        }
        Ok(validated)
    }

    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        self.export_network(tensors, store)
    }
}
