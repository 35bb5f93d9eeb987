//! What a user chooses about features, on the command line or in a pipeline.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use agiqa_nets::layers::products_of;
use agiqa_nets::mplug_owl2::Prompt;
use agiqa_store::store::shard::Shard;

/// Settings that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A word that is none of those known.
    #[error("`{found}` is no {what}: expected {expected}")]
    Word {
        /// What was asked for, e.g. `extractor`.
        what: &'static str,
        /// The word given.
        found: String,
        /// The words there are.
        expected: String,
    },
    /// A value outside its range.
    #[error("`{key} = {found}`: {problem}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is wrong with it and what to give instead.
        problem: String,
    },
    /// The machine cannot compute in the type asked for.
    #[error(
        "this CPU has no bf16 instructions (avx512_bf16 on x86-64, bf16 on aarch64), and without them bf16 is slower \
         than f32: use `dtype = \"f32\"`"
    )]
    NoBf16,
    /// Half precision on a CPU.
    #[error(
        "f16 is computed on CUDA devices only (on CPUs it is emulated, hundreds of times slower): use `bf16` or `f32`"
    )]
    NoF16,
    /// A GPU was asked for and there is none.
    #[error("device `cuda:{asked}` was asked for, this libtorch sees {n_found} CUDA devices: use `cpu` or `auto`")]
    NoCuda {
        /// Index asked for.
        asked: usize,
        /// Devices there are.
        n_found: i64,
    },
}

/// The extractors there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExtractorName {
    /// A DINOv2 ViT-S/14; fills both tables in one pass.
    #[default]
    #[serde(rename = "dinov2-s14")]
    Dinov2S14,
    /// Natural scene statistics, those of BRISQUE and NIQE; fills `quality`.
    #[serde(rename = "nss")]
    Nss,
    /// mPLUG-Owl2 under prompts, the paper's semantic features; fills `semantic`.
    #[serde(rename = "mplug-owl2")]
    MplugOwl2,
    /// MANIQA with weights of the user's; fills `quality`.
    #[serde(rename = "maniqa")]
    Maniqa,
}

impl ExtractorName {
    /// Every extractor.
    pub const ALL: &[Self] = &[Self::Dinov2S14, Self::Maniqa, Self::MplugOwl2, Self::Nss];

    /// The name, as in commands and store paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dinov2S14 => "dinov2-s14",
            Self::Nss => "nss",
            Self::MplugOwl2 => "mplug-owl2",
            Self::Maniqa => "maniqa",
        }
    }
}

/// Number type that a network computes in; what is stored is f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16 matrix products, where the CPU has instructions for them; norms, sums and pooling stay f32.
    Bf16,
    /// Half-precision matrix products, on CUDA devices only; norms, sums and pooling stay f32.
    F16,
}

impl Dtype {
    /// Every type.
    pub const ALL: &[Self] = &[Self::F32, Self::Bf16, Self::F16];

    /// The name, as in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The torch type.
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::F32 => tch::Kind::Float,
            Self::Bf16 => tch::Kind::BFloat16,
            Self::F16 => tch::Kind::Half,
        }
    }

    /// What products with weights of this type are computed in on `device`: f32 for bf16 where the CPU multiplies f32
    /// faster, else the type itself.
    pub(crate) fn products_on(self, device: tch::Device) -> Self {
        let products = products_of(self.kind(), device);
        Self::ALL.iter().copied().find(|dtype| dtype.kind() == products).unwrap_or(self)
    }

    /// What products with weights of this type are computed in on `device`, where that is another type: machines that share a
    /// store may multiply the same weights in different types, so it is part of a fingerprint.
    pub(crate) fn other_products(self, device: DeviceChoice) -> Option<Self> {
        let other = |device| Some(self.products_on(device)).filter(|products| *products != self);
        // It takes a while to find out whether there is a GPU, and matters only where the CPU's products are others.
        other(tch::Device::Cpu).and_then(|_| other(device.wanted()))
    }

    /// Refuses bf16 on a CPU without instructions for it, and f16 on any CPU.
    pub fn check_on(self, device: tch::Device) -> Result<(), SettingsError> {
        match (self, device) {
            (Self::Bf16, tch::Device::Cpu) if !cpu_has_bf16() => Err(SettingsError::NoBf16),
            (Self::F16, tch::Device::Cuda(_)) => Ok(()),
            (Self::F16, _) => Err(SettingsError::NoF16),
            (Self::F32 | Self::Bf16, _) => Ok(()),
        }
    }
}

