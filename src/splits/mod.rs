//! `split`: assigns the images of a dataset to training, validation and test parts.
//!
//! Input: the dataset's `images` table. Output: a `splits` table with one row per image of the split. On AGIQA-3K,
//! every prompt and every generator is in all parts of a random split, so a model can profit from having seen them.
//! [`SplitSettings::ByPrompt`] and [`SplitSettings::HeldOutGenerator`] measure this advantage.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod assign;
mod published;
mod python_random;
mod stage;

pub use assign::{Assignment, assign};
pub use published::PublishedError;
pub use python_random::PythonRandom;
pub use stage::SplitStage;

use agiqa_store::path_text;
use agiqa_store::tables::PartitionName;

/// Rules that assign images to parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitSettings {
    /// At random. The order of the dataset's table does not matter.
    Random {
        /// Seed of the shuffle.
        seed: u32,
        /// Shares of the parts; default: 70/10/20.
        #[serde(default)]
        fractions: Fractions,
    },
    /// The shuffle of MA-AGIQA's published training script: Python's `random` over the rows of the dataset's table in
    /// their order, cut at 70 % and 80 %. The paper's seed is 20. A row that ingest rejected is shuffled with the
    /// others and then left out of its part, so the other rows keep their places.
    Official {
        /// Seed of Python's `random`.
        #[serde(default = "official_seed")]
        seed: u32,
    },
    /// The dataset's own split: a CSV file per part, with a column `name`.
    Published {
        /// File of the training part.
        #[serde(with = "path_text::field")]
        train: PathBuf,
        /// File of the validation part.
        #[serde(with = "path_text::field")]
        validation: PathBuf,
        /// File of the test part.
        #[serde(with = "path_text::field")]
        test: PathBuf,
    },
    /// Random, but all images of one prompt in one part.
    ByPrompt {
        /// Seed of the shuffle of prompts.
        seed: u32,
        /// Shares of the parts, met as nearly as whole prompts allow; default: 70/10/20.
        #[serde(default)]
        fractions: Fractions,
    },
    /// One generator's images are the test part. The others are split at random, seven for training to one for
    /// validation.
    HeldOutGenerator {
        /// The generator to test on.
        generator: String,
        /// Seed of the shuffle of the others.
        seed: u32,
    },
}

fn official_seed() -> u32 {
    20
}

impl SplitSettings {
    /// Name of the split in the store, e.g. `random-3`, `official-20`, `published`, `prompt-3`, `held-out-glide-3`.
    ///
    /// In a generator's name, characters that a partition name must not contain become `_`. Shares other than 70/10/20
    /// are part of the name.
    pub fn name(&self) -> PartitionName {
        let name = match self {
            Self::Random { seed, fractions } => format!("random{}-{seed}", fractions.suffix()),
            Self::Official { seed } => format!("official-{seed}"),
            Self::Published { .. } => "published".to_owned(),
            Self::ByPrompt { seed, fractions } => format!("prompt{}-{seed}", fractions.suffix()),
            Self::HeldOutGenerator { generator, seed } => {
                let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                let generator: String = generator.chars().map(|c| if valid(c) { c } else { '_' }).take(80).collect();
                format!("held-out-{generator}-{seed}")
            }
        };
        PartitionName::new(&name).expect("short, and made of valid characters")
    }

    /// Seed of the split; `None` if nothing is drawn at random.
    pub fn seed(&self) -> Option<u32> {
        match self {
            Self::Random { seed, .. }
            | Self::Official { seed }
            | Self::ByPrompt { seed, .. }
            | Self::HeldOutGenerator { seed, .. } => Some(*seed),
            Self::Published { .. } => None,
        }
    }
}

/// Shares of training and validation; the test part is the rest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fractions {
    /// Share of the training part, in (0, 1).
    pub train: f64,
    /// Share of the validation part, in (0, 1). Its sum with `train` is below 1.
    pub validation: f64,
}

impl Default for Fractions {
    /// 70/10/20, as in the paper.
    fn default() -> Self {
        Self { train: 0.7, validation: 0.1 }
    }
}

impl Fractions {
    /// The numbers of rows at which training and validation end, for `n` rows.
    ///
    /// They are rounded down as `int(0.7 * n)` and `int(0.8 * n)` in the published code. In binary, 0.7 + 0.1 is just
    /// below 0.8; the small addend prevents the loss of a row.
    fn cuts(self, n: usize) -> (usize, usize) {
        let cut = |share: f64| (share * n as f64 + 1e-9) as usize;
        (cut(self.train), cut(self.train + self.validation))
    }

    fn check(self) -> Result<(), SplitError> {
        let valid = self.train > 0.0 && self.validation > 0.0 && self.train + self.validation < 1.0;
        if valid { Ok(()) } else { Err(SplitError::Fractions { train: self.train, validation: self.validation }) }
    }

    fn suffix(self) -> String {
        // `{:?}` writes a tiny or huge share with an exponent, so the name stays short.
        if self == Self::default() { String::new() } else { format!("-{:?}-{:?}", self.train, self.validation) }
    }
}

/// A split that cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum SplitError {
    /// The dataset has no rows.
    #[error("dataset `{dataset}` has no images in this store: run `agiqa ingest` for it first")]
    NoImages { dataset: PartitionName },
    /// The shares leave a part empty.
    #[error(
        "shares {train} (training) and {validation} (validation): both must be above 0 and their sum below 1; the rest \
         is the test part"
    )]
    Fractions { train: f64, validation: f64 },
    /// A part got no images.
    #[error(
        "split `{split}` leaves a part empty: {n_train} training, {n_validation} validation, {n_test} test images of \
         {n_images}; {hint}"
    )]
    EmptyPart {
        split: PartitionName,
        n_train: usize,
        n_validation: usize,
        n_test: usize,
        n_images: usize,
        hint: &'static str,
    },
    /// The generator to hold out has no images.
    #[error("no image was made by generator `{generator}`; the generators are: {}", agiqa_suggest::choices(generator, known.iter().map(String::as_str)))]
    UnknownGenerator { generator: String, known: Vec<String> },
    /// The column that the split needs is empty in all rows.
    #[error(
        "the images have no `{column}`, which this split groups by: ingest the dataset with that column, or split at \
         random"
    )]
    NoColumn {
        /// `prompt` or `generator`.
        column: &'static str,
    },
    /// The published files cannot be used.
    #[error(transparent)]
    Published(#[from] PublishedError),
}
