//! Convolutions of trunks that see pictures. Batch norms are folded into them unless either is trained.

use tch::{Device, Kind, Tensor};

use super::layers::{Parameters, Phase};

/// The constants of a batch norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormRule {
    /// Added to the variance.
    pub(crate) eps: f64,
    /// Share of a batch's statistics in the stored ones after a step.
    pub(crate) momentum: f64,
}

impl NormRule {
    pub(crate) const PYTORCH: Self = Self { eps: 1e-5, momentum: 0.1 };
}

/// Calls with the values at a point of a network, under the reference code's name of the point.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// A batch norm, per channel.
#[derive(Debug)]
pub(crate) enum BatchNorm {
    /// With fixed parameters and statistics: `xs · scale + shift`.
    Fixed {
        scale: Tensor, // (c,), f32
        shift: Tensor, // (c,), f32
    },
    /// With parameters that are trained.
    Trained {
        weight: Tensor,   // (c,), f32
        bias: Tensor,     // (c,), f32
        mean: Tensor,     // (c,), f32
        variance: Tensor, // (c,), f32
        /// Whether the statistics of the batch replace the stored ones and move them.
        is_by_batch: bool,
        rule: NormRule,
    },
}

impl BatchNorm {
    pub(crate) fn new<P: Parameters>(p: &P, channels: i64) -> Result<Self, P::Error> {
        Self::by(p, channels, NormRule::PYTORCH)
    }

    fn by<P: Parameters>(p: &P, channels: i64, rule: NormRule) -> Result<Self, P::Error> {
        let vector = |name| p.tensor(name, &[channels], Kind::Float);
        let (weight, bias) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        if weight.requires_grad() || bias.requires_grad() {
            let is_by_batch = matches!(p.phase(), Phase::Learning { by_batch: true, .. });
            return Ok(Self::Trained { weight, bias, mean, variance, is_by_batch, rule });
        }
        let scale = weight * (variance + rule.eps).rsqrt();
        let shift = bias - mean * &scale;
        Ok(Self::Fixed { scale, shift })
    }

    /// # Shapes
    /// - xs: `(b, c, h, w)`
    /// - returns: the shape of `xs`
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Fixed { scale, shift } => xs * scale.view([-1, 1, 1]) + shift.view([-1, 1, 1]),
            Self::Trained { weight, bias, mean, variance, is_by_batch, rule } => xs.batch_norm(
                Some(weight),
                Some(bias),
                Some(mean),
                Some(variance),
                *is_by_batch,
                rule.momentum,
                rule.eps,
                true,
            ),
        }
    }
}

/// The square kernel of a convolution. Zeros pad the picture by half its side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) side: i64,
    pub(crate) stride: i64,
}

impl Kernel {
    pub(crate) const ONE: Self = Self { side: 1, stride: 1 };
    pub(crate) const THREE: Self = Self { side: 3, stride: 1 };

    /// The same kernel with another stride.
    pub(crate) const fn every(self, stride: i64) -> Self {
        Self { stride, ..self }
    }
}

/// A convolution.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,       // (out, in, side, side)
    bias: Option<Tensor>, // (out,)
    stride: i64,
    /// A batch norm after it that is not folded in.
    norm: Option<BatchNorm>,
}

impl Conv {
    /// A convolution with a bias.
    pub(crate) fn new<P: Parameters>(p: &P, d_in: i64, d_out: i64, kernel: Kernel) -> Result<Self, P::Error> {
        let plain = Self::without_bias(p, d_in, d_out, kernel)?;
        Ok(Self { bias: Some(p.tensor("bias", &[d_out], p.kind())?), ..plain })
    }

    pub(crate) fn without_bias<P: Parameters>(p: &P, d_in: i64, d_out: i64, kernel: Kernel) -> Result<Self, P::Error> {
        let weight = p.tensor("weight", &[d_out, d_in, kernel.side, kernel.side], p.kind())?;
        Ok(Self { weight: channels_innermost(p, weight), bias: None, stride: kernel.stride, norm: None })
    }

