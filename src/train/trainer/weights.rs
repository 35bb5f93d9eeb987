//! Parameters in training, by name, with one optimiser per learning rate.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::{Batch, Lesson};
use crate::train::TrainSettings;
use crate::train::optimiser::{Adam, AdamState, Gradient, Rule};
use agiqa_nets::device::sent;
use agiqa_nets::layers::NamedTensors;

/// Parameters that share a learning rate.
#[derive(Debug)]
struct Group {
    rate: f64,
    names: Vec<String>,
    adam: Adam,
}

/// All parameters of a network in training.
#[derive(Debug)]
pub struct Weights {
    /// Trained parameters require gradients.
    parameters: NamedTensors,
    groups: Vec<Group>,
    /// Parameters that the network itself changes.
    moving: Vec<String>,
    device: Device,
    /// Largest norm of the gradient of all parameters together.
    gradient_norm: Option<f64>,
    /// Whether losses stay on the device until the trainer fetches several at once.
    keeps_losses: bool,
}

/// All values that training changes. A resumed training needs them in addition to the initial parameters.
#[derive(Debug)]
pub(super) struct SavedWeights {
    /// Number of steps done.
    pub(super) n_steps: u64,
    /// Changed parameters, both moments of trained ones, and their averages if they exist, named `<role>:<parameter>`.
    pub(super) tensors: NamedTensors,
}

/// Role of a parameter's own values in [`SavedWeights`]. The roles below follow the order of [`Adam::state`].
const PARAMETER: &str = "parameter";
const ADAM_ROLES: [&str; 3] = ["first", "second", "average"];

/// The loss of one part of a batch.
#[derive(Debug)]
pub struct Loss {
    /// Sum of the squared errors of the scores, the part's share of the logged loss.
    pub squared_errors: Tensor,
    /// The quantity to minimise, summed over images; `None` if it equals `squared_errors`.
    pub minimised: Option<Tensor>,
}

/// The loss of one step: the sum of the squared errors of the scores before it.
#[derive(Debug)]
pub enum StepLoss {
    /// The sum itself.
    Known(f64),
    /// The sum on a GPU, `()`, f64. The trainer fetches the sums of several steps at once, because a fetch waits for all
    /// work of the GPU.
    OnDevice(Tensor),
}

impl Weights {
    /// Parameters that start as `initial`, or as they were `saved`. A parameter with a rate of 0 is not trained.
    pub(super) fn new(
        initial: &NamedTensors,
        lesson: &impl Lesson,
        settings: &TrainSettings,
        saved: Option<&SavedWeights>,
    ) -> Self {
        let _no_grad = tch::no_grad_guard();
        let mut parameters = NamedTensors::new();
        let (device, tuning, mut moving) = (lesson.device(), lesson.tuning(), Vec::new());
        let mut by_rate: BTreeMap<(u64, bool), (f64, Vec<String>)> = BTreeMap::new();
        for (name, initial) in initial.iter().collect::<BTreeMap<_, _>>() {
            let tensor = saved.and_then(|saved| saved.tensors.get(&named(PARAMETER, name))).unwrap_or(initial);
            let rate = lesson.rate(name);
            if lesson.moves(name) {
                moving.push(name.clone());
            }
            // The tensor is copied, because the initial tensor may be a view of a file or another run's tensor.
            let copy = tensor.to_device(device).to_kind(Kind::Float).contiguous().copy();
            // A parameter of an input that an ablation does not read has no values and needs no gradient.
            let is_trained = rate > 0.0 && copy.numel() > 0;
            parameters.insert(name.clone(), if is_trained { copy.set_requires_grad(true) } else { copy });
            if is_trained {
                let decays = tuning.decay_vectors || initial.dim() > 1;
                by_rate.entry((rate.to_bits(), decays)).or_insert((rate, Vec::new())).1.push(name.clone());
            }
        }
        let TrainSettings { optimiser, weight_decay, weight_average, .. } = *settings;
        let group = |((_, decays), (rate, names)): ((u64, bool), (f64, Vec<String>))| {
            let weight_decay = if decays { weight_decay } else { 0.0 };
            let rule = Rule { kind: optimiser, weight_decay, average_decay: weight_average, beta_2: tuning.beta_2 };
            let values: Vec<Tensor> = names.iter().map(|name| parameters[name].detach()).collect();
            let values: Vec<&Tensor> = values.iter().collect();
            let adam = match saved {
                None => Adam::new(rule, &values),
                Some(SavedWeights { n_steps, tensors }) => {
                    let placed = |role| {
                        let placed = |name: &String| Some(tensors.get(&named(role, name))?.to_device(device));
                        names.iter().filter_map(placed).collect()
                    };
                    let [first, second, average] = ADAM_ROLES.map(placed);
                    let state = AdamState { n_steps: *n_steps, first, second, average };
                    Adam::resume(rule, &values, state)
                }
            };
            Group { rate, names, adam }
        };
        let groups = by_rate.into_iter().map(group).collect();
        let (gradient_norm, keeps_losses) = (tuning.gradient_norm, device != Device::Cpu);
        Self { parameters, groups, moving, device, gradient_norm, keeps_losses }
    }

