//! Training images as the network wants them: decoded and resized once, kept as 8-bit values, turned and flipped each
//! time they are seen.
//!
//! Resized images are kept in memory where they fit, else in an Arrow file of the temporary folder, one record batch per
//! image. Threads work ahead of the network; what a batch holds depends on its number alone, not on who made it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray as _, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use crossbeam_channel::bounded;

use super::augment::Motion;
use crate::engine::{Failure, decode_verified};
use crate::features::maniqa::ManiqaPreprocessor;
use agiqa_images::{DecodeLimits, RgbImage8, interpolate_bicubic};
use agiqa_store::identity::ImageId;
use agiqa_store::interrupt::Interrupt;

/// Images that are ready or being made ahead of the network, per thread.
const AHEAD_PER_THREAD: usize = 2;

/// Images that cannot be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum PicturesError {
    /// The file beside memory.
    #[error(
        "cannot keep resized images in a file of the temporary folder `{folder}` (set TMPDIR, or raise `image_memory_mib`)"
    )]
    File {
        /// The temporary folder.
        folder: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The Arrow format over that file.
    #[error(
        "cannot keep resized images in a file of the temporary folder `{folder}` (set TMPDIR, or raise `image_memory_mib`)"
    )]
    Arrow {
        /// The temporary folder.
        folder: String,
        /// Cause.
        #[source]
        source: ArrowError,
    },
}

fn folder() -> String {
    std::env::temp_dir().display().to_string()
}

impl From<std::io::Error> for PicturesError {
    fn from(source: std::io::Error) -> Self {
        Self::File { folder: folder(), source }
    }
}

impl From<ArrowError> for PicturesError {
    fn from(source: ArrowError) -> Self {
        match source {
            // The cause itself, so that a full disk is known for one.
            ArrowError::IoError(_, source) => Self::File { folder: folder(), source },
            source => Self::Arrow { folder: folder(), source },
        }
    }
}

/// Where an image is.
#[derive(Clone, Debug)]
pub(in crate::train) struct Location {
    pub(in crate::train) image_id: ImageId,
    pub(in crate::train) path: String,
}

/// Resized images by position.
pub(in crate::train) struct Pictures {
    side: usize,
    preprocessor: ManiqaPreprocessor,
    kept: Kept,
}

enum Kept {
    Memory(Vec<Vec<u8>>),
    /// The file's reader, and the batch of each image.
    File(Mutex<FileReader<File>>, Vec<usize>),
}

/// How reading images ended.
pub(in crate::train) enum Read {
    /// All are there.
    Done(Box<Pictures>),
    /// These positions could not be read, and why.
    Failed(Vec<(usize, Failure)>),
    /// Somebody asked to stop.
    Interrupted,
}

