//! The adaptive fusion module of MA-AGIQA (§3.3): three feature vectors, each with a gate of its own, become one score.
//!
//! Semantics and parameter names follow the authors' code (MA-AGIQA, commit 11c0cda, `MA_AGIQA.forward`):
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
//! For the paper's ablations, a head may read any of the three vectors, and may concatenate their projections instead
//! of weighting them. An unread vector has width 0, here and in checkpoints, and the formulas stay the same.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The function after the gate's linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// A sigmoid, as in the paper. Each alpha is in (0, 1).
    #[default]
    Sigmoid,
    /// No function, as in the published code. An alpha may be negative or above 1.
    Linear,
    /// No gate. The projections are concatenated, and `output_fc` reads all of them (the paper's Table 5, without
    /// experts).
    Concat,
}

impl Gate {
    /// The name in settings.
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
    /// Width of f_a; 0 if the head does not read it.
    pub semantic_dim: i64,
    /// Width of f_b; 0 if the head does not read it.
    pub coherence_dim: i64,
    /// Width of f_1; 0 if the head does not read it.
    pub quality_dim: i64,
    /// Width of each projection; 784 in the paper.
    pub width: i64,
    /// The kind of gate.
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

    /// Widths of the projections of f_a, f_b and f_1; 0 for a vector that is not read.
    pub fn projected(&self) -> [i64; 3] {
        self.dims().map(|dim| if dim > 0 { self.width } else { 0 })
    }

    /// Widths of the concatenated projections, of the gate's output, and of the input of `output_fc`.
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

    /// Fan-in of each parameter's layer, in the order of [`PARAMETER_NAMES`].
    pub fn fan_ins(&self) -> [i64; 10] {
        let [semantic, coherence, quality] = self.dims();
        let [gate, _, output] = self.inner_widths();
        [semantic, semantic, coherence, coherence, quality, quality, gate, gate, output, output]
    }
}

/// A linear layer: weight `(out, in)`, bias `(out,)`.
#[derive(Debug)]
pub struct FusionLinear {
    /// `(out, in)`.
    pub weight: Tensor,
    /// `(out,)`.
    pub bias: Tensor,
}

impl FusionLinear {
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
    pub semantic: FusionLinear,
    /// Projection of f_b.
    pub coherence: FusionLinear,
    /// Projection of f_1.
    pub quality: FusionLinear,
    /// From the concatenated projections to an alpha for each.
    pub gate: FusionLinear,
    /// From the fused vector to the score.
    pub output: FusionLinear,
}

/// Dropout's multipliers of the projections: 0 or 1 / (1 - p) per value, `(b, width)` each.
#[derive(Debug)]
pub struct ProjectionMasks {
    /// Multipliers of g_semantic.
    pub semantic: Tensor,
    /// Multipliers of g_coherence.
    pub coherence: Tensor,
}

/// Every stage of a forward pass. A projection that the head lacks has width 0.
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
    /// Gates of semantic, coherence, quality, `(b, 3)`: 0 for a vector that the head does not read. Without a gate, the
    /// others are 1.
    pub alpha: Tensor,
    /// Weighted sum, `(b, width)`; without a gate it equals `concatenated`.
    pub fused: Tensor,
    /// Scores, `(b,)`, on the scale of the head's training.
    pub score: Tensor,
}

impl FusionHead {
    /// A head of ten parameters in the order of [`PARAMETER_NAMES`].
    ///
    /// # Panics
    /// If a shape disagrees with `config`. A caller that reads parameters from a file must check them first.
    pub fn new(config: FusionConfig, parameters: [Tensor; 10]) -> Self {
        for ((name, shape), tensor) in PARAMETER_NAMES.iter().zip(config.shapes()).zip(&parameters) {
            assert_eq!(tensor.size(), shape, "shape of `{name}`");
        }
        let [a_weight, a_bias, b_weight, b_bias, q_weight, q_bias, g_weight, g_bias, o_weight, o_bias] = parameters;
        Self {
            config,
            semantic: FusionLinear { weight: a_weight, bias: a_bias },
            coherence: FusionLinear { weight: b_weight, bias: b_bias },
            quality: FusionLinear { weight: q_weight, bias: q_bias },
            gate: FusionLinear { weight: g_weight, bias: g_bias },
            output: FusionLinear { weight: o_weight, bias: o_bias },
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

    /// Scores a batch. `masks` are the dropout of a training step; `None` means evaluation.
    ///
    /// # Shapes
    /// - `f_a`, `f_b`, `f_1`: `(b, semantic_dim)`, `(b, coherence_dim)`, `(b, quality_dim)`; width 0 means unread
    pub fn forward(&self, f_a: &Tensor, f_b: &Tensor, f_1: &Tensor, masks: Option<&ProjectionMasks>) -> FusionOutput {
        let dropped = |projection: Tensor, mask: Option<&Tensor>| match mask {
            Some(mask) => projection * mask,
            None => projection,
        };
        let semantic = dropped(self.semantic.forward(f_a).relu_(), masks.map(|masks| &masks.semantic)); // (b, width)
        let coherence = dropped(self.coherence.forward(f_b).relu_(), masks.map(|masks| &masks.coherence)); // (b, width)
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

/// Gradients with respect to the layers' outputs. Each parameter's gradient is one product with one of them.
///
/// They are computed here rather than by autograd, so that the optimiser can form a weight's gradient block by block
/// and use it while it is in the cache. At batch 8 to 64, memory traffic over the parameters limits a step, and a
/// stored gradient would add two fifths to the traffic.
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
    /// `masks` must be the masks of the forward pass that gave `output`.
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
                let side_by_side = |parts: &[Tensor]| Tensor::cat(parts, 1); // (b, inputs that are read)
                let d_alpha = side_by_side(&parts.iter().map(|(_, part)| part.shallow_clone()).collect::<Vec<_>>());
                Some(if self.config.gate == Gate::Sigmoid {
                    let alpha: Vec<Tensor> = parts.iter().map(|(i, _)| output.alpha.narrow(1, *i, 1)).collect();
                    let alpha = side_by_side(&alpha);
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
        // Where ReLU or dropout set a projection to 0, its gradient is 0.
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

/// Spreads `gates` (one column per input that is read) to one column per input. The other columns are 0.
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
