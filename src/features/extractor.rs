//! The interface of extractors, and their registry.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use serde::Serialize;
use tch::{Device, Tensor};

use super::clip::ClipSettings;
use super::dinov2::Dinov2Settings;
use super::maniqa::ManiqaSettings;
use super::mplug_owl2::MplugOwl2Settings;
use super::nss::NssSettings;
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractorName, FeatureSettings, FeatureSettingsError, NetworkSettings,
};
use crate::engine::{
    DeviceMemory, Guest, GuestError, GuestSettings, GuestWords, Launched, Loaded, Output, OutputRows, Task, Work,
};
use agiqa_nets::device::{Fetch, Memory};
use agiqa_store::identity::Fingerprint;
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
    Ok(match &settings.network {
        NetworkSettings::ClipB16(options) => Box::new(ClipSettings::new(options, common)?),
        NetworkSettings::Dinov2S14(options) => Box::new(Dinov2Settings::new(options, common)?),
        NetworkSettings::Maniqa(options) => Box::new(ManiqaSettings::new(options, common)?),
        NetworkSettings::MplugOwl2(options) => Box::new(MplugOwl2Settings::new(options, common)?),
        NetworkSettings::Nss(options) => Box::new(NssSettings::new(options)?),
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
            title: format!("features {}", self.network.name()),
            unit: "images",
            done: "images have features",
            lacking: "images lack features",
            retry_hint: Some("in a pipeline, `--set extractor.NAME.retry_rejects=true` tries the rejected ones again"),
        }
    }

    fn work(&self) -> Work {
        let CommonSettings { max_pixels, shard, retry_rejects, part_rows, part_secs, .. } = self.common;
        Work { max_pixels, shard, retry_rejects, part_rows, part_secs }
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

/// Number types of a network, as written to `extractor.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Precision {
    /// Type of the weights, from the settings.
    pub(crate) dtype: Dtype,
    /// Type of the products, if it differs from the weights'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) products: Option<Dtype>,
}

impl Precision {
    /// The precision for weights of `dtype` on `device`.
    pub(crate) fn of(dtype: Dtype, device: DeviceChoice) -> Self {
        Self { dtype, products: dtype.other_products(device) }
    }
}

/// The number type of an extractor, and what to tell the user about it.
#[derive(Clone, Debug)]
pub(super) struct Precise {
    /// The types, which decide the numbers.
    pub(super) precision: Precision,
    /// What the device chose; `None` if the settings name a type.
    pub(super) note: Option<String>,
}

impl Precise {
    /// The type `asked`, or the default of `extractor` on `device`.
    pub(super) fn new(extractor: ExtractorName, asked: Option<Dtype>, device: DeviceChoice) -> Self {
        // Looking for a GPU takes a while, and the result matters only if no type is named.
        let dtype = asked.unwrap_or_else(|| Dtype::default_of(extractor, device.wanted()));
        Self { precision: Precision::of(dtype, device), note: asked.is_none().then(|| note(extractor, dtype)) }
    }
}

/// What a user who named no type should know of `dtype`, which the device chose.
fn note(extractor: ExtractorName, dtype: Dtype) -> String {
    match dtype {
        Dtype::F32 => format!("`{extractor}` computes in f32, the default on a CPU"),
        Dtype::F16 | Dtype::Bf16 => format!(
            "`{extractor}` computes in {dtype}, the default on a GPU: as fast as the device multiplies, with residuals, \
             norms, softmax and sums in f32; `dtype = \"f32\"` makes another feature set, slower and exact"
        ),
    }
}

/// The memory of `device` for the engine; `None` on a CPU.
pub(crate) fn device_memory(device: Device) -> Option<DeviceMemory> {
    let Memory { free, allocated, peak } = agiqa_nets::device::memory(device)?;
    Some(DeviceMemory { free, allocated, peak })
}

/// The columns of a batch on their way from the device: one copy for all of them.
///
/// # Shapes
/// - matrix: `(b, Σ widths)`, the columns side by side; rows from `n_images` on are padding
pub(super) fn columns_of(
    extractor: ExtractorName,
    matrix: &Tensor,
    n_images: usize,
    widths: Vec<usize>,
    rows: impl FnOnce(Vec<Vec<f32>>) -> Vec<OutputRows> + 'static,
) -> Result<Launched, ExtractError> {
    let failed = move |source| ExtractError::Forward { extractor, n_images, source };
    let fetch = Fetch::of(&matrix.narrow(0, 0, n_images as i64)).map_err(failed)?;
    let wait: Launched = Box::new(move || {
        let values = fetch.wait().map_err(failed)?;
        Ok(rows(cut(&values, &widths)))
    });
    Ok(wait)
}

