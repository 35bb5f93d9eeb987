//! What every extractor is, and the registry of those there are.

use std::panic::AssertUnwindSafe;

use serde::Serialize;
use tch::{Device, Tensor};

use super::dinov2::Dinov2Settings;
use super::maniqa::ManiqaSettings;
use super::mplug_owl2::MplugOwl2Settings;
use super::nss::NssSettings;
use super::{DeviceChoice, Dtype, ExtractorName, FeatureSettings, SettingsError};
use crate::engine::{Guest, GuestError, GuestSettings, GuestWords, Loaded, Output, Task, Work};
use agiqa_store::identity::Fingerprint;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureSet, VectorColumn};
use agiqa_weights::WeightsError;
use agiqa_weights::by_hand::ByHandError;

/// What keeps an extractor as a whole from working.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Settings that make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The extractor's weights are absent or not what the manifest says.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights that are placed by hand are absent or not whole.
    #[error(transparent)]
    ByHand(#[from] ByHandError),
    /// The network could not be built from its weights.
    #[error("cannot load extractor `{extractor}`")]
    Load {
        /// The extractor.
        extractor: ExtractorName,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network failed on a batch.
    #[error("extractor `{extractor}` failed on a batch of {n_images} images")]
    Forward {
        /// The extractor.
        extractor: ExtractorName,
        /// Images in the batch.
        n_images: usize,
        /// Cause, e.g. that memory ran short.
        source: tch::TchError,
    },
    /// One extractor was asked for tables that it does not fill.
    #[error("extractor `{extractor}` fills `{filled}` only: name another one for `{missing}`")]
    NotFilled {
        /// The extractor.
        extractor: ExtractorName,
        /// The table it fills.
        filled: &'static str,
        /// The table that was asked for.
        missing: &'static str,
    },
}

/// An extractor's checked settings: enough to say what it would write, before any weights are read.
pub trait ExtractorKind: Send + Sync {
    /// The feature sets that it fills, one or two, with fingerprints of everything that decides their numbers.
    fn feature_sets(&self) -> FeatureSets;

    /// Reads the weights and builds the network.
    ///
    /// # Errors
    /// Weights that are absent, damaged or of another shape; a device or number type that this machine lacks.
    fn load(&self) -> Result<Loaded, ExtractError>;
}

/// The feature sets that an extractor fills, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSets {
    /// Semantic features, where the extractor makes them.
    pub semantic: Option<FeatureSet>,
    /// Quality features, where the extractor makes them.
    pub quality: Option<FeatureSet>,
}

impl FeatureSets {
    /// The sets there are, semantic first.
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
    /// `f_a` and `f_b`.
    pub semantic: FeatureSet,
    /// `f_1`.
    pub quality: FeatureSet,
}

impl FeaturePair {
    /// The pair that two extractors make together; they may be one and the same.
    ///
    /// # Errors
    /// Settings that make no sense, and an extractor that does not fill the table it is named for.
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

/// The set of `kind` that an extractor fills, which may fill only the `other`.
fn set_of(settings: &FeatureSettings, kind: FeatureKind, other: FeatureKind) -> Result<FeatureSet, ExtractError> {
    resolve(settings)?.feature_sets().of(kind).cloned().ok_or(ExtractError::NotFilled {
        extractor: settings.extractor,
        filled: other.part_kind().table,
        missing: kind.part_kind().table,
    })
}

/// The two sets that one extractor fills; reads no weights.
///
/// # Errors
/// Settings that make no sense, and an extractor that fills only one table.
pub fn feature_sets(settings: &FeatureSettings) -> Result<FeaturePair, ExtractError> {
    FeaturePair::of(settings, settings)
}

/// The registry: checks `settings` for the extractor that they name.
///
/// # Errors
/// Settings that make no sense to that extractor.
pub fn resolve(settings: &FeatureSettings) -> Result<Box<dyn ExtractorKind>, ExtractError> {
    Ok(match settings.extractor {
        ExtractorName::Dinov2S14 => Box::new(Dinov2Settings::new(settings)?),
        ExtractorName::Nss => Box::new(NssSettings::new(settings)?),
        ExtractorName::MplugOwl2 => Box::new(MplugOwl2Settings::new(settings)?),
        ExtractorName::Maniqa => Box::new(ManiqaSettings::new(settings)?),
    })
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
            title: format!("features {}", self.extractor),
            unit: "images",
            done: "images have features",
            lacking: "images lack features",
            retry_hint: Some("in a pipeline, `--set extractor.NAME.retry_rejects=true` tries the rejected ones again"),
        }
    }

    fn work(&self) -> Work {
        let Self { max_pixels, shard, retry_rejects, part_rows, part_secs, .. } = *self;
        Work { max_pixels, shard, retry_rejects, part_rows, part_secs }
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(ExtractorGuest { name: self.extractor, kind: resolve(self)? }))
    }
}

