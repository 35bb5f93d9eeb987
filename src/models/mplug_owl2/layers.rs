//! Layers that the parts of the network share. Weights keep the checkpoint's names and, where type and device agree,
//! its bytes: they are views of its file.

use tch::{Device, Kind, Tensor};

use crate::models::checkpoint::{CheckpointError, Scope};

/// `xs Wᵀ + bias`, in the compute kind.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor, // (out, in)
    bias: Option<Tensor>,
    /// The weight lies in oneDNN's opaque layout: f32 on the CPU, where plain products go through MKL, which is slower
    /// on CPUs that are not Intel's.
    is_opaque: bool,
}

/// Whether a linear layer adds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    With,
    Without,
}

impl Linear {
    pub(super) fn new(p: &Scope, d_in: i64, d_out: i64, bias: Bias) -> Result<Self, CheckpointError> {
        let weight = p.get("weight", &[d_out, d_in])?;
        let bias = match bias {
            Bias::With => Some(p.get("bias", &[d_out])?),
            Bias::Without => None,
        };
        let is_opaque = p.kind() == Kind::Float && p.device() == Device::Cpu && tch::utils::has_mkldnn();
        Ok(match is_opaque {
            true => Self { weight: weight.to_mkldnn(), bias: bias.map(|bias| bias.to_mkldnn()), is_opaque },
            false => Self { weight, bias, is_opaque },
        })
    }

    /// # Shapes
    /// - xs: `(…, in)`, compute kind, plain or opaque
    /// - returns: `(…, out)`, plain
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        dense(self.forward_raw(xs))
    }

    /// As [`Self::forward`], but what it returns stays opaque where the weight is.
    pub(super) fn forward_raw(&self, xs: &Tensor) -> Tensor {
        match self.is_opaque {
            true if xs.is_mkldnn() => xs.mkldnn_linear(&self.weight, self.bias.as_ref()),
            true => xs.to_mkldnn().mkldnn_linear(&self.weight, self.bias.as_ref()),
            false => xs.linear(&self.weight, self.bias.as_ref()),
        }
    }

    /// `xs` as this layer reads it: for several layers over the same input, so that it is converted once.
    pub(super) fn prepare(&self, xs: &Tensor) -> Tensor {
        if self.is_opaque { xs.to_mkldnn() } else { xs.shallow_clone() }
    }
}

/// The same values as a plain tensor.
pub(super) fn dense(xs: Tensor) -> Tensor {
    if xs.is_mkldnn() { xs.to_dense(None::<Kind>, false) } else { xs }
}

/// Normalises each token in f32 and gives it in the kind asked for.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor, // (d,), f32
    bias: Tensor,   // (d,), f32
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(p: &Scope, d: i64, eps: f64) -> Result<Self, CheckpointError> {
        Ok(Self { weight: p.get_as("weight", &[d], Kind::Float)?, bias: p.get_as("bias", &[d], Kind::Float)?, eps })
    }

    /// # Shapes
    /// - xs: `(…, d)`, any kind
    /// - returns: `(…, d)`, `kind`
    pub(super) fn forward(&self, xs: &Tensor, kind: Kind) -> Tensor {
        let xs = xs.to_kind(Kind::Float);
        xs.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false).to_kind(kind)
    }
}

/// `xs / √(mean(xs²) + ε) ⊙ w`, in f32.
#[derive(Debug)]
pub(super) struct RmsNorm {
    weight: Tensor, // (d,), f32
    eps: f64,
}

impl RmsNorm {
    pub(super) fn new(p: &Scope, d: i64, eps: f64) -> Result<Self, CheckpointError> {
        Ok(Self { weight: p.get_as("weight", &[d], Kind::Float)?, eps })
    }

    /// # Shapes
    /// - xs: `(…, d)`, f32
    /// - returns: `(…, d)`, `kind`
    pub(super) fn forward(&self, xs: &Tensor, kind: Kind) -> Tensor {
        let mean_square = xs.square().mean_dim([-1_i64].as_slice(), true, Kind::Float);
        ((xs * (mean_square + self.eps).rsqrt()) * &self.weight).to_kind(kind)
    }
}
