//! The vision transformer that every image network here is built on: plain pre-norm blocks, as in `timm`'s
//! `vision_transformer.py` at v1.0.15, with DINOv2's layer scale where a checkpoint has it.
//!
//! Tensors are named as timm and the official checkpoints name them (`blocks.0.attn.qkv.weight`), so a state dict
//! loads without a renaming table, and smallest block first, as in the reference.

use std::cell::RefCell;
use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

/// Geometry of a vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Side of a square patch; inputs are multiples of it.
    pub patch_px: i64,
    /// Width `d` of a token.
    pub dim: i64,
    /// Number of blocks in the checkpoint.
    pub n_blocks: usize,
    /// Attention heads; `dim` is a multiple of it.
    pub n_heads: i64,
    /// Width of a block's hidden layer.
    pub mlp_dim: i64,
    /// Added to the variance in every layer norm. DINOv2 and the ViTs of timm use 1e-6; PyTorch's own default of 1e-5
    /// gives other numbers.
    pub layer_norm_eps: f64,
    /// Whether each branch is scaled per channel before it joins the residual stream (`ls1.gamma`, `ls2.gamma`).
    pub layer_scale: bool,
    /// Side of the grid that the position table was trained on; other grids get it resized.
    pub position_grid: i64,
}

/// Why a network could not be built from the tensors given.
#[derive(Debug, thiserror::Error)]
pub enum VitError {
    /// A tensor is absent.
    #[error("the checkpoint has no tensor `{name}`{}", nearest.as_ref().map_or_else(String::new, |n| format!("; the nearest is `{n}`")))]
    Missing {
        /// Its name.
        name: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}; this is a checkpoint of another geometry")]
    Shape {
        /// Its name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
        /// Its own shape.
        found: Vec<i64>,
    },
    /// A configuration that no network has.
    #[error("a width of {dim} does not divide into {n_heads} attention heads")]
    Heads {
        /// [`VitConfig::dim`].
        dim: i64,
        /// [`VitConfig::n_heads`].
        n_heads: i64,
    },
    /// libtorch refused, e.g. for want of memory.
    #[error("placing the network on {device:?}")]
    Torch {
        /// Where it should have gone.
        device: Device,
        /// What libtorch said.
        #[source]
        source: tch::TchError,
    },
}

/// Named tensors of a checkpoint, in timm's names. Tensors that no block asks for are ignored.
pub type NamedTensors = HashMap<String, Tensor>;

/// A prefix of names within a checkpoint, and where and as what its tensors are placed.
struct Scope<'a> {
    tensors: &'a NamedTensors,
    prefix: String,
    device: Device,
    kind: Kind,
}

impl<'a> Scope<'a> {
    fn sub(&self, name: &str) -> Scope<'a> {
        Scope { tensors: self.tensors, prefix: format!("{}{name}.", self.prefix), device: self.device, kind: self.kind }
    }

    /// The tensor `name` as `kind`.
    fn get(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, VitError> {
        let name = format!("{}{name}", self.prefix);
        let Some(tensor) = self.tensors.get(&name) else {
            let similarity = |other: &&String| (strsim::jaro(&name, other) * 1e6) as u64;
            let nearest = self.tensors.keys().max_by_key(similarity).cloned();
            return Err(VitError::Missing { name, nearest });
        };
        if tensor.size() != shape {
            return Err(VitError::Shape { name, expected: shape.to_vec(), found: tensor.size() });
        }
        tensor
            .f_to_device(self.device)
            .and_then(|tensor| tensor.f_to_kind(kind))
            .map_err(|source| VitError::Torch { device: self.device, source })
    }
}

/// `xs Wᵀ + bias`, in the compute kind.
#[derive(Debug)]
struct Linear {
    weight: Tensor, // (out, in)
    bias: Tensor,   // (out,)
}

impl Linear {
    fn new(p: &Scope, d_in: i64, d_out: i64) -> Result<Self, VitError> {
        Ok(Self { weight: p.get("weight", &[d_out, d_in], p.kind)?, bias: p.get("bias", &[d_out], p.kind)? })
    }

