//! What a guest of the engine is: checked settings, declared outputs, and a network or a per-image computation.

use std::collections::HashSet;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use agiqa_images::RgbImage8;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::part::PartError;
use agiqa_store::store::shard::Shard;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::scores::ScoreSet;

/// Any guest's error; its own type stays reachable through the chain of causes.
pub type GuestError = Box<dyn Error + Send + Sync>;

/// One folder of rows that a guest fills: at most one row per image.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Vectors of `semantic` or `quality`.
    Vectors(FeatureSet),
    /// Scores with their direction.
    Scores(ScoreSet),
}

impl Output {
    /// Fingerprint of everything that decides the numbers.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Vectors(set) => set.fingerprint,
            Self::Scores(set) => set.fingerprint,
        }
    }

    /// Images that have a row.
    ///
    /// # Errors
    /// A part that cannot be read.
    pub fn done(&self, store: &Store) -> Result<HashSet<ImageId>, PartError> {
        match self {
            Self::Vectors(set) => set.done(store),
            Self::Scores(set) => set.done(store),
        }
    }

    /// Writes the description of the folder unless it is there.
    pub(super) fn write_description(&self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Vectors(set) => set.write_description(store),
            Self::Scores(set) => set.write_description(store),
        }
    }
}

/// Outputs that an image has all of or none of. The engine counts rows as pairs of file and task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Name for messages, e.g. `niqe`.
    pub name: String,
    /// The outputs, at least one.
    pub outputs: Vec<Output>,
}

/// Rows of one output for some images, in the order of the images.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputRows {
    /// For [`Output::Vectors`].
    Vectors {
        /// Per vector column: row-major values, one row per image.
        columns: Vec<Vec<f32>>,
        /// The number of tokens that each image's vectors were pooled from.
        n_tokens: u32,
    },
    /// For [`Output::Scores`].
    Scores(Vec<f64>),
}

/// Why a guest cannot use a picture, for `rejects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Kind of error, one word or a few with hyphens.
    pub kind: &'static str,
    /// What was found and what was expected.
    pub message: String,
}

/// A guest's checked settings: enough to say what it would write, before any weights are read.
pub trait Guest: Send + Sync {
    /// The tasks, at least one. The tasks of a [`Network`] are one.
    fn tasks(&self) -> Vec<Task>;

    /// Reads weights or parameters.
    ///
    /// # Errors
    /// Files that are absent, damaged or of another shape; a device or number type that this machine lacks.
    fn load(&self) -> Result<Loaded, GuestError>;
}

/// A guest that is ready to compute.
pub enum Loaded {
    /// Runs on batches, on the calling thread.
    Network(Box<dyn Network>),
    /// Computes on one image at a time, on every thread.
    PerImage(Box<dyn PerImage>),
}

/// Mathematics on one image at a time, which any thread may do.
pub trait PerImage: Send + Sync {
    /// The rows of each of `tasks` (positions in [`Guest::tasks`]) for `image`: one row per output of the task.
    fn compute(&self, image: &RgbImage8, tasks: &[usize]) -> Vec<Result<Vec<OutputRows>, Unusable>>;
}

/// A loaded network that turns prepared images into rows.
pub trait Network {
    /// How images become inputs; shared by the decoding threads.
    fn preprocessor(&self) -> Arc<dyn Preprocessor>;

    /// Images per batch. Inputs of varying size run one at a time, whatever this says.
    fn batch_size(&self) -> usize;

    /// Whether the network runs on the CPU, where decoding competes with it.
    fn on_cpu(&self) -> bool;

    /// What the user should know of the weights that were read; said once.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the user should know of the batches since the last call.
    fn take_warnings(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Rows of one batch, per output of the task. An image's rows depend on its own input only.
    ///
    /// # Errors
    /// A failure of the network as a whole, such as too little memory.
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Vec<OutputRows>, GuestError>;
}

/// Inputs of one call of a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The inputs one after the other: real ones first, then zeros up to the batch size.
    pub values: &'a Values,
    /// Shape of one input, e.g. `[3, 224, 224]`.
    pub shape: &'a [i64],
    /// The number of real images.
    pub n_images: usize,
}

/// Turns a decoded image into a network's input.
pub trait Preprocessor: Send + Sync {
    /// Whether all inputs have one shape.
    fn size(&self) -> InputSize {
        InputSize::Fixed
    }

    /// The input of `image`.
    ///
    /// # Errors
    /// A picture that the network has no rows for; it becomes a reject.
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable>;
}

/// Whether all inputs of a network have one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputSize {
    /// One shape: inputs are stacked into batches.
    Fixed,
    /// A shape per image, e.g. its native resolution or a number of patches: every image is a batch of its own.
    Varying,
}

/// One image as a network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The values, row-major.
    pub values: Values,
    /// Their shape.
    pub shape: Vec<i64>,
}

/// Values of inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 8-bit values, for a network that normalises on its device.
    U8(Vec<u8>),
    /// Floats.
    F32(Vec<f32>),
}

impl Values {
    /// The values, of a guest that prepares floats.
    ///
    /// # Panics
    /// On 8-bit values: a network gets the type that its own preprocessor makes.
    pub fn as_f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::U8(_) => panic!("the preprocessor of this network makes floats"),
        }
    }

    /// Appends the values of `input`; the first input decides the type.
    pub(super) fn push(&mut self, input: Self) {
        match (&mut *self, input) {
            (Self::U8(all), Self::U8(values)) => all.extend(values),
            (Self::F32(all), Self::F32(values)) => all.extend(values),
            (_, input) => *self = input,
        }
    }

    /// Pads with zeros to `n` values.
    pub(super) fn pad(&mut self, n: usize) {
        match self {
            Self::U8(values) => values.resize(n, 0),
            Self::F32(values) => values.resize(n, 0.0),
        }
    }

    /// Removes all values; keeps type and memory.
    pub(super) fn clear(&mut self) {
        match self {
            Self::U8(values) => values.clear(),
            Self::F32(values) => values.clear(),
        }
    }
}

/// How the work on a source's images is cut up.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// The share of the images to compute.
    pub shard: Shard,
    /// Whether images are tried again that an earlier run with the same fingerprints rejected.
    pub retry_rejects: bool,
    /// Rows at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even if it has fewer rows.
    pub part_secs: u64,
}

/// How a stage speaks of its rows.
#[derive(Clone, Debug)]
pub struct GuestWords {
    /// Name of the stage in `rejects`, e.g. `features`.
    pub stage: &'static str,
    /// The stage and its guest, e.g. `features dinov2-s14`.
    pub title: String,
    /// The rows, e.g. `images`.
    pub unit: &'static str,
    /// What a computed row is or has, e.g. `images have features`.
    pub done: &'static str,
    /// What a row is or lacks before that, e.g. `images lack features`.
    pub lacking: &'static str,
    /// How to try rejects again, where there is more than one way.
    pub retry_hint: Option<&'static str>,
}

/// Settings of a guest: what `resolve` checks.
pub trait GuestSettings {
    /// How the stage speaks of its rows.
    fn words(&self) -> GuestWords;

    /// How the work is cut up.
    fn work(&self) -> Work;

    /// Checks the settings.
    ///
    /// # Errors
    /// Settings that make no sense; weights that are absent or cannot be hashed.
    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError>;
}
