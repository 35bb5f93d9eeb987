//! Extractors: guests of the engine that turn an image into feature vectors, kept once per image content and
//! fingerprint.
//!
//! Output: rows of `semantic` and `quality` (one row per image, never null, always finite) and `rejects` of stage
//! `features`.
//!
//! An extractor consists of three parts: settings that can be checked and fingerprinted without weights
//! ([`ExtractorKind`]), a preprocessor that any thread may use, and the network itself. A new extractor needs a module
//! next to [`dinov2`], a variant of [`ExtractorName`] and a line in [`resolve`].

mod settings;

pub use settings::{
    CommonSettings, ExtractorName, FeatureSettings, FeatureSettingsError, NetworkSettings, ReadSettings,
};

mod device;

pub use device::{DeviceChoice, Dtype, cpu_has_bf16};

mod extractor;

pub use extractor::{ExtractError, ExtractorKind, FeaturePair, FeatureSets, feature_sets, resolve};

pub(crate) use extractor::catching;

mod embedder;

pub(crate) use embedder::Precision;

pub mod pooling;

pub mod clip;
pub mod dinov2;

pub mod maniqa;
pub mod mplug_owl2;
pub mod nss;

mod backbone;

pub(crate) use backbone::Backbone;
pub use backbone::BackboneError;

mod join;

pub use join::{JoinError, JoinStage};

/// Computes the missing features of one extractor for the images of one source.
pub type FeatureStage = crate::engine::ImageStage<FeatureSettings>;
