//! A prefix of a checkpoint's tensor names. A network's blocks find their tensors below it.

use std::fmt::Display;

use tch::{Device, Kind, Tensor};

use super::{Checkpoint, CheckpointError};

/// A prefix of names, and the device and kind of the tensors loaded below it.
#[derive(Clone, Debug)]
pub struct CheckpointScope<'a> {
    checkpoint: &'a Checkpoint,
    /// Empty, or ends with a dot.
    prefix: String,
    device: Device,
    kind: Kind,
}

impl<'a> CheckpointScope<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, device: Device, kind: Kind) -> Self {
        Self { checkpoint, prefix: String::new(), device, kind }
    }

    /// One level down: `sub("blocks").sub(0)` is `blocks.0.`. An empty name changes nothing, nor does a dot at its end.
    pub fn sub(&self, name: impl Display) -> Self {
        let mut prefix = format!("{}{name}", self.prefix);
        if !prefix.is_empty() && !prefix.ends_with('.') {
            prefix.push('.');
        }
        Self { checkpoint: self.checkpoint, prefix, device: self.device, kind: self.kind }
    }

    /// The tensor `name` below this prefix, on this device, as this kind.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor, CheckpointError> {
        self.get_as(name, shape, self.kind)
    }

    /// The tensor `name` below this prefix, on this device, as `kind`.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn get_as(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, CheckpointError> {
        self.checkpoint.load(&self.name(name), shape, self.device, kind)
    }

    /// Whether the checkpoint has a tensor `name` below this prefix.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.name(name))
    }

    /// The full name of the tensor `name` below this prefix.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The device that tensors are placed on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The kind that tensors are converted to.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
