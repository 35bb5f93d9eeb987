//! Where images lie: folders, lists, tar files, Parquet files with image bytes. Their kind is told by their content.
//!
//! | source | its images |
//! |---|---|
//! | folder | the files below it; `metadata.{csv,tsv,jsonl,parquet}` and texts of the same name describe them |
//! | list | the files that the rows of a table name, relative to the list; its other columns describe them |
//! | tar file | its members, as webdataset writes them; members that are JSON or text describe them |
//! | Parquet | the cells of a column of bytes, or of Hugging Face's structure of bytes and path |
//! | image | itself |
//!
//! A [`Source`] lists its images without reading one. A [`Reader`] reads the bytes at a [`Place`].

use std::fs::Metadata;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

mod archive;

mod cells;

mod folder;

mod given;

mod list;

mod place;

mod reader;

pub use given::Given;
pub use place::{Place, shard_key};
pub use reader::Reader;

use agiqa_images::{FindError, LeftOut};
use agiqa_intake::TableError;
use agiqa_store::path_text::text_of;
use list::List;

/// An image of a source, or what is wrong with one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Text of its [`Place`].
    pub uri: String,
    /// Its name in the source.
    pub name: String,
    /// Changes when the file does: seconds and nanoseconds of its last change, and its size.
    pub version: String,
    /// What a table says of its making.
    pub given: Given,
    /// Places of JSON and texts that describe it.
    pub sidecars: Vec<String>,
    /// Number of its row in a list, from 1.
    pub row: Option<u64>,
    /// Why it has no bytes.
    pub problem: Option<Problem>,
}

/// Why an entry has no bytes, for `rejects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Kind of error, one word or a few with hyphens.
    pub kind: &'static str,
    /// What was found, and what to do.
    pub message: String,
}

impl Entry {
    fn plain(uri: String, name: String, version: String) -> Self {
        Self { uri, name, version, ..Self::default() }
    }

    fn broken(uri: &str, name: &str, version: &str, problem: Problem) -> Self {
        let (uri, name, version) = (uri.to_owned(), name.to_owned(), version.to_owned());
        Self { uri, name, version, problem: Some(problem), ..Self::default() }
    }
}

/// Takes entries. [`ControlFlow::Break`] ends the listing.
pub type Sink<'a> = dyn FnMut(Entry) -> ControlFlow<()> + 'a;

/// What a listing found besides entries.
#[derive(Debug, Default)]
pub struct Listed {
    /// Number of entries.
    pub n_listed: u64,
    /// Files of a folder that are left out by their name.
    pub left_out: Vec<LeftOut>,
    /// Tables of a folder that describe its images.
    pub tables: Vec<PathBuf>,
}

/// A source that cannot serve.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum SourceError {
    /// It does not exist.
    #[error("there is no source `{}`: name a folder, a list, a tar file, a Parquet file or an image", path.display())]
    Missing { path: PathBuf },
    /// It is an address.
    #[error("source `{0}` is not on this machine: download it first, or mount its bucket as a folder")]
    Remote(String),
    /// It cannot be read.
    #[error("cannot read source `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// It has no bytes.
    #[error("source `{}` is empty", path.display())]
    Empty { path: PathBuf },
    /// It is neither a list nor anything else.
    #[error(
        "source `{}` is of no known kind: expected a folder, a list (txt, csv, tsv, jsonl, parquet), a tar file, a \
         Parquet file with image bytes, or an image", path.display()
    )]
    Unknown {
        path: PathBuf,
        /// Why it is no list.
        source: TableError,
    },
    /// The list cannot be used.
    #[error(transparent)]
    List(TableError),
    /// The folder cannot be searched.
    #[error(transparent)]
    Folder(Box<FindError>),
    /// A table has no column to take images from.
    #[error("source `{}` has {problem}; the columns are: {available}", path.display())]
    Columns { path: PathBuf, problem: String, available: String },
    /// The file contradicts itself.
    #[error("source `{}` is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}

impl SourceError {
    fn damaged(path: &Path, reason: String) -> Self {
        Self::Damaged { path: path.to_owned(), reason }
    }
}

