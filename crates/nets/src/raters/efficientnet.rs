//! EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; its form without squeeze-and-excitation, and with ReLU6) with one
//! output: a network that any machine can fetch first weights of, and whose training takes a CPU minutes instead of hours.
//!
//! ```text
//! stem ─► 16 blocks: widen (1 × 1) ─ filter each channel (k × k) ─ narrow (1 × 1), around which the input is added ─► head
//! rating = linear(mean over positions of the head), averaged over five crops
//! ```
//!
//! Names and semantics are those of the package efficientnet-lite-pytorch 0.1.0: zeros around pictures as TensorFlow puts
//! them, batch norms of TensorFlow. Levels are `(level − 127) / 128`. Training drops nothing. Crops are StairIQA's, as
//! ResNet-50's, so that networks differ in nothing else.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::stairiqa::FiveCrops;
use super::start::{EFFICIENTNET_LITE0, Learned, Trunk};
use super::{Architecture, Layout, Prepare, Rater, Stored};
use crate::checkpoint::CheckpointError;
use crate::conv::{Conv, Kernel, NormRule, Watch};
use crate::layers::{Linear, Parameters};

/// Blocks of each stage, and the stride of its first one.
const STAGES: [(usize, i64); 7] = [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)];

/// TensorFlow's batch norm. PyTorch counts the batch's share of a statistic, TensorFlow the stored one's, 0.99.
const NORM: NormRule = NormRule { eps: 1e-3, momentum: 0.01 };

const MEAN: [f32; 3] = [127.0 / 255.0; 3];
const STD: [f32; 3] = [128.0 / 255.0; 3];

/// Channels of one block, and the side of its filters.
#[derive(Clone, Debug)]
struct BlockSizes {
    d_in: i64,
    /// After widening. The first stage does not widen.
    d_wide: i64,
    d_out: i64,
    side: i64,
    stride: i64,
}

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    d_stem: i64,
    blocks: Vec<BlockSizes>,
    d_head: i64,
}

#[derive(Debug)]
struct Block {
    widen: Option<Conv>,
    filter: Conv,
    narrow: Conv,
    is_added: bool,
}

impl Block {
    fn new<P: Parameters>(p: &P, sizes: &BlockSizes) -> Result<Self, P::Error> {
        let BlockSizes { d_in, d_wide, d_out, side, stride } = *sizes;
        let conv = |name, norm, d_in, d_out, kernel| {
            Conv::without_bias(&p.below(name), d_in, d_out, kernel)?.normed_by(&p.below(norm), NORM)
        };
        Ok(Self {
            widen: match d_in == d_wide {
                true => None,
                false => Some(conv("_expand_conv", "_bn0", d_in, d_wide, Kernel::ONE)?),
            },
            // One input channel per filter.
            filter: conv("_depthwise_conv", "_bn1", 1, d_wide, Kernel { side, stride })?,
            narrow: conv("_project_conv", "_bn2", d_wide, d_out, Kernel::ONE)?,
            is_added: stride == 1 && d_in == d_out,
        })
    }

    /// # Shapes
    /// - xs: `(b, in, h, w)`
    /// - returns: `(b, out, ⌈h / stride⌉, ⌈w / stride⌉)`
    fn forward(&self, xs: &Tensor) -> Tensor {
        let wide = self.widen.as_ref().map_or_else(|| xs.shallow_clone(), |widen| widen.forward(xs).relu6());
        let ys = self.narrow.forward(&self.filter.forward_same(&wide).relu6());
        if self.is_added { ys + xs } else { ys }
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct EfficientNet {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
    output: Linear,
}

impl Architecture for EfficientNet {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("_conv_head.weight")];

    fn sizes(stored: &Stored, _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let [d_stem, ..] = stored.shape::<4>("_conv_stem.weight")?;
        let [d_head, ..] = stored.shape::<4>("_conv_head.weight")?;
        let strides = STAGES.iter().flat_map(|(n, stride)| (0..*n).map(|i| if i == 0 { *stride } else { 1 }));
        let (mut blocks, mut d_in) = (Vec::new(), d_stem);
        for (i, stride) in strides.enumerate() {
            let [d_wide, _, side, _] = stored.shape::<4>(&format!("_blocks.{i}._depthwise_conv.weight"))?;
            let [d_out, ..] = stored.shape::<4>(&format!("_blocks.{i}._project_conv.weight"))?;
            blocks.push(BlockSizes { d_in, d_wide, d_out, side, stride });
            d_in = d_out;
        }
        Ok(Sizes { d_stem, blocks, d_head })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let Sizes { d_stem, blocks, d_head } = sizes;
        let stem = Conv::without_bias(&p.below("_conv_stem"), 3, *d_stem, Kernel::THREE.every(2))?;
        let p_blocks = p.below("_blocks");
        let d_last = blocks.last().map_or(*d_stem, |block| block.d_out);
        let head = Conv::without_bias(&p.below("_conv_head"), d_last, *d_head, Kernel::ONE)?;
        Ok(Self {
            stem: stem.normed_by(&p.below("_bn0"), NORM)?,
            blocks: blocks
                .iter()
                .enumerate()
                .map(|(i, b)| Block::new(&p_blocks.below(i), b))
                .collect::<Result<_, _>>()?,
            head: head.normed_by(&p.below("_bn1"), NORM)?,
            output: Linear::new(&p.below("_fc"), *d_head, 1)?,
        })
    }
}

impl Learned for EfficientNet {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("", &EFFICIENTNET_LITE0)];

    const DRAWN: &'static [&'static str] = &["_fc."];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        Self::sizes(&trunks[0], None)
    }
}

impl EfficientNet {
    /// # Shapes
    /// - crops: `(n, 3, h, w)`, normalised
    /// - returns: `(n,)`
    pub(crate) fn forward(&self, crops: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut xs = self.stem.forward_same(crops).relu6();
        watch("stem", &xs);
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs);
            watch(&format!("block{i}"), &xs);
        }
        let head = self.head.forward(&xs).relu6();
        self.output.forward_in_f32(&head.mean_dim([2_i64, 3].as_slice(), false, Kind::Float)).flatten(0, -1)
    }
}

impl Rater for EfficientNet {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(FiveCrops::of("").normalised_by(MEAN, STD))
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let crops = self.forward(&inputs.flatten(0, 1), &mut |_, _| {});
        crops.view([inputs.size()[0], -1]).mean_dim([1_i64].as_slice(), false, Kind::Float)
    }
}
