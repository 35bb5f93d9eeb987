//! ResNet-50 (He et al. 2015, arXiv 1512.03385) without its classifier, under torchvision's names: the trunk of several
//! rating networks.
//!
//! The stride stands on the 3 × 3 convolution of a block, as in torchvision 0.29.2 and unlike in the paper.

use tch::Tensor;

use super::checkpoint::CheckpointError;
use super::conv::{Conv, Kernel, Watch, max_around_every_second};
use super::layers::Parameters;
use super::raters::Stored;

/// Channels of a block's output per channel of its middle.
const EXPANSION: i64 = 4;

/// Sizes of a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResNetSizes {
    /// Channels of the first convolution, 64 in ResNet-50.
    pub(crate) width: i64,
    /// Number of blocks in each layer, 3, 4, 6 and 3 in ResNet-50.
    pub(crate) blocks: Vec<usize>,
}

impl ResNetSizes {
    /// The sizes of the first `n_layers` layers of the trunk whose names begin with `prefix`.
    pub(crate) fn of(stored: &Stored, prefix: &str, n_layers: usize) -> Result<Self, CheckpointError> {
        let [width, ..] = stored.shape::<4>(&format!("{prefix}conv1.weight"))?;
        let n_blocks = |layer| stored.count(|block| format!("{prefix}layer{layer}.{block}.conv1.weight"));
        Ok(Self { width, blocks: (1..=n_layers).map(n_blocks).collect() })
    }

    /// Channels after layer `layer`, counted from 1.
    pub(crate) fn channels(&self, layer: usize) -> i64 {
        self.width * EXPANSION << (layer - 1)
    }
}

/// Three convolutions around which the input is added.
#[derive(Debug)]
struct Block {
    convs: [Conv; 3],
    shortcut: Option<Conv>,
}

impl Block {
    fn new<P: Parameters>(p: &P, d_in: i64, d_middle: i64, stride: i64) -> Result<Self, P::Error> {
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
        })
    }

    /// # Shapes
    /// - xs: `(b, in, h, w)`
    /// - returns: `(b, out, ⌈h / stride⌉, ⌈w / stride⌉)`
    fn forward(&self, xs: &Tensor) -> Tensor {
        let [first, second, third] = &self.convs;
        let mut ys = third.forward(&second.forward(&first.forward(xs).relu_()).relu_());
        ys += self.shortcut.as_ref().map_or_else(|| xs.shallow_clone(), |shortcut| shortcut.forward(xs));
        ys.relu_()
    }
}

/// The trunk: a stem and layers of blocks.
#[derive(Debug)]
pub(crate) struct ResNet {
    stem: Conv,
    layers: Vec<Vec<Block>>,
}

impl ResNet {
    pub(crate) fn new<P: Parameters>(p: &P, sizes: &ResNetSizes) -> Result<Self, P::Error> {
        let stem = Conv::without_bias(&p.below("conv1"), 3, sizes.width, Kernel { side: 7, stride: 2 })?;
        let mut layers = Vec::with_capacity(sizes.blocks.len());
        let (mut d_in, mut d_middle) = (sizes.width, sizes.width);
        for (layer_idx, n_blocks) in sizes.blocks.iter().enumerate() {
            let p = p.below(format_args!("layer{}", layer_idx + 1));
            let mut blocks = Vec::with_capacity(*n_blocks);
            for block in 0..*n_blocks {
                let stride = if block == 0 && layer_idx > 0 { 2 } else { 1 };
                blocks.push(Block::new(&p.below(block), d_in, d_middle, stride)?);
                d_in = EXPANSION * d_middle;
            }
            layers.push(blocks);
            d_middle *= 2;
        }
        Ok(Self { stem: stem.normed(&p.below("bn1"))?, layers })
    }

    /// The stem, pooled: `(b, 3, h, w)` to `(b, width, ⌈h / 4⌉, ⌈w / 4⌉)`.
    pub(crate) fn stem(&self, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let xs = self.stem.forward(xs);
        watch("bn1", &xs);
        let xs = max_around_every_second(&xs.relu());
        watch("stem", &xs);
        xs
    }

    /// Layer `layer`, counted from 1. All layers but the first halve the picture.
    pub(crate) fn layer(&self, layer: usize, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut ys = xs.shallow_clone();
        for (block, network) in self.layers[layer - 1].iter().enumerate() {
            ys = network.forward(&ys);
            if block == 0 {
                watch(&format!("layer{layer}.0"), &ys);
            }
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
