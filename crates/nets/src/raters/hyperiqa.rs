//! HyperIQA (Su et al., "Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network", CVPR 2020).
//! From an image's content, a hyper network makes the weights of a small network that then rates the image.
//!
//! ```text
//! 25 crops ─ ResNet-50 ─► layers 1, 2, 3, 4 ─ pool, project ─► x_0, 224 values
//!                         layer 4 ─ 1 × 1 convs ─► h ─► per crop: W_1..W_5, b_1..b_5
//! x_i = sigmoid(W_i x_{i-1} + b_i), i = 1..4;  rating = W_5 x_4 + b_5, averaged over the crops
//! ```
//!
//! Names are those of pyiqa 0.1.16; the authors' own (commit c42e727) are a layout. Crops are pyiqa's, because the
//! authors draw theirs at random.

use std::sync::Arc;

use agiqa_images::RgbImage8;
use tch::{Kind, Tensor};

use super::native::one_crop;
use super::start::{Learned, RESNET50_V1, Trunk};
use super::{Architecture, Layout, Prepare, Prepared, Rater, Stored, Unfit};
use crate::checkpoint::CheckpointError;
use crate::conv::{Conv, Kernel, Watch, mean_of_squares};
use crate::device::with_products_of;
use crate::layers::{Linear, Parameters};
use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};
use crate::resnet::{ResNet, ResNetSizes, Style};

/// Side of a crop.
const SIDE: usize = 224;

/// Crops per axis.
const N_CROPS: usize = 5;

/// Side of the last layer's picture of a crop, and of the squares that are averaged in each tap.
const GRID: i64 = 7;

/// Layers of the trunk, each a tap.
const N_TAPS: usize = 4;

/// Layers of the small network.
const N_TARGET: usize = 5;

/// Convolutions between the last tap and the hyper network's values.
const REDUCTIONS: [usize; 3] = [0, 2, 4];

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    trunk: ResNetSizes,
    /// Channels that taps 1 to 3 are reduced to, 16, 32 and 64 as published.
    reduced: [i64; N_TAPS - 1],
    /// Values that are made of each tap, 16, 16, 16 and 176.
    tapped: [i64; N_TAPS],
    /// Channels after each reduction of the last tap, 1024, 512 and 112.
    hyper: [i64; REDUCTIONS.len()],
    /// Outputs of each layer of the small network, 112, 56, 28, 14 and 1.
    target: [i64; N_TARGET],
}

/// A layer of the small network, made anew for each crop.
#[derive(Debug)]
struct Generator {
    weights: Weights,
    bias: Linear,
    d_in: i64,
    d_out: i64,
}

/// What the weights of a layer are made by.
#[derive(Debug)]
enum Weights {
    /// From the values at all positions.
    Everywhere(Conv),
    /// From their mean.
    Mean(Linear),
}

/// The network.
#[derive(Debug)]
pub(crate) struct HyperIqa {
    trunk: ResNet,
    reductions: Vec<Conv>,
    projections: Vec<Linear>,
    hyper: Vec<Conv>,
    target: Vec<Generator>,
}

impl Architecture for HyperIqa {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[
        Layout::plain("fc_w_modules.0.weight"),
        Layout {
            landmark: "fc1w_conv.weight",
            renamed: &[
                ("base_model.", "res."),
                ("lda_modules.0.0.", "res.lda1_pool.0."),
                ("lda_modules.0.3.", "res.lda1_fc."),
                ("lda_modules.1.0.", "res.lda2_pool.0."),
                ("lda_modules.1.3.", "res.lda2_fc."),
                ("lda_modules.2.0.", "res.lda3_pool.0."),
                ("lda_modules.2.3.", "res.lda3_fc."),
                ("lda_modules.3.2.", "res.lda4_fc."),
                ("fc_w_modules.0.", "fc1w_conv."),
                ("fc_w_modules.1.", "fc2w_conv."),
                ("fc_w_modules.2.", "fc3w_conv."),
                ("fc_w_modules.3.", "fc4w_conv."),
                ("fc_w_modules.4.2.", "fc5w_fc."),
                ("fc_b_modules.0.2.", "fc1b_fc."),
                ("fc_b_modules.1.2.", "fc2b_fc."),
                ("fc_b_modules.2.2.", "fc3b_fc."),
                ("fc_b_modules.3.2.", "fc4b_fc."),
                ("fc_b_modules.4.2.", "fc5b_fc."),
            ],
        },
    ];

