//! CLIPIQA and CLIPIQA+ (Wang et al., "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023). CLIP
//! compares a picture with pairs of prompts; the rating is the probability of the better one.
//!
//! ```text
//! picture ─ CLIP's ResNet ─ attention pool ─► f, unit norm       prompts ─ text transformer ─► t_i, unit norm
//! rating = mean over pairs of softmax(s f·t_good, s f·t_bad)[good]
//! ```
//!
//! Names are those of OpenAI's RN50. CLIPIQA (commit 061fd3c) has one pair of prompts, pyiqa 0.1.16 five. CLIPIQA+ learns
//! prompts, published apart from CLIP: 16 vectors for both prompts, or 16 for each, then with positions in the attention
//! pool. Prompts are fixed, so their byte pairs are constants, and their features are computed once.

use std::cell::OnceCell;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::native::Native;
use super::{Architecture, Layout, Prepare, Rater, Stored};
use crate::attention::attend;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::clip::{MEAN, STD};
use crate::conv::Watch;
use crate::device::with_products_of;
use crate::layers::{Activation, LayerNorm, Linear, Parameters};
use crate::resnet::{ResNet, ResNetSizes, Style};

/// The names of CLIPIQA's variants, the default first.
pub(super) const VARIANTS: &[&str] = &["official", PYIQA];

const PYIQA: &str = "pyiqa";

/// Name of the learned prompts among the network's tensors. They have a file of their own.
pub(super) const LEARNED: &str = "prompt_learner.ctx";

/// The stored name of the learned prompts in `checkpoint`: a bare tensor, or a part of a prompt learner.
pub(crate) fn learned_in(checkpoint: &Checkpoint) -> Option<String> {
    let is_learned = |name: &&str| name.is_empty() || *name == LEARNED || name.ends_with(".prompt_learner.ctx");
    checkpoint.names().find(is_learned).map(str::to_owned)
}

/// Below it, no position is left after five halvings.
const LEAST_SIDE_PX: u32 = 31;

/// Layers of the trunk.
const N_LAYERS: usize = 4;

/// Channels of a head, in the attention pool and in the text transformer.
const D_HEAD: i64 = 64;

const LAYER_NORM_EPS: f64 = 1e-5;

/// Size of CLIP's vocabulary, and its marks of a text's start and end.
const N_VOCABULARY: i64 = 49_408;
const START: i64 = 49_406;
const END: i64 = 49_407;

/// Byte pairs of `Good photo.` and `Bad photo.`.
const OFFICIAL: &[&[i64]] = &[&[886, 1125, 269], &[2103, 1125, 269]];

/// Byte pairs of pyiqa's prompts, in pairs: good and bad image, sharp and blurry image, sharp and blurry edges, high and
/// low resolution image, noise-free and noisy image.
const PAIRS: &[&[i64]] = &[
    &[886, 2867],
    &[2103, 2867],
    &[8157, 2867],
    &[21977, 2867],
    &[8157, 20938],
    &[21977, 20938],
    &[1400, 9977, 2867],
    &[1042, 9977, 2867],
    &[9307, 268, 1139, 2867],
    &[33495, 2867],
];

/// Byte pairs of `good photo..` and `bad photo..`, which stand in the middle of learned vectors.
const IN_LEARNED: [&[i64]; 2] = [&[886, 1125, 852], &[2103, 1125, 852]];

/// What the picture is compared with.
#[derive(Clone, Debug)]
enum Prompts {
    /// Texts.
    Texts(&'static [&'static [i64]]),
    /// Learned vectors of this shape: `(16, width)`, or `(2, 16, width)`.
    Learned(Vec<i64>),
}

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    trunk: ResNetSizes,
    /// Width of features, and of the text transformer.
    dims: [i64; 2],
    /// Rows of the tables of positions, of the attention pool and of texts.
    positions: [i64; 2],
    n_blocks: usize,
    /// `()`, or `(1,)` in some files.
    scale_shape: Vec<i64>,
    prompts: Prompts,
}

impl Sizes {
    /// These sizes with learned prompts of `shape`.
    pub(super) fn with_learned(self, shape: Vec<i64>) -> Self {
        Self { prompts: Prompts::Learned(shape), ..self }
    }
}

/// Attention of the mean of all positions to it and to them.
#[derive(Debug)]
struct AttentionPool {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// `(n, d)`, if positions are told apart.
    positions: Option<Tensor>,
}

