//! The fusion head over cached columns: f_a and f_b from a semantic set, f_1 from a quality set.
//!
//! A run leaves `head.safetensors` and, if requested, the scores of ridge regression on the same columns.

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use super::fusion::{HeadColumns, HeadSettings, Start};
use super::ridge;
use crate::features::catching;
use crate::train::head_inputs::{self, HeadInputsError};
use crate::train::trainer::{
    Batch, Course, Exported, Finished, Lesson, Pace, Recipe, RecipeError, RunData, StepLoss, TrainError, Validated,
    Weights, by_steps,
};
use crate::train::{Gradient, Labels, TrainSettings};
use agiqa_nets::fusion::{FusionConfig, FusionHead, PARAMETER_NAMES};
use agiqa_nets::kernel_ridge::Kernel;
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::trained_head::{TrainedHead, linear_term};
use agiqa_store::console::Progress;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::StageContext;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RidgeRecord};
use agiqa_store::tables::splits::Part;

/// Version of the training code. It must be raised if equal inputs give new numbers.
const TRAIN_VERSION: u32 = 1;

/// Trains the fusion head on cached columns.
#[derive(Clone, Debug)]
pub struct HeadRecipe {
    /// The feature set with f_a and f_b.
    pub semantic: FeatureSet,
    /// The feature set with f_1.
    pub quality: FeatureSet,
    /// Settings of the head.
    pub settings: HeadSettings,
}

impl HeadRecipe {
    fn config(&self) -> Result<FusionConfig, HeadInputsError> {
        let dims = head_inputs::input_dims(&self.semantic, &self.quality)?;
        let [semantic_dim, coherence_dim, quality_dim] = self.settings.read_dims(dims);
        let (width, gate) = (i64::from(self.settings.width), self.settings.gate);
        Ok(FusionConfig { semantic_dim, coherence_dim, quality_dim, width, gate })
    }
}

impl Recipe for HeadRecipe {
    const RUN_KIND: &'static str = "run";
    const NAME: &'static str = "head";

    fn check(&self) -> Result<(), RecipeError> {
        self.settings.check()?;
        self.config()?;
        Ok(())
    }

    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError> {
        let sets = [&self.semantic, &self.quality];
        Ok(super::fingerprint_over("training", TRAIN_VERSION, dataset, sets, &self.deciding(settings)))
    }

    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value {
        self.settings.deciding(settings, None)
    }

    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError> {
        Ok(vec![head_inputs::semantic_inputs(&self.semantic)?, head_inputs::quality_inputs(&self.quality)?])
    }

    fn advice(&self, dataset: &PartitionName) -> String {
        head_inputs::advice(dataset, &self.semantic, &self.quality)
    }

    fn pace(&self) -> Pace {
        Pace::SideBySide
    }

    fn learn(
        &self,
        data: &RunData<'_>,
        context: &StageContext,
        progress: &Progress,
    ) -> Result<Option<Finished>, TrainError> {
        by_steps(self, data, context, progress)
    }
}

impl Course for HeadRecipe {
    type Lesson<'a> = HeadLesson<'a>;

    fn lesson<'a>(&'a self, data: &'a RunData<'_>) -> Result<HeadLesson<'a>, RecipeError> {
        let config = self.config()?;
        let columns = HeadColumns::new(data, &self.settings, config);
        let linear = match self.settings.start {
            Start::Random => None,
            Start::Ridge => Some(
                catching(|| LinearStart::fit(data, &columns))
                    .and_then(std::convert::identity)
                    .map_err(|source| RidgeError { run: data.run.clone(), source })?,
            ),
        };
        let validation_rows = Tensor::from_slice(data.part(Part::Validation));
        let validation = columns.raw.iter().map(|column| column.index_select(0, &validation_rows)).collect();
        Ok(HeadLesson { recipe: self, data, config, columns, validation, linear })
    }
}

/// One run.
pub struct HeadLesson<'a> {
    recipe: &'a HeadRecipe,
    data: &'a RunData<'a>,
    config: FusionConfig,
    columns: HeadColumns<'a>,
    /// Columns of the validation part, not standardised.
    validation: Vec<Tensor>,
    /// The term that a ridge start adds.
    linear: Option<LinearStart>,
}

/// Candidates of the ridge regression that a training starts from. Leave-one-out chooses.
const STRENGTHS: [f64; 6] = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2];

/// Factor on the chosen strength: a regression that shrinks more leaves the network more to learn.
const SHRINKAGE: f64 = 10.0;

/// Images per product of the linear term.
const BATCH: usize = 1024;

/// Ridge regression on the standardised columns, a fixed part of the score.
struct LinearStart {
    /// Per column, `(d,)`.
    weights: [Tensor; 3],
    /// The term of every row of the columns, `(n,)`, on the scale of training.
    of_rows: Tensor,
}

