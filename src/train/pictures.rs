//! Training images in the form that the network reads. They are decoded and resized once, kept as 8-bit values, and
//! turned and flipped each time they are used.
//!
//! Resized images are kept in memory if they fit. Otherwise they are kept in an Arrow file in the temporary folder, one
//! record batch per image. Threads prepare batches ahead of the network. The content of a batch depends only on its
//! number, not on the thread.

use std::fs::File;
use std::io::Seek as _;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray as _, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use tch::Tensor;

use super::augment::{Augment, Motion};
use super::in_order::in_order;
use super::random::Draws;
use crate::engine::{Failure, decode_verified};
use agiqa_images::{DecodeLimits, RgbImage8};
use agiqa_sources::Reader;
use agiqa_store::identity::ImageId;
use agiqa_store::interrupt::Interrupt;

/// Images cannot be kept or read back.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot keep resized images in a file of the temporary folder `{folder}` (set TMPDIR, or raise `image_memory_mib`)"
)]
pub struct PicturesError {
    folder: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl PicturesError {
    fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { folder: std::env::temp_dir().display().to_string(), source: Box::new(source) }
    }
}

impl From<std::io::Error> for PicturesError {
    fn from(source: std::io::Error) -> Self {
        Self::new(source)
    }
}

impl From<ArrowError> for PicturesError {
    fn from(source: ArrowError) -> Self {
        match source {
            // The I/O error itself is kept, so that a full disk is recognised.
            ArrowError::IoError(_, source) => Self::new(source),
            source => Self::new(source),
        }
    }
}

/// Location of an image.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// Row in the columns.
    pub(super) row: i64,
    pub(super) image_id: ImageId,
    pub(super) path: String,
}

/// Fills a network's input, three planes, from a picture with the right side.
pub type Fill = Box<dyn Fn(&RgbImage8, &mut [f32]) + Send + Sync>;

/// Settings of the pictures that a recipe trains on.
pub struct PictureSettings {
    /// Side of the square that images are resized to, pixels.
    pub side_px: u32,
    /// Memory for resized images, MiB. If they do not fit, they are kept in a file in the temporary folder.
    pub memory_mib: u32,
    /// Random changes of a training image each time it is used.
    pub augment: Augment,
    /// The pixels of an image, resized to a square of this side.
    pub resize: fn(&RgbImage8, u32) -> Vec<u8>,
    /// Converts a picture to the network's input.
    pub fill: Fill,
}

/// Resized images by row.
pub struct Pictures {
    settings: PictureSettings,
    /// Position of each row among the kept images; `None` for rows that no run reads.
    position_of: Vec<Option<usize>>,
    kept: Kept,
}

enum Kept {
    Memory(Vec<Vec<u8>>),
    /// The file's reader. Each image is its own batch.
    File(Mutex<FileReader<File>>),
}

/// The outcome of reading images.
pub(super) enum Read {
    /// All images are kept.
    Done(Box<Pictures>),
    /// The locations at these positions could not be read, with the failures.
    Failed(Vec<(usize, Failure)>),
    /// The user interrupted the command.
    Interrupted,
}

impl Pictures {
    /// Decodes and resizes `locations`, which are rows among `n_rows`. Calls `each` after every image.
    pub(super) fn read(
        locations: &[Location],
        n_rows: usize,
        settings: PictureSettings,
        n_threads: usize,
        interrupt: &Interrupt,
        mut each: impl FnMut(),
    ) -> Result<Read, PicturesError> {
        let (side_px, resize) = (settings.side_px, settings.resize);
        let n_bytes = 3 * side_px as usize * side_px as usize;
        let mut keeper = if n_bytes as u64 * locations.len() as u64 <= u64::from(settings.memory_mib) << 20 {
            Keeper::Memory(Vec::with_capacity(locations.len()))
        } else {
            Keeper::file(n_bytes)?
        };
        let mut failures = Vec::new();
        let (limits, reader) = (DecodeLimits::default(), Reader::default());
        let resized = |i: usize| {
            let Location { image_id, path, .. } = &locations[i];
            let image = decode_verified(&reader, path, image_id, &limits)?;
            Ok(resize(&image, side_px))
        };
        let ended = in_order(locations.len(), n_threads, resized, |i, resized: Result<Vec<u8>, Failure>| {
            each();
            if interrupt.is_raised() {
                return Ok(ControlFlow::Break(()));
            }
            match resized {
                Ok(pixels) if failures.is_empty() => keeper.keep(pixels)?,
                // After a failure, images are read only to find further failures.
                Ok(_) => {}
                Err(failure) => failures.push((i, failure)),
            }
            Ok::<_, PicturesError>(ControlFlow::Continue(()))
        })?;
        if ended.is_break() {
            return Ok(Read::Interrupted);
        }
        if !failures.is_empty() {
            return Ok(Read::Failed(failures));
        }
        let mut position_of = vec![None; n_rows];
        locations.iter().enumerate().for_each(|(i, location)| position_of[location.row as usize] = Some(i));
        Ok(Read::Done(Box::new(Self { settings, position_of, kept: keeper.finish()? })))
    }

    /// Whether the images are in memory.
    pub(super) fn in_memory(&self) -> bool {
        matches!(self.kept, Kept::Memory(_))
    }

    /// The network's inputs for the training images `batch` (positions in `train_rows`) in epoch `epoch`, concatenated.
    pub(super) fn training_inputs(
        &self,
        draws: Draws,
        epoch: u64,
        train_rows: &[i64],
        batch: &[i64],
    ) -> Result<Vec<f32>, PicturesError> {
        let motion = |position: &i64| draws.motion(self.settings.augment, epoch, *position as u64);
        let moved = |position: &i64| (train_rows[*position as usize], motion(position));
        self.inputs(&batch.iter().map(moved).collect::<Vec<_>>())
    }

