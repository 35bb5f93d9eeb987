//! The methods and their parameter files.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::brisque::{self, Brisque};
use super::ilniqe::{self, Ilniqe};
use super::niqe::{self, Niqe};
use super::{ParamsError, ScoreError};
use agiqa_images::RgbImage8;

/// A handcrafted method. For every method, lower scores mean better quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// 36 statistics of the whole image and a support vector regression.
    Brisque,
    /// Distance between the statistics of 96 × 96 blocks and of pristine photographs.
    Niqe,
    /// Like NIQE, but in an enriched feature space, block by block, at 524 × 524.
    Ilniqe,
}

/// A word that names no method.
#[derive(Debug, thiserror::Error)]
#[error("unknown baseline `{0}`: expected brisque, niqe or ilniqe")]
pub struct MethodError(String);

impl Method {
    /// Every method, in the order of the paper's table.
    pub const ALL: &[Self] = &[Self::Brisque, Self::Niqe, Self::Ilniqe];

    /// The name in commands and store paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brisque => "brisque",
            Self::Niqe => "niqe",
            Self::Ilniqe => "ilniqe",
        }
    }

    /// Version of the method's code, raised if its numbers change. It is part of the fingerprint.
    pub fn code_version(self) -> u32 {
        match self {
            Self::Brisque | Self::Niqe => 1,
            Self::Ilniqe => 2,
        }
    }

    /// Names of its parameter files.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Brisque => &brisque::FILES,
            Self::Niqe => &[niqe::FILE],
            Self::Ilniqe => &[ilniqe::FILE],
        }
    }

    /// Reads its parameters in `folder`.
    ///
    /// # Errors
    /// A file is missing, damaged, of another kind, or made for another number of features.
    pub fn load(self, folder: &Path) -> Result<Box<dyn Scorer>, ParamsError> {
        Ok(match self {
            Self::Brisque => Box::new(Brisque::load(folder)?),
            Self::Niqe => Box::new(Niqe::load(folder)?),
            Self::Ilniqe => Box::new(Ilniqe::load(folder)?),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        Self::ALL.iter().copied().find(|method| method.as_str() == text).ok_or_else(|| MethodError(text.to_owned()))
    }
}

/// A method with its parameters. Any thread may use it.
pub trait Scorer: Send + Sync {
    /// The score of `image`, a finite number.
    ///
    /// # Errors
    /// The method cannot score the image.
    fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError>;
}

impl Scorer for Brisque {
    fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        self.score(image)
    }
}

impl Scorer for Niqe {
    fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        self.score(image)
    }
}

impl Scorer for Ilniqe {
    fn score(&self, image: &RgbImage8) -> Result<f64, ScoreError> {
        self.score(image)
    }
}