    /// Scales each output channel by `gamma`, so that a layer scale costs nothing at run time.
    fn scaled(p: &Scope, d_in: i64, d_out: i64, gamma: Option<&Tensor>) -> Result<Self, VitError> {
        let weight = p.get("weight", &[d_out, d_in], Kind::Float)?;
        let bias = p.get("bias", &[d_out], Kind::Float)?;
        let (weight, bias) = match gamma {
            Some(gamma) => (weight * gamma.unsqueeze(1), bias * gamma),
            None => (weight, bias),
        };
        Ok(Self { weight: weight.to_kind(p.kind), bias: bias.to_kind(p.kind) })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, Some(&self.bias))
    }

    /// The same layer in oneDNN's opaque tensors.
    fn opaque(&self) -> Self {
        Self { weight: self.weight.to_mkldnn(), bias: self.bias.to_mkldnn() }
    }

    fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }
}

/// Normalises each token in f32 and gives it in the compute kind.
#[derive(Debug)]
struct LayerNorm {
    weight: Tensor, // (d,), f32
    bias: Tensor,   // (d,), f32
    eps: f64,
}

impl LayerNorm {
    fn new(p: &Scope, config: &VitConfig) -> Result<Self, VitError> {
        let d = config.dim;
        Ok(Self {
            weight: p.get("weight", &[d], Kind::Float)?,
            bias: p.get("bias", &[d], Kind::Float)?,
            eps: config.layer_norm_eps,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }

    fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), eps: self.eps }
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
    fn new(p: &Scope, config: &VitConfig, gamma: Option<&Tensor>) -> Result<Self, VitError> {
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
        let (q, k, v) = (qkv.get(0), qkv.get(1), qkv.get(2)); // (b, h, n, d/h)
        let ys = match attention_of(xs.kind(), xs.device(), q.requires_grad()) {
            // Never holds n × n, and 2 to 4 times as fast as whole products with a softmax between them.
            AttentionPath::Fused => {
                let ys = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, None, false);
                ys.transpose(1, 2).reshape([b, n, d])
            }
            AttentionPath::PerHead => attend_per_head(&q, &k, &v).view([b, n, d]),
        };
        self.proj.forward(&ys) // (b, n, d)
    }

    fn share(&self) -> Self {
        Self { qkv: self.qkv.share(), proj: self.proj.share(), n_heads: self.n_heads }
    }
}

/// How attention is computed; both ways are the same formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttentionPath {
    /// libtorch's fused kernel.
    Fused,
    /// [`attend_per_head`].
    PerHead,
}

/// On CPUs libtorch's fused kernel multiplies bf16 through MKL, which emulates it where the CPU is not Intel's: no
/// faster than f32. The plain product goes through oneDNN at more than twice that rate.
fn attention_of(kind: Kind, device: Device, requires_grad: bool) -> AttentionPath {
    match (kind, device) {
        (Kind::BFloat16, Device::Cpu) if !requires_grad => AttentionPath::PerHead,
        _ => AttentionPath::Fused,
    }
}

/// `softmax(q kᵀ / √d_head) v`, one head after the other, so that the n × n scores of one head stay in the cache:
/// 1.2 MB each at 785 tokens in bf16. All heads at once take twice as long. Writes into buffers, so has no gradient.
///
/// # Shapes
/// - q, k, v: `(b, h, n, d/h)`
/// - returns: `(b, n, h, d/h)`, contiguous
fn attend_per_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let options = (q.kind(), q.device());
    let q = q * (d_head as f64).powf(-0.5);
    let (scores, weights) = (Tensor::empty([n, n], options), Tensor::empty([n, n], options));
    let ys = Tensor::empty([b, n, h, d_head], options);
    for i in 0..b {
        for j in 0..h {
            let of_head = |xs: &Tensor| xs.get(i).get(j); // (n, d/h)
            let _ = of_head(&q).mm_out(&scores, &of_head(k).transpose(0, 1)); // (n, n)
            let _ = scores.internal_softmax_out(&weights, -1, false); // (n, n)
            let _ = weights.mm_out(&ys.get(i).select(1, j), &of_head(v)); // (n, d/h)
        }
    }
    ys
}

