//! MANIQA (Yang et al. 2022, arXiv 2204.08958), the quality half of MA-AGIQA. From four taps of a vision transformer,
//! attention between channels and within windows of tokens computes a score and a weight for each patch.
//!
//! ```text
//! pixels ─ ViT blocks 0..=9 ─► taps 6, 7, 8, 9 ─ concatenate on channels ─► (b, 4d, n)
//!   ─ 2 × attention between channels ─► 1 × 1 conv ─► (b, C, h, w)   ─ Swin stage 1 ─►
//!   ─ 2 × attention between channels ─► 1 × 1 conv ─► (b, C/2, h, w) ─ Swin stage 2 ─► tokens (b, n, C/2)
//!   ─► S = ReLU(fc(ReLU(fc))), W = sigmoid(fc(ReLU(fc))) per token;  f_1 = S W,  rating = Σ S W / Σ W
//! ```
//!
//! Semantics and parameter names follow MA-AGIQA's code (commit 11c0cda), in which MANIQA is a part of the network.
//! MANIQA's own code (commit f573d86) differs only in the rating. That code also computes values that it does not use
//! (blocks after the last tap, the transformer's final norm). They are not computed here.

use tch::{Device, Kind, Tensor};

use super::layers::{Linear, NamedTensors, NetworkError, TensorScope, products_of};
use super::vit::{Tap, Vit};

mod channels;
mod config;
mod swin;

pub mod weights;

pub use config::{BackboneConfig, ManiqaConfig, ManiqaConfigError};

use channels::ChannelAttention;
use swin::{StageConfig, SwinStage};

/// Probability with which training drops a hidden value of the two heads.
const DROPOUT: f64 = 0.1;

/// Whether values are dropped, as in the reference's training. The choice is drawn from libtorch's generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is dropped.
    Evaluate,
    /// Dropout, and stochastic depth in the Swin blocks.
    Train,
}

/// In training, drops each value with probability `p` and scales the others.
pub(super) fn dropout(xs: Tensor, p: f64, mode: Mode) -> Tensor {
    match mode {
        Mode::Evaluate => xs,
        Mode::Train => xs.dropout(p, true),
    }
}

/// A point of the network whose values can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ManiqaTap {
    /// The transformer's taps, concatenated on channels, `(b, 4d, n)`.
    Taps,
    /// Output of an attention block between channels, `(b, c, n)`.
    Channels {
        /// Number of the stage, 1 or 2.
        stage: usize,
        /// Index of the block, from 0.
        block: usize,
    },
    /// Output of a 1 × 1 convolution, `(b, c, h, w)`.
    Reduced {
        /// Number of the stage, 1 or 2.
        stage: usize,
    },
    /// Output of a Swin block, `(b, n, c)`.
    SwinBlock {
        /// Number of the stage, 1 or 2.
        stage: usize,
        /// Index of the layer, from 0.
        layer: usize,
        /// Index of the block, from 0.
        block: usize,
    },
    /// A Swin layer after convolution and ReLU, before it joins the residual stream, `(b, n, c)`.
    SwinLayer {
        /// Number of the stage, 1 or 2.
        stage: usize,
        /// Index of the layer, from 0.
        layer: usize,
    },
    /// Output of a Swin stage, `(b, n, c)`.
    Swin {
        /// Number of the stage, 1 or 2.
        stage: usize,
    },
}

/// Output of MANIQA for a batch.
#[derive(Debug)]
pub struct ManiqaOutput {
    /// Score S of each patch, 0 or more, `(b, n)`, f32.
    pub scores: Tensor,
    /// Weight W of each patch, in (0, 1), `(b, n)`, f32.
    pub weights: Tensor,
    /// The quality feature of MA-AGIQA, `S W`, `(b, n)`, f32.
    pub f_1: Tensor,
}

impl ManiqaOutput {
    /// MANIQA's own score of each image, `Σ S W / Σ W`, `(b,)`, f32.
    pub fn rating(&self) -> Tensor {
        let over_tokens = |xs: &Tensor| xs.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        over_tokens(&self.f_1) / over_tokens(&self.weights)
    }
}

