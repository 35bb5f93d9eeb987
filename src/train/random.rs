//! The random draws of a run: initialisation, the order of images, dropout. Each draw has its own generator, seeded by
//! the run's seed, the purpose and the position. No generator state must therefore be saved, and runs in one process
//! share no generator. (libtorch has one generator for all threads.)

use rand_mt::Mt64;
use tch::Tensor;

use agiqa_nets::fusion::FusionConfig;

/// The purpose of a draw; part of its generator's key.
#[derive(Clone, Copy)]
enum Purpose {
    Initialisation = 1,
    Order = 2,
    Dropout = 3,
    Motion = 4,
    Torch = 5,
    Crop = 6,
    Depth = 7,
}

/// The draws of one run.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    seed: u32,
}

impl Draws {
    /// The draws of the run with this seed.
    pub fn new(seed: u32) -> Self {
        Self { seed }
    }

    /// The run's seed.
    pub fn seed(self) -> u32 {
        self.seed
    }

    fn generator(self, purpose: Purpose, position: u64, index: u64) -> Mt64 {
        Mt64::new_with_key([u64::from(self.seed), purpose as u64, position, index])
    }

    /// Initial parameters of a head, as in PyTorch's `nn.Linear`: weights and biases are uniform in ±1/√(fan-in). The
    /// output's bias is `output_bias` if given.
    pub fn head(self, config: FusionConfig, output_bias: Option<f32>) -> [Tensor; 10] {
        let mut parameters: Vec<Tensor> = Vec::with_capacity(10);
        for (index, (shape, fan_in)) in config.shapes().into_iter().zip(config.fan_ins()).enumerate() {
            let bound = 1.0 / (fan_in as f64).sqrt();
            let mut generator = self.generator(Purpose::Initialisation, 0, index as u64);
            let n: i64 = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| ((2.0 * unit(&mut generator) - 1.0) * bound) as f32).collect();
            parameters.push(Tensor::from_slice(&values).view(shape.as_slice()));
        }
        if let Some(bias) = output_bias {
            parameters[9] = Tensor::from_slice(&[bias]);
        }
        parameters.try_into().expect("ten shapes, ten tensors")
    }

    /// The order in which epoch `epoch` visits `n` images.
    pub fn order(self, epoch: u64, n: usize) -> Vec<i64> {
        let mut order: Vec<i64> = (0..n as i64).collect();
        let mut generator = self.generator(Purpose::Order, epoch, 0);
        for i in (1..n).rev() {
            // The bias of a 64-bit remainder is below 2⁻⁴⁰ for any table that fits in memory.
            let j = (generator.next_u64() % (i as u64 + 1)) as usize;
            order.swap(i, j);
        }
        order
    }

    /// The generator of the random changes of training image `index` in epoch `epoch`.
    pub(super) fn of_motion(self, epoch: u64, index: u64) -> Mt64 {
        self.generator(Purpose::Motion, epoch, index)
    }

    /// Top, left and side of the square that step `step` cuts out of images of `side` pixels. Its side is at least the
    /// share `least` of theirs.
    pub fn crop(self, step: u64, side: i64, least: f64) -> [i64; 3] {
        let mut generator = self.generator(Purpose::Crop, step, 0);
        let share = least + (1.0 - least) * unit(&mut generator);
        let cut = ((side as f64 * share).round() as i64).clamp(1, side);
        let mut offset = || (unit(&mut generator) * (side - cut + 1) as f64) as i64;
        [offset(), offset(), cut]
    }

    /// Multipliers of half `half` (0 or 1) of block `block` for the `n` images of step `step`: 0 with probability `p`, else
    /// 1 / (1 - p).
    pub fn depth(self, step: u64, block: usize, half: usize, p: f64, n: usize) -> Vec<f32> {
        let mut generator = self.generator(Purpose::Depth, step, (2 * block + half) as u64);
        (0..n).map(|_| if unit(&mut generator) < p { 0.0 } else { (1.0 / (1.0 - p)) as f32 }).collect()
    }

    /// A seed for libtorch's generator in step `step`.
    pub fn torch_seed(self, step: u64) -> u64 {
        self.generator(Purpose::Torch, step, 0).next_u64()
    }

    /// Dropout multipliers for mask number `index` of step `step`: 0 with probability `p`, else 1 / (1 - p).
    /// Probabilities are accurate to 2⁻¹⁶.
    pub fn mask(self, step: u64, index: u64, p: f64, shape: [i64; 2]) -> Tensor {
        let mut generator = self.generator(Purpose::Dropout, step, index);
        let n = (shape[0] * shape[1]) as usize;
        let threshold = (p * 65536.0).round() as u64;
        let kept = (1.0 / (1.0 - p)) as f32;
        let mut values = Vec::with_capacity(n + 3);
        while values.len() < n {
            let bits = generator.next_u64();
            for shift in [0, 16, 32, 48] {
                values.push(if (bits >> shift) & 0xffff < threshold { 0.0 } else { kept });
            }
        }
        Tensor::from_slice(&values[..n]).view(shape)
    }
}

/// Uniform in [0, 1), with 53 bits.
pub(super) fn unit(generator: &mut Mt64) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_draws_anew_for_each_step_and_mask() {
        let draws = Draws::new(3);
        let mask = draws.mask(0, 0, 0.3, [200, 100]);
        let mean = mask.mean(tch::Kind::Double).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.03, "mean {mean}");
        assert_eq!(mask, draws.mask(0, 0, 0.3, [200, 100]));
        assert_ne!(mask, draws.mask(1, 0, 0.3, [200, 100]));
        assert_ne!(mask, draws.mask(0, 1, 0.3, [200, 100]));
    }

    #[test]
    fn an_order_visits_every_image_once() {
        let mut order = Draws::new(1).order(4, 101);
        assert_ne!(order, (0..101).collect::<Vec<i64>>());
        order.sort_unstable();
        assert_eq!(order, (0..101).collect::<Vec<i64>>());
    }
}
