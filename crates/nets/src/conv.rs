//! Convolutions of trunks that see pictures, with their batch norms folded in.

use tch::{Kind, Tensor};

use super::layers::Parameters;

/// Added to the variance in every batch norm.
const BATCH_NORM_EPS: f64 = 1e-5;

/// Calls with the values at a point of a network, under the reference code's name of the point.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// A batch norm with fixed statistics: `xs · scale + shift` per channel.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    scale: Tensor, // (c,), f32
    shift: Tensor, // (c,), f32
}

impl BatchNorm {
    pub(crate) fn new<P: Parameters>(p: &P, channels: i64) -> Result<Self, P::Error> {
        let vector = |name| p.tensor(name, &[channels], Kind::Float);
        let scale = vector("weight")? * (vector("running_var")? + BATCH_NORM_EPS).rsqrt();
        let shift = vector("bias")? - vector("running_mean")? * &scale;
        Ok(Self { scale, shift })
    }

    /// # Shapes
    /// - xs: `(b, c, h, w)`
    /// - returns: the shape of `xs`
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.scale.view([-1, 1, 1]) + self.shift.view([-1, 1, 1])
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
}

impl Conv {
    /// A convolution with a bias.
    pub(crate) fn new<P: Parameters>(p: &P, d_in: i64, d_out: i64, kernel: Kernel) -> Result<Self, P::Error> {
        let plain = Self::without_bias(p, d_in, d_out, kernel)?;
        Ok(Self { bias: Some(p.tensor("bias", &[d_out], p.kind())?), ..plain })
    }

    pub(crate) fn without_bias<P: Parameters>(p: &P, d_in: i64, d_out: i64, kernel: Kernel) -> Result<Self, P::Error> {
        let weight = p.tensor("weight", &[d_out, d_in, kernel.side, kernel.side], p.kind())?;
        Ok(Self { weight, bias: None, stride: kernel.stride })
    }

    /// This convolution with the batch norm `p` after it, as one convolution.
    pub(crate) fn normed<P: Parameters>(self, p: &P) -> Result<Self, P::Error> {
        let norm = BatchNorm::new(p, self.weight.size()[0])?;
        let weight = self.weight.to_kind(Kind::Float) * norm.scale.view([-1, 1, 1, 1]);
        let bias = match self.bias {
            Some(bias) => bias.to_kind(Kind::Float) * norm.scale + norm.shift,
            None => norm.shift,
        };
        Ok(Self { weight: weight.to_kind(p.kind()), bias: Some(bias.to_kind(p.kind())), stride: self.stride })
    }

    /// # Shapes
    /// - xs: `(b, in, h, w)`
    /// - returns: `(b, out, ⌈h / stride⌉, ⌈w / stride⌉)`
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        let padding = self.weight.size()[2] / 2;
        xs.conv2d(&self.weight, self.bias.as_ref(), self.stride, padding, 1, 1)
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
