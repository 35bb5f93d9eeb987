//! The whole network while it is trained: parameters that require gradients, and an optimiser for each learning rate.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::train::Optimiser;
use crate::train::optimiser::{Adam, AdamState, Gradient};
use agiqa_nets::fusion::{PARAMETER_NAMES, ProjectionMasks};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::ma_agiqa::{MaAgiqa, MaAgiqaConfig};
use agiqa_nets::maniqa::Mode;

/// How fast each parameter learns, relative to the training's rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Transformer blocks, from the first, that stay as they are; with them the embedding of patches.
    pub frozen_blocks: usize,
    /// Factor of the transformer's last block that is read.
    pub backbone: f64,
    /// Factor from each transformer block to the one before it.
    pub layer_decay: f64,
    /// Factor of MANIQA's parts above the transformer.
    pub quality: f64,
    /// Factor of the fusion module.
    pub fusion: f64,
}

impl Rates {
    /// Factor of the parameter `name` in a transformer of which `n_blocks` are read; 0 for one that is not trained.
    pub fn of(&self, name: &str, n_blocks: usize) -> f64 {
        let Some(name) = name.strip_prefix("vit.") else {
            return if PARAMETER_NAMES.contains(&name) { self.fusion } else { self.quality };
        };
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let n_above = match block {
            Some(block) if block < self.frozen_blocks => return 0.0,
            Some(block) => n_blocks - 1 - block.min(n_blocks - 1),
            None if self.frozen_blocks > 0 => return 0.0,
            None => n_blocks,
        };
        self.backbone * self.layer_decay.powi(n_above as i32)
    }
}

/// What the optimiser is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserSettings {
    /// Adam or AdamW.
    pub kind: Optimiser,
    /// Weight decay, on every trained parameter.
    pub weight_decay: f64,
    /// Decay of the moving average of the weights; 0 for none.
    pub weight_average: f64,
}

/// Images that go through the network at once.
#[derive(Debug)]
pub struct MicroBatch {
    /// `(b, 3, side, side)`, normalised, f32.
    pub pixels: Tensor,
    /// `(b, semantic_dim)`, standardised.
    pub f_a: Tensor,
    /// `(b, coherence_dim)`, standardised.
    pub f_b: Tensor,
    /// Dropout of the two semantic projections.
    pub masks: Option<ProjectionMasks>,
    /// `(b,)`, on the scale trained on.
    pub targets: Tensor,
    /// What MANIQA's own rating is to be; none where it is not asked.
    pub rating: Option<RatingTarget>,
}

/// What MANIQA's own rating learns, beside what the fusion's loss teaches its f_1.
#[derive(Debug)]
pub struct RatingTarget {
    /// `(b,)`, 0 or more, as ratings are.
    pub targets: Tensor,
    /// Weight of its squared errors beside the score's.
    pub weight: f64,
}

/// Parameters that share a learning rate.
#[derive(Debug)]
struct Group {
    rate: f64,
    names: Vec<String>,
    adam: Adam,
}

/// A network in training.
#[derive(Debug)]
pub struct Learner {
    config: MaAgiqaConfig,
    device: Device,
    kind: Kind,
    /// All parameters; those that are trained require gradients.
    parameters: BTreeMap<String, Tensor>,
    network: MaAgiqa,
    groups: Vec<Group>,
}

/// What a resumed learner starts from: trained parameters and the optimiser's moments by name.
#[derive(Debug, Default)]
pub struct LearnerState {
    /// Steps done.
    pub n_steps: u64,
    /// Trained parameters.
    pub parameters: NamedTensors,
    /// First moments.
    pub first: NamedTensors,
    /// Second moments.
    pub second: NamedTensors,
    /// Averages; empty without averaging.
    pub average: NamedTensors,
}

