//! ResNet-50 (He et al. 2015, arXiv 1512.03385) with one output, the plain baseline of this field: what a trunk gives
//! without anything built on it.
//!
//! ```text
//! rating = linear(mean over positions of layer 4), averaged over five crops
//! ```
//!
//! Names are torchvision's. No publication fixes its crops. They are StairIQA's, whose trunk is the same, so that the two
//! differ in the network alone.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::stairiqa::FiveCrops;
use super::start::{Learned, RESNET50_V1, Trunk};
use super::{Architecture, Layout, Prepare, Rater, Stored};
use crate::checkpoint::CheckpointError;
use crate::conv::Watch;
use crate::layers::{Linear, Parameters};
use crate::resnet::{ResNet, ResNetSizes, Style};

/// Layers of the trunk.
const N_LAYERS: usize = 4;

/// The network.
#[derive(Debug)]
pub(crate) struct ResNet50 {
    trunk: ResNet,
    output: Linear,
}

impl Architecture for ResNet50 {
    type Sizes = ResNetSizes;

    const LAYOUTS: &'static [Layout] = &[Layout::plain("fc.weight")];

    fn sizes(stored: &Stored, _variant: Option<&str>) -> Result<ResNetSizes, CheckpointError> {
        ResNetSizes::of(stored, "", N_LAYERS, Style::Torchvision)
    }

    fn new<P: Parameters>(p: &P, sizes: &ResNetSizes) -> Result<Self, P::Error> {
        Ok(Self { trunk: ResNet::new(p, sizes)?, output: Linear::new(&p.below("fc"), sizes.channels(N_LAYERS), 1)? })
    }
}

impl Learned for ResNet50 {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("", &RESNET50_V1)];

    const DRAWN: &'static [&'static str] = &["fc."];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<ResNetSizes, CheckpointError> {
        Self::sizes(&trunks[0], None)
    }
}

impl ResNet50 {
    /// # Shapes
    /// - crops: `(n, 3, h, w)`, normalised
    /// - returns: `(n,)`
    pub(crate) fn forward(&self, crops: &Tensor, watch: Watch<'_>) -> Tensor {
        let features = self.trunk.forward(crops, watch).mean_dim([2_i64, 3].as_slice(), false, Kind::Float); // (n, d)
        self.output.forward_in_f32(&features).flatten(0, -1)
    }
}

impl Rater for ResNet50 {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(FiveCrops::of(""))
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let crops = self.forward(&inputs.flatten(0, 1), &mut |_, _| {});
        crops.view([inputs.size()[0], -1]).mean_dim([1_i64].as_slice(), false, Kind::Float)
    }
}