/// The set of an extractor that describes itself by `description`: everything that decides the numbers.
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

/// What a network computes in, as it stands in `extractor.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Precision {
    /// Type of the weights, as it was asked for.
    pub(super) dtype: Dtype,
    /// Type of the products with them, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) products: Option<Dtype>,
}

impl Precision {
    /// That of weights of `dtype` on `device`.
    pub(super) fn of(dtype: Dtype, device: DeviceChoice) -> Self {
        Self { dtype, products: dtype.other_products(device) }
    }
}

/// Loads the network of `kind`, whose extractor is called `name`.
///
/// # Errors
/// As [`ExtractorKind::load`]; a panic, which is how most of tch says that memory ran short, is one of them.
fn load(kind: &dyn ExtractorKind, name: ExtractorName) -> Result<Loaded, ExtractError> {
    catching(|| kind.load()).map_err(|source| ExtractError::Load { extractor: name, source: Box::new(source) })?
}

/// Runs a network on a batch of `n_images`.
///
/// # Errors
/// tch panics where memory runs short; as an error it reaches the user with the exit code that says so.
pub(super) fn guarded<T>(
    extractor: ExtractorName,
    n_images: usize,
    run: impl FnOnce() -> T,
) -> Result<T, ExtractError> {
    catching(run).map_err(|source| ExtractError::Forward { extractor, n_images, source })
}

/// Runs a network.
///
/// # Errors
/// A panic, which is how tch says that memory ran short.
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

/// The values of a tensor, row-major, wherever it lies.
pub(super) fn values(xs: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; xs.numel()];
    xs.to_device(Device::Cpu).contiguous().copy_data(&mut values, xs.numel());
    values
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn products_are_described_only_where_they_are_in_another_type_than_the_weights() {
        let described =
            |products| serde_json::to_value(Precision { dtype: Dtype::Bf16, products }).expect("plain data");
        assert_eq!(described(None), serde_json::json!({ "dtype": "bf16" }));
        assert_eq!(described(Some(Dtype::F32)), serde_json::json!({ "dtype": "bf16", "products": "f32" }));
    }

    #[test]
    fn products_are_those_of_the_device_that_was_asked_for() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0)] {
            assert_eq!(Precision::of(Dtype::F32, device), Precision { dtype: Dtype::F32, products: None });
        }
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cuda(7)).products, None);
        let on_cpu = Dtype::Bf16.products_on(Device::Cpu);
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cpu).products.unwrap_or(Dtype::Bf16), on_cpu);
    }

    /// Weights that there is no room for, as tch says it.
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
    fn weights_that_there_is_no_room_for_are_an_error_with_torchs_words_in_its_chain() {
        let error = load(&TooLarge, ExtractorName::MplugOwl2).err().expect("it panics");
        assert_eq!(error.to_string(), "cannot load extractor `mplug-owl2`");
        let cause = error.source().and_then(|cause| cause.downcast_ref::<tch::TchError>()).expect("torch's error");
        assert!(cause.to_string().contains("out of memory"), "{cause}");
        assert_eq!(crate::cli::exit::code_of_error(&error.into()), crate::cli::exit::EXIT_RETRY);
    }
}
