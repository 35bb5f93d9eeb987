//! Sources of images: a dataset's `images` table, or a bare folder that becomes the table of a corpus.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::left_out::LeftOutFiles;
use agiqa_images::{Found, ImageError, LeftOut, Reason};
use agiqa_store::identity::ImageId;
use agiqa_store::path_text::{path_of, text_of};
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::{self as images_table, ImageRow, Images};
use agiqa_store::tables::rejects::RejectRow;

/// The images of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// The images of an ingested dataset, or of a corpus that an earlier run made from a folder.
    Dataset(PartitionName),
    /// The images of a corpus' night, which may have none.
    Night {
        /// The dataset that the night is.
        dataset: PartitionName,
        /// The share of its files.
        shard: Shard,
    },
    /// The image files below a folder. They become the `images` table of a corpus: rows without MOS.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Name of the corpus. A given name may replace the corpus of another folder. By default the corpus has the
        /// folder's name, unless another folder already has it.
        dataset: Option<PartitionName>,
    },
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataset(dataset) | Self::Night { dataset, .. } | Self::Folder { dataset: Some(dataset), .. } => {
                dataset.fmt(f)
            }
            Self::Folder { folder, dataset: None } => folder.display().fmt(f),
        }
    }
}

/// A folder or dataset that cannot serve as a source of images.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FolderError {
    /// The folder could not be read.
    #[error("cannot read image folder `{}`", path.display())]
    Folder { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// The folder contains no image file.
    #[error("no image file below `{}`{left_out}", text_of(path))]
    Empty {
        path: PathBuf,
        /// The files that are there.
        left_out: LeftOutFiles,
    },
    /// The folder's name cannot name a corpus.
    #[error("the folder name `{name}` cannot name a corpus: give a name with `--dataset NAME`")]
    Unnamed {
        /// Last segment of the folder's path.
        name: String,
    },
    /// A dataset with that name was ingested with ratings. A corpus must not replace it.
    #[error(
        "`{dataset}` is an ingested dataset with MOS: leave out `--images` to use its images, or give the folder \
         another name with `--dataset NAME`"
    )]
    NameTaken { dataset: PartitionName },
    /// A corpus of that name was made from another folder, or from this one at another place.
    #[error(
        "`{dataset}` is already a corpus of this store, made from folder `{}`; the images of `{}` would replace it: \
         name them with `--dataset NAME`, or replace it (e.g. if the folder was moved) with `--dataset {dataset}`",
        found.display(), folder.display()
    )]
    OtherFolder {
        /// The last segment of both folders' paths.
        dataset: PartitionName,
        /// The folder of the store's corpus.
        found: PathBuf,
        folder: PathBuf,
    },
    /// The dataset is not in the store.
    #[error("store `{url}` has no images of dataset `{dataset}`; the datasets are: {known}; `agiqa ingest` adds one")]
    NoDataset { url: String, dataset: PartitionName, known: String },
    /// The store failed.
    #[error(transparent)]
    Part(#[from] PartError),
}

/// An image file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Identity of its content.
    pub(super) image_id: ImageId,
    /// Absolute path, as [`agiqa_store::path_text`] writes it.
    pub(super) path: String,
    /// Number of rows or files with this content. Rows are computed once for all of them.
    pub(super) n_files: u64,
}

/// A file or folder that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Absolute path, as [`agiqa_store::path_text`] writes it.
    pub(super) path: String,
    /// Kind of error.
    pub(super) kind: &'static str,
    /// Description of the error.
    pub(super) message: String,
}

impl Candidate {
    /// Its row in `rejects`.
    pub(super) fn reject(&self, kind: &str, message: &str) -> RejectRow {
        let (image_id, path) = (Some(self.image_id), Some(self.path.clone()));
        RejectRow { image_id, path, ..RejectRow::now(kind, message) }
    }
}

impl Unreadable {
    /// Its row in `rejects`.
    pub(super) fn reject(&self) -> RejectRow {
        RejectRow { path: Some(self.path.clone()), ..RejectRow::now(self.kind, &self.message) }
    }
}

/// The images of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    /// Images with distinct contents, in the order of table or folder.
    pub(super) images: Vec<Candidate>,
    /// Files without content.
    pub(super) unreadable: Vec<Unreadable>,
    /// For a folder: the rows of its corpus, one per readable file with an image header.
    pub(super) corpus: Option<Vec<ImageRow>>,
    /// For a folder: its other files.
    pub(super) left_out: LeftOutFiles,
}

