//! `nss`: the natural scene statistics of BRISQUE and NIQE as quality features.
//!
//! `f_1` has 72 values: BRISQUE's 36 of the whole image, then the means of NIQE's 36 over its blocks. The extractor has
//! no network and no weights. An image too small or too flat for one of the two methods is a reject.

use serde::{Deserialize, Serialize};

use super::extractor::{column, described_set};
use super::{ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError};
use crate::engine::{Loaded, OutputRows, PerImage, Unusable};
use agiqa_handcrafted::{ScoreError, brisque, niqe};
use agiqa_images::{DECODER_VERSION, ResizeFilter, RgbImage8};
use agiqa_store::tables::features::FeatureKind;

const NAME: ExtractorName = ExtractorName::Nss;

/// Version of this file and the statistics, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 1;

/// Number of values of `f_1`.
const N_VALUES: usize = brisque::N_FEATURES + niqe::N_FEATURES;

/// Allowed sides for resizing. The smallest holds two of NIQE's blocks.
const SIDES_PX: std::ops::RangeInclusive<u32> = 192..=4096;

/// A user's settings of the statistics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NssOptions {
    /// Side of the square that images are resized to, pixels. It decides the numbers. Default: images are not resized.
    pub side: Option<u32>,
}

/// Checked settings of the extractor.
#[derive(Clone, Copy, Debug)]
pub struct NssSettings {
    side_px: Option<u32>,
}

/// All settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Description {
    extractor: ExtractorName,
    code_version: u32,
    decoder_version: u32,
    /// `none`, or the method and the size of resizing.
    resize: String,
    f_1: [&'static str; 2],
}

impl NssSettings {
    /// Checks the settings. Without a side, images are not resized.
    ///
    /// # Errors
    /// The side is out of range.
    pub fn new(options: &NssOptions) -> Result<Self, ExtractError> {
        if let Some(side) = options.side.filter(|side| !SIDES_PX.contains(side)) {
            let problem = format!("expected {} to {}", SIDES_PX.start(), SIDES_PX.end());
            return Err(FeatureSettingsError::Value { key: "side", found: side.to_string(), problem }.into());
        }
        Ok(Self { side_px: options.side })
    }
}

impl ExtractorKind for NssSettings {
    fn feature_sets(&self) -> FeatureSets {
        let description = Description {
            extractor: NAME,
            code_version: CODE_VERSION,
            decoder_version: DECODER_VERSION,
            resize: self.side_px.map_or_else(|| "none".to_owned(), |side| format!("bilinear to {side} × {side}")),
            f_1: ["brisque, 36 values", "niqe, mean of 36 values over blocks"],
        };
        let quality = described_set(NAME, FeatureKind::Quality, &description, vec![column("f_1", N_VALUES)]);
        FeatureSets { semantic: None, quality: Some(quality) }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        Ok(Loaded::PerImage(Box::new(Statistics { side_px: self.side_px })))
    }
}

/// Computes the features on any thread.
struct Statistics {
    side_px: Option<u32>,
}

impl Statistics {
    fn values(&self, image: &RgbImage8) -> Result<[f64; N_VALUES], ScoreError> {
        let resized = self.side_px.map(|side| agiqa_images::resize(image, side, side, ResizeFilter::Bilinear));
        let image = resized.as_ref().unwrap_or(image);
        let mut values = [0.0; N_VALUES];
        values[..brisque::N_FEATURES].copy_from_slice(&brisque::features(image)?);
        values[brisque::N_FEATURES..].copy_from_slice(&niqe::column_means(&niqe::features(image)?)?);
        Ok(values)
    }
}

impl PerImage for Statistics {
    fn compute(&self, image: &RgbImage8, _tasks: &[usize]) -> Vec<Result<Vec<OutputRows>, Unusable>> {
        let rows = |values: [f64; N_VALUES]| {
            let f_1 = values.iter().map(|value| *value as f32).collect();
            vec![OutputRows::Vectors { columns: vec![f_1], n_tokens: 0 }]
        };
        let unusable = |error: ScoreError| Unusable { kind: error.kind(), message: error.to_string() };
        vec![self.values(image).map(rows).map_err(unusable)]
    }
}
