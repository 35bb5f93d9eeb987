//! Layers that several networks share, and the lookup of their tensors in a checkpoint.
//!
//! A layer keeps its checkpoint's tensors unchanged if they are to be trained (`TensorScope::get` shares tensors that require
//! a gradient). Else it keeps them in their fastest form: in the compute kind, with a layer scale folded in, or in
//! oneDNN's own layout.

use std::collections::HashMap;
use std::fmt::Display;

use tch::{Device, Kind, Tensor};

use super::checkpoint;
use super::device::with_products_of;
use super::processor::Processor;

/// Why a network could not be built from the tensors given.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum NetworkError {
    /// A tensor is absent.
    #[error(
        "the checkpoint has no tensor `{name}`{}",
        nearest.as_ref().map_or_else(String::new, |n| format!("; the nearest is `{n}`"))
    )]
    Missing { name: String, nearest: Option<String> },
    /// A tensor has another shape.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}; this is a checkpoint of another geometry")]
    Shape { name: String, expected: Vec<i64>, found: Vec<i64> },
    /// The number of heads does not divide the width.
    #[error("a width of {dim} does not divide into {n_heads} attention heads")]
    Heads { dim: i64, n_heads: i64 },
    /// libtorch failed, e.g. because memory is short.
    #[error("placing the network on {device:?}")]
    Torch {
        device: Device,
        #[source]
        source: tch::TchError,
    },
}

impl NetworkError {
    /// The same error, with `prefix` before the tensors' names.
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

/// Named tensors of a checkpoint. Tensors that no layer uses are ignored.
pub type NamedTensors = HashMap<String, Tensor>;

/// What a network is built for. It decides how batch norms and dropout behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Rating: batch norms use their stored statistics, and nothing is dropped.
    #[default]
    Rating,
    /// Learning. Only tensors that require a gradient learn.
    Learning {
        /// Whether batch norms that learn use the statistics of the batch and move the stored ones.
        by_batch: bool,
        /// Whether dropout drops values.
        drops: bool,
    },
}

/// A prefix of names within a checkpoint, and the device and kind of the tensors below it.
pub(super) struct TensorScope<'a> {
    tensors: &'a NamedTensors,
    prefix: String,
    /// The device of its tensors.
    pub(super) device: Device,
    /// The kind of products.
    pub(super) kind: Kind,
    phase: Phase,
}

impl<'a> TensorScope<'a> {
    /// All of `tensors`.
    pub(super) fn new(tensors: &'a NamedTensors, device: Device, kind: Kind) -> Self {
        Self { tensors, prefix: String::new(), device, kind, phase: Phase::Rating }
    }

    /// The same tensors for a network of another phase.
    pub(super) fn in_phase(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    /// The tensors whose names continue with `name` and a dot.
    pub(super) fn sub(&self, name: impl std::fmt::Display) -> TensorScope<'a> {
        TensorScope {
            tensors: self.tensors,
            prefix: format!("{}{name}.", self.prefix),
            device: self.device,
            kind: self.kind,
            phase: self.phase,
        }
    }

