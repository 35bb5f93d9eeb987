//! Adam and AdamW over blocks of parameters that fit a core's cache.
//!
//! A step reads and writes every parameter and both its moments. At the widths of real features, that is hundreds of
//! megabytes, and memory traffic limits the speed of training. Each parameter is therefore cut into blocks of rows. A
//! block's gradient is computed, used and dropped while it is in cache. The arithmetic is PyTorch's, up to rounding:
//!
//! ```text
//! Adam:  g += decay * p          AdamW: p *= 1 - lr * decay
//! m += (1 - β₁)(g - m)           v += (1 - β₂)(g² - v)
//! p -= lr / (1 - β₁ᵗ) * m / (√v / √(1 - β₂ᵗ) + ε)
//! ```
//!
//! A GPU takes whole parameters, all of them in a few launches: 100 million values in blocks would be 20,000 launches.

use tch::{Device, Kind, Tensor};

use super::Optimiser;
use agiqa_nets::device::{self, AdamConstants};

const BETA_1: f64 = 0.9;
const EPSILON: f64 = 1e-8;

/// Values per block. With gradient, moments and one temporary, a block takes five times this: 1 MiB, which fits a
/// core's cache.
const BLOCK_VALUES: i64 = 48 << 10;

/// Steps between two updates of the average of weights. The decay of one update equals the decay of as many single
/// steps.
const AVERAGE_EVERY: u64 = 4;

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Adam or AdamW.
    pub kind: Optimiser,
    /// Weight decay.
    pub weight_decay: f64,
    /// Decay per step of the moving average of the parameters; 0 for no average.
    pub average_decay: f64,
    /// β₂, the decay of the second moments.
    pub beta_2: f64,
}

/// The source of a parameter's gradient.
#[derive(Debug)]
pub enum Gradient<'a> {
    /// For a weight `(out, in)`: `d_outputᵀ · inputs`, with `d_output` `(b, out)` and `inputs` `(b, in)`.
    Product {
        /// Gradient with respect to the layer's output.
        d_output: &'a Tensor,
        /// The layer's input.
        inputs: &'a Tensor,
    },
    /// The gradient itself, in the parameter's shape.
    Whole(Tensor),
}

/// Rows of a parameter with their gradient and moments. All are views.
#[derive(Debug)]
struct Block {
    parameter: usize,
    start: i64,
    n_rows: i64,
    values: Tensor,
    first: Tensor,
    second: Tensor,
    average: Option<Tensor>,
    gradient: Tensor,
    temporary: Tensor,
}

/// Optimiser state of a list of parameters. The parameters are updated in place.
#[derive(Debug)]
pub struct Adam {
    rule: Rule,
    n_steps: u64,
    parameters: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    average: Vec<Tensor>,
    /// Empty if the parameters are taken whole.
    blocks: Vec<Block>,
    /// The number of the step on a GPU, which takes the parameters whole.
    whole: Option<Tensor>,
}

/// The saved state of an optimiser.
#[derive(Debug)]
pub struct AdamState {
    /// Number of steps done.
    pub n_steps: u64,
    /// First moments, one per parameter.
    pub first: Vec<Tensor>,
    /// Second moments, one per parameter.
    pub second: Vec<Tensor>,
    /// Averages of the parameters; empty without averaging.
    pub average: Vec<Tensor>,
}

impl Adam {
    /// An optimiser of `parameters` (f32, contiguous, without gradient) that has not stepped yet.
    ///
    /// With an average, the optimiser also keeps a moving average of the parameters.
    pub fn new(rule: Rule, parameters: &[&Tensor]) -> Self {
        let zeros = || parameters.iter().map(|parameter| parameter.zeros_like()).collect();
        let average = if rule.average_decay > 0.0 {
            parameters.iter().map(|parameter| parameter.copy()).collect()
        } else {
            Vec::new()
        };
        let state = AdamState { n_steps: 0, first: zeros(), second: zeros(), average };
        Self::resume(rule, parameters, state)
    }

    /// An optimiser that continues from `state`.
    pub fn resume(rule: Rule, parameters: &[&Tensor], state: AdamState) -> Self {
        let is_whole = parameters.first().is_some_and(|parameter| parameter.device().is_cuda());
        Self::resume_as(rule, parameters, state, is_whole)
    }

