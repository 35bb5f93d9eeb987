//! DBCNN (Zhang et al., "Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural Network", TCSVT
//! 2020). Two trunks see the picture: one was trained to name its content, the other its distortion.
//!
//! ```text
//! picture ─ VGG-16 without its last pool ─► X_1 (512, h, w)
//!         ─ S-CNN, resized to X_1's grid ─► X_2 (128, h, w)
//! M = X_1 X_2ᵀ / (h w);  rating = w · s / max(‖s‖, 10⁻¹²) + b, with s = √(M + 10⁻⁸)
//! ```
//!
//! The authors' code (commit 16c3156) and pyiqa 0.1.16 use the same names.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::native::Native;
use super::start::{self, Learned, S_CNN, Trunk};
use super::{Architecture, Layout, Prepare, Rater, Stored};
use crate::checkpoint::CheckpointError;
use crate::conv::{Conv, Kernel, Watch};
use crate::layers::{Linear, Parameters};
use crate::strips::{halved_in_strips, is_large};
use crate::vgg::{self, VGG16, Vgg};

/// Convolutions of the S-CNN, and those of them that halve the picture.
const N_CONVS: usize = 9;
const HALVING: [usize; 4] = [1, 3, 5, 8];

/// Both trunks halve a picture four times. One of them rounds down.
const LEAST_SIDE_PX: u32 = 16;

/// Added to products before the root. It decides the values of dead pairs of channels.
const ROOT_EPS: f64 = 1e-8;

/// Least norm that values are divided by.
const NORM_EPS: f64 = 1e-12;

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Channels of the stages of VGG-16.
    content: Vec<i64>,
    /// Channels of the convolutions of the S-CNN.
    distortion: [i64; N_CONVS],
}

/// The network.
#[derive(Debug)]
pub(crate) struct Dbcnn {
    content: Vgg,
    distortion: Vec<Conv>,
    output: Linear,
}

impl Architecture for Dbcnn {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("features2.24.weight")];

    fn sizes(stored: &Stored, _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let mut distortion = [0; N_CONVS];
        for (i, channels) in distortion.iter_mut().enumerate() {
            [*channels, ..] = stored.shape::<4>(&format!("features2.{}.weight", 3 * i))?;
        }
        Ok(Sizes { content: vgg::channels(stored, "features1.", VGG16)?, distortion })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let p_distortion = p.below("features2");
        let (mut distortion, mut d_in) = (Vec::with_capacity(N_CONVS), 3);
        for (i, d_out) in sizes.distortion.into_iter().enumerate() {
            let kernel = if HALVING.contains(&i) { Kernel::THREE.every(2) } else { Kernel::THREE };
            let conv = Conv::new(&p_distortion.below(3 * i), d_in, d_out, kernel)?;
            distortion.push(conv.normed(&p_distortion.below(3 * i + 1))?);
            d_in = d_out;
        }
        let d_content = sizes.content.last().copied().unwrap_or_default();
        Ok(Self {
            content: Vgg::new(&p.below("features1"), VGG16, &sizes.content)?,
            distortion,
            output: Linear::new(&p.below("fc"), d_content * d_in, 1)?,
        })
    }
}

impl Learned for Dbcnn {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("features1.", &start::VGG16), ("features2.", &S_CNN)];

    const DRAWN: &'static [&'static str] = &["fc."];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let mut distortion = [0; N_CONVS];
        for (i, channels) in distortion.iter_mut().enumerate() {
            [*channels, ..] = trunks[1].shape::<4>(&format!("{}.weight", 3 * i))?;
        }
        Ok(Sizes { content: vgg::channels(&trunks[0], "", VGG16)?, distortion })
    }
}

impl Dbcnn {
    /// # Shapes
    /// - pixels: `(b, 3, h, w)`, normalised, each side at least 16
    /// - returns: `(b,)`
    pub(crate) fn forward(&self, pixels: &Tensor, watch: Watch<'_>) -> Tensor {
        let content = self.content.forward(pixels, watch); // (b, c, h', w')
        let is_large = is_large(pixels);
        // Up to the first stride of 2, where activations are largest: two 3 × 3 kernels.
        let (first, later) = self.distortion.split_at(if is_large { HALVING[0] + 1 } else { 0 });
        let through = |xs: &Tensor| first.iter().fold(xs.shallow_clone(), |ys, conv| conv.forward(&ys).relu_());
        let mut distortion = match is_large {
            true => halved_in_strips(pixels, through),
            false => pixels.shallow_clone(),
        };
        for (i, conv) in (first.len()..).zip(later) {
            distortion = conv.forward(&distortion).relu_();
            watch(&format!("scnn.relu{}", 3 * i + 2), &distortion);
        }
        watch("scnn.out", &distortion); // (b, d, ⌈h / 16⌉, ⌈w / 16⌉)
        let (grid, n_positions) = (&content.size()[2..], content.size()[2] * content.size()[3]);
        let distortion = match distortion.size()[2..] == *grid {
            true => distortion,
            false => distortion.upsample_bilinear2d(grid, true, None, None),
        };
        watch("scnn.resized", &distortion);
        let products = content.flatten(2, 3).bmm(&distortion.flatten(2, 3).transpose(1, 2)).to_kind(Kind::Float)
            / n_positions as f64;
        watch("bilinear", &products); // (b, c, d)
        let roots = (products.flatten(1, -1) + ROOT_EPS).sqrt_(); // (b, c d)
        watch("sqrt", &roots);
        let norms = roots.norm_scalaropt_dim(2.0, [1_i64].as_slice(), true).clamp_min(NORM_EPS);
        let scaled = roots / norms;
        watch("normalized_l2", &scaled);
        self.output.forward_in_f32(&scaled).flatten(0, -1)
    }
}

impl Rater for Dbcnn {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(Native::imagenet(LEAST_SIDE_PX))
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        self.forward(inputs, &mut |_, _| {})
    }
}