    /// This convolution with the batch norm `p` after it: as one convolution, unless either is trained.
    pub(crate) fn normed<P: Parameters>(self, p: &P) -> Result<Self, P::Error> {
        self.normed_by(p, NormRule::PYTORCH)
    }

    /// As [`Self::normed`], with the constants `rule`.
    pub(crate) fn normed_by<P: Parameters>(self, p: &P, rule: NormRule) -> Result<Self, P::Error> {
        let norm = BatchNorm::by(p, self.weight.size()[0], rule)?;
        let is_trained = self.weight.requires_grad() || self.bias.as_ref().is_some_and(Tensor::requires_grad);
        let (scale, shift) = match norm {
            BatchNorm::Fixed { scale, shift } if !is_trained => (scale, shift),
            norm => return Ok(Self { norm: Some(norm), ..self }),
        };
        let weight = self.weight.to_kind(Kind::Float) * scale.view([-1, 1, 1, 1]);
        let bias = match self.bias {
            Some(bias) => bias.to_kind(Kind::Float) * scale + shift,
            None => shift,
        };
        let (weight, bias) = (weight.to_kind(p.kind()), Some(bias.to_kind(p.kind())));
        Ok(Self { weight, bias, stride: self.stride, norm: None })
    }

    /// A kernel of fewer channels than the picture has filters the picture's channels in as many groups.
    ///
    /// # Shapes
    /// - xs: `(b, in, h, w)`
    /// - returns: `(b, out, ⌈h / stride⌉, ⌈w / stride⌉)`
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        self.convolved(xs, self.weight.size()[2] / 2)
    }

    /// As [`Self::forward`], with as many zeros around the picture as TensorFlow puts there: no more than the last pixel
    /// needs, and of an odd number one more after the picture than before it.
    pub(crate) fn forward_same(&self, xs: &Tensor) -> Tensor {
        let (size, side) = (xs.size(), self.weight.size()[2]);
        let zeros = |length: i64| {
            let total = ((length - 1) / self.stride * self.stride + side - length).max(0);
            (total / 2, total - total / 2)
        };
        let ((top, bottom), (left, right)) = (zeros(size[2]), zeros(size[3]));
        match [bottom, left, right].iter().all(|zeros| *zeros == top) {
            true => self.convolved(xs, top),
            false => self.convolved(&xs.constant_pad_nd([left, right, top, bottom]), 0),
        }
    }

    fn convolved(&self, xs: &Tensor, padding: i64) -> Tensor {
        let n_groups = xs.size()[1] / self.weight.size()[1];
        let ys = xs.conv2d(&self.weight, self.bias.as_ref(), self.stride, padding, 1, n_groups);
        self.norm.as_ref().map_or_else(|| ys.shallow_clone(), |norm| norm.forward(&ys))
    }
}

/// The maximum of each 2 × 2 square. An odd last row or column is lost.
pub(crate) fn halve(xs: &Tensor) -> Tensor {
    xs.max_pool2d(2, 2, 0, 1, false)
}

/// The maximum around every second pixel, over 3 × 3. Odd sizes round up.
pub(crate) fn max_around_every_second(xs: &Tensor) -> Tensor {
    xs.max_pool2d(3, 2, 1, 1, false)
}

/// The mean of each square of `side` pixels. Rows and columns that fill no square are lost.
pub(crate) fn mean_of_squares(xs: &Tensor, side: i64) -> Tensor {
    xs.avg_pool2d(side, side, 0, false, true, None)
}

/// `kernel`, `(out, in, side, side)`, with the channels of a pixel next to each other in memory if it rates pictures on a CPU. A
/// convolution by such a kernel gives a picture in this order, which oneDNN need not reorder before and after the next one:
/// up to a third faster. Trainings keep PyTorch's order, as their references do.
pub(crate) fn channels_innermost<P: Parameters>(p: &P, kernel: Tensor) -> Tensor {
    match (p.phase(), kernel.device()) {
        (Phase::Rating, Device::Cpu) => kernel.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
        _ => kernel,
    }
}
