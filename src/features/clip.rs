//! `clip-b16`: CLIP's image tower, ViT-B/16 by default. Its pooled tokens fill both tables in one pass, at one side or at
//! several.
//!
//! Each column is a list of statistics of the tokens after some blocks, layer-normalised without weights. The middle
//! blocks, which respond to texture, are the quality feature; the last ones, which gather the content, the semantic
//! features. With several sides, the first has the names that a head reads (`f_a`, `f_b`, `f_1`), and the others have
//! their side behind it (`f_a_336`).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::extractor::{
    Precise, Precision, column, columns_of, described_set, device_memory, guarded, hash_of_files, side_by_side,
};
use super::pooling::{Pool, Statistic, pool};
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError,
};
use crate::engine::{
    Batch, BatchSize, DeviceMemory, GuestError, Input, Launched, Loaded, Network, OutputRows, Preprocessor, Unusable,
    Values,
};
use agiqa_images::{DECODER_VERSION, PillowFilter, RgbImage8, resize_as_pillow};
use agiqa_nets::clip::{self, ClipCheckpoint, ClipError};
use agiqa_nets::device::{Normalisation, placed};
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::onnx::OnnxFile;
use agiqa_nets::vit::{Tap, Vit, VitConfig};
use agiqa_store::tables::features::{FeatureKind, FeatureSet};

const NAME: ExtractorName = ExtractorName::ClipB16;

/// Version of this file and the network, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 1;

/// Default sides on a CPU, without mirror images: 35 GFLOP an image of ViT-B/16.
const CPU_SIDES_PX: &[u32] = &[224];

/// Default sides on a GPU, with mirror images: 660 GFLOP an image of ViT-B/16.
const GPU_SIDES_PX: &[u32] = &[224, 336, 512];

/// Largest side: 4,097 tokens of ViT-B/16.
const MAX_SIDE_PX: u32 = 1024;

/// Default number of images per thread and batch on a CPU. Threads wait for each other at the end of a batch.
const CPU_IMAGES_PER_THREAD: usize = 4;

/// Default number of images per batch on a GPU, which needs much parallel work.
const GPU_BATCH_SIZE: usize = 64;

/// Constant added to the variance in the layer norm before pooling.
const POOLING_EPS: f64 = 1e-5;

/// The columns of a side, and the blocks of a network of 12 that each pools by default. Chosen by ridge regression on
/// AGIQA-3K: the class token of block 11 alone gives an SRCC of .860, its mean and deviation .863, block 9 .878, 7 .885,
/// 5 .890; seven blocks .891.
const COLUMNS: [(&str, &[usize]); 3] = [("f_a", &[9]), ("f_b", &[11]), ("f_1", &[5, 7])];

/// Default statistics of each block.
const STATISTICS: &[Statistic] = &[Statistic::Class, Statistic::Mean, Statistic::SampleStd];

/// A user's settings of the network. An absent setting takes its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipOptions {
    /// Folder of another checkpoint of CLIP, in Hugging Face's form or OpenAI's; default: the fetched one.
    pub weights: Option<PathBuf>,
    /// Sides of the squares that images are resized to, pixels. They decide the numbers. Default: 224 on a CPU; 224, 336
    /// and 512 on a GPU.
    pub sides: Option<Vec<u32>>,
    /// Whether features are the mean over the image and its mirror image. It decides the numbers. Default: only if the
    /// sides are those of a GPU by default.
    pub mirror: Option<bool>,
    /// The blocks that each column pools. They decide the numbers.
    pub blocks: Option<ClipBlocks>,
    /// The statistics of each block. They decide the numbers. Default: `class`, `mean` and `sample std`.
    pub statistics: Option<Vec<Statistic>>,
    /// Number type of the network, `f32`, `bf16` or `f16`. It decides the numbers. Default: `f32` on a CPU, `f16` on a GPU.
    pub dtype: Option<Dtype>,
}

/// Blocks per column, from 0. Defaults are for 12 blocks; a deeper network pools the same parts of its depth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipBlocks {
    /// Blocks of the first semantic column. Default: 9.
    pub f_a: Option<Vec<usize>>,
    /// Blocks of the second semantic column. Default: 11.
    pub f_b: Option<Vec<usize>>,
    /// Blocks of the quality column. Default: 5 and 7.
    pub f_1: Option<Vec<usize>>,
}

