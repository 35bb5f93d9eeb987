//! MUSIQ (Ke et al., "MUSIQ: Multi-scale Image Quality Transformer", ICCV 2021). A transformer reads the patches of a
//! picture at its native size and at two smaller ones.
//!
//! ```text
//! picture, and its copies with a longer side of 224 and 384 ─ patches of 32 × 32
//!   ─ 7 × 7 conv, pool, bottleneck, linear ─► tokens + position on a grid of 10 × 10 + scale
//!   ─ class token, 14 blocks, norm, linear ─► rating, or the mean of ten grades by their probabilities
//! ```
//!
//! Names are those of pyiqa 0.1.16. Two variants of the arithmetic are published for the same weights:
//!
//! | variant | resize | GELU | deviation of a convolution's weights |
//! |---|---|---|---|
//! | `pyiqa` | bicubic, a = -0.75, without antialias | exact | unbiased |
//! | `authors` | Gaussian of TensorFlow, without antialias | tanh | biased |
//!
//! pyiqa fills the token lists of the smaller copies up and masks the fill; no token here sees a fill, which is the same.

use std::sync::Arc;

use agiqa_images::RgbImage8;
use tch::{Kind, Tensor};

pub(super) use super::musiq_npz::NPZ_LANDMARK;
use super::musiq_npz::arranged;
use super::start::{self, Learned, Trunk};
use super::{Architecture, Layout, Prepare, Prepared, Rater, Stored, Unfit};
use crate::attention::attend;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::conv::{Watch, channels_innermost};
use crate::layers::{Activation, LayerNorm, Linear, Mlp, Parameters};
use crate::pixels::Planes;

/// The names of the variants, the default first.
pub(super) const VARIANTS: &[&str] = &["pyiqa", AUTHORS];

const AUTHORS: &str = "authors";

/// Longer sides of the resized copies, in patches: 224 and 384 pixels at 32 pixels per patch.
const LONGER_SIDES: [usize; 2] = [7, 12];

/// Side of the grid of positions.
const GRID: usize = 10;

/// Groups of a group norm.
const N_GROUPS: i64 = 32;

/// ε of the group norms after the first convolution and in the bottleneck, of the layer norms, and of deviations.
const ROOT_EPS: f64 = 1e-6;
const BLOCK_EPS: f64 = 1e-4;
const LAYER_NORM_EPS: f64 = 1e-6;
const STD_EPS: f64 = 1e-5;

/// Number of heads of the published networks. Shapes do not tell it.
const N_HEADS: i64 = 6;

/// Greatest number of patches that are embedded at once. It limits the memory: 300 MB for the widest layer.
const MAX_PATCHES: i64 = 1024;

/// The first convolution and the pool each halve a patch.
const HALVED: i64 = 4;

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    patch_px: usize,
    dim: i64,
    mlp_dim: i64,
    n_blocks: usize,
    pub(crate) n_heads: i64,
    /// Channels of the first convolution, and of the bottleneck's output.
    channels: [i64; 2],
    /// 1 for a rating, else the number of grades.
    n_classes: i64,
    n_scales: i64,
    style: Style,
}

/// The variant of the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// pyiqa's.
    Pyiqa,
    /// The authors'.
    Authors,
}

/// A convolution whose weights have mean 0 and deviation 1 per output channel, with TensorFlow's padding: an odd row or
/// column of zeros goes to the bottom and the right.
#[derive(Debug)]
struct StandardConv {
    /// As stored if it is trained, else standardised.
    weight: Tensor,
    style: Style,
    padding: [i64; 4],
    stride: i64,
}

impl StandardConv {
    fn new<P: Parameters>(p: &P, channels: [i64; 2], side: i64, stride: i64, style: Style) -> Result<Self, P::Error> {
        let [d_in, d_out] = channels;
        let weight = p.tensor("weight", &[d_out, d_in, side, side], Kind::Float)?;
        let is_trained = weight.requires_grad();
        let weight = if is_trained { weight } else { channels_innermost(p, standardised(&weight, style)) };
        let (before, after) = same_padding(side, stride);
        Ok(Self { weight, style, padding: [before, after, before, after], stride })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let padded = if self.padding == [0; 4] { xs.shallow_clone() } else { xs.constant_pad_nd(self.padding) };
        let weight = match self.weight.requires_grad() {
            true => standardised(&self.weight, self.style),
            false => self.weight.shallow_clone(),
        };
        padded.conv2d(&weight, None::<Tensor>, self.stride, 0, 1, 1)
    }
}