impl Learner {
    /// A learner whose parameters start as `initial`, or, where it is given, as `state` has them.
    ///
    /// # Errors
    /// A tensor that is absent or of another shape, or want of memory.
    pub fn new(
        config: &MaAgiqaConfig,
        initial: &NamedTensors,
        (device, kind): (Device, Kind),
        rates: Rates,
        optimiser: OptimiserSettings,
        state: Option<&LearnerState>,
    ) -> Result<Self, NetworkError> {
        let n_blocks = config.maniqa.vit_config().n_blocks;
        let resumed = |name: &String| state.and_then(|state| state.parameters.get(name));
        let mut parameters = BTreeMap::new();
        let mut by_rate: BTreeMap<u64, (f64, Vec<String>)> = BTreeMap::new();
        for name in config.parameters().into_keys() {
            let Some(tensor) = resumed(&name).or_else(|| initial.get(&name)) else {
                return Err(NetworkError::Missing { name, nearest: None });
            };
            let rate = rates.of(&name, n_blocks);
            // A copy: the initial tensor may be a view of a file, or another learner's.
            let copy = tensor.to_device(device).to_kind(Kind::Float).contiguous().copy();
            // What an ablation does not read has no values, and nothing asks for its gradient.
            let is_trained = rate > 0.0 && copy.numel() > 0;
            let tensor = if is_trained { copy.set_requires_grad(true) } else { copy };
            parameters.insert(name.clone(), tensor);
            if is_trained {
                by_rate.entry(rate.to_bits()).or_insert((rate, Vec::new())).1.push(name);
            }
        }
        let network = MaAgiqa::new(config, &shared(&parameters), device, kind)?;
        let OptimiserSettings { kind: adam_kind, weight_decay, weight_average } = optimiser;
        let groups = by_rate.into_values().map(|(rate, names)| {
            let values: Vec<Tensor> = names.iter().map(|name| parameters[name].detach()).collect();
            let values: Vec<&Tensor> = values.iter().collect();
            let adam = match state {
                None => Adam::new(adam_kind, weight_decay, weight_average, &values),
                Some(state) => {
                    let of = |tensors: &NamedTensors| -> Vec<Tensor> {
                        let place = |tensor: &Tensor| tensor.to_device(device);
                        names.iter().filter_map(|name| tensors.get(name).map(place)).collect()
                    };
                    let (first, second, average) = (of(&state.first), of(&state.second), of(&state.average));
                    let adam_state = AdamState { n_steps: state.n_steps, first, second, average };
                    Adam::resume(adam_kind, weight_decay, weight_average, &values, adam_state)
                }
            };
            Group { rate, names, adam }
        });
        let groups = groups.collect();
        Ok(Self { config: config.clone(), device, kind, parameters, network, groups })
    }

    /// Where it is trained.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Steps done.
    pub fn n_steps(&self) -> u64 {
        self.groups.first().map_or(0, |group| group.adam.n_steps())
    }

    /// Parameters that are trained, and how many values they hold.
    pub fn n_trained(&self) -> (usize, usize) {
        let names = self.groups.iter().flat_map(|group| &group.names);
        names.fold((0, 0), |(n, values), name| (n + 1, values + self.parameters[name.as_str()].numel()))
    }

    /// One step on a batch of `n_images`, given in parts whose gradients are summed; returns the sum of the squared errors
    /// of the fusion's scores.
    ///
    /// Dropout is drawn from libtorch's generator, seeded by `seed` for the first part, `seed + 1` for the second, ….
    /// Where the loss is not finite, neither is what is returned, and nothing is updated.
    pub fn step(
        &mut self,
        parts: impl Iterator<Item = MicroBatch>,
        n_images: usize,
        learning_rate: f64,
        seed: u64,
    ) -> f64 {
        let mut total = 0.0;
        for (i, part) in parts.enumerate() {
            // The sign says nothing to a generator.
            tch::manual_seed(seed.wrapping_add(i as u64) as i64);
            let MicroBatch { pixels, f_a, f_b, masks, targets, rating } = part;
            let maniqa = self.network.maniqa().forward(&pixels, Mode::Train);
            let score = self.network.fusion().forward(&f_a, &f_b, &maniqa.f_1, masks.as_ref()).score;
            let errors = (score - targets).square().sum(Kind::Float);
            total += errors.double_value(&[]);
            let loss = match rating {
                Some(rating) => {
                    let of_rating = (maniqa.rating() - rating.targets).square().sum(Kind::Float);
                    &errors + rating.weight * of_rating
                }
                None => errors,
            };
            let value = loss.double_value(&[]);
            if !value.is_finite() {
                total = value;
                break;
            }
            (loss / n_images as f64).backward();
        }
        let _no_grad = tch::no_grad_guard();
        for Group { rate, names, adam } in &mut self.groups {
            let gradients: Vec<Tensor> = names.iter().map(|name| self.parameters[name.as_str()].grad()).collect();
            if total.is_finite() {
                let whole: Vec<Gradient<'_>> =
                    gradients.iter().map(|gradient| Gradient::Whole(gradient.shallow_clone())).collect();
                adam.step(learning_rate * *rate, &whole);
            }
            for mut gradient in gradients.into_iter().filter(Tensor::defined) {
                let _ = gradient.zero_();
            }
        }
        total
    }

