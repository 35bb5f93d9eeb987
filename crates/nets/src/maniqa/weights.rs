//! Weights of MANIQA and MA-AGIQA as their authors publish them: state dicts with official names, often under a prefix
//! that a training framework left (`module.`), and with tensors that no forward pass reads.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::layers::NamedTensors;

/// A tensor that every such checkpoint has; what stands before its name stands before the others'.
const LANDMARK: &str = "conv1.weight";

/// A tensor that the vision transformers of timm have under this name, MANIQA's under `vit.`.
const VIT_LANDMARK: &str = "patch_embed.proj.weight";

/// File name extensions of checkpoints.
const EXTENSIONS: [&str; 5] = ["safetensors", "pt", "pth", "bin", "ckpt"];

/// Opens the checkpoint in `folder`: the only file there that can be one, whatever its name, else one of the usual names.
///
/// # Errors
/// None is there, or it cannot be read.
pub fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let is_checkpoint = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<_> = files.filter(|path| is_checkpoint(path)).collect();
    match files.as_slice() {
        [file] => Checkpoint::open(file),
        _ => Checkpoint::open(folder),
    }
}

/// Reads the tensors `parameters` of `checkpoint`, which may all stand under one prefix.
///
/// # Errors
/// A transformer alone, as timm publishes them; tensors that are absent or of another shape, all of them in one error.
pub fn read(checkpoint: &Checkpoint, parameters: &BTreeMap<String, Vec<i64>>) -> Result<NamedTensors, CheckpointError> {
    let wanted = wanted(checkpoint, parameters)?;
    parameters
        .keys()
        .zip(&wanted)
        .map(|(name, (found, shape))| Ok((name.clone(), checkpoint.tensor(found, shape)?)))
        .collect()
}

/// What identifies the tensors `parameters` of `checkpoint` in a fingerprint: their names, types and values, whatever
/// file format they come in and whatever else is in it. Hexadecimal.
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
        hasher.update_rayon(&checkpoint.bytes(found)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Names in the checkpoint, with shapes; all of them are there.
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
