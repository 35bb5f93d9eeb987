//! Networks that give an image one rating, as published: systems of the paper's Table 1.
//!
//! A network here has its preprocessing beside it, the layouts of its published checkpoints, and sizes that are read
//! from the checkpoint's shapes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tch::Tensor;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::layers::{NetworkError, Parameters, TensorScope};
use super::mplug_owl2::LoadError;

mod name;

pub use name::RaterName;

mod prepare;

pub use prepare::{Prepare, Prepared, Unfit};

mod weights;

pub(crate) use weights::{Layout, Stored};

mod file;

pub use file::RaterFile;
#[cfg(test)]
pub(crate) use file::Rounded;

mod start;

pub use start::{RaterStart, StartError, Trunk};

mod native;

pub(crate) mod clipiqa;
pub(crate) mod dbcnn;
pub(crate) mod efficientnet;
pub(crate) mod hyperiqa;
pub(crate) mod musiq;
mod musiq_npz;
pub(crate) mod qalign;
pub(crate) mod resnet50;
pub(crate) mod saan;
pub(crate) mod stairiqa;

/// Why a rating network cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RaterError {
    /// The file cannot be read, or its tensors do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The network refused the tensors.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The checkpoint belongs to another network.
    #[error(
        "{} is not a checkpoint of `{asked}`, which has a tensor {}{}",
        path.display(), landmarks.join(" or "),
        looks_like.map_or_else(String::new, |found| format!("; it looks like {found}"))
    )]
    Another { path: PathBuf, asked: RaterName, landmarks: Vec<String>, looks_like: Option<&'static str> },
    /// The folder of a network that reads prompts is unusable.
    #[error(transparent)]
    Folder(#[from] LoadError),
    /// A part of CLIPIQA+ is absent.
    #[error(
        "{}: expected a folder with CLIP's RN50.pt and the learned prompts of CLIPIQA+, or one file with both; it has \
         {found}",
        path.display()
    )]
    Prompts { path: PathBuf, found: &'static str },
    /// The network has no such variant.
    #[error("`{name}` has no variant `{found}`: expected {}", expected_variants(*name))]
    Variant { name: RaterName, found: String },
}

fn expected_variants(name: RaterName) -> String {
    match name.variants() {
        [] => "none, because it has a single one".to_owned(),
        variants => variants.join(", "),
    }
}

/// A network that rates images.
pub trait Rater: Send {
    /// What makes its inputs of images. Decoding threads share it.
    fn preprocessor(&self) -> Arc<dyn Prepare>;

    /// The rating of each image; higher is better. Ratings of a batch do not depend on each other.
    ///
    /// # Shapes
    /// - inputs: `(b, ..)`, stacked from [`Prepare::prepare`]
    /// - returns: `(b,)`, f32
    fn rate(&self, inputs: &Tensor) -> Tensor;
}

/// A rating network as its file defines it.
pub(crate) trait Architecture: Rater + Sized + 'static {
    /// Its sizes.
    type Sizes: 'static;

    /// The layouts of its published checkpoints.
    const LAYOUTS: &'static [Layout];

    /// A checkpoint in a layout of its own as one with the network's names and shapes; any other as it is.
    ///
    /// # Errors
    /// A tensor has another shape than in that layout.
    fn adopt(checkpoint: Checkpoint) -> Result<Checkpoint, CheckpointError> {
        Ok(checkpoint)
    }

    /// The sizes of the network in a checkpoint.
    fn sizes(stored: &Stored, variant: Option<&str>) -> Result<Self::Sizes, CheckpointError>;

    /// The network of tensors.
    fn new<P: Parameters>(p: &P, sizes: &Self::Sizes) -> Result<Self, P::Error>;
}

/// Builds a network of tensors under the network's own names.
type Build = Box<dyn Fn(&TensorScope<'_>) -> Result<Box<dyn Rater>, NetworkError>>;

fn build_of<N: Architecture>(sizes: N::Sizes) -> Build {
    Box::new(move |p| Ok(Box::new(N::new(p, &sizes)?)))
}

/// Names and shapes of all tensors that a network of `sizes` reads.
pub(crate) fn parameters<N: Architecture>(sizes: &N::Sizes) -> BTreeMap<String, Vec<i64>> {
    listed::<N>(sizes).0
}

/// Names and shapes of all tensors that a network of `sizes` reads, and such a network without values.
fn listed<N: Architecture>(sizes: &N::Sizes) -> (BTreeMap<String, Vec<i64>>, N) {
    let listing = weights::Listing::default();
    let Ok(network) = N::new(&listing, sizes);
    (listing.into_parameters(), network)
}
