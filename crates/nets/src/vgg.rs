//! The convolutions of VGG (Simonyan and Zisserman 2014, arXiv 1409.1556) under torchvision's names, up to the last
//! activation that a network reads.

use tch::Tensor;

use super::checkpoint::CheckpointError;
use super::conv::{Conv, Kernel, Watch, halve};
use super::layers::Parameters;
use super::raters::Stored;

/// Convolutions of each stage of VGG-16. Between the stages, pools halve the picture.
pub(crate) const VGG16: &[usize] = &[2, 2, 3, 3, 3];

/// Convolutions of each stage of VGG-19 up to `relu4_1`.
pub(crate) const VGG19_TO_RELU4_1: &[usize] = &[2, 2, 4, 1];

/// Number of pixels from which on the first stage, which has the largest activations, is computed in strips.
const MAX_AT_ONCE: i64 = 1 << 20;

/// Rows of a strip, an even number.
const STRIP_ROWS: i64 = 128;

/// Channels of each stage of a trunk whose names begin with `prefix`.
pub(crate) fn channels(stored: &Stored, prefix: &str, stages: &[usize]) -> Result<Vec<i64>, CheckpointError> {
    let mut index = 0;
    let mut channels = Vec::with_capacity(stages.len());
    for n_convs in stages {
        let [width, ..] = stored.shape::<4>(&format!("{prefix}{index}.weight"))?;
        channels.push(width);
        index += 2 * n_convs + 1;
    }
    Ok(channels)
}

/// Stages of convolutions, each with an activation.
#[derive(Debug)]
pub(crate) struct Vgg {
    stages: Vec<Vec<Conv>>,
}

impl Vgg {
    /// The trunk of `stages` with `channels` per stage.
    pub(crate) fn new<P: Parameters>(p: &P, stages: &[usize], channels: &[i64]) -> Result<Self, P::Error> {
        let (mut index, mut d_in) = (0, 3);
        let mut built = Vec::with_capacity(stages.len());
        for (n_convs, d_out) in stages.iter().zip(channels) {
            let mut convs = Vec::with_capacity(*n_convs);
            for _ in 0..*n_convs {
                convs.push(Conv::new(&p.below(index), d_in, *d_out, Kernel::THREE)?);
                d_in = *d_out;
                // A convolution and its activation.
                index += 2;
            }
            built.push(convs);
            index += 1;
        }
        Ok(Self { stages: built })
    }

    /// # Shapes
    /// - xs: `(b, 3, h, w)`
    /// - returns: `(b, channels, ⌊h / 2ⁿ⁻¹⌋, ⌊w / 2ⁿ⁻¹⌋)` after n stages
    pub(crate) fn forward(&self, xs: &Tensor, watch: Watch<'_>) -> Tensor {
        let n_pixels = xs.size()[2] * xs.size()[3];
        let is_large = n_pixels > MAX_AT_ONCE && self.stages.len() > 1;
        let mut xs = if is_large { self.pooled_in_strips(xs, STRIP_ROWS) } else { xs.shallow_clone() };
        for (stage, convs) in self.stages.iter().enumerate().skip(usize::from(is_large)) {
            if stage > usize::from(is_large) {
                xs = halve(&xs);
                watch(&format!("pool{stage}"), &xs);
            }
            for (i, conv) in convs.iter().enumerate() {
                xs = conv.forward(&xs).relu_();
                watch(&format!("relu{}_{}", stage + 1, i + 1), &xs);
            }
        }
        xs
    }

    /// The first stage and the pool after it, `n_rows` rows of the picture at a time, an even number. The activations of a
    /// whole large picture would take gigabytes.
    ///
    /// # Shapes
    /// - xs: `(b, 3, h, w)`
    /// - returns: `(b, c, ⌊h / 2⌋, ⌊w / 2⌋)`
    fn pooled_in_strips(&self, xs: &Tensor, n_rows: i64) -> Tensor {
        let (convs, height) = (&self.stages[0], xs.size()[2]);
        // Each 3 × 3 kernel sees one row further.
        let (n_further, end) = (convs.len() as i64, height / 2 * 2);
        let strip = |top: i64| {
            let bottom = (top + n_rows).min(end);
            let (first, last) = ((top - n_further).max(0), (bottom + n_further).min(height));
            let rows = xs.narrow(2, first, last - first);
            let ys = convs.iter().fold(rows, |ys, conv| conv.forward(&ys).relu_());
            halve(&ys.narrow(2, top - first, bottom - top))
        };
        Tensor::cat(&(0..end).step_by(n_rows as usize).map(strip).collect::<Vec<_>>(), 2)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::{NamedTensors, TensorScope};

    #[test]
    fn strips_of_a_picture_equal_the_whole() {
        let options = (Kind::Float, Device::Cpu);
        let mut weights = NamedTensors::new();
        for (index, d_in, d_out) in [(0, 3, 5), (2, 5, 5), (5, 5, 7), (7, 7, 7)] {
            weights.insert(format!("{index}.weight"), Tensor::randn([d_out, d_in, 3, 3], options));
            weights.insert(format!("{index}.bias"), Tensor::randn([d_out], options));
        }
        let vgg = Vgg::new(&TensorScope::new(&weights, Device::Cpu, Kind::Float), &[2, 2], &[5, 7]).expect("they fit");
        for (height, width) in [(26, 17), (25, 18), (9, 30), (3, 3)] {
            let xs = Tensor::randn([1, 3, height, width], options);
            let whole = vgg.stages[0].iter().fold(xs.shallow_clone(), |ys, conv| conv.forward(&ys).relu_());
            let whole = halve(&whole);
            for n_rows in [2, 4, 8, 100] {
                let strips = vgg.pooled_in_strips(&xs, n_rows);
                assert_eq!(strips.size(), whole.size());
                let difference = (&strips - &whole).abs().max().double_value(&[]);
                assert!(difference < 1e-4, "{height} × {width}, {n_rows} rows: {difference}");
            }
        }
    }
}
