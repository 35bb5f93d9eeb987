//! The whole network MA-AGIQA (Wang et al. 2024, arXiv 2404.17762): MANIQA, and the fusion module over its `f_1` and
//! the two semantic vectors of a frozen multimodal model. Names and semantics follow the authors' `MA_AGIQA` (commit
//! 11c0cda).
//!
//! The authors' module has a quarter more parameters than its forward pass reads. The unread parameters are neither
//! read nor trained here, so they get no weight decay.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::fusion::{FusionConfig, FusionHead, FusionOutput, Gate, PARAMETER_NAMES, ProjectionMasks};
use super::layers::{NamedTensors, NetworkError, TensorScope};
use super::maniqa::{Maniqa, ManiqaConfig, ManiqaOutput, Mode, dropout};

/// Probability with which training drops a value of the two semantic projections.
const DROPOUT: f64 = 0.1;

/// Sizes of the whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct MaAgiqaConfig {
    /// Sizes of the quality half.
    pub maniqa: ManiqaConfig,
    /// Sizes of the fusion. `quality_dim` is MANIQA's number of tokens.
    pub fusion: FusionConfig,
}

impl MaAgiqaConfig {
    /// A fusion of width `width` over semantic vectors of `semantic_dim` and `coherence_dim` values.
    pub fn new(maniqa: ManiqaConfig, semantic_dim: i64, coherence_dim: i64, width: i64, gate: Gate) -> Self {
        let quality_dim = maniqa.n_tokens();
        Self { maniqa, fusion: FusionConfig { semantic_dim, coherence_dim, quality_dim, width, gate } }
    }

    /// Names and shapes of the parameters that the forward pass reads.
    pub fn parameters(&self) -> BTreeMap<String, Vec<i64>> {
        let mut parameters = self.maniqa.parameters();
        parameters.extend(PARAMETER_NAMES.iter().map(|name| (*name).to_owned()).zip(self.fusion.shapes()));
        parameters
    }
}

/// Output of the whole network for a batch.
#[derive(Debug)]
pub struct MaAgiqaOutput {
    /// Output of the quality half.
    pub maniqa: ManiqaOutput,
    /// Output of the fusion, which contains the score.
    pub fusion: FusionOutput,
}

/// The network.
#[derive(Debug)]
pub struct MaAgiqa {
    maniqa: Maniqa,
    fusion: FusionHead,
}

impl MaAgiqa {
    /// Builds the network from tensors named as in [`MaAgiqaConfig::parameters`]. Tensors that require a gradient are
    /// used unchanged. The fusion is f32 for every `kind`.
    ///
    /// # Errors
    /// A tensor is absent or has another shape, or memory is short.
    pub fn new(
        config: &MaAgiqaConfig,
        tensors: &NamedTensors,
        device: Device,
        kind: Kind,
    ) -> Result<Self, NetworkError> {
        let maniqa = Maniqa::new(&config.maniqa, tensors, device, kind)?;
        let _guard = tch::no_grad_guard();
        let p = TensorScope::new(tensors, device, Kind::Float);
        let mut parameters = Vec::with_capacity(PARAMETER_NAMES.len());
        for (name, shape) in PARAMETER_NAMES.iter().zip(config.fusion.shapes()) {
            parameters.push(p.get(name, &shape, Kind::Float)?);
        }
        let parameters = parameters.try_into().expect("ten names, ten tensors");
        Ok(Self { maniqa, fusion: FusionHead::new(config.fusion, parameters) })
    }

    /// The quality half.
    pub fn maniqa(&self) -> &Maniqa {
        &self.maniqa
    }

    /// The fusion.
    pub fn fusion(&self) -> &FusionHead {
        &self.fusion
    }

    /// Scores a batch.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, side, side)`, normalised, f32
    /// - f_a, f_b: `(b, semantic_dim)`, `(b, coherence_dim)`, f32
    pub fn forward(&self, pixels: &Tensor, f_a: &Tensor, f_b: &Tensor, mode: Mode) -> MaAgiqaOutput {
        let maniqa = self.maniqa.forward(pixels, mode);
        let masks = (mode == Mode::Train).then(|| {
            let mask = || {
                let ones = Tensor::ones([f_a.size()[0], self.fusion.config.width], (Kind::Float, f_a.device()));
                dropout(ones, DROPOUT, mode)
            };
            ProjectionMasks { semantic: mask(), coherence: mask() }
        });
        let fusion = self.fusion.forward(f_a, f_b, &maniqa.f_1, masks.as_ref());
        MaAgiqaOutput { maniqa, fusion }
    }
}
