//! ILNIQE: distances between the patches of an image and pristine ones, in an enriched feature space.
//!
//! Source: Zhang, Zhang, Bovik, "A feature-enriched completely blind image quality evaluator", IEEE TIP 2015, and the
//! authors' release with `ilniqe_templateModel.mat`. The image is resized to 524 × 524 and cut into 6 × 6 blocks of 84
//! × 84, or 42 × 42 at half size. Per scale a block has 234 features: NIQE's 18 of the luminance, and statistics of the
//! gradients, of the logarithmic colours, and of the responses to log-Gabor filters with their gradients. Lower is
//! better.

use std::path::Path;

use nalgebra::{DMatrix, DVector};

use super::derivatives::{DerivativeFits, Gradient, derivative_fits};
use super::elementary::ln;
use super::gaussians::Asymmetric;
use super::imresize;
use super::loggabor::{Bank, N_FILTERS};
use super::moments::Sums;
use super::nss::{Block, block_features, mscn};
use super::params::{ParamsError, ParamsFile};
use super::plane::{self, Border, Plane, blur_and_halve};
use super::score_error::ScoreError;
use super::weibull::Weibull;
use super::wide;
use agiqa_images::RgbImage8;
use agiqa_matlab::{Matrix, Value};

/// Features of a block at one scale.
pub const N_SCALE_FEATURES: usize = 234;

/// Features of a block.
pub const N_FEATURES: usize = 2 * N_SCALE_FEATURES;

/// Blocks of an image.
pub const N_BLOCKS: usize = N_ACROSS * N_ACROSS;

/// File of the release.
pub const FILE: &str = "ilniqe_templateModel.mat";

/// Side that images are resized to, pixels.
const SIDE_PX: u32 = 524;

/// Blocks across and down.
const N_ACROSS: usize = 6;

/// Side of a block at full size, pixels.
const BLOCK_PX: usize = 84;

/// Features after projection.
const N_PROJECTED: usize = 430;

/// Least number of blocks with defined features for a covariance.
const MIN_BLOCKS: usize = 2;

/// Added to a colour level before its logarithm.
const LOG_OFFSET: f64 = 1e-5;

/// Replaces an infinite feature, such as the shape of samples that are all equal.
const INSTEAD_OF_INFINITY: f64 = 10_000.0;

/// Features of all blocks, column by column from the left. An undefined feature is NaN.
pub type BlockFeatures = Vec<[f64; N_FEATURES]>;

/// The distribution of the features of pristine photographs, and the filters.
pub struct Ilniqe {
    extractor: Extractor,
    /// Mean of the features before projection.
    template_mean: DVector<f64>,
    /// Maps features to projected features, in which the pristine covariance is the identity.
    whitening: DMatrix<f64>,
    /// The pristine mean in the projected space.
    whitened_mean: DVector<f64>,
}

impl Ilniqe {
    /// Reads [`FILE`] in `folder` and prepares the filters.
    ///
    /// # Errors
    /// A file is missing, damaged, of another kind, or made for another number of features.
    pub fn load(folder: &Path) -> Result<Self, ParamsError> {
        let file = ParamsFile::read(folder, FILE)?;
        let sizes = [(1, N_PROJECTED), (N_PROJECTED, N_PROJECTED), (N_FEATURES, 1), (N_FEATURES, N_PROJECTED)];
        let place = "variable `templateModel`";
        let expected = format!("{} cells", sizes.len());
        let cells =
            match agiqa_matlab::variable(&file.bytes, "templateModel").map_err(|error| file.not_matlab(error))? {
                Value::Cells(cells) if cells.len() == sizes.len() => cells,
                other => return Err(file.wrong(place, expected, other.class())),
            };
        let mut matrices = cells.into_iter().zip(sizes).enumerate().map(|(index, (cell, (n_rows, n_columns)))| {
            let name = format!("templateModel{{{}}}", index + 1);
            let matrix = cell.matrix(&name, n_rows, n_columns).map_err(|error| file.not_matlab(error))?;
            let Matrix { n_rows, n_columns, values } = matrix;
            Ok::<_, ParamsError>(DMatrix::from_vec(n_rows, n_columns, values))
        });
        let mut next = || matrices.next().expect("as many matrices as sizes");
        let (mean, covariance, template_mean, directions) = (next()?, next()?, next()?, next()?);
        let not_definite = || {
            let expected = "a positive definite covariance";
            file.wrong("variable `templateModel{2}`", expected, "a matrix that is not positive definite")
        };
        let factor = covariance.cholesky().ok_or_else(not_definite)?.unpack();
        let whitening = factor.solve_lower_triangular(&directions.transpose()).ok_or_else(not_definite)?;
        let whitened_mean = factor.solve_lower_triangular(&mean.transpose()).ok_or_else(not_definite)?;
        Ok(Self {
            extractor: Extractor::default(),
            template_mean: template_mean.column(0).into_owned(),
            whitening,
            whitened_mean: whitened_mean.column(0).into_owned(),
        })
    }