impl AttentionPool {
    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let d = sizes.trunk.channels(N_LAYERS);
        let linear = |name, d_out| Linear::new(&p.below(name), d, d_out);
        let positions = match &sizes.prompts {
            Prompts::Learned(shape) if shape.len() == 3 => {
                Some(p.tensor("positional_embedding", &[sizes.positions[0], d], Kind::Float)?)
            }
            Prompts::Learned(_) | Prompts::Texts(_) => None,
        };
        Ok(Self {
            query: linear("q_proj", d)?,
            key: linear("k_proj", d)?,
            value: linear("v_proj", d)?,
            output: linear("c_proj", sizes.dims[0])?,
            positions,
        })
    }

    /// # Shapes
    /// - xs: `(b, d, h, w)`
    /// - returns: `(b, features)`
    fn forward(&self, xs: &Tensor) -> Tensor {
        let tokens = xs.flatten(2, 3).transpose(1, 2); // (b, h w, d)
        let mean = tokens.mean_dim([1_i64].as_slice(), true, Kind::Float);
        let mut tokens = Tensor::cat(&[mean, tokens], 1); // (b, 1 + h w, d)
        let (b, n, d) = (tokens.size()[0], tokens.size()[1], tokens.size()[2]);
        if let Some(table) = &self.positions {
            // The published network resizes the table like a picture of one channel, and not like a grid.
            let table = table.unsqueeze(0).unsqueeze(0);
            tokens += table.upsample_bicubic2d([n, d], false, None, None).squeeze_dim(0);
        }
        let heads = |xs: Tensor| xs.view([b, -1, d / D_HEAD, D_HEAD]).transpose(1, 2);
        let query = heads(self.query.forward(&tokens.narrow(1, 0, 1)));
        let seen = attend(&query, &heads(self.key.forward(&tokens)), &heads(self.value.forward(&tokens)), None);
        self.output.forward(&seen.squeeze_dim(1))
    }
}

/// A block of the text transformer.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    output: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
}

impl Block {
    fn new<P: Parameters>(p: &P, d: i64) -> Result<Self, P::Error> {
        let (attention, mlp) = (p.below("attn"), p.below("mlp"));
        Ok(Self {
            norm1: LayerNorm::new(&p.below("ln_1"), d, LAYER_NORM_EPS)?,
            qkv: Linear::named(&attention, ["in_proj_weight", "in_proj_bias"], d, 3 * d)?,
            output: Linear::new(&attention.below("out_proj"), d, d)?,
            norm2: LayerNorm::new(&p.below("ln_2"), d, LAYER_NORM_EPS)?,
            mlp: [Linear::new(&mlp.below("c_fc"), d, 4 * d)?, Linear::new(&mlp.below("c_proj"), 4 * d, d)?],
        })
    }

