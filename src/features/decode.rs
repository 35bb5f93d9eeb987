//! Threads that read, verify, decode and preprocess images ahead of the network.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::plan::Todo;
use super::{Preprocessor, Unusable};
use agiqa_images::{DecodeLimits, ImageError, RgbImage8};
use agiqa_store::identity::ImageId;

/// An image ready for the network, or the reason why it never will be.
pub(super) struct Decoded {
    /// Position in the plan's list.
    pub(super) position: usize,
    /// The network's input.
    pub(super) input: Result<Vec<f32>, Failure>,
}

/// Why an image cannot be used.
pub(crate) struct Failure {
    /// Kind of error.
    pub(crate) kind: &'static str,
    /// What was found, what was expected, what to do.
    pub(crate) message: String,
}

/// What the decoding threads share.
pub(super) struct DecodeQueue<'a> {
    /// The images, in the order in which they are taken.
    pub(super) todo: &'a [Todo],
    /// Position of the next image to take.
    pub(super) next: AtomicUsize,
    /// Raised when no more images are wanted.
    pub(super) stop: AtomicBool,
    /// How images become inputs.
    pub(super) preprocessor: &'a dyn Preprocessor,
    /// Limits of decoding.
    pub(super) limits: DecodeLimits,
}

impl DecodeQueue<'_> {
    /// Takes images until there are none, `stop` is raised or nobody listens to `decoded`.
    pub(super) fn work(&self, decoded: &Sender<Decoded>) {
        while !self.stop.load(Ordering::Relaxed) {
            let position = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(todo) = self.todo.get(position) else { return };
            let input = self.input_of(todo);
            if decoded.send(Decoded { position, input }).is_err() {
                return;
            }
        }
    }

    fn input_of(&self, todo: &Todo) -> Result<Vec<f32>, Failure> {
        let image = decode_verified(Path::new(&todo.image.path), &todo.image.image_id, &self.limits)?;
        let mut input = vec![0.0; self.preprocessor.n_values()];
        self.preprocessor.prepare(&image, &mut input).map_err(|Unusable { kind, message }| Failure {
            kind,
            message: format!("`{}`: {message}", todo.image.path),
        })?;
        Ok(input)
    }
}

/// The picture in the file at `path`, which must still be that of `image_id`.
pub(crate) fn decode_verified(path: &Path, image_id: &ImageId, limits: &DecodeLimits) -> Result<RgbImage8, Failure> {
    let bytes = agiqa_images::read(path)
        .map_err(|error: ImageError| Failure { kind: error.kind(), message: error.to_string() })?;
    let found = ImageId::of_bytes(&bytes);
    if found != *image_id {
        let message = format!(
            "`{}`: the file has changed: expected image {image_id}, found {found}; ingest the dataset again",
            path.display()
        );
        return Err(Failure { kind: "changed", message });
    }
    let (_, image) = agiqa_images::decode(&bytes, limits)
        .map_err(|error| Failure { kind: error.kind(), message: format!("`{}`: {error}", path.display()) })?;
    Ok(image)
}
