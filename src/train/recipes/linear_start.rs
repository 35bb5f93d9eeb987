//! Ridge regression as the start of a training: a fixed linear part of the score.

use tch::{Device, Kind, TchError, Tensor};

use super::fusion::HeadColumns;
use crate::features::catching;
use crate::train::Labels;
use crate::train::trainer::RunData;
use agiqa_nets::fusion::FusionConfig;
use agiqa_nets::kernel_ridge::Kernel;
use agiqa_nets::trained_head::linear_term;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::splits::Part;

/// Candidates of the ridge regression that a training starts from. Leave-one-out chooses.
const STRENGTHS: [f64; 6] = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2];

/// Images per product of the linear term.
const BATCH: usize = 1024;

/// Ridge regression on the standardised columns, a fixed part of the score.
pub(super) struct LinearStart {
    /// The strength of the regression.
    pub(super) strength: f64,
    /// Per column, `(d,)`.
    pub(super) weights: [Tensor; 3],
}

impl LinearStart {
    /// Fits to the training part of `data`, with `shrinkage` times the strength that leave-one-out chooses.
    pub(super) fn of(data: &RunData<'_>, columns: &HeadColumns<'_>, shrinkage: f64) -> Result<Self, RidgeError> {
        let fitted = catching(|| Self::fit(data, columns, shrinkage)).and_then(std::convert::identity);
        fitted.map_err(|source| RidgeError { run: data.run.clone(), source })
    }

    /// The term of every row of `columns`, `(n,)`, on the scale of training.
    pub(super) fn of_rows(&self, data: &RunData<'_>, columns: &HeadColumns<'_>) -> Result<Tensor, RidgeError> {
        let all: Vec<i64> = (0..data.image_ids.len() as i64).collect();
        let term = |rows: &[i64]| linear_term(&self.weights, &columns.rows(rows));
        let terms = catching(|| Tensor::f_cat(&all.chunks(BATCH).map(term).collect::<Vec<_>>(), 0));
        terms.and_then(std::convert::identity).map_err(|source| RidgeError { run: data.run.clone(), source })
    }

    /// The weights, shared.
    pub(super) fn share(&self) -> [Tensor; 3] {
        self.weights.each_ref().map(Tensor::shallow_clone)
    }

    fn fit(data: &RunData<'_>, columns: &HeadColumns<'_>, shrinkage: f64) -> Result<Self, TchError> {
        let train_rows = Tensor::from_slice(data.part(Part::Train));
        // A column that the head does not read has no values.
        let read = || columns.raw.iter().zip(&columns.standardisations).filter(|(column, _)| column.size()[1] > 0);
        let rows = read().map(|(column, _)| column.f_index_select(0, &train_rows)).collect::<Result<Vec<_>, _>>()?;
        let kernel = Kernel::new(0.0, rows, read().map(|(_, standardisation)| standardisation.share()).collect());
        let targets: Vec<f64> = Vec::<f32>::try_from(data.targets())?.into_iter().map(f64::from).collect();
        let go_on = || true;
        let stopped = || TchError::Kind("it was stopped".to_owned());
        let chosen = kernel.fit(&targets, &STRENGTHS, 1, &go_on)?.ok_or_else(stopped)?;
        let shrunk = kernel.fit(&targets, &[shrinkage * chosen.lambda()], 1, &go_on)?.ok_or_else(stopped)?;
        let mut fitted = kernel.linear_weights(&shrunk.dual)?.into_iter();
        let weights = [0, 1, 2].map(|i: usize| match columns.raw[i].size()[1] {
            0 => Tensor::zeros([0], (Kind::Float, Device::Cpu)),
            _ => fitted.next().expect("one per column that is read").to_kind(Kind::Float),
        });
        Ok(Self { strength: shrunk.lambda(), weights })
    }
}

/// Ridge regression failed.
#[derive(Debug, thiserror::Error)]
#[error("run `{run}`: ridge regression failed")]
pub(super) struct RidgeError {
    pub(super) run: PartitionName,
    pub(super) source: TchError,
}

/// Initial parameters of the fusion, drawn by the run's seed. With a linear term, the output is 0 apart from it.
pub(super) fn initial_head(data: &RunData<'_>, config: FusionConfig, has_linear: bool) -> [Tensor; 10] {
    // Standardised labels have mean 0, so the output should start at 0.
    let mut output_bias = (data.settings.labels == Labels::Standardised).then_some(0.0);
    if has_linear {
        // The linear term has mean 0.
        output_bias = Some(data.targets().mean(Kind::Double).double_value(&[]) as f32);
    }
    let mut parameters = data.draws.head(config, output_bias);
    if has_linear {
        let _ = parameters[8].zero_();
    }
    parameters
}