    /// All parameters.
    pub(super) fn parameters(&self) -> &NamedTensors {
        &self.parameters
    }

    /// Number of steps done.
    pub fn n_steps(&self) -> u64 {
        self.groups.first().map_or(0, |group| group.adam.n_steps())
    }

    fn trained_names(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|group| &group.names)
    }

    /// The number of trained parameters, and the number of their values.
    pub(super) fn n_trained(&self) -> (usize, usize) {
        self.trained_names().fold((0, 0), |(n, values), name| (n + 1, values + self.parameters[name].numel()))
    }

    /// One step of the optimiser. `gradient` gives the gradient of a trained parameter by name.
    pub fn update<'g>(&mut self, learning_rate: f64, gradient: impl FnMut(&str) -> Gradient<'g>) {
        self.update_unless(learning_rate, None, gradient);
    }

    /// As [`Self::update`]. If `skipped` holds 1, nothing is updated on a GPU.
    fn update_unless<'g>(
        &mut self,
        learning_rate: f64,
        skipped: Option<&Tensor>,
        mut gradient: impl FnMut(&str) -> Gradient<'g>,
    ) {
        let _no_grad = tch::no_grad_guard();
        for Group { rate, names, adam } in &mut self.groups {
            let gradients: Vec<Gradient<'g>> = names.iter().map(|name| gradient(name)).collect();
            adam.step_unless(learning_rate * *rate, &gradients, skipped);
        }
    }

    /// One step by autograd on a batch, in parts of up to `micro_batch` images whose gradients are summed. `loss` gets
    /// a function that cuts a part out of a tensor over the batch and places it on the device. A GPU is given the whole
    /// step without a wait.
    ///
    /// Dropout is drawn from libtorch's generator, seeded by `seed` for the first part, `seed + 1` for the second, and
    /// so on. If the loss is not finite, the result is not finite either, and nothing is updated.
    pub fn step_by_autograd(
        &mut self,
        batch: &Batch,
        micro_batch: Option<u32>,
        seed: u64,
        loss: impl Fn(&dyn Fn(&Tensor) -> Tensor) -> Loss,
    ) -> StepLoss {
        let n_images = batch.rows.len() as i64;
        let n_part = micro_batch.map_or(n_images, |size| i64::from(size).min(n_images));
        let keeps = self.keeps_losses;
        let (mut known, mut on_device) = (0.0, Tensor::zeros([], (Kind::Double, self.device)));
        for (i, start) in (0..n_images).step_by(n_part as usize).enumerate() {
            // The sign does not matter to a generator.
            tch::manual_seed(seed.wrapping_add(i as u64) as i64);
            let part = |xs: &Tensor| {
                let part = xs.narrow(0, start, n_part.min(n_images - start));
                sent(&part, self.device).expect("libtorch places the tensor")
            };
            let Loss { squared_errors, minimised } = loss(&part);
            if keeps {
                let minimised = minimised.as_ref().unwrap_or(&squared_errors).detach();
                // The second term is 0, or not a number if the minimised quantity is none.
                on_device = on_device + squared_errors.detach() + minimised * 0.0;
            } else {
                known += squared_errors.double_value(&[]);
            }
            let minimised = minimised.unwrap_or(squared_errors);
            if !keeps {
                let value = minimised.double_value(&[]);
                if !value.is_finite() {
                    known = value;
                    break;
                }
            }
            (minimised / n_images as f64).backward();
        }
        let _no_grad = tch::no_grad_guard();
        // A parameter that the loss does not depend on has no gradient.
        let gradient = |name: &String| {
            let parameter = &self.parameters[name];
            let gradient = parameter.grad();
            (name.clone(), if gradient.defined() { gradient } else { parameter.zeros_like() })
        };
        let mut gradients: NamedTensors = self.trained_names().map(gradient).collect();
        let skipped = keeps.then(|| on_device.isfinite().logical_not().to_kind(Kind::Float));
        if known.is_finite() {
            if let Some(largest) = self.gradient_norm {
                limit_norm(&mut gradients, largest, keeps);
            }
            self.update_unless(batch.learning_rate, skipped.as_ref(), |name| {
                Gradient::Whole(gradients[name].shallow_clone())
            });
        }
        for gradient in gradients.values_mut() {
            let _ = gradient.zero_();
        }
        if keeps { StepLoss::OnDevice(on_device) } else { StepLoss::Known(known) }
    }

    /// Whether every trained value is a number.
    pub(super) fn is_finite(&self) -> bool {
        let _no_grad = tch::no_grad_guard();
        // The sum is finite only if all values are, and fetching one value is faster than making a mask.
        let sum = |name: &String| self.parameters[name].detach().square().sum(Kind::Double).double_value(&[]);
        self.trained_names().chain(&self.moving).map(sum).all(f64::is_finite)
    }

    /// Changed parameters for validation and for keeping: the averages, if weights are averaged. They are copies.
    pub(super) fn evaluated(&self) -> NamedTensors {
        let _no_grad = tch::no_grad_guard();
        let moving = self.moving.iter();
        let mut tensors: NamedTensors = moving.map(|name| (name.clone(), self.parameters[name].copy())).collect();
        for Group { names, adam, .. } in &self.groups {
            let [_, _, average] = adam.state();
            for (i, name) in names.iter().enumerate() {
                let tensor = average.get(i).map_or_else(|| self.parameters[name].detach(), Tensor::shallow_clone);
                tensors.insert(name.clone(), tensor.copy());
            }
        }
        tensors
    }

    /// All parameters. The tensors of `trained` replace the current ones.
    pub(super) fn with(&self, trained: &NamedTensors) -> NamedTensors {
        let chosen = |(name, present): (&String, &Tensor)| {
            let kept = trained.get(name).map(|tensor| tensor.to_device(self.device));
            (name.clone(), kept.unwrap_or_else(|| present.detach()))
        };
        self.parameters.iter().map(chosen).collect()
    }

    /// All values that a resumed training needs in addition to the initial parameters. Tensors are shared.
    pub(super) fn saved(&self) -> SavedWeights {
        let parameter = |name: &String| (named(PARAMETER, name), self.parameters[name].detach());
        let mut tensors: NamedTensors = self.moving.iter().map(parameter).collect();
        for Group { names, adam, .. } in &self.groups {
            for (role, values) in ADAM_ROLES.into_iter().zip(adam.state()) {
                let values = values.iter().map(Tensor::shallow_clone);
                tensors.extend(names.iter().map(|name| named(role, name)).zip(values));
            }
            tensors.extend(names.iter().map(parameter));
        }
        SavedWeights { n_steps: self.n_steps(), tensors }
    }
}

