//! Weights of MANIQA and MA-AGIQA in their authors' format: state dicts with official names, often under a prefix from
//! a training framework (`module.`), and with tensors that no forward pass reads.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, CheckpointError, Dtype};
use crate::layers::NamedTensors;

/// A tensor that every such checkpoint has. The prefix of its name is the prefix of all names.
const LANDMARK: &str = "conv1.weight";

/// A tensor of timm's vision transformers. In MANIQA its name begins with `vit.`.
const VIT_LANDMARK: &str = "patch_embed.proj.weight";

/// Reads the tensors `parameters` of `checkpoint`. All names may share one prefix.
///
/// # Errors
/// The checkpoint holds a transformer alone, as timm publishes them, or tensors are absent or have another shape. One
/// error lists all such tensors.
pub fn read(checkpoint: &Checkpoint, parameters: &BTreeMap<String, Vec<i64>>) -> Result<NamedTensors, CheckpointError> {
    let wanted = wanted(checkpoint, parameters)?;
    parameters
        .keys()
        .zip(&wanted)
        .map(|(name, (found, shape))| Ok((name.clone(), checkpoint.tensor(found, shape)?)))
        .collect()
}

/// Hash of the names, types and values of the tensors `parameters` of `checkpoint`, hexadecimal, for fingerprints. It
/// does not depend on the file format or on other tensors.
///
/// # Errors
/// As [`read`].
pub fn content_hash(
    checkpoint: &Checkpoint,
    parameters: &BTreeMap<String, Vec<i64>>,
) -> Result<String, CheckpointError> {
    let wanted = wanted(checkpoint, parameters)?;
    let mut hasher = blake3::Hasher::new();
    for (name, (found, _)) in parameters.keys().zip(&wanted) {
        let dtype = format!("{:?}", checkpoint.info(found)?.dtype);
        hasher.update(name.as_bytes()).update(&[0]).update(dtype.as_bytes()).update(&[0]);
        let bytes = checkpoint.bytes(found)?;
        // Each image would be rejected for it, and none of the rejects could tell why.
        if !is_finite(&bytes, checkpoint.info(found)?.dtype) {
            return Err(CheckpointError::NotFinite { path: checkpoint.path().to_owned(), name: found.clone() });
        }
        hasher.update_rayon(&bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether little-endian floats of type `dtype` are all finite: not all bits of an exponent are set.
fn is_finite(bytes: &[u8], dtype: Dtype) -> bool {
    let (n_bytes, exponent): (_, u16) = match dtype {
        Dtype::F64 => (8, 0x7FF0),
        Dtype::F32 => (4, 0x7F80),
        Dtype::BF16 => (2, 0x7F80),
        Dtype::F16 => (2, 0x7C00),
        _ => return true,
    };
    bytes
        .chunks_exact(n_bytes)
        .all(|value| u16::from_le_bytes([value[n_bytes - 2], value[n_bytes - 1]]) & exponent != exponent)
}

/// Names of `parameters` in the checkpoint, with shapes. All of them are present.
fn wanted(
    checkpoint: &Checkpoint,
    parameters: &BTreeMap<String, Vec<i64>>,
) -> Result<Vec<(String, Vec<i64>)>, CheckpointError> {
    let found = checkpoint.prefix_of(LANDMARK);
    if found.is_none() && checkpoint.prefix_of(VIT_LANDMARK).is_some() {
        let path = checkpoint.path().to_owned();
        return Err(CheckpointError::BackboneOnly { path, landmark: VIT_LANDMARK, missing: LANDMARK });
    }
    let prefix = found.unwrap_or_default();
    let wanted: Vec<_> = parameters.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect();
    checkpoint.require(&wanted)?;
    Ok(wanted)
}