    /// Whether every trained value is a number.
    pub fn is_finite(&self) -> bool {
        let _no_grad = tch::no_grad_guard();
        let names = self.groups.iter().flat_map(|group| &group.names);
        // A sum is finite where all are, and one value is quicker to fetch than a mask is to make.
        let sum = |name: &String| self.parameters[name.as_str()].detach().square().sum(Kind::Double).double_value(&[]);
        names.map(sum).all(f64::is_finite)
    }

    /// Trained parameters as they are validated and kept: the averages where weights are averaged. They are copies.
    pub fn evaluated(&self) -> NamedTensors {
        let _no_grad = tch::no_grad_guard();
        let mut tensors = NamedTensors::new();
        for Group { names, adam, .. } in &self.groups {
            let [_, _, average] = adam.state();
            for (i, name) in names.iter().enumerate() {
                let tensor =
                    average.get(i).map_or_else(|| self.parameters[name.as_str()].detach(), Tensor::shallow_clone);
                tensors.insert(name.clone(), tensor.copy());
            }
        }
        tensors
    }

    /// All parameters, with those of `trained` in place of the present ones.
    pub fn with(&self, trained: &NamedTensors) -> NamedTensors {
        let of = |(name, tensor): (&String, &Tensor)| {
            (name.clone(), trained.get(name).map_or_else(|| tensor.detach(), |tensor| tensor.to_device(self.device)))
        };
        self.parameters.iter().map(of).collect()
    }

    /// The network over `trained` (see [`Self::evaluated`]), for scoring.
    ///
    /// # Errors
    /// As [`MaAgiqa::new`].
    pub fn network_of(&self, trained: &NamedTensors) -> Result<MaAgiqa, NetworkError> {
        MaAgiqa::new(&self.config, &self.with(trained), self.device, self.kind)
    }

    /// All that a resumed learner needs beside the initial tensors of what is not trained. Tensors are shared.
    pub fn state(&self) -> LearnerState {
        let mut state = LearnerState { n_steps: self.n_steps(), ..LearnerState::default() };
        for Group { names, adam, .. } in &self.groups {
            let moments = adam.state();
            let targets = [&mut state.first, &mut state.second, &mut state.average];
            for (tensors, target) in moments.into_iter().zip(targets) {
                target.extend(names.iter().cloned().zip(tensors.iter().map(Tensor::shallow_clone)));
            }
            let values = names.iter().map(|name| (name.clone(), self.parameters[name.as_str()].detach()));
            state.parameters.extend(values);
        }
        state
    }
}

fn shared(parameters: &BTreeMap<String, Tensor>) -> NamedTensors {
    parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_from_the_last_block_read_and_frozen_ones_are_zero() {
        let rates = Rates { frozen_blocks: 2, backbone: 0.5, layer_decay: 0.5, quality: 3.0, fusion: 2.0 };
        assert_eq!(rates.of("conv1.weight", 10), 3.0);
        assert_eq!(rates.of("output_fc.bias", 10), 2.0);
        assert_eq!(rates.of("vit.blocks.9.mlp.fc1.weight", 10), 0.5);
        assert_eq!(rates.of("vit.blocks.7.mlp.fc1.weight", 10), 0.125);
        assert_eq!(rates.of("vit.blocks.1.mlp.fc1.weight", 10), 0.0);
        assert_eq!(rates.of("vit.pos_embed", 10), 0.0);
        let all = Rates { frozen_blocks: 0, ..rates };
        assert_eq!(all.of("vit.pos_embed", 10), 0.5 * 0.5_f64.powi(10));
    }
}
