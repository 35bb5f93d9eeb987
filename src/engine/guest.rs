//! Guests of the engine: checked settings, declared outputs, and a network or a per-image computation.

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
    /// Fingerprint of all inputs that decide the numbers.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Vectors(set) => set.fingerprint,
            Self::Scores(set) => set.fingerprint,
        }
    }

    /// Images that have a row.
    ///
    /// # Errors
    /// A part cannot be read.
    pub fn done(&self, store: &Store) -> Result<HashSet<ImageId>, PartError> {
        match self {
            Self::Vectors(set) => set.done(store),
            Self::Scores(set) => set.done(store),
        }
    }

    /// Writes the description of the folder if it is absent.
    pub(super) fn write_description(&self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Vectors(set) => set.write_description(store),
            Self::Scores(set) => set.write_description(store),
        }
    }
}

/// Outputs that are computed together: an image has rows in all of them or in none. The engine counts rows as pairs of
/// file and task.
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
    /// Rows of [`Output::Vectors`].
    Vectors {
        /// Per vector column: row-major values, one row per image.
        columns: Vec<Vec<f32>>,
        /// The number of tokens that each image's vectors were pooled from.
        n_tokens: u32,
    },
    /// Rows of [`Output::Scores`].
    Scores(Vec<Score>),
}

/// The score of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The score.
    pub value: f64,
    /// Its standard deviation, if the scorer knows it.
    pub std: Option<f64>,
    /// The gates of f_1, f_a and f_b, if the scorer is a head with gates.
    pub gates: Option<[Option<f64>; 3]>,
}

impl From<f64> for Score {
    fn from(value: f64) -> Self {
        Self { value, std: None, gates: None }
    }
}

/// Why a guest cannot use a picture, for `rejects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Kind of error, one word or a few with hyphens.
    pub kind: &'static str,
    /// What was found and what was expected.
    pub message: String,
}

/// A guest's checked settings. They are enough to declare its outputs before any weights are read.
pub trait Guest: Send + Sync {
    /// The tasks, at least one. A [`Network`] has exactly one task.
    fn tasks(&self) -> Vec<Task>;

    /// Reads weights or parameters.
    ///
    /// # Errors
    /// Files are absent, damaged or of another shape, or the machine lacks the device or number type.
    fn load(&self) -> Result<Loaded, GuestError>;
}

/// A guest that is ready to compute.
pub enum Loaded {
    /// Runs on batches, on the calling thread.
    Network(Box<dyn Network>),
    /// Computes on one image at a time, on every thread.
    PerImage(Box<dyn PerImage>),
}

/// A computation on one image at a time, on any thread.
pub trait PerImage: Send + Sync {
    /// The rows of each of `tasks` (positions in [`Guest::tasks`]) for `image`: one row per output of the task.
    fn compute(&self, image: &RgbImage8, tasks: &[usize]) -> Vec<Result<Vec<OutputRows>, Unusable>>;
}

/// A loaded network that turns prepared images into rows.
pub trait Network {
    /// The preprocessor that turns images into inputs. The decoding threads share it.
    fn preprocessor(&self) -> Arc<dyn Preprocessor>;

    /// Number of images per batch. It does not apply to inputs of varying size, which run one at a time.
    fn batch_size(&self) -> BatchSize;

    /// Whether the network runs on the CPU, where decoding competes with it.
    fn on_cpu(&self) -> bool;

    /// The memory of the network's device; `None` on a CPU. The peak is that since the last call.
    fn memory(&self) -> Option<DeviceMemory> {
        None
    }

    /// Messages to the user about the weights and number types. They are shown once.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Starts the computation of one batch and returns what waits for its rows, per output of the task. A CPU computes
    /// them at once; a GPU goes on while later batches are launched. An image's rows must depend only on its own input.
    ///
    /// # Errors
    /// The network as a whole fails, e.g. because memory is short.
    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError>;
}

/// Waits for the rows of a launched batch.
pub type Launched = Box<dyn FnOnce() -> Result<Vec<OutputRows>, GuestError>>;

/// A network's number of images per batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// The user asked for it.
    Asked(usize),
    /// The network's own. A device with little memory gets less.
    Preferred(usize),
}

impl BatchSize {
    /// The user's choice if there is one, else the network's own.
    pub fn of(asked: Option<usize>, preferred: usize) -> Self {
        asked.map_or(Self::Preferred(preferred), Self::Asked)
    }
}

/// Memory of a device, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Free for this process.
    pub free: u64,
    /// Allocated by this process.
    pub allocated: u64,
    /// Greatest number allocated at once since the last question.
    pub peak: u64,
}

