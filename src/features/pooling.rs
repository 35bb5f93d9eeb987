//! From tokens to vectors. A feature column is described by a list of statistics of activations.
//!
//! A column is the concatenation of its [`Pool`]s. Each is a statistic over the tokens of one activation of the
//! network. Pooling is done in f32 and for each image by itself, so that other images of a batch cannot change its bits.

use std::collections::HashMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::{Kind, Tensor};

use super::FeatureSettingsError;
use agiqa_nets::vit::{Tap, Vit};

/// A statistic over the tokens of an activation. It gives `d` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Statistic {
    /// The class token itself.
    Class,
    /// Mean over the patch tokens.
    Mean,
    /// Population standard deviation over the patch tokens (divided by `n`).
    Std,
    /// Standard deviation over the patch tokens, divided by `n − 1`.
    SampleStd,
    /// Natural logarithm of [`Self::Std`], with [`LOG_FLOOR`] added first.
    LogStd,
    /// Largest value over the patch tokens.
    Max,
    /// Smallest value over the patch tokens.
    Min,
    /// Mean absolute difference between neighbouring patches, averaged over rows and columns.
    NeighbourDifference,
    /// Natural logarithm of [`Self::NeighbourDifference`], with [`LOG_FLOOR`] added first.
    LogNeighbourDifference,
}

/// Constant added before a logarithm, so that the logarithm of a constant activation is finite.
pub const LOG_FLOOR: f64 = 0.01;

/// One statistic of one activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// The point of the network whose activation is pooled.
    pub tap: Tap,
    /// The statistic over its tokens.
    pub statistic: Statistic,
}

impl Pool {
    /// `statistic` of `tap`.
    pub const fn of(tap: Tap, statistic: Statistic) -> Self {
        Self { tap, statistic }
    }
}

/// Columns of a network's activations for some images. Each is the concatenation of its pools. `tokens` makes of an
/// activation the tokens that are pooled, and `statistic` pools them. Each activation is pooled at once, so that memory
/// holds one at a time. `multipliers` are those of [`Vit::forward_dropping`].
///
/// # Shapes
/// - pixels: `(b, 3, s, s)`, f32, normalised
/// - returns: per column `(b, d)`, f32
pub(super) fn columns<P: AsRef<[Pool]>, const N: usize>(
    network: &Vit,
    pixels: &Tensor,
    multipliers: impl Fn(usize, usize) -> Option<Tensor>,
    columns: &[P; N],
    tokens: impl Fn(&Tensor) -> Tensor,
    statistic: impl Fn(&Tensor, Statistic) -> Tensor,
) -> [Tensor; N] {
    let pools = || columns.iter().flat_map(AsRef::as_ref);
    let mut taps: Vec<Tap> = pools().map(|one| one.tap).collect();
    taps.sort();
    taps.dedup();
    let mut found = HashMap::new();
    network.forward_dropping(pixels, &taps, multipliers, |tap, activation| {
        let tokens = tokens(activation);
        for one in pools().filter(|one| one.tap == tap) {
            found.entry(*one).or_insert_with(|| statistic(&tokens, one.statistic));
        }
    });
    columns.each_ref().map(|pools| Tensor::cat(&pools.as_ref().iter().map(|one| &found[one]).collect::<Vec<_>>(), -1))
}

/// Number of blocks that `columns` read.
pub(super) fn n_blocks<P: AsRef<[Pool]>>(columns: &[P]) -> usize {
    columns.iter().flat_map(AsRef::as_ref).map(|one| one.tap.block() + 1).max().unwrap_or(0)
}

/// `statistic` over the tokens of an image, or of each image of a batch.
///
/// # Shapes
/// - tokens: `(.., 1 + n, d)`, f32, class token first; `n` is a square for the neighbour statistics
/// - returns: `(.., d)`, f32
pub fn pool(tokens: &Tensor, statistic: Statistic) -> Tensor {
    let n = tokens.size()[tokens.dim() - 2] - 1;
    let patches = tokens.narrow(-2, 1, n); // (.., n, d)
    let mean = |xs: &Tensor| xs.mean_dim(&[-2_i64][..], false, Kind::Float);
    let variance = || mean(&(&patches - mean(&patches).unsqueeze(-2)).square()); // (.., d)
    match statistic {
        Statistic::Class => tokens.select(-2, 0),
        Statistic::Mean => mean(&patches),
        Statistic::Std => root(variance()),
        Statistic::SampleStd => root(variance() * (n as f64 / (n - 1) as f64)),
        Statistic::LogStd => (pool(tokens, Statistic::Std) + LOG_FLOOR).log(),
        Statistic::Max => patches.amax(&[-2_i64][..], false),
        Statistic::Min => patches.amin(&[-2_i64][..], false),
        Statistic::NeighbourDifference => {
            let side = n.isqrt();
            let mut shape = patches.size();
            let of_patches = shape.len() - 2;
            shape.splice(of_patches..=of_patches, [side, side]);
            let grid = patches.reshape(shape); // (.., side, side, d)
            let along = |dim: i64| {
                let differences = grid.narrow(dim, 1, side - 1) - grid.narrow(dim, 0, side - 1);
                differences.abs().mean_dim(&[-3_i64, -2][..], false, Kind::Float) // (.., d)
            };
            (along(-3) + along(-2)) / 2.0
        }
        Statistic::LogNeighbourDifference => (pool(tokens, Statistic::NeighbourDifference) + LOG_FLOOR).log(),
    }
}

