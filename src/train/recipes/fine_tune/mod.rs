//! Fine-tuning: an extractor's vision transformer learns from the images together with the gated head over its columns.
//!
//! The network is the extractor, up to its columns f_a, f_b and f_1, and the head. With a ridge start, ridge regression on
//! the columns of the untrained network is a fixed part of the score, and the rest of the head's output starts at 0. So
//! the training starts from the scores of that regression, and its inputs move with the network. The extractor's cached
//! columns give the regression and the standardisation.
//!
//! The loss is the squared error on standardised MOS and 1 − PLCC of the batch. Learning rates fall from block to block,
//! weights are averaged. Frozen blocks run without gradients; flips and crops make their tokens new in each step.
//!
//! A run leaves the trained network under `models/run=<run>/backbone/`, in the form that the extractor's setting `weights`
//! reads, and its head as a head over columns. The stage after the training computes the columns of the dataset's images.
//! With several sides, a score is the mean over the sides.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use super::fusion::{HeadColumns, HeadSettings, Start};
use super::linear_start::{LinearStart, initial_head};
use crate::features::{Backbone, FeatureSettings, FeatureStage, feature_sets};
use crate::train::head_inputs::{self, HeadInputsError};
use crate::train::pictures::PictureSettings;
use crate::train::trainer::{
    Application, Batch, Course, Exported, Finished, Lesson, LocalFolder, Loss, Pace, Recipe, RecipeError, RunData,
    StepLoss, TrainError, Tuning, Validated, Weights, by_steps,
};
use crate::train::{TrainSettings, TrainSettingsError};
use agiqa_nets::device::Normalisation;
use agiqa_nets::fusion::{FusionConfig, FusionHead, PARAMETER_NAMES, ProjectionMasks};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::trained_head::{Standardisation, TrainedHead, linear_term};
use agiqa_nets::vit::Vit;
use agiqa_store::console::Progress;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::StageContext;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models;
use agiqa_store::tables::splits::Part;

mod settings;

pub use settings::FineTuneSettings;

/// Version of the fine-tuning. It must be raised if equal inputs give new numbers.
const VERSION: u32 = 1;

/// Images per forward pass of validation. On a CPU, larger batches gain nothing; a GPU needs larger batches.
const CPU_BATCH: usize = 4;
const GPU_BATCH: usize = 64;

/// β₂ of Adam: short trainings need moments that follow fast.
const BETA_2: f64 = 0.98;

/// Added to variances in PLCC, so that equal scores have a gradient.
const PLCC_EPS: f64 = 1e-4;

/// Prefix of the transformer's parameters.
const VIT: &str = "vit.";

/// Fine-tunes the network that made some features.
#[derive(Clone, Debug)]
pub struct FineTuneRecipe {
    /// The feature set with f_a and f_b, of the network that is trained.
    pub semantic: FeatureSet,
    /// The feature set with f_1, of the same network.
    pub quality: FeatureSet,
    /// Settings of the head.
    pub head: HeadSettings,
    /// Settings of the other parts.
    pub settings: FineTuneSettings,
}

impl FineTuneRecipe {
    fn backbone(&self) -> Result<Backbone, RecipeError> {
        let FineTuneSettings { weights, side, device, .. } = &self.settings;
        Ok(Backbone::of([&self.semantic, &self.quality], weights.as_deref(), *side, *device)?)
    }

    fn mirror(&self, backbone: &Backbone) -> bool {
        self.settings.mirror.unwrap_or(backbone.mirror())
    }

    /// Sides at which the trained network scores.
    fn score_sides(&self, backbone: &Backbone) -> Vec<u32> {
        match self.settings.score_sides.as_slice() {
            [] => vec![backbone.side_px()],
            sides => sides.to_vec(),
        }
    }

    /// The trained network as an extractor, with its weights in `folder`.
    fn extractor(&self, backbone: &Backbone, folder: PathBuf) -> FeatureSettings {
        backbone.extractor(folder, self.score_sides(backbone), self.mirror(backbone), self.settings.dtype())
    }

