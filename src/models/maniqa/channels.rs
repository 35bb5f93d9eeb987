//! Attention between channels: MANIQA's "transposed attention block" (`TABlock` of MA-AGIQA's `MANIQA.py`, commit 11c0cda).

use tch::{Kind, Tensor};

use super::{Mode, dropout};
use crate::models::attention::attend;
use crate::models::layers::{Linear, NetworkError, Scope, dense, opaque_is_faster};

/// Probability with which training drops a value of the product.
const DROPOUT: f64 = 0.1;

/// Attention whose sequence is the channels, each described by its values at the `n` tokens; one head.
///
/// ```text
/// P = softmax(q kᵀ / √n) v                              (c, n), with q, k, v linear in the rows of xs
/// ys = xs + reshape(Pᵀ, (c, n))                         element (i, j) is Pᵀ at flat position i n + j
/// ```
///
/// The reshape takes the place of a transposition back; it is what the published weights were trained with.
#[derive(Debug)]
pub(super) enum ChannelAttention {
    /// As the formula says: what a gradient needs, what bf16 is fastest with, and what every device has.
    Plain { q: Linear, k: Linear, v: Linear },
    /// In oneDNN's opaque tensors, with what does not depend on the input worked out beforehand.
    Opaque(Opaque),
}

/// `q kᵀ = (xs W_qᵀ + b_q)(xs W_kᵀ + b_k)ᵀ`; what a row has in common is nothing to a softmax, which leaves
/// `(xs W_qᵀ W_k + b_q W_k) xsᵀ`: one product with a matrix of weights instead of two. The rows of the softmax sum to 1,
/// so the bias of `v` can be added at the end.
#[derive(Debug)]
pub(super) struct Opaque {
    /// `W_kᵀ W_q / √n`, `(n, n)`, opaque.
    logit_weight: Tensor,
    /// `b_q W_k / √n`, `(n,)`, opaque.
    logit_bias: Tensor,
    /// `W_v`, `(n, n)`, opaque.
    value_weight: Tensor,
    /// `b_v`, `(n, 1)`.
    value_bias: Tensor,
}

impl ChannelAttention {
    pub(super) fn new(p: &Scope, n: i64) -> Result<Self, NetworkError> {
        let part = |name: &str| Linear::new(&p.sub(name), n, n);
        let (q, k, v) = (part("c_q")?, part("c_k")?, part("c_v")?);
        let is_trained = [&q, &k, &v].iter().any(|part| part.is_trained());
        if !opaque_is_faster(p.kind, p.device) || is_trained {
            return Ok(Self::Plain { q, k, v });
        }
        // In f64: a rounding here would be one of every image.
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let scale = (n as f64).powf(-0.5);
        let key = double(&k.weight) * scale; // (n, n)
        let ready = |tensor: Tensor| tensor.to_kind(Kind::Float).contiguous().to_mkldnn();
        Ok(Self::Opaque(Opaque {
            logit_weight: ready(key.tr().matmul(&double(&q.weight))),
            logit_bias: ready(double(&q.bias).unsqueeze(0).matmul(&key).squeeze_dim(0)),
            value_weight: v.weight.contiguous().to_mkldnn(),
            value_bias: v.bias.unsqueeze(1),
        }))
    }

    /// # Shapes
    /// - xs: `(b, c, n)`, f32, contiguous
    /// - returns: `(b, c, n)`, f32
    pub(super) fn forward(&self, xs: &Tensor, kind: Kind, mode: Mode) -> Tensor {
        let (b, c, n) = xs.size3().expect("channels are (b, c, n)");
        let product = match self {
            Self::Plain { q, k, v } => {
                let input = xs.to_kind(kind);
                let (q, k, v) = (q.forward(&input), k.forward(&input), v.forward(&input)); // (b, c, n)
                let product = if q.requires_grad() {
                    // Forward and backward together take a tenth less than the fused kernel's, whose heads are narrow ones;
                    // the logits that are kept for it are 9 MB per image at 1536 channels.
                    let logits = (q * (n as f64).powf(-0.5)).matmul(&k.transpose(1, 2)); // (b, c, c)
                    logits.softmax(-1, None::<Kind>).matmul(&v) // (b, c, n)
                } else {
                    let one_head = |xs: &Tensor| xs.unsqueeze(1); // (b, 1, c, n)
                    attend(&one_head(&q), &one_head(&k), &one_head(&v)) // (b, c, n)
                };
                product.transpose(1, 2).reshape([b, c, n]).to_kind(Kind::Float)
            }
            Self::Opaque(opaque) => {
                let images: Vec<Tensor> = (0..b).map(|i| opaque.product(&xs.get(i))).collect(); // (n, c) each
                Tensor::stack(&images, 0).view([b, c, n])
            }
        };
        xs + dropout(product, DROPOUT, mode)
    }
}

impl Opaque {
    /// `Pᵀ` of one image. All products are `a bᵀ`, oneDNN's inner product, so that nothing is transposed.
    ///
    /// # Shapes
    /// - xs: `(c, n)`, f32
    /// - returns: `(n, c)`, f32
    fn product(&self, xs: &Tensor) -> Tensor {
        let none = None::<&Tensor>;
        let xs = xs.contiguous().to_mkldnn();
        let logits = xs.mkldnn_linear(&self.logit_weight, Some(&self.logit_bias)).mkldnn_linear(&xs, none); // (c, c)
        let weights = logits.internal_softmax(-1, false); // (c, c)
        let values = self.value_weight.mkldnn_linear(&xs, none); // (n, c): W_v xsᵀ
        dense(&values.mkldnn_linear(&weights, none)) + &self.value_bias
    }
}
