//! The Swin stages of MANIQA: attention within windows, a convolution, a scaled residual (`swin.py` of MA-AGIQA, commit
//! 11c0cda). They have no final norm and do not merge patches: the checkpoints' `downsample` convolutions are never
//! called.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use super::{ManiqaTap, Mode, dropout};
use crate::layers::{Activation, LayerNorm, Linear, Mlp, NetworkError, TensorScope};

/// Constant added to the variance in the Swin blocks' norms. The transformer underneath has 1e-6.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Probability with which training drops a value of a stage's input.
const DROPOUT: f64 = 0.1;

/// Probability with which training skips a branch of a stage's last block. It grows linearly from 0 at the first block.
const DROP_PATH: f64 = 0.1;

/// Logit between tokens of different regions, which the shift put into one window. A softmax turns it into 0.
const OTHER_REGION: f64 = -100.0;

/// Sizes of a stage.
pub(super) struct StageConfig<'a> {
    /// Number of the stage, 1 or 2.
    pub(super) stage: usize,
    /// Width of a token.
    pub(super) dim: i64,
    /// Side of the grid of tokens.
    pub(super) grid: i64,
    /// Side of a window.
    pub(super) window: i64,
    /// Width of the hidden layers.
    pub(super) hidden: i64,
    /// Numbers of blocks and heads per layer.
    pub(super) layers: &'a [(usize, i64)],
    /// Factor of a layer's branch.
    pub(super) scale: f64,
}

/// The order of a grid's tokens, window by window.
#[derive(Debug)]
struct Windows {
    /// Index of the token at each place, window by window, `(n,)`.
    order: Tensor,
    /// Place of each token, `(n,)`.
    inverse: Tensor,
    /// 0, or [`OTHER_REGION`] between tokens of different regions, `(windows, 1, w², w²)`; `None` without a shift.
    mask: Option<Tensor>,
}

impl Windows {
    /// Windows of side `w` of a grid of side `grid`, after a cyclic shift by `shift` up and to the left.
    fn new(p: &TensorScope, grid: i64, w: i64, shift: i64) -> Self {
        let n = (grid * grid) as usize;
        // The shift moves the first rows behind the last, which makes three regions per axis.
        let region = |at: i64| i64::from(at >= grid - w) + i64::from(at >= grid - shift);
        let (mut order, mut inverse, mut regions) = (Vec::with_capacity(n), vec![0_i64; n], Vec::with_capacity(n));
        for (window_row, window_column) in pairs(grid / w) {
            for (row, column) in pairs(w) {
                let (row, column) = (window_row * w + row, window_column * w + column);
                let token = (row + shift) % grid * grid + (column + shift) % grid;
                inverse[token as usize] = order.len() as i64;
                order.push(token);
                regions.push(3 * region(row) + region(column));
            }
        }
        let on_device = |values: &[i64]| Tensor::from_slice(values).to_device(p.device);
        let mask = (shift > 0).then(|| {
            let regions = on_device(&regions).view([-1, 1, w * w]); // (windows, 1, w²)
            let other = regions.transpose(1, 2).ne_tensor(&regions); // (windows, w², w²)
            (other.to_kind(Kind::Float) * OTHER_REGION).unsqueeze(1)
        });
        Self { order: on_device(&order), inverse: on_device(&inverse), mask }
    }
}

fn pairs(n: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n).flat_map(move |a| (0..n).map(move |b| (a, b)))
}

/// The term added to the logits of a block's windows.
#[derive(Debug)]
enum Bias {
    /// Relative position bias and mask, `(windows or 1, heads, w², w²)`, f32.
    Fixed {
        bias: Tensor,
        /// The same for all windows of the last batch, `(b windows, heads, w², w²)`, in the compute kind. All batches
        /// have one size, so it is laid out once.
        of_batch: RefCell<Option<Tensor>>,
    },
    /// The table `((2w − 1)², heads)`, which training changes.
    Trained(Tensor),
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    windows: Windows,
    /// The table's row for query i and key j, flat, `(w⁴,)`.
    bias_index: Tensor,
    bias: Bias,
    n_heads: i64,
    window: i64,
    drop_path: f64,
}

