//! Features: runs an extractor over images and keeps its vectors, once per image content and extractor fingerprint.
//!
//! Input: the `images` table of a dataset, or a bare folder of images ([`ImageSource`]). Output: rows of `semantic`
//! and `quality` (one row per image, never null, always finite) and `rejects` of stage `features`; for a bare folder
//! also its `images` table, so that its images can be scored. What is computed is exactly what the store lacks.
//!
//! ```text
//! images ─ plan ─► decode + preprocess (threads) ─► network (one thread, fixed batches) ─► parts (one thread)
//! ```
//!
//! An extractor is three things: settings that can be checked and fingerprinted without weights ([`ExtractorKind`]), a
//! [`Preprocessor`] that any thread may use, and the network itself ([`Extractor`]). A new one is a module beside
//! [`dinov2`], a variant of [`ExtractorName`] and a line in [`resolve`].

mod settings;

pub use settings::{DeviceChoice, Dtype, ExtractorName, FeatureSettings, SettingsError, cpu_has_bf16};

mod extractor;

pub use extractor::{
    BatchFeatures, ExtractError, Extractor, ExtractorKind, FeaturePair, FeatureSets, Preprocessor, SetFeatures,
    Unusable, feature_sets, resolve,
};

pub(crate) use extractor::catching;

pub mod pooling;

mod pixels;

pub mod dinov2;

pub mod maniqa;
pub mod mplug_owl2;
pub mod nss;

mod source;

pub use source::{FolderError, ImageSource};

pub(crate) use source::{Candidate, Candidates, KnownSource, Unreadable};

mod plan;

mod decode;

pub(crate) use decode::{Failure, decode_verified};

mod writer;

mod join;

pub use join::{JoinError, JoinStage};

mod stage;

pub use stage::{FeatureError, FeatureStage};