    fn config(&self, columns: &[Tensor]) -> FusionConfig {
        let dims = [0, 1, 2].map(|i: usize| columns[i].size()[1]);
        let [semantic_dim, coherence_dim, quality_dim] = self.head.read_dims(dims);
        let (width, gate) = (i64::from(self.head.width), self.head.gate);
        FusionConfig { semantic_dim, coherence_dim, quality_dim, width, gate }
    }
}

impl Recipe for FineTuneRecipe {
    const RUN_KIND: &'static str = "fine-tuning run";
    const NAME: &'static str = models::FINE_TUNE;

    fn title(&self, name: &PartitionName) -> String {
        format!("{name} by fine-tuning {}", self.semantic.extractor)
    }

    fn check(&self) -> Result<(), RecipeError> {
        self.settings.check(&self.head)?;
        let backbone = self.backbone()?;
        let (n_frozen, n_blocks) = (self.settings.freeze_blocks, backbone.n_blocks());
        if n_frozen as usize > n_blocks {
            let found = format!("{n_frozen} of the {n_blocks} blocks that are read");
            let expected = "at most all of them";
            return Err(TrainSettingsError::new("fine_tune.freeze_blocks", found, expected).into());
        }
        let expected = "none with features of this extractor, which takes one side and no mirror images";
        if !backbone.takes_sides_and_mirror() && self.score_sides(&backbone) != [backbone.side_px()] {
            let found = format!("{:?}", self.settings.score_sides);
            return Err(TrainSettingsError::new("fine_tune.score_sides", found, expected).into());
        }
        if !backbone.takes_sides_and_mirror() && self.mirror(&backbone) {
            return Err(TrainSettingsError::new("fine_tune.mirror", true, expected).into());
        }
        self.columns()?;
        Ok(())
    }

    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError> {
        let backbone = self.backbone()?;
        let (dtype, device) = (self.settings.dtype(), self.settings.device);
        let mut builder = Fingerprint::builder("fine-tuning");
        if let Some(products) = dtype.other_products(device) {
            builder.json("products", &products);
        }
        Ok(builder
            .json("version", &VERSION)
            .json("dataset", dataset)
            .json("semantic", &self.semantic.fingerprint)
            .json("quality", &self.quality.fingerprint)
            .json("side", &backbone.side_px())
            .json("score_sides", &self.score_sides(&backbone))
            .json("mirror", &self.mirror(&backbone))
            .json("settings", &self.deciding(settings))
            .finish())
    }

    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value {
        let mut json = self.head.deciding(settings, None);
        let mut own = serde_json::to_value(&self.settings).expect("settings are plain data");
        if let (Some(fields), Some(own)) = (json.as_object_mut(), own.as_object_mut()) {
            // The fingerprint of the features covers the weights. The others decide no numbers.
            for key in ["weights", "device", "image_memory_mib", "checkpoint_minutes"] {
                own.remove(key);
            }
            own.insert("dtype".to_owned(), serde_json::json!(self.settings.dtype()));
            fields.remove("ridge");
            fields.insert("fine_tune".to_owned(), serde_json::json!(own));
        }
        json
    }

    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError> {
        let backbone = self.backbone()?;
        Ok(head_inputs::named_columns([&self.semantic, &self.quality], backbone.columns())?)
    }

    fn advice(&self, dataset: &PartitionName) -> String {
        head_inputs::advice(dataset, &self.semantic, &self.quality)
    }

    fn pictures(&self) -> Result<Option<PictureSettings>, RecipeError> {
        let backbone = self.backbone()?;
        let (side_px, memory_mib) = (backbone.side_px(), self.settings.image_memory_mib);
        let (augment, resize) = (self.settings.augment, backbone.resize());
        Ok(Some(PictureSettings::squares(side_px, memory_mib, augment, resize)))
    }

