//! SAAN (Yi et al., "Towards Artistic Image Aesthetics Assessment: a Large-scale Dataset and a New Method", CVPR 2023),
//! the network of BAID. One branch sees the style of a picture, the other its general aesthetics.
//!
//! ```text
//! content C = ResNet-50 up to layer 2, style S = VGG-19 up to relu4_1
//! A = σ(S) (C − μ(C)) / σ(C) + μ(S) per channel;  Z = [pool(ReLU(A)), another ResNet-50 up to layer 3]
//! Z ← Z + norm(conv(softmax(θ(Z)ᵀ φ(Z)) g(Z)));  rating = sigmoid(linear(ReLU(linear(norm(Z in 2 × 2)))))
//! ```
//!
//! Semantics and names are those of the authors' code (commit d5c9b8c). Ratings lie between 0 and 1.

use std::sync::Arc;

use agiqa_images::{PillowFilter, RgbImage8, resize_as_pillow};
use tch::{Kind, Tensor};

use super::start::{Learned, RESNET50_V1, Trunk, VGG19};
use super::{Architecture, Layout, Prepare, Prepared, Rater, Stored, Unfit};
use crate::checkpoint::CheckpointError;
use crate::conv::{BatchNorm, Conv, Kernel, Watch, halve, max_around_every_second};
use crate::layers::{Linear, Parameters, Phase};
use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};
use crate::resnet::{ResNet, ResNetSizes, Style};
use crate::vgg::{self, VGG19_TO_RELU4_1, Vgg};

/// Layers of the trunks of the two branches.
const CONTENT_LAYERS: usize = 2;
const GENERIC_LAYERS: usize = 3;

/// Side of the grid that is flattened at the end.
const GRID: i64 = 2;

/// Side of the square that pictures are resized to.
const SIDE_PX: u32 = 224;

/// Share of the values of the hidden layer that are dropped in training.
const DROPOUT: f64 = 0.5;

/// Added to standard deviations.
const STD_EPS: f64 = 1e-6;

/// Published width of the first linear layer.
const HIDDEN: i64 = 2048;

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    generic: ResNetSizes,
    content: ResNetSizes,
    style: Vec<i64>,
    /// Width of the first linear layer.
    hidden: i64,
}

/// Attention of all positions to a pooled grid of them, around which the input is added.
#[derive(Debug)]
struct NonLocal {
    queries: Conv,
    keys: Conv,
    values: Conv,
    output: Conv,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Saan {
    generic: ResNet,
    content: ResNet,
    style: Vgg,
    non_local: NonLocal,
    norm: BatchNorm,
    head: [Linear; 2],
    dropout: f64,
}

impl Architecture for Saan {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("NLB.theta.weight")];

    fn sizes(stored: &Stored, _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let [hidden, _] = stored.shape::<2>("predictor.0.weight")?;
        Ok(Sizes {
            generic: ResNetSizes::of(stored, "GenAes.model.", GENERIC_LAYERS, Style::Torchvision)?,
            content: ResNetSizes::of(stored, "StyAes.model.", CONTENT_LAYERS, Style::Torchvision)?,
            style: vgg::channels(stored, "StyAes.vgg.model.", VGG19_TO_RELU4_1)?,
            hidden,
        })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let style = p.below("StyAes");
        let d = sizes.content.channels(CONTENT_LAYERS) + sizes.generic.channels(GENERIC_LAYERS);
        let head = p.below("predictor");
        Ok(Self {
            generic: ResNet::new(&p.below("GenAes").below("model"), &sizes.generic)?,
            content: ResNet::new(&style.below("model"), &sizes.content)?,
            style: Vgg::new(&style.below("vgg").below("model"), VGG19_TO_RELU4_1, &sizes.style)?,
            non_local: NonLocal::new(&p.below("NLB"), d)?,
            norm: BatchNorm::new(&p.below("bn"), d)?,
            head: [
                Linear::new(&head.below(0), GRID * GRID * d, sizes.hidden)?,
                Linear::new(&head.below(3), sizes.hidden, 1)?,
            ],
            dropout: if matches!(p.phase(), Phase::Learning { drops: true, .. }) { DROPOUT } else { 0.0 },
        })
    }
}

impl Learned for Saan {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] =
        &[("GenAes.model.", &RESNET50_V1), ("StyAes.model.", &RESNET50_V1), ("StyAes.vgg.model.", &VGG19)];

    const DRAWN: &'static [&'static str] = &["NLB.", "bn.", "predictor."];

    const FROZEN: &'static [&'static str] = &["GenAes.", "StyAes.vgg."];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        Ok(Sizes {
            generic: ResNetSizes::of(&trunks[0], "", GENERIC_LAYERS, Style::Torchvision)?,
            content: ResNetSizes::of(&trunks[1], "", CONTENT_LAYERS, Style::Torchvision)?,
            style: vgg::channels(&trunks[2], "", VGG19_TO_RELU4_1)?,
            hidden: HIDDEN,
        })
    }
}

