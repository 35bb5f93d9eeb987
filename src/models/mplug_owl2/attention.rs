//! Attention over heads, by the way that is fastest where it runs; all ways are the same formula.

use tch::{Device, Kind, Tensor};

/// Scores of a head beyond which the heads are computed one after the other on a CPU, so that a head's scores stay in
/// its cache: 2 MB in bf16.
const MANY_SCORES: i64 = 1 << 18;

/// `softmax(q kᵀ / √d_head + mask) v` per head.
///
/// # Shapes
/// - q: `(b, h, n, d/h)`; k, v: `(b, h, m, d/h)`, all of one kind
/// - mask: `(n, m)`, of that kind: 0 where a query sees a key, else −∞
/// - returns: `(b, n, d)`
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let m = k.size()[2];
    let d = h * d_head;
    match (q.kind(), q.device()) {
        // The fused kernel multiplies bf16 on a CPU through MKL, which emulates it where the CPU is not Intel's.
        // Plain products go through oneDNN at several times that rate.
        (Kind::BFloat16, Device::Cpu) if n * m > MANY_SCORES && mask.is_none() => {
            attend_per_head(q, k, v).view([b, n, d])
        }
        (Kind::BFloat16, Device::Cpu) => {
            let q = q * (d_head as f64).powf(-0.5);
            let scores = q.matmul(&k.transpose(2, 3)); // (b, h, n, m)
            let scores = match mask {
                Some(mask) => scores + mask,
                None => scores,
            };
            let ys = scores.internal_softmax(-1, false).matmul(v); // (b, h, n, d/h)
            ys.transpose(1, 2).reshape([b, n, d])
        }
        // Never holds n × m.
        _ => {
            let ys = Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, false, None, false);
            ys.transpose(1, 2).reshape([b, n, d])
        }
    }
}

/// One head after the other, into buffers.
///
/// # Shapes
/// - q: `(b, h, n, d/h)`; k, v: `(b, h, m, d/h)`
/// - returns: `(b, n, h, d/h)`, contiguous
fn attend_per_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (b, h, n, d_head) = q.size4().expect("heads are (b, h, n, d/h)");
    let options = (q.kind(), q.device());
    let m = k.size()[2];
    let q = q * (d_head as f64).powf(-0.5);
    let (scores, weights) = (Tensor::empty([n, m], options), Tensor::empty([n, m], options));
    let ys = Tensor::empty([b, n, h, d_head], options);
    for i in 0..b {
        for j in 0..h {
            let of_head = |xs: &Tensor| xs.get(i).get(j);
            let _ = of_head(&q).mm_out(&scores, &of_head(k).transpose(0, 1)); // (n, m)
            let _ = scores.internal_softmax_out(&weights, -1, false); // (n, m)
            let _ = weights.mm_out(&ys.get(i).select(1, j), &of_head(v)); // (n, d/h)
        }
    }
    ys
}