    /// The same tensors, with products of `kind`.
    pub(super) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The tensor `name` as `kind`. A tensor that requires a gradient is shared unchanged, so that training updates it.
    pub(super) fn get(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, NetworkError> {
        let name = format!("{}{name}", self.prefix);
        let Some(tensor) = self.tensors.get(&name) else {
            let nearest = agiqa_suggest::nearest(&name, self.tensors.keys().map(String::as_str)).map(str::to_owned);
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

/// A source of layers' tensors: a prefix of the names of tensors in memory ([`TensorScope`]) or in files
/// ([`checkpoint::CheckpointScope`]).
pub(super) trait Parameters: Sized {
    /// Error of loading a tensor.
    type Error;

    /// One level down in the names.
    fn below(&self, name: impl Display) -> Self;

    /// The tensor `name` below this prefix, of this shape, as `kind`.
    fn tensor(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, Self::Error>;

    /// The device that tensors are placed on.
    fn device(&self) -> Device;

    /// The kind that weights of products are converted to.
    fn kind(&self) -> Kind;

    /// What the network is built for.
    fn phase(&self) -> Phase {
        Phase::Rating
    }
}

impl Parameters for TensorScope<'_> {
    type Error = NetworkError;

    fn below(&self, name: impl Display) -> Self {
        self.sub(name)
    }

    fn tensor(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, NetworkError> {
        self.get(name, shape, kind)
    }

    fn device(&self) -> Device {
        self.device
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn phase(&self) -> Phase {
        self.phase
    }
}

impl Parameters for checkpoint::CheckpointScope<'_> {
    type Error = checkpoint::CheckpointError;

    fn below(&self, name: impl Display) -> Self {
        self.sub(name)
    }

    fn tensor(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, checkpoint::CheckpointError> {
        self.get_as(name, shape, kind)
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn kind(&self) -> Kind {
        self.kind()
    }
}

/// `xs Wᵀ + bias`, in the kind of its input.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor,       // (out, in)
    pub(super) bias: Option<Tensor>, // (out,)
    gamma: Option<Tensor>,           // (out,): a layer scale that is trained
}

impl Linear {
    pub(super) fn new<P: Parameters>(p: &P, d_in: i64, d_out: i64) -> Result<Self, P::Error> {
        let layer = Self::without_bias(p, d_in, d_out)?;
        Ok(Self { bias: Some(p.tensor("bias", &[d_out], p.kind())?), ..layer })
    }

    pub(super) fn without_bias<P: Parameters>(p: &P, d_in: i64, d_out: i64) -> Result<Self, P::Error> {
        Ok(Self { weight: p.tensor("weight", &[d_out, d_in], p.kind())?, bias: None, gamma: None })
    }

    /// A layer whose weight and bias have these names.
    pub(super) fn named<P: Parameters>(p: &P, names: [&str; 2], d_in: i64, d_out: i64) -> Result<Self, P::Error> {
        let [weight, bias] = names;
        let weight = p.tensor(weight, &[d_out, d_in], p.kind())?;
        Ok(Self { weight, bias: Some(p.tensor(bias, &[d_out], p.kind())?), gamma: None })
    }

    /// Scales each output channel by `gamma`. If nothing is trained, the weights absorb the scale at no cost.
    pub(super) fn scaled<P: Parameters>(
        p: &P,
        d_in: i64,
        d_out: i64,
        gamma: Option<&Tensor>,
    ) -> Result<Self, P::Error> {
        let Some(gamma) = gamma else { return Self::new(p, d_in, d_out) };
        let weight = p.tensor("weight", &[d_out, d_in], Kind::Float)?;
        let bias = p.tensor("bias", &[d_out], Kind::Float)?;
        if [&weight, &bias, gamma].iter().any(|tensor| tensor.requires_grad()) {
            return Ok(Self { weight, bias: Some(bias), gamma: Some(gamma.shallow_clone()) });
        }
        let (weight, bias) = (weight * gamma.unsqueeze(1), bias * gamma);
        Ok(Self { weight: weight.to_kind(p.kind()), bias: Some(bias.to_kind(p.kind())), gamma: None })
    }

    /// The fastest form of the layer for inference with plain inputs and outputs: in oneDNN's layout if that pays
    /// although inputs and outputs are converted, else unchanged.
    pub(super) fn fastest(self, device: Device) -> Self {
        match opaque_is_faster(self.weight.kind(), device) && !self.is_trained() {
            true => self.opaque(),
            false => self,
        }
    }

    /// Converts `xs` to the layout of this layer, so that several layers over the same input convert it only once.
    pub(super) fn prepare(&self, xs: &Tensor) -> Tensor {
        match self.weight.is_mkldnn() && !xs.is_mkldnn() {
            true => xs.to_mkldnn(),
            false => xs.shallow_clone(),
        }
    }

    /// # Shapes
    /// - xs: `(.., in)`, plain or from [`Self::prepare`]
    /// - returns: `(.., out)`, plain
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        dense(&self.forward_raw(xs))
    }

    /// As [`Self::forward`], in f32 even if products are computed in 16 bits: for layers whose rounding would be the score's.
    pub(super) fn forward_in_f32(&self, xs: &Tensor) -> Tensor {
        with_products_of(Kind::Float, xs.device(), || self.forward(&xs.to_kind(Kind::Float)))
    }

    /// As [`Self::forward`], but the result is opaque if the weight is.
    fn forward_raw(&self, xs: &Tensor) -> Tensor {
        if self.weight.is_mkldnn() {
            return self.prepare(xs).mkldnn_linear(&self.weight, self.bias.as_ref());
        }
        // Weights are copied only if their kind differs from the products': f32 weights in training, or bf16 weights if
        // f32 products are faster.
        let kind = xs.kind();
        let ys = xs.linear(&self.weight.to_kind(kind), self.bias.as_ref().map(|bias| bias.to_kind(kind)));
        match &self.gamma {
            Some(gamma) => ys * gamma.to_kind(kind),
            None => ys,
        }
    }

    /// Whether training may change the layer.
    pub(super) fn is_trained(&self) -> bool {
        self.weight.requires_grad() || self.bias.as_ref().is_some_and(Tensor::requires_grad) || self.gamma.is_some()
    }

    /// The same layer in oneDNN's opaque tensors.
    fn opaque(&self) -> Self {
        Self { weight: self.weight.to_mkldnn(), bias: self.bias.as_ref().map(Tensor::to_mkldnn), gamma: None }
    }

    pub(super) fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            gamma: self.gamma.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Whether oneDNN's opaque tensors can hold `kind` on `device`.
pub(super) fn opaque_is_possible(kind: Kind, device: Device) -> bool {
    (kind, device) == (Kind::Float, Device::Cpu) && tch::utils::has_mkldnn()
}

/// Whether products of `kind` on `device` are fastest in oneDNN's opaque tensors. They are for f32 on CPUs other than
/// Intel's: plain tensors go through MKL, which is slower there. On Intel's CPUs the rates are equal, and conversion
/// costs time.
pub(super) fn opaque_is_faster(kind: Kind, device: Device) -> bool {
    opaque_is_possible(kind, device) && !Processor::of_this_machine().mkl_is_fast
}

/// The kind of products with weights of kind `weights`. It is `weights`, with one exception: f32 for bf16 weights if
/// the CPU multiplies f32 faster. Weights stay bf16 in memory; `Linear::forward` widens them one at a time.
pub fn products_of(weights: Kind, device: Device) -> Kind {
    Processor::of_this_machine().products_of(weights, device)
}

/// `xs / √(mean(xs²) + ε) ⊙ w` per token, in f32.
#[derive(Debug)]
pub(super) struct RmsNorm {
    weight: Tensor, // (d,), f32
    eps: f64,
}

impl RmsNorm {
    pub(super) fn new<P: Parameters>(p: &P, d: i64, eps: f64) -> Result<Self, P::Error> {
        Ok(Self { weight: p.tensor("weight", &[d], Kind::Float)?, eps })
    }

    /// # Shapes
    /// - xs: `(.., d)`, f32
    /// - returns: `(.., d)`, f32
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        if xs.device() != Device::Cpu {
            // One kernel instead of five, each of which would read and write all rows.
            return xs.rms_norm(self.weight.size(), Some(&self.weight), self.eps);
        }
        let mean_square = xs.square().mean_dim([-1_i64].as_slice(), true, Kind::Float);
        (xs * (mean_square + self.eps).rsqrt()).g_mul_(&self.weight)
    }
}

/// Normalises each token in f32.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor, // (d,), f32
    bias: Tensor,   // (d,), f32
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new<P: Parameters>(p: &P, d: i64, eps: f64) -> Result<Self, P::Error> {
        Ok(Self { weight: p.tensor("weight", &[d], Kind::Float)?, bias: p.tensor("bias", &[d], Kind::Float)?, eps })
    }

    /// # Shapes
    /// - xs: `(.., d)`, f32
    /// - returns: `(.., d)`, f32
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        xs.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }

    pub(super) fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), eps: self.eps }
    }
}

