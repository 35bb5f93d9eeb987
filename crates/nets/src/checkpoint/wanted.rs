//! The tensors that a network reads from a checkpoint, which may call them otherwise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Checkpoint, CheckpointError, StoredDtype};
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
    /// A file cannot be read, or a value is not finite: every image would be rejected, and no reject could say why.
    pub fn content_hash(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        // Planning asks again and again, and checkpoints are large. A file that could not be looked at is read each time.
        static KNOWN: Mutex<BTreeMap<[u8; 32], String>> = Mutex::new(BTreeMap::new());
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.state_of(checkpoint);
        if let Some(hash) = key.and_then(|key| known().get(&key).cloned()) {
            return Ok(hash);
        }
        let hash = self.computed_hash(checkpoint)?;
        if let Some(key) = key {
            known().insert(key, hash.clone());
        }
        Ok(hash)
    }

    /// Hash of the tensors' names and of the files' sizes and times of change.
    fn state_of(&self, checkpoint: &Checkpoint) -> Option<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}", (&self.names, &self.stored)).as_bytes());
        for file in checkpoint.files() {
            let metadata = file.metadata().ok()?;
            hasher.update(format!("{file:?} {} {:?}", metadata.len(), metadata.modified().ok()?).as_bytes());
        }
        Some(*hasher.finalize().as_bytes())
    }

    fn computed_hash(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        let mut hasher = blake3::Hasher::new();
        for (name, (stored, _)) in self.names.iter().zip(&self.stored) {
            let dtype = checkpoint.info(stored)?.dtype;
            hasher.update(name.as_bytes()).update(&[0]).update(format!("{dtype:?}").as_bytes()).update(&[0]);
            let bytes = checkpoint.bytes(stored)?;
            if !is_finite(&bytes, dtype) {
                return Err(CheckpointError::NotFinite { path: checkpoint.path().to_owned(), name: stored.clone() });
            }
            hasher.update_rayon(&bytes);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Whether little-endian floats of type `dtype` are all finite: not all bits of an exponent are set.
fn is_finite(bytes: &[u8], dtype: StoredDtype) -> bool {
    let (n_bytes, exponent): (_, u16) = match dtype {
        StoredDtype::F64 => (8, 0x7FF0),
        StoredDtype::F32 => (4, 0x7F80),
        StoredDtype::BF16 => (2, 0x7F80),
        StoredDtype::F16 => (2, 0x7C00),
        _ => return true,
    };
    bytes
        .chunks_exact(n_bytes)
        .all(|value| u16::from_le_bytes([value[n_bytes - 2], value[n_bytes - 1]]) & exponent != exponent)
}