/// `weight` with mean 0 and deviation 1 per output channel.
fn standardised(weight: &Tensor, style: Style) -> Tensor {
    let over = [1_i64, 2, 3];
    let centred = weight - weight.mean_dim(over.as_slice(), true, Kind::Float);
    &centred / (centred.std_dim(over.as_slice(), style == Style::Pyiqa, true) + STD_EPS)
}

/// Zeros before and after an axis whose length is a multiple of `stride`.
fn same_padding(side: i64, stride: i64) -> (i64, i64) {
    let total = side - stride;
    (total / 2, total - total / 2)
}

/// Normalises each of 32 groups of channels.
#[derive(Debug)]
struct GroupNorm {
    weight: Tensor, // (c,)
    bias: Tensor,   // (c,)
    eps: f64,
}

impl GroupNorm {
    fn new<P: Parameters>(p: &P, channels: i64, eps: f64) -> Result<Self, P::Error> {
        let vector = |name| p.tensor(name, &[channels], Kind::Float);
        Ok(Self { weight: vector("weight")?, bias: vector("bias")?, eps })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.group_norm(N_GROUPS, Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}

/// A convolution and the group norm after it.
type Normed = (StandardConv, GroupNorm);

/// A transformer block, with norms before its halves.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let (dim, attention) = (sizes.dim, p.below("attention"));
        let linear = |name: &str| Linear::new(&attention.below(name), dim, dim);
        let activation = match sizes.style {
            Style::Pyiqa => Activation::Gelu,
            Style::Authors => Activation::GeluTanh,
        };
        Ok(Self {
            norm1: LayerNorm::new(&p.below("norm1"), dim, LAYER_NORM_EPS)?,
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            output: linear("out")?,
            norm2: LayerNorm::new(&p.below("norm2"), dim, LAYER_NORM_EPS)?,
            mlp: Mlp::new(&p.below("mlp"), dim, sizes.mlp_dim, activation, None)?,
        })
    }