impl LinearStart {
    fn fit(data: &RunData<'_>, columns: &HeadColumns<'_>) -> Result<Self, TchError> {
        let train_rows = Tensor::from_slice(data.part(Part::Train));
        // A column that the head does not read has no values.
        let read = || columns.raw.iter().zip(&columns.standardisations).filter(|(column, _)| column.size()[1] > 0);
        let rows = read().map(|(column, _)| column.f_index_select(0, &train_rows)).collect::<Result<Vec<_>, _>>()?;
        let kernel = Kernel::new(0.0, rows, read().map(|(_, standardisation)| standardisation.share()).collect());
        let targets: Vec<f64> = Vec::<f32>::try_from(data.targets())?.into_iter().map(f64::from).collect();
        let go_on = || true;
        let stopped = || TchError::Kind("it was stopped".to_owned());
        let chosen = kernel.fit(&targets, &STRENGTHS, 1, &go_on)?.ok_or_else(stopped)?;
        let shrunk = kernel.fit(&targets, &[SHRINKAGE * chosen.lambda()], 1, &go_on)?.ok_or_else(stopped)?;
        let mut fitted = kernel.linear_weights(&shrunk.dual)?.into_iter();
        let weights = [0, 1, 2].map(|i: usize| match columns.raw[i].size()[1] {
            0 => Tensor::zeros([0], (Kind::Float, Device::Cpu)),
            _ => fitted.next().expect("one per column that is read").to_kind(Kind::Float),
        });
        let all: Vec<i64> = (0..data.image_ids.len() as i64).collect();
        let terms: Vec<Tensor> = all.chunks(BATCH).map(|rows| linear_term(&weights, &columns.rows(rows))).collect();
        Ok(Self { of_rows: Tensor::f_cat(&terms, 0)?, weights })
    }
}

/// f_a, f_b and f_1 among the columns of a head's training.
fn three(columns: &[Tensor]) -> [Tensor; 3] {
    let [f_a, f_b, f_1] = columns else { unreachable!("a head's recipe reads three columns") };
    [f_a, f_b, f_1].map(Tensor::shallow_clone)
}

impl Lesson for HeadLesson<'_> {
    type Network = TrainedHead;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        // Standardised labels have mean 0, so the output should start at 0.
        let mut output_bias = (self.data.settings.labels == Labels::Standardised).then_some(0.0);
        if self.linear.is_some() {
            // The linear term has mean 0.
            output_bias = Some(self.data.targets().mean(Kind::Double).double_value(&[]) as f32);
        }
        let mut parameters = self.data.draws.head(self.config, output_bias);
        if self.linear.is_some() {
            let _ = parameters[8].zero_();
        }
        let tensors = PARAMETER_NAMES.into_iter().map(str::to_owned).zip(parameters).collect();
        Ok((tensors, Vec::new()))
    }

    fn network(&self, tensors: &NamedTensors) -> Result<TrainedHead, NetworkError> {
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].shallow_clone());
        let [f_a, f_b, f_1] = [0, 1, 2].map(|i: usize| self.columns.standardisations[i].share());
        let head = FusionHead::new(self.config, parameters);
        let share = |linear: &LinearStart| linear.weights.each_ref().map(Tensor::shallow_clone);
        let linear = self.linear.as_ref().map(share);
        Ok(TrainedHead { head, inputs: [f_a, f_b, f_1], labels: self.data.label_scale(), linear })
    }

    fn step(&self, network: &TrainedHead, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let [f_a, f_b, f_1] = &three(&self.columns.batch(batch));
        let masks = self.columns.masks(batch);
        let head = &network.head;
        let output = head.forward(f_a, f_b, f_1, masks.as_ref());
        let mut error = &output.score - &batch.targets; // (b,)
        if let Some(linear) = &self.linear {
            error += linear.of_rows.index_select(0, &Tensor::from_slice(&batch.rows));
        }
        let sum = error.square().sum(Kind::Double).double_value(&[]);
        if !sum.is_finite() {
            return Ok(StepLoss::Known(sum));
        }
        let n = error.size()[0] as f64;
        let gradients = head.backward(&output, masks.as_ref(), &(error * (2.0 / n)));
        // Weights and biases in the order of their names.
        let layers = [
            (&gradients.semantic, f_a),
            (&gradients.coherence, f_b),
            (&gradients.quality, f_1),
            (&gradients.gate, &output.concatenated),
            (&gradients.output, &output.fused),
        ];
        weights.update(batch.learning_rate, |name| {
            let position = PARAMETER_NAMES.iter().position(|parameter| *parameter == name).expect("a head's parameter");
            let (d_output, inputs) = layers[position / 2];
            if position.is_multiple_of(2) {
                Gradient::Product { d_output, inputs }
            } else {
                Gradient::Whole(d_output.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float))
            }
        });
        Ok(StepLoss::Known(sum))
    }

    fn validate(&self, network: &TrainedHead) -> Result<Validated, RecipeError> {
        let scores = network.score(&three(&self.validation)).score;
        Ok(Validated { scores, ..Validated::default() })
    }

    fn export(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        store.put(&models::head_path(&self.data.run), self.network(&tensors)?.to_bytes())?;
        let HeadRecipe { semantic, quality, settings } = self.recipe;
        let ridge = if settings.ridge { Some(self.ridge(store)?) } else { None };
        Ok(Exported { semantic: semantic.clone(), quality: quality.clone(), ridge, kernel_ridge: None })
    }
}

/// Ridge regression failed.
#[derive(Debug, thiserror::Error)]
#[error("run `{run}`: ridge regression failed")]
struct RidgeError {
    run: PartitionName,
    source: TchError,
}

impl HeadLesson<'_> {
    /// Fits ridge regression on the same columns and writes its scores.
    fn ridge(&self, store: &Store) -> Result<RidgeRecord, RecipeError> {
        let RunData { run, rows: [train, validation, _], train_mos, validation_mos, image_ids, .. } = self.data;
        let (scores, record) = ridge::fit(&three(&self.columns.raw), train, validation, train_mos, validation_mos)
            .map_err(|source| RidgeError { run: run.clone(), source })?;
        let by_id: BTreeMap<ImageId, f64> = image_ids.iter().copied().zip(scores).collect();
        let json = serde_json::to_vec(&by_id).expect("ids and numbers are plain data");
        store.put(&models::ridge_path(run), json)?;
        Ok(record)
    }
}
