//! Handcrafted methods: BRISQUE, NIQE and ILNIQE, in float64, from the authors' published parameter files.
//!
//! Each method scores an 8-bit RGB image by natural scene statistics. A lower score means better quality. Two kinds of
//! images have no score: images too small for the method's blocks, and flat images, whose distributions have no samples
//! on one side of zero.
//!
//! The parameter files are the authors' own and are placed by hand. [`mod@agiqa_weights::manifest`] lists their
//! names, hashes and origins.

mod elementary;

mod gaussians;

mod imresize;

mod libsvm;

mod loggabor;

mod moments;

mod nss;

mod derivatives;

mod params;

mod plane;

mod score_error;

mod weibull;

mod wide;

pub mod brisque;

pub mod niqe;

pub mod ilniqe;

#[cfg(test)]
mod parity;

mod method;

pub use method::{Method, MethodError, Scorer};
pub use params::{ParamsError, ParamsFile};
pub use score_error::ScoreError;
