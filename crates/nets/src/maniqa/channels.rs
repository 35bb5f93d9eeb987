//! Attention between channels: MANIQA's "transposed attention block" (`TABlock` of MA-AGIQA's `MANIQA.py`, commit
//! 11c0cda).

use tch::{Device, Kind, Tensor};

use super::{Mode, dropout};
use crate::attention::attend;
use crate::layers::{Linear, NetworkError, TensorScope, dense, opaque_is_faster, opaque_is_possible};

/// Probability with which training drops a value of the product.
const DROPOUT: f64 = 0.1;

/// Attention with one head over the channels. Each channel is described by its values at the `n` tokens.
///
/// ```text
/// P = softmax(q kᵀ / √n) v                              (c, n), with q, k, v linear in the rows of xs
/// ys = xs + reshape(Pᵀ, (c, n))                         element (i, j) is Pᵀ at flat position i n + j
/// ```
///
/// The reshape is not a transposition back. The published weights were trained with it.
#[derive(Debug)]
pub(super) enum ChannelAttention {
    /// Computed literally by the formula. This form is needed for gradients, and fastest for bf16 on a CPU.
    Plain { q: Linear, k: Linear, v: Linear },
    /// Products of weights are computed beforehand.
    Merged(Merged),
}

/// The way of computing the two large products of [`Merged`]. Both ways follow the same formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    /// libtorch's fused kernel, which never holds all c × c weights and multiplies with MKL. On one Intel core it
    /// reaches 136 GFLOP/s, the other way 113, and a product alone 150.
    Fused,
    /// oneDNN's opaque tensors, which are twice as fast as MKL on AMD's processors.
    Opaque,
    /// Plain products over all images at once, for GPUs. Their fused kernels are made for heads of up to 256 values;
    /// one of 784 falls back to a slow one. An image's c × c weights take 19 MB in half precision at 3072 channels.
    Whole,
}

/// `q kᵀ = (xs W_qᵀ + b_q)(xs W_kᵀ + b_k)ᵀ`. A term that is constant along a row does not change its softmax. This
/// leaves `(xs W_qᵀ W_k + b_q W_k) xsᵀ`: one product with a matrix of weights instead of two. The rows of the softmax
/// sum to 1, so the bias of `v` can be added at the end.
#[derive(Debug)]
pub(super) struct Merged {
    products: Products,
    /// `W_kᵀ W_q / √n`, `(n, n)`, possibly opaque, like the next two.
    logit_weight: Tensor,
    /// `b_q W_k / √n`, `(n,)`.
    logit_bias: Tensor,
    /// `W_v`, `(n, n)`.
    value_weight: Tensor,
    /// `b_v`, `(n, 1)`.
    value_bias: Tensor,
}

impl ChannelAttention {
    pub(super) fn new(p: &TensorScope, n: i64) -> Result<Self, NetworkError> {
        let on_gpu = p.device != Device::Cpu;
        // Weights that are merged are rounded once, afterwards.
        let read_kind = if on_gpu { Kind::Float } else { p.kind };
        let part = |name: &str| Linear::new(&p.sub(name).of_kind(read_kind), n, n);
        let (q, k, v) = (part("c_q")?, part("c_k")?, part("c_v")?);
        let is_trained = [&q, &k, &v].iter().any(|part| part.is_trained());
        if is_trained || !(on_gpu || opaque_is_possible(p.kind, p.device)) {
            return Ok(Self::Plain { q, k, v });
        }
        let products = match (on_gpu, opaque_is_faster(p.kind, p.device)) {
            (true, _) => Products::Whole,
            (false, true) => Products::Opaque,
            (false, false) => Products::Fused,
        };
        Ok(Self::merged(q, k, v, products, p.kind))
    }

    fn merged(q: Linear, k: Linear, v: Linear, products: Products, kind: Kind) -> Self {
        let n = q.weight.size()[0];
        let bias = |part: &Linear| part.bias.as_ref().expect("these layers have one").shallow_clone();
        let v_bias = bias(&v);
        // In f64, because a rounding error here would affect every image.
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let scale = (n as f64).powf(-0.5);
        let key = double(&k.weight) * scale; // (n, n)
        let ready = |tensor: Tensor| {
            let tensor = tensor.to_kind(kind).contiguous();
            if products == Products::Opaque { tensor.to_mkldnn() } else { tensor }
        };
        Self::Merged(Merged {
            products,
            logit_weight: ready(key.tr().matmul(&double(&q.weight))),
            logit_bias: ready(double(&bias(&q)).unsqueeze(0).matmul(&key).squeeze_dim(0)),
            value_weight: ready(v.weight),
            value_bias: v_bias.unsqueeze(1),
        })
    }