    /// # Shapes
    /// - xs: `(1, n, d)`
    /// - returns: `(1, n, d)`
    fn forward(&self, xs: &Tensor, n_heads: i64) -> Tensor {
        let normed = self.norm1.forward(xs);
        let heads = |linear: &Linear| {
            let ys = linear.forward(&normed);
            let (b, n, d) = (ys.size()[0], ys.size()[1], ys.size()[2]);
            ys.view([b, n, n_heads, d / n_heads]).transpose(1, 2) // (1, h, n, d / h)
        };
        let seen = attend(&heads(&self.query), &heads(&self.key), &heads(&self.value), None);
        let xs = xs + self.output.forward(&seen);
        let more = self.mlp.forward(&self.norm2.forward(&xs));
        xs + more
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct Musiq {
    root: Normed,
    /// The bottleneck's three convolutions and its shortcut.
    bottleneck: [Normed; 4],
    embedding: Linear,
    class_token: Tensor, // (1, 1, d)
    positions: Tensor,   // (GRID², d)
    scales: Tensor,      // (scales, d)
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    pub(crate) sizes: Sizes,
}

impl Architecture for Musiq {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("transformer_encoder.posembed_input.position_emb")];

    fn adopt(checkpoint: Checkpoint) -> Result<Checkpoint, CheckpointError> {
        match checkpoint.contains(NPZ_LANDMARK) {
            true => checkpoint.rearranged(arranged),
            false => Ok(checkpoint),
        }
    }

    fn sizes(stored: &Stored, variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let block = |i: usize| format!("transformer_encoder.transformer.encoderblock_{i}.mlp.fc1.weight");
        let [root, ..] = stored.shape::<4>("conv_root.weight")?;
        let [output, ..] = stored.shape::<4>("block1.conv3.weight")?;
        let [dim, d_patch] = stored.shape::<2>("embedding.weight")?;
        let [mlp_dim, _] = stored.shape::<2>(&block(0))?;
        let [n_scales, _] = stored.shape::<2>("transformer_encoder.scaleembed_input.scale_emb")?;
        let n_classes = match stored.has("head.0.weight") {
            true => stored.shape::<2>("head.0.weight")?[0],
            false => 1,
        };
        let side = ((d_patch / output.max(1)) as f64).sqrt() as i64;
        Ok(Sizes {
            patch_px: (HALVED * side) as usize,
            dim,
            mlp_dim,
            n_blocks: stored.count(block),
            n_heads: N_HEADS,
            channels: [root, output],
            n_classes,
            n_scales,
            style: if variant == Some(AUTHORS) { Style::Authors } else { Style::Pyiqa },
        })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let ([root, output], style, dim) = (sizes.channels, sizes.style, sizes.dim);
        let conv = |p: &P, names: [&str; 2], channels: [i64; 2], side, stride, eps| {
            let conv = StandardConv::new(&p.below(names[0]), channels, side, stride, style)?;
            Ok((conv, GroupNorm::new(&p.below(names[1]), channels[1], eps)?))
        };
        let (block, encoder) = (p.below("block1"), p.below("transformer_encoder"));
        let blocks = encoder.below("transformer");
        let block_of = |i| Block::new(&blocks.below(format_args!("encoderblock_{i}")), sizes);
        let positions =
            encoder.below("posembed_input").tensor("position_emb", &[1, (GRID * GRID) as i64, dim], Kind::Float)?;
        let d_patch = output * (sizes.patch_px as i64 / HALVED).pow(2);
        Ok(Self {
            root: conv(p, ["conv_root", "gn_root"], [3, root], 7, 2, ROOT_EPS)?,
            bottleneck: [
                conv(&block, ["conv1", "gn1"], [root, root], 1, 1, BLOCK_EPS)?,
                conv(&block, ["conv2", "gn2"], [root, root], 3, 1, BLOCK_EPS)?,
                conv(&block, ["conv3", "gn3"], [root, output], 1, 1, BLOCK_EPS)?,
                conv(&block, ["conv_proj", "gn_proj"], [root, output], 1, 1, BLOCK_EPS)?,
            ],
            embedding: Linear::new(&p.below("embedding"), d_patch, dim)?,
            class_token: encoder.tensor("cls", &[1, 1, dim], Kind::Float)?,
            positions: positions.squeeze_dim(0),
            scales: encoder.below("scaleembed_input").tensor("scale_emb", &[sizes.n_scales, dim], Kind::Float)?,
            blocks: (0..sizes.n_blocks).map(block_of).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&encoder.below("encoder_norm"), dim, LAYER_NORM_EPS)?,
            head: match sizes.n_classes {
                1 => Linear::new(&p.below("head"), dim, 1)?,
                n => Linear::new(&p.below("head").below(0), dim, n)?,
            },
            sizes: sizes.clone(),
        })
    }
}

impl Learned for Musiq {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("", &start::MUSIQ)];

    const DRAWN: &'static [&'static str] = &["head."];

    fn on(trunks: &[Stored<'_>], variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        Self::sizes(&trunks[0], variant).map(Self::with_one_output)
    }

    fn with_one_output(sizes: Sizes) -> Sizes {
        Sizes { n_classes: 1, ..sizes }
    }
}

