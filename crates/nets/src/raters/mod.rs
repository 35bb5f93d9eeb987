//! Networks that give an image one rating, as published: systems of the paper's Table 1.
//!
//! A network here has its preprocessing beside it, the layouts of its published checkpoints, and sizes that are read
//! from the checkpoint's shapes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use agiqa_images::RgbImage8;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::checkpoint::{self, Checkpoint, CheckpointError, Wanted};
use super::layers::{NamedTensors, NetworkError, Parameters, TensorScope};
use super::mplug_owl2::LoadError;

mod weights;

pub(crate) use weights::{Layout, Stored};

mod start;

pub use start::{RaterStart, StartError, Trunk};

use weights::Listing;

mod native;

pub(crate) mod clipiqa;
pub(crate) mod dbcnn;
pub(crate) mod hyperiqa;
pub(crate) mod musiq;
mod musiq_npz;
pub(crate) mod qalign;
pub(crate) mod resnet50;
pub(crate) mod saan;
pub(crate) mod stairiqa;

use clipiqa::ClipIqa;
use dbcnn::Dbcnn;
use hyperiqa::HyperIqa;
use musiq::Musiq;
use resnet50::ResNet50;
use saan::Saan;
use stairiqa::StairIqa;

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
            Self::QAlign => "qalign",
        }
    }

    /// Version of the network and its preprocessing here, raised if numbers change.
    pub const fn code_version(self) -> u32 {
        match self {
            Self::HyperIqa | Self::Dbcnn | Self::StairIqa | Self::Baid | Self::Musiq => 1,
            Self::ClipIqa | Self::ClipIqaPlus | Self::QAlign | Self::ResNet50 => 1,
        }
    }

    /// Names of the network's variants, the default first; empty if it has one only.
    pub const fn variants(self) -> &'static [&'static str] {
        match self {
            Self::StairIqa => stairiqa::VARIANTS,
            Self::Musiq => musiq::VARIANTS,
            Self::ClipIqa => clipiqa::VARIANTS,
            Self::QAlign => qalign::VARIANTS,
            Self::HyperIqa | Self::Dbcnn | Self::Baid | Self::ClipIqaPlus | Self::ResNet50 => &[],
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

    /// Whether the number type of the weights can be chosen. The other networks are small and compute in f32.
    pub const fn has_dtype(self) -> bool {
        matches!(self, Self::QAlign)
    }

    const fn layouts(self) -> &'static [Layout] {
        match self {
            Self::HyperIqa => HyperIqa::LAYOUTS,
            Self::Dbcnn => Dbcnn::LAYOUTS,
            Self::StairIqa => StairIqa::LAYOUTS,
            Self::Baid => Saan::LAYOUTS,
            Self::Musiq => Musiq::LAYOUTS,
            Self::ClipIqa | Self::ClipIqaPlus => ClipIqa::LAYOUTS,
            Self::ResNet50 => ResNet50::LAYOUTS,
            // Its folder is known by its settings.
            Self::QAlign => &[],
        }
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

/// Tensors of networks that people have at hand and that are no rating networks here.
const OTHERS: &[(&str, &str)] = &[
    (musiq::NPZ_LANDMARK, "musiq"),
    ("tablock1.0.c_q.weight", "MANIQA"),
    ("classifier.6.weight", "a VGG for ImageNet"),
    ("layer4.2.conv3.weight", "a plain ResNet-50"),
    ("visual_abstractor.query_embeds", "mPLUG-Owl2 or Q-Align"),
    ("patch_embed.proj.weight", "a vision transformer"),
];

/// What network the checkpoint seems to hold.
fn looks_like(checkpoint: &Checkpoint) -> Option<&'static str> {
    let raters = RaterName::ALL.iter().copied();
    let rater = raters.filter(|name| Stored::find(checkpoint, name.layouts()).is_some()).map(RaterName::as_str).next();
    let others = OTHERS.iter().filter(|(landmark, _)| checkpoint.prefix_of(landmark).is_some());
    rater.or_else(|| others.map(|(_, name)| *name).next())
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

/// Makes inputs of a rating network.
pub trait Prepare: Send + Sync {
    /// Whether all inputs have one shape, so that they can be stacked.
    fn has_one_shape(&self) -> bool;

    /// The input of `image`.
    ///
    /// # Errors
    /// The network cannot rate an image of this size.
    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit>;

    /// The picture as training keeps it, resized where [`Self::prepare`] begins so, which then makes the same input of it.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Unfit> {
        Ok(image)
    }

    /// The input that is all of `crop`, neither resized nor cut.
    ///
    /// # Errors
    /// The network cannot rate a picture of this size.
    fn whole(&self, crop: &RgbImage8) -> Result<Prepared, Unfit> {
        self.prepare(crop)
    }
}

/// One image as an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The values, row-major.
    pub values: Vec<f32>,
    /// Their shape.
    pub shape: Vec<i64>,
}

