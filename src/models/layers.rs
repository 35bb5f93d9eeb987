//! Layers that several networks are built of, and how they find their tensors in a checkpoint.
//!
//! A layer keeps the tensors of its checkpoint where they are to be trained (`Scope::get` gives what requires a gradient
//! as it is), and what is fastest where they are not: the compute kind, a layer scale folded in, oneDNN's own layout.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

/// Why a network could not be built from the tensors given.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A tensor is absent.
    #[error("the checkpoint has no tensor `{name}`{}", nearest.as_ref().map_or_else(String::new, |n| format!("; the nearest is `{n}`")))]
    Missing {
        /// Its name.
        name: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}; this is a checkpoint of another geometry")]
    Shape {
        /// Its name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
        /// Its own shape.
        found: Vec<i64>,
    },
    /// A configuration that no network has.
    #[error("a width of {dim} does not divide into {n_heads} attention heads")]
    Heads {
        /// Width of a token.
        dim: i64,
        /// Attention heads.
        n_heads: i64,
    },
    /// libtorch refused, e.g. for want of memory.
    #[error("placing the network on {device:?}")]
    Torch {
        /// Where it should have gone.
        device: Device,
        /// What libtorch said.
        #[source]
        source: tch::TchError,
    },
}

impl NetworkError {
    /// The same of a network whose tensors stand under `prefix` in its checkpoint.
    pub(super) fn below(self, prefix: &str) -> Self {
        match self {
            Self::Missing { name, nearest } => Self::Missing {
                name: format!("{prefix}{name}"),
                nearest: nearest.map(|name| format!("{prefix}{name}")),
            },
            Self::Shape { name, expected, found } => Self::Shape { name: format!("{prefix}{name}"), expected, found },
            other @ (Self::Heads { .. } | Self::Torch { .. }) => other,
        }
    }
}

/// Named tensors of a checkpoint. Tensors that no layer asks for are ignored.
pub type NamedTensors = HashMap<String, Tensor>;

/// A prefix of names within a checkpoint, and where and as what its tensors are placed.
pub(super) struct Scope<'a> {
    tensors: &'a NamedTensors,
    prefix: String,
    /// Where its tensors go.
    pub(super) device: Device,
    /// What products are computed in.
    pub(super) kind: Kind,
}

impl<'a> Scope<'a> {
    /// All of `tensors`.
    pub(super) fn new(tensors: &'a NamedTensors, device: Device, kind: Kind) -> Self {
        Self { tensors, prefix: String::new(), device, kind }
    }

    /// The tensors whose names go on with `name` and a dot.
    pub(super) fn sub(&self, name: impl std::fmt::Display) -> Scope<'a> {
        Scope { tensors: self.tensors, prefix: format!("{}{name}.", self.prefix), device: self.device, kind: self.kind }
    }

    /// The tensor `name` as `kind`; one that requires a gradient as it is, so that training changes what is used.
    pub(super) fn get(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, NetworkError> {
        let name = format!("{}{name}", self.prefix);
        let Some(tensor) = self.tensors.get(&name) else {
            let similarity = |other: &&String| (strsim::jaro(&name, other) * 1e6) as u64;
            let nearest = self.tensors.keys().max_by_key(similarity).cloned();
            return Err(NetworkError::Missing { name, nearest });
        };
        if tensor.size() != shape {
            return Err(NetworkError::Shape { name, expected: shape.to_vec(), found: tensor.size() });
        }
        if tensor.requires_grad() {
            return Ok(tensor.shallow_clone());
        }
        tensor
            .f_to_device(self.device)
            .and_then(|tensor| tensor.f_to_kind(kind))
            .map_err(|source| NetworkError::Torch { device: self.device, source })
    }
}

/// `xs Wᵀ + bias`, in the kind of its input.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor, // (out, in)
    pub(super) bias: Tensor,   // (out,)
    gamma: Option<Tensor>,     // (out,): a layer scale that is trained
}

impl Linear {
    pub(super) fn new(p: &Scope, d_in: i64, d_out: i64) -> Result<Self, NetworkError> {
        let weight = p.get("weight", &[d_out, d_in], p.kind)?;
        Ok(Self { weight, bias: p.get("bias", &[d_out], p.kind)?, gamma: None })
    }

    /// Scales each output channel by `gamma`; where nothing is trained, that costs nothing at run time.
    pub(super) fn scaled(p: &Scope, d_in: i64, d_out: i64, gamma: Option<&Tensor>) -> Result<Self, NetworkError> {
        let Some(gamma) = gamma else { return Self::new(p, d_in, d_out) };
        let weight = p.get("weight", &[d_out, d_in], Kind::Float)?;
        let bias = p.get("bias", &[d_out], Kind::Float)?;
        if [&weight, &bias, gamma].iter().any(|tensor| tensor.requires_grad()) {
            return Ok(Self { weight, bias, gamma: Some(gamma.shallow_clone()) });
        }
        let (weight, bias) = (weight * gamma.unsqueeze(1), bias * gamma);
        Ok(Self { weight: weight.to_kind(p.kind), bias: bias.to_kind(p.kind), gamma: None })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        // No copies unless f32 weights are trained with products of another kind.
        let kind = xs.kind();
        let ys = xs.linear(&self.weight.to_kind(kind), Some(&self.bias.to_kind(kind)));
        match &self.gamma {
            Some(gamma) => ys * gamma.to_kind(kind),
            None => ys,
        }
    }

