//! The interface of extractors, and their registry.

use std::panic::AssertUnwindSafe;

use serde::Serialize;

use super::clip::ClipSettings;
use super::dinov2::Dinov2Settings;
use super::embedder::load_error;
use super::maniqa::ManiqaSettings;
use super::mplug_owl2::MplugOwl2Settings;
use super::nss::NssSettings;
use super::{ExtractorName, FeatureSettings, FeatureSettingsError, NetworkSettings};
use crate::engine::{Guest, GuestError, GuestSettings, GuestWords, Loaded, Output, Task, Work};
use agiqa_store::identity::Fingerprint;
use agiqa_store::panics;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureSet, VectorColumn};
use agiqa_weights::WeightsError;

/// An error that stops an extractor as a whole.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ExtractError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] FeatureSettingsError),
    /// The extractor's weights are absent or differ from the manifest.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network could not be built from its weights.
    #[error("cannot load extractor `{extractor}`")]
    Load { extractor: ExtractorName, source: Box<dyn std::error::Error + Send + Sync> },
    /// The network failed on a batch.
    #[error("extractor `{extractor}` failed on a batch of {n_images} images")]
    Forward { extractor: ExtractorName, n_images: usize, source: tch::TchError },
    /// The extractor does not fill the wanted table.
    #[error("extractor `{extractor}` fills `{filled}` only: name another one for `{missing}`")]
    NotFilled {
        extractor: ExtractorName,
        /// The table that the extractor fills.
        filled: &'static str,
        /// The wanted table.
        missing: &'static str,
    },
}

/// An extractor's checked settings. They are enough to declare its feature sets before any weights are read.
pub trait ExtractorKind: Send + Sync {
    /// The feature sets that it fills, one or two, with fingerprints of all settings that decide their numbers.
    fn feature_sets(&self) -> FeatureSets;

    /// Reads the weights and builds the network.
    ///
    /// # Errors
    /// Weights are absent, damaged or of another shape, or the machine lacks the device or number type.
    fn load(&self) -> Result<Loaded, ExtractError>;
}

/// The feature sets that an extractor fills, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSets {
    /// Semantic features, if the extractor computes them.
    pub semantic: Option<FeatureSet>,
    /// Quality features, if the extractor computes them.
    pub quality: Option<FeatureSet>,
}

impl FeatureSets {
    /// All sets, semantic first.
    pub fn iter(&self) -> impl Iterator<Item = &FeatureSet> {
        self.semantic.iter().chain(&self.quality)
    }

    /// The set of `kind`.
    pub fn of(&self, kind: FeatureKind) -> Option<&FeatureSet> {
        match kind {
            FeatureKind::Semantic => self.semantic.as_ref(),
            FeatureKind::Quality => self.quality.as_ref(),
        }
    }
}

/// The two sets that a fusion head reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeaturePair {
    /// The set with `f_a` and `f_b`.
    pub semantic: FeatureSet,
    /// The set with `f_1`.
    pub quality: FeatureSet,
}

impl FeaturePair {
    /// The pair that two extractors make together. Both may be the same extractor.
    ///
    /// # Errors
    /// The settings are invalid, or an extractor does not fill its table.
    pub fn of(semantic: &FeatureSettings, quality: &FeatureSettings) -> Result<Self, ExtractError> {
        Ok(Self { semantic: Self::semantic_of(semantic)?, quality: Self::quality_of(quality)? })
    }

    /// The semantic half alone.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn semantic_of(settings: &FeatureSettings) -> Result<FeatureSet, ExtractError> {
        set_of(settings, FeatureKind::Semantic, FeatureKind::Quality)
    }

    /// The quality half alone.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn quality_of(settings: &FeatureSettings) -> Result<FeatureSet, ExtractError> {
        set_of(settings, FeatureKind::Quality, FeatureKind::Semantic)
    }
}

/// The set of `kind` that an extractor fills. It is an error if the extractor fills only the set of kind `other`.
fn set_of(settings: &FeatureSettings, kind: FeatureKind, other: FeatureKind) -> Result<FeatureSet, ExtractError> {
    resolve(settings)?.feature_sets().of(kind).cloned().ok_or(ExtractError::NotFilled {
        extractor: settings.network.name(),
        filled: other.part_kind().table,
        missing: kind.part_kind().table,
    })
}

/// The two sets that one extractor fills. Reads no weights.
///
/// # Errors
/// The settings are invalid, or the extractor fills only one table.
pub fn feature_sets(settings: &FeatureSettings) -> Result<FeaturePair, ExtractError> {
    FeaturePair::of(settings, settings)
}