/// A text that changes when a file does: seconds and nanoseconds of its last change, and its size.
pub(crate) fn file_version(metadata: &Metadata) -> String {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{}.{:09}-{}", changed.as_secs(), changed.subsec_nanos(), metadata.len())
}

/// A source as it was named, found on this machine. Its content has not been looked at.
#[derive(Clone, Debug)]
pub struct Named {
    path: PathBuf,
    metadata: Metadata,
    image_columns: Vec<String>,
}

impl Named {
    /// Finds the source at `path`. `image_columns` are the columns of images of Parquet files, if several hold bytes.
    ///
    /// # Errors
    /// It is not on this machine, or cannot be read.
    pub fn find(path: &Path, image_columns: &[String]) -> Result<Self, SourceError> {
        let cannot_read = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound if text_of(path).contains("://") => SourceError::Remote(text_of(path)),
            std::io::ErrorKind::NotFound => SourceError::Missing { path: path.to_owned() },
            _ => SourceError::Read { path: path.to_owned(), source },
        };
        let metadata = std::fs::metadata(path).map_err(cannot_read)?;
        let path = path.canonicalize().map_err(cannot_read)?;
        Ok(Self { path, metadata, image_columns: image_columns.to_vec() })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identity of a file as a container of images: its path, with the columns of images that were asked for, and its
    /// version. `None` for a folder.
    pub fn container(&self) -> Option<(String, String)> {
        let columns =
            if self.image_columns.is_empty() { String::new() } else { format!("#{}", self.image_columns.join(",")) };
        self.metadata.is_file().then(|| (text_of(&self.path) + &columns, file_version(&self.metadata)))
    }

    /// Opens the source and tells its kind.
    ///
    /// # Errors
    /// It is empty, of no known kind, or a table without images.
    pub fn open(self) -> Result<Source, SourceError> {
        let Self { path, metadata, image_columns } = self;
        if metadata.is_dir() {
            return Ok(Source { path, metadata, kind: Kind::Folder });
        }
        if metadata.is_file() && metadata.len() == 0 {
            return Err(SourceError::Empty { path });
        }
        let head = archive::head(&path).map_err(|source| SourceError::Read { path: path.clone(), source })?;
        let kind = if head.starts_with(b"PAR1") {
            match cells::image_columns(&path, &image_columns)? {
                Some(columns) => Kind::Cells(columns),
                None => Kind::List(Box::new(List::open(&path)?)),
            }
        } else if archive::is_tar(&head) {
            Kind::Tar
        } else if agiqa_images::is_image(&path, &head) {
            Kind::Image
        } else {
            Kind::List(Box::new(List::open(&path).map_err(|error| match error {
                SourceError::List(source @ TableError::Malformed { .. }) => {
                    SourceError::Unknown { path: path.clone(), source }
                }
                other => other,
            })?))
        };
        Ok(Source { path, metadata, kind })
    }
}

enum Kind {
    Folder,
    List(Box<List>),
    Tar,
    Cells(Vec<String>),
    Image,
}

/// A source of a known kind.
pub struct Source {
    path: PathBuf,
    metadata: Metadata,
    kind: Kind,
}

impl Source {
    /// Whether the source is one file that holds images, so that its entries follow from its version.
    pub fn is_container(&self) -> bool {
        matches!(self.kind, Kind::Tar | Kind::Cells(_))
    }

    /// Passes each image to `sink`, in an order that the content decides.
    ///
    /// # Errors
    /// The source as a whole cannot be read.
    pub fn list(&self, sink: &mut Sink<'_>) -> Result<Listed, SourceError> {
        let (path, uri, version) = (&self.path, text_of(&self.path), file_version(&self.metadata));
        let n_listed = match &self.kind {
            Kind::Folder => return folder::list(path, sink),
            Kind::List(list) => list.list(path, sink),
            Kind::Tar => archive::list(path, &uri, &version, sink)?,
            Kind::Cells(columns) => cells::list(path, &uri, &version, columns, sink)?,
            Kind::Image => {
                let name = path.file_name().map(text_of).unwrap_or_default();
                _ = sink(Entry::plain(uri, name, version));
                1
            }
        };
        Ok(Listed { n_listed, ..Listed::default() })
    }
}
