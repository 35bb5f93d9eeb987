//! The store: a folder or bucket of immutable objects, most of them parquet parts.
//!
//! ```text
//! <store>/images/dataset=<dataset>/part-0.parquet
//! <store>/splits/dataset=<dataset>/split=<split>/part-0.parquet
//! <store>/features/extractor=<name>/fingerprint=<16 hex>/{extractor.json, part-<16 hex>.parquet}
//! <store>/rejects/stage=<stage>/part-<name>.parquet
//! <store>/models/run=<run>/{run.json, head.safetensors, …}
//! <store>/scores/scorer=<name>/fingerprint=<16 hex>/{scorer.json, part-<16 hex>.parquet}
//! <store>/metrics/run=<run>/metrics.parquet
//! <store>/runs/<utc time>-<command>.json
//! ```
//!
//! An object appears whole or not at all. The local backend writes a temporary file next to the target and renames it.
//! An object store writes atomically. The parts alone tell which work is finished. The store keeps no other record of
//! it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::path_text::{path_of, text_of};

pub mod part;

pub mod derived;

pub mod run_log;

pub mod shard;

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum StoreError {
    /// The URL names no kind of store that this build supports.
    #[error("cannot open store `{url}`: {reason}")]
    BadUrl {
        url: String,
        /// The mistake, and a correct alternative.
        reason: String,
    },
    /// The folder could not be created or entered.
    #[error("cannot open store folder `{}`", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    /// The store does not exist, but a command must read from it.
    #[error("no store at `{url}`: name an existing one, or run a stage that writes (such as `ingest`) first")]
    Absent { url: String },
    /// An object could not be read, written, listed or deleted.
    #[error("cannot {action} `{path}` in store `{url}`")]
    Object {
        /// `read`, `write`, `list` or `delete`.
        action: &'static str,
        path: String,
        url: String,
        source: Box<object_store::Error>,
    },
    /// A name that is not a valid object path.
    #[error("`{path}` is not a valid path in a store")]
    Path { path: String, source: object_store::path::Error },
}

/// One object of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Path relative to the store, with `/` between segments.
    pub path: String,
    /// Size in bytes.
    pub n_bytes: u64,
}

/// How to open a local store whose folder is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The store must exist.
    Existing,
    /// Create the folder if it is missing.
    CreateIfMissing,
    /// Treat a missing store as empty and do not create it. Use this mode only for previews: nothing written persists.
    AbsentIsEmpty,
}

/// A handle on a store. It is cheap to clone and usable from any thread.
#[derive(Clone)]
pub struct Store {
    url: String,
    folder: Option<PathBuf>,
    objects: Arc<dyn ObjectStore>,
    /// Where objects below some folders are read from; see [`Store::reading_from`].
    inputs: Option<Arc<Inputs>>,
    runtime: Arc<tokio::runtime::Runtime>,
}

/// Folders that are read from another store.
struct Inputs {
    folders: Vec<String>,
    objects: Arc<dyn ObjectStore>,
}

