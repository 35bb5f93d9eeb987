//! `maniqa`: the quality feature of MA-AGIQA, `f_1 = S × W` per patch, and MANIQA's own rating of each image.
//!
//! The user provides the weights: a folder with a checkpoint (the authors' state dict, or the result of a joint
//! training here) and `config.json`, the sizes of the network.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::extractor::{Precise, Precision, column, columns_of, described_set, device_memory, guarded, side_by_side};
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError,
};
use crate::engine::{
    Batch, BatchSize, DeviceMemory, GuestError, Input, Launched, Loaded, Network, OutputRows, Preprocessor, Unusable,
    Values,
};
use agiqa_images::{DECODER_VERSION, RgbImage8, interpolate_bicubic};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::device::{Normalisation, placed};
use agiqa_nets::maniqa::{Maniqa, ManiqaConfig, Mode, weights};
use agiqa_store::path_text;
use agiqa_store::tables::features::FeatureKind;

const NAME: ExtractorName = ExtractorName::Maniqa;

/// Version of this file and the network, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 2;

/// Default number of images per batch on a CPU. Larger batches are not faster there.
const CPU_BATCH_SIZE: usize = 2;

/// Default number of images per batch on a GPU, which needs much parallel work.
const GPU_BATCH_SIZE: usize = 64;

/// A user's settings of the network. An absent setting takes its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManiqaOptions {
    /// Folder of the weights and their `config.json`. Required.
    #[serde(with = "path_text::optional")]
    pub weights: Option<PathBuf>,
    /// Number type of the network, `f32`, `bf16` or `f16`. It decides the numbers. Default: `f32` on a CPU, `f16` on a GPU.
    pub dtype: Option<Dtype>,
}

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct ManiqaSettings {
    folder: PathBuf,
    config: ManiqaConfig,
    precise: Precise,
    device: DeviceChoice,
    batch_size: Option<usize>,
    weights_blake3: String,
}

/// All settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Description<'a> {
    extractor: ExtractorName,
    code_version: u32,
    weights_blake3: &'a str,
    decoder_version: u32,
    resize: &'a str,
    #[serde(flatten)]
    precision: Precision,
    config: &'a ManiqaConfig,
}

impl ManiqaSettings {
    /// Checks the settings: reads the folder's `config.json` and hashes the tensors that the network reads.
    ///
    /// # Errors
    /// No folder is given, the folder lacks one of the two files, or the checkpoint has another geometry.
    pub fn new(options: &ManiqaOptions, common: &CommonSettings) -> Result<Self, ExtractError> {
        let Some(folder) = options.weights.clone() else {
            let problem = format!("`{NAME}` needs the folder of its weights and their `config.json`");
            return Err(FeatureSettingsError::Value { key: "weights", found: "none".to_owned(), problem }.into());
        };
        let config = ManiqaConfig::read(&folder.join("config.json")).map_err(load_error)?;
        let checkpoint = Checkpoint::find(&folder).map_err(load_error)?;
        let weights_blake3 = weights::content_hash(&checkpoint, &config.parameters()).map_err(load_error)?;
        Ok(Self {
            folder,
            config,
            precise: Precise::new(NAME, options.dtype, common.device),
            device: common.device,
            batch_size: common.batch_size.map(std::num::NonZeroUsize::get),
            weights_blake3,
        })
    }
}

fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> ExtractError {
    ExtractError::Load { extractor: NAME, source: Box::new(source) }
}

impl ExtractorKind for ManiqaSettings {
    fn feature_sets(&self) -> FeatureSets {
        let description = Description {
            extractor: NAME,
            code_version: CODE_VERSION,
            weights_blake3: &self.weights_blake3,
            decoder_version: DECODER_VERSION,
            resize: "opencv bicubic, fixed point",
            precision: self.precise.precision,
            config: &self.config,
        };
        let columns = vec![column("f_1", self.config.n_tokens() as usize), column("rating", 1)];
        let quality = described_set(NAME, FeatureKind::Quality, &description, columns);
        FeatureSets { semantic: None, quality: Some(quality) }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let device = self.device.device()?;
        let dtype = self.precise.precision.dtype;
        dtype.check_on(device)?;
        let checkpoint = Checkpoint::find(&self.folder).map_err(load_error)?;
        let tensors = weights::read(&checkpoint, &self.config.parameters()).map_err(load_error)?;
        let network = Maniqa::new(&self.config, &tensors, device, dtype.kind()).map_err(load_error)?;
        Ok(Loaded::Network(Box::new(ManiqaExtractor {
            unused: checkpoint.unused().into_iter().map(str::to_owned).collect(),
            network,
            device,
            batch_size: BatchSize::of(
                self.batch_size,
                if device == Device::Cpu { CPU_BATCH_SIZE } else { GPU_BATCH_SIZE },
            ),
            normalisation: Normalisation::new(self.config.pixel_mean, self.config.pixel_std, device),
            note: self.precise.note.clone(),
            preprocessor: Arc::new(ManiqaPreprocessor::of(&self.config)),
        })))
    }
}

