//! Checkpoints of MANIQA as its authors and MA-AGIQA's publish them: safetensors or PyTorch's zip, alone or with the
//! prefix of a training framework (`module.`), and with tensors that no forward pass reads.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, CheckpointError, Wanted};
use crate::layers::NamedTensors;

/// A tensor that every such checkpoint has. The prefix of its name is the prefix of all names.
const LANDMARK: &str = "conv1.weight";

/// A tensor of timm's vision transformers. In MANIQA its name begins with `vit.`.
const VIT_LANDMARK: &str = "patch_embed.proj.weight";

/// The tensors `parameters` in `checkpoint`.
fn wanted(checkpoint: &Checkpoint, parameters: &BTreeMap<String, Vec<i64>>) -> Result<Wanted, CheckpointError> {
    let found = checkpoint.prefix_of(LANDMARK);
    if found.is_none() && checkpoint.prefix_of(VIT_LANDMARK).is_some() {
        let path = checkpoint.path().to_owned();
        return Err(CheckpointError::BackboneOnly { path, landmark: VIT_LANDMARK, missing: LANDMARK });
    }
    let prefix = found.unwrap_or_default();
    Wanted::new(checkpoint, parameters, |name| format!("{prefix}{name}"))
}

/// Reads the tensors `parameters` of `checkpoint`. All names may share one prefix.
///
/// # Errors
/// The checkpoint holds a transformer alone, as timm publishes them, or tensors are absent or have another shape. One
/// error lists all such tensors.
pub fn read(checkpoint: &Checkpoint, parameters: &BTreeMap<String, Vec<i64>>) -> Result<NamedTensors, CheckpointError> {
    wanted(checkpoint, parameters)?.read(checkpoint)
}

/// Hash of the tensors `parameters` of `checkpoint`, hexadecimal, for fingerprints.
///
/// # Errors
/// As [`read`].
pub fn content_hash(
    checkpoint: &Checkpoint,
    parameters: &BTreeMap<String, Vec<i64>>,
) -> Result<String, CheckpointError> {
    wanted(checkpoint, parameters)?.content_hash(checkpoint)
}
