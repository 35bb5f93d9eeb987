//! A user's settings of features, on the command line or in a pipeline.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::clip::ClipOptions;
use super::dinov2::Dinov2Options;
use super::maniqa::ManiqaOptions;
use super::mplug_owl2::MplugOwl2Options;
use super::nss::NssOptions;
use super::{DeviceChoice, Dtype};
use crate::engine::{BatchSize, MAX_BATCH_SIZE, MAX_PART_ROWS, Work};
use agiqa_store::store::shard::Shard;

/// Invalid settings.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FeatureSettingsError {
    /// A word is unknown.
    #[error("unknown {what} `{found}`: expected {expected}")]
    Word {
        /// The kind of setting, e.g. `extractor`.
        what: &'static str,
        found: String,
        expected: String,
    },
    /// A value is outside its range.
    #[error("`{key} = {found}`: {problem}")]
    Value {
        key: &'static str,
        found: String,
        /// The problem, and a value to give instead.
        problem: String,
    },
    /// The machine cannot compute in the type asked for.
    #[error(
        "this CPU has no bf16 instructions (avx512_bf16 on x86-64, bf16 on aarch64), and without them bf16 is slower \
         than f32: use `dtype = \"f32\"`"
    )]
    NoBf16,
    /// Half precision was asked for on a CPU.
    #[error(
        "f16 is computed on CUDA devices only (on CPUs it is emulated, hundreds of times slower): use `bf16` or `f32`"
    )]
    NoF16,
    /// f32 would not be f32.
    #[error(
        "`{device}` rounds the inputs of f32 products to TF32, which costs three digits: unset NVIDIA_TF32_OVERRIDE and \
         TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, or use `device = \"cpu\"`"
    )]
    Tf32 { device: DeviceChoice },
    /// The GPU failed at its first product.
    #[error("`{device}` cannot compute")]
    Device { device: DeviceChoice, source: tch::TchError },
    /// The GPU that was asked for does not exist.
    #[error("device `cuda:{asked}` was asked for, but this libtorch sees {n_found} CUDA devices: use `cpu` or `auto`")]
    NoCuda { asked: usize, n_found: i64 },
}

/// Names of the extractors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExtractorName {
    /// CLIP's ViT-B/16. It fills both tables in one pass.
    #[default]
    #[serde(rename = "clip-b16")]
    ClipB16,
    /// A DINOv2 ViT-S/14. It fills both tables in one pass.
    #[serde(rename = "dinov2-s14")]
    Dinov2S14,
    /// Natural scene statistics of BRISQUE and NIQE. It fills `quality`.
    #[serde(rename = "nss")]
    Nss,
    /// mPLUG-Owl2 under prompts, the paper's semantic features. It fills `semantic`.
    #[serde(rename = "mplug-owl2")]
    MplugOwl2,
    /// MANIQA with the user's weights. It fills `quality`.
    #[serde(rename = "maniqa")]
    Maniqa,
}

impl ExtractorName {
    /// Every extractor.
    pub const ALL: &[Self] = &[Self::ClipB16, Self::Dinov2S14, Self::Maniqa, Self::MplugOwl2, Self::Nss];

    /// The name in commands and store paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClipB16 => "clip-b16",
            Self::Dinov2S14 => "dinov2-s14",
            Self::Nss => "nss",
            Self::MplugOwl2 => "mplug-owl2",
            Self::Maniqa => "maniqa",
        }
    }
}

impl FromStr for ExtractorName {
    type Err = FeatureSettingsError;

    fn from_str(text: &str) -> Result<Self, FeatureSettingsError> {
        Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|name| name.as_str()).collect();
            FeatureSettingsError::Word { what: "extractor", found: text.to_owned(), expected: names.join(", ") }
        })
    }
}

impl fmt::Display for ExtractorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings of a feature stage: its network's own settings, and the common ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureSettings {
    /// The network with its own settings; default: `clip-b16` with its defaults.
    pub network: NetworkSettings,
    /// Settings that every network takes.
    pub common: CommonSettings,
}

/// A network with its own settings. Each variant accepts only the keys of its network.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkSettings {
    /// Settings of `clip-b16`.
    ClipB16(ClipOptions),
    /// Settings of `dinov2-s14`.
    Dinov2S14(Dinov2Options),
    /// Settings of `maniqa`.
    Maniqa(ManiqaOptions),
    /// Settings of `mplug-owl2`.
    MplugOwl2(MplugOwl2Options),
    /// Settings of `nss`.
    Nss(NssOptions),
}

/// Reads the settings of one network, e.g. from a pipeline or a command line.
pub trait ReadSettings {
    /// Error of reading settings.
    type Error;

    /// The settings as a `T`.
    ///
    /// # Errors
    /// An unknown key, or a value of a wrong type.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error>;
}

impl NetworkSettings {
    /// The settings of the network `name`, which `reader` reads.
    ///
    /// # Errors
    /// The reader fails.
    pub fn read<R: ReadSettings>(name: ExtractorName, reader: &R) -> Result<Self, R::Error> {
        Ok(match name {
            ExtractorName::ClipB16 => Self::ClipB16(reader.read()?),
            ExtractorName::Dinov2S14 => Self::Dinov2S14(reader.read()?),
            ExtractorName::Maniqa => Self::Maniqa(reader.read()?),
            ExtractorName::MplugOwl2 => Self::MplugOwl2(reader.read()?),
            ExtractorName::Nss => Self::Nss(reader.read()?),
        })
    }

