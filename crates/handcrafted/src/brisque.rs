//! BRISQUE: 36 natural scene statistics of the whole image, mapped to a score by support vector regression.
//!
//! Source: Mittal, Moorthy, Bovik, "No-reference image quality assessment in the spatial domain", IEEE TIP 2012, and
//! the authors' release: zero padding around the image, both scales, `brisque_allmodel` and `brisque_allrange`. The
//! release passes features through text files, which rounds them to six decimals. This port does not round them. Lower
//! is better. Scores may lie below 0 and above 100.

use std::path::Path;

use super::imresize::halve;
use super::libsvm::{Ranges, Regression};
use super::nss::{Block, Fits, fits, mscn, window_7};
use super::params::{ParamsError, ParamsFile};
use super::plane::{Border, Plane, luma};
use super::score_error::ScoreError;
use super::wide;
use agiqa_images::RgbImage8;

/// Number of features.
pub const N_FEATURES: usize = 36;

/// Smallest side. At half this size the 7 × 7 window still fits into the image.
const MIN_SIDE_PX: u32 = 13;

/// Files of the release.
pub const FILES: [&str; 2] = ["brisque_allmodel", "brisque_allrange"];

/// The trained scorer.
pub struct Brisque {
    model: Regression,
    ranges: Ranges,
}

impl Brisque {
    /// Reads [`FILES`] in `folder`.
    ///
    /// # Errors
    /// A file is missing, damaged, of another kind, or made for another number of features.
    pub fn load(folder: &Path) -> Result<Self, ParamsError> {
        let [model, ranges] = FILES.map(|name| ParamsFile::read(folder, name));
        Ok(Self { model: Regression::parse(&model?, N_FEATURES)?, ranges: Ranges::parse(&ranges?, N_FEATURES)? })
    }

    /// The score of `image`.
    ///
    /// # Errors
    /// The image's statistics are undefined, see [`features`].
    pub fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        let features = features(image)?;
        Ok(self.model.predict(&self.ranges.scale(&features)))
    }
}

/// The 36 features of `image`. Per scale they are the symmetric fit's shape and mean square; then, for the neighbours
/// on the right, below, below right and below left, the product's shape, mean, and mean squares of both sides.
///
/// # Errors
/// The image at half size is smaller than the window, or it is so flat that a fit is undefined.
pub fn features(image: &RgbImage8) -> Result<[f64; N_FEATURES], ScoreError> {
    if image.width_px.min(image.height_px) < MIN_SIDE_PX {
        return Err(ScoreError::too_small(image, MIN_SIDE_PX, MIN_SIDE_PX));
    }
    let features = wide::dispatch(
        #[inline(always)]
        || {
            let first = luma(image);
            let second = halve(&first);
            let mut features = [0.0; N_FEATURES];
            for (values, plane) in features.chunks_exact_mut(N_FEATURES / 2).zip([&first, &second]) {
                scale_features(plane, values);
            }
            features
        },
    );
    if features.iter().all(|value| value.is_finite()) { Ok(features) } else { Err(ScoreError::Flat) }
}

#[inline(always)]
fn scale_features(plane: &Plane, values: &mut [f64]) {
    let normalised = mscn(plane, &window_7(), Border::Zero);
    let Fits { symmetric_alpha, mean_square, samples: _, products } = fits(&Block::whole(&normalised));
    values[..2].copy_from_slice(&[symmetric_alpha, mean_square]);
    for (values, (fit, [left, right])) in values[2..].chunks_exact_mut(4).zip(&products) {
        values.copy_from_slice(&[fit.alpha, fit.mean, left * left, right * right]);
    }
}
