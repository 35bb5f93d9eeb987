//! The fusion head over cached columns: f_a and f_b from a semantic set, f_1 from a quality set.
//!
//! A run leaves `head.safetensors` and, if requested, the scores of ridge regression on the same columns.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::fusion::{HeadColumns, HeadSettings, Start};
use super::linear_start::{LinearStart, RidgeError, initial_head};
use super::ridge;
use crate::train::head_inputs::{self, HeadInputsError};
use crate::train::trainer::{
    Batch, Course, Exported, Finished, Lesson, Pace, Recipe, RecipeError, RunData, StepLoss, TrainError, Validated,
    Weights, by_steps,
};
use crate::train::{Gradient, TrainSettings};
use agiqa_nets::fusion::{FusionConfig, FusionHead, PARAMETER_NAMES};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::trained_head::TrainedHead;
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
    const NAME: &'static str = models::HEAD;

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
            Start::Ridge => {
                let linear = LinearStart::of(data, &columns, self.settings.shrinkage)?;
                let of_rows = linear.of_rows(data, &columns)?;
                Some((linear, of_rows))
            }
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
    /// What a ridge start adds, and its term of every row, `(n,)`.
    linear: Option<(LinearStart, Tensor)>,
}

/// f_a, f_b and f_1 among the columns of a head's training.
fn three(columns: &[Tensor]) -> [Tensor; 3] {
    let [f_a, f_b, f_1] = columns else { unreachable!("a head's recipe reads three columns") };
    [f_a, f_b, f_1].map(Tensor::shallow_clone)
}

impl Lesson for HeadLesson<'_> {
    type Network = TrainedHead;

    fn initial(&self) -> Result<(NamedTensors, Vec<String>), RecipeError> {
        let parameters = initial_head(self.data, self.config, self.linear.is_some());
        let tensors = PARAMETER_NAMES.into_iter().map(str::to_owned).zip(parameters).collect();
        Ok((tensors, Vec::new()))
    }

    fn network(&self, tensors: &NamedTensors) -> Result<TrainedHead, NetworkError> {
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].shallow_clone());
        let [f_a, f_b, f_1] = [0, 1, 2].map(|i: usize| self.columns.standardisations[i].share());
        let head = FusionHead::new(self.config, parameters);
        let linear = self.linear.as_ref().map(|(linear, _)| linear.share());
        Ok(TrainedHead { head, inputs: [f_a, f_b, f_1], labels: self.data.label_scale(), linear })
    }

    fn step(&self, network: &TrainedHead, weights: &mut Weights, batch: &Batch) -> Result<StepLoss, RecipeError> {
        let _no_grad = tch::no_grad_guard();
        let [f_a, f_b, f_1] = &three(&self.columns.batch(batch));
        let masks = self.columns.masks(batch);
        let head = &network.head;
        let output = head.forward(f_a, f_b, f_1, masks.as_ref());
        let mut error = &output.score - &batch.targets; // (b,)
        if let Some((_, of_rows)) = &self.linear {
            error += of_rows.index_select(0, &Tensor::from_slice(&batch.rows));
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
        Ok(Exported { inputs: models::fusion_inputs(semantic, quality), ridge, kernel_ridge: None })
    }
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