impl Store {
    /// Opens the store at `url`: a folder, a `file://` URL, or `s3://bucket/prefix` in builds with the `s3` feature. A
    /// folder is written as [`crate::path_text`] writes it.
    pub fn open(url: &str, mode: OpenMode) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map(Arc::new)
            .map_err(|source| StoreError::Folder { path: path_of(url), source })?;
        if let Some(rest) = url.strip_prefix("s3://") {
            let objects = open_s3(url, rest)?;
            let url = url.trim_end_matches('/').to_owned();
            return Ok(Self { url, folder: None, objects, inputs: None, runtime });
        }
        let path = match url.strip_prefix("file://") {
            Some(path) => path_of(path),
            None if url.contains("://") => {
                let reason = "expected a folder, `file://…` or `s3://…`".to_owned();
                return Err(StoreError::BadUrl { url: url.to_owned(), reason });
            }
            None => path_of(url),
        };
        if url.is_empty() {
            return Err(StoreError::BadUrl { url: String::new(), reason: "the URL is empty".to_owned() });
        }
        match mode {
            OpenMode::CreateIfMissing => {
                std::fs::create_dir_all(&path).map_err(|source| StoreError::Folder { path: path.clone(), source })?
            }
            OpenMode::Existing if !path.is_dir() => return Err(StoreError::Absent { url: url.to_owned() }),
            OpenMode::AbsentIsEmpty if !path.exists() => {
                let objects = Arc::new(object_store::memory::InMemory::new());
                return Ok(Self { url: url.to_owned(), folder: None, objects, inputs: None, runtime });
            }
            OpenMode::Existing | OpenMode::AbsentIsEmpty => {}
        }
        let folder = path.canonicalize().map_err(|source| StoreError::Folder { path: path.clone(), source })?;
        let local = LocalFileSystem::new_with_prefix(&folder).map_err(|source| StoreError::Object {
            action: "open",
            path: String::new(),
            url: url.to_owned(),
            source: Box::new(source),
        })?;
        let objects = Arc::new(local.with_fsync(true));
        Ok(Self { url: text_of(&folder), folder: Some(folder), objects, inputs: None, runtime })
    }

    /// This store, but what lies below `folders` is read from `other`. Everything is written to this store, so that `other`
    /// never changes.
    pub fn reading_from(mut self, other: &Self, folders: &[&str]) -> Self {
        let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
        self.inputs = Some(Arc::new(Inputs { folders, objects: other.objects.clone() }));
        self
    }

    /// Where the object or folder at `path` is read from.
    fn source(&self, path: &str) -> &dyn ObjectStore {
        let folder = path.split('/').next().unwrap_or_default();
        let inputs = self.inputs.as_ref().filter(|inputs| inputs.folders.iter().any(|input| input == folder));
        inputs.map_or(self.objects.as_ref(), |inputs| inputs.objects.as_ref())
    }

    /// The store's URL: an absolute folder, or `s3://…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The store's folder, if the store is local.
    pub fn folder(&self) -> Option<&FsPath> {
        self.folder.as_deref()
    }

    /// Objects under the folder `prefix`, sorted by path. Half-written objects are never listed.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let location = self.location(prefix)?;
        let listing = self.runtime.block_on(self.source(prefix).list(Some(&location)).try_collect::<Vec<_>>());
        let mut objects: Vec<ObjectInfo> = listing
            .map_err(|source| self.error("list", prefix, source))?
            .into_iter()
            .map(|meta| ObjectInfo { path: meta.location.to_string(), n_bytes: meta.size })
            .collect();
        objects.sort();
        Ok(objects)
    }

    /// Whether an object exists at `path`.
    pub fn exists(&self, path: &str) -> Result<bool, StoreError> {
        Ok(self.n_bytes(path)?.is_some())
    }

    /// Size in bytes of the object at `path`, or `None` if no object exists.
    pub fn n_bytes(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let location = self.location(path)?;
        match self.runtime.block_on(self.source(path).head(&location)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.error("read", path, source)),
        }
    }

    /// The whole object at `path`.
    pub fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        let location = self.location(path)?;
        self.runtime
            .block_on(async { self.source(path).get(&location).await?.bytes().await })
            .map_err(|source| self.error("read", path, source))
    }

    /// The whole object at `path`, or `None` if no object exists.
    pub fn get_if_exists(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        match self.get(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Object { source, .. }) if matches!(*source, object_store::Error::NotFound { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The bytes `range` of the object at `path`.
    pub fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        let location = self.location(path)?;
        self.runtime
            .block_on(self.source(path).get_range(&location, range))
            .map_err(|source| self.error("read", path, source))
    }

    /// Writes `bytes` to `path` and replaces any old object. Readers see the old object or the new one.
    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let location = self.location(path)?;
        let payload = PutPayload::from_bytes(bytes.into());
        self.runtime
            .block_on(self.objects.put(&location, payload))
            .map(|_| ())
            .map_err(|source| self.error("write", path, source))
    }

    /// Writes `bytes` to `path` unless an object already exists. Returns whether it wrote.
    pub fn put_if_absent(&self, path: &str, bytes: impl Into<Bytes>) -> Result<bool, StoreError> {
        let location = self.location(path)?;
        // The local backend panics where it would say that a file exists in a folder whose name is not UTF-8.
        if self.exists(path)? {
            return Ok(false);
        }
        let payload = PutPayload::from_bytes(bytes.into());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.runtime.block_on(self.objects.put_opts(&location, payload, options)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(self.error("write", path, source)),
        }
    }

    /// Deletes the half-written files of the object at `path` that killed writers left in a local folder. Nobody reads
    /// such files, but a large file takes up disk space. Do not call this while another process may be writing the same
    /// object.
    pub fn delete_half_written(&self, path: &str) -> Result<(), StoreError> {
        let Some(file) = self.folder.as_ref().map(|folder| folder.join(path)) else { return Ok(()) };
        let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        // The local backend writes `name#1`, `name#2`, … and renames them.
        let is_half_written = |entry: &std::fs::DirEntry| {
            let other = entry.file_name();
            let number = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('#'));
            number.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
        };
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(is_half_written) {
            std::fs::remove_file(entry.path()).map_err(|source| StoreError::Folder { path: entry.path(), source })?;
        }
        Ok(())
    }

    /// Deletes the object at `path`. A missing object is not an error.
    pub fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = self.location(path)?;
        match self.runtime.block_on(self.objects.delete(&location)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("delete", path, source)),
        }
    }

    fn location(&self, path: &str) -> Result<Path, StoreError> {
        Path::parse(path).map_err(|source| StoreError::Path { path: path.to_owned(), source })
    }

    fn error(&self, action: &'static str, path: &str, source: object_store::Error) -> StoreError {
        StoreError::Object { action, path: path.to_owned(), url: self.url.clone(), source: Box::new(source) }
    }
}

#[cfg(feature = "s3")]
fn open_s3(url: &str, rest: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = object_store::aws::AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .build()
        .map_err(|source| StoreError::BadUrl { url: url.to_owned(), reason: source.to_string() })?;
    let prefix = Path::parse(prefix).map_err(|source| StoreError::Path { path: prefix.to_owned(), source })?;
    Ok(Arc::new(object_store::prefix::PrefixStore::new(bucket, prefix)))
}

#[cfg(not(feature = "s3"))]
fn open_s3(url: &str, _rest: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let reason = "this build has no S3 support; build with `--features s3`".to_owned();
    Err(StoreError::BadUrl { url: url.to_owned(), reason })
}
