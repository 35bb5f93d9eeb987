//! `clip-b16`: CLIP's image tower, ViT-B/16 by default. Its pooled tokens fill both tables in one pass, at one side or at
//! several.
//!
//! Each column is a list of statistics of the tokens after some blocks, layer-normalised without weights. The middle
//! blocks, which respond to texture, are the quality feature; the last ones, which gather the content, the semantic
//! features. With several sides, the first has the names that a head reads (`f_a`, `f_b`, `f_1`), and the others have
//! their side behind it (`f_a_336`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::embedder::{Setup, load_error, side_by_side};
use super::extractor::column;
use super::pooling::{self, Pool, Statistic, pool};
use super::{
    CommonSettings, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError, Precision,
};
use crate::engine::Loaded;
use agiqa_images::{PillowFilter, RgbImage8, resize_as_pillow};
use agiqa_nets::clip::{self, ClipCheckpoint, ClipError};
use agiqa_nets::device::Normalisation;
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
/// AGIQA-3K, in a trial outside this program: the class token of block 11 alone gives an SRCC of .860 on the official
/// test part, with its mean and deviation .863, with block 9 .878, 7 .885, 5 .890; seven blocks .891.
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
    setup: Setup,
}

/// Its own settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Deciding {
    mirror: bool,
    #[serde(flatten)]
    precision: Precision,
    tokens: &'static str,
    columns: serde_json::Map<String, serde_json::Value>,
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
                let checkpoint = ClipCheckpoint::open(folder).map_err(load_error(NAME))?;
                let hash = agiqa_weights::hash_of_files(&checkpoint.files()).map_err(load_error(NAME))?;
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
            setup: Setup::new(NAME, CODE_VERSION, options.dtype, common, weights_blake3),
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
        tensors.map_err(load_error(NAME))
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
        let deciding = Deciding {
            mirror: self.plan.mirror,
            precision: self.setup.precision,
            tokens: "layer norm without weights",
            columns: described,
        };
        self.setup.set(kind, "Pillow bicubic", deciding, columns)
    }

    /// The number of tokens of all sides together.
    fn n_tokens(&self) -> u32 {
        let patch_px = self.config.patch_px as u32;
        self.plan.sides_px.iter().map(|side_px| 1 + (side_px / patch_px).pow(2)).sum()
    }

    /// What a device chose, and what the other would have.
    fn note(&self) -> Option<String> {
        let of_gpu = "`sides = [224, 336, 512]` with `mirror = true`";
        let compared = "mean SRCC of ten splits by prompt with kernel ridge regression: 0.876 at side 224, 0.882 at three \
                        sides; see docs/protocols.md";
        let what = match (self.is_chosen_by_device, &self.plan.sides_px[..] == CPU_SIDES_PX) {
            (false, _) => return None,
            (true, true) => format!(
                "side 224, the default on a CPU. {of_gpu}, the default on a GPU, is 19 times the work and ranks AGIQA-3K \
                 better ({compared})"
            ),
            (true, false) => format!(
                "{of_gpu}, the default on a GPU. `sides = [224]` without mirror images, the default on a CPU, is a 19th of \
                 the work and ranks AGIQA-3K worse ({compared})"
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
        let (device, kind) = self.setup.place()?;
        let network = Vit::for_features(&self.config, self.tensors()?, device, kind).map_err(load_error(NAME))?;
        let n_networks = if device == Device::Cpu { tch::get_num_threads().max(1) as usize } else { 1 };
        let mut networks: Vec<Vit> = (0..n_networks).map(|_| network.share()).collect();
        let normalisation = Normalisation::new(clip::MEAN, clip::STD, device);
        let (plan, sides_px) = (self.plan.clone(), self.plan.sides_px.clone());
        let squares = move |image: &RgbImage8| {
            sides_px.iter().map(|side_px| resized(image, *side_px)).collect::<Vec<_>>().concat()
        };
        let batch_sizes = [CPU_IMAGES_PER_THREAD * n_networks, GPU_BATCH_SIZE];
        let frame = self.setup.frame(device, batch_sizes, self.note(), squares);
        // Per image on a CPU, per batch elsewhere.
        let columns = move |levels: &Tensor, n_images: usize| {
            if device != Device::Cpu {
                return plan.columns(&networks[0], &normalisation, levels);
            }
            let networks = networks.iter_mut().take(n_images);
            let mut workers: Vec<_> =
                networks.map(|network| (network, normalisation.share(), levels.shallow_clone())).collect();
            let rows = side_by_side(&mut workers, n_images, |(network, normalisation, levels), image_idx| {
                plan.columns(network, normalisation, &levels.narrow(0, image_idx as i64, 1))
            });
            Tensor::cat(&rows, 0)
        };
        Ok(self.setup.network(&self.feature_sets(), frame, self.n_tokens(), columns))
    }
}

/// The pixels of `image`, resized to a square, ignoring the aspect ratio.
pub(super) fn resized(image: &RgbImage8, side_px: u32) -> Vec<u8> {
    resize_as_pillow(image, side_px, side_px, PillowFilter::Bicubic).pixels
}

impl Plan {
    /// All columns of some images, side by side: the semantic ones of all sides, then those of quality.
    ///
    /// # Shapes
    /// - levels: `(b, Σ 3 s²)`, u8, the squares of one image after the other, three values per pixel
    /// - returns: `(b, Σ d)`, f32
    fn columns(&self, network: &Vit, normalisation: &Normalisation, levels: &Tensor) -> Tensor {
        let (mut semantic, mut quality) = (Vec::new(), Vec::new());
        let mut start = 0;
        for side_px in self.sides_px.iter().map(|side_px| i64::from(*side_px)) {
            let n_values = 3 * side_px * side_px;
            let square = levels.narrow(1, start, n_values).reshape([-1, side_px, side_px, 3]);
            start += n_values;
            let square = normalisation.forward(&square); // (b, 3, s, s)
            let mut pooled = self.pooled(network, &square, |_, _| None);
            if self.mirror {
                let mirrored = self.pooled(network, &square.flip([3]), |_, _| None);
                pooled = [0, 1, 2].map(|column| (&pooled[column] + &mirrored[column]) / 2.0);
            }
            let [f_a, f_b, f_1] = pooled;
            semantic.extend([f_a, f_b]);
            quality.push(f_1);
        }
        semantic.append(&mut quality);
        Tensor::cat(&semantic, 1)
    }

    /// Number of blocks that are read.
    pub(super) fn n_blocks(&self) -> usize {
        pooling::n_blocks(&self.pools)
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
        let normed = |tokens: &Tensor| {
            let dim = network.config().dim;
            tokens.layer_norm([dim], None::<Tensor>, None::<Tensor>, POOLING_EPS, false) // (b, 1 + n, d)
        };
        pooling::columns(network, pixels, multipliers, &self.pools, normed, pool)
    }
}
