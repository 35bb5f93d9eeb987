//! The tensors that a network reads from a checkpoint, which may call them otherwise.

use std::collections::BTreeMap;

use super::{Checkpoint, CheckpointError};
use crate::layers::NamedTensors;

/// Tensors by their name in the network, each with its stored name and its shape.
#[derive(Clone, Debug)]
pub struct Wanted {
    names: Vec<String>,
    /// Stored names and shapes, in the order of `names`.
    stored: Vec<(String, Vec<i64>)>,
}

impl Wanted {
    /// The tensors `parameters`, each stored under the name that `stored` makes of its own.
    ///
    /// # Errors
    /// Tensors are absent from `checkpoint`, or have another shape or type. One error lists all such tensors.
    pub fn new(
        checkpoint: &Checkpoint,
        parameters: &BTreeMap<String, Vec<i64>>,
        stored: impl Fn(&str) -> String,
    ) -> Result<Self, CheckpointError> {
        let stored: Vec<_> = parameters.iter().map(|(name, shape)| (stored(name), shape.clone())).collect();
        checkpoint.require(&stored)?;
        Ok(Self { names: parameters.keys().cloned().collect(), stored })
    }

    /// The tensors, as they are stored.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, checkpoint: &Checkpoint) -> Result<NamedTensors, CheckpointError> {
        let tensors = self.names.iter().zip(&self.stored);
        tensors.map(|(name, (stored, shape))| Ok((name.clone(), checkpoint.tensor(stored, shape)?))).collect()
    }

    /// Hash of the network's names, the types and the values of the tensors, hexadecimal, for fingerprints. It does not
    /// depend on the file format, on stored names or on other tensors.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn content_hash(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        let mut hasher = blake3::Hasher::new();
        for (name, (stored, _)) in self.names.iter().zip(&self.stored) {
            let dtype = format!("{:?}", checkpoint.info(stored)?.dtype);
            hasher.update(name.as_bytes()).update(&[0]).update(dtype.as_bytes()).update(&[0]);
            hasher.update_rayon(&checkpoint.bytes(stored)?);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
