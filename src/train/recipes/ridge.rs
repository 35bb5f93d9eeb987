//! Ridge regression on the same columns: the result of a linear model, to compare the head with.
//!
//! If columns outnumber images, the dual form is the smaller one. Over the standardised columns Z (all three inputs
//! concatenated), the kernel is K = Z Zᵀ, scaled so that its training diagonal has mean 1. The solution is (K_tt + λ I)
//! a = y - ȳ, and a score is k · a + ȳ. λ is the value of [`LAMBDAS`] that does best on the validation part.

use tch::{Kind, TchError, Tensor};

use crate::train::trainer::selection_score;
use agiqa_judge::metrics;
use agiqa_nets::trained_head::Standardisation;
use agiqa_store::tables::models::RidgeRecord;

/// Candidates, relative to the kernel's mean diagonal. Below the first one, a thousandth of the kernel decides the
/// result. Above the last one, all scores shrink to the mean.
pub(super) const LAMBDAS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// Columns of the kernel's sum per product. This bounds the memory of standardised copies.
const CHUNK: i64 = 1024;

/// Scores of every row of `features` by the ridge regression that is best on the validation part.
///
/// # Errors
/// Fails if libtorch fails, e.g. if memory runs short.
pub(super) fn fit(
    features: &[Tensor; 3],
    train: &[i64],
    validation: &[i64],
    train_mos: &[f64],
    validation_mos: &[f64],
) -> Result<(Vec<f64>, RidgeRecord), TchError> {
    let _no_grad = tch::no_grad_guard();
    let train_rows = Tensor::from_slice(train);
    let n = features[0].size()[0];
    let n_train = train.len() as i64;
    let mut kernel = Tensor::f_zeros([n, n_train], (Kind::Float, tch::Device::Cpu))?;
    for columns in features {
        let dim = columns.size()[1];
        let mut start = 0;
        while start < dim {
            let xs = columns.narrow(1, start, CHUNK.min(dim - start));
            let train_columns = xs.f_index_select(0, &train_rows)?;
            let standardisation = Standardisation::fit(&train_columns);
            let train_columns = standardisation.apply(&train_columns);
            let _ = kernel.f_addmm_(&standardisation.apply(&xs), &train_columns.tr())?;
            start += CHUNK;
        }
    }
    let kernel = kernel.f_to_kind(Kind::Double)?;
    let train_kernel = kernel.f_index_select(0, &train_rows)?; // (n_train, n_train)
    let diagonal = train_kernel.diagonal(0, 0, 1).mean(Kind::Double).double_value(&[]);
    // If all columns are constant, no regression is possible, and every score is the mean.
    let unit = if diagonal > 0.0 { diagonal } else { 1.0 };
    let mean = train_mos.iter().sum::<f64>() / train_mos.len() as f64;
    let centred: Vec<f64> = train_mos.iter().map(|mos| mos - mean).collect();
    let centred = Tensor::from_slice(&centred).unsqueeze(1);
    let mut best: Option<(f64, Vec<f64>, RidgeRecord)> = None;
    for lambda in LAMBDAS {
        let regularised = train_kernel.copy();
        let _ = regularised.diagonal(0, 0, 1).g_add_scalar_(lambda * unit);
        let (factor, info) = regularised.f_linalg_cholesky_ex(false, false)?;
        if info.int64_value(&[]) != 0 {
            // Rounding made the matrix indefinite: this λ is too small for these columns.
            continue;
        }
        let weights = centred.f_cholesky_solve(&factor, false)?;
        let scores = kernel.f_matmul(&weights)?.squeeze_dim(1) + mean;
        let scores: Vec<f64> = Vec::try_from(scores)?;
        let validation_scores: Vec<f64> = validation.iter().map(|row| scores[*row as usize]).collect();
        let validation_srcc = metrics::srcc(&validation_scores, validation_mos);
        let validation_plcc = metrics::plcc(&validation_scores, validation_mos);
        let score = selection_score(validation_srcc, validation_plcc, &validation_scores, validation_mos);
        if best.as_ref().is_none_or(|(best, _, _)| score > *best) {
            best = Some((score, scores, RidgeRecord { lambda, validation_srcc, validation_plcc }));
        }
    }
    let (_, scores, record) =
        best.ok_or_else(|| TchError::Kind("no λ makes the ridge kernel positive definite".to_owned()))?;
    Ok((scores, record))
}
