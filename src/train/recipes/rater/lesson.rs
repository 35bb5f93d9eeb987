//! One run of the training of a network that rates images: its first weights, its steps, and the files that it leaves.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::Description;
use super::settings::{BatchNorms, RaterSettings};
use crate::train::initial::{initial, normal_values};
use crate::train::trainer::{Batch, Exported, Lesson, Loss, RecipeError, RunData, StepLoss, Validated, Weights};
use agiqa_nets::layers::{NamedTensors, NetworkError, Phase};
use agiqa_nets::raters::{Prepare, Rater, RaterName, RaterStart};
use agiqa_nets::trained_head::{LabelScale, tensors_to_bytes};
use agiqa_store::store::Store;
use agiqa_store::tables::models;
use agiqa_store::tables::splits::Part;

/// Images per forward pass of validation on a GPU. On a CPU, the crops of one image fill its threads.
const GPU_BATCH: usize = 8;

/// One run.
pub struct RaterLesson<'a> {
    pub(super) settings: &'a RaterSettings,
    pub(super) start: RaterStart,
    pub(super) prepare: Arc<dyn Prepare>,
    pub(super) labels: LabelScale,
    pub(super) device: Device,
    pub(super) data: &'a RunData<'a>,
}

impl RaterLesson<'_> {
    /// What published code starts with, where that is not PyTorch's default.
    fn own_initial(&self, read: &mut NamedTensors) {
        let seed = self.data.draws.seed();
        for (name, shape) in self.start.parameters() {
            if read.contains_key(name) {
                continue;
            }
            let filled = |value: f64| Tensor::full(shape.as_slice(), value, (Kind::Float, Device::Cpu));
            let of_norm =
                |unit: f64| if name.ends_with("weight") || name.ends_with("running_var") { unit } else { 0.0 };
            let tensor = match (self.settings.network, name.as_str()) {
                // The block around attention starts as the identity.
                (RaterName::Baid, "NLB.W.1.weight") => filled(0.0),
                _ if self.start.is_of_batch_norm(name) => filled(of_norm(1.0)),
                // Kaiming's normal distribution for an activation that keeps half of the values.
                (RaterName::Dbcnn, "fc.weight") => normal_values(name, shape, (2.0 / shape[1] as f64).sqrt(), seed),
                (RaterName::Dbcnn, "fc.bias") => filled(0.0),
                _ => continue,
            };
            read.insert(name.clone(), tensor);
        }
    }
}

impl Lesson for RaterLesson<'_> {
    type Network = Box<dyn Rater>;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        let mut read = self.start.read()?;
        let n_read = read.len();
        self.own_initial(&mut read);
        let seed = self.data.draws.seed();
        let (tensors, _) = initial(self.start.parameters(), &read, seed);
        let files: Vec<String> = self.start.files().map(|path| path.display().to_string()).collect();
        let n_drawn = tensors.len() - n_read;
        let mut notes = vec![format!("{n_read} tensors from {}, {n_drawn} begin by seed {seed}", files.join(", "))];
        let LabelScale { scale, offset } = self.labels;
        if self.settings.network.is_bounded() && self.labels != (LabelScale { scale: 1.0, offset: 0.0 }) {
            notes.push(format!(
                "ratings of `{}` lie between 0 and 1, and MOS do not: it learns (MOS - {offset}) / {scale}, and scores are \
                 mapped back",
                self.settings.network
            ));
        }
        Ok((tensors, notes))
    }

    fn rate(&self, parameter: &str) -> f64 {
        let is_fixed = self.settings.batch_norm == BatchNorms::Frozen && self.start.is_of_batch_norm(parameter);
        let is_trained = !is_fixed && !self.start.is_frozen(parameter) && !self.start.is_statistic(parameter);
        f64::from(u8::from(is_trained))
    }

    fn moves(&self, parameter: &str) -> bool {
        let is_by_batch = self.settings.batch_norm == BatchNorms::Train;
        is_by_batch && self.start.is_statistic(parameter) && !self.start.is_frozen(parameter)
    }

    fn device(&self) -> Device {
        self.device
    }

    fn network(&self, tensors: &NamedTensors) -> Result<Box<dyn Rater>, NetworkError> {
        let by_batch = self.settings.batch_norm == BatchNorms::Train;
        let phase = match tensors.values().any(Tensor::requires_grad) {
            true => Phase::Learning { by_batch, drops: true },
            false => Phase::Rating,
        };
        self.start.network(tensors, self.device, phase)
    }

    fn step(&self, network: &Box<dyn Rater>, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let places = Tensor::arange(batch.rows.len() as i64, (Kind::Int64, Device::Cpu));
        let loss = |part: &dyn Fn(&Tensor) -> Tensor| {
            let ratings = match &batch.pixels {
                Some(pixels) => network.rate(&part(pixels)),
                None => {
                    let places = Vec::<i64>::try_from(part(&places).to_device(Device::Cpu)).expect("whole numbers");
                    let ratings = places.iter().map(|place| network.rate(&batch.varied[*place as usize]));
                    Tensor::cat(&ratings.collect::<Vec<_>>(), 0)
                }
            };
            let squared_errors = (ratings - part(&batch.targets)).square().sum(Kind::Float);
            Loss { squared_errors, minimised: None }
        };
        let seed = self.data.draws.torch_seed(batch.step);
        Ok(weights.step_by_autograd(batch, self.settings.micro_batch, seed, loss))
    }

    fn validate(&self, network: &Box<dyn Rater>) -> Result<Validated, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let (data, rows) = (self.data, self.data.part(Part::Validation));
        let batch_size = if self.device != Device::Cpu && self.prepare.has_one_shape() { GPU_BATCH } else { 1 };
        let mut validated = Validated::default();
        data.pictures().for_each_batch(rows, batch_size, data.n_threads, self.device, |_, inputs| {
            let ratings = network.rate(&inputs).to_device(Device::Cpu);
            let ratings = Vec::<f64>::try_from(ratings.to_kind(Kind::Double))?;
            validated.scores.extend(ratings.into_iter().map(|rating| self.labels.mos(rating)));
            Ok::<_, RecipeError>(())
        })?;
        Ok(validated)
    }

    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        let (run, LabelScale { scale, offset }) = (&self.data.run, self.labels);
        let mut named: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let RaterSettings { network, variant, .. } = self.settings.clone();
        let description = serde_json::to_vec_pretty(&Description { network, variant, scale, offset })?;
        let folder = models::rater_prefix(run);
        store.put(&format!("{folder}/{}", models::RATER_DESCRIPTION), description)?;
        let bytes = tensors_to_bytes(&named, std::collections::HashMap::new());
        store.put(&format!("{folder}/{}", models::RATER_WEIGHTS), bytes)?;
        Ok(Exported::default())
    }
}
