//! `dinov2-s14`: a DINOv2 ViT-S/14. Its pooled activations fill both tables in one pass.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::embedder::{Setup, load_error};
use super::extractor::column;
use super::pooling::{self, Pool, Statistic, pool};
use super::{
    CommonSettings, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError, Precision,
};
use crate::engine::Loaded;
use agiqa_images::{ResizeFilter, RgbImage8};
use agiqa_nets::device::Normalisation;
use agiqa_nets::dinov2;
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::pixels::{IMAGENET_MEAN, IMAGENET_STD};
use agiqa_nets::vit::{Tap, Vit};
use agiqa_store::path_text;
use agiqa_store::tables::features::{FeatureKind, FeatureSet};

const NAME: ExtractorName = ExtractorName::Dinov2S14;

/// Version of this file and the network, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 1;

/// Side of a patch, pixels.
const PATCH_PX: u32 = 14;

/// Width of the network, values per token.
const WIDTH: usize = 384;

/// Width of the hidden layer of its MLPs.
const HIDDEN_WIDTH: usize = 1536;

/// Default side: a grid of 28 × 28 patches.
const SIDE_PX: u32 = 392;

/// Largest side. Beyond it, one image's attention needs gigabytes.
const MAX_SIDE_PX: u32 = 1036;

/// Default number of images per batch on a CPU. The activations of two stay in its caches; with eight, bf16 is slower
/// by a tenth and more.
const CPU_BATCH_SIZE: usize = 2;

/// Default number of images per batch on a GPU, which needs much parallel work.
const GPU_BATCH_SIZE: usize = 128;

/// Least number of tokens of an image of a batch. Images of fewer are run one by one: in products of few rows, the last bits of
/// an image may depend on its place in the batch and on the number of threads.
const LEAST_BATCH_TOKENS: i64 = 64;

/// Least number of tokens of a call, zeros included. MKL divides the sums of a product of 15 rows or fewer among threads, and
/// then the last bits depend on how many threads it takes.
const LEAST_CALL_TOKENS: i64 = 20;

const RESIZE: ResizeFilter = ResizeFilter::Bicubic;

// Chosen by ridge regression on AGIQA-3K among some 80 lists (mean SRCC over 10 random splits). Class token, mean and
// standard deviation of blocks 2, 5, 8, 11 and of the final norm give 0.810; the lists below give 0.824. More blocks,
// other statistics and second scales add less than 0.003. Blocks 9 to 11 are not read and not computed.

/// Pools of `f_a`: hidden activations of the class token in late blocks, which gather the content of the image.
const F_A: &[Pool] = &[Pool::of(Tap::Hidden(6), Statistic::Class), Pool::of(Tap::Hidden(8), Statistic::Class)];

/// Pools of `f_b`: the variation of the same hidden units over the image.
const F_B: &[Pool] = &[Pool::of(Tap::Hidden(6), Statistic::LogStd), Pool::of(Tap::Hidden(8), Statistic::LogStd)];

/// Pools of `f_1`: the variation of earlier blocks' hidden units, which respond to texture and edges.
const F_1: &[Pool] = &[Pool::of(Tap::Hidden(3), Statistic::LogStd), Pool::of(Tap::Hidden(4), Statistic::LogStd)];

/// The columns, in the order of their vectors.
const COLUMNS: [&[Pool]; 3] = [F_A, F_B, F_1];

/// A user's settings of the network. An absent setting takes its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dinov2Options {
    /// Folder of another ViT-S/14 with the official names of tensors, as a fine-tuning leaves it; default: the fetched
    /// weights.
    #[serde(with = "path_text::optional", skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Side of the square that images are resized to, pixels. It decides the numbers. Default: 392.
    pub side: Option<u32>,
    /// Number type of the network, `f32`, `bf16` or `f16`. It decides the numbers. Default: `f32` on a CPU, `f16` on a GPU.
    pub dtype: Option<Dtype>,
}

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct Dinov2Settings {
    folder: Option<PathBuf>,
    pub(super) side_px: u32,
    setup: Setup,
}