    fn sizes(stored: &Stored, _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let rows = |name: String| stored.shape::<2>(&format!("{name}.weight")).map(|[rows, _]| rows);
        let channels = |name: String| stored.shape::<4>(&format!("{name}.weight")).map(|[channels, ..]| channels);
        let mut sizes = Sizes {
            trunk: ResNetSizes::of(stored, "base_model.", N_TAPS, Style::Torchvision)?,
            reduced: [0; N_TAPS - 1],
            tapped: [0; N_TAPS],
            hyper: [0; REDUCTIONS.len()],
            target: [0; N_TARGET],
        };
        for (tap, reduced) in sizes.reduced.iter_mut().enumerate() {
            *reduced = channels(format!("lda_modules.{tap}.0"))?;
        }
        for (tap, tapped) in sizes.tapped.iter_mut().enumerate() {
            *tapped = rows(format!("lda_modules.{tap}.{}", projection(tap)))?;
        }
        for (i, hyper) in REDUCTIONS.iter().zip(&mut sizes.hyper) {
            *hyper = channels(format!("conv1.{i}"))?;
        }
        for (layer, target) in sizes.target.iter_mut().enumerate() {
            *target = rows(format!("fc_b_modules.{layer}.2"))?;
        }
        Ok(sizes)
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let taps = p.below("lda_modules");
        let (mut reductions, mut projections) = (Vec::new(), Vec::new());
        for (tap, d_out) in sizes.tapped.into_iter().enumerate() {
            let p = taps.below(tap);
            let mut d_in = sizes.trunk.channels(tap + 1);
            if let Some(reduced) = sizes.reduced.get(tap) {
                reductions.push(Conv::without_bias(&p.below(0), d_in, *reduced, Kernel::ONE)?);
                // The picture of tap i is 2³⁻ⁱ times as large as the last tap's, which becomes one value.
                d_in = reduced << (2 * (N_TAPS - 1 - tap));
            }
            projections.push(Linear::new(&p.below(projection(tap)), d_in, d_out)?);
        }
        let mut hyper = Vec::new();
        let mut d_in = sizes.trunk.channels(N_TAPS);
        for (i, d_out) in REDUCTIONS.into_iter().zip(sizes.hyper) {
            hyper.push(Conv::new(&p.below("conv1").below(i), d_in, d_out, Kernel::ONE)?);
            d_in = d_out;
        }
        let (d_hyper, mut d_in) = (d_in, sizes.tapped.iter().sum());
        let mut target = Vec::new();
        for (layer, d_out) in sizes.target.into_iter().enumerate() {
            let p_weights = p.below("fc_w_modules").below(layer);
            let weights = match layer + 1 < N_TARGET {
                true => {
                    let channels = d_in * d_out / (GRID * GRID);
                    Weights::Everywhere(Conv::new(&p_weights, d_hyper, channels, Kernel::THREE)?)
                }
                false => Weights::Mean(Linear::new(&p_weights.below(2), d_hyper, d_in * d_out)?),
            };
            let bias = Linear::new(&p.below("fc_b_modules").below(layer).below(2), d_hyper, d_out)?;
            target.push(Generator { weights, bias, d_in, d_out });
            d_in = d_out;
        }
        let trunk = ResNet::new(&p.below("base_model"), &sizes.trunk)?;
        Ok(Self { trunk, reductions, projections, hyper, target })
    }
}

impl Learned for HyperIqa {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("base_model.", &RESNET50_V1)];

    const DRAWN: &'static [&'static str] = &["lda_modules.", "conv1.", "fc_w_modules.", "fc_b_modules."];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        Ok(Sizes {
            trunk: ResNetSizes::of(&trunks[0], "", N_TAPS, Style::Torchvision)?,
            reduced: [16, 32, 64],
            tapped: [16, 16, 16, 176],
            hyper: [1024, 512, 112],
            target: [112, 56, 28, 14, 1],
        })
    }
}

/// Position of the linear layer in the sequence of tap `tap`.
fn projection(tap: usize) -> usize {
    if tap + 1 < N_TAPS { 3 } else { 2 }
}

impl HyperIqa {
    /// The rating of each crop.
    ///
    /// # Shapes
    /// - crops: `(n, 3, 224, 224)`, normalised
    /// - returns: `(n,)`
    pub(crate) fn forward(&self, crops: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut tapped = Vec::with_capacity(N_TAPS);
        let mut xs = self.trunk.stem(crops, watch);
        for (tap, projection) in self.projections.iter().enumerate() {
            xs = self.trunk.layer(tap + 1, &xs, watch);
            // The mean of squares comes before the convolution, unlike in the published code: both are linear, and the
            // convolution then has 49 times fewer positions.
            let pooled = mean_of_squares(&xs, GRID);
            let pooled = self.reductions.get(tap).map_or_else(|| pooled.shallow_clone(), |conv| conv.forward(&pooled));
            let values = projection.forward(&pooled.flatten(1, -1)); // (n, tapped)
            watch(&format!("lda{}", tap + 1), &values);
            tapped.push(values);
        }
        let mut xs_target = Tensor::cat(&tapped, 1).unsqueeze(-1).to_kind(Kind::Float); // (n, 224, 1)
        watch("target_in", &xs_target);
        let hyper = self.hyper.iter().fold(xs, |xs, conv| conv.forward(&xs).relu_()); // (n, 112, 7, 7)
        watch("hyper_in", &hyper);
        let mean = hyper.mean_dim([2_i64, 3].as_slice(), false, Kind::Float); // (n, 112)
        for (layer, generator) in self.target.iter().enumerate() {
            let [weights, bias] = generator.make(&hyper, &mean).map(|xs| xs.to_kind(Kind::Float));
            watch(&format!("fc{}w", layer + 1), &weights);
            watch(&format!("fc{}b", layer + 1), &bias);
            let products = with_products_of(Kind::Float, crops.device(), || weights.bmm(&xs_target));
            xs_target = products + bias.unsqueeze(-1); // (n, d_out, 1)
            watch(&format!("pre{}", layer + 1), &xs_target);
            if layer + 1 < N_TARGET {
                xs_target = xs_target.sigmoid_();
                watch(&format!("act{}", layer + 1), &xs_target);
            }
        }
        xs_target.flatten(0, -1)
    }
}