impl NonLocal {
    fn new<P: Parameters>(p: &P, d: i64) -> Result<Self, P::Error> {
        let (output, d_inner) = (p.below("W"), d / 2);
        Ok(Self {
            queries: Conv::new(&p.below("theta"), d, d_inner, Kernel::ONE)?,
            keys: Conv::new(&p.below("phi").below(0), d, d_inner, Kernel::ONE)?,
            values: Conv::new(&p.below("g").below(0), d, d_inner, Kernel::ONE)?,
            output: Conv::new(&output.below(0), d_inner, d, Kernel::ONE)?.normed(&output.below(1))?,
        })
    }

    /// # Shapes
    /// - xs: `(b, d, h, w)`
    /// - returns: `(b, d, h, w)`
    fn forward(&self, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let queries = self.queries.forward(xs).flatten(2, 3).transpose(1, 2); // (b, h w, d / 2)
        let keys = halve(&self.keys.forward(xs)).flatten(2, 3); // (b, d / 2, n)
        let values = halve(&self.values.forward(xs)).flatten(2, 3).transpose(1, 2); // (b, n, d / 2)
        let attention = queries.bmm(&keys).softmax(-1, Kind::Float); // (b, h w, n)
        watch("nlb.attention", &attention);
        let seen = attention.bmm(&values).transpose(1, 2).contiguous(); // (b, d / 2, h w)
        let (b, h, w) = (xs.size()[0], xs.size()[2], xs.size()[3]);
        let seen = seen.view([b, -1, h, w]);
        watch("nlb.y", &seen);
        let output = self.output.forward(&seen);
        watch("nlb.w", &output);
        output + xs
    }
}

/// `content` with the mean and standard deviation that each channel has in `style`.
fn restyled(content: &Tensor, style: &Tensor) -> Tensor {
    let over = [2_i64, 3];
    let mean = |xs: &Tensor| xs.mean_dim(over.as_slice(), true, Kind::Float);
    let std = |xs: &Tensor| xs.std_dim(over.as_slice(), true, true) + STD_EPS;
    (content - mean(content)) / std(content) * std(style) + mean(style)
}

impl Saan {
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised
    /// - returns: `(b,)`, between 0 and 1
    pub(crate) fn forward(&self, pixels: &Tensor, watch: Watch<'_>) -> Tensor {
        let generic = self.generic.forward(pixels, &mut |name, xs| watch(&format!("gen.{name}"), xs));
        let content = self.content.forward(pixels, &mut |name, xs| watch(&format!("sty.{name}"), xs));
        let style = self.style.forward(pixels, &mut |name, xs| watch(&format!("sty.vgg.{name}"), xs));
        let styled = restyled(&content, &style);
        watch("sty.adain", &styled);
        let pooled = max_around_every_second(&styled.relu());
        watch("sty.pooled", &pooled);
        let both = Tensor::cat(&[pooled, generic], 1);
        watch("concat", &both);
        let both = self.non_local.forward(&both, watch);
        watch("nlb", &both);
        let normed = self.norm.forward(&both.adaptive_avg_pool2d([GRID, GRID]));
        watch("bn", &normed);
        let [hidden, output] = &self.head;
        let hidden = hidden.forward_in_f32(&normed.flatten(1, -1));
        watch("fc1", &hidden);
        let hidden = hidden.relu().dropout(self.dropout, self.dropout > 0.0);
        let logit = output.forward_in_f32(&hidden);
        watch("logit", &logit);
        logit.sigmoid().flatten(0, -1)
    }
}

impl Rater for Saan {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(Square)
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        self.forward(inputs, &mut |_, _| {})
    }
}

/// The picture in a square of 224 pixels, as Pillow resizes it, bilinear. The aspect ratio is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Square;

impl Square {
    /// The resized picture.
    pub(crate) fn resized(image: &RgbImage8) -> RgbImage8 {
        resize_as_pillow(image, SIDE_PX, SIDE_PX, PillowFilter::Bilinear)
    }
}

impl Prepare for Square {
    fn has_one_shape(&self) -> bool {
        true
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        self.whole(&Self::resized(image))
    }

    fn whole(&self, crop: &RgbImage8) -> Result<Prepared, Unfit> {
        let Planes { values, height, width } = Planes::of(crop, IMAGENET_MEAN, IMAGENET_STD);
        Ok(Prepared { values, shape: vec![3, height as i64, width as i64] })
    }

    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Unfit> {
        Ok(Self::resized(&image))
    }
}