/// Its own settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Deciding {
    side_px: u32,
    #[serde(flatten)]
    precision: Precision,
    columns: serde_json::Map<String, serde_json::Value>,
}

impl Dinov2Settings {
    /// Checks the settings. Absent settings take their defaults (392 px, f32, batches of 2 on a CPU).
    ///
    /// # Errors
    /// The side is not a multiple of the patch or out of range, or the weights are not in the manifest.
    pub fn new(options: &Dinov2Options, common: &CommonSettings) -> Result<Self, ExtractError> {
        let side_px = options.side.unwrap_or(SIDE_PX);
        if !side_px.is_multiple_of(PATCH_PX) || !(2 * PATCH_PX..=MAX_SIDE_PX).contains(&side_px) {
            let below = (side_px / PATCH_PX * PATCH_PX).clamp(2 * PATCH_PX, MAX_SIDE_PX);
            let above = (below + PATCH_PX).min(MAX_SIDE_PX);
            let problem = format!(
                "expected a multiple of {PATCH_PX} from {} to {MAX_SIDE_PX}, such as {below} or {above}",
                2 * PATCH_PX
            );
            return Err(FeatureSettingsError::Value { key: "side", found: side_px.to_string(), problem }.into());
        }
        let weights_blake3 = match &options.weights {
            None => agiqa_weights::content_hash(NAME.as_str())?,
            Some(folder) => {
                let checkpoint = dinov2::open(folder).map_err(load_error(NAME))?;
                let files: Vec<PathBuf> = checkpoint.files().map(Path::to_owned).collect();
                agiqa_weights::hash_of_files(&files).map_err(load_error(NAME))?
            }
        };
        Ok(Self {
            folder: options.weights.clone(),
            side_px,
            setup: Setup::new(NAME, CODE_VERSION, options.dtype, common, weights_blake3),
        })
    }

    /// The weights under timm's names, in f32 on the CPU.
    pub(super) fn tensors(&self) -> Result<NamedTensors, ExtractError> {
        let tensors = match &self.folder {
            None => dinov2::tensors_of(&agiqa_weights::locate(NAME.as_str())?),
            Some(folder) => dinov2::open(folder).and_then(|checkpoint| dinov2::tensors_of_checkpoint(&checkpoint)),
        };
        tensors.map_err(load_error(NAME))
    }

    fn set(&self, kind: FeatureKind, columns: &[(&str, &[Pool])]) -> FeatureSet {
        let pools = |pools: &[Pool]| serde_json::to_value(pools).expect("pools are plain text");
        let deciding = Deciding {
            side_px: self.side_px,
            precision: self.setup.precision,
            columns: columns.iter().map(|(name, list)| ((*name).to_owned(), pools(list))).collect(),
        };
        let pooled_column = |(name, list): &(&str, &[Pool])| column(name, list.iter().map(width).sum());
        self.setup.set(kind, "bicubic", deciding, columns.iter().map(pooled_column).collect())
    }

    /// Number of tokens of an image: its patches and the class token.
    fn n_tokens(&self) -> u32 {
        1 + (self.side_px / PATCH_PX).pow(2)
    }
}

/// f_a, f_b and f_1 of a batch, `(b, d)` each.
///
/// # Shapes
/// - pixels: `(b, 3, s, s)`, f32, normalised
pub(super) fn pooled(
    network: &Vit,
    pixels: &Tensor,
    multipliers: impl Fn(usize, usize) -> Option<Tensor>,
) -> [Tensor; 3] {
    pooling::columns(network, pixels, multipliers, &COLUMNS, |activation| activation.to_kind(Kind::Float), pool)
}

/// Number of blocks that the columns read.
pub(super) fn n_blocks() -> usize {
    pooling::n_blocks(&COLUMNS)
}

/// Resizes to a square, ignoring the aspect ratio.
pub(super) fn resized(image: &RgbImage8, side_px: u32) -> RgbImage8 {
    agiqa_images::resize(image, side_px, side_px, RESIZE)
}