    /// Shares the same weights in memory.
    pub(super) fn share(&self) -> Self {
        match self {
            Self::Plain { q, k, v } => Self::Plain { q: q.share(), k: k.share(), v: v.share() },
            Self::Merged(merged) => {
                let Merged { products, logit_weight, logit_bias, value_weight, value_bias } = merged;
                Self::Merged(Merged {
                    products: *products,
                    logit_weight: logit_weight.shallow_clone(),
                    logit_bias: logit_bias.shallow_clone(),
                    value_weight: value_weight.shallow_clone(),
                    value_bias: value_bias.shallow_clone(),
                })
            }
        }
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
                    // Forward and backward together take a tenth less time than the fused kernel, which is made for
                    // narrow heads. The logits kept for the backward pass have 9 MB per image at 1536 channels.
                    let logits = (q * (n as f64).powf(-0.5)).matmul(&k.transpose(1, 2)); // (b, c, c)
                    logits.softmax(-1, None::<Kind>).matmul(&v) // (b, c, n)
                } else {
                    let one_head = |xs: &Tensor| xs.unsqueeze(1); // (b, 1, c, n)
                    attend(&one_head(&q), &one_head(&k), &one_head(&v), None) // (b, c, n)
                };
                product.transpose(1, 2).reshape([b, c, n]).to_kind(Kind::Float)
            }
            Self::Merged(merged) if merged.products == Products::Whole => {
                (merged.whole(&xs.to_kind(kind)) + &merged.value_bias).view([b, c, n])
            }
            Self::Merged(merged) => {
                // One image after the other, so that the weights stay in the cache.
                let images: Vec<Tensor> = (0..b).map(|i| merged.product(&xs.get(i))).collect(); // (n, c) each
                Tensor::stack(&images, 0).view([b, c, n])
            }
        };
        xs + dropout(product, DROPOUT, mode)
    }
}

impl Merged {
    /// `Pᵀ` of one image.
    ///
    /// # Shapes
    /// - xs: `(c, n)`, f32
    /// - returns: `(n, c)`, f32
    fn product(&self, xs: &Tensor) -> Tensor {
        let product = match self.products {
            Products::Fused => self.fused(xs),
            Products::Opaque => self.opaque(xs),
            Products::Whole => self.whole(&xs.unsqueeze(0)).squeeze_dim(0),
        };
        product + &self.value_bias
    }

    /// `Pᵀ` of all images without the bias of `v`, transposed by the last product itself.
    ///
    /// # Shapes
    /// - xs: `(b, c, n)`, compute kind
    /// - returns: `(b, n, c)`, compute kind
    fn whole(&self, xs: &Tensor) -> Tensor {
        let columns = xs.transpose(1, 2); // (b, n, c)
        let logits = xs.linear(&self.logit_weight, Some(&self.logit_bias)).matmul(&columns); // (b, c, c)
        // Half precision is summed in f32 within the kernel.
        let weights = logits.internal_softmax(-1, false); // (b, c, c)
        self.value_weight.matmul(&columns).matmul(&weights.transpose(1, 2))
    }

    fn fused(&self, xs: &Tensor) -> Tensor {
        let one_head = |xs: &Tensor| xs.unsqueeze(0).unsqueeze(0); // (1, 1, c, n)
        let queries = xs.linear(&self.logit_weight, Some(&self.logit_bias)); // (c, n)
        let values = xs.linear(&self.value_weight, None::<&Tensor>); // (c, n)
        let (q, k, v) = (one_head(&queries), one_head(xs), one_head(&values));
        // The logits are scaled already, so the kernel's scale is 1.
        let product = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, false, Some(1.0), false);
        product.squeeze_dim(0).squeeze_dim(0).tr() // (n, c)
    }

    /// All products have the form `a bᵀ`, oneDNN's inner product, so that nothing is transposed.
    fn opaque(&self, xs: &Tensor) -> Tensor {
        let none = None::<&Tensor>;
        let xs = xs.contiguous().to_mkldnn();
        let logits = xs.mkldnn_linear(&self.logit_weight, Some(&self.logit_bias)).mkldnn_linear(&xs, none); // (c, c)
        let weights = logits.internal_softmax(-1, false); // (c, c)
        let values = self.value_weight.mkldnn_linear(&xs, none); // (n, c): W_v xsᵀ
        dense(&values.mkldnn_linear(&weights, none))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// On every processor, all ways follow the same formula.
    #[test]
    fn merged_weights_agree_with_the_formula_either_way() {
        let (b, c, n) = (2, 12, 9);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.4;
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for part in ["c_q", "c_k", "c_v"] {
            tensors.insert(format!("{part}.weight"), random(&[n, n]));
            tensors.insert(format!("{part}.bias"), random(&[n]));
        }
        let xs = random(&[b, c, n]);
        let p = TensorScope::new(&tensors, Device::Cpu, Kind::Float);
        let part = |name: &str| Linear::new(&p.sub(name), n, n).expect("it is there");
        let plain = ChannelAttention::Plain { q: part("c_q"), k: part("c_k"), v: part("c_v") };
        let expected = plain.forward(&xs, Kind::Float, Mode::Evaluate);
        for products in [Products::Fused, Products::Opaque, Products::Whole] {
            let merged = ChannelAttention::merged(part("c_q"), part("c_k"), part("c_v"), products, Kind::Float);
            let error = (merged.forward(&xs, Kind::Float, Mode::Evaluate) - &expected).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{products:?}: {error:e}");
        }
    }
}