/// The registry: checks `settings` for the extractor that they name.
///
/// # Errors
/// The settings are invalid for that extractor.
pub fn resolve(settings: &FeatureSettings) -> Result<Box<dyn ExtractorKind>, ExtractError> {
    let common = &settings.common;
    common.check()?;
    let resolve = || -> Result<Box<dyn ExtractorKind>, ExtractError> {
        Ok(match &settings.network {
            NetworkSettings::ClipB16(options) => Box::new(ClipSettings::new(options, common)?),
            NetworkSettings::Dinov2S14(options) => Box::new(Dinov2Settings::new(options, common)?),
            NetworkSettings::Maniqa(options) => Box::new(ManiqaSettings::new(options, common)?),
            NetworkSettings::MplugOwl2(options) => Box::new(MplugOwl2Settings::new(options, common)?),
            NetworkSettings::Nss(options) => Box::new(NssSettings::new(options)?),
        })
    };
    match settings.network.weights() {
        Some(weights) => panics::of_file(weights, resolve),
        None => resolve(),
    }
}

/// An extractor as a guest of the engine: one task that fills its sets together.
struct ExtractorGuest {
    name: ExtractorName,
    kind: Box<dyn ExtractorKind>,
}

impl Guest for ExtractorGuest {
    fn tasks(&self) -> Vec<Task> {
        let outputs = self.kind.feature_sets().iter().cloned().map(Output::Vectors).collect();
        vec![Task { name: self.name.to_string(), outputs }]
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        Ok(load(self.kind.as_ref(), self.name)?)
    }
}

impl GuestSettings for FeatureSettings {
    fn words(&self) -> GuestWords {
        GuestWords {
            stage: "features",
            title: format!("features {}", self.network.name()),
            unit: "images",
            done: "images have features",
            lacking: "images lack features",
            retry_hint: Some("in a pipeline, `--set extractor.NAME.retry_rejects=true` tries the rejected ones again"),
        }
    }

    fn work(&self) -> Work {
        self.common.work()
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(ExtractorGuest { name: self.network.name(), kind: resolve(self)? }))
    }
}

/// A feature set. `description` must hold all settings that decide the numbers; the fingerprint is computed from it.
pub(super) fn described_set(
    name: ExtractorName,
    kind: FeatureKind,
    description: &impl Serialize,
    columns: Vec<VectorColumn>,
) -> FeatureSet {
    let settings = serde_json::to_value(description).expect("a description is plain data");
    FeatureSet {
        extractor: PartitionName::new(name.as_str()).expect("the names of extractors are valid"),
        fingerprint: Fingerprint::builder("extractor").json("table", &kind).json("settings", &settings).finish(),
        kind,
        columns,
        settings,
    }
}

/// A vector column of `dim` values.
pub(super) fn column(name: &str, dim: usize) -> VectorColumn {
    VectorColumn { name: name.to_owned(), dim }
}

/// Loads the network of `kind`, whose extractor is called `name`.
///
/// # Errors
/// As [`ExtractorKind::load`]. A panic becomes an error, too: most of tch panics if memory is short.
fn load(kind: &dyn ExtractorKind, name: ExtractorName) -> Result<Loaded, ExtractError> {
    catching(|| kind.load()).map_err(load_error(name))?
}

/// Runs a network.
///
/// # Errors
/// A panic becomes an error: tch panics if memory is short.
pub(crate) fn catching<T>(run: impl FnOnce() -> T) -> Result<T, tch::TchError> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "the network panicked without a message".to_owned());
        tch::TchError::Torch(message)
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::features::{CommonSettings, DeviceChoice};

    /// A store keeps its features only as long as these stay.
    #[test]
    fn fingerprints_on_a_cpu_stay_those_of_the_stores_that_exist() {
        let common = CommonSettings { device: DeviceChoice::Cpu, ..CommonSettings::default() };
        let of = |network| {
            let sets = resolve(&FeatureSettings { network, common: common.clone() }).expect("defaults").feature_sets();
            sets.iter().map(|set| set.fingerprint.short()).collect::<Vec<_>>()
        };
        let clip = of(NetworkSettings::ClipB16(crate::features::clip::ClipOptions::default()));
        assert_eq!(clip, ["774271559ab033c9", "a2f29a9821560e98"]);
        let dinov2 = of(NetworkSettings::Dinov2S14(crate::features::dinov2::Dinov2Options::default()));
        assert_eq!(dinov2, ["7e04c60b87197515", "028bcb4486ca574d"]);
    }

    /// An extractor whose weights exceed the memory. It panics like tch.
    struct TooLarge;

    impl ExtractorKind for TooLarge {
        fn feature_sets(&self) -> FeatureSets {
            FeatureSets { semantic: None, quality: None }
        }

        fn load(&self) -> Result<Loaded, ExtractError> {
            panic!("CUDA out of memory. Tried to allocate 15.30 GiB")
        }
    }

    #[test]
    fn weights_that_exceed_the_memory_are_an_error_with_torchs_message_in_its_chain() {
        let error = load(&TooLarge, ExtractorName::MplugOwl2).err().expect("it panics");
        assert_eq!(error.to_string(), "cannot load extractor `mplug-owl2`");
        let cause = error.source().and_then(|cause| cause.downcast_ref::<tch::TchError>()).expect("torch's error");
        assert!(cause.to_string().contains("out of memory"), "{cause}");
        assert_eq!(crate::cli::exit::code_of_error(&error.into()), crate::cli::exit::EXIT_RETRY);
    }
}