    fn pace(&self) -> Pace {
        Pace::InTurn { checkpoint_minutes: self.settings.checkpoint_minutes }
    }

    fn check_machine(&self) -> Result<(), RecipeError> {
        Ok(self.settings.dtype().check_on(self.settings.device.device()?)?)
    }

    fn application(&self) -> Option<Application> {
        let recipe = self.clone();
        Some(Application {
            title: "features by the fine-tuned network",
            prefix_of: models::backbone_prefix,
            stage: Box::new(move |_, folder, source| {
                let backbone = recipe.backbone()?;
                Ok(Box::new(FeatureStage::new(recipe.extractor(&backbone, folder.to_owned()), source)))
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

impl Course for FineTuneRecipe {
    type Lesson<'a> = FineTuneLesson<'a>;

    fn warmup_steps(&self, n_steps: u64) -> u64 {
        (n_steps as f64 * self.settings.warmup) as u64
    }

    fn lesson<'a>(&'a self, data: &'a RunData<'_>) -> Result<FineTuneLesson<'a>, RecipeError> {
        let backbone = self.backbone()?;
        let config = self.config(&data.columns);
        let columns = HeadColumns::new(data, &self.head, config);
        let linear = match self.head.start {
            Start::Random => None,
            Start::Ridge => Some(LinearStart::of(data, &columns, self.head.shrinkage)?),
        };
        let device = self.settings.device.device()?;
        Ok(FineTuneLesson {
            mirror: self.mirror(&backbone),
            normalisation: backbone.normalisation(device),
            recipe: self,
            data,
            backbone,
            config,
            columns,
            linear,
            device,
        })
    }
}

/// One run.
pub struct FineTuneLesson<'a> {
    recipe: &'a FineTuneRecipe,
    data: &'a RunData<'a>,
    backbone: Backbone,
    mirror: bool,
    normalisation: Normalisation,
    config: FusionConfig,
    /// The cached columns of the untrained network.
    columns: HeadColumns<'a>,
    /// The term that a ridge start adds.
    linear: Option<LinearStart>,
    device: Device,
}

/// A transformer with a head over its columns, on one device.
pub struct FineTuned {
    vit: Vit,
    head: FusionHead,
    inputs: [Standardisation; 3],
    linear: Option<[Tensor; 3]>,
}

impl FineTuned {
    /// Columns, `(b, d)` each, standardised, without the values that the head does not read.
    fn standardised(&self, columns: [Tensor; 3]) -> [Tensor; 3] {
        let dims = self.head.config.dims();
        [0, 1, 2].map(|i: usize| self.inputs[i].apply(&columns[i].narrow(1, 0, dims[i])))
    }
}

impl FineTuneLesson<'_> {
    /// The head with `tensors`, on the CPU.
    fn head(&self, tensors: &NamedTensors) -> TrainedHead {
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].to_device(Device::Cpu));
        TrainedHead {
            head: FusionHead::new(self.config, parameters),
            inputs: [0, 1, 2].map(|i: usize| self.columns.standardisations[i].share()),
            labels: self.data.label_scale(),
            linear: self.linear.as_ref().map(LinearStart::share),
        }
    }

    /// Cuts the step's random square out of images, `(b, 3, s, s)`, and resizes it.
    fn cropped(&self, pixels: Tensor, step: u64) -> Tensor {
        let (side, least) = (i64::from(self.backbone.side_px()), self.recipe.settings.crop);
        if least >= 1.0 {
            return pixels;
        }
        let [top, left, cut] = self.data.draws.crop(step, side, least);
        pixels.narrow(2, top, cut).narrow(3, left, cut).upsample_bicubic2d([side, side], false, None, None)
    }