impl Generator {
    /// Weights `(n, d_out, d_in)` and bias `(n, d_out)` of each crop. The values of a convolution's channels follow each
    /// other and are cut into rows, so that a row takes parts of several channels.
    fn make(&self, hyper: &Tensor, mean: &Tensor) -> [Tensor; 2] {
        let weights = match &self.weights {
            Weights::Everywhere(conv) => conv.forward(hyper),
            Weights::Mean(linear) => linear.forward(mean),
        };
        [weights.contiguous().view([-1, self.d_out, self.d_in]), self.bias.forward(mean)]
    }
}

impl Rater for HyperIqa {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(Crops)
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let crops = self.forward(&inputs.flatten(0, 1), &mut |_, _| {});
        crops.view([inputs.size()[0], -1]).mean_dim([1_i64].as_slice(), false, Kind::Float)
    }
}

/// 5 × 5 crops. Steps between crops are rounded down, so that the last ones need not reach the far edge.
#[derive(Clone, Copy, Debug)]
struct Crops;

impl Prepare for Crops {
    fn has_one_shape(&self) -> bool {
        true
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        let shorter = image.width_px.min(image.height_px) as usize;
        let planes = match shorter <= SIDE {
            true => enlarged(image)?,
            false => Planes::of(image, IMAGENET_MEAN, IMAGENET_STD),
        };
        let step = |side: usize| (side - SIDE) / N_CROPS;
        let mut values = Vec::with_capacity(N_CROPS * N_CROPS * 3 * SIDE * SIDE);
        for row in 0..N_CROPS {
            for column in 0..N_CROPS {
                planes.append_crop(row * step(planes.height), column * step(planes.width), SIDE, &mut values);
            }
        }
        let side = SIDE as i64;
        Ok(Prepared { values, shape: vec![(N_CROPS * N_CROPS) as i64, 3, side, side] })
    }

    fn whole(&self, crop: &RgbImage8) -> Result<Prepared, Unfit> {
        Ok(one_crop(crop, IMAGENET_MEAN, IMAGENET_STD))
    }
}

/// `image` with its shorter side enlarged to just over a crop's, bilinear, in floats, normalised. Positions follow from
/// the factor, and not from the ratio of the sides, as in pyiqa's call of `interpolate`.
pub(crate) fn enlarged(image: &RgbImage8) -> Result<Planes, Unfit> {
    let (height, width) = (image.height_px as usize, image.width_px as usize);
    let scale = (SIDE + 1) as f64 / height.min(width) as f64;
    let scaled = |side: usize| (side as f64 * scale).floor() as usize;
    let (out_height, out_width) = (scaled(height), scaled(width));
    Unfit::check_seen(image, out_height, out_width)?;
    let taps = |side: usize, out: usize| -> Vec<(usize, usize, f32)> {
        let tap = |i: usize| {
            let position = ((i as f64 + 0.5) / scale - 0.5).max(0.0);
            let first = (position as usize).min(side - 1);
            (first, (first + 1).min(side - 1), (position - first as f64) as f32)
        };
        (0..out).map(tap).collect()
    };
    let (rows, columns) = (taps(height, out_height), taps(width, out_width));
    let source = Planes::of(image, [0.0; 3], [1.0; 3]);
    let mut values = Vec::with_capacity(3 * out_height * out_width);
    for (channel, plane) in source.values.chunks_exact(height * width).enumerate() {
        let (mean, std) = (IMAGENET_MEAN[channel], IMAGENET_STD[channel]);
        for (above, below, down) in &rows {
            let (above, below) = (&plane[above * width..], &plane[below * width..]);
            values.extend(columns.iter().map(|(left, right, along)| {
                let upper = above[*left] * (1.0 - along) + above[*right] * along;
                let lower = below[*left] * (1.0 - along) + below[*right] * along;
                (upper * (1.0 - down) + lower * down - mean) / std
            }));
        }
    }
    Ok(Planes { values, height: out_height, width: out_width })
}