/// Number of values that a pool contributes to its column.
fn width(pool: &Pool) -> usize {
    match pool.tap {
        Tap::Block(_) => WIDTH,
        Tap::Hidden(_) => HIDDEN_WIDTH,
    }
}

impl ExtractorKind for Dinov2Settings {
    fn feature_sets(&self) -> FeatureSets {
        FeatureSets {
            semantic: Some(self.set(FeatureKind::Semantic, &[("f_a", F_A), ("f_b", F_B)])),
            quality: Some(self.set(FeatureKind::Quality, &[("f_1", F_1)])),
        }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let (device, kind) = self.setup.place()?;
        let network = Vit::for_features(&dinov2::vit_s14(), self.tensors()?, device, kind).map_err(load_error(NAME))?;
        let normalisation = Normalisation::new(IMAGENET_MEAN, IMAGENET_STD, device);
        let (side_px, n_tokens) = (self.side_px, self.n_tokens());
        let square = move |image: &RgbImage8| resized(image, side_px).pixels;
        let frame = self.setup.frame(device, [CPU_BATCH_SIZE, GPU_BATCH_SIZE], None, square);
        let columns = move |levels: &Tensor, n_images: usize| {
            let side = i64::from(side_px);
            let pixels = normalisation.forward(&levels.view([-1, side, side, 3])); // (b, 3, s, s)
            features(&network, &pixels, n_images, n_tokens)
        };
        Ok(self.setup.network(&self.feature_sets(), frame, n_tokens, columns))
    }
}

/// The columns of a batch of images of `n_tokens` each, side by side, `(b or n_images, Σ d)`.
///
/// # Shapes
/// - pixels: `(b, 3, s, s)`, f32, normalised
fn features(network: &Vit, pixels: &Tensor, n_images: usize, n_tokens: u32) -> Tensor {
    let n_tokens = i64::from(n_tokens);
    if pixels.device() != Device::Cpu {
        return Tensor::cat(&pooled(network, pixels, |_, _| None), 1);
    }
    if n_tokens >= LEAST_BATCH_TOKENS {
        return of_call(network, pixels, n_images);
    }
    let side = pixels.size()[3];
    let padding = Tensor::zeros([(LEAST_CALL_TOKENS - 1) / n_tokens, 3, side, side], (Kind::Float, Device::Cpu));
    let one = |image_idx: i64| of_call(network, &Tensor::cat(&[&pixels.narrow(0, image_idx, 1), &padding], 0), 1);
    Tensor::cat(&(0..n_images as i64).map(one).collect::<Vec<_>>(), 0)
}

/// The columns of the first `n_images` images of a call on a CPU, side by side, `(n_images, Σ d)`. They are pooled image by
/// image, so that the order of summation does not depend on the size of the batch.
fn of_call(network: &Vit, pixels: &Tensor, n_images: usize) -> Tensor {
    let statistic = |activation: &Tensor, statistic: Statistic| {
        let one = |image_idx: usize| pool(&activation.select(0, image_idx as i64).to_kind(Kind::Float), statistic);
        Tensor::stack(&(0..n_images).map(one).collect::<Vec<_>>(), 0)
    };
    Tensor::cat(&pooling::columns(network, pixels, |_, _| None, &COLUMNS, Tensor::shallow_clone, statistic), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_in_another_type_than_the_weights_are_other_features() {
        let sets = |products| {
            let setup = Setup::with_products(NAME, products);
            Dinov2Settings { folder: None, side_px: SIDE_PX, setup }.feature_sets()
        };
        let (native, widened) = (sets(None), sets(Some(Dtype::F32)));
        for (native, widened) in native.iter().zip(widened.iter()) {
            assert_ne!(native.fingerprint, widened.fingerprint);
            assert_eq!((&native.settings["dtype"], native.settings.get("products")), (&"bf16".into(), None));
            assert_eq!(widened.settings["products"], "f32");
            // Without the key `products`, the description and its fingerprint are the same as before the key existed.
            let keys: Vec<&String> = native.settings.as_object().expect("an object").keys().collect();
            assert_eq!(keys[5..], ["side_px", "dtype", "columns"]);
        }
    }
}