/// Two layers with an exact (erf) GELU between them.
#[derive(Debug)]
enum Mlp {
    /// libtorch's plain tensors: what a gradient needs, what bf16 is fastest with, and what every device has.
    Plain { fc1: Linear, fc2: Linear },
    /// oneDNN's opaque tensors, f32 on the CPU. Plain f32 products go through MKL, which is slower on CPUs that are not
    /// Intel's; staying opaque through both layers saves the copies that would eat the gain. The attention's products
    /// stay plain for that reason.
    Opaque { fc1: Linear, fc2: Linear },
}

impl Mlp {
    fn new(p: &Scope, config: &VitConfig, gamma: Option<&Tensor>) -> Result<Self, VitError> {
        let fc1 = Linear::new(&p.sub("fc1"), config.dim, config.mlp_dim)?;
        let fc2 = Linear::scaled(&p.sub("fc2"), config.mlp_dim, config.dim, gamma)?;
        let trained = fc1.weight.requires_grad() || fc2.weight.requires_grad();
        Ok(match (p.kind, p.device) {
            (Kind::Float, Device::Cpu) if !trained && tch::utils::has_mkldnn() => {
                Self::Opaque { fc1: fc1.opaque(), fc2: fc2.opaque() }
            }
            _ => Self::Plain { fc1, fc2 },
        })
    }

    /// The hidden layer after its activation; [`dense`] makes it readable.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, compute kind
    /// - returns: `(b, n, m)`, compute kind
    fn hidden(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Plain { fc1, .. } => fc1.forward(xs).gelu_("none"),
            Self::Opaque { fc1, .. } => xs.to_mkldnn().mkldnn_linear(&fc1.weight, Some(&fc1.bias)).gelu("none"),
        }
    }

    /// # Shapes
    /// - hidden: `(b, n, m)`, as [`Self::hidden`] gives it
    /// - returns: `(b, n, d)`, compute kind
    fn project(&self, hidden: &Tensor) -> Tensor {
        match self {
            Self::Plain { fc2, .. } => fc2.forward(hidden),
            Self::Opaque { fc2, .. } => dense(&hidden.mkldnn_linear(&fc2.weight, Some(&fc2.bias))),
        }
    }

    fn share(&self) -> Self {
        match self {
            Self::Plain { fc1, fc2 } => Self::Plain { fc1: fc1.share(), fc2: fc2.share() },
            Self::Opaque { fc1, fc2 } => Self::Opaque { fc1: fc1.share(), fc2: fc2.share() },
        }
    }
}

/// `xs + γ₁ ⊙ attention(norm(xs))`, then `xs + γ₂ ⊙ mlp(norm(xs))`; γ = 1 without layer scale.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new(p: &Scope, config: &VitConfig) -> Result<Self, VitError> {
        let gamma = |name: &str| match config.layer_scale {
            true => p.sub(name).get("gamma", &[config.dim], Kind::Float).map(Some),
            false => Ok(None),
        };
        let (gamma1, gamma2) = (gamma("ls1")?, gamma("ls2")?);
        Ok(Self {
            norm1: LayerNorm::new(&p.sub("norm1"), config)?,
            attn: Attention::new(&p.sub("attn"), config, gamma1.as_ref())?,
            norm2: LayerNorm::new(&p.sub("norm2"), config)?,
            mlp: Mlp::new(&p.sub("mlp"), config, gamma2.as_ref())?,
        })
    }

    /// The first half: `xs + γ₁ ⊙ attention(norm(xs))`.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32
    /// - returns: `(b, n, d)`, f32
    fn attend(&self, xs: &Tensor, kind: Kind) -> Tensor {
        xs + self.attn.forward(&self.norm1.forward(xs).to_kind(kind)).to_kind(Kind::Float)
    }

    /// The hidden layer of the second half, which [`Self::finish`] completes.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32, from [`Self::attend`]
    /// - returns: `(b, n, m)`, compute kind, perhaps opaque
    fn hidden(&self, xs: &Tensor, kind: Kind) -> Tensor {
        self.mlp.hidden(&self.norm2.forward(xs).to_kind(kind))
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32, from [`Self::attend`]
    /// - hidden: `(b, n, m)`, compute kind
    /// - returns: `(b, n, d)`, f32
    fn finish(&self, xs: &Tensor, hidden: &Tensor) -> Tensor {
        xs + self.mlp.project(hidden).to_kind(Kind::Float)
    }

    fn share(&self) -> Self {
        Self { norm1: self.norm1.share(), attn: self.attn.share(), norm2: self.norm2.share(), mlp: self.mlp.share() }
    }
}