    /// The multipliers of the three inputs in a step, if it drops values.
    fn input_masks(&self, batch: &Batch) -> Option<[Tensor; 3]> {
        let (share, dims, n) = (self.recipe.head.input_dropout, self.config.dims(), batch.rows.len() as i64);
        let mask = |i: usize| self.data.draws.mask(batch.step, i as u64, share, [n, dims[i]]);
        (share > 0.0).then(|| [0, 1, 2].map(mask))
    }
}

impl Lesson for FineTuneLesson<'_> {
    type Network = FineTuned;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        let tensors = self.backbone.tensors()?.into_iter();
        let mut tensors: NamedTensors = tensors.map(|(name, tensor)| (format!("{VIT}{name}"), tensor)).collect();
        let head = initial_head(self.data, self.config, self.linear.is_some());
        tensors.extend(PARAMETER_NAMES.into_iter().map(str::to_owned).zip(head));
        let start = match &self.linear {
            Some(LinearStart { strength, .. }) => {
                format!("; ridge regression of strength {strength} is a part of the score")
            }
            None => String::new(),
        };
        let dtype = self.recipe.settings.dtype();
        Ok((tensors, vec![format!("{} at {} px in {dtype}{start}", self.backbone.name(), self.backbone.side_px())]))
    }

    fn rate(&self, parameter: &str) -> f64 {
        let FineTuneSettings { freeze_blocks, backbone_rate, layer_decay, .. } = &self.recipe.settings;
        match parameter.strip_prefix(VIT) {
            None => 1.0,
            Some(name) => {
                let n_blocks = self.backbone.n_blocks();
                super::rate_in_transformer(name, n_blocks, *freeze_blocks as usize, *backbone_rate, *layer_decay)
            }
        }
    }

    fn tuning(&self) -> Tuning {
        let gradient_norm = Some(self.recipe.settings.gradient_norm);
        Tuning { beta_2: BETA_2, decay_vectors: false, gradient_norm }
    }

    fn device(&self) -> Device {
        self.device
    }

    fn network(&self, tensors: &NamedTensors) -> Result<FineTuned, NetworkError> {
        let of_vit = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(VIT)?, tensor)));
        let of_vit = of_vit.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].shallow_clone());
        Ok(FineTuned {
            vit: Vit::new(&self.backbone.config(), &of_vit, self.device, self.recipe.settings.dtype().kind())?,
            head: FusionHead::new(self.config, parameters),
            inputs: [0, 1, 2].map(|i: usize| self.columns.standardisations[i].on(self.device)),
            linear: self.linear.as_ref().map(|linear| linear.weights.each_ref().map(|xs| xs.to_device(self.device))),
        })
    }

    fn step(&self, network: &FineTuned, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let settings = &self.recipe.settings;
        let pixels = batch.pixels.as_ref().expect("the recipe asked for pictures");
        let (n_images, n_blocks, draws) = (batch.rows.len(), self.backbone.n_blocks(), self.data.draws);
        let (input_masks, masks) = (self.input_masks(batch), self.columns.masks(batch));
        let loss = |part: &dyn Fn(&Tensor) -> Tensor| {
            let multipliers = |block: usize, half: usize| {
                let share = settings.depth(block, n_blocks);
                let drawn = || part(&Tensor::from_slice(&draws.depth(batch.step, block, half, share, n_images)));
                (share > 0.0).then(drawn)
            };
            let pixels = self.cropped(self.normalisation.forward(&part(pixels)), batch.step);
            let columns = network.standardised(self.backbone.pooled(&network.vit, &pixels, multipliers));
            let dropped = match &input_masks {
                Some(masks) => [0, 1, 2].map(|i: usize| &columns[i] * part(&masks[i])),
                None => columns.each_ref().map(Tensor::shallow_clone),
            };
            let masks = masks.as_ref().map(|ProjectionMasks { semantic, coherence }| ProjectionMasks {
                semantic: part(semantic),
                coherence: part(coherence),
            });
            let [f_a, f_b, f_1] = &dropped;
            let mut score = network.head.forward(f_a, f_b, f_1, masks.as_ref()).score;
            if let Some(weights) = &network.linear {
                score += linear_term(weights, &columns);
            }
            let targets = part(&batch.targets);
            let squared_errors = (&score - &targets).square().sum(Kind::Float);
            let minimised = (settings.plcc_loss > 0.0).then(|| {
                let weight = settings.plcc_loss * targets.size()[0] as f64;
                &squared_errors + (1.0 - plcc(&score, &targets)) * weight
            });
            Loss { squared_errors, minimised }
        };
        Ok(weights.step_by_autograd(batch, settings.micro_batch, draws.torch_seed(batch.step), loss))
    }

    fn validate(&self, network: &FineTuned) -> Result<Validated, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let (data, rows) = (self.data, self.data.part(Part::Validation));
        let batch_size = if self.device == Device::Cpu { CPU_BATCH } else { GPU_BATCH };
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        data.pictures().for_each_batch(rows, batch_size, data.n_threads, self.device, |_, pixels| {
            let pixels = self.normalisation.forward(&pixels);
            let pooled = |pixels: &Tensor| self.backbone.pooled(&network.vit, pixels, |_, _| None);
            let mut found = pooled(&pixels);
            if self.mirror {
                let mirrored = pooled(&pixels.flip([3]));
                found = [0, 1, 2].map(|i: usize| (&found[i] + &mirrored[i]) / 2.0);
            }
            columns.iter_mut().zip(found).for_each(|(column, found)| column.push(found.to_device(Device::Cpu)));
            Ok::<_, RecipeError>(())
        })?;
        let columns = columns.map(|column| Tensor::cat(&column, 0));
        let parameters = PARAMETER_NAMES.into_iter().map(str::to_owned).zip(network.head.parameters());
        let tensors = parameters.map(|(name, tensor)| (name, tensor.shallow_clone())).collect();
        Ok(Validated { scores: self.head(&tensors).score(&columns).score, ..Validated::default() })
    }

    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        let run = &self.data.run;
        let of_vit = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(VIT)?, tensor)));
        let of_vit = of_vit.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
        let prefix = models::backbone_prefix(run);
        for (name, bytes) in self.backbone.files(&of_vit)? {
            store.put(&format!("{prefix}/{name}"), bytes)?;
        }
        store.put(&models::head_path(run), self.head(&tensors).to_bytes())?;
        let folder = LocalFolder::new(store, &prefix)?;
        let features = feature_sets(&self.recipe.extractor(&self.backbone, folder.path().to_owned()))?;
        let inputs = models::fusion_inputs(&features.semantic, &features.quality);
        Ok(Exported { inputs, ..Exported::default() })
    }
}

/// Pearson's correlation of `scores` and `targets`, `(b,)` each.
fn plcc(scores: &Tensor, targets: &Tensor) -> Tensor {
    let centred = |xs: &Tensor| xs - xs.mean(Kind::Float);
    let (scores, targets) = (centred(scores), centred(targets));
    let mean = |xs: Tensor| xs.mean(Kind::Float);
    let variances = (mean(scores.square()) + PLCC_EPS) * (mean(targets.square()) + PLCC_EPS);
    mean(&scores * &targets) / variances.sqrt()
}

/// Columns that the head of a fine-tuned run reads, per side, in the order of the sides that the network scores at. Further sides have
/// their side behind the names (`f_a_384`).
///
/// # Errors
/// Fails if a column is missing.
pub fn columns_per_side(sets: [&FeatureSet; 2]) -> Result<Vec<Vec<FeatureSet>>, HeadInputsError> {
    let suffixes = sets[1].columns.iter().filter_map(|column| column.name.strip_prefix("f_1"));
    suffixes
        .map(|suffix| {
            let names = ["f_a", "f_b", "f_1"].map(|name| format!("{name}{suffix}"));
            head_inputs::named_columns(sets, &names)
        })
        .collect()
}