/// Why a network cannot rate an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Unfit {
    /// The image is smaller than the network's least size.
    #[error("the image has {width_px} × {height_px} pixels, and the network needs {least_px} on each side")]
    TooSmall { width_px: u32, height_px: u32, least_px: u32 },
    /// The network would see more pixels than memory is meant for.
    #[error(
        "the image has {width_px} × {height_px} pixels, of which the network would see {n_seen}, over the limit of \
         {limit}; make a smaller copy"
    )]
    TooLarge { width_px: u32, height_px: u32, n_seen: u64, limit: u64 },
}

/// Greatest number of pixels that a network sees in a picture that it reads at its own size or enlarged, as many as in
/// 2048 × 2048. More would take over 2 GiB of memory for activations.
pub const MAX_SEEN: u64 = 1 << 22;

impl Unfit {
    /// Refuses an image with a side below `least_px`.
    fn check_least(image: &RgbImage8, least_px: u32) -> Result<(), Self> {
        let RgbImage8 { width_px, height_px, .. } = *image;
        match width_px.min(height_px) < least_px {
            true => Err(Self::TooSmall { width_px, height_px, least_px }),
            false => Ok(()),
        }
    }

    /// Refuses an image of which a network would see `height` × `width` pixels, if these are too many.
    fn check_seen(image: &RgbImage8, height: usize, width: usize) -> Result<(), Self> {
        Self::check_limit(image, height as u64 * width as u64, MAX_SEEN)
    }

    /// Refuses an image of which a network would see `n_seen` pixels, if these are more than `limit`.
    fn check_limit(image: &RgbImage8, n_seen: u64, limit: u64) -> Result<(), Self> {
        let RgbImage8 { width_px, height_px, .. } = *image;
        match n_seen > limit {
            true => Err(Self::TooLarge { width_px, height_px, n_seen, limit }),
            false => Ok(()),
        }
    }
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

/// The weights of a rating network, found complete.
pub struct RaterFile(Form);

/// Where a network's tensors are.
enum Form {
    /// In checkpoints, each with the tensors that the network reads from it.
    Parts(Vec<(Checkpoint, Wanted)>, Build),
    /// In a folder with settings and a tokenizer.
    Folder(Box<qalign::Folder>),
}

impl RaterFile {
    /// Opens the weights of the network `name` at `path`: a file, or a folder with it. Reads no values.
    ///
    /// # Errors
    /// The file is absent, damaged, or a checkpoint of another network or geometry.
    pub fn open(name: RaterName, variant: Option<&str>, path: &Path) -> Result<Self, RaterError> {
        match name {
            RaterName::HyperIqa => Self::of::<HyperIqa>(name, variant, path),
            RaterName::Dbcnn => Self::of::<Dbcnn>(name, variant, path),
            RaterName::StairIqa => Self::of::<StairIqa>(name, variant, path),
            RaterName::Baid => Self::of::<Saan>(name, variant, path),
            RaterName::Musiq => Self::of::<Musiq>(name, variant, path),
            RaterName::ClipIqa => Self::of::<ClipIqa>(name, variant, path),
            RaterName::ClipIqaPlus => Self::of_clipiqa_plus(path),
            RaterName::ResNet50 => Self::of::<ResNet50>(name, variant, path),
            RaterName::QAlign => Self::of_qalign(variant.unwrap_or_default(), path),
        }
    }

    fn of<N: Architecture>(name: RaterName, variant: Option<&str>, path: &Path) -> Result<Self, RaterError> {
        let checkpoint = N::adopt(Checkpoint::find(path)?)?;
        let Some(stored) = Stored::find(&checkpoint, N::LAYOUTS) else {
            return Err(another::<N>(name, &checkpoint));
        };
        let sizes = N::sizes(&stored, variant)?;
        let wanted = Wanted::new(&checkpoint, &parameters::<N>(&sizes), |name| stored.name(name))?;
        Ok(Self(Form::Parts(vec![(checkpoint, wanted)], build_of::<N>(sizes))))
    }

    fn of_qalign(variant: &str, path: &Path) -> Result<Self, RaterError> {
        if !path.join("config.json").exists()
            && let Ok(checkpoint) = Checkpoint::find(path)
            && let Some(looks_like) = looks_like(&checkpoint)
        {
            return Err(RaterError::Another {
                path: path.to_owned(),
                asked: RaterName::QAlign,
                landmarks: vec!["`lm_head.weight` in a folder with config.json".to_owned()],
                looks_like: Some(looks_like),
            });
        }
        Ok(Self(Form::Folder(Box::new(qalign::Folder::open(path, variant)?))))
    }

