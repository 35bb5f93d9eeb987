//! Attention, shared by all networks of this crate.

use tch::{Device, Kind, Tensor};

/// `softmax(q kᵀ / √d_head + mask) v` per head, heads side by side.
///
/// # Shapes
/// - q: `(b, h, n, d/h)`; k, v: `(b, h, m, d/h)`, all of one kind
/// - mask: `(n, m)`, of that kind: 0 if a query sees a key, else −∞
/// - returns: `(b, n, d)`, in that kind
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let side_by_side = |ys: Tensor| ys.transpose(1, 2).reshape([b, n, h * d_head]);
    match attention_of(q.kind(), q.device(), q.requires_grad()) {
        // Never holds n × m values, and is 2 to 4 times as fast as whole products with a softmax between them.
        AttentionPath::Fused => {
            side_by_side(Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, false, None, false))
        }
        AttentionPath::Products => match mask {
            Some(mask) => side_by_side(attend_at_once(q, k, v, mask)),
            None => attend_per_head(q, k, v).view([b, n, h * d_head]),
        },
    }
}

/// The way of computing attention. Both ways follow the same formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttentionPath {
    /// libtorch's fused kernel.
    Fused,
    /// Plain products with a softmax between them.
    Products,
}

/// On CPUs, libtorch's fused kernel multiplies bf16 through MKL. On CPUs other than Intel's, MKL emulates bf16, which
/// is no faster than f32. The plain product goes through oneDNN at more than twice that rate.
fn attention_of(kind: Kind, device: Device, requires_grad: bool) -> AttentionPath {
    match (kind, device) {
        (Kind::BFloat16, Device::Cpu) if !requires_grad => AttentionPath::Products,
        _ => AttentionPath::Fused,
    }
}

/// All heads at once, for the short sequences of a language model, whose scores fit into the cache together.
///
/// # Shapes
/// - q: `(b, h, n, d/h)`; k, v: `(b, h, m, d/h)`; mask: `(n, m)`
/// - returns: `(b, h, n, d/h)`
fn attend_at_once(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> Tensor {
    let q = q * (q.size()[3] as f64).powf(-0.5);
    let scores = q.matmul(&k.transpose(2, 3)) + mask; // (b, h, n, m)
    scores.internal_softmax(-1, false).matmul(v)
}

/// One head after the other, so that the n × m scores of one head stay in the cache: 1.2 MB each at 785 tokens in bf16.
/// All heads at once take twice as long. This function writes into buffers, so it has no gradient.
///
/// # Shapes
/// - q: `(b, h, n, d/h)`; k, v: `(b, h, m, d/h)`
/// - returns: `(b, n, h, d/h)`, contiguous
fn attend_per_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let (m, options) = (k.size()[2], (q.kind(), q.device()));
    let q = q * (d_head as f64).powf(-0.5);
    let (scores, weights) = (Tensor::empty([n, m], options), Tensor::empty([n, m], options));
    let ys = Tensor::empty([b, n, h, d_head], options);
    for i in 0..b {
        for j in 0..h {
            let head = |xs: &Tensor| xs.get(i).get(j); // (n, d/h) or (m, d/h)
            let _ = head(&q).mm_out(&scores, &head(k).transpose(0, 1)); // (n, m)
            let _ = scores.internal_softmax_out(&weights, -1, false); // (n, m)
            let _ = weights.mm_out(&ys.get(i).select(1, j), &head(v)); // (n, d/h)
        }
    }
    ys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_follow_the_same_formula_with_and_without_a_mask() {
        let random = |n: i64| Tensor::randn([2, 3, n, 8], (Kind::Float, Device::Cpu));
        let (q, k, v) = (random(5), random(9), random(9));
        let mask = Tensor::full([5, 9], f64::NEG_INFINITY, (Kind::Float, Device::Cpu)).triu(5);
        let agree = |a: &Tensor, b: &Tensor| assert!((a - b).abs().max().double_value(&[]) < 1e-5);
        let masked = attend(&q, &k, &v, Some(&mask)); // (2, 5, 24)
        agree(&masked, &attend_at_once(&q, &k, &v, &mask).transpose(1, 2).reshape([2, 5, 24]));
        // The first query sees only the first five keys.
        let first = attend(&q.narrow(2, 0, 1), &k.narrow(2, 0, 5), &v.narrow(2, 0, 5), None);
        agree(&masked.narrow(1, 0, 1), &first);
        agree(&attend(&q, &k, &v, None), &attend_per_head(&q, &k, &v).view([2, 5, 24]));
    }
}