impl Pictures {
    /// Decodes and resizes `locations`, keeping up to `n_memory_bytes` in memory; `each` is called per image done.
    pub(in crate::train) fn read(
        locations: &[Location],
        side_px: u32,
        preprocessor: ManiqaPreprocessor,
        n_memory_bytes: u64,
        n_threads: usize,
        interrupt: &Interrupt,
        mut each: impl FnMut(),
    ) -> Result<Read, PicturesError> {
        let side = side_px as usize;
        let n_bytes = 3 * side * side;
        let mut keeper = if n_bytes as u64 * locations.len() as u64 <= n_memory_bytes {
            Keeper::Memory(Vec::with_capacity(locations.len()))
        } else {
            Keeper::file(n_bytes)?
        };
        let mut failures = Vec::new();
        let limits = DecodeLimits::default();
        let resized = |i: usize| {
            let Location { image_id, path } = &locations[i];
            let image = decode_verified(Path::new(path), image_id, &limits)?;
            Ok(interpolate_bicubic(&image, side_px, side_px).pixels)
        };
        let ended = in_order(locations.len(), n_threads, resized, |i, resized: Result<Vec<u8>, Failure>| {
            each();
            if interrupt.is_raised() {
                return Ok(ControlFlow::Break(()));
            }
            match resized {
                Ok(pixels) if failures.is_empty() => keeper.keep(pixels)?,
                // What is read after a failure is only looked at for further ones.
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
        Ok(Read::Done(Box::new(Self { side, preprocessor, kept: keeper.finish()? })))
    }

    /// Whether the images are in memory.
    pub(in crate::train) fn in_memory(&self) -> bool {
        matches!(self.kept, Kept::Memory(_))
    }

    /// The network's input of some images, one after the other, each moved as told.
    pub(in crate::train) fn inputs(&self, images: &[(usize, Motion)]) -> Result<Vec<f32>, PicturesError> {
        let n_values = 3 * self.side * self.side;
        let mut inputs = vec![0.0; images.len() * n_values];
        for ((position, motion), input) in images.iter().zip(inputs.chunks_exact_mut(n_values)) {
            let mut moved = vec![0; n_values];
            match &self.kept {
                Kept::Memory(pictures) => motion.apply(&pictures[*position], self.side, &mut moved),
                Kept::File(reader, batches) => {
                    let batch = {
                        let mut reader = reader.lock().expect("no holder of this lock panics");
                        reader.set_index(batches[*position])?;
                        reader.next().transpose()?
                    };
                    let missing = || ArrowError::IpcError(format!("image {position} is not in the file"));
                    let batch = batch.ok_or_else(missing)?;
                    let pixels = batch.column(0).as_fixed_size_binary_opt().ok_or_else(missing)?;
                    motion.apply(pixels.value(0), self.side, &mut moved);
                }
            }
            let side_px = self.side as u32;
            let image = RgbImage8 { width_px: side_px, height_px: side_px, pixels: moved };
            self.preprocessor.fill(&image, input);
        }
        Ok(inputs)
    }
}

/// Images as they come.
enum Keeper {
    Memory(Vec<Vec<u8>>),
    File { writer: Box<FileWriter<File>>, schema: Arc<Schema>, n: usize },
}

impl Keeper {
    fn file(n_bytes: usize) -> Result<Self, PicturesError> {
        let width = i32::try_from(n_bytes).unwrap_or(i32::MAX);
        let field = Field::new("pixels", DataType::FixedSizeBinary(width), false);
        let schema = Arc::new(Schema::new(vec![field]));
        // It has no name, so whatever becomes of this process leaves no file.
        let writer = Box::new(FileWriter::try_new(tempfile::tempfile()?, &schema)?);
        Ok(Self::File { writer, schema, n: 0 })
    }

    fn keep(&mut self, pixels: Vec<u8>) -> Result<(), PicturesError> {
        match self {
            Self::Memory(pictures) => pictures.push(pixels),
            Self::File { writer, schema, n } => {
                let array = FixedSizeBinaryArray::try_from_iter(std::iter::once(pixels))?;
                writer.write(&RecordBatch::try_new(schema.clone(), vec![Arc::new(array)])?)?;
                *n += 1;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Kept, PicturesError> {
        match self {
            Self::Memory(pictures) => Ok(Kept::Memory(pictures)),
            Self::File { writer, n, .. } => {
                let mut file = writer.into_inner()?;
                file.rewind()?;
                Ok(Kept::File(Mutex::new(FileReader::try_new(file, None)?), (0..n).collect()))
            }
        }
    }
}

/// Makes things 0 to `n` on `n_threads` threads, ahead of `consume`, which gets them in order.
pub(in crate::train) fn in_order<T: Send, E>(
    n: usize,
    n_threads: usize,
    make: impl Fn(usize) -> T + Sync,
    mut consume: impl FnMut(usize, T) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    let n_threads = n_threads.clamp(1, n.max(1));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Dropped where this closure ends, however it ends, which ends the threads.
        let (sender, receiver) = bounded(AHEAD_PER_THREAD * n_threads);
        for _ in 0..n_threads {
            let (sender, next, make) = (sender.clone(), &next, &make);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n || sender.send((i, make(i))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for i in 0..n {
            let thing = loop {
                if let Some(thing) = early.remove(&i) {
                    break thing;
                }
                let (j, thing) = receiver.recv().expect("threads end after the last thing only");
                early.insert(j, thing);
            };
            if consume(i, thing)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::Augment;
    use agiqa_nets::maniqa::ManiqaConfig;
    use rand_mt::Mt64;

    #[test]
    fn things_come_in_order_whoever_makes_them() {
        for n_threads in [1, 3] {
            let mut seen = Vec::new();
            let ended = in_order(
                50,
                n_threads,
                |i| i * i,
                |i, square| {
                    seen.push((i, square));
                    Ok::<_, ()>(if i == 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                },
            );
            assert_eq!(ended, Ok(ControlFlow::Break(())));
            assert_eq!(seen, (0..=40).map(|i| (i, i * i)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_gives_the_inputs_that_memory_gives() {
        let mut config = ManiqaConfig::vit_b8();
        config.vit.img_size = 16;
        let picture =
            |i: u8| (0..16 * 16 * 3).map(|at| (at as u8).wrapping_mul(7).wrapping_add(i)).collect::<Vec<u8>>();
        let mut file = Keeper::file(16 * 16 * 3).expect("a temporary file");
        (0..5).for_each(|i| file.keep(picture(i)).expect("it is kept"));
        let kept = [Kept::Memory((0..5).map(picture).collect()), file.finish().expect("it is whole")];
        let mut generator = Mt64::new(3);
        let order: Vec<(usize, Motion)> =
            [4, 0, 4, 2, 1, 3].into_iter().map(|i| (i, Augment::Horizontal.draw(&mut generator))).collect();
        let inputs = kept.map(|kept| {
            let pictures = Pictures { side: 16, preprocessor: ManiqaPreprocessor::of(&config), kept };
            pictures.inputs(&order).expect("they can be read")
        });
        assert_eq!(inputs[0].len(), 6 * 16 * 16 * 3);
        assert!(inputs[0] == inputs[1]);
    }
}