    /// CLIPIQA+: learned prompts, and CLIP in the same file or in another one of the folder.
    fn of_clipiqa_plus(path: &Path) -> Result<Self, RaterError> {
        let mut files = checkpoint::files_in(path);
        if files.is_empty() {
            files.push(path.to_owned());
        }
        let opened = files.iter().map(|file| Checkpoint::open(file)).collect::<Result<Vec<_>, _>>()?;
        let (prompts, others): (Vec<_>, Vec<_>) =
            opened.into_iter().partition(|checkpoint| clipiqa::learned_in(checkpoint).is_some());
        let absent = |found| RaterError::Prompts { path: path.to_owned(), found };
        let prompts = prompts.into_iter().next().ok_or_else(|| absent("no learned prompts"))?;
        let stored_name = clipiqa::learned_in(&prompts).unwrap_or_default();
        let is_clip = |checkpoint: &Checkpoint| Stored::find(checkpoint, ClipIqa::LAYOUTS).is_some();
        let clip = match others.into_iter().find(is_clip) {
            Some(clip) => clip,
            None => Checkpoint::open(prompts.path())?,
        };
        let stored = Stored::find(&clip, ClipIqa::LAYOUTS).ok_or_else(|| absent("no checkpoint of CLIP's RN50"))?;
        let shape = prompts.info(&stored_name)?.shape.clone();
        let sizes = ClipIqa::sizes(&stored, None)?.with_learned(shape);
        let is_learned = |(name, _): &(String, Vec<i64>)| name == clipiqa::LEARNED;
        let (of_prompts, of_clip): (BTreeMap<_, _>, BTreeMap<_, _>) =
            parameters::<ClipIqa>(&sizes).into_iter().partition(is_learned);
        let wanted = Wanted::new(&clip, &of_clip, |name| stored.name(name))?;
        let learned = Wanted::new(&prompts, &of_prompts, |_| stored_name.clone())?;
        Ok(Self(Form::Parts(vec![(clip, wanted), (prompts, learned)], build_of::<ClipIqa>(sizes))))
    }

    /// All files that decide the numbers, if they are too many to hash their tensors each time; else `None`.
    pub fn large_files(&self) -> Option<Vec<PathBuf>> {
        match &self.0 {
            Form::Parts(..) => None,
            Form::Folder(folder) => Some(folder.files()),
        }
    }

    /// Hash of the tensors that the network reads, for fingerprints: equal in all layouts of the same weights. Empty if
    /// it has [`Self::large_files`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn content_hash(&self) -> Result<String, RaterError> {
        let Form::Parts(parts, _) = &self.0 else { return Ok(String::new()) };
        let hashes = parts.iter().map(|(checkpoint, wanted)| wanted.content_hash(checkpoint));
        Ok(hashes.collect::<Result<Vec<_>, _>>()?.join("+"))
    }

    /// The network on `device`, in f32; one with [`RaterName::has_dtype`] with weights in `kind`.
    ///
    /// # Errors
    /// A file cannot be read, or memory is short.
    pub fn load(&self, device: Device, kind: Kind) -> Result<Box<dyn Rater>, RaterError> {
        let _no_grad = tch::no_grad_guard();
        let (parts, build) = match &self.0 {
            Form::Folder(folder) => return Ok(Box::new(folder.load(device, kind)?)),
            Form::Parts(parts, build) => (parts, build),
        };
        let mut tensors = NamedTensors::new();
        for (checkpoint, wanted) in parts {
            tensors.extend(wanted.read(checkpoint)?);
        }
        Ok(build(&TensorScope::new(&tensors, device, Kind::Float))?)
    }
}

/// The error of a checkpoint that has none of the layouts of the network `name`.
fn another<N: Architecture>(name: RaterName, checkpoint: &Checkpoint) -> RaterError {
    RaterError::Another {
        path: checkpoint.path().to_owned(),
        asked: name,
        landmarks: N::LAYOUTS.iter().map(|layout| format!("`{}`", layout.landmark)).collect(),
        looks_like: looks_like(checkpoint),
    }
}

fn build_of<N: Architecture>(sizes: N::Sizes) -> Build {
    Box::new(move |p| Ok(Box::new(N::new(p, &sizes)?)))
}

/// Names and shapes of all tensors that a network of `sizes` reads.
pub(crate) fn parameters<N: Architecture>(sizes: &N::Sizes) -> BTreeMap<String, Vec<i64>> {
    listed::<N>(sizes).0
}

/// Names and shapes of all tensors that a network of `sizes` reads, and such a network without values.
fn listed<N: Architecture>(sizes: &N::Sizes) -> (BTreeMap<String, Vec<i64>>, N) {
    let listing = Listing::default();
    let Ok(network) = N::new(&listing, sizes);
    (listing.into_parameters(), network)
}