impl Musiq {
    /// The rating of one picture.
    ///
    /// # Shapes
    /// - tokens: `(n, 3 patch² + 2)`: a patch channel by channel, its position on the grid, and its scale
    /// - returns: `(1,)`
    pub(crate) fn forward(&self, tokens: &Tensor, watch: Watch<'_>) -> Tensor {
        let side = self.sizes.patch_px as i64;
        let d_pixels = 3 * side * side;
        let patches = tokens.narrow(1, 0, d_pixels).reshape([-1, 3, side, side]);
        let index = |i: i64| tokens.select(1, d_pixels + i).to_kind(Kind::Int64);
        let embedded = match patches.size()[0] > MAX_PATCHES {
            true => {
                let parts = patches.split(MAX_PATCHES, 0);
                Tensor::cat(&parts.iter().map(|part| self.embed(part, &mut |_, _| {})).collect::<Vec<_>>(), 0)
            }
            false => self.embed(&patches, watch), // (n, d)
        };
        watch("embedding", &embedded);
        let places = self.positions.index_select(0, &index(0)) + self.scales.index_select(0, &index(1));
        let mut xs = Tensor::cat(&[self.class_token.shallow_clone(), (embedded + places).unsqueeze(0)], 1);
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, self.sizes.n_heads); // (1, 1 + n, d)
            watch(&format!("block{i}_valid"), &xs);
        }
        let class = self.norm.forward(&xs.select(1, 0)); // (1, d)
        watch("cls", &class);
        let output = self.head.forward_in_f32(&class);
        if self.sizes.n_classes == 1 {
            return output.flatten(0, -1);
        }
        let probabilities = output.softmax(-1, Kind::Float);
        watch("head", &probabilities);
        let grades = Tensor::arange_start(1, self.sizes.n_classes + 1, (Kind::Float, probabilities.device()));
        probabilities.mv(&grades)
    }

    /// The tokens of patches.
    ///
    /// # Shapes
    /// - patches: `(n, 3, patch, patch)`, from -1 to 1
    /// - returns: `(n, d)`
    fn embed(&self, patches: &Tensor, watch: Watch<'_>) -> Tensor {
        let normed = |(conv, norm): &Normed, xs: &Tensor| norm.forward(&conv.forward(xs));
        let root = normed(&self.root, patches).relu_();
        watch("gn_root", &root);
        let (before, after) = same_padding(3, 2);
        let pooled = root.constant_pad_nd([before, after, before, after]).max_pool2d(3, 2, 0, 1, false);
        watch("root_pool", &pooled);
        let [first, second, third, shortcut] = &self.bottleneck;
        let ys = normed(second, &normed(first, &pooled).relu_()).relu_();
        let ys = (normed(third, &ys) + normed(shortcut, &pooled)).relu_();
        watch("block1", &ys);
        // Row, column, channel.
        self.embedding.forward(&ys.permute([0, 2, 3, 1]).flatten(1, -1))
    }
}

impl Rater for Musiq {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(Pyramid { patch_px: self.sizes.patch_px, style: self.sizes.style })
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        // Pictures have different numbers of patches, so a batch is one picture.
        let ratings: Vec<Tensor> =
            (0..inputs.size()[0]).map(|i| self.forward(&inputs.get(i), &mut |_, _| {})).collect();
        Tensor::cat(&ratings, 0)
    }
}

/// The picture at three sizes, in patches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pyramid {
    pub(crate) patch_px: usize,
    pub(crate) style: Style,
}

impl Prepare for Pyramid {
    fn has_one_shape(&self) -> bool {
        false
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        let scales = self.scales(image)?;
        let d_token = 3 * self.patch_px * self.patch_px + 2;
        let mut values = Vec::new();
        for (scale, planes) in scales.iter().enumerate() {
            self.append_patches(planes, scale, &mut values);
        }
        let n_tokens = values.len() / d_token;
        Ok(Prepared { values, shape: vec![n_tokens as i64, d_token as i64] })
    }
}

impl Pyramid {
    /// The picture from -1 to 1, resized to each longer side, and at its native size.
    pub(crate) fn scales(&self, image: &RgbImage8) -> Result<Vec<Planes>, Unfit> {
        let (height, width) = (image.height_px as usize, image.width_px as usize);
        Unfit::check_seen(image, height, width)?;
        let longest = height.max(width);
        let sides = LONGER_SIDES.map(|n_patches| n_patches * self.patch_px);
        // The shorter side must round to a pixel at least.
        Unfit::check_least(image, (longest / (2 * sides[0]) + 1) as u32)?;
        let native = Planes::of(image, [0.5; 3], [0.5; 3]);
        let mut scales = Vec::with_capacity(sides.len() + 1);
        for side in sides {
            let ratio = side as f64 / longest as f64;
            let scaled = |length: usize| (length as f64 * ratio).round_ties_even() as usize;
            scales.push(self.resized(&native, scaled(height), scaled(width)));
        }
        scales.push(native);
        Ok(scales)
    }

