//! The devices and number types that a user names, and what a device takes by default.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{ExtractorName, FeatureSettingsError};
use agiqa_nets::device::{forbid_tf32, rounds_inputs};
use agiqa_nets::layers::products_of;

/// Number type of a network. Stored features are f32 with every type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16 matrix products, if the CPU has instructions for them. Norms, sums and pooling stay f32.
    Bf16,
    /// Half-precision matrix products, on CUDA devices only. Norms, sums and pooling stay f32.
    F16,
}

impl Dtype {
    /// Every type.
    pub const ALL: &[Self] = &[Self::F32, Self::Bf16, Self::F16];

    /// The name in settings.
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

    /// The type of products with weights of this type on `device`: f32 for bf16 if the CPU multiplies f32 faster, else
    /// the type itself.
    pub(crate) fn products_on(self, device: tch::Device) -> Self {
        let products = products_of(self.kind(), device);
        Self::ALL.iter().copied().find(|dtype| dtype.kind() == products).unwrap_or(self)
    }

    /// The type of products with weights of this type on `device`, if it differs from the weights' type. Machines that
    /// share a store may multiply the same weights in different types, so it is part of a fingerprint.
    pub(crate) fn other_products(self, device: DeviceChoice) -> Option<Self> {
        let other = |device| Some(self.products_on(device)).filter(|products| *products != self);
        // Looking for a GPU takes a while, and the result matters only if the CPU's products have another type.
        other(tch::Device::Cpu).and_then(|_| other(device.wanted()))
    }

    /// The type of `extractor` on `device` if the settings name none: f32 on a CPU. On a GPU f16, whose products are as
    /// fast as bf16's and lose an eighth as much (11 bits instead of 8); residuals, norms, softmax and sums are f32. The
    /// published mPLUG-Owl2 computes in f16, too.
    pub fn default_of(extractor: ExtractorName, device: tch::Device) -> Self {
        match (extractor, device) {
            // Statistics are computed in f64 on the CPU, whatever the device.
            (ExtractorName::Nss, _) => Self::F32,
            (
                ExtractorName::ClipB16 | ExtractorName::Dinov2S14 | ExtractorName::Maniqa | ExtractorName::MplugOwl2,
                tch::Device::Cuda(_),
            ) => Self::F16,
            _ => Self::F32,
        }
    }

    /// Refuses bf16 on a CPU without instructions for it, and f16 on any CPU.
    pub fn check_on(self, device: tch::Device) -> Result<(), FeatureSettingsError> {
        match (self, device) {
            (Self::Bf16, tch::Device::Cpu) if !cpu_has_bf16() => Err(FeatureSettingsError::NoBf16),
            (Self::F16, tch::Device::Cuda(_)) => Ok(()),
            (Self::F16, _) => Err(FeatureSettingsError::NoF16),
            (Self::F32 | Self::Bf16, _) => Ok(()),
        }
    }
}

/// Whether this CPU has instructions for bf16 products.
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

/// The device of a network. It is not part of a fingerprint, because devices agree except for rounding. Settings that are left
/// open may follow from it, such as the number type, and those are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU if the machine has one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// The torch device, on which f32 is f32.
    ///
    /// # Errors
    /// The GPU does not exist, or it computes f32 in TF32.
    pub fn device(self) -> Result<tch::Device, FeatureSettingsError> {
        if let Self::Cuda(asked) = self {
            let n_found = tch::Cuda::device_count();
            if !i64::try_from(asked).is_ok_and(|asked| asked < n_found) {
                return Err(FeatureSettingsError::NoCuda { asked, n_found });
            }
        }
        let device = self.wanted();
        if device.is_cuda() {
            let rounds = rounds_f32(device).map_err(|source| FeatureSettingsError::Device { device: self, source })?;
            self.refuse_tf32(rounds)?;
        }
        Ok(device)
    }

    /// Refuses a device that rounds the inputs of f32 products.
    fn refuse_tf32(self, rounds: bool) -> Result<(), FeatureSettingsError> {
        if rounds { Err(FeatureSettingsError::Tf32 { device: self }) } else { Ok(()) }
    }

    /// The torch device that was asked for, even if it does not exist.
    pub(crate) fn wanted(self) -> tch::Device {
        match self {
            Self::Auto => tch::Device::cuda_if_available(),
            Self::Cpu => tch::Device::Cpu,
            Self::Cuda(asked) => tch::Device::Cuda(asked),
        }
    }
}

/// Whether products of f32 on the GPU `device` are those of TF32 although libtorch may not use it. A device is asked once
/// in a process.
fn rounds_f32(device: tch::Device) -> Result<bool, tch::TchError> {
    static PROBED: Mutex<Vec<(tch::Device, bool)>> = Mutex::new(Vec::new());
    let mut probed = PROBED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, rounds)) = probed.iter().find(|(known, _)| *known == device) {
        return Ok(*rounds);
    }
    forbid_tf32()?;
    let rounds = rounds_inputs(device, tch::Kind::Float)?;
    probed.push((device, rounds));
    Ok(rounds)
}

impl FromStr for Dtype {
    type Err = FeatureSettingsError;

    fn from_str(text: &str) -> Result<Self, FeatureSettingsError> {
        Self::ALL.iter().copied().find(|dtype| dtype.as_str() == text).ok_or_else(|| FeatureSettingsError::Word {
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
    type Err = FeatureSettingsError;

    fn from_str(text: &str) -> Result<Self, FeatureSettingsError> {
        let cuda = |index: &str| index.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(cuda),
        }
        .ok_or_else(|| FeatureSettingsError::Word {
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
    type Error = FeatureSettingsError;

    fn try_from(text: String) -> Result<Self, FeatureSettingsError> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
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
    fn the_device_decides_the_number_type_and_a_cpu_stays_at_f32() {
        for extractor in ExtractorName::ALL.iter().copied() {
            assert_eq!(Dtype::default_of(extractor, tch::Device::Cpu), Dtype::F32, "{extractor}");
            let on_gpu = if extractor == ExtractorName::Nss { Dtype::F32 } else { Dtype::F16 };
            assert_eq!(Dtype::default_of(extractor, tch::Device::Cuda(1)), on_gpu, "{extractor}");
        }
    }

    #[test]
    fn a_device_with_tf32_is_refused_and_a_cpu_has_none() {
        let device = DeviceChoice::Cuda(2);
        let error = device.refuse_tf32(true).expect_err("it rounds");
        assert!(error.to_string().contains("`cuda:2` rounds the inputs"), "{error}");
        assert!(device.refuse_tf32(false).is_ok());
        assert_eq!(DeviceChoice::Cpu.device().expect("a CPU"), tch::Device::Cpu);
    }
}
