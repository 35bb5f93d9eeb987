//! The files of a checkpoint: a single file, or an index that names the shard of each tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::CheckpointError;

/// File names that a folder's checkpoint may have, in the order of preference of Hugging Face's loader.
pub const NAMES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Longest index that is read.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The files of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The file that was found: the only one, or the index.
    pub path: PathBuf,
    /// The files that hold tensors, sorted.
    pub shards: Vec<PathBuf>,
    /// The shard of each tensor, if the checkpoint has an index.
    pub shard_of: Option<BTreeMap<String, usize>>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of the checkpoint at `path`: a file, an index, or a folder with one of [`NAMES`].
///
/// # Errors
/// No checkpoint at `path`, an index that is not JSON, or an index that names a file outside its folder or an absent
/// file.
pub fn find(path: &Path) -> Result<Files, CheckpointError> {
    let path = match path.is_dir() {
        true => NAMES
            .iter()
            .map(|name| path.join(name))
            .find(|path| path.exists())
            .ok_or_else(|| CheckpointError::NotFound { path: path.to_owned(), looked_for: NAMES.to_vec() })?,
        false => path.to_owned(),
    };
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(Files { path: path.clone(), shards: vec![path], shard_of: None });
    }
    let io_error = |source| CheckpointError::Io { action: "read", path: path.clone(), source };
    let problem = |problem: String| CheckpointError::Index { path: path.clone(), problem };
    let n_bytes = std::fs::metadata(&path).map_err(io_error)?.len();
    if n_bytes > MAX_INDEX_BYTES {
        return Err(problem(format!("{n_bytes} bytes are over the limit of {MAX_INDEX_BYTES} for an index")));
    }
    let index = std::fs::read(&path).map_err(io_error)?;
    let index: Index = serde_json::from_slice(&index).map_err(|error| {
        match super::other::content(&index[..index.len().min(512)]) {
            Some(found) if !index.trim_ascii_start().starts_with(b"{") => problem(format!("it is {found}")),
            _ => problem(format!("it is not an index of shards: {error}")),
        }
    })?;
    let mut names: Vec<&String> = index.weight_map.values().collect();
    names.sort();
    names.dedup();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards = Vec::with_capacity(names.len());
    for name in &names {
        let mut components = Path::new(name.as_str()).components();
        let is_plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !is_plain {
            return Err(problem(format!("it names the shard `{name}`, which is not a file of its own folder")));
        }
        let shard = folder.join(name);
        if !shard.is_file() {
            let n_tensors = index.weight_map.values().filter(|other| other == name).count();
            return Err(problem(format!(
                "shard `{name}` ({n_tensors} of its {} tensors) is not in the folder; get it as well",
                index.weight_map.len()
            )));
        }
        shards.push(shard);
    }
    let shard_of = index
        .weight_map
        .iter()
        .map(|(tensor, name)| (tensor.clone(), names.binary_search(&name).expect("each name is among them")))
        .collect();
    drop(names);
    Ok(Files { path, shards, shard_of: Some(shard_of) })
}