/// Inputs of one call of a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The inputs one after the other: real inputs first, then zeros up to the batch size.
    pub values: &'a Values,
    /// Shape of one input, e.g. `[224, 224, 3]`.
    pub shape: &'a [i64],
    /// The number of real images.
    pub n_images: usize,
}

impl Batch<'_> {
    /// Shape of all inputs together, padding included.
    pub fn whole_shape(&self) -> Vec<i64> {
        let n_values = self.shape.iter().product::<i64>().max(1);
        std::iter::once(self.values.len() as i64 / n_values).chain(self.shape.iter().copied()).collect()
    }
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
    /// The network cannot use the picture. The picture becomes a reject.
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable>;
}

/// Whether all inputs of a network have one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputSize {
    /// All inputs have one shape and are stacked into batches.
    Fixed,
    /// Each input has its own shape, e.g. the image's native resolution or a number of patches. Every image is a batch
    /// of its own.
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
    /// 32-bit floats.
    F32(Vec<f32>),
}

impl Values {
    /// The values as floats.
    ///
    /// # Panics
    /// If the values have 8 bits. A network gets the type that its own preprocessor makes, so this is the guest's bug.
    pub fn as_f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::U8(_) => panic!("the preprocessor of this network makes floats"),
        }
    }

    /// The values as bytes.
    ///
    /// # Panics
    /// If the values are floats, which is the guest's bug.
    pub fn as_u8(&self) -> &[u8] {
        match self {
            Self::U8(values) => values,
            Self::F32(_) => panic!("the preprocessor of this network makes bytes"),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the values into `bytes`, which has [`Self::n_bytes`] bytes, as they lie in memory.
    pub(crate) fn write_to(&self, bytes: &mut [u8]) {
        match self {
            Self::U8(values) => bytes.copy_from_slice(values),
            Self::F32(values) => {
                let targets = bytes.chunks_exact_mut(4);
                targets.zip(values).for_each(|(target, value)| target.copy_from_slice(&value.to_ne_bytes()));
            }
        }
    }

    /// Number of bytes in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => 4 * values.len(),
        }
    }

    /// Appends the values of `input`. The first input decides the type.
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

    /// Takes out the values from number `n` on.
    pub(super) fn split_off(&mut self, n: usize) -> Self {
        match self {
            Self::U8(values) => Self::U8(values.split_off(n)),
            Self::F32(values) => Self::F32(values.split_off(n)),
        }
    }

    /// Adds `rest`, which has the same type.
    pub(super) fn append(&mut self, rest: &mut Self) {
        match (self, rest) {
            (Self::U8(values), Self::U8(rest)) => values.append(rest),
            (Self::F32(values), Self::F32(rest)) => values.append(rest),
            (Self::U8(_), Self::F32(_)) | (Self::F32(_), Self::U8(_)) => unreachable!("inputs have one type"),
        }
    }

    /// Keeps the first `n` values.
    pub(super) fn truncate(&mut self, n: usize) {
        match self {
            Self::U8(values) => values.truncate(n),
            Self::F32(values) => values.truncate(n),
        }
    }

    /// Removes all values, but keeps type and memory.
    pub(super) fn clear(&mut self) {
        match self {
            Self::U8(values) => values.clear(),
            Self::F32(values) => values.clear(),
        }
    }
}

/// Greatest number of rows of a part. A part is in memory until it is written.
pub const MAX_PART_ROWS: usize = 1_000_000;

/// Greatest number of images of a batch, which are in memory together.
pub const MAX_BATCH_SIZE: usize = 4096;

/// Division of the work on a source's images.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// The share of the images to compute.
    pub shard: Shard,
    /// Whether to try images again that an earlier run with the same fingerprints rejected.
    pub retry_rejects: bool,
    /// Number of rows at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even if it has fewer rows.
    pub part_secs: u64,
}

/// Words for a stage and its rows in messages.
#[derive(Clone, Debug)]
pub struct GuestWords {
    /// Name of the stage in `rejects`, e.g. `features`.
    pub stage: &'static str,
    /// The stage and its guest, e.g. `features dinov2-s14`.
    pub title: String,
    /// The rows, e.g. `images`.
    pub unit: &'static str,
    /// A clause for computed rows, e.g. `images have features`.
    pub done: &'static str,
    /// A clause for rows to compute, e.g. `images lack features`.
    pub lacking: &'static str,
    /// Advice on how to try rejects again, if `--retry-rejects` is not the only way.
    pub retry_hint: Option<&'static str>,
}

/// Settings of a guest, which `resolve` checks.
pub trait GuestSettings {
    /// Words for the stage and its rows in messages.
    fn words(&self) -> GuestWords;

    /// Division of the work.
    fn work(&self) -> Work;

    /// Checks the settings.
    ///
    /// # Errors
    /// Settings are invalid, or weights are absent or cannot be hashed.
    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError>;
}