    /// Calls `each` for the images in `rows`, batch by batch, with their rows and a tensor `(b, 3, side, side)` on the
    /// CPU.
    ///
    /// # Errors
    /// Fails if `each` fails, or if the file of resized images cannot be read.
    pub fn for_each_batch<E: From<PicturesError>>(
        &self,
        rows: &[i64],
        batch_size: usize,
        n_threads: usize,
        mut each: impl FnMut(&[i64], Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let batches: Vec<&[i64]> = rows.chunks(batch_size).collect();
        let inputs = |i: usize| {
            let still: Vec<(i64, Motion)> = batches[i].iter().map(|row| (*row, Motion::STILL)).collect();
            self.inputs(&still)
        };
        let _ = in_order(batches.len(), n_threads, inputs, |i, inputs: Result<Vec<f32>, PicturesError>| {
            each(batches[i], self.tensor(&inputs?))?;
            Ok::<_, E>(ControlFlow::Continue(()))
        })?;
        Ok(())
    }

    /// Inputs of some images as `(b, 3, side, side)`.
    pub(super) fn tensor(&self, inputs: &[f32]) -> Tensor {
        let side = i64::from(self.settings.side_px);
        Tensor::from_slice(inputs).view([-1, 3, side, side])
    }

    /// The network's inputs for the images in some rows, each moved by its motion, concatenated.
    fn inputs(&self, images: &[(i64, Motion)]) -> Result<Vec<f32>, PicturesError> {
        let side_px = self.settings.side_px;
        let side = side_px as usize;
        let n_values = 3 * side * side;
        let mut inputs = vec![0.0; images.len() * n_values];
        for ((row, motion), input) in images.iter().zip(inputs.chunks_exact_mut(n_values)) {
            let position = self.position_of[*row as usize].expect("images that are trained or validated on are kept");
            let mut moved = vec![0; n_values];
            match &self.kept {
                Kept::Memory(pictures) => motion.apply(&pictures[position], side, &mut moved),
                Kept::File(reader) => {
                    let batch = {
                        let mut reader = reader.lock().expect("no holder of this lock panics");
                        reader.set_index(position)?;
                        reader.next().transpose()?
                    };
                    let missing = || ArrowError::IpcError(format!("image {position} is not in the file"));
                    let batch = batch.ok_or_else(missing)?;
                    let pixels = batch.column(0).as_fixed_size_binary_opt().ok_or_else(missing)?;
                    motion.apply(pixels.value(0), side, &mut moved);
                }
            }
            (self.settings.fill)(&RgbImage8 { width_px: side_px, height_px: side_px, pixels: moved }, input);
        }
        Ok(inputs)
    }
}

/// Stores images as they arrive.
enum Keeper {
    Memory(Vec<Vec<u8>>),
    File { writer: Box<FileWriter<File>>, schema: Arc<Schema> },
}

impl Keeper {
    fn file(n_bytes: usize) -> Result<Self, PicturesError> {
        let width = i32::try_from(n_bytes).unwrap_or(i32::MAX);
        let field = Field::new("pixels", DataType::FixedSizeBinary(width), false);
        let schema = Arc::new(Schema::new(vec![field]));
        // The file has no name, so no file remains however this process ends.
        let writer = Box::new(FileWriter::try_new(tempfile::tempfile()?, &schema)?);
        Ok(Self::File { writer, schema })
    }

    fn keep(&mut self, pixels: Vec<u8>) -> Result<(), PicturesError> {
        match self {
            Self::Memory(pictures) => pictures.push(pixels),
            Self::File { writer, schema } => {
                let array = FixedSizeBinaryArray::try_from_iter(std::iter::once(pixels))?;
                writer.write(&RecordBatch::try_new(schema.clone(), vec![Arc::new(array)])?)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Kept, PicturesError> {
        match self {
            Self::Memory(pictures) => Ok(Kept::Memory(pictures)),
            Self::File { writer, .. } => {
                let mut file = writer.into_inner()?;
                file.rewind()?;
                Ok(Kept::File(Mutex::new(FileReader::try_new(file, None)?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_mt::Mt64;

    #[test]
    fn a_file_gives_the_inputs_that_memory_gives() {
        let picture =
            |i: u8| (0..16 * 16 * 3).map(|at| (at as u8).wrapping_mul(7).wrapping_add(i)).collect::<Vec<u8>>();
        let mut file = Keeper::file(16 * 16 * 3).expect("a temporary file");
        (0..5).for_each(|i| file.keep(picture(i)).expect("it is kept"));
        let kept = [Kept::Memory((0..5).map(picture).collect()), file.finish().expect("it is whole")];
        let mut generator = Mt64::new(3);
        let order: Vec<(i64, Motion)> =
            [4, 0, 4, 2, 1, 3].into_iter().map(|i| (i, Augment::Horizontal.draw(&mut generator))).collect();
        let inputs = kept.map(|kept| {
            let fill: Fill = Box::new(|image, input| {
                input.iter_mut().zip(&image.pixels).for_each(|(value, level)| *value = f32::from(*level));
            });
            let settings = PictureSettings {
                side_px: 16,
                memory_mib: 0,
                augment: Augment::None,
                resize: |image, _| image.pixels.clone(),
                fill,
            };
            let pictures = Pictures { settings, position_of: (0..5).map(Some).collect(), kept };
            pictures.inputs(&order).expect("they can be read")
        });
        assert_eq!(inputs[0].len(), 6 * 16 * 16 * 3);
        assert!(inputs[0] == inputs[1]);
    }
}