    /// The place of weights of the user's own.
    pub(super) fn weights(&self) -> Option<&Path> {
        match self {
            Self::ClipB16(options) => options.weights.as_deref(),
            Self::Dinov2S14(options) => options.weights.as_deref(),
            Self::Maniqa(options) => options.weights.as_deref(),
            Self::MplugOwl2(options) => options.weights.as_deref(),
            Self::Nss(_) => None,
        }
    }

    /// The network's name.
    pub fn name(&self) -> ExtractorName {
        match self {
            Self::ClipB16(_) => ExtractorName::ClipB16,
            Self::Dinov2S14(_) => ExtractorName::Dinov2S14,
            Self::Maniqa(_) => ExtractorName::Maniqa,
            Self::MplugOwl2(_) => ExtractorName::MplugOwl2,
            Self::Nss(_) => ExtractorName::Nss,
        }
    }
}

impl NetworkSettings {
    /// Names of the settings of this network.
    pub fn keys(&self) -> Vec<String> {
        let json = match self {
            Self::ClipB16(options) => serde_json::to_value(options),
            Self::Dinov2S14(options) => serde_json::to_value(options),
            Self::Maniqa(options) => serde_json::to_value(options),
            Self::MplugOwl2(options) => serde_json::to_value(options),
            Self::Nss(options) => serde_json::to_value(options),
        };
        let json = json.expect("settings are plain data");
        json.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    }
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self::ClipB16(ClipOptions::default())
    }
}

/// Settings that every network takes. They are not part of fingerprints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommonSettings {
    /// The network's device: `auto`, `cpu` or `cuda:N`.
    pub device: DeviceChoice,
    /// Number of images per batch. Every batch has exactly this size (the last is padded), so that an image's numbers
    /// do not depend on its neighbours. Another batch size may change the last bits.
    pub batch_size: Option<NonZeroUsize>,
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// The share of the images to compute, `k/N`.
    pub shard: Shard,
    /// Whether to try images again that an earlier run of the same extractor rejected.
    pub retry_rejects: bool,
    /// Number of rows at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even if it has fewer rows. A kill loses about this much work at most.
    pub part_secs: u64,
}

impl CommonSettings {
    /// Names of the settings.
    pub const KEYS: &[&str] =
        &["device", "batch_size", "max_pixels", "shard", "retry_rejects", "part_rows", "part_secs"];

    /// Checks ranges.
    ///
    /// # Errors
    /// A batch or a part is larger than memory should hold.
    pub fn check(&self) -> Result<(), FeatureSettingsError> {
        let batch_size = self.batch_size.map_or(1, NonZeroUsize::get);
        let limited = [("batch_size", batch_size, MAX_BATCH_SIZE), ("part_rows", self.part_rows.get(), MAX_PART_ROWS)];
        match limited.into_iter().find(|(_, found, limit)| found > limit) {
            Some((key, found, limit)) => {
                let problem = format!("expected 1 to {limit}");
                Err(FeatureSettingsError::Value { key, found: found.to_string(), problem })
            }
            None => Ok(()),
        }
    }

    /// Division of the work.
    pub(crate) fn work(&self) -> Work {
        let Self { max_pixels, shard, retry_rejects, part_rows, part_secs, .. } = *self;
        Work { max_pixels, shard, retry_rejects, part_rows, part_secs }
    }

    /// The device.
    ///
    /// # Errors
    /// The machine lacks it, or it cannot compute in `dtype`.
    pub(crate) fn device_for(&self, dtype: Dtype) -> Result<tch::Device, FeatureSettingsError> {
        let device = self.device.device()?;
        dtype.check_on(device)?;
        Ok(device)
    }

    /// Number of images per batch on `device`: without one of the user's, `on_cpu` or `on_gpu`.
    pub(crate) fn batch_size_on(&self, device: tch::Device, [on_cpu, on_gpu]: [usize; 2]) -> BatchSize {
        let preferred = if device == tch::Device::Cpu { on_cpu } else { on_gpu };
        self.batch_size.map_or(BatchSize::Preferred(preferred), |asked| BatchSize::Asked(asked.get()))
    }
}

impl Default for CommonSettings {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            batch_size: None,
            max_pixels: agiqa_images::DecodeLimits::default().max_pixels,
            shard: Shard::WHOLE,
            retry_rejects: false,
            part_rows: NonZeroUsize::new(1024).expect("not zero"),
            part_secs: 90,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_exist_or_belongs_to_another_network_is_refused() {
        let error = toml::from_str::<Dinov2Options>("sied = 112").expect_err("no such key");
        assert!(error.to_string().contains("`side`"), "{error}");
        assert!(toml::from_str::<NssOptions>("dtype = \"bf16\"").is_err(), "statistics have no number type");
        assert!(toml::from_str::<ManiqaOptions>("side = 112").is_err(), "the weights decide the side");
    }

    #[test]
    fn the_names_of_the_common_settings_agree_with_the_struct() {
        let json = serde_json::to_value(CommonSettings::default()).expect("plain data");
        let keys: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, CommonSettings::KEYS);
    }
}
