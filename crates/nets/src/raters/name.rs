//! The names of the rating networks, and what is known of each without its weights.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{RaterError, clipiqa, musiq, qalign, stairiqa};

/// Names of the rating networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RaterName {
    /// HyperIQA (Su et al., CVPR 2020).
    HyperIqa,
    /// DBCNN (Zhang et al., TCSVT 2020).
    Dbcnn,
    /// StairIQA (Sun et al., JSTSP 2023).
    StairIqa,
    /// SAAN, the network of BAID (Yi et al., CVPR 2023).
    Baid,
    /// MUSIQ (Ke et al., ICCV 2021).
    Musiq,
    /// CLIPIQA (Wang et al., AAAI 2023).
    ClipIqa,
    /// CLIPIQA+, with learned prompts.
    ClipIqaPlus,
    /// A plain ResNet-50 with one output.
    ResNet50,
    /// EfficientNet-Lite0 with one output.
    EfficientNetLite0,
    /// Q-Align and OneAlign (Wu et al., ICML 2024).
    QAlign,
}

impl RaterName {
    /// Every rating network.
    pub const ALL: &[Self] = &[
        Self::HyperIqa,
        Self::Dbcnn,
        Self::StairIqa,
        Self::Baid,
        Self::Musiq,
        Self::ClipIqa,
        Self::ClipIqaPlus,
        Self::ResNet50,
        Self::EfficientNetLite0,
        Self::QAlign,
    ];

    /// The name in commands and store paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HyperIqa => "hyperiqa",
            Self::Dbcnn => "dbcnn",
            Self::StairIqa => "stairiqa",
            Self::Baid => "baid",
            Self::Musiq => "musiq",
            Self::ClipIqa => "clipiqa",
            Self::ClipIqaPlus => "clipiqa-plus",
            Self::ResNet50 => "resnet50",
            Self::EfficientNetLite0 => "efficientnet-lite0",
            Self::QAlign => "qalign",
        }
    }

    /// Version of the network and its preprocessing here, raised if numbers change.
    pub const fn code_version(self) -> u32 {
        match self {
            Self::HyperIqa | Self::Dbcnn | Self::StairIqa | Self::Baid | Self::Musiq => 1,
            Self::ClipIqa | Self::ClipIqaPlus | Self::QAlign | Self::ResNet50 | Self::EfficientNetLite0 => 1,
        }
    }

    /// Names of the network's variants, the default first; empty if it has one only.
    pub const fn variants(self) -> &'static [&'static str] {
        match self {
            Self::StairIqa => stairiqa::VARIANTS,
            Self::Musiq => musiq::VARIANTS,
            Self::ClipIqa => clipiqa::VARIANTS,
            Self::QAlign => qalign::VARIANTS,
            Self::HyperIqa | Self::Dbcnn | Self::Baid | Self::ClipIqaPlus => &[],
            Self::ResNet50 | Self::EfficientNetLite0 => &[],
        }
    }

    /// The variant that `asked` names, or the default; `None` if the network has one only.
    ///
    /// # Errors
    /// There is no such variant.
    pub fn variant(self, asked: Option<&str>) -> Result<Option<&'static str>, RaterError> {
        let variants = self.variants().iter();
        match asked {
            None => Ok(variants.copied().next()),
            Some(asked) => match variants.copied().find(|variant| *variant == asked) {
                Some(variant) => Ok(Some(variant)),
                None => Err(RaterError::Variant { name: self, found: asked.to_owned() }),
            },
        }
    }

    /// Whether its ratings lie between 0 and 1 whatever its weights are.
    pub const fn is_bounded(self) -> bool {
        matches!(self, Self::Baid | Self::ClipIqa | Self::ClipIqaPlus)
    }

    /// Whether its weights are kept in the number type of its products. The other networks are small and keep f32.
    pub const fn rounds_weights(self) -> bool {
        matches!(self, Self::QAlign)
    }
}

impl fmt::Display for RaterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RaterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|name| name.as_str()).collect();
            format!("unknown network `{text}`: expected {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for RaterName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RaterName> for String {
    fn from(name: RaterName) -> Self {
        name.to_string()
    }
}
