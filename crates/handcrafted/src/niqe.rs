//! NIQE: distance between the patch statistics of an image and of pristine photographs.
//!
//! Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer", IEEE SPL 2013, and the
//! authors' release with `niqe_modelparameters.mat`: blocks of 96 × 96 at full and 48 × 48 at half size, replicated
//! borders, and no selection of sharp blocks for scoring. Lower is better.

use std::path::Path;

use nalgebra::{DMatrix, DVector};

use super::imresize::halve;
use super::nss::{Block, block_features, mscn, window_7};
use super::params::{ParamsError, ParamsFile};
use super::plane::{Border, luma};
use super::score_error::ScoreError;
use super::wide;
use agiqa_images::RgbImage8;

/// Number of features.
pub const N_FEATURES: usize = 36;

/// File of the release.
pub const FILE: &str = "niqe_modelparameters.mat";

/// Side of a block at full size, pixels.
const BLOCK_PX: usize = 96;

/// Least number of blocks with defined features for a covariance.
const MIN_BLOCKS: usize = 2;

/// Distribution of the features of pristine photographs.
pub struct Niqe {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

/// Features of the blocks of an image, column by column from the left. An undefined feature is NaN.
pub type BlockFeatures = Vec<[f64; N_FEATURES]>;

impl Niqe {
    /// Reads [`FILE`] in `folder`.
    ///
    /// # Errors
    /// A file is missing, damaged, of another kind, or made for another number of features.
    pub fn load(folder: &Path) -> Result<Self, ParamsError> {
        let file = ParamsFile::read(folder, FILE)?;
        let matrix = |name: &str, n_rows| {
            agiqa_matlab::variable(&file.bytes, name)
                .and_then(|value| value.matrix(name, n_rows, N_FEATURES))
                .map_err(|error| file.not_matlab(error))
        };
        let mean = DVector::from_vec(matrix("mu_prisparam", 1)?.values);
        let covariance = DMatrix::from_vec(N_FEATURES, N_FEATURES, matrix("cov_prisparam", N_FEATURES)?.values);
        if covariance.clone().cholesky().is_none() {
            let expected = "a positive definite covariance";
            return Err(file.wrong("variable `cov_prisparam`", expected, "a matrix that is not positive definite"));
        }
        Ok(Self { mean, covariance })
    }

    /// The score of `image`: the Mahalanobis distance of its blocks' mean under the average of both covariances.
    ///
    /// # Errors
    /// The image has fewer than two blocks, or fewer than two blocks with defined statistics.
    pub fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        let blocks = features(image)?;
        let mean = column_means(&blocks)?;
        let usable: Vec<f64> =
            blocks.iter().filter(|block| block.iter().all(|value| !value.is_nan())).flatten().copied().collect();
        let n_usable = usable.len() / N_FEATURES;
        if n_usable < MIN_BLOCKS {
            return Err(ScoreError::Flat);
        }
        let mut centred = DMatrix::from_vec(N_FEATURES, n_usable, usable);
        let centre = centred.column_mean();
        for mut column in centred.column_iter_mut() {
            column -= &centre;
        }
        let covariance = &centred * centred.transpose() / (n_usable - 1) as f64;
        let average = (&self.covariance + covariance) / 2.0;
        let difference = &self.mean - DVector::from_column_slice(&mean);
        // Positive definite because the pristine covariance is.
        let factor = average.cholesky().ok_or(ScoreError::Flat)?;
        Ok(difference.dot(&factor.solve(&difference)).sqrt())
    }
}

/// Mean of each feature over the blocks in which it is defined.
///
/// # Errors
/// A feature is undefined in every block.
pub fn column_means(blocks: &[[f64; N_FEATURES]]) -> Result<[f64; N_FEATURES], ScoreError> {
    let means = std::array::from_fn(|index| {
        let defined = blocks.iter().map(|block| block[index]).filter(|value| !value.is_nan());
        let (n, sum) = defined.fold((0_u32, 0.0), |(n, sum), value| (n + 1, sum + value));
        sum / f64::from(n)
    });
    if means.iter().all(|mean: &f64| mean.is_finite()) { Ok(means) } else { Err(ScoreError::Flat) }
}

/// The features of the blocks of `image`, cut from its top left.
///
/// Per scale: shape and mean scale of the samples; then, for the neighbours on the right, below, below right and below
/// left, the product's shape, mean, left and right scale.
///
/// # Errors
/// The image has fewer than two blocks.
pub fn features(image: &RgbImage8) -> Result<BlockFeatures, ScoreError> {
    let (width, height) = (image.width_px as usize, image.height_px as usize);
    let (n_across, n_down) = (width / BLOCK_PX, height / BLOCK_PX);
    if n_across * n_down < MIN_BLOCKS {
        let block_px = BLOCK_PX as u32;
        let (min_width_px, min_height_px) =
            if width >= height { (2 * block_px, block_px) } else { (block_px, 2 * block_px) };
        return Err(ScoreError::too_small(image, min_width_px, min_height_px));
    }
    Ok(wide::dispatch(
        #[inline(always)]
        || {
            let first = luma(image).top_left(n_across * BLOCK_PX, n_down * BLOCK_PX);
            let second = halve(&first);
            let mut blocks = vec![[0.0; N_FEATURES]; n_across * n_down];
            for (scale, plane) in [first, second].iter().enumerate() {
                let normalised = mscn(plane, &window_7(), Border::Replicate);
                let side = BLOCK_PX >> scale;
                for (index, features) in blocks.iter_mut().enumerate() {
                    let (x, y) = (index / n_down * side, index % n_down * side);
                    let block = Block { plane: &normalised, x, y, width: side, height: side };
                    features[18 * scale..][..18].copy_from_slice(&block_features(&block));
                }
            }
            blocks
        },
    ))
}