impl ImageSource {
    /// Name of the dataset or corpus.
    ///
    /// # Errors
    /// The folder does not exist, or its name cannot name a corpus.
    pub fn dataset(&self) -> Result<PartitionName, FolderError> {
        match self {
            Self::Dataset(dataset) | Self::Night { dataset, .. } | Self::Folder { dataset: Some(dataset), .. } => {
                Ok(dataset.clone())
            }
            Self::Folder { folder, dataset: None } => {
                let folder = canonical(folder)?;
                let name = text_of(folder.file_name().unwrap_or_default());
                PartitionName::new(&name).map_err(|_| FolderError::Unnamed { name })
            }
        }
    }

    /// Finds the images. For a folder this reads and hashes every file; for a dataset it reads just two columns.
    pub(super) fn candidates(&self, store: &Store) -> Result<Candidates, FolderError> {
        match self {
            Self::Dataset(dataset) => dataset_candidates(store, dataset),
            Self::Night { dataset, shard } => Ok(candidates_of(store, dataset, |path| is_of_share(*shard, path))?),
            Self::Folder { folder, dataset: named } => {
                let dataset = self.dataset()?;
                let existing = images_table::read(store, &dataset)?.rows;
                if existing.iter().any(|row| row.mos.is_some()) {
                    return Err(FolderError::NameTaken { dataset });
                }
                let folder = canonical(folder)?;
                // `mon/images` and `tue/images` have the same default name. A user who gives a name chooses what it
                // replaces.
                let is_other = |row: &&ImageRow| !path_of(&row.path).starts_with(&folder);
                if named.is_none()
                    && let Some(row) = existing.iter().find(is_other)
                {
                    return Err(FolderError::OtherFolder { dataset, found: folder_of(row), folder });
                }
                folder_candidates(&folder)
            }
        }
    }
}

/// The folder of a corpus, computed from one of its rows.
fn folder_of(row: &ImageRow) -> PathBuf {
    let path = path_of(&row.path);
    path.ancestors().nth(path_of(&row.name).components().count()).unwrap_or(&path).to_owned()
}

/// A source that remembers its images, because a stage asks for them more than once.
pub(super) struct KnownSource {
    /// The remembered source.
    pub(super) source: ImageSource,
    /// The images of a folder, hashed once even if the stage plans more than once.
    scanned: Mutex<Option<Candidates>>,
}

impl KnownSource {
    /// Wraps `source`. Reads nothing yet.
    pub(super) fn new(source: ImageSource) -> Self {
        Self { source, scanned: Mutex::new(None) }
    }

    /// As [`ImageSource::candidates`].
    pub(super) fn candidates(&self, store: &Store) -> Result<Candidates, FolderError> {
        match &self.source {
            // Not remembered: an earlier stage of the same pipeline may have changed the table since.
            ImageSource::Dataset(_) | ImageSource::Night { .. } => self.source.candidates(store),
            ImageSource::Folder { .. } => {
                let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
                if scanned.is_none() {
                    *scanned = Some(self.source.candidates(store)?);
                }
                Ok(scanned.clone().unwrap_or_default())
            }
        }
    }

    /// Why the table of the corpus differs from the one that [`Self::write_corpus`] would write. `None` if it does not
    /// differ, and for a dataset.
    pub(super) fn stale_corpus(
        &self,
        store: &Store,
        corpus: Option<Vec<ImageRow>>,
        rejected: &HashSet<ImageId>,
    ) -> Result<Option<String>, FolderError> {
        let Some(rows) = corpus else { return Ok(None) };
        let dataset = self.source.dataset()?;
        let is_written = images_table::read(store, &dataset)?.rows == without(rows, rejected);
        Ok((!is_written).then(|| format!("the table `images` of `{dataset}` differs from its folder")))
    }

    /// Writes the table of a corpus without `rejected`, unless the store has the same table already.
    pub(super) fn write_corpus(
        &self,
        store: &Store,
        corpus: Option<Vec<ImageRow>>,
        rejected: &HashSet<ImageId>,
    ) -> Result<(), FolderError> {
        let Some(rows) = corpus else { return Ok(()) };
        let dataset = self.source.dataset()?;
        let images = Images { rows: without(rows, rejected), extra: Vec::new() };
        if images_table::read(store, &dataset)? == images {
            return Ok(());
        }
        Ok(images_table::write(store, &dataset, &images)?)
    }
}

/// Whether the share `shard` of a night includes the file of the image at `place`. The address decides, because nothing
/// else is known before a file is read.
pub fn is_of_share(shard: Shard, place: &str) -> bool {
    shard == Shard::WHOLE || shard.contains(&ImageId::of_bytes(agiqa_sources::shard_key(place).as_bytes()))
}