impl Block {
    fn new(
        p: &TensorScope,
        config: &StageConfig,
        n_heads: i64,
        shift: i64,
        drop_path: f64,
    ) -> Result<Self, NetworkError> {
        let (d, w) = (config.dim, config.window);
        let attn = p.sub("attn");
        let windows = Windows::new(p, config.grid, w, shift);
        let mut index = Vec::with_capacity((w * w * w * w) as usize);
        for (row_i, column_i) in pairs(w) {
            for (row_j, column_j) in pairs(w) {
                index.push((row_i - row_j + w - 1) * (2 * w - 1) + column_i - column_j + w - 1);
            }
        }
        let bias_index = Tensor::from_slice(&index).to_device(p.device);
        let table = attn.get("relative_position_bias_table", &[(2 * w - 1).pow(2), n_heads], Kind::Float)?;
        let mut block = Self {
            norm1: LayerNorm::new(&p.sub("norm1"), d, LAYER_NORM_EPS)?,
            qkv: Linear::new(&attn.sub("qkv"), d, 3 * d)?,
            proj: Linear::new(&attn.sub("proj"), d, d)?,
            norm2: LayerNorm::new(&p.sub("norm2"), d, LAYER_NORM_EPS)?,
            mlp: Mlp::new(&p.sub("mlp"), d, config.hidden, Activation::Gelu, None)?,
            windows,
            bias_index,
            bias: Bias::Trained(table.shallow_clone()),
            n_heads,
            window: w,
            drop_path,
        };
        if !table.requires_grad() {
            block.bias = Bias::Fixed { bias: block.bias_of(&table), of_batch: RefCell::default() };
        }
        Ok(block)
    }

    /// Relative position bias and mask.
    ///
    /// # Shapes
    /// - table: `((2w − 1)², heads)`
    /// - returns: `(windows or 1, heads, w², w²)`, f32
    fn bias_of(&self, table: &Tensor) -> Tensor {
        let n = self.window * self.window;
        let bias = table.index_select(0, &self.bias_index).view([n, n, self.n_heads]).permute([2, 0, 1]); // (h, w², w²)
        match &self.windows.mask {
            Some(mask) => bias + mask,
            None => bias.unsqueeze(0),
        }
    }

    /// Shares the same weights in memory.
    fn share(&self) -> Self {
        let Self { norm1, qkv, proj, norm2, mlp, windows, bias_index, bias, n_heads, window, drop_path } = self;
        let Windows { order, inverse, mask } = windows;
        Self {
            norm1: norm1.share(),
            qkv: qkv.share(),
            proj: proj.share(),
            norm2: norm2.share(),
            mlp: mlp.share(),
            windows: Windows {
                order: order.shallow_clone(),
                inverse: inverse.shallow_clone(),
                mask: mask.as_ref().map(Tensor::shallow_clone),
            },
            bias_index: bias_index.shallow_clone(),
            bias: match bias {
                Bias::Fixed { bias, .. } => Bias::Fixed { bias: bias.shallow_clone(), of_batch: RefCell::default() },
                Bias::Trained(table) => Bias::Trained(table.shallow_clone()),
            },
            n_heads: *n_heads,
            window: *window,
            drop_path: *drop_path,
        }
    }

    /// Attention within windows.
    ///
    /// # Shapes
    /// - xs: `(b, n, d)`, compute kind
    /// - returns: `(b, n, d)`, compute kind
    fn attend(&self, xs: &Tensor) -> Tensor {
        let (b, n, d) = xs.size3().expect("tokens are (b, n, d)");
        let (tokens, heads) = (self.window * self.window, self.n_heads);
        let n_windows = n / tokens;
        let qkv = self.qkv.forward(&xs.index_select(1, &self.windows.order)); // (b, n, 3d), window by window
        let qkv = qkv.view([b * n_windows, tokens, 3, heads, d / heads]).permute([2, 0, 3, 1, 4]);
        let (q, k, v) = (qkv.get(0), qkv.get(1), qkv.get(2)); // (b windows, h, w², d/h)
        let per_image = |bias: Tensor| {
            let bias = bias.to_kind(xs.kind()).unsqueeze(0); // (1, windows or 1, h, w², w²)
            bias.expand([b, n_windows, heads, tokens, tokens], false).reshape([-1, heads, tokens, tokens])
        };
        let ys = match &self.bias {
            Bias::Fixed { bias, of_batch } => {
                let mut of_batch = of_batch.borrow_mut();
                let is_of_batch =
                    |laid_out: &Tensor| laid_out.size()[0] == b * n_windows && laid_out.kind() == q.kind();
                if !of_batch.as_ref().is_some_and(is_of_batch) {
                    *of_batch = None;
                }
                let bias = of_batch.get_or_insert_with(|| per_image(bias.shallow_clone()).contiguous());
                Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&*bias), 0.0, false, None, false)
            }
            // The fused kernel has no gradient for the term added to the logits.
            Bias::Trained(table) => {
                let logits = (q * ((d / heads) as f64).powf(-0.5)).matmul(&k.transpose(-2, -1));
                (logits + per_image(self.bias_of(table))).softmax(-1, None::<Kind>).matmul(&v)
            }
        }; // (b windows, h, w², d/h)
        let ys = self.proj.forward(&ys.transpose(1, 2).reshape([b, n, d]));
        ys.index_select(1, &self.windows.inverse)
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32
    /// - returns: `(b, n, d)`, f32
    fn forward(&self, xs: &Tensor, kind: Kind, mode: Mode) -> Tensor {
        let branch = self.attend(&self.norm1.forward(xs).to_kind(kind)).to_kind(Kind::Float);
        let xs = xs + self.drop_path(branch, mode);
        let branch = self.mlp.forward(&self.norm2.forward(&xs).to_kind(kind)).to_kind(Kind::Float);
        xs + self.drop_path(branch, mode)
    }

    /// Stochastic depth: drops the branches of whole images.
    fn drop_path(&self, branch: Tensor, mode: Mode) -> Tensor {
        if mode == Mode::Evaluate || self.drop_path == 0.0 {
            return branch;
        }
        let kept = Tensor::ones([branch.size()[0], 1, 1], (Kind::Float, branch.device()));
        branch * dropout(kept, self.drop_path, mode)
    }
}

