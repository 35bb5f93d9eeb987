//! Checkpoints: the manifest, fetching, verification.

use std::path::PathBuf;

/// Folder of the weights: `AGIQA_WEIGHTS`, else `agiqa/weights` under the user's cache folder.
pub fn folder() -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
    };
    std::env::var_os("AGIQA_WEIGHTS").map_or_else(|| cache().join("agiqa").join("weights"), PathBuf::from)
}
