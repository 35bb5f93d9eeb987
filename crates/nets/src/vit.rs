//! The vision transformer under the image networks: plain pre-norm blocks, as in `timm`'s `vision_transformer.py` at
//! v1.0.15, with DINOv2's layer scale or CLIP's norm before the first block if a checkpoint has them.
//!
//! Tensors have the names of timm and the official checkpoints (`blocks.0.attn.qkv.weight`), so a state dict loads
//! without a renaming table.

use std::cell::RefCell;
use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::attention::attend;
use super::layers::{Activation, LayerNorm, Linear, Mlp, NamedTensors, NetworkError, TensorScope, dense, products_of};

/// Geometry of a vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Side of a square patch. The sides of inputs are multiples of it.
    pub patch_px: i64,
    /// Width `d` of a token.
    pub dim: i64,
    /// Number of blocks to build. A checkpoint may have more.
    pub n_blocks: usize,
    /// Whether a checkpoint has a norm after the last block. Features come from before it, so it is not built.
    pub final_norm: bool,
    /// Number of attention heads. `dim` is a multiple of it.
    pub n_heads: i64,
    /// Width of a block's hidden layer.
    pub mlp_dim: i64,
    /// Constant added to the variance in every layer norm. DINOv2 and timm's ViTs use 1e-6. PyTorch's default of 1e-5
    /// gives other numbers.
    pub layer_norm_eps: f64,
    /// Whether each branch is scaled per channel before it joins the residual stream (`ls1.gamma`, `ls2.gamma`).
    pub layer_scale: bool,
    /// Whether the patch kernel has a bias. CLIP's has none.
    pub patch_bias: bool,
    /// Whether a norm precedes the first block (`norm_pre`), as in CLIP.
    pub pre_norm: bool,
    /// The activation between the two layers of an MLP.
    pub activation: Activation,
    /// Side of the grid that the position table was trained on. For other grids the table is resized.
    pub position_grid: i64,
}

impl VitConfig {
    /// Names and shapes of the network's tensors.
    pub fn parameters(&self) -> Vec<(String, Vec<i64>)> {
        let (d, grid) = (self.dim, self.position_grid);
        let mut named = vec![
            ("cls_token".to_owned(), vec![1, 1, d]),
            ("pos_embed".to_owned(), vec![1, 1 + grid * grid, d]),
            ("patch_embed.proj.weight".to_owned(), vec![d, 3, self.patch_px, self.patch_px]),
        ];
        if self.patch_bias {
            named.push(("patch_embed.proj.bias".to_owned(), vec![d]));
        }
        let mut layer = |name: String, shape: &[i64]| {
            named.push((format!("{name}.weight"), shape.to_vec()));
            named.push((format!("{name}.bias"), shape[..1].to_vec()));
        };
        for (is_there, name) in [(self.pre_norm, "norm_pre"), (self.final_norm, "norm")] {
            if is_there {
                layer(name.to_owned(), &[d]);
            }
        }
        for i in 0..self.n_blocks {
            layer(format!("blocks.{i}.norm1"), &[d]);
            layer(format!("blocks.{i}.norm2"), &[d]);
            layer(format!("blocks.{i}.attn.qkv"), &[3 * d, d]);
            layer(format!("blocks.{i}.attn.proj"), &[d, d]);
            layer(format!("blocks.{i}.mlp.fc1"), &[self.mlp_dim, d]);
            layer(format!("blocks.{i}.mlp.fc2"), &[d, self.mlp_dim]);
        }
        if self.layer_scale {
            let scales = (0..self.n_blocks).flat_map(|i| ["ls1", "ls2"].map(|name| format!("blocks.{i}.{name}.gamma")));
            named.extend(scales.map(|name| (name, vec![d])));
        }
        named
    }
}

/// Multi-head self-attention: `softmax(q kᵀ / √d_head) v` per head, then a projection.
#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    n_heads: i64,
}