/// Everything between a picture and its columns that the settings decide.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) sides_px: Vec<u32>,
    pub(super) mirror: bool,
    /// Of each of [`COLUMNS`].
    pools: [Vec<Pool>; 3],
}

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct ClipSettings {
    folder: Option<PathBuf>,
    pub(super) config: VitConfig,
    pub(super) plan: Plan,
    /// Whether the device chose sides and mirror images.
    is_chosen_by_device: bool,
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
    mirror: bool,
    #[serde(flatten)]
    precision: Precision,
    tokens: &'a str,
    columns: serde_json::Map<String, serde_json::Value>,
}

fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> ExtractError {
    ExtractError::Load { extractor: NAME, source: Box::new(source) }
}

fn wrong(key: &'static str, found: String, problem: String) -> FeatureSettingsError {
    FeatureSettingsError::Value { key, found, problem }
}

impl ClipSettings {
    /// Checks the settings. Reads the geometry and hashes the files of a checkpoint of the user's; reads nothing of the
    /// fetched one.
    ///
    /// # Errors
    /// Sides, blocks or statistics do not fit the network, or the folder holds no CLIP of a known geometry.
    pub fn new(options: &ClipOptions, common: &CommonSettings) -> Result<Self, ExtractError> {
        let (config, weights_blake3) = match &options.weights {
            None => (clip::vit_b16(), agiqa_weights::content_hash(NAME.as_str())?),
            Some(folder) => {
                let checkpoint = ClipCheckpoint::open(folder).map_err(load_error)?;
                let hash = hash_of_files(&checkpoint.files()).map_err(load_error)?;
                (checkpoint.config, hash)
            }
        };
        // Looking for a GPU takes a while, and the result matters only if no sides are named.
        let on_gpu = options.sides.is_none() && common.device.wanted() != Device::Cpu;
        let default_sides = if on_gpu { GPU_SIDES_PX } else { CPU_SIDES_PX };
        let sides_px = options.sides.clone().unwrap_or_else(|| default_sides.to_vec());
        check_sides(&sides_px, config.patch_px as u32)?;
        let blocks = options.blocks.clone().unwrap_or_default();
        let statistics = options.statistics.as_deref().unwrap_or(STATISTICS);
        let pools = |blocks: Option<Vec<usize>>, column: usize| {
            let n = config.n_blocks;
            let mut scaled: Vec<usize> = COLUMNS[column].1.iter().map(|i| ((i + 1) * n / 12).max(1) - 1).collect();
            scaled.dedup();
            pools_of(&blocks.unwrap_or(scaled), statistics, n)
        };
        Ok(Self {
            folder: options.weights.clone(),
            plan: Plan {
                sides_px,
                mirror: options.mirror.unwrap_or(on_gpu),
                pools: [pools(blocks.f_a, 0)?, pools(blocks.f_b, 1)?, pools(blocks.f_1, 2)?],
            },
            config,
            is_chosen_by_device: options.sides.is_none() && options.mirror.is_none(),
            precise: Precise::new(NAME, options.dtype, common.device),
            device: common.device,
            batch_size: common.batch_size.map(std::num::NonZeroUsize::get),
            weights_blake3,
        })
    }

    /// The options that made the sets with the `settings` of `extractor.json`, semantic and quality, but the weights; `None`
    /// if the settings are of no such sets.
    pub(super) fn options_of([semantic, quality]: [&serde_json::Value; 2]) -> Option<ClipOptions> {
        let columns = semantic["columns"].as_object()?;
        let of_f_a = columns.iter().filter(|(name, _)| name.starts_with("f_a"));
        let sides = of_f_a.map(|(_, column)| u32::try_from(column["side_px"].as_u64()?).ok());
        let pools = |json: &serde_json::Value| serde_json::from_value::<Vec<Pool>>(json["pools"].clone()).ok();
        let blocks = |json: &serde_json::Value| {
            let mut blocks = Vec::new();
            for one in pools(json)? {
                let Tap::Block(block) = one.tap else { return None };
                if !blocks.contains(&block) {
                    blocks.push(block);
                }
            }
            Some(blocks)
        };
        let f_1 = &quality["columns"]["f_1"];
        let (f_1_blocks, of_f_1) = (blocks(f_1)?, pools(f_1)?);
        let statistics = of_f_1.iter().filter(|one| one.tap == of_f_1[0].tap).map(|one| one.statistic).collect();
        Some(ClipOptions {
            weights: None,
            sides: Some(sides.collect::<Option<Vec<u32>>>()?),
            mirror: Some(semantic["mirror"].as_bool()?),
            blocks: Some(ClipBlocks {
                f_a: blocks(&columns["f_a"]),
                f_b: blocks(&columns["f_b"]),
                f_1: Some(f_1_blocks),
            }),
            statistics: Some(statistics),
            dtype: serde_json::from_value(semantic["dtype"].clone()).ok()?,
        })
    }