    /// The score of `image`: the mean over its blocks of the Mahalanobis distance to the pristine mean, under the
    /// average of both covariances.
    ///
    /// # Errors
    /// Fewer than two of the image's blocks have defined statistics.
    pub fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        let distances = self.distances(&self.extractor.features(image))?;
        Ok(distances.iter().sum::<f64>() / distances.len() as f64)
    }

    /// Distance of each block. A block with an undefined feature takes the position of the other blocks' mean.
    ///
    /// In whitened space the average covariance is `(I + AᵀA) / 2`, with a row of A per block. So, by Woodbury's
    /// identity, the system to solve has as many equations as blocks instead of features.
    pub(super) fn distances(&self, blocks: &[[f64; N_FEATURES]]) -> Result<Vec<f64>, ScoreError> {
        let is_usable = |block: &&[f64; N_FEATURES]| block.iter().all(|value| value.is_finite());
        let usable: Vec<f64> = blocks.iter().filter(is_usable).flatten().copied().collect();
        let n_usable = usable.len() / N_FEATURES;
        if n_usable < MIN_BLOCKS {
            return Err(ScoreError::Flat);
        }
        let mut features = DMatrix::from_vec(N_FEATURES, n_usable, usable);
        for mut column in features.column_iter_mut() {
            column -= &self.template_mean;
        }
        let whitened = &self.whitening * features; // (430, n)
        let centre = whitened.column_mean();
        let mut spread = whitened.clone();
        for mut column in spread.column_iter_mut() {
            column -= &centre;
        }
        spread /= ((n_usable - 1) as f64).sqrt();
        let mut inner = spread.tr_mul(&spread); // (n, n)
        for index in 0..n_usable {
            inner[(index, index)] += 1.0;
        }
        let factor = inner.cholesky().ok_or(ScoreError::Flat)?;
        let distance = |position: &DVector<f64>| {
            let difference = position - &self.whitened_mean;
            let along = spread.tr_mul(&difference);
            (2.0 * (difference.norm_squared() - along.dot(&factor.solve(&along)))).sqrt()
        };
        let mut distances: Vec<f64> = whitened.column_iter().map(|position| distance(&position.into_owned())).collect();
        if n_usable < blocks.len() {
            distances.resize(blocks.len(), distance(&centre));
        }
        Ok(distances)
    }
}

/// One scale: its filters and its blocks.
struct Scale {
    bank: Bank,
    gradient: Gradient,
    block_px: usize,
}

/// Computes features. It needs no parameter file.
pub struct Extractor {
    scales: [Scale; 2],
}

impl Default for Extractor {
    fn default() -> Self {
        let scale = |number: f64, block_px: usize| Scale {
            bank: Bank::new(N_ACROSS * block_px, 2.4 / number.powf(0.87)),
            gradient: Gradient::new(1.66 / number.powf(0.28)),
            block_px,
        };
        Self { scales: [scale(1.0, BLOCK_PX), scale(2.0, BLOCK_PX / 2)] }
    }
}