impl Attention {
    fn new(p: &TensorScope, config: &VitConfig, gamma: Option<&Tensor>) -> Result<Self, NetworkError> {
        let d = config.dim;
        Ok(Self {
            qkv: Linear::new(&p.sub("qkv"), d, 3 * d)?,
            proj: Linear::scaled(&p.sub("proj"), d, d, gamma)?,
            n_heads: config.n_heads,
        })
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, compute kind
    /// - returns: `(b, n, d)`, compute kind
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (b, n, d) = size3(xs);
        let qkv = self.qkv.forward(xs).view([b, n, 3, self.n_heads, d / self.n_heads]); // (b, n, 3, h, d/h)
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // (3, b, h, n, d/h)
        let ys = attend(&qkv.get(0), &qkv.get(1), &qkv.get(2), None); // (b, n, d)
        self.proj.forward(&ys) // (b, n, d)
    }

    fn share(&self) -> Self {
        Self { qkv: self.qkv.share(), proj: self.proj.share(), n_heads: self.n_heads }
    }
}

/// `xs + γ₁ ⊙ attention(norm(xs))`, then `xs + γ₂ ⊙ mlp(norm(xs))`. Without layer scale, γ = 1.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new(p: &TensorScope, config: &VitConfig) -> Result<Self, NetworkError> {
        let gamma = |name: &str| match config.layer_scale {
            true => p.sub(name).get("gamma", &[config.dim], Kind::Float).map(Some),
            false => Ok(None),
        };
        let (gamma1, gamma2) = (gamma("ls1")?, gamma("ls2")?);
        Ok(Self {
            norm1: LayerNorm::new(&p.sub("norm1"), config.dim, config.layer_norm_eps)?,
            attn: Attention::new(&p.sub("attn"), config, gamma1.as_ref())?,
            norm2: LayerNorm::new(&p.sub("norm2"), config.dim, config.layer_norm_eps)?,
            mlp: Mlp::new(&p.sub("mlp"), config.dim, config.mlp_dim, config.activation, gamma2.as_ref())?,
        })
    }

    /// The first half: `xs + γ₁ ⊙ attention(norm(xs))`.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32
    /// - returns: `(b, n, d)`, f32
    fn attend(&self, xs: &Tensor, kind: Kind, multipliers: Option<Tensor>) -> Tensor {
        xs + multiplied(self.attn.forward(&self.norm1.forward(xs).to_kind(kind)).to_kind(Kind::Float), multipliers)
    }

    /// The hidden layer of the second half, which [`Self::finish`] completes.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32, from [`Self::attend`]
    /// - returns: `(b, n, m)`, compute kind, possibly opaque
    fn hidden(&self, xs: &Tensor, kind: Kind) -> Tensor {
        self.mlp.hidden(&self.norm2.forward(xs).to_kind(kind))
    }

    /// The second half, given its hidden layer.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32, from [`Self::attend`]
    /// - hidden: `(b, n, m)`, compute kind
    /// - returns: `(b, n, d)`, f32
    fn finish(&self, xs: &Tensor, hidden: &Tensor, multipliers: Option<Tensor>) -> Tensor {
        xs + multiplied(self.mlp.project(hidden).to_kind(Kind::Float), multipliers)
    }

    fn share(&self) -> Self {
        Self { norm1: self.norm1.share(), attn: self.attn.share(), norm2: self.norm2.share(), mlp: self.mlp.share() }
    }
}

/// `branch`, `(b, n, d)`, times a number per image, `(b,)`.
fn multiplied(branch: Tensor, multipliers: Option<Tensor>) -> Tensor {
    match multipliers {
        Some(multipliers) => branch * multipliers.view([-1, 1, 1]),
        None => branch,
    }
}

/// A point of the network whose activations can be read. Blocks count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tap {
    /// The hidden layer of a block's MLP, after its activation.
    Hidden(usize),
    /// The output of a block: the residual stream after both sums.
    Block(usize),
}

impl Tap {
    /// The block that it is a point of.
    pub fn block(self) -> usize {
        match self {
            Self::Hidden(block) | Self::Block(block) => block,
        }
    }
}