/// The images of `dataset` at the places that `is_wanted` accepts.
fn candidates_of(
    store: &Store,
    dataset: &PartitionName,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Candidates, PartError> {
    let mut candidates = Candidates::default();
    let mut positions: HashMap<ImageId, usize> = HashMap::new();
    images_table::for_each_location(store, dataset, |image_id, path| {
        if is_wanted(path) {
            add(&mut candidates.images, &mut positions, image_id, || path.to_owned());
        }
    })?;
    Ok(candidates)
}

fn dataset_candidates(store: &Store, dataset: &PartitionName) -> Result<Candidates, FolderError> {
    let candidates = candidates_of(store, dataset, |_| true)?;
    if candidates.images.is_empty() {
        let datasets: Vec<String> =
            images_table::datasets(store).map_err(PartError::from)?.iter().map(|name| format!("`{name}`")).collect();
        // A dataset without rows, e.g. if ingest rejected all of them, is treated like an absent one.
        let known = if datasets.is_empty() { "none".to_owned() } else { datasets.join(", ") };
        return Err(FolderError::NoDataset { url: store.url().to_owned(), dataset: dataset.clone(), known });
    }
    Ok(candidates)
}

fn add(
    images: &mut Vec<Candidate>,
    positions: &mut HashMap<ImageId, usize>,
    image_id: ImageId,
    path: impl FnOnce() -> String,
) {
    match positions.get(&image_id) {
        Some(position) => images[*position].n_files += 1,
        None => {
            positions.insert(image_id, images.len());
            images.push(Candidate { image_id, path: path(), n_files: 1 });
        }
    }
}

fn canonical(folder: &Path) -> Result<PathBuf, FolderError> {
    folder.canonicalize().map_err(|source| FolderError::Folder { path: folder.to_owned(), source: Box::new(source) })
}

/// The content of a file.
enum Content {
    /// An image, with its row of a corpus if it has an image's header.
    Image(ImageId, Option<ImageRow>),
    /// Anything else.
    NoImage(LeftOut),
}

/// One file of a folder and its content.
struct Scanned {
    path: String,
    content: Result<Content, ImageError>,
}

/// The images below `folder`. Its path must be canonical.
fn folder_candidates(folder: &Path) -> Result<Candidates, FolderError> {
    let Found { files, mut left_out, unreadable } = agiqa_images::find(folder)
        .map_err(|source| FolderError::Folder { path: folder.to_owned(), source: Box::new(source) })?;
    let scanned: Vec<Scanned> = files.par_iter().map(|path| scan(folder, path)).collect();
    let mut candidates = Candidates::default();
    for (path, source) in unreadable {
        let (text, error) = (text_of(&path), ImageError::Unreadable { path, source });
        candidates.unreadable.push(Unreadable { path: text, kind: error.kind(), message: error.to_string() });
    }
    let mut positions = HashMap::new();
    let mut corpus = Vec::new();
    for Scanned { path, content } in scanned {
        match content {
            Ok(Content::Image(image_id, row)) => {
                corpus.extend(row);
                add(&mut candidates.images, &mut positions, image_id, || path);
            }
            Ok(Content::NoImage(file)) => left_out.push(file),
            Err(error) => {
                let (kind, message) = (error.kind(), error.to_string());
                candidates.unreadable.push(Unreadable { path, kind, message });
            }
        }
    }
    let left_out = LeftOutFiles::below(folder, left_out);
    if candidates.images.is_empty() && candidates.unreadable.is_empty() {
        return Err(FolderError::Empty { path: folder.to_owned(), left_out });
    }
    candidates.left_out = left_out;
    candidates.corpus = Some(corpus);
    Ok(candidates)
}

fn scan(folder: &Path, path: &Path) -> Scanned {
    let content = agiqa_images::read_if_image(path).map(|bytes| {
        let Some(bytes) = bytes else {
            return Content::NoImage(LeftOut { reason: Reason::NotAnImage, path: path.to_owned(), n_files: 1 });
        };
        let image_id = ImageId::of_bytes(&bytes);
        // A file without an image header gets its reject when it is decoded.
        let row = agiqa_images::probe(&bytes).ok().map(|info| ImageRow {
            image_id,
            name: text_of(path.strip_prefix(folder).unwrap_or(path)),
            path: text_of(path),
            n_bytes: bytes.len() as u64,
            width_px: info.width_px,
            height_px: info.height_px,
            format: info.format.to_owned(),
            generator: None,
            prompt: None,
            mos: None,
            mos_std: None,
            mos_align: None,
        });
        Content::Image(image_id, row)
    });
    Scanned { path: text_of(path), content }
}

/// Rejected images are not part of a corpus, just as they are not part of an ingested dataset.
fn without(rows: Vec<ImageRow>, rejected: &HashSet<ImageId>) -> Vec<ImageRow> {
    rows.into_iter().filter(|row| !rejected.contains(&row.image_id)).collect()
}
