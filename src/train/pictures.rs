//! Training images in the form that the network reads. They are decoded and resized once, kept as 8-bit values, and
//! turned, flipped or cut each time they are used. The recipe's [`View`] says how.
//!
//! Resized images are kept in memory if they fit. Otherwise they are kept in an Arrow file in the temporary folder, one
//! record batch per image. Threads prepare batches ahead of the network. The content of a batch depends only on its
//! number, not on the thread.

use std::fs::File;
use std::io::Seek as _;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray as _, LargeBinaryArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use tch::{Device, TchError, Tensor};

use rand_mt::Mt64;

use super::augment::Augment;
use super::in_order::in_order;
use super::random::Draws;
use crate::engine::{Batch, Failure, Input, Values, decode_verified};
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

/// The pixels of a picture, resized to a square of a side.
pub type Resize = fn(&RgbImage8, u32) -> Vec<u8>;

/// How a recipe sees a picture.
pub trait View: Send + Sync {
    /// The picture in the form that is kept, for example resized. An error says why the picture cannot be used.
    ///
    /// # Errors
    /// The network cannot read a picture of this size.
    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Failure>;

    /// The input of a training image: the kept picture, changed by what `generator` draws.
    fn moved(&self, kept: &RgbImage8, generator: &mut Mt64) -> Input;

    /// The input of an image that is scored.
    fn still(&self, kept: &RgbImage8) -> Input;
}

/// Settings of the pictures that a recipe trains on.
pub struct PictureSettings {
    /// Memory for resized images, MiB. If they do not fit, they are kept in a file in the temporary folder.
    pub memory_mib: u32,
    /// How the recipe sees them.
    pub view: Box<dyn View>,
}

impl PictureSettings {
    /// Pictures that `resize` makes squares of `side_px` pixels, changed by `augment` in training. The recipe gets their
    /// pixels.
    pub fn squares(side_px: u32, memory_mib: u32, augment: Augment, resize: Resize) -> Self {
        Self { memory_mib, view: Box::new(Squares { side_px, augment, resize }) }
    }
}

/// Pictures in squares.
struct Squares {
    side_px: u32,
    augment: Augment,
    resize: Resize,
}

impl Squares {
    fn input(&self, pixels: Vec<u8>) -> Input {
        let side = i64::from(self.side_px);
        Input { values: Values::U8(pixels), shape: vec![side, side, 3] }
    }
}

impl View for Squares {
    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Failure> {
        let pixels = (self.resize)(&image, self.side_px);
        Ok(RgbImage8 { width_px: self.side_px, height_px: self.side_px, pixels })
    }

    fn moved(&self, kept: &RgbImage8, generator: &mut Mt64) -> Input {
        let mut pixels = vec![0; kept.pixels.len()];
        self.augment.draw(generator).apply(&kept.pixels, self.side_px as usize, &mut pixels);
        self.input(pixels)
    }

    fn still(&self, kept: &RgbImage8) -> Input {
        self.input(kept.pixels.clone())
    }
}

/// Inputs of some images as one tensor `(b, ..)` on `device`, if they have one shape. Pixels are u8, `(b, h, w, 3)`.
pub(super) fn stacked(inputs: &[Input], device: Device) -> Result<Option<Tensor>, TchError> {
    let [first, rest @ ..] = inputs else { return Ok(None) };
    let have_one_shape = rest.iter().all(|input| input.shape == first.shape);
    have_one_shape.then(|| Batch { inputs, size: inputs.len() }.on(device)).transpose()
}

/// Resized images by row.
pub struct Pictures {
    settings: PictureSettings,
    /// Position of each row among the kept images; `None` for rows that no run reads.
    position_of: Vec<Option<usize>>,
    kept: Kept,
}

