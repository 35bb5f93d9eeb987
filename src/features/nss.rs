//! `nss`: natural scene statistics as quality features, the ones that BRISQUE and NIQE score images by.
//!
//! `f_1` has 72 values: BRISQUE's 36 of the whole image, then NIQE's 36, each the mean over its blocks. No network and no
//! weights; an image too small or too flat for one of the two is a reject.

use std::sync::Arc;

use serde::Serialize;

use super::{
    BatchFeatures, ExtractError, Extractor, ExtractorKind, ExtractorName, FeatureSets, FeatureSettings, Preprocessor,
    SetFeatures, SettingsError, Unusable,
};
use agiqa_handcrafted::{ScoreError, brisque, niqe};
use agiqa_images::{DECODER_VERSION, ResizeFilter, RgbImage8};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureSet, VectorColumn};

const NAME: ExtractorName = ExtractorName::Nss;

/// Counts changes of this file or of the statistics that change numbers; part of the fingerprint.
const CODE_VERSION: u32 = 1;

/// Values of `f_1`.
const N_VALUES: usize = brisque::N_FEATURES + niqe::N_FEATURES;

/// Sides that images may be resized to: two blocks of NIQE's at least.
const SIDES_PX: std::ops::RangeInclusive<u32> = 192..=4096;

/// Images per batch; there is nothing to gain by more.
const BATCH_SIZE: usize = 16;

/// Checked settings of the extractor.
#[derive(Clone, Copy, Debug)]
pub struct NssSettings {
    side_px: Option<u32>,
}

/// What decides the numbers, as it stands in `extractor.json`.
#[derive(Serialize)]
struct Description {
    extractor: ExtractorName,
    code_version: u32,
    decoder_version: u32,
    /// `none`, or what the image is resized to and how.
    resize: String,
    f_1: [&'static str; 2],
}

impl NssSettings {
    /// Checks `settings`; without a side, images are taken as they are.
    ///
    /// # Errors
    /// A side out of range; a number type, of which this extractor has no choice; weights and prompts, which it has not.
    pub fn new(settings: &FeatureSettings) -> Result<Self, ExtractError> {
        settings.without_weights("has no weights")?;
        settings.without_prompts()?;
        if let Some(side) = settings.side.filter(|side| !SIDES_PX.contains(side)) {
            let problem = format!("expected {} to {}", SIDES_PX.start(), SIDES_PX.end());
            return Err(SettingsError::Value { key: "side", found: side.to_string(), problem }.into());
        }
        if let Some(dtype) = settings.dtype {
            let problem = format!("extractor `{NAME}` computes in f64 whatever is asked for; leave it out");
            return Err(SettingsError::Value { key: "dtype", found: dtype.to_string(), problem }.into());
        }
        Ok(Self { side_px: settings.side })
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
        let kind = FeatureKind::Quality;
        let settings = serde_json::to_value(description).expect("a description is plain data");
        let quality = FeatureSet {
            extractor: PartitionName::new(NAME.as_str()).expect("the names of extractors are valid"),
            fingerprint: Fingerprint::builder("extractor").json("table", &kind).json("settings", &settings).finish(),
            kind,
            columns: vec![VectorColumn { name: "f_1".to_owned(), dim: N_VALUES }],
            settings,
        };
        FeatureSets { semantic: None, quality: Some(quality) }
    }

    fn load(&self) -> Result<Box<dyn Extractor>, ExtractError> {
        Ok(Box::new(NssExtractor(Arc::new(Statistics { side_px: self.side_px }))))
    }
}

/// Computes the features, which leaves nothing to do for a network: decoding threads work side by side.
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

impl Preprocessor for Statistics {
    fn n_values(&self) -> usize {
        N_VALUES
    }

    fn prepare(&self, image: &RgbImage8, input: &mut [f32]) -> Result<(), Unusable> {
        let values = self.values(image).map_err(|error| Unusable { kind: error.kind(), message: error.to_string() })?;
        for (out, value) in input.iter_mut().zip(values) {
            *out = value as f32;
        }
        Ok(())
    }
}

struct NssExtractor(Arc<Statistics>);

impl Extractor for NssExtractor {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.0.clone()
    }

    fn batch_size(&self) -> usize {
        BATCH_SIZE
    }

    fn on_cpu(&self) -> bool {
        // The work is in the preprocessor, so every thread is to decode, as for a network that runs elsewhere.
        false
    }

    fn forward(&mut self, inputs: &[f32], n_images: usize) -> Result<BatchFeatures, ExtractError> {
        let vectors = vec![inputs[..n_images * N_VALUES].to_vec()];
        Ok(BatchFeatures { sets: vec![SetFeatures { vectors, n_tokens: 0 }] })
    }
}
