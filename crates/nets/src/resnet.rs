//! ResNet-50 (He et al. 2015, arXiv 1512.03385) without its classifier, under torchvision's names: the trunk of several
//! rating networks, and CLIP's modification of it.
//!
//! | | stem | a layer halves its picture by |
//! |---|---|---|
//! | torchvision 0.29.2 | 7 × 7 convolution, maximum | the stride of a block's 3 × 3 convolution, and of the shortcut |
//! | CLIP (Radford et al. 2021, arXiv 2103.00020) | three 3 × 3 convolutions, mean | a mean before the last convolution, and before the shortcut |

use tch::Tensor;

use super::checkpoint::CheckpointError;
use super::conv::{Conv, Kernel, Watch, max_around_every_second, mean_of_squares};
use super::layers::Parameters;
use super::raters::Stored;

/// Channels of a block's output per channel of its middle.
const EXPANSION: i64 = 4;

/// Whose trunk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Torchvision,
    Clip,
}

/// Sizes of a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResNetSizes {
    /// Channels of the stem, 64 in ResNet-50.
    pub(crate) width: i64,
    /// Number of blocks in each layer, 3, 4, 6 and 3 in ResNet-50.
    pub(crate) blocks: Vec<usize>,
    pub(crate) style: Style,
}

impl ResNetSizes {
    /// The sizes of the first `n_layers` layers of the trunk whose names begin with `prefix`.
    pub(crate) fn of(stored: &Stored, prefix: &str, n_layers: usize, style: Style) -> Result<Self, CheckpointError> {
        let [width, ..] = stored.shape::<4>(&format!("{prefix}layer1.0.conv1.weight"))?;
        let n_blocks = |layer| stored.count(|block| format!("{prefix}layer{layer}.{block}.conv1.weight"));
        Ok(Self { width, blocks: (1..=n_layers).map(n_blocks).collect(), style })
    }

    /// Channels after layer `layer`, counted from 1.
    pub(crate) fn channels(&self, layer: usize) -> i64 {
        (self.width * EXPANSION) << (layer - 1)
    }
}

/// Three convolutions around which the input is added.
#[derive(Debug)]
struct Block {
    convs: [Conv; 3],
    shortcut: Option<Conv>,
    /// Side of the squares whose mean is taken before the last convolution and the shortcut.
    pooled: i64,
}

impl Block {
    fn new<P: Parameters>(p: &P, d_in: i64, d_middle: i64, halving: i64, style: Style) -> Result<Self, P::Error> {
        let (stride, pooled) = match style {
            Style::Torchvision => (halving, 1),
            Style::Clip => (1, halving),
        };
        let d_out = EXPANSION * d_middle;
        let conv = |i: usize, d_in, d_out, kernel| {
            let conv = Conv::without_bias(&p.below(format_args!("conv{i}")), d_in, d_out, kernel)?;
            conv.normed(&p.below(format_args!("bn{i}")))
        };
        let shortcut = p.below("downsample");
        Ok(Self {
            convs: [
                conv(1, d_in, d_middle, Kernel::ONE)?,
                conv(2, d_middle, d_middle, Kernel::THREE.every(stride))?,
                conv(3, d_middle, d_out, Kernel::ONE)?,
            ],
            shortcut: match d_in == d_out {
                true => None,
                false => {
                    let conv = Conv::without_bias(&shortcut.below(0), d_in, d_out, Kernel::ONE.every(stride))?;
                    Some(conv.normed(&shortcut.below(1))?)
                }
            },
            pooled,
        })
    }

    /// # Shapes
    /// - xs: `(b, in, h, w)`
    /// - returns: `(b, out, h', w')`, halved if the block halves: torchvision's rounds up, CLIP's down
    fn forward(&self, xs: &Tensor) -> Tensor {
        let pool = |xs: Tensor| if self.pooled > 1 { mean_of_squares(&xs, self.pooled) } else { xs };
        let [first, second, third] = &self.convs;
        let mut ys = third.forward(&pool(second.forward(&first.forward(xs).relu_()).relu_()));
        ys += match &self.shortcut {
            Some(shortcut) => shortcut.forward(&pool(xs.shallow_clone())),
            None => xs.shallow_clone(),
        };
        ys.relu_()
    }
}

/// The trunk: a stem and layers of blocks.
#[derive(Debug)]
pub(crate) struct ResNet {
    stem: Vec<Conv>,
    style: Style,
    layers: Vec<Vec<Block>>,
}

impl ResNet {
    pub(crate) fn new<P: Parameters>(p: &P, sizes: &ResNetSizes) -> Result<Self, P::Error> {
        let (width, half) = (sizes.width, sizes.width / 2);
        let stem = |i: usize, d_in, d_out, kernel| {
            let conv = Conv::without_bias(&p.below(format_args!("conv{i}")), d_in, d_out, kernel)?;
            conv.normed(&p.below(format_args!("bn{i}")))
        };
        let stem = match sizes.style {
            Style::Torchvision => vec![stem(1, 3, width, Kernel { side: 7, stride: 2 })?],
            Style::Clip => vec![
                stem(1, 3, half, Kernel::THREE.every(2))?,
                stem(2, half, half, Kernel::THREE)?,
                stem(3, half, width, Kernel::THREE)?,
            ],
        };
        let mut layers = Vec::with_capacity(sizes.blocks.len());
        let (mut d_in, mut d_middle) = (sizes.width, sizes.width);
        for (layer_idx, n_blocks) in sizes.blocks.iter().enumerate() {
            let p = p.below(format_args!("layer{}", layer_idx + 1));
            let mut blocks = Vec::with_capacity(*n_blocks);
            for block in 0..*n_blocks {
                let halving = if block == 0 && layer_idx > 0 { 2 } else { 1 };
                blocks.push(Block::new(&p.below(block), d_in, d_middle, halving, sizes.style)?);
                d_in = EXPANSION * d_middle;
            }
            layers.push(blocks);
            d_middle *= 2;
        }
        Ok(Self { stem, style: sizes.style, layers })
    }

    /// The stem, pooled: `(b, 3, h, w)` to `(b, width, h / 4, w / 4)`.
    pub(crate) fn stem(&self, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut xs = xs.shallow_clone();
        for (i, conv) in self.stem.iter().enumerate() {
            xs = conv.forward(&xs).relu_();
            watch(&format!("stem.{}", i + 1), &xs);
        }
        let xs = match self.style {
            Style::Torchvision => max_around_every_second(&xs),
            Style::Clip => mean_of_squares(&xs, 2),
        };
        watch("stem", &xs);
        xs
    }

    /// Layer `layer`, counted from 1. All layers but the first halve the picture.
    pub(crate) fn layer(&self, layer: usize, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut ys = xs.shallow_clone();
        for (block, network) in self.layers[layer - 1].iter().enumerate() {
            ys = network.forward(&ys);
            watch(&format!("layer{layer}.{block}"), &ys);
        }
        watch(&format!("layer{layer}"), &ys);
        ys
    }

    /// The output of the last layer.
    pub(crate) fn forward(&self, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let stem = self.stem(xs, watch);
        (1..=self.layers.len()).fold(stem, |xs, layer| self.layer(layer, &xs, watch))
    }
}