/// The activation between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, computed by the error function.
    Gelu,
    /// The same, approximated by a hyperbolic tangent.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`, as in CLIP.
    QuickGelu,
}

impl Activation {
    /// # Shapes
    /// - xs: any shape, plain or opaque; may be overwritten
    /// - returns: the shape and layout of `xs`
    pub(super) fn apply(self, mut xs: Tensor) -> Tensor {
        // Working in place saves memory traffic. Under autograd a new tensor costs no more, because autograd would keep
        // a copy. oneDNN lacks operations in place.
        let is_new = xs.requires_grad() || xs.is_mkldnn();
        match self {
            Self::Gelu if is_new => xs.gelu("none"),
            Self::Gelu => xs.gelu_("none"),
            // oneDNN's opaque tensors have the exact form only.
            Self::GeluTanh if xs.is_mkldnn() => xs.to_dense(None::<Kind>, false).gelu_("tanh").to_mkldnn(),
            Self::GeluTanh if is_new => xs.gelu("tanh"),
            Self::GeluTanh => xs.gelu_("tanh"),
            Self::QuickGelu if is_new => (&xs * 1.702).sigmoid() * &xs,
            Self::QuickGelu => (&xs * 1.702).sigmoid_().g_mul_(&xs),
        }
    }
}

/// Two layers with an activation between them.
#[derive(Debug)]
pub(super) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    /// Layers of widths `d`, `hidden` and `d`. `gamma` scales the output's channels.
    pub(super) fn new<P: Parameters>(
        p: &P,
        d: i64,
        hidden: i64,
        activation: Activation,
        gamma: Option<&Tensor>,
    ) -> Result<Self, P::Error> {
        let fc1 = Linear::new(&p.below("fc1"), d, hidden)?;
        let fc2 = Linear::scaled(&p.below("fc2"), hidden, d, gamma)?;
        let is_trained = fc1.is_trained() || fc2.is_trained();
        let mlp = Self { fc1, fc2, activation };
        Ok(if opaque_is_faster(p.kind(), p.device()) && !is_trained { mlp.opaque() } else { mlp })
    }

    /// The same layers in oneDNN's opaque tensors. Values stay opaque through both layers, because conversions in
    /// between would cost the gain. Plain tensors are needed for gradients, fastest for bf16, and available on every
    /// device.
    fn opaque(&self) -> Self {
        Self { fc1: self.fc1.opaque(), fc2: self.fc2.opaque(), activation: self.activation }
    }

    /// The hidden layer after its activation. [`dense`] makes it readable.
    ///
    /// # Shapes
    /// - xs: `(.., d)`, compute kind
    /// - returns: `(.., m)`, compute kind
    pub(super) fn hidden(&self, xs: &Tensor) -> Tensor {
        // Opaque tensors carry no gradient. They are used only if nothing is trained.
        self.activation.apply(self.fc1.forward_raw(xs))
    }

    /// The output layer.
    ///
    /// # Shapes
    /// - hidden: `(.., m)`, from [`Self::hidden`]
    /// - returns: `(.., d)`, compute kind
    pub(super) fn project(&self, hidden: &Tensor) -> Tensor {
        self.fc2.forward(hidden)
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
        Self { fc1: self.fc1.share(), fc2: self.fc2.share(), activation: self.activation }
    }
}

