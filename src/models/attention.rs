//! Attention, as every network here computes it.

use tch::{Device, Kind, Tensor};

/// `softmax(q kᵀ / √d_head) v` per head, heads side by side.
///
/// # Shapes
/// - q, k, v: `(b, h, n, d/h)`, of one kind
/// - returns: `(b, n, d)`, in that kind
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    match attention_of(q.kind(), q.device(), q.requires_grad()) {
        // Never holds n × n, and 2 to 4 times as fast as whole products with a softmax between them.
        AttentionPath::Fused => {
            let ys = Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, false, None, false);
            ys.transpose(1, 2).reshape([b, n, h * d_head])
        }
        AttentionPath::PerHead => attend_per_head(q, k, v).view([b, n, h * d_head]),
    }
}

/// How attention is computed; both ways are the same formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttentionPath {
    /// libtorch's fused kernel.
    Fused,
    /// [`attend_per_head`].
    PerHead,
}

/// On CPUs libtorch's fused kernel multiplies bf16 through MKL, which emulates it where the CPU is not Intel's: no
/// faster than f32. The plain product goes through oneDNN at more than twice that rate.
fn attention_of(kind: Kind, device: Device, requires_grad: bool) -> AttentionPath {
    match (kind, device) {
        (Kind::BFloat16, Device::Cpu) if !requires_grad => AttentionPath::PerHead,
        _ => AttentionPath::Fused,
    }
}

/// `softmax(q kᵀ / √d_head) v`, one head after the other, so that the n × n scores of one head stay in the cache:
/// 1.2 MB each at 785 tokens in bf16. All heads at once take twice as long. Writes into buffers, so has no gradient.
///
/// # Shapes
/// - q, k, v: `(b, h, n, d/h)`
/// - returns: `(b, n, h, d/h)`, contiguous
fn attend_per_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let options = (q.kind(), q.device());
    let q = q * (d_head as f64).powf(-0.5);
    let (scores, weights) = (Tensor::empty([n, n], options), Tensor::empty([n, n], options));
    let ys = Tensor::empty([b, n, h, d_head], options);
    for i in 0..b {
        for j in 0..h {
            let of_head = |xs: &Tensor| xs.get(i).get(j); // (n, d/h)
            let _ = of_head(&q).mm_out(&scores, &of_head(k).transpose(0, 1)); // (n, n)
            let _ = scores.internal_softmax_out(&weights, -1, false); // (n, n)
            let _ = weights.mm_out(&ys.get(i).select(1, j), &of_head(v)); // (n, d/h)
        }
    }
    ys
}