impl Extractor {
    /// The features of the blocks of `image`, which may have any size.
    ///
    /// Per scale: NIQE's 18; scale and shape of the gradient magnitudes of O1, O2, O3; mean and variance of intensity,
    /// blue-yellow and red-green; shape and mean scale of the derivatives (x, y) of O1, O2, O3, of the 12 responses
    /// (real, imaginary) and of their derivatives (x and y of real, then of imaginary); scale and shape of their
    /// gradient magnitudes.
    pub fn features(&self, image: &RgbImage8) -> BlockFeatures {
        let resized = imresize::resize(image, SIDE_PX, SIDE_PX);
        let side = N_ACROSS * BLOCK_PX;
        let channel = |channel: usize| {
            let mut plane = Plane::zeros(side, side);
            for y in 0..side {
                let row = &resized.pixels[3 * y * SIDE_PX as usize..];
                for (value, rgb) in plane.row_mut(y).iter_mut().zip(row.chunks_exact(3)) {
                    *value = f64::from(rgb[channel]);
                }
            }
            plane
        };
        let colours = [channel(0), channel(1), channel(2)];
        let opponents = OPPONENTS.map(|weights| combine(&colours, weights));
        let mut blocks = vec![[0.0; N_FEATURES]; N_BLOCKS];
        let halve = |plane: &Plane| blur_and_halve(plane, &plane::gaussian::<6>(0.9));
        let halved = (opponents.each_ref().map(halve), colours.each_ref().map(halve));
        for (scale, (opponents, colours)) in [(opponents, colours), halved].into_iter().enumerate() {
            let features = self.scales[scale].features(&opponents, &colours);
            for (block, values) in blocks.iter_mut().zip(features) {
                block[scale * N_SCALE_FEATURES..][..N_SCALE_FEATURES].copy_from_slice(&values);
            }
        }
        for value in blocks.as_flattened_mut().iter_mut().filter(|value| value.is_infinite()) {
            *value = INSTEAD_OF_INFINITY;
        }
        blocks
    }
}

/// Weights of red, green and blue in O1, O2 and O3.
const OPPONENTS: [[f64; 3]; 3] = [[0.3, 0.04, -0.35], [0.34, -0.6, 0.17], [0.06, 0.63, 0.27]];

fn combine([red, green, blue]: &[Plane; 3], weights: [f64; 3]) -> Plane {
    let sums = red
        .values
        .iter()
        .zip(green.values.iter().zip(&blue.values))
        .map(|(r, (g, b))| weights[0] * r + weights[1] * g + weights[2] * b);
    Plane { width: red.width, height: red.height, values: sums.collect() }
}

// Index of the first feature of each group within a scale.
const OPPONENT_GRADIENTS: usize = 18;
const COLOURS: usize = OPPONENT_GRADIENTS + 6;
const OPPONENT_DERIVATIVES: usize = COLOURS + 6;
const RESPONSES: usize = OPPONENT_DERIVATIVES + 12;
const RESPONSE_DERIVATIVES: usize = RESPONSES + 4 * N_FILTERS;
const RESPONSE_GRADIENTS: usize = RESPONSE_DERIVATIVES + 8 * N_FILTERS;
const _: () = assert!(RESPONSE_GRADIENTS + 4 * N_FILTERS == N_SCALE_FEATURES);

impl Scale {
    /// The features of this scale's blocks, column by column.
    fn features(&self, opponents: &[Plane; 3], colours: &[Plane; 3]) -> Vec<[f64; N_SCALE_FEATURES]> {
        let mut features = vec![[0.0; N_SCALE_FEATURES]; N_BLOCKS];
        self.luminance(&opponents[2], &mut features);
        for (index, opponent) in opponents.iter().enumerate() {
            let starts = [OPPONENT_DERIVATIVES + 4 * index, OPPONENT_GRADIENTS + 2 * index];
            self.derivatives(opponent, starts, &mut features);
        }
        self.colours(colours, &mut features);
        self.responses(&opponents[2], &mut features);
        features
    }