enum Kept {
    Memory(Vec<RgbImage8>),
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
        let mut keeper = Keeper::new(u64::from(settings.memory_mib) << 20);
        let mut failures = Vec::new();
        let (limits, reader) = (DecodeLimits::default(), Reader::default());
        let resized = |i: usize| {
            let Location { image_id, path, .. } = &locations[i];
            let image = decode_verified(&reader, path, image_id, &limits)?;
            let named = |failure: Failure| Failure { message: format!("`{path}`: {}", failure.message), ..failure };
            settings.view.kept(image).map_err(named)
        };
        let ended = in_order(locations.len(), n_threads, resized, |i, resized: Result<RgbImage8, Failure>| {
            each();
            if interrupt.is_raised() {
                return Ok(ControlFlow::Break(()));
            }
            match resized {
                Ok(image) if failures.is_empty() => keeper.keep(image)?,
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

    /// The network's inputs for the training images `batch` (positions in `train_rows`) in epoch `epoch`.
    pub(super) fn training_inputs(
        &self,
        draws: Draws,
        epoch: u64,
        train_rows: &[i64],
        batch: &[i64],
    ) -> Result<Vec<Input>, PicturesError> {
        let input = |position: &i64| {
            let mut generator = draws.of_motion(epoch, *position as u64);
            self.with_kept(train_rows[*position as usize], |kept| self.settings.view.moved(kept, &mut generator))
        };
        batch.iter().map(input).collect()
    }

    /// Calls `each` for the images in `rows`, batch by batch, with their rows and a tensor `(b, ..)` on `device`.
    ///
    /// # Errors
    /// Fails if `each` fails, if the file of resized images cannot be read, or if memory is short.
    ///
    /// # Panics
    /// Panics if the inputs of a batch have several shapes.
    pub fn for_each_batch<E: From<PicturesError> + From<TchError>>(
        &self,
        rows: &[i64],
        batch_size: usize,
        n_threads: usize,
        device: Device,
        mut each: impl FnMut(&[i64], Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let batches: Vec<&[i64]> = rows.chunks(batch_size).collect();
        let inputs = |i: usize| {
            batches[i].iter().map(|row| self.with_kept(*row, |kept| self.settings.view.still(kept))).collect()
        };
        let _ = in_order(batches.len(), n_threads, inputs, |i, inputs: Result<Vec<Input>, PicturesError>| {
            each(batches[i], stacked(&inputs?, device)?.expect("inputs of a batch have one shape"))?;
            Ok::<_, E>(ControlFlow::Continue(()))
        })?;
        Ok(())
    }

    /// What `make` makes of the kept image in `row`.
    fn with_kept<T>(&self, row: i64, make: impl FnOnce(&RgbImage8) -> T) -> Result<T, PicturesError> {
        let position = self.position_of[row as usize].expect("images that are trained or validated on are kept");
        let reader = match &self.kept {
            Kept::Memory(pictures) => return Ok(make(&pictures[position])),
            Kept::File(reader) => reader,
        };
        let batch = {
            let mut reader = reader.lock().expect("no holder of this lock panics");
            reader.set_index(position)?;
            reader.next().transpose()?
        };
        let missing = || ArrowError::IpcError(format!("image {position} is not in the file"));
        let batch = batch.ok_or_else(missing)?;
        let side = |column: usize| Some(batch.column(column).as_primitive_opt::<UInt32Type>()?.value(0));
        let pixels = batch.column(2).as_binary_opt::<i64>().ok_or_else(missing)?.value(0).to_vec();
        let (width_px, height_px) = side(0).zip(side(1)).ok_or_else(missing)?;
        Ok(make(&RgbImage8 { width_px, height_px, pixels }))
    }
}

/// Stores images as they arrive: in memory, until they exceed it.
struct Keeper {
    n_free: u64,
    place: Place,
}

enum Place {
    Memory(Vec<RgbImage8>),
    File { writer: Box<FileWriter<File>>, schema: Arc<Schema> },
}

impl Keeper {
    /// Stores images in up to `n_bytes` of memory.
    fn new(n_bytes: u64) -> Self {
        Self { n_free: n_bytes, place: Place::Memory(Vec::new()) }
    }

    fn keep(&mut self, image: RgbImage8) -> Result<(), PicturesError> {
        if let Place::Memory(pictures) = &mut self.place {
            match self.n_free.checked_sub(image.pixels.len() as u64) {
                Some(n_free) => {
                    self.n_free = n_free;
                    pictures.push(image);
                    return Ok(());
                }
                None => {
                    let mut file = Place::file()?;
                    std::mem::take(pictures).into_iter().try_for_each(|image| file.write(image))?;
                    self.place = file;
                }
            }
        }
        self.place.write(image)
    }

    fn finish(self) -> Result<Kept, PicturesError> {
        match self.place {
            Place::Memory(pictures) => Ok(Kept::Memory(pictures)),
            Place::File { writer, .. } => {
                let mut file = writer.into_inner()?;
                file.rewind()?;
                Ok(Kept::File(Mutex::new(FileReader::try_new(file, None)?)))
            }
        }
    }
}

impl Place {
    fn file() -> Result<Self, PicturesError> {
        let side = |name| Field::new(name, DataType::UInt32, false);
        let pixels = Field::new("pixels", DataType::LargeBinary, false);
        let schema = Arc::new(Schema::new(vec![side("width"), side("height"), pixels]));
        // The file has no name, so no file remains however this process ends.
        let writer = Box::new(FileWriter::try_new(tempfile::tempfile()?, &schema)?);
        Ok(Self::File { writer, schema })
    }

    fn write(&mut self, image: RgbImage8) -> Result<(), PicturesError> {
        match self {
            Self::Memory(pictures) => pictures.push(image),
            Self::File { writer, schema } => {
                let side = |pixels| Arc::new(UInt32Array::from(vec![pixels]));
                let pixels = Arc::new(LargeBinaryArray::from_vec(vec![&image.pixels]));
                let columns = vec![side(image.width_px) as _, side(image.height_px) as _, pixels as _];
                writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn a_file_gives_the_inputs_that_memory_gives() {
        let picture = |i: u8| {
            let pixels = (0..16 * 16 * 3).map(|at| (at as u8).wrapping_mul(7).wrapping_add(i)).collect();
            RgbImage8 { width_px: 16, height_px: 16, pixels }
        };
        let n_bytes = 16 * 16 * 3;
        // The last keeper has room for two of the five.
        let inputs = [5 * n_bytes, 0, 2 * n_bytes].map(|memory| {
            let mut keeper = Keeper::new(memory);
            (0..5).for_each(|i| keeper.keep(picture(i)).expect("it is kept"));
            let settings = PictureSettings::squares(16, 0, Augment::Horizontal, |image, _| image.pixels.clone());
            let kept = keeper.finish().expect("it is whole");
            let pictures = Pictures { settings, position_of: (0..5).map(Some).collect(), kept };
            assert_eq!(pictures.in_memory(), memory == 5 * n_bytes);
            let (rows, batch) = ([4, 0, 2, 1, 3], [0, 3, 1, 1]);
            pictures.training_inputs(Draws::new(3), 2, &rows, &batch).expect("they can be read")
        });
        assert_eq!(inputs[0].len(), 4);
        assert!(inputs[0] == inputs[1] && inputs[0] == inputs[2]);
    }

    #[test]
    fn inputs_of_one_shape_become_one_tensor_of_their_type() {
        let pixels = |level| Input { values: Values::U8(vec![level; 6]), shape: vec![1, 2, 3] };
        let stack = stacked(&[pixels(1), pixels(250)], Device::Cpu).expect("memory").expect("one shape");
        assert_eq!((stack.kind(), stack.size()), (Kind::Uint8, vec![2, 1, 2, 3]));
        assert_eq!(
            Vec::<u8>::try_from(stack.flatten(0, -1)).expect("bytes"),
            [1, 1, 1, 1, 1, 1, 250, 250, 250, 250, 250, 250]
        );
        let values =
            |values: &[f32]| Input { values: Values::F32(values.to_vec()), shape: vec![values.len() as i64, 1] };
        let stack = stacked(&[values(&[0.5, -1.5]), values(&[2.5, 3.5])], Device::Cpu).expect("memory");
        assert_eq!(stack, Some(Tensor::from_slice(&[0.5_f32, -1.5, 2.5, 3.5]).view([2, 2, 1])));
        assert_eq!(stacked(&[values(&[0.5]), values(&[2.5, 3.5])], Device::Cpu).expect("memory"), None);
    }
}
