//! The convolutions of VGG (Simonyan and Zisserman 2014, arXiv 1409.1556) under torchvision's names, up to the last
//! activation that a network reads.

use tch::Tensor;

use super::checkpoint::CheckpointError;
use super::conv::{Conv, Kernel, Watch, halve};
use super::layers::Parameters;
use super::raters::Stored;
use super::strips::{halved_in_strips, is_large};

/// Convolutions of each stage of VGG-16. Between the stages, pools halve the picture.
pub(crate) const VGG16: &[usize] = &[2, 2, 3, 3, 3];

/// Convolutions of each stage of VGG-19 up to `relu4_1`.
pub(crate) const VGG19_TO_RELU4_1: &[usize] = &[2, 2, 4, 1];

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
        // The first stage has the largest activations: two 3 × 3 kernels, and the pool after them.
        let is_large = is_large(xs) && self.stages.len() > 1;
        let first_pooled =
            |xs: &Tensor| halve(&self.stages[0].iter().fold(xs.shallow_clone(), |ys, conv| conv.forward(&ys).relu_()));
        let mut xs = match is_large {
            true => halved_in_strips(xs, first_pooled),
            false => xs.shallow_clone(),
        };
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
}