    fn block<'a>(&self, plane: &'a Plane, index: usize) -> Block<'a> {
        let (x, y) = (index / N_ACROSS * self.block_px, index % N_ACROSS * self.block_px);
        Block { plane, x, y, width: self.block_px, height: self.block_px }
    }

    fn luminance(&self, plane: &Plane, features: &mut [[f64; N_SCALE_FEATURES]]) {
        wide::dispatch(
            #[inline(always)]
            || {
                let normalised = mscn(plane, &plane::gaussian::<5>(5.0 / 6.0), Border::Replicate);
                for (index, values) in features.iter_mut().enumerate() {
                    values[..18].copy_from_slice(&block_features(&self.block(&normalised, index)));
                }
            },
        );
    }

    /// Fits to the derivatives of `plane`, from `starts[0]` on, and to their magnitude, from `starts[1]` on.
    fn derivatives(&self, plane: &Plane, starts: [usize; 2], features: &mut [[f64; N_SCALE_FEATURES]]) {
        let fits = wide::dispatch(
            #[inline(always)]
            || derivative_fits(plane, &self.gradient, self.block_px),
        );
        for (values, DerivativeFits { x, y, magnitude: Weibull { scale, shape } }) in features.iter_mut().zip(fits) {
            values[starts[0]..][..4].copy_from_slice(&[x.alpha, mean_scale(&x), y.alpha, mean_scale(&y)]);
            values[starts[1]..][..2].copy_from_slice(&[scale, shape]);
        }
    }

    /// Mean and variance of the logarithmic colours, after their mean over the image is subtracted.
    fn colours(&self, colours: &[Plane; 3], features: &mut [[f64; N_SCALE_FEATURES]]) {
        let [red, green, blue] = colours.each_ref().map(|plane| {
            wide::dispatch(
                #[inline(always)]
                || logarithms(plane),
            )
        });
        let logarithms = [red, green, blue];
        let third = 1.0 / 3.0_f64.sqrt();
        let sixth = 1.0 / 6.0_f64.sqrt();
        let half = 1.0 / 2.0_f64.sqrt();
        let weights = [[third; 3], [sixth, sixth, -2.0 * sixth], [half, -half, 0.0]];
        for (start, weights) in (COLOURS..).step_by(2).zip(weights) {
            let plane = combine(&logarithms, weights);
            for (index, values) in features.iter_mut().enumerate() {
                values[start..][..2].copy_from_slice(&mean_and_variance(&self.block(&plane, index)));
            }
        }
    }

    fn responses(&self, plane: &Plane, features: &mut [[f64; N_SCALE_FEATURES]]) {
        let mut workspace = self.bank.workspace();
        let spectrum = self.bank.spectrum(plane, &mut workspace);
        let empty = || Plane::zeros(plane.width, plane.height);
        let (mut real, mut imaginary) = (empty(), empty());
        for filter in 0..N_FILTERS {
            self.bank.respond(&spectrum, filter, &mut workspace, [&mut real, &mut imaginary]);
            for (index, part) in (2 * filter..).zip([&real, &imaginary]) {
                wide::dispatch(
                    #[inline(always)]
                    || {
                        for (block, values) in features.iter_mut().enumerate() {
                            let fit = sample_fit(&self.block(part, block));
                            values[RESPONSES + 2 * index..][..2].copy_from_slice(&[fit.alpha, mean_scale(&fit)]);
                        }
                    },
                );
                let starts = [RESPONSE_DERIVATIVES + 4 * index, RESPONSE_GRADIENTS + 2 * index];
                self.derivatives(part, starts, features);
            }
        }
    }
}

fn mean_scale(fit: &Asymmetric) -> f64 {
    (fit.left + fit.right) / 2.0
}

#[inline(always)]
fn sample_fit(block: &Block<'_>) -> Asymmetric {
    let mut sums = Sums::default();
    for y in 0..block.height {
        sums.add(block.row(y));
    }
    Asymmetric::fit(&sums.moments())
}

/// `ln(level + 1e-5)` minus its mean.
#[inline(always)]
fn logarithms(plane: &Plane) -> Plane {
    let mut logarithms = Plane { width: plane.width, height: plane.height, values: plane.values.clone() };
    for value in &mut logarithms.values {
        *value = ln(*value + LOG_OFFSET);
    }
    let mean = logarithms.values.iter().sum::<f64>() / logarithms.values.len() as f64;
    for value in &mut logarithms.values {
        *value -= mean;
    }
    logarithms
}

/// Mean and variance (n - 1) of the values of `block`.
fn mean_and_variance(block: &Block<'_>) -> [f64; 2] {
    let n = (block.width * block.height) as f64;
    let values = || (0..block.height).flat_map(|y| block.row(y));
    let mean = values().sum::<f64>() / n;
    let squares: f64 = values().map(|value| (value - mean) * (value - mean)).sum();
    [mean, squares / (n - 1.0)]
}
