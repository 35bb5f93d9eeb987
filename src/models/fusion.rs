//! The adaptive fusion module of MA-AGIQA (§3.3): three feature vectors, each with a gate of its own, become one score.
//!
//! Semantics are those of the authors' code (MA-AGIQA, commit 11c0cda, `MA_AGIQA.forward`), parameters have its names:
//!
//! ```text
//! g_semantic  = dropout(ReLU(fc4096_784_a2(f_a)))
//! g_coherence = dropout(ReLU(fc4096_784_b2(f_b)))
//! g_quality   = fc784_784(f_1)                              no ReLU, no dropout
//! alpha       = gate([g_semantic, g_coherence, g_quality])  sigmoid in the paper, none in the published code
//! fused       = alpha_0 g_semantic + alpha_1 g_coherence + alpha_2 g_quality
//! score       = output_fc(fused)
//! ```

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What the gate's linear layer is followed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// A sigmoid, as in the paper: each alpha is in (0, 1).
    #[default]
    Sigmoid,
    /// Nothing, as in the published code: an alpha may be negative or above 1.
    Linear,
}

/// Sizes and kind of a fusion module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FusionConfig {
    /// Width of f_a.
    pub semantic_dim: i64,
    /// Width of f_b.
    pub coherence_dim: i64,
    /// Width of f_1.
    pub quality_dim: i64,
    /// Width that all three are projected to; 784 in the paper.
    pub width: i64,
    /// What follows the gate's linear layer.
    pub gate: Gate,
}

/// Names of the parameters, as in the authors' checkpoints, in the order of [`FusionHead::parameters`].
pub const PARAMETER_NAMES: [&str; 10] = [
    "fc4096_784_a2.0.weight",
    "fc4096_784_a2.0.bias",
    "fc4096_784_b2.0.weight",
    "fc4096_784_b2.0.bias",
    "fc784_784.weight",
    "fc784_784.bias",
    "gating.weight",
    "gating.bias",
    "output_fc.weight",
    "output_fc.bias",
];

impl FusionConfig {
    /// Shapes of the parameters, in the order of [`PARAMETER_NAMES`].
    pub fn shapes(&self) -> [Vec<i64>; 10] {
        let Self { semantic_dim, coherence_dim, quality_dim, width, gate: _ } = *self;
        [
            vec![width, semantic_dim],
            vec![width],
            vec![width, coherence_dim],
            vec![width],
            vec![width, quality_dim],
            vec![width],
            vec![3, 3 * width],
            vec![3],
            vec![1, width],
            vec![1],
        ]
    }

    /// Fan-in of the layer that each parameter belongs to, in the order of [`PARAMETER_NAMES`].
    pub fn fan_ins(&self) -> [i64; 10] {
        let Self { semantic_dim, coherence_dim, quality_dim, width, gate: _ } = *self;
        let (gate, output) = (3 * width, width);
        [semantic_dim, semantic_dim, coherence_dim, coherence_dim, quality_dim, quality_dim, gate, gate, output, output]
    }
}

/// A linear layer: weight `(out, in)`, bias `(out,)`.
#[derive(Debug)]
pub struct Linear {
    /// `(out, in)`.
    pub weight: Tensor,
    /// `(out,)`.
    pub bias: Tensor,
}

impl Linear {
    /// `xs · weightᵀ + bias`: `(b, in)` to `(b, out)`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, Some(&self.bias))
    }
}

/// The fusion module.
#[derive(Debug)]
pub struct FusionHead {
    /// Sizes and kind.
    pub config: FusionConfig,
    /// Projection of f_a.
    pub semantic: Linear,
    /// Projection of f_b.
    pub coherence: Linear,
    /// Projection of f_1.
    pub quality: Linear,
    /// From the three projections, concatenated, to the three alphas.
    pub gate: Linear,
    /// From the fused vector to the score.
    pub output: Linear,
}

/// Multipliers that dropout puts on the projections: 0 or 1 / (1 - p) per value, `(b, width)` each.
#[derive(Debug)]
pub struct ProjectionMasks {
    /// On g_semantic.
    pub semantic: Tensor,
    /// On g_coherence.
    pub coherence: Tensor,
}

/// Every stage of a forward pass.
#[derive(Debug)]
pub struct FusionOutput {
    /// Projected f_a, `(b, width)`.
    pub semantic: Tensor,
    /// Projected f_b, `(b, width)`.
    pub coherence: Tensor,
    /// Projected f_1, `(b, width)`.
    pub quality: Tensor,
    /// The three projections in this order, `(b, 3 * width)`.
    pub concatenated: Tensor,
    /// Gates of semantic, coherence, quality, `(b, 3)`.
    pub alpha: Tensor,
    /// Weighted sum, `(b, width)`.
    pub fused: Tensor,
    /// Scores, `(b,)`, on the scale that the head was trained on.
    pub score: Tensor,
}

impl FusionHead {
    /// A head of ten parameters in the order of [`PARAMETER_NAMES`].
    ///
    /// # Panics
    /// Where a shape is not that of `config`; whoever reads parameters from outside checks them first.
    pub fn new(config: FusionConfig, parameters: [Tensor; 10]) -> Self {
        for ((name, shape), tensor) in PARAMETER_NAMES.iter().zip(config.shapes()).zip(&parameters) {
            assert_eq!(tensor.size(), shape, "shape of `{name}`");
        }
        let [a_weight, a_bias, b_weight, b_bias, q_weight, q_bias, g_weight, g_bias, o_weight, o_bias] = parameters;
        Self {
            config,
            semantic: Linear { weight: a_weight, bias: a_bias },
            coherence: Linear { weight: b_weight, bias: b_bias },
            quality: Linear { weight: q_weight, bias: q_bias },
            gate: Linear { weight: g_weight, bias: g_bias },
            output: Linear { weight: o_weight, bias: o_bias },
        }
    }