/// Columns of a row-major matrix whose rows hold them side by side.
fn cut(values: &[f32], widths: &[usize]) -> Vec<Vec<f32>> {
    let n_row = widths.iter().sum::<usize>().max(1);
    let mut start = 0;
    let column = |width: &usize| {
        let of_row = |row: &[f32]| row[start..start + width].to_vec();
        let column = values.chunks_exact(n_row).flat_map(of_row).collect();
        start += width;
        column
    };
    widths.iter().map(column).collect()
}

/// Loads the network of `kind`, whose extractor is called `name`.
///
/// # Errors
/// As [`ExtractorKind::load`]. A panic becomes an error, too: most of tch panics if memory is short.
fn load(kind: &dyn ExtractorKind, name: ExtractorName) -> Result<Loaded, ExtractError> {
    catching(|| kind.load()).map_err(|source| ExtractError::Load { extractor: name, source: Box::new(source) })?
}

/// Runs a network on a batch of `n_images`.
///
/// # Errors
/// tch panics if memory is short. The panic becomes an error, so that the program ends with the proper exit code.
pub(super) fn guarded<T>(
    extractor: ExtractorName,
    n_images: usize,
    run: impl FnOnce() -> Result<T, tch::TchError>,
) -> Result<T, ExtractError> {
    catching(run).flatten().map_err(|source| ExtractError::Forward { extractor, n_images, source })
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

/// The results of `run` for `n_images` images on a CPU, in order. Each thread takes one of `workers`, at least one, and
/// computes one image at a time. This keeps an image's values in the cache, which saves a tenth of a transformer's time
/// at eight images, and needs neither barriers within an image nor padding.
pub(super) fn side_by_side<W: Send, T: Send>(
    workers: &mut [W],
    n_images: usize,
    run: impl Fn(&W, usize) -> T + Sync,
) -> Vec<T> {
    let (n_torch_threads, n_workers) = (tch::get_num_threads(), workers.len());
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let started: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(first, worker)| {
                let run = &run;
                scope.spawn(move || {
                    let _no_grad = tch::no_grad_guard();
                    tch::set_num_threads(1);
                    (first..n_images).step_by(n_workers).map(|i| (i, run(worker, i))).collect::<Vec<_>>()
                })
            })
            .collect();
        let ended: Vec<_> = started.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        tch::set_num_threads(n_torch_threads);
        // A worker's panic continues here, with torch's message.
        ended.into_iter().flat_map(|results| results.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// One hash over the names and contents of `files`, hexadecimal.
pub(crate) fn hash_of_files(files: &[PathBuf]) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let hash = agiqa_weights::hash_of_file(path)?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0").update(hash.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn products_are_described_only_if_their_type_differs_from_the_weights() {
        let described =
            |products| serde_json::to_value(Precision { dtype: Dtype::Bf16, products }).expect("plain data");
        assert_eq!(described(None), serde_json::json!({ "dtype": "bf16" }));
        assert_eq!(described(Some(Dtype::F32)), serde_json::json!({ "dtype": "bf16", "products": "f32" }));
    }

    #[test]
    fn a_matrix_is_cut_into_its_columns() {
        let values: Vec<f32> = (0..10).map(|value| value as f32).collect();
        let columns = cut(&values, &[1, 3, 1]);
        assert_eq!(columns, [vec![0.0, 5.0], vec![1.0, 2.0, 3.0, 6.0, 7.0, 8.0], vec![4.0, 9.0]]);
    }

    #[test]
    fn a_user_is_told_what_the_device_chose_unless_the_settings_name_a_type() {
        let note = |asked| Precise::new(ExtractorName::Maniqa, asked, DeviceChoice::Cpu).note;
        assert_eq!(note(None).as_deref(), Some("`maniqa` computes in f32, the default on a CPU"));
        assert_eq!(note(Some(Dtype::F32)), None);
        let on_gpu = Precise::new(ExtractorName::Maniqa, None, DeviceChoice::Cuda(0));
        assert_eq!(on_gpu.precision.dtype, Dtype::F16);
        assert!(on_gpu.note.expect("a note").contains("f16, the default on a GPU"));
    }

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

    #[test]
    fn the_wanted_device_decides_the_type_of_products() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0)] {
            assert_eq!(Precision::of(Dtype::F32, device), Precision { dtype: Dtype::F32, products: None });
        }
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cuda(7)).products, None);
        let on_cpu = Dtype::Bf16.products_on(Device::Cpu);
        assert_eq!(Precision::of(Dtype::Bf16, DeviceChoice::Cpu).products.unwrap_or(Dtype::Bf16), on_cpu);
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