/// Whether this CPU multiplies bf16 matrices with instructions of its own.
pub fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("bf16")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// Where a network runs. Not part of a fingerprint: devices agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// The torch device.
    ///
    /// # Errors
    /// A GPU that is not there.
    pub fn device(self) -> Result<tch::Device, SettingsError> {
        if let Self::Cuda(asked) = self {
            let n_found = tch::Cuda::device_count();
            if !i64::try_from(asked).is_ok_and(|asked| asked < n_found) {
                return Err(SettingsError::NoCuda { asked, n_found });
            }
        }
        Ok(self.wanted())
    }

    /// The torch device that was asked for, there or not: what a network would run on.
    fn wanted(self) -> tch::Device {
        match self {
            Self::Auto => tch::Device::cuda_if_available(),
            Self::Cpu => tch::Device::Cpu,
            Self::Cuda(asked) => tch::Device::Cuda(asked),
        }
    }
}

impl FromStr for ExtractorName {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|name| name.as_str()).collect();
            SettingsError::Word { what: "extractor", found: text.to_owned(), expected: names.join(", ") }
        })
    }
}

impl fmt::Display for ExtractorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dtype {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        Self::ALL.iter().copied().find(|dtype| dtype.as_str() == text).ok_or_else(|| SettingsError::Word {
            what: "dtype",
            found: text.to_owned(),
            expected: "f32, bf16 or f16".to_owned(),
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeviceChoice {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let cuda = |index: &str| index.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(cuda),
        }
        .ok_or_else(|| SettingsError::Word {
            what: "device",
            found: text.to_owned(),
            expected: "auto, cpu or cuda:N".to_owned(),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

/// Settings of a feature stage; an absent one takes the extractor's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureSettings {
    /// Which extractor; default `dinov2-s14`.
    pub extractor: ExtractorName,
    /// Folder of the weights, with their `config.json`, for an extractor that does not take its own from the manifest.
    pub weights: Option<PathBuf>,
    /// Prompts of an extractor that reads images under questions, a column each; decide the numbers.
    pub prompts: Option<Vec<Prompt>>,
    /// Side of the square that images are resized to, pixels; decides the numbers.
    pub side: Option<u32>,
    /// Number type of the network, `f32`, `bf16` or `f16`; decides the numbers.
    pub dtype: Option<Dtype>,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: DeviceChoice,
    /// Images per batch. Every batch has exactly this many (the last is padded), so that no image's numbers depend on
    /// its neighbours; another batch size may change the last bits.
    pub batch_size: Option<NonZeroUsize>,
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// Compute just this share of the images, `k/N`.
    pub shard: Shard,
    /// Try again what an earlier run of the same extractor rejected.
    pub retry_rejects: bool,
    /// Rows at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even when it has fewer rows; a kill loses at most about this much work.
    pub part_secs: u64,
}

impl FeatureSettings {
    /// Refuses prompts, for an extractor without a language model.
    pub(super) fn without_prompts(&self) -> Result<(), SettingsError> {
        let Some(prompts) = &self.prompts else { return Ok(()) };
        let problem = format!("`{}` reads images only; leave it out", self.extractor);
        Err(SettingsError::Value { key: "prompts", found: format!("{} prompts", prompts.len()), problem })
    }

    /// Refuses a folder of weights, for an extractor that `does` something else, in words.
    pub(super) fn without_weights(&self, does: &str) -> Result<(), SettingsError> {
        let Some(folder) = &self.weights else { return Ok(()) };
        let problem = format!("`{}` {does}; leave it out", self.extractor);
        Err(SettingsError::Value { key: "weights", found: folder.display().to_string(), problem })
    }
}

impl Default for FeatureSettings {
    fn default() -> Self {
        Self {
            extractor: ExtractorName::default(),
            weights: None,
            prompts: None,
            side: None,
            dtype: None,
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
    fn devices_round_trip_through_their_text() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().expect(text).to_string(), text);
        }
        assert!("gpu".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let error = toml::from_str::<FeatureSettings>("sied = 112").expect_err("no such key");
        assert!(error.to_string().contains("`side`"), "{error}");
    }
}