/// OpenCV's bicubic to the network's square, ignoring the aspect ratio. The network normalises on its device.
#[derive(Clone, Debug)]
pub struct ManiqaPreprocessor {
    side_px: u32,
}

impl ManiqaPreprocessor {
    /// The preprocessing with which a network of `config` was trained.
    pub fn of(config: &ManiqaConfig) -> Self {
        Self { side_px: u32::try_from(config.vit.img_size).expect("a checked side") }
    }
}

impl Preprocessor for ManiqaPreprocessor {
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let side = i64::from(self.side_px);
        let pixels = interpolate_bicubic(image, self.side_px, self.side_px).pixels;
        Ok(Input { values: Values::U8(pixels), shape: vec![side, side, 3] })
    }
}

/// The loaded network.
struct ManiqaExtractor {
    network: Maniqa,
    unused: Vec<String>,
    device: Device,
    batch_size: BatchSize,
    normalisation: Normalisation,
    note: Option<String>,
    preprocessor: Arc<ManiqaPreprocessor>,
}

impl ManiqaExtractor {
    /// `f_1` and the rating of each image side by side. Panics if torch fails, as tch's methods do.
    ///
    /// # Shapes
    /// - returns: `(b, n + 1)`, or `(n_images, n + 1)` on a CPU
    fn features(&self, batch: &Batch<'_>) -> Result<Tensor, tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        let pixels = placed(batch.values.as_u8(), &batch.whole_shape(), self.device)?; // (b, s, s, 3)
        let pixels = self.normalisation.forward(&pixels); // (b, 3, s, s)
        if !self.on_cpu() {
            return Ok(rated(&self.network, &pixels));
        }
        let n_workers = (tch::get_num_threads() as usize).min(batch.n_images);
        let worker = || (self.network.share(), pixels.shallow_clone());
        let mut workers: Vec<_> = (0..n_workers).map(|_| worker()).collect();
        let rows = side_by_side(&mut workers, batch.n_images, |(network, pixels), image_idx| {
            rated(network, &pixels.narrow(0, image_idx as i64, 1))
        });
        Ok(Tensor::cat(&rows, 0))
    }
}

/// `f_1` and the rating of each image, `(b, n + 1)`.
fn rated(network: &Maniqa, pixels: &Tensor) -> Tensor {
    let output = network.forward(pixels, Mode::Evaluate);
    let rating = output.rating().unsqueeze(1); // (b, 1)
    Tensor::cat(&[output.f_1, rating], 1)
}

impl Network for ManiqaExtractor {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.preprocessor.clone()
    }

    fn batch_size(&self) -> BatchSize {
        self.batch_size
    }

    fn memory(&self) -> Option<DeviceMemory> {
        device_memory(self.device)
    }

    fn on_cpu(&self) -> bool {
        self.device == Device::Cpu
    }

    fn notes(&self) -> Vec<String> {
        let n = self.unused.len();
        let unused = (n > 0)
            .then(|| format!("{n} tensors of the checkpoint are not read by `{NAME}`: {}", self.unused.join(", ")));
        unused.into_iter().chain(self.note.clone()).collect()
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let matrix = guarded(NAME, batch.n_images, || self.features(batch))?;
        let n_tokens = self.network.config().n_tokens();
        let rows = move |columns| vec![OutputRows::Vectors { columns, n_tokens: n_tokens as u32 }];
        Ok(columns_of(NAME, &matrix, batch.n_images, vec![n_tokens as usize, 1], rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_in_another_type_than_the_weights_are_other_features() {
        let set = |products| {
            let settings = ManiqaSettings {
                folder: PathBuf::new(),
                config: ManiqaConfig::vit_b8(),
                precise: Precise { precision: Precision { dtype: Dtype::Bf16, products }, note: None },
                device: DeviceChoice::Cpu,
                batch_size: None,
                weights_blake3: "of some weights".to_owned(),
            };
            settings.feature_sets().quality.expect("it fills `quality`")
        };
        let (native, widened) = (set(None), set(Some(Dtype::F32)));
        assert_ne!(native.fingerprint, widened.fingerprint);
        assert_eq!((&native.settings["dtype"], native.settings.get("products")), (&"bf16".into(), None));
        assert_eq!(widened.settings["products"], "f32");
        let keys: Vec<&String> = native.settings.as_object().expect("an object").keys().collect();
        assert_eq!(keys[4..], ["resize", "dtype", "config"]);
    }
}
