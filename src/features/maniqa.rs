//! `maniqa`: the quality feature of MA-AGIQA, `f_1 = S × W` per patch, and MANIQA's own rating of each image.
//!
//! The user provides the weights: a folder with a checkpoint (the authors' state dict, or the result of a joint
//! training here) and `config.json`, the sizes of the network.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::embedder::{Setup, load_error, side_by_side};
use super::extractor::column;
use super::{
    CommonSettings, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError, Precision,
};
use crate::engine::Loaded;
use agiqa_images::{RgbImage8, interpolate_bicubic};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::device::Normalisation;
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
    setup: Setup,
}

/// Its own settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Deciding<'a> {
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
        let config = ManiqaConfig::read(&folder.join("config.json")).map_err(load_error(NAME))?;
        let checkpoint = Checkpoint::find(&folder).map_err(load_error(NAME))?;
        let weights_blake3 = weights::content_hash(&checkpoint, &config.parameters()).map_err(load_error(NAME))?;
        Ok(Self { folder, config, setup: Setup::new(NAME, CODE_VERSION, options.dtype, common, weights_blake3) })
    }
}

impl ExtractorKind for ManiqaSettings {
    fn feature_sets(&self) -> FeatureSets {
        let deciding = Deciding { precision: self.setup.precision, config: &self.config };
        let columns = vec![column("f_1", self.config.n_tokens() as usize), column("rating", 1)];
        let quality = self.setup.set(FeatureKind::Quality, "opencv bicubic, fixed point", deciding, columns);
        FeatureSets { semantic: None, quality: Some(quality) }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let (device, kind) = self.setup.place()?;
        let checkpoint = Checkpoint::find(&self.folder).map_err(load_error(NAME))?;
        let tensors = weights::read(&checkpoint, &self.config.parameters()).map_err(load_error(NAME))?;
        let network = Maniqa::new(&self.config, &tensors, device, kind).map_err(load_error(NAME))?;
        let unread = self.setup.unread(checkpoint.unused().into_iter());
        let side_px = u32::try_from(self.config.vit.img_size).expect("a checked side");
        let square = move |image: &RgbImage8| interpolate_bicubic(image, side_px, side_px).pixels;
        let frame = self.setup.frame(device, [CPU_BATCH_SIZE, GPU_BATCH_SIZE], unread, square);
        let (side, n_tokens) = (self.config.vit.img_size, self.config.n_tokens() as u32);
        let normalisation = Normalisation::new(self.config.pixel_mean, self.config.pixel_std, device);
        let columns = move |levels: &Tensor, n_images: usize| {
            let pixels = normalisation.forward(&levels.view([-1, side, side, 3])); // (b, 3, s, s)
            if device != Device::Cpu {
                return rated(&network, &pixels);
            }
            let n_workers = (tch::get_num_threads() as usize).min(n_images);
            let worker = || (network.share(), pixels.shallow_clone());
            let mut workers: Vec<_> = (0..n_workers).map(|_| worker()).collect();
            let rows = side_by_side(&mut workers, n_images, |(network, pixels), image_idx| {
                rated(network, &pixels.narrow(0, image_idx as i64, 1))
            });
            Tensor::cat(&rows, 0)
        };
        Ok(self.setup.network(&self.feature_sets(), frame, n_tokens, columns))
    }
}

/// `f_1` and the rating of each image, `(b, n + 1)`.
fn rated(network: &Maniqa, pixels: &Tensor) -> Tensor {
    let output = network.forward(pixels, Mode::Evaluate);
    let rating = output.rating().unsqueeze(1); // (b, 1)
    Tensor::cat(&[output.f_1, rating], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_in_another_type_than_the_weights_are_other_features() {
        let set = |products| {
            let setup = Setup::with_products(NAME, products);
            let settings = ManiqaSettings { folder: PathBuf::new(), config: ManiqaConfig::vit_b8(), setup };
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
