//! Threads that read, verify, decode and preprocess images ahead of the network.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::Preprocessor;
use super::plan::Todo;
use crate::identity::ImageId;
use crate::images::{self, DecodeLimits};

/// An image ready for the network, or the reason why it never will be.
pub(super) struct Decoded {
    /// Position in the plan's list.
    pub(super) position: usize,
    /// The network's input.
    pub(super) input: Result<Vec<f32>, Failure>,
}

/// Why an image cannot be used.
pub(super) struct Failure {
    /// Kind of error.
    pub(super) kind: &'static str,
    /// What was found, what was expected, what to do.
    pub(super) message: String,
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
        let failure = |error: images::ImageError| Failure { kind: error.kind(), message: error.to_string() };
        let bytes = images::read(Path::new(&todo.image.path)).map_err(failure)?;
        let found = ImageId::of_bytes(&bytes);
        if found != todo.image.image_id {
            let message = format!(
                "`{}`: the file has changed: expected image {}, found {found}; ingest the dataset again",
                todo.image.path, todo.image.image_id
            );
            return Err(Failure { kind: "changed", message });
        }
        let (_, image) = images::decode(&bytes, &self.limits)
            .map_err(|error| Failure { kind: error.kind(), message: format!("`{}`: {error}", todo.image.path) })?;
        let mut input = vec![0.0; self.preprocessor.n_values()];
        self.preprocessor.prepare(&image, &mut input);
        Ok(input)
    }
}
