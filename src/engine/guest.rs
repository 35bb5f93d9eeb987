//! Guests of the engine: checked settings, declared outputs, and a network or a per-image computation.

use std::collections::HashSet;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use agiqa_images::RgbImage8;
use agiqa_nets::device::{self, Memory};
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

/// The surroundings of a loaded network.
pub struct Frame {
    /// Turns images into inputs. The decoding threads share it.
    pub preprocessor: Arc<dyn Preprocessor>,
    /// Number of images per batch. It does not apply to inputs of varying size, which run one at a time.
    pub batch_size: BatchSize,
    /// The device. On a CPU, decoding competes with the network.
    pub device: Device,
    /// Messages to the user about the weights and number types. They are shown once.
    pub notes: Vec<String>,
}

/// A loaded network that turns prepared images into rows.
pub trait Network {
    /// Its surroundings.
    fn frame(&self) -> &Frame;

    /// The memory of the network's device; `None` on a CPU. The peak is that since the last call.
    fn memory(&self) -> Option<Memory> {
        device::memory(self.frame().device)
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

/// Inputs of one call of a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The images' inputs, at least one, of one shape and type.
    pub inputs: &'a [Input],
    /// Number of images that the network sees. Those after the inputs are padding.
    pub size: usize,
}

impl Batch<'_> {
    /// The number of real images.
    pub fn n_images(&self) -> usize {
        self.inputs.len()
    }

    /// The inputs on `device`, then zeros. They are copied once: for a GPU, into the pinned memory that it reads.
    ///
    /// # Shapes
    /// - returns: `(size, ..)`, u8 or f32
    ///
    /// # Errors
    /// Memory is short.
    ///
    /// # Panics
    /// If the inputs differ in shape, which is the guest's bug.
    pub fn on(&self, device: Device) -> Result<Tensor, TchError> {
        let Input { values, shape } = &self.inputs[0];
        let (kind, n_bytes) = (values.kind(), values.n_bytes());
        let shape: Vec<i64> = std::iter::once(self.size as i64).chain(shape.iter().copied()).collect();
        device::placed(&shape, kind, device, |bytes| {
            let (real, padding) = bytes.split_at_mut(n_bytes * self.inputs.len());
            for (bytes, input) in real.chunks_exact_mut(n_bytes.max(1)).zip(self.inputs) {
                input.values.write_to(bytes);
            }
            padding.fill(0);
        })
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
    /// The inputs of several networks that see the image one after the other.
    Several(Vec<Input>),
}

impl Values {
    fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::Uint8,
            Self::F32(_) => Kind::Float,
            Self::Several(_) => unreachable!("each network gets its own input"),
        }
    }

    /// The values as floats.
    ///
    /// # Panics
    /// If they are no floats. A guest gets what its own preprocessor makes, so this is its bug.
    pub fn as_f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::U8(_) | Self::Several(_) => panic!("this guest's preprocessor makes floats"),
        }
    }

    /// The inputs of several networks.
    ///
    /// # Panics
    /// If there is one input. A guest gets what its own preprocessor makes, so this is its bug.
    pub fn parts(&self) -> &[Input] {
        match self {
            Self::Several(inputs) => inputs,
            Self::U8(_) | Self::F32(_) => panic!("this guest's preprocessor makes several inputs"),
        }
    }

    /// Number of bytes in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => 4 * values.len(),
            Self::Several(inputs) => inputs.iter().map(|input| input.values.n_bytes()).sum(),
        }
    }

    /// Fills `bytes`, which are as many.
    fn write_to(&self, bytes: &mut [u8]) {
        match self {
            Self::U8(values) => bytes.copy_from_slice(values),
            Self::F32(values) => {
                assert_eq!(bytes.len(), 4 * values.len(), "inputs of one shape");
                bytes.chunks_exact_mut(4).zip(values).for_each(|(bytes, value)| {
                    bytes.copy_from_slice(&value.to_ne_bytes());
                });
            }
            Self::Several(_) => unreachable!("each network gets its own input"),
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