/// The square root of variances. In training, its gradient is 0 where a variance is 0 and the root has none: units that are
/// 0 in all patches exist.
fn root(variances: Tensor) -> Tensor {
    if !variances.requires_grad() {
        return variances.sqrt();
    }
    let varies = variances.gt(0.0);
    let roots = variances.where_self(&varies, &variances.ones_like()).sqrt();
    roots.where_self(&varies, &variances.zeros_like())
}

impl Statistic {
    /// Every statistic.
    pub const ALL: &[Self] = &[
        Self::Class,
        Self::Mean,
        Self::Std,
        Self::SampleStd,
        Self::LogStd,
        Self::Max,
        Self::Min,
        Self::NeighbourDifference,
        Self::LogNeighbourDifference,
    ];
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Class => "class",
            Self::Mean => "mean",
            Self::Std => "std",
            Self::SampleStd => "sample std",
            Self::LogStd => "log std",
            Self::Max => "max",
            Self::Min => "min",
            Self::NeighbourDifference => "neighbour difference",
            Self::LogNeighbourDifference => "log neighbour difference",
        })
    }
}

impl TryFrom<String> for Statistic {
    type Error = FeatureSettingsError;

    fn try_from(text: String) -> Result<Self, FeatureSettingsError> {
        Self::ALL.iter().copied().find(|statistic| statistic.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(Self::to_string).collect();
            FeatureSettingsError::Word { what: "statistic", found: text, expected: names.join(", ") }
        })
    }
}

impl From<Statistic> for String {
    fn from(statistic: Statistic) -> Self {
        statistic.to_string()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tap {
            Tap::Hidden(index) => write!(f, "hidden {index}: {}", self.statistic),
            Tap::Block(index) => write!(f, "block {index}: {}", self.statistic),
        }
    }
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("`{text}` is no statistic of an activation"));
        let (tap, statistic) = text.split_once(": ").ok_or_else(wrong)?;
        let index = |index: &str| index.parse().map_err(|_| wrong());
        let tap = match tap.split_once(' ') {
            Some(("hidden", i)) => Tap::Hidden(index(i)?),
            Some(("block", i)) => Tap::Block(index(i)?),
            Some(_) | None => return Err(wrong()),
        };
        Ok(Self { tap, statistic: statistic.to_owned().try_into().map_err(D::Error::custom)? })
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(xs: &Tensor) -> Vec<f32> {
        Vec::try_from(xs).expect("one dimension of f32")
    }

    /// Class token (9, 9), then a 2×2 grid of patches.
    fn tokens() -> Tensor {
        Tensor::from_slice(&[9.0_f32, 9.0, 1.0, 10.0, 2.0, 10.0, 4.0, 10.0, 5.0, 10.0]).reshape([5, 2])
    }

    #[test]
    fn statistics_equal_hand_computed_values() {
        let xs = tokens();
        assert_eq!(values(&pool(&xs, Statistic::Class)), [9.0, 9.0]);
        assert_eq!(values(&pool(&xs, Statistic::Mean)), [3.0, 10.0]);
        assert_eq!(values(&pool(&xs, Statistic::Std)), [2.5_f32.sqrt(), 0.0]);
        assert_eq!(values(&pool(&xs, Statistic::SampleStd)), [(10.0_f32 / 3.0).sqrt(), 0.0]);
        assert_eq!(values(&pool(&xs, Statistic::Max)), [5.0, 10.0]);
        assert_eq!(values(&pool(&xs, Statistic::Min)), [1.0, 10.0]);
        // Rows of the grid: (1, 2), (4, 5); neighbours differ by 3 down and by 1 across.
        assert_eq!(values(&pool(&xs, Statistic::NeighbourDifference)), [2.0, 0.0]);
    }

    #[test]
    fn logarithms_of_a_constant_activation_are_finite() {
        for statistic in [Statistic::LogStd, Statistic::LogNeighbourDifference] {
            assert!(values(&pool(&tokens(), statistic)).iter().all(|value| value.is_finite()), "{statistic}");
        }
    }
}