/// A point of the network whose activations can be read; blocks count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tap {
    /// The hidden layer of a block's MLP, after its GELU.
    Hidden(usize),
    /// The output of a block: the residual stream after both sums.
    Block(usize),
    /// The final norm of the last block's output.
    FinalNorm,
}

/// A vision transformer up to its final norm; no head.
///
/// Not `Sync`, as no tensor is: workers each take a [`Vit::share`] of one network. On a CPU several workers with one
/// torch thread each (`tch::set_num_threads(1)` on the worker itself) beat one worker with several threads: images need
/// no barriers between them, and their numbers do not depend on the number of threads.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    kind: Kind,
    patch_weight: Tensor,                            // (d, 3, p, p)
    patch_bias: Tensor,                              // (d,)
    class_token: Tensor,                             // (1, 1, d), its position added
    position_table: Tensor,                          // (1, d, g, g), f32
    positions: RefCell<HashMap<(i64, i64), Tensor>>, // (1, n, d) of the grids seen
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    /// Builds the network from a checkpoint's tensors; weights of products are converted to `kind` once, here.
    ///
    /// `kind` is the compute kind of the matrix products. The residual stream and the norms are f32 in any case.
    ///
    /// # Errors
    /// A tensor that is absent or of another shape, heads that do not divide the width, or want of memory.
    pub fn new(config: &VitConfig, tensors: &NamedTensors, device: Device, kind: Kind) -> Result<Self, VitError> {
        let (d, patch, grid) = (config.dim, config.patch_px, config.position_grid);
        if config.n_heads < 1 || d % config.n_heads != 0 {
            return Err(VitError::Heads { dim: d, n_heads: config.n_heads });
        }
        let _guard = tch::no_grad_guard();
        let p = Scope { tensors, prefix: String::new(), device, kind };
        let position_table = p.get("pos_embed", &[1, 1 + grid * grid, d], Kind::Float)?;
        let blocks = p.sub("blocks");
        Ok(Self {
            config: config.clone(),
            kind,
            patch_weight: p.get("patch_embed.proj.weight", &[d, 3, patch, patch], Kind::Float)?,
            patch_bias: p.get("patch_embed.proj.bias", &[d], Kind::Float)?,
            class_token: p.get("cls_token", &[1, 1, d], Kind::Float)? + position_table.narrow(1, 0, 1),
            position_table: position_table.narrow(1, 1, grid * grid).transpose(1, 2).reshape([1, d, grid, grid]),
            positions: RefCell::default(),
            blocks: (0..config.n_blocks)
                .map(|i| Block::new(&blocks.sub(&i.to_string()), config))
                .collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&p.sub("norm"), config)?,
        })
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
            patch_bias: self.patch_bias.shallow_clone(),
            class_token: self.class_token.shallow_clone(),
            position_table: self.position_table.shallow_clone(),
            positions: RefCell::default(),
            blocks: self.blocks.iter().map(Block::share).collect(),
            norm: self.norm.share(),
        }
    }

    /// Outputs of the blocks `taps`, before the final norm. Blocks after the last tap are not computed.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised, f32; `h` and `w` multiples of the patch side
    /// - taps: indices of blocks, ascending, each below [`VitConfig::n_blocks`]
    /// - returns: per tap `(b, 1 + n, d)`, f32: the class token, then the `n = (h / p) (w / p)` patches row by row
    ///
    /// # Panics
    /// On pixels of another shape and on taps that do not ascend or do not exist: the caller's bug.
    pub fn forward_blocks(&self, pixels: &Tensor, taps: &[usize]) -> Vec<Tensor> {
        assert!(taps.is_sorted_by(|a, b| a < b), "taps ascend: {taps:?}");
        let taps: Vec<Tap> = taps.iter().map(|i| Tap::Block(*i)).collect();
        let mut outputs = Vec::with_capacity(taps.len());
        self.forward_taps(pixels, &taps, |_, xs| outputs.push(xs.shallow_clone()));
        outputs
    }

    /// Hands the activations at `taps` to `each`, in the order in which they arise; computes nothing after the last.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised, f32; `h` and `w` multiples of the patch side
    /// - handed out: `(b, 1 + n, d)`, f32, or for [`Tap::Hidden`] `(b, 1 + n, m)` in the compute kind: the class token,
    ///   then the patches row by row
    ///
    /// # Panics
    /// On pixels of another shape and on blocks that do not exist: the caller's bug.
    pub fn forward_taps(&self, pixels: &Tensor, taps: &[Tap], mut each: impl FnMut(Tap, &Tensor)) {
        let n_blocks = self.blocks.len();
        let block_of = |tap: &Tap| match *tap {
            Tap::Hidden(i) | Tap::Block(i) => i,
            Tap::FinalNorm => n_blocks - 1,
        };
        let Some(last) = taps.iter().map(block_of).max() else { return };
        assert!(last < n_blocks, "block {last} of {n_blocks}");
        let mut xs = self.embed(pixels);
        for (i, block) in self.blocks[..=last].iter().enumerate() {
            let attended = block.attend(&xs, self.kind);
            let hidden = block.hidden(&attended, self.kind);
            if taps.contains(&Tap::Hidden(i)) {
                each(Tap::Hidden(i), &dense(&hidden));
            }
            let is_read = i < last || taps.contains(&Tap::Block(i)) || taps.contains(&Tap::FinalNorm);
            if !is_read {
                return;
            }
            xs = block.finish(&attended, &hidden);
            if taps.contains(&Tap::Block(i)) {
                each(Tap::Block(i), &xs);
            }
        }
        if taps.contains(&Tap::FinalNorm) {
            each(Tap::FinalNorm, &self.final_norm(&xs));
        }
    }

    /// The norm that follows the last block, in f32.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, f32, an output of [`Vit::forward_blocks`]
    /// - returns: `(b, n, d)`, f32
    pub fn final_norm(&self, xs: &Tensor) -> Tensor {
        self.norm.forward(xs)
    }

    /// Tokens of the patches with their positions, after the class token.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, f32
    /// - returns: `(b, 1 + n, d)`, f32
    fn embed(&self, pixels: &Tensor) -> Tensor {
        let (b, d, patch) = (pixels.size()[0], self.config.dim, self.config.patch_px);
        // In f32 whatever the compute kind: it is under 1 % of the work, and rounding pixels costs accuracy in every block.
        let xs = pixels.conv2d(&self.patch_weight, Some(&self.patch_bias), [patch, patch], [0, 0], [1, 1], 1); // (b, d, gh, gw)
        let (gh, gw) = (xs.size()[2], xs.size()[3]);
        let xs = xs.flatten(2, 3).transpose(1, 2) + self.positions_of(gh, gw); // (b, n, d)
        Tensor::cat(&[self.class_token.expand([b, 1, d], false), xs], 1)
    }

    /// The position table on a grid of `gh × gw` patches, computed once per grid.
    ///
    /// Bicubic with a = -0.75 and half-pixel centres, no antialiasing, which is what DINOv2's checkpoints were used
    /// with (`interpolate_pos_encoding`).
    ///
    /// # Shapes
    /// - returns: `(1, gh × gw, d)`, f32
    fn positions_of(&self, gh: i64, gw: i64) -> Tensor {
        let mut positions = self.positions.borrow_mut();
        let table = positions.entry((gh, gw)).or_insert_with(|| {
            let trained = self.config.position_grid;
            let table = match (gh, gw) == (trained, trained) {
                true => self.position_table.shallow_clone(),
                false => self.position_table.upsample_bicubic2d([gh, gw], false, None, None),
            };
            table.flatten(2, 3).transpose(1, 2).contiguous()
        });
        table.shallow_clone()
    }
}

/// The same values as a plain tensor, where `xs` is one of oneDNN's opaque ones.
fn dense(xs: &Tensor) -> Tensor {
    if xs.is_mkldnn() { xs.to_dense(None::<Kind>, false) } else { xs.shallow_clone() }
}

fn size3(xs: &Tensor) -> (i64, i64, i64) {
    xs.size3().expect("tokens are (b, n, d)")
}