    /// The weights under timm's names, in f32 on the CPU.
    pub(super) fn tensors(&self) -> Result<NamedTensors, ExtractError> {
        let tensors = match &self.folder {
            None => {
                let onnx = OnnxFile::read(&agiqa_weights::locate(NAME.as_str())?);
                onnx.and_then(|onnx| clip::package_tensors(&onnx, &self.config)).map_err(ClipError::from)
            }
            Some(folder) => ClipCheckpoint::open(folder).and_then(|checkpoint| Ok(checkpoint.tensors()?)),
        };
        tensors.map_err(load_error)
    }

    /// The set of `kind`, which has the columns at `positions` in [`COLUMNS`] for each side.
    fn set(&self, kind: FeatureKind, positions: &[usize]) -> FeatureSet {
        let (mut columns, mut described) = (Vec::new(), serde_json::Map::new());
        for (side_idx, side_px) in self.plan.sides_px.iter().enumerate() {
            for &position in positions {
                let (name, pools) = (COLUMNS[position].0, &self.plan.pools[position]);
                let name = if side_idx == 0 { name.to_owned() } else { format!("{name}_{side_px}") };
                columns.push(column(&name, pools.len() * self.config.dim as usize));
                described.insert(name, serde_json::json!({ "side_px": side_px, "pools": pools }));
            }
        }
        let description = Description {
            extractor: NAME,
            code_version: CODE_VERSION,
            weights_blake3: &self.weights_blake3,
            decoder_version: DECODER_VERSION,
            resize: "Pillow bicubic",
            mirror: self.plan.mirror,
            precision: self.precise.precision,
            tokens: "layer norm without weights",
            columns: described,
        };
        described_set(NAME, kind, &description, columns)
    }

    /// What a device chose, and what the other would have.
    fn note(&self) -> Option<String> {
        let of_gpu = "`sides = [224, 336, 512]` with `mirror = true`";
        let what = match (self.is_chosen_by_device, &self.plan.sides_px[..] == CPU_SIDES_PX) {
            (false, _) => return None,
            (true, true) => format!(
                "side 224, the default on a CPU. {of_gpu}, the default on a GPU, is 19 times the work and ranks AGIQA-3K \
                 better (SRCC .887 instead of .882 over ten random splits)"
            ),
            (true, false) => format!(
                "{of_gpu}, the default on a GPU. `sides = [224]` without mirror images, the default on a CPU, is a 19th of \
                 the work and ranks AGIQA-3K worse (SRCC .882 instead of .887 over ten random splits)"
            ),
        };
        Some(format!("`{NAME}` takes {what}"))
    }
}

/// Refuses sides that the network cannot read.
fn check_sides(sides_px: &[u32], patch_px: u32) -> Result<(), FeatureSettingsError> {
    let (least, most) = (2 * patch_px, MAX_SIDE_PX / patch_px * patch_px);
    if sides_px.is_empty() {
        return Err(wrong("sides", "[]".to_owned(), "expected at least one side, such as 224".to_owned()));
    }
    for (i, side_px) in sides_px.iter().enumerate() {
        if !side_px.is_multiple_of(patch_px) || !(least..=most).contains(side_px) {
            let near = (side_px / patch_px * patch_px).clamp(least, most);
            let problem = format!("expected multiples of {patch_px} from {least} to {most}, such as {near}");
            return Err(wrong("sides", side_px.to_string(), problem));
        }
        if sides_px[..i].contains(side_px) {
            return Err(wrong("sides", side_px.to_string(), "duplicate side".to_owned()));
        }
    }
    Ok(())
}