    fn resume_as(rule: Rule, parameters: &[&Tensor], state: AdamState, is_whole: bool) -> Self {
        let AdamState { n_steps, first, second, average } = state;
        let parameters: Vec<Tensor> = parameters.iter().map(|parameter| parameter.shallow_clone()).collect();
        let mut cuts = Vec::new();
        for (index, parameter) in parameters.iter().enumerate() {
            let size = parameter.size();
            let n_rows = size[0];
            if n_rows == 0 || is_whole {
                // A parameter without rows belongs to an input that the head does not read. It needs no training.
                continue;
            }
            let row_values: i64 = size[1..].iter().product::<i64>().max(1);
            let n_block = (BLOCK_VALUES / row_values).clamp(1, n_rows);
            let mut start = 0;
            while start < n_rows {
                cuts.push((index, start, n_block.min(n_rows - start), n_block * row_values));
                start += n_block;
            }
        }
        let n_largest = cuts.iter().map(|(_, _, _, n)| *n).max().unwrap_or(0);
        let device = parameters.first().map_or(Device::Cpu, Tensor::device);
        let scratch = || Tensor::zeros([n_largest], (Kind::Float, device));
        let (gradient, temporary) = (scratch(), scratch());
        let blocks = cuts
            .into_iter()
            .map(|(index, start, n_rows, _)| {
                let rows = |tensor: &Tensor| tensor.narrow(0, start, n_rows);
                let values = rows(&parameters[index]);
                let size = values.size();
                let n: i64 = size.iter().product();
                Block {
                    parameter: index,
                    start,
                    n_rows,
                    first: rows(&first[index]),
                    second: rows(&second[index]),
                    average: average.get(index).map(rows),
                    gradient: gradient.narrow(0, 0, n).view(size.as_slice()),
                    temporary: temporary.narrow(0, 0, n).view(size.as_slice()),
                    values,
                }
            })
            .collect();
        let whole = is_whole.then(|| Tensor::zeros([], (Kind::Float, device)));
        Self { rule, n_steps, parameters, first, second, average, blocks, whole }
    }

    /// Number of steps done.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// First moments, second moments and averages (empty without averaging), one tensor per parameter each.
    pub fn state(&self) -> [&[Tensor]; 3] {
        [&self.first, &self.second, &self.average]
    }