    fn resized(&self, planes: &Planes, height: usize, width: usize) -> Planes {
        let taps = match self.style {
            Style::Pyiqa => cubic_taps,
            Style::Authors => gaussian_taps,
        };
        let (rows, columns) = (taps(planes.height, height), taps(planes.width, width));
        let mut values = Vec::with_capacity(3 * height * width);
        for plane in planes.values.chunks_exact(planes.height * planes.width) {
            for row in &rows {
                let mut summed = vec![0.0_f32; planes.width];
                for (at, weight) in row {
                    let source = &plane[at * planes.width..][..planes.width];
                    summed.iter_mut().zip(source).for_each(|(sum, value)| *sum += value * weight);
                }
                values.extend(
                    columns.iter().map(|taps| taps.iter().map(|(at, weight)| summed[*at] * weight).sum::<f32>()),
                );
            }
        }
        Planes { values, height, width }
    }

    /// Appends the tokens of `planes`: patches in rows, padded with grey on all sides, each with position and scale.
    fn append_patches(&self, planes: &Planes, scale: usize, values: &mut Vec<f32>) {
        let (side, Planes { height, width, .. }) = (self.patch_px, planes);
        let (n_rows, n_columns) = (height.div_ceil(side), width.div_ceil(side));
        let (top, left) = ((n_rows * side - height) / 2, (n_columns * side - width) / 2);
        for row in 0..n_rows {
            for column in 0..n_columns {
                for plane in planes.values.chunks_exact(height * width) {
                    for y in row * side..(row + 1) * side {
                        let source = y.checked_sub(top).and_then(|y| plane.chunks_exact(*width).nth(y));
                        let pixel = |x: usize| source?.get(x.checked_sub(left)?).copied();
                        values.extend((column * side..(column + 1) * side).map(|x| pixel(x).unwrap_or(0.0)));
                    }
                }
                let position = row * GRID / n_rows * GRID + column * GRID / n_columns;
                values.extend([position as f32, scale as f32]);
            }
        }
    }
}

/// For each output of an axis, the positions and weights of its inputs.
type Taps = Vec<Vec<(usize, f32)>>;

/// Keys' cubic with a = -0.75. The edge repeats.
fn cubic_taps(n_in: usize, n_out: usize) -> Taps {
    const A: f64 = -0.75;
    let weight = |x: f64| match x {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    };
    let taps = |i: usize| {
        let position = (i as f64 + 0.5) * n_in as f64 / n_out as f64 - 0.5;
        let first = position.floor() as i64 - 1;
        let tap = |at: i64| (at.clamp(0, n_in as i64 - 1) as usize, weight((at as f64 - position).abs()) as f32);
        (first..first + 4).map(tap).collect()
    };
    (0..n_out).map(taps).collect()
}

/// TensorFlow's Gaussian, `exp(-2 d²)` within 1.5 pixels. Inputs outside are left out. Whether an input at just 1.5
/// pixels counts is decided in f32, as TensorFlow does.
fn gaussian_taps(n_in: usize, n_out: usize) -> Taps {
    const RADIUS: f32 = 1.5;
    let inverse_scale = 1.0 / (n_out as f32 / n_in as f32);
    let taps = |i: usize| {
        let centre = (i as f32 + 0.5) * inverse_scale;
        let first = (centre - RADIUS - 0.5).ceil().max(0.0) as usize;
        let last = ((centre + RADIUS - 0.5).floor() as usize).min(n_in - 1);
        let weight = |at: usize| {
            let distance = f64::from((at as f32 + 0.5 - centre).abs());
            if distance < f64::from(RADIUS) { (-2.0 * distance * distance).exp() } else { 0.0 }
        };
        let sum: f64 = (first..=last).map(weight).sum();
        (first..=last).map(|at| (at, (weight(at) / sum) as f32)).collect()
    };
    (0..n_out).map(taps).collect()
}