/// A vision transformer up to its last block, without a head.
///
/// It is not `Sync`, because tensors are not. Each worker takes a [`Vit::share`] of one network. On a CPU, several
/// workers with one torch thread each (`tch::set_num_threads(1)` on the worker itself) are faster than one worker with
/// several threads, because images need no barriers between them. An image's numbers do not depend on the number of
/// threads.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    kind: Kind,
    patch_weight: Tensor,                            // (d, 3, p, p)
    patch_bias: Option<Tensor>,                      // (d,)
    class_token: Tensor,                             // (1, 1, d), f32
    position_table: Tensor,                          // (1, 1 + g², d), f32: the class token's, then the patches'
    positions: RefCell<HashMap<(i64, i64), Tensor>>, // (1, n, d) per grid, unless the table is trained
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
}

impl Vit {
    /// Builds the network from a checkpoint's tensors. Weights of products are converted to `kind` once, here.
    ///
    /// `kind` is the compute kind of the matrix products. The residual stream and the norms are always f32.
    ///
    /// # Errors
    /// A tensor is absent or has another shape, the number of heads does not divide the width, or memory is short.
    pub fn new(config: &VitConfig, tensors: &NamedTensors, device: Device, kind: Kind) -> Result<Self, NetworkError> {
        let (d, patch, grid) = (config.dim, config.patch_px, config.position_grid);
        if config.n_heads < 1 || d % config.n_heads != 0 {
            return Err(NetworkError::Heads { dim: d, n_heads: config.n_heads });
        }
        let _guard = tch::no_grad_guard();
        let p = TensorScope::new(tensors, device, kind);
        let blocks = p.sub("blocks");
        let norm_pre = match config.pre_norm {
            true => Some(LayerNorm::new(&p.sub("norm_pre"), d, config.layer_norm_eps)?),
            false => None,
        };
        let patch_bias = match config.patch_bias {
            true => Some(p.get("patch_embed.proj.bias", &[d], Kind::Float)?),
            false => None,
        };
        Ok(Self {
            config: config.clone(),
            kind,
            patch_weight: p.get("patch_embed.proj.weight", &[d, 3, patch, patch], Kind::Float)?,
            patch_bias,
            class_token: p.get("cls_token", &[1, 1, d], Kind::Float)?,
            position_table: p.get("pos_embed", &[1, 1 + grid * grid, d], Kind::Float)?,
            positions: RefCell::default(),
            blocks: (0..config.n_blocks).map(|i| Block::new(&blocks.sub(i), config)).collect::<Result<_, _>>()?,
            norm_pre,
        })
    }

    /// As [`Vit::new`], for features alone. Weights and matrix products are in `kind`, with one exception: a CPU that
    /// multiplies f32 faster than bf16 (Intel's without AMX) computes f32 products with weights rounded to bf16.
    ///
    /// # Errors
    /// As [`Vit::new`].
    pub fn for_features(
        config: &VitConfig,
        mut tensors: NamedTensors,
        device: Device,
        kind: Kind,
    ) -> Result<Self, NetworkError> {
        let products = products_of(kind, device);
        if products != kind {
            let is_multiplied = |name: &str, tensor: &Tensor| name.ends_with(".weight") && tensor.dim() >= 2;
            for (_, tensor) in tensors.iter_mut().filter(|(name, tensor)| is_multiplied(name, tensor)) {
                *tensor = tensor.to_kind(kind).to_kind(products);
            }
        }
        Self::new(config, &tensors, device, products)
    }

    /// Its geometry.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The compute kind of its matrix products.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A second network over the same weights in memory, for another thread.
    pub fn share(&self) -> Self {
        Self {
            config: self.config.clone(),
            kind: self.kind,
            patch_weight: self.patch_weight.shallow_clone(),
            patch_bias: self.patch_bias.as_ref().map(Tensor::shallow_clone),
            class_token: self.class_token.shallow_clone(),
            position_table: self.position_table.shallow_clone(),
            positions: RefCell::default(),
            blocks: self.blocks.iter().map(Block::share).collect(),
            norm_pre: self.norm_pre.as_ref().map(LayerNorm::share),
        }
    }