    /// Whether a training may change it.
    pub(super) fn is_trained(&self) -> bool {
        self.weight.requires_grad() || self.bias.requires_grad() || self.gamma.is_some()
    }

    /// The same layer in oneDNN's opaque tensors.
    fn opaque(&self) -> Self {
        Self { weight: self.weight.to_mkldnn(), bias: self.bias.to_mkldnn(), gamma: None }
    }

    pub(super) fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            gamma: self.gamma.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Whether products of `kind` on `device` are fastest in oneDNN's opaque tensors: f32 on the CPU, where plain ones go
/// through MKL, which is slower on CPUs that are not Intel's.
pub(super) fn opaque_is_faster(kind: Kind, device: Device) -> bool {
    (kind, device) == (Kind::Float, Device::Cpu) && tch::utils::has_mkldnn()
}

/// Normalises each token in f32.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor, // (d,), f32
    bias: Tensor,   // (d,), f32
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(p: &Scope, d: i64, eps: f64) -> Result<Self, NetworkError> {
        Ok(Self { weight: p.get("weight", &[d], Kind::Float)?, bias: p.get("bias", &[d], Kind::Float)?, eps })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        xs.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }

    pub(super) fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), eps: self.eps }
    }
}

/// Two layers with an exact (erf) GELU between them.
#[derive(Debug)]
pub(super) enum Mlp {
    /// libtorch's plain tensors: what a gradient needs, what bf16 is fastest with, and what every device has.
    Plain { fc1: Linear, fc2: Linear },
    /// oneDNN's opaque tensors; staying opaque through both layers saves the copies that would eat the gain.
    Opaque { fc1: Linear, fc2: Linear },
}

impl Mlp {
    /// Widths `d`, `hidden` and `d`; `gamma` scales the output's channels.
    pub(super) fn new(p: &Scope, d: i64, hidden: i64, gamma: Option<&Tensor>) -> Result<Self, NetworkError> {
        let fc1 = Linear::new(&p.sub("fc1"), d, hidden)?;
        let fc2 = Linear::scaled(&p.sub("fc2"), hidden, d, gamma)?;
        let is_trained = fc1.is_trained() || fc2.is_trained();
        Ok(if opaque_is_faster(p.kind, p.device) && !is_trained {
            Self::Opaque { fc1: fc1.opaque(), fc2: fc2.opaque() }
        } else {
            Self::Plain { fc1, fc2 }
        })
    }

    /// The hidden layer after its activation; [`dense`] makes it readable.
    ///
    /// # Shapes
    /// - xs: `(.., d)`, compute kind
    /// - returns: `(.., m)`, compute kind
    pub(super) fn hidden(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Plain { fc1, .. } => {
                let mut hidden = fc1.forward(xs);
                // In place saves memory traffic; autograd would keep a copy, so a new tensor costs no more there.
                if hidden.requires_grad() { hidden.gelu("none") } else { hidden.gelu_("none") }
            }
            // Opaque tensors carry no gradient: what is before this layer is not trained either, or is plain.
            Self::Opaque { fc1, .. } => xs.to_mkldnn().mkldnn_linear(&fc1.weight, Some(&fc1.bias)).gelu("none"),
        }
    }

    /// # Shapes
    /// - hidden: `(.., m)`, as [`Self::hidden`] gives it
    /// - returns: `(.., d)`, compute kind
    pub(super) fn project(&self, hidden: &Tensor) -> Tensor {
        match self {
            Self::Plain { fc2, .. } => fc2.forward(hidden),
            Self::Opaque { fc2, .. } => dense(&hidden.mkldnn_linear(&fc2.weight, Some(&fc2.bias))),
        }
    }

    /// Both layers.
    ///
    /// # Shapes
    /// - xs: `(.., d)`, compute kind
    /// - returns: `(.., d)`, compute kind
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        self.project(&self.hidden(xs))
    }

    pub(super) fn share(&self) -> Self {
        match self {
            Self::Plain { fc1, fc2 } => Self::Plain { fc1: fc1.share(), fc2: fc2.share() },
            Self::Opaque { fc1, fc2 } => Self::Opaque { fc1: fc1.share(), fc2: fc2.share() },
        }
    }
}

/// The same values as a plain tensor, where `xs` is one of oneDNN's opaque ones.
pub(super) fn dense(xs: &Tensor) -> Tensor {
    if xs.is_mkldnn() { xs.to_dense(None::<Kind>, false) } else { xs.shallow_clone() }
}