    /// One step at learning rate `learning_rate` (above 0), with one gradient per parameter.
    pub fn step(&mut self, learning_rate: f64, gradients: &[Gradient<'_>]) {
        self.step_unless(learning_rate, gradients, None);
    }

    /// As [`Self::step`]. If `skipped` holds 1, a GPU's parameters stay as they are; on a CPU it must be `None`.
    pub fn step_unless(&mut self, learning_rate: f64, gradients: &[Gradient<'_>], skipped: Option<&Tensor>) {
        assert_eq!(gradients.len(), self.parameters.len(), "one gradient per parameter");
        self.n_steps += 1;
        if self.whole.is_some() {
            self.step_on_whole(learning_rate, gradients, skipped);
        } else {
            self.step_on_blocks(learning_rate, gradients);
        }
    }

    /// The share by which the averages move to the parameters after this step, if one is due.
    fn average_weight(&self) -> Option<f64> {
        self.n_steps.is_multiple_of(AVERAGE_EVERY).then(|| {
            let n_updates = (self.n_steps / AVERAGE_EVERY) as f64;
            let decay = self.rule.average_decay.powi(AVERAGE_EVERY as i32);
            1.0 - decay.min((1.0 + n_updates) / (10.0 + n_updates))
        })
    }

    fn step_on_whole(&mut self, learning_rate: f64, gradients: &[Gradient<'_>], skipped: Option<&Tensor>) {
        let Some(number) = &mut self.whole else { return };
        let _ = number.fill_(self.n_steps as f64);
        let gradients: Vec<Tensor> = gradients
            .iter()
            .map(|gradient| match gradient {
                Gradient::Product { d_output, inputs } => d_output.tr().matmul(inputs),
                Gradient::Whole(whole) => whole.contiguous(),
            })
            .collect();
        let constants = AdamConstants {
            is_decoupled: self.rule.kind == Optimiser::Adamw,
            betas: [BETA_1, self.rule.beta_2],
            decay: self.rule.weight_decay,
            epsilon: EPSILON,
        };
        let moments = [&self.first[..], &self.second[..]];
        // A failure is a panic, as in every method of tch; the trainer turns it into an error.
        device::adam(&constants, learning_rate, number, skipped, &self.parameters, &gradients, moments)
            .expect("libtorch takes the tensors");
        if let Some(weight) = self.average_weight().filter(|_| !self.average.is_empty()) {
            device::lerp(&self.average, &self.parameters, weight).expect("libtorch takes the tensors");
        }
    }

    fn step_on_blocks(&mut self, learning_rate: f64, gradients: &[Gradient<'_>]) {
        let Rule { kind, weight_decay, beta_2, .. } = self.rule;
        let t = self.n_steps as f64;
        let correction_1 = 1.0 - BETA_1.powf(t);
        let root_correction_2 = (1.0 - beta_2.powf(t)).sqrt();
        // p -= lr / c₁ * m / (√v / r + ε)  =  p += m / ((√v + ε r) * s),  s = -c₁ / (lr r)
        let shift = EPSILON * root_correction_2;
        let factor = -correction_1 / (learning_rate * root_correction_2);
        let average_weight = self.average_weight();
        for block in &mut self.blocks {
            let Block { parameter, start, n_rows, values, first, second, average, gradient, temporary } = block;
            match &gradients[*parameter] {
                Gradient::Product { d_output, inputs } => {
                    let _ = d_output.narrow(1, *start, *n_rows).tr().mm_out(gradient, inputs);
                }
                Gradient::Whole(whole) => gradient.copy_(&whole.narrow(0, *start, *n_rows)),
            }
            if weight_decay > 0.0 {
                match kind {
                    Optimiser::Adam => {
                        let _ = values.mul_scalar_out(temporary, weight_decay);
                        let _ = gradient.g_add_(temporary);
                    }
                    Optimiser::Adamw => {
                        let _ = values.g_mul_scalar_(1.0 - learning_rate * weight_decay);
                    }
                }
            }
            let _ = first.lerp_(gradient, 1.0 - BETA_1);
            let _ = gradient.square_();
            let _ = second.lerp_(gradient, 1.0 - beta_2);
            let _ = second.sqrt_out(temporary);
            let _ = temporary.g_add_scalar_(shift);
            let _ = temporary.g_mul_scalar_(factor);
            let _ = values.addcdiv_(first, temporary);
            if let (Some(average), Some(weight)) = (average, average_weight) {
                let _ = average.lerp_(values, weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn whole_parameters_take_the_steps_that_blocks_take() {
        let shapes: [&[i64]; 3] = [&[70_000, 1], &[3, 5], &[7]];
        for (kind, beta_2) in [(Optimiser::Adam, 0.999), (Optimiser::Adamw, 0.95)] {
            let rule = Rule { kind, weight_decay: 0.1, average_decay: 0.9, beta_2 };
            let start: Vec<Tensor> = shapes.iter().map(|shape| random(shape)).collect();
            let [blocks, whole] = [false, true].map(|is_whole| {
                let parameters: Vec<Tensor> = start.iter().map(Tensor::copy).collect();
                let of = || parameters.iter().map(Tensor::zeros_like).collect();
                let average = parameters.iter().map(Tensor::copy).collect();
                let state = AdamState { n_steps: 2, first: of(), second: of(), average };
                let borrowed: Vec<&Tensor> = parameters.iter().collect();
                let adam = Adam::resume_as(rule, &borrowed, state, is_whole);
                assert_eq!(adam.blocks.is_empty(), is_whole);
                (adam, parameters)
            });
            let (mut blocks, mut whole) = (blocks, whole);
            for step in 0..5 {
                let (d_output, inputs) = (random(&[4, 3]), random(&[4, 5]));
                let gradients = |product: bool| {
                    let of_matrix = match product {
                        true => Gradient::Product { d_output: &d_output, inputs: &inputs },
                        false => Gradient::Whole(d_output.tr().matmul(&inputs)),
                    };
                    [Gradient::Whole(&start[0] * 0.1), of_matrix, Gradient::Whole(&start[2] * -0.3)]
                };
                blocks.0.step(0.01, &gradients(step % 2 == 0));
                whole.0.step(0.01, &gradients(step % 2 == 1));
            }
            let states = blocks.0.state().into_iter().zip(whole.0.state());
            let pairs = blocks.1.iter().zip(&whole.1).chain(states.flat_map(|(a, b)| a.iter().zip(b)));
            for (a, b) in pairs {
                let error = (a - b).abs().max().double_value(&[]);
                assert!(error < 2e-6, "{kind:?}: {error:e}");
            }
        }
    }

    #[test]
    fn a_skipped_step_changes_no_whole_parameter() {
        let parameter = random(&[3, 2]);
        let (before, zeros) = (parameter.copy(), parameter.zeros_like());
        let state = AdamState { n_steps: 0, first: vec![zeros.copy()], second: vec![zeros], average: Vec::new() };
        let rule = Rule { kind: Optimiser::Adamw, weight_decay: 0.1, average_decay: 0.0, beta_2: 0.999 };
        let mut adam = Adam::resume_as(rule, &[&parameter], state, true);
        let gradient = [Gradient::Whole(&before * f64::NAN)];
        adam.step_unless(0.1, &gradient, Some(&Tensor::from(1_f32)));
        assert!(parameter == before);
    }
}