    /// The parameters in the order of [`PARAMETER_NAMES`].
    pub fn parameters(&self) -> [&Tensor; 10] {
        let Self { config: _, semantic, coherence, quality, gate, output } = self;
        [
            &semantic.weight,
            &semantic.bias,
            &coherence.weight,
            &coherence.bias,
            &quality.weight,
            &quality.bias,
            &gate.weight,
            &gate.bias,
            &output.weight,
            &output.bias,
        ]
    }

    /// Scores a batch. `masks` are the dropout of a training step; none means evaluation.
    ///
    /// # Shapes
    /// - `f_a`, `f_b`, `f_1`: `(b, semantic_dim)`, `(b, coherence_dim)`, `(b, quality_dim)`
    pub fn forward(&self, f_a: &Tensor, f_b: &Tensor, f_1: &Tensor, masks: Option<&ProjectionMasks>) -> FusionOutput {
        let dropped = |projection: Tensor, mask: Option<&Tensor>| match mask {
            Some(mask) => projection * mask,
            None => projection,
        };
        let semantic = dropped(self.semantic.forward(f_a).relu(), masks.map(|masks| &masks.semantic)); // (b, width)
        let coherence = dropped(self.coherence.forward(f_b).relu(), masks.map(|masks| &masks.coherence)); // (b, width)
        let quality = self.quality.forward(f_1); // (b, width)
        let concatenated = Tensor::cat(&[&semantic, &coherence, &quality], 1); // (b, 3 width)
        let logits = self.gate.forward(&concatenated); // (b, 3)
        let alpha = match self.config.gate {
            Gate::Sigmoid => logits.sigmoid(),
            Gate::Linear => logits,
        };
        let weight = |i| alpha.narrow(1, i, 1); // (b, 1)
        let fused = weight(0) * &semantic + weight(1) * &coherence + weight(2) * &quality; // (b, width)
        let score = self.output.forward(&fused).squeeze_dim(1); // (b,)
        FusionOutput { semantic, coherence, quality, concatenated, alpha, fused, score }
    }
}

/// Gradients with respect to what the layers put out, from which each parameter's gradient is one product.
///
/// They are worked out here rather than by autograd so that the optimiser can form a weight's gradient block by block
/// and use it while it is in cache: at batch 8 to 64 a step is bound by memory traffic over the parameters, and a stored
/// gradient adds two fifths to it.
#[derive(Debug)]
pub struct FusionGradients {
    /// With respect to the semantic layer's output, `(b, width)`.
    pub semantic: Tensor,
    /// With respect to the coherence layer's output, `(b, width)`.
    pub coherence: Tensor,
    /// With respect to the quality layer's output, `(b, width)`.
    pub quality: Tensor,
    /// With respect to the gate's linear output, `(b, 3)`.
    pub gate: Tensor,
    /// With respect to the score, `(b, 1)`.
    pub output: Tensor,
}

impl FusionHead {
    /// Gradients of a loss, given its gradient with respect to the scores, `(b,)`.
    ///
    /// `masks` are those of the forward pass that gave `output`.
    pub fn backward(
        &self,
        output: &FusionOutput,
        masks: Option<&ProjectionMasks>,
        score_gradient: &Tensor,
    ) -> FusionGradients {
        let d_score = score_gradient.unsqueeze(1); // (b, 1)
        let d_fused = d_score.matmul(&self.output.weight); // (b, width)
        let projections = [&output.semantic, &output.coherence, &output.quality];
        let d_alpha: Vec<Tensor> = projections
            .iter()
            .map(|projection| (&d_fused * *projection).sum_dim_intlist([1_i64].as_slice(), true, Kind::Float))
            .collect();
        let d_alpha = Tensor::cat(&d_alpha, 1); // (b, 3)
        let d_gate = match self.config.gate {
            Gate::Sigmoid => d_alpha * (&output.alpha * (1.0 - &output.alpha)),
            Gate::Linear => d_alpha,
        };
        let d_concatenated = d_gate.matmul(&self.gate.weight); // (b, 3 width)
        let width = self.config.width;
        let d_projection = |i| d_concatenated.narrow(1, i * width, width) + output.alpha.narrow(1, i, 1) * &d_fused; // (b, width)
        // A projection is zero where ReLU or dropout made it so, and there nothing flows back.
        let through_relu = |gradient: Tensor, projection: &Tensor, mask: Option<&Tensor>| {
            let gradient = match mask {
                Some(mask) => gradient * mask,
                None => gradient,
            };
            gradient * projection.gt(0.0).to_kind(Kind::Float)
        };
        FusionGradients {
            semantic: through_relu(d_projection(0), &output.semantic, masks.map(|masks| &masks.semantic)),
            coherence: through_relu(d_projection(1), &output.coherence, masks.map(|masks| &masks.coherence)),
            quality: d_projection(2),
            gate: d_gate,
            output: d_score,
        }
    }
}