/// One of the two halves: attention between channels, the convolution that reduces them, and a Swin stage.
#[derive(Debug)]
struct Half {
    channels: Vec<ChannelAttention>,
    conv_weight: Tensor, // (c_out, c_in, 1, 1), compute kind
    conv_bias: Tensor,   // (c_out,), compute kind
    swin: SwinStage,
}

impl Half {
    fn new(p: &TensorScope, config: &ManiqaConfig, stage: usize, d_in: i64, dim: i64) -> Result<Self, NetworkError> {
        let channels = p.sub(format_args!("tablock{stage}"));
        let conv = p.sub(format_args!("conv{stage}"));
        let layers: Vec<(usize, i64)> = config.depths.iter().copied().zip(config.num_heads.iter().copied()).collect();
        let swin = StageConfig {
            stage,
            dim,
            grid: config.grid(),
            window: config.window_size,
            hidden: config.dim_mlp,
            layers: &layers,
            scale: config.scale,
        };
        Ok(Self {
            channels: (0..config.num_tab)
                .map(|i| ChannelAttention::new(&channels.sub(i), config.n_tokens()))
                .collect::<Result<_, _>>()?,
            conv_weight: conv.get("weight", &[dim, d_in, 1, 1], p.kind)?,
            conv_bias: conv.get("bias", &[dim], p.kind)?,
            swin: SwinStage::new(&p.sub(format_args!("swintransformer{stage}")), &swin)?,
        })
    }

    /// Shares the same weights in memory.
    fn share(&self) -> Self {
        let Self { channels, conv_weight, conv_bias, swin } = self;
        Self {
            channels: channels.iter().map(ChannelAttention::share).collect(),
            conv_weight: conv_weight.shallow_clone(),
            conv_bias: conv_bias.shallow_clone(),
            swin: swin.share(),
        }
    }

    /// # Shapes
    /// - xs: `(b, c_in, n)`, f32, contiguous
    /// - returns: `(b, n, c_out)`, f32
    fn forward(&self, mut xs: Tensor, run: &mut Run<'_>) -> Tensor {
        let Run { kind, mode, each } = run;
        let stage = self.swin.stage();
        for (block, attention) in self.channels.iter().enumerate() {
            xs = attention.forward(&xs, *kind, *mode);
            each(ManiqaTap::Channels { stage, block }, &xs);
        }
        let (b, c, grid) = (xs.size()[0], xs.size()[1], self.swin.grid());
        let (weight, bias) = (self.conv_weight.to_kind(*kind), self.conv_bias.to_kind(*kind));
        let xs = xs.to_kind(*kind).view([b, c, grid, grid]); // (b, c_in, h, w)
        let xs = xs.conv2d(&weight, Some(&bias), [1, 1], [0, 0], [1, 1], 1).to_kind(Kind::Float); // (b, c_out, h, w)
        each(ManiqaTap::Reduced { stage }, &xs);
        let xs = self.swin.forward(xs.flatten(2, 3).transpose(1, 2).contiguous(), *kind, *mode, *each); // (b, n, c_out)
        each(ManiqaTap::Swin { stage }, &xs);
        xs
    }
}

/// Settings of a forward pass.
struct Run<'a> {
    kind: Kind,
    mode: Mode,
    each: &'a mut dyn FnMut(ManiqaTap, &Tensor),
}

/// A head that computes a value per token.
#[derive(Debug)]
struct TokenHead {
    hidden: Linear,
    output: Linear,
}

impl TokenHead {
    fn new(p: &TensorScope, d: i64) -> Result<Self, NetworkError> {
        Ok(Self { hidden: Linear::new(&p.sub("0"), d, d)?, output: Linear::new(&p.sub("3"), d, 1)? })
    }

    /// Shares the same weights in memory.
    fn share(&self) -> Self {
        Self { hidden: self.hidden.share(), output: self.output.share() }
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32
    /// - returns: `(b, n)`, f32, before the head's last activation
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let hidden = dropout(self.hidden.forward(xs).relu(), DROPOUT, mode);
        self.output.forward(&hidden).squeeze_dim(-1)
    }
}