    /// Calls `each` with the activations at `taps`, in the order of computation. Stops after the last tap.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised, f32; `h` and `w` multiples of the patch side
    /// - activations: `(b, 1 + n, d)`, f32, or for [`Tap::Hidden`] `(b, 1 + n, m)` in the compute kind: the class
    ///   token, then the `n = (h / p) (w / p)` patches row by row
    ///
    /// # Panics
    /// If pixels have another shape, or if a block does not exist, which is the caller's bug.
    pub fn forward_taps(&self, pixels: &Tensor, taps: &[Tap], each: impl FnMut(Tap, &Tensor)) {
        self.forward_dropping(pixels, taps, |_, _| None, each);
    }

    /// As [`Vit::forward_taps`], with stochastic depth: `multipliers` gives a number per image, `(b,)`, for half 0
    /// (attention) or 1 (MLP) of a block, which its output is multiplied by.
    ///
    /// # Panics
    /// As [`Vit::forward_taps`].
    pub fn forward_dropping(
        &self,
        pixels: &Tensor,
        taps: &[Tap],
        multipliers: impl Fn(usize, usize) -> Option<Tensor>,
        mut each: impl FnMut(Tap, &Tensor),
    ) {
        let Some(last) = taps.iter().map(|tap| tap.block()).max() else { return };
        assert!(last < self.blocks.len(), "block {last} of {}", self.blocks.len());
        let mut xs = self.embed(pixels);
        for (i, block) in self.blocks[..=last].iter().enumerate() {
            let attended = block.attend(&xs, self.kind, multipliers(i, 0));
            let hidden = block.hidden(&attended, self.kind);
            if taps.contains(&Tap::Hidden(i)) {
                each(Tap::Hidden(i), &dense(&hidden));
            }
            if i == last && !taps.contains(&Tap::Block(i)) {
                return;
            }
            xs = block.finish(&attended, &hidden, multipliers(i, 1));
            if taps.contains(&Tap::Block(i)) {
                each(Tap::Block(i), &xs);
            }
        }
    }

    /// The class token and the patches' tokens, with their positions.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, f32
    /// - returns: `(b, 1 + n, d)`, f32
    fn embed(&self, pixels: &Tensor) -> Tensor {
        let (b, d, patch) = (pixels.size()[0], self.config.dim, self.config.patch_px);
        // Always in f32: it is under 1 % of the work, and rounded pixels would cost accuracy in every block.
        let xs = pixels.conv2d(&self.patch_weight, self.patch_bias.as_ref(), [patch, patch], [0, 0], [1, 1], 1); // (b, d, gh, gw)
        let (gh, gw) = (xs.size()[2], xs.size()[3]);
        let xs = xs.flatten(2, 3).transpose(1, 2) + self.positions_of(gh, gw); // (b, n, d)
        let class_token = &self.class_token + self.position_table.narrow(1, 0, 1); // (1, 1, d)
        let xs = Tensor::cat(&[class_token.expand([b, 1, d], false), xs], 1);
        match &self.norm_pre {
            Some(norm) => norm.forward(&xs),
            None => xs,
        }
    }

    /// The position table on a grid of `gh × gw` patches, computed once per grid.
    ///
    /// The table is resized as in DINOv2's code (`interpolate_pos_encoding`): bicubic with a = -0.75 and half-pixel
    /// centres, without antialiasing.
    ///
    /// # Shapes
    /// - returns: `(1, gh × gw, d)`, f32
    fn positions_of(&self, gh: i64, gw: i64) -> Tensor {
        let trained = self.config.position_grid;
        let resized = || {
            let table = self.position_table.narrow(1, 1, trained * trained); // (1, g², d)
            if (gh, gw) == (trained, trained) {
                return table;
            }
            let table = table.transpose(1, 2).reshape([1, self.config.dim, trained, trained]);
            table.upsample_bicubic2d([gh, gw], false, None, None).flatten(2, 3).transpose(1, 2).contiguous()
        };
        if self.position_table.requires_grad() {
            return resized();
        }
        self.positions.borrow_mut().entry((gh, gw)).or_insert_with(resized).shallow_clone()
    }
}

fn size3(xs: &Tensor) -> (i64, i64, i64) {
    xs.size3().expect("tokens are (b, n, d)")
}