/// `xs` as a plain tensor. It is converted if it is one of oneDNN's opaque tensors.
pub(super) fn dense(xs: &Tensor) -> Tensor {
    if xs.is_mkldnn() { xs.to_dense(None::<Kind>, false) } else { xs.shallow_clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On every processor, both ways follow the same formula.
    #[test]
    fn opaque_layers_equal_plain_ones() {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.3;
        let linear = |d_in, d_out| Linear { weight: random(&[d_out, d_in]), bias: Some(random(&[d_out])), gamma: None };
        let agree = |a: &Tensor, b: &Tensor| {
            assert!(!a.is_mkldnn() && !b.is_mkldnn());
            let error = (a - b).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{error:e}");
        };
        let xs = random(&[2, 5, 12]);
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
            let mlp = Mlp { fc1: linear(12, 31), fc2: linear(31, 12), activation };
            agree(&mlp.forward(&xs), &mlp.opaque().forward(&xs));
        }
        let plain = Linear { bias: None, ..linear(12, 7) };
        let opaque = plain.opaque();
        agree(&plain.forward(&xs), &opaque.forward(&xs));
        agree(&plain.forward(&xs), &opaque.forward(&opaque.prepare(&xs)));
    }

    #[test]
    fn bf16_weights_multiply_f32_inputs_as_their_widened_values() {
        let weight = (Tensor::randn([7, 12], (Kind::Float, Device::Cpu))).to_kind(Kind::BFloat16);
        let xs = Tensor::randn([3, 12], (Kind::Float, Device::Cpu));
        let layer = Linear { weight: weight.shallow_clone(), bias: None, gamma: None };
        assert!(layer.forward(&xs) == xs.matmul(&weight.to_kind(Kind::Float).transpose(0, 1)));
    }
}