/// The network.
#[derive(Debug)]
pub struct Maniqa {
    config: ManiqaConfig,
    kind: Kind,
    vit: Vit,
    halves: [Half; 2],
    scores: TokenHead,
    weights: TokenHead,
}

impl Maniqa {
    /// Builds the network from tensors named as in [`ManiqaConfig::parameters`]. Tensors that require a gradient are
    /// used unchanged, so that training updates them. The others are converted for speed.
    ///
    /// `kind` is the compute kind of the matrix products. Norms, sums and the two heads are f32. If `kind` is bf16 and
    /// the CPU multiplies f32 faster (Intel's without AMX: 300 against 165 GFLOP/s on two cores), products are f32,
    /// too.
    ///
    /// # Errors
    /// A tensor is absent or has another shape, or memory is short.
    pub fn new(
        config: &ManiqaConfig,
        tensors: &NamedTensors,
        device: Device,
        kind: Kind,
    ) -> Result<Self, NetworkError> {
        let _guard = tch::no_grad_guard();
        let kind = products_of(kind, device);
        let vit_tensors: NamedTensors = tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("vit.")?.to_owned(), tensor.shallow_clone())))
            .collect();
        let vit = Vit::new(&config.vit_config(), &vit_tensors, device, kind).map_err(|error| error.below("vit."))?;
        let p = TensorScope::new(tensors, device, kind);
        let (d_taps, d) = (config.vit.embed_dim * config.vit.taps.len() as i64, config.embed_dim);
        let heads = TensorScope::new(tensors, device, Kind::Float);
        Ok(Self {
            config: config.clone(),
            kind,
            vit,
            halves: [Half::new(&p, config, 1, d_taps, d)?, Half::new(&p, config, 2, d, d / 2)?],
            scores: TokenHead::new(&heads.sub("fc_score"), d / 2)?,
            weights: TokenHead::new(&heads.sub("fc_weight"), d / 2)?,
        })
    }

    /// A second network over the same weights in memory, for another thread. See [`Vit`].
    pub fn share(&self) -> Self {
        let Self { config, kind, vit, halves, scores, weights } = self;
        Self {
            config: config.clone(),
            kind: *kind,
            vit: vit.share(),
            halves: halves.each_ref().map(Half::share),
            scores: scores.share(),
            weights: weights.share(),
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &ManiqaConfig {
        &self.config
    }

    /// The transformer underneath.
    pub fn vit(&self) -> &Vit {
        &self.vit
    }

    /// Scores and weights of the patches.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, side, side)`, normalised, f32; `side` is `vit.img_size` of the configuration
    pub fn forward(&self, pixels: &Tensor, mode: Mode) -> ManiqaOutput {
        self.forward_observed(pixels, mode, |_, _| {})
    }

    /// As [`Self::forward`]. Calls `each` with the values at each [`ManiqaTap`].
    pub fn forward_observed(
        &self,
        pixels: &Tensor,
        mode: Mode,
        mut each: impl FnMut(ManiqaTap, &Tensor),
    ) -> ManiqaOutput {
        let taps: Vec<Tap> = self.config.vit.taps.iter().map(|block| Tap::Block(*block)).collect();
        let mut tapped = Vec::with_capacity(taps.len());
        // Tokens come innermost, without the class token.
        self.vit.forward_taps(pixels, &taps, |_, xs| tapped.push(xs.slice(1, 1, None, 1).transpose(1, 2)));
        let mut xs = Tensor::cat(&tapped, 1).contiguous(); // (b, 4d, n)
        drop(tapped);
        each(ManiqaTap::Taps, &xs);
        let mut run = Run { kind: self.kind, mode, each: &mut each };
        for (i, half) in self.halves.iter().enumerate() {
            if i > 0 {
                xs = xs.transpose(1, 2).contiguous(); // (b, C, n)
            }
            xs = half.forward(xs, &mut run); // (b, n, c)
        }
        let scores = self.scores.forward(&xs, mode).relu(); // (b, n)
        let weights = self.weights.forward(&xs, mode).sigmoid(); // (b, n)
        let f_1 = &scores * &weights;
        ManiqaOutput { scores, weights, f_1 }
    }
}