#[derive(Debug)]
struct Layer {
    blocks: Vec<Block>,
    conv_weight: Tensor, // (d, d, 3, 3), compute kind
    conv_bias: Tensor,   // (d,), compute kind
}

/// The same weight in the tokens' memory layout, so that no call reorders it, which would take an eighth of the
/// convolution's time. A trained weight stays unchanged.
fn channels_innermost(weight: Tensor) -> Tensor {
    if weight.requires_grad() {
        return weight;
    }
    weight.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Layers of Swin blocks over tokens of one grid.
#[derive(Debug)]
pub(super) struct SwinStage {
    stage: usize,
    grid: i64,
    scale: f64,
    layers: Vec<Layer>,
}

impl SwinStage {
    pub(super) fn new(p: &TensorScope, config: &StageConfig) -> Result<Self, NetworkError> {
        let d = config.dim;
        let n_blocks: usize = config.layers.iter().map(|(depth, _)| depth).sum();
        let mut n_before = 0;
        let mut layers = Vec::with_capacity(config.layers.len());
        for (i, (depth, n_heads)) in config.layers.iter().enumerate() {
            let p = p.sub("layers").sub(i);
            let mut blocks = Vec::with_capacity(*depth);
            for j in 0..*depth {
                // A window as large as the grid cannot shift.
                let shift = if j % 2 == 1 && config.grid > config.window { config.window / 2 } else { 0 };
                let drop_path = DROP_PATH * n_before as f64 / (n_blocks.max(2) - 1) as f64;
                blocks.push(Block::new(&p.sub("blocks").sub(j), config, *n_heads, shift, drop_path)?);
                n_before += 1;
            }
            let conv = p.sub("conv");
            layers.push(Layer {
                blocks,
                conv_weight: channels_innermost(conv.get("weight", &[d, d, 3, 3], p.kind)?),
                conv_bias: conv.get("bias", &[d], p.kind)?,
            });
        }
        Ok(Self { stage: config.stage, grid: config.grid, scale: config.scale, layers })
    }

    /// Shares the same weights in memory.
    pub(super) fn share(&self) -> Self {
        let layer = |Layer { blocks, conv_weight, conv_bias }: &Layer| Layer {
            blocks: blocks.iter().map(Block::share).collect(),
            conv_weight: conv_weight.shallow_clone(),
            conv_bias: conv_bias.shallow_clone(),
        };
        let Self { stage, grid, scale, layers } = self;
        Self { stage: *stage, grid: *grid, scale: *scale, layers: layers.iter().map(layer).collect() }
    }

    /// Number of the stage, 1 or 2.
    pub(super) fn stage(&self) -> usize {
        self.stage
    }

    /// Side of the grid of tokens.
    pub(super) fn grid(&self) -> i64 {
        self.grid
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32, row by row of the grid
    /// - returns: `(b, n, d)`, f32
    pub(super) fn forward(
        &self,
        xs: Tensor,
        kind: Kind,
        mode: Mode,
        each: &mut dyn FnMut(ManiqaTap, &Tensor),
    ) -> Tensor {
        let (b, n, d) = xs.size3().expect("tokens are (b, n, d)");
        let mut xs = dropout(xs, DROPOUT, mode);
        for (i, layer) in self.layers.iter().enumerate() {
            let mut ys = xs.shallow_clone();
            for (j, block) in layer.blocks.iter().enumerate() {
                ys = block.forward(&ys, kind, mode);
                each(ManiqaTap::SwinBlock { stage: self.stage, layer: i, block: j }, &ys);
            }
            // Tokens row by row form an image whose channels lie innermost. oneDNN's convolutions accept this layout.
            let ys = ys.to_kind(kind).view([b, self.grid, self.grid, d]).permute([0, 3, 1, 2]); // (b, d, h, w)
            let (weight, bias) = (layer.conv_weight.to_kind(kind), layer.conv_bias.to_kind(kind));
            let ys = ys.conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1).relu(); // (b, d, h, w)
            let ys = ys.permute([0, 2, 3, 1]).reshape([b, n, d]).to_kind(Kind::Float);
            each(ManiqaTap::SwinLayer { stage: self.stage, layer: i }, &ys);
            // Not in place: the input may belong to the caller, and autograd may need it.
            xs = &xs + ys * self.scale;
        }
        xs
    }
}