/// Scales `gradients` so that their norm is `largest` at most. With `keeps`, a GPU scales without a wait.
fn limit_norm(gradients: &mut NamedTensors, largest: f64, keeps: bool) {
    // In the order of names, so that a sum rounds alike in each run.
    let squares = gradients.iter().collect::<BTreeMap<_, _>>().into_values();
    let squares: Vec<Tensor> = squares.map(|gradient| gradient.square().sum(Kind::Double)).collect();
    let norm = Tensor::stack(&squares, 0).sum(Kind::Double).sqrt();
    if keeps {
        let factor = (norm.reciprocal() * largest).clamp_max(1.0).to_kind(Kind::Float);
        gradients.values_mut().for_each(|gradient| drop(gradient.g_mul_(&factor)));
        return;
    }
    let norm = norm.double_value(&[]);
    if norm > largest {
        gradients.values_mut().for_each(|gradient| drop(gradient.g_mul_scalar_(largest / norm)));
    }
}

fn named(role: &str, parameter: &str) -> String {
    format!("{role}:{parameter}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::trainer::{Exported, RecipeError, Validated};
    use agiqa_nets::layers::NetworkError;
    use agiqa_store::store::Store;

    /// A lesson of which only the defaults are used.
    struct Line;

    impl Lesson for Line {
        type Network = ();

        fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
            Ok((NamedTensors::new(), Vec::new()))
        }

        fn network(&self, _: &NamedTensors) -> Result<(), NetworkError> {
            Ok(())
        }

        fn step(&self, (): &(), _: &mut Weights, _: &Batch) -> Result<StepLoss, RecipeError> {
            Ok(StepLoss::Known(0.0))
        }

        fn validate(&self, (): &()) -> Result<Validated, RecipeError> {
            Ok(Validated::default())
        }

        fn export(&self, _: NamedTensors, _: &Store) -> Result<Exported, RecipeError> {
            Ok(Exported::default())
        }
    }

    /// One step of a line through three points, in parts of two images; the second target is `target`.
    fn step(keeps_losses: bool, target: f32) -> (StepLoss, Tensor) {
        let initial = NamedTensors::from([("w".to_owned(), Tensor::from_slice(&[0.5_f32]))]);
        let mut weights = Weights::new(&initial, &Line, &TrainSettings::default(), None);
        weights.keeps_losses = keeps_losses;
        let targets = Tensor::from_slice(&[1.0_f32, target, 3.0]);
        let xs = Tensor::from_slice(&[1.0_f32, 2.0, 3.0]);
        let batch =
            Batch { step: 0, learning_rate: 0.1, rows: vec![0, 1, 2], targets, pixels: None, varied: Vec::new() };
        let w = weights.parameters()["w"].shallow_clone();
        let loss = weights.step_by_autograd(&batch, Some(2), 1, |part| {
            let errors = part(&xs) * &w - part(&batch.targets);
            Loss { squared_errors: errors.square().sum(Kind::Float), minimised: None }
        });
        (loss, w.detach())
    }

    #[test]
    fn a_loss_that_stays_on_the_device_is_that_of_the_same_step() {
        let (StepLoss::Known(known), w) = step(false, 2.0) else { panic!("it is fetched") };
        let (StepLoss::OnDevice(kept), same_w) = step(true, 2.0) else { panic!("it is kept") };
        assert_eq!((known, kept.double_value(&[])), (0.25 + 1.0 + 2.25, known));
        assert!(w == same_w && w.double_value(&[0]) != 0.5, "both steps are done");
        let (StepLoss::OnDevice(kept), _) = step(true, f32::NAN) else { panic!("it is kept") };
        assert!(!kept.double_value(&[]).is_finite());
        let (StepLoss::Known(known), w) = step(false, f32::NAN) else { panic!("it is fetched") };
        assert!(!known.is_finite() && w.double_value(&[0]) == 0.5, "nothing is updated");
    }

    #[test]
    fn a_long_gradient_is_shortened_alike_with_and_without_a_wait() {
        for (largest, scale) in [(2.5_f64, 0.5_f64), (10.0, 1.0)] {
            for keeps in [false, true] {
                let mut gradients = NamedTensors::from([
                    ("a".to_owned(), Tensor::from_slice(&[3.0_f32])),
                    ("b".to_owned(), Tensor::from_slice(&[0.0_f32, 4.0])),
                ]);
                limit_norm(&mut gradients, largest, keeps);
                let norms = ["a", "b"].map(|name| gradients[name].norm().double_value(&[]));
                assert_eq!(norms, [3.0 * scale, 4.0 * scale]);
            }
        }
    }
}
