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
//!
//! For the paper's ablations a head may read any of the three vectors, and may put their projections side by side instead
//! of weighing them: what is left out has width 0, here and in checkpoints, and the formulas stay as they are.

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
    /// No gate: the projections are concatenated, and `output_fc` reads all of them. The paper's Table 5 without experts.
    Concat,
}

impl Gate {
    /// Name as in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Linear => "linear",
            Self::Concat => "concat",
        }
    }
}

/// Sizes and kind of a fusion module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FusionConfig {
    /// Width of f_a; 0 where the head does not read it.
    pub semantic_dim: i64,
    /// Width of f_b; 0 where the head does not read it.
    pub coherence_dim: i64,
    /// Width of f_1; 0 where the head does not read it.
    pub quality_dim: i64,
    /// Width that each is projected to; 784 in the paper.
    pub width: i64,
    /// What follows the gate's linear layer, or that there is none.
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
    /// Widths of f_a, f_b and f_1.
    pub fn dims(&self) -> [i64; 3] {
        let Self { semantic_dim, coherence_dim, quality_dim, width: _, gate: _ } = *self;
        [semantic_dim, coherence_dim, quality_dim]
    }

    /// Widths of their projections: 0 for what is not read.
    pub fn projected(&self) -> [i64; 3] {
        self.dims().map(|dim| if dim > 0 { self.width } else { 0 })
    }

    /// Width of all projections side by side, of the gate's output, and of what `output_fc` reads.
    fn inner_widths(&self) -> [i64; 3] {
        let all = self.projected().iter().sum();
        match self.gate {
            Gate::Sigmoid | Gate::Linear => {
                [all, self.dims().iter().filter(|dim| **dim > 0).count() as i64, self.width]
            }
            Gate::Concat => [all, 0, all],
        }
    }

    /// Shapes of the parameters, in the order of [`PARAMETER_NAMES`].
    pub fn shapes(&self) -> [Vec<i64>; 10] {
        let [semantic_dim, coherence_dim, quality_dim] = self.dims();
        let [semantic, coherence, quality] = self.projected();
        let [all, gate, fused] = self.inner_widths();
        [
            vec![semantic, semantic_dim],
            vec![semantic],
            vec![coherence, coherence_dim],
            vec![coherence],
            vec![quality, quality_dim],
            vec![quality],
            vec![gate, all],
            vec![gate],
            vec![1, fused],
            vec![1],
        ]
    }

    /// Fan-in of the layer that each parameter belongs to, in the order of [`PARAMETER_NAMES`].
    pub fn fan_ins(&self) -> [i64; 10] {
        let [semantic, coherence, quality] = self.dims();
        let [gate, _, output] = self.inner_widths();
        [semantic, semantic, coherence, coherence, quality, quality, gate, gate, output, output]
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
        if self.weight.size()[0] == 0 {
            return Tensor::zeros([xs.size()[0], 0], (xs.kind(), xs.device()));
        }
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
    /// From the projections that there are, concatenated, to an alpha for each.
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

/// Every stage of a forward pass. The width of a projection that the head does not have is 0.
#[derive(Debug)]
pub struct FusionOutput {
    /// Projected f_a, `(b, width)`.
    pub semantic: Tensor,
    /// Projected f_b, `(b, width)`.
    pub coherence: Tensor,
    /// Projected f_1, `(b, width)`.
    pub quality: Tensor,
    /// The projections in this order, `(b, 3 * width)`.
    pub concatenated: Tensor,
    /// Gates of semantic, coherence, quality, `(b, 3)`: 0 for what the head does not read; without a gate 1 for the others.
    pub alpha: Tensor,
    /// Weighted sum, `(b, width)`; without a gate `concatenated` again.
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
    /// - `f_a`, `f_b`, `f_1`: `(b, semantic_dim)`, `(b, coherence_dim)`, `(b, quality_dim)`; those of width 0 are not read
    pub fn forward(&self, f_a: &Tensor, f_b: &Tensor, f_1: &Tensor, masks: Option<&ProjectionMasks>) -> FusionOutput {
        let dropped = |projection: Tensor, mask: Option<&Tensor>| match mask {
            Some(mask) => projection * mask,
            None => projection,
        };
        let semantic = dropped(self.semantic.forward(f_a).relu(), masks.map(|masks| &masks.semantic)); // (b, width)
        let coherence = dropped(self.coherence.forward(f_b).relu(), masks.map(|masks| &masks.coherence)); // (b, width)
        let quality = self.quality.forward(f_1); // (b, width)
        let concatenated = Tensor::cat(&[&semantic, &coherence, &quality], 1); // (b, 3 width)
        let read = self.config.dims().map(|dim| dim > 0);
        let logits = self.gate.forward(&concatenated); // (b, inputs that are read)
        let gates = match self.config.gate {
            Gate::Sigmoid => logits.sigmoid(),
            Gate::Linear => logits,
            Gate::Concat => {
                let n_read = read.iter().filter(|read| **read).count() as i64;
                Tensor::ones([f_a.size()[0], n_read], (Kind::Float, f_a.device()))
            }
        };
        let alpha = spread(gates, read); // (b, 3)
        let fused = match self.config.gate {
            Gate::Sigmoid | Gate::Linear => [&semantic, &coherence, &quality]
                .into_iter()
                .zip(0_i64..)
                .filter(|(_, i)| read[*i as usize])
                .map(|(projection, i)| alpha.narrow(1, i, 1) * projection)
                .reduce(|sum, part| sum + part)
                .expect("a head reads something"), // (b, width)
            Gate::Concat => concatenated.shallow_clone(), // (b, width of all)
        };
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
    /// With respect to the gate's linear output, `(b, 3)`; `(b, 0)` without a gate.
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
        let d_fused = d_score.matmul(&self.output.weight); // (b, width), without a gate as wide as all projections
        let read = self.config.dims().map(|dim| dim > 0);
        let projections = [&output.semantic, &output.coherence, &output.quality];
        let d_gate = match self.config.gate {
            Gate::Concat => None,
            Gate::Sigmoid | Gate::Linear => {
                let parts: Vec<(i64, Tensor)> = (0_i64..3)
                    .filter(|i| read[*i as usize])
                    .map(|i| {
                        let product = &d_fused * projections[i as usize];
                        (i, product.sum_dim_intlist([1_i64].as_slice(), true, Kind::Float))
                    })
                    .collect();
                let of_read = |parts: &[Tensor]| Tensor::cat(parts, 1); // (b, inputs that are read)
                let d_alpha = of_read(&parts.iter().map(|(_, part)| part.shallow_clone()).collect::<Vec<_>>());
                Some(if self.config.gate == Gate::Sigmoid {
                    let alpha: Vec<Tensor> = parts.iter().map(|(i, _)| output.alpha.narrow(1, *i, 1)).collect();
                    let alpha = of_read(&alpha);
                    d_alpha * (&alpha * (1.0 - &alpha))
                } else {
                    d_alpha
                })
            }
        };
        let d_concatenated = match &d_gate {
            Some(d_gate) => d_gate.matmul(&self.gate.weight),
            None => d_fused.shallow_clone(),
        }; // (b, width of all)
        let widths = self.config.projected();
        let d_projection = |i: usize| {
            let start: i64 = widths[..i].iter().sum();
            let own = d_concatenated.narrow(1, start, widths[i]);
            match d_gate {
                Some(_) if read[i] => own + output.alpha.narrow(1, i as i64, 1) * &d_fused,
                _ => own,
            }
        }; // (b, width)
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
            gate: d_gate.unwrap_or_else(|| d_score.narrow(1, 0, 0)),
            output: d_score,
        }
    }
}

/// `gates`, one column per input that is read, as one column per input: 0 for the others.
fn spread(gates: Tensor, read: [bool; 3]) -> Tensor {
    if read == [true; 3] {
        return gates;
    }
    let zero = Tensor::zeros([gates.size()[0], 1], (gates.kind(), gates.device()));
    let mut n_before = 0;
    let columns: Vec<Tensor> = read
        .into_iter()
        .map(|read| {
            if !read {
                return zero.shallow_clone();
            }
            n_before += 1;
            gates.narrow(1, n_before - 1, 1)
        })
        .collect();
    Tensor::cat(&columns, 1)
}