    /// # Shapes
    /// - xs: `(1, n, d)`; mask: `(n, n)`
    /// - returns: `(1, n, d)`
    fn forward(&self, xs: &Tensor, mask: &Tensor) -> Tensor {
        let (n, d) = (xs.size()[1], xs.size()[2]);
        let qkv = self.qkv.forward(&self.norm1.forward(xs)).view([1, n, 3, d / D_HEAD, D_HEAD]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // (3, 1, h, n, d / h)
        let seen = attend(&qkv.get(0), &qkv.get(1), &qkv.get(2), Some(mask));
        let xs = xs + self.output.forward(&seen);
        let [wide, narrow] = &self.mlp;
        let hidden = Activation::QuickGelu.apply(wide.forward(&self.norm2.forward(&xs)));
        xs + narrow.forward(&hidden)
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct ClipIqa {
    trunk: ResNet,
    pool: AttentionPool,
    blocks: Vec<Block>,
    norm: LayerNorm,
    projection: Tensor, // (d, features)
    scale: Tensor,      // (), before its exponential
    /// Embedded prompts with positions, `(1, n, d)` each, in pairs.
    prompts: Vec<Tensor>,
    text_features: OnceCell<Tensor>,
}

impl Architecture for ClipIqa {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("visual.attnpool.k_proj.weight")];

    fn sizes(stored: &Stored, variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let [n_text, d_text] = stored.shape::<2>("positional_embedding")?;
        let [features, _] = stored.shape::<2>("visual.attnpool.c_proj.weight")?;
        let [n_pool, _] = stored.shape::<2>("visual.attnpool.positional_embedding")?;
        Ok(Sizes {
            trunk: ResNetSizes::of(stored, "visual.", N_LAYERS, Style::Clip)?,
            dims: [features, d_text],
            positions: [n_pool, n_text],
            n_blocks: stored.count(|i| format!("transformer.resblocks.{i}.ln_1.weight")),
            scale_shape: stored.dims("logit_scale")?.to_vec(),
            prompts: Prompts::Texts(if variant == Some(PYIQA) { PAIRS } else { OFFICIAL }),
        })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let ([features, d], visual) = (sizes.dims, p.below("visual"));
        let blocks = p.below("transformer").below("resblocks");
        let prompts = embedded_prompts(p, sizes)?;
        Ok(Self {
            trunk: ResNet::new(&visual, &sizes.trunk)?,
            pool: AttentionPool::new(&visual.below("attnpool"), sizes)?,
            blocks: (0..sizes.n_blocks).map(|i| Block::new(&blocks.below(i), d)).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&p.below("ln_final"), d, LAYER_NORM_EPS)?,
            projection: p.tensor("text_projection", &[d, features], Kind::Float)?,
            scale: p.tensor("logit_scale", &sizes.scale_shape, Kind::Float)?,
            prompts,
            text_features: OnceCell::new(),
        })
    }
}

/// The prompts between their marks of start and end, embedded, with positions.
fn embedded_prompts<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Vec<Tensor>, P::Error> {
    let d = sizes.dims[1];
    let table = p.below("token_embedding").tensor("weight", &[N_VOCABULARY, d], Kind::Float)?;
    let positions = p.tensor("positional_embedding", &[sizes.positions[1], d], Kind::Float)?;
    let embed = |ids: &[i64]| table.index_select(0, &Tensor::from_slice(ids).to_device(table.device())); // (n, d)
    let between_marks = |parts: Vec<Tensor>| {
        let parts: Vec<Tensor> = std::iter::once(embed(&[START])).chain(parts).chain([embed(&[END])]).collect();
        let all = Tensor::cat(&parts, 0);
        (&all + positions.narrow(0, 0, all.size()[0])).unsqueeze(0)
    };
    Ok(match &sizes.prompts {
        Prompts::Texts(texts) => texts.iter().map(|ids| between_marks(vec![embed(ids)])).collect(),
        Prompts::Learned(shape) => {
            let learned = p.tensor(LEARNED, shape, Kind::Float)?;
            let prompt = |(i, ids): (usize, &&[i64])| {
                let vectors = if shape.len() == 3 { learned.get(i as i64) } else { learned.shallow_clone() };
                let (n, half) = (vectors.size()[0], vectors.size()[0] / 2);
                between_marks(vec![vectors.narrow(0, 0, half), embed(ids), vectors.narrow(0, half, n - half)])
            };
            IN_LEARNED.iter().enumerate().map(prompt).collect()
        }
    })
}

impl ClipIqa {
    /// The features of the prompts, `(prompts, features)`, in pairs.
    pub(crate) fn text_features(&self) -> &Tensor {
        self.text_features.get_or_init(|| {
            let features: Vec<Tensor> = self.prompts.iter().map(|prompt| self.read(prompt, &mut |_, _| {})).collect();
            Tensor::cat(&features, 0)
        })
    }

    /// The features `(1, features)` of an embedded prompt `(1, n, d)`. They are read at its end.
    fn read(&self, prompt: &Tensor, watch: Watch<'_>) -> Tensor {
        let n = prompt.size()[1];
        // A token sees itself and those before it.
        let mask = Tensor::full([n, n], f64::NEG_INFINITY, (Kind::Float, prompt.device())).triu(1);
        watch("text.embed", prompt);
        let mut xs = prompt.shallow_clone();
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, &mask);
            watch(&format!("text.block{i}"), &xs);
        }
        self.norm.forward(&xs.select(1, n - 1)).matmul(&self.projection)
    }

    /// The features of prompt number `prompt` with the stages on the way to them.
    #[cfg(test)]
    pub(crate) fn watch_text(&self, prompt: usize, watch: Watch<'_>) -> Tensor {
        self.read(&self.prompts[prompt], watch)
    }

    /// The features of pictures.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised, each side at least 31
    /// - returns: `(b, features)`
    pub(crate) fn image_features(&self, pixels: &Tensor, watch: Watch<'_>) -> Tensor {
        self.pool.forward(&self.trunk.forward(pixels, watch))
    }
}

impl Rater for ClipIqa {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(Native { mean: MEAN, std: STD, least_px: LEAST_SIDE_PX })
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let unit = |xs: &Tensor| xs / xs.norm_scalaropt_dim(2.0, [1_i64].as_slice(), true);
        let images = unit(&self.image_features(inputs, &mut |_, _| {}).to_kind(Kind::Float));
        // A temperature of 100 magnifies any rounding here. The texts are read once, so they cost nothing.
        let cosines = || images.matmul(&unit(self.text_features()).transpose(0, 1));
        let logits = with_products_of(Kind::Float, images.device(), cosines) * self.scale.exp(); // (b, prompts)
        let pairs = logits.view([inputs.size()[0], -1, 2]).softmax(-1, Kind::Float);
        pairs.select(-1, 0).mean_dim([1_i64].as_slice(), false, Kind::Float)
    }
}
