//! Large pictures some rows at a time, because the activations of a whole one would take gigabytes.

use tch::Tensor;

/// Number of pixels from which on trunks compute their first layers in strips.
const MAX_AT_ONCE: i64 = 1 << 20;

/// Rows of a strip.
const STRIP_ROWS: i64 = 128;

/// Whether the first layers over pictures `xs`, `(b, c, h, w)`, are computed in strips.
pub(crate) fn is_large(xs: &Tensor) -> bool {
    xs.size()[2] * xs.size()[3] > MAX_AT_ONCE
}

/// `layers`, two 3 × 3 kernels and a halving, over the whole of `xs` in strips.
///
/// # Shapes
/// - xs: `(b, c, h, w)`
/// - returns: as `layers(xs)`
pub(crate) fn halved_in_strips(xs: &Tensor, layers: impl Fn(&Tensor) -> Tensor) -> Tensor {
    in_strips(xs, [STRIP_ROWS, 2, 2], layers)
}

/// `layers` over the whole of `xs`, `n_rows` rows at a time. A row of the result depends on its own rows of `xs` and on
/// `margin` more on both sides, and `scale` rows of `xs` become one. `n_rows` and `margin` are multiples of `scale`.
///
/// # Shapes
/// - xs: `(b, c, h, w)`
/// - returns: as `layers(xs)`
fn in_strips(xs: &Tensor, [n_rows, margin, scale]: [i64; 3], layers: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let height = xs.size()[2];
    let strip = |top: i64| {
        let bottom = (top + n_rows).min(height);
        let (first, last) = ((top - margin).max(0), (bottom + margin).min(height));
        let ys = layers(&xs.narrow(2, first, last - first));
        let n_skipped = (top - first) / scale;
        // At the end, what the layers make of an odd row.
        let n_left = ys.size()[2] - n_skipped;
        ys.narrow(2, n_skipped, if bottom < height { n_rows / scale } else { n_left })
    };
    Tensor::cat(&(0..height).step_by(n_rows as usize).map(strip).collect::<Vec<_>>(), 2)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::conv::halve;

    #[test]
    fn strips_of_a_picture_equal_the_whole() {
        let options = (Kind::Float, Device::Cpu);
        let (first, second) = (Tensor::randn([5, 3, 3, 3], options), Tensor::randn([4, 5, 3, 3], options));
        let conv =
            |xs: &Tensor, weight: &Tensor, stride: i64| xs.conv2d(weight, None::<Tensor>, stride, 1, 1, 1).relu_();
        let pooled = |xs: &Tensor| halve(&conv(&conv(xs, &first, 1), &second, 1));
        let strided = |xs: &Tensor| conv(&conv(xs, &first, 1), &second, 2);
        for (height, width) in [(26, 17), (25, 18), (9, 30), (4, 4), (5, 3)] {
            let xs = Tensor::randn([1, 3, height, width], options);
            for layers in [&pooled as &dyn Fn(&Tensor) -> Tensor, &strided] {
                let whole = layers(&xs);
                for n_rows in [2, 4, 8, 100] {
                    let strips = in_strips(&xs, [n_rows, 2, 2], layers);
                    assert_eq!(strips.size(), whole.size());
                    let difference = (&strips - &whole).abs().max().double_value(&[]);
                    assert!(difference < 1e-4, "{height} × {width}, {n_rows} rows: {difference}");
                }
            }
        }
    }
}