/// All `statistics` of each of `blocks`, in a network of `n_blocks`.
fn pools_of(blocks: &[usize], statistics: &[Statistic], n_blocks: usize) -> Result<Vec<Pool>, FeatureSettingsError> {
    let is_set = |i: usize| blocks[i] < n_blocks && !blocks[..i].contains(&blocks[i]);
    if blocks.is_empty() || !(0..blocks.len()).all(is_set) {
        let problem = format!("expected one or more blocks from 0 to {}, each once", n_blocks - 1);
        return Err(wrong("blocks", format!("{blocks:?}"), problem));
    }
    if statistics.is_empty() {
        return Err(wrong("statistics", "[]".to_owned(), "expected at least one statistic".to_owned()));
    }
    let of_block = |block: &usize| statistics.iter().map(move |statistic| (*block, *statistic)).collect::<Vec<_>>();
    Ok(blocks.iter().flat_map(of_block).map(|(block, statistic)| Pool::of(Tap::Block(block), statistic)).collect())
}

impl ExtractorKind for ClipSettings {
    fn feature_sets(&self) -> FeatureSets {
        FeatureSets {
            semantic: Some(self.set(FeatureKind::Semantic, &[0, 1])),
            quality: Some(self.set(FeatureKind::Quality, &[2])),
        }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let device = self.device.device()?;
        let dtype = self.precise.precision.dtype;
        dtype.check_on(device)?;
        let network = Vit::for_features(&self.config, self.tensors()?, device, dtype.kind()).map_err(load_error)?;
        let n_networks = if device == Device::Cpu { tch::get_num_threads().max(1) as usize } else { 1 };
        let batch_size = if device == Device::Cpu { CPU_IMAGES_PER_THREAD * n_networks } else { GPU_BATCH_SIZE };
        Ok(Loaded::Network(Box::new(ClipExtractor {
            networks: (0..n_networks).map(|_| network.share()).collect(),
            device,
            batch_size: BatchSize::of(self.batch_size, batch_size),
            normalisation: Normalisation::new(clip::MEAN, clip::STD, device),
            notes: self.note().into_iter().chain(self.precise.note.clone()).collect(),
            preprocessor: Arc::new(Squares { sides_px: self.plan.sides_px.clone() }),
            plan: self.plan.clone(),
        })))
    }
}

/// Resizes to squares, ignoring the aspect ratio. The network normalises on its device.
struct Squares {
    sides_px: Vec<u32>,
}

impl Preprocessor for Squares {
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let square = |side_px: &u32| resized(image, *side_px);
        let values = self.sides_px.iter().map(square).collect::<Vec<_>>().concat();
        let shape = vec![values.len() as i64];
        Ok(Input { values: Values::U8(values), shape })
    }
}

/// The pixels of `image`, resized to a square.
pub(super) fn resized(image: &RgbImage8, side_px: u32) -> Vec<u8> {
    resize_as_pillow(image, side_px, side_px, PillowFilter::Bicubic).pixels
}

impl Plan {
    /// All columns of some images, side by side: each of [`COLUMNS`] for the first side, then for the next.
    ///
    /// # Shapes
    /// - pixels: `(b, Σ 3 s²)`, u8, the squares of one image after the other, three values per pixel
    /// - returns: per column `(b, d)`, f32
    fn columns(&self, network: &Vit, normalisation: &Normalisation, pixels: &Tensor) -> Vec<Tensor> {
        let mut columns = Vec::new();
        let mut start = 0;
        for side_px in self.sides_px.iter().map(|side_px| i64::from(*side_px)) {
            let n_values = 3 * side_px * side_px;
            let square = pixels.narrow(1, start, n_values).reshape([-1, side_px, side_px, 3]);
            start += n_values;
            let square = normalisation.forward(&square); // (b, 3, s, s)
            let pooled = self.pooled(network, &square, |_, _| None);
            match self.mirror {
                true => {
                    let mirrored = self.pooled(network, &square.flip([3]), |_, _| None);
                    columns.extend(pooled.iter().zip(&mirrored).map(|(column, mirrored)| (column + mirrored) / 2.0));
                }
                false => columns.extend(pooled),
            }
        }
        columns
    }

    /// Number of blocks that are read.
    pub(super) fn n_blocks(&self) -> usize {
        let blocks = self.pools.iter().flatten().map(|one| match one.tap {
            Tap::Block(i) | Tap::Hidden(i) => i + 1,
            Tap::Embedding | Tap::FinalNorm => 0,
        });
        blocks.max().unwrap_or(0)
    }

    /// Each of [`COLUMNS`] for images of one side. `multipliers` are those of [`Vit::forward_dropping`].
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: per column `(b, d)`, f32
    pub(super) fn pooled(
        &self,
        network: &Vit,
        pixels: &Tensor,
        multipliers: impl Fn(usize, usize) -> Option<Tensor>,
    ) -> [Tensor; 3] {
        let mut wanted: Vec<Pool> = self.pools.iter().flatten().copied().collect();
        let mut taps: Vec<Tap> = wanted.iter().map(|one| one.tap).collect();
        taps.sort();
        taps.dedup();
        let mut found = HashMap::new();
        network.forward_dropping(pixels, &taps, multipliers, |tap, tokens| {
            let dim = network.config().dim;
            let tokens = tokens.layer_norm([dim], None::<Tensor>, None::<Tensor>, POOLING_EPS, false); // (b, 1 + n, d)
            let of_tap = wanted.extract_if(.., |one| one.tap == tap);
            found.extend(of_tap.map(|one| (one, pool(&tokens, one.statistic))));
        });
        self.pools.each_ref().map(|pools| Tensor::cat(&pools.iter().map(|one| &found[one]).collect::<Vec<_>>(), -1))
    }
}

/// The loaded network.
struct ClipExtractor {
    /// One per thread on a CPU, over the same weights.
    networks: Vec<Vit>,
    plan: Plan,
    device: Device,
    batch_size: BatchSize,
    normalisation: Normalisation,
    notes: Vec<String>,
    preprocessor: Arc<Squares>,
}

impl ClipExtractor {
    /// The columns of a batch side by side, `(b, Σ d)`. Panics if torch fails, as tch's methods do.
    fn features(&mut self, batch: &Batch<'_>) -> Result<Tensor, tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        let pixels = placed(batch.values.as_u8(), &batch.whole_shape(), self.device)?; // (b, Σ 3 s²)
        let (plan, normalisation) = (&self.plan, &self.normalisation);
        // Per image on a CPU, per batch elsewhere.
        if self.device != Device::Cpu {
            return Ok(Tensor::cat(&plan.columns(&self.networks[0], normalisation, &pixels), 1));
        }
        let networks = self.networks.iter_mut().take(batch.n_images);
        let mut workers: Vec<_> =
            networks.map(|network| (network, normalisation.share(), pixels.shallow_clone())).collect();
        let rows = side_by_side(&mut workers, batch.n_images, |(network, normalisation, pixels), image_idx| {
            Tensor::cat(&plan.columns(network, normalisation, &pixels.narrow(0, image_idx as i64, 1)), 1)
        });
        Ok(Tensor::cat(&rows, 0))
    }

    /// The widths of [`Self::features`]' columns.
    fn widths(&self) -> Vec<usize> {
        let dim = self.networks[0].config().dim as usize;
        let of_side = || self.plan.pools.iter().map(move |pools| pools.len() * dim);
        self.plan.sides_px.iter().flat_map(|_| of_side()).collect()
    }

    /// The number of tokens of all sides together.
    fn n_tokens(&self) -> u32 {
        let patch_px = self.networks[0].config().patch_px as u32;
        self.plan.sides_px.iter().map(|side_px| 1 + (side_px / patch_px).pow(2)).sum()
    }
}

/// Rows of both tables from the columns of all sides.
fn rows(columns: Vec<Vec<f32>>, n_tokens: u32) -> Vec<OutputRows> {
    let of_set = |positions: &[usize]| {
        let is_of_set = |index: &usize| positions.contains(&(index % COLUMNS.len()));
        let columns = (0..columns.len()).filter(is_of_set).map(|index| columns[index].clone()).collect();
        OutputRows::Vectors { columns, n_tokens }
    };
    vec![of_set(&[0, 1]), of_set(&[2])]
}

impl Network for ClipExtractor {
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
        self.notes.clone()
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let (widths, n_tokens) = (self.widths(), self.n_tokens());
        let matrix = guarded(NAME, batch.n_images, || self.features(batch))?;
        Ok(columns_of(NAME, &matrix, batch.n_images, widths, move |columns| rows(columns, n_tokens))?)
    }
}
