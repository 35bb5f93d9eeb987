//! Checkpoints in their published formats: safetensors or PyTorch's zip, in one file or in shards with an index.
//!
//! [`agiqa_checkpoint`] locates the tensors; this module loads them. A tensor that is wanted on the CPU in its stored
//! type is a view of the file, which is mapped privately: nothing is read until it is used, memory holds no second
//! copy, and the mapping lives as long as a tensor does (libtorch counts the references). Any other tensor is read into
//! memory, converted and placed, one at a time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

pub use agiqa_checkpoint::{CheckpointError, Misfit, StoredDtype, TensorInfo};

mod adapter;

mod scope;

pub use scope::CheckpointScope;

mod wanted;

pub use wanted::Wanted;

use crate::device;
use adapter::Adapter;
use agiqa_checkpoint::{FileSource, ReadAt, StoredTensor, read_in_parallel, shards};

/// Greatest number of threads that read one tensor. More than eight gain nothing over the rate of memory.
const MAX_READERS: usize = 8;

/// File name extensions of checkpoints.
const EXTENSIONS: [&str; 7] = ["safetensors", "pt", "pth", "bin", "ckpt", "pkl", "npz"];

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    /// Changes to tensors that [`Self::load`] makes.
    adapter: Option<Box<Adapter>>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    source: FileSource,
    /// The file's bytes, mapped when a tensor is first viewed.
    map: RefCell<Option<Tensor>>,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    stored: StoredTensor,
    is_used: Cell<bool>,
}

impl Checkpoint {
    /// Opens a checkpoint: a file, an index of shards, or a folder with one of [`shards::NAMES`]. Reads headers only.
    ///
    /// # Errors
    /// A file is missing, cut short, damaged or of an unknown format, or a pickle asks for more than tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let files = shards::find(path)?;
        let mut tensors = BTreeMap::new();
        let mut opened = Vec::with_capacity(files.shards.len());
        for (shard_idx, path) in files.shards.into_iter().enumerate() {
            let source = FileSource::open(&path)?;
            for (name, stored) in agiqa_checkpoint::read_file(&path, &source)? {
                // If the checkpoint has an index, a tensor that it does not list is not part of the checkpoint.
                if files.shard_of.as_ref().is_none_or(|shard_of| shard_of.get(&name) == Some(&shard_idx)) {
                    tensors.insert(name, Entry { shard: shard_idx, stored, is_used: Cell::new(false) });
                }
            }
            opened.push(Shard { path, source, map: RefCell::new(None) });
        }
        if let Some(shard_of) = &files.shard_of
            && let Some((name, &shard)) = shard_of.iter().find(|(name, _)| !tensors.contains_key(*name))
        {
            let problem = format!("tensor `{name}` is not in `{}`, where it should be", opened[shard].path.display());
            return Err(CheckpointError::Index { path: files.path, problem });
        }
        Ok(Self { path: files.path, shards: opened, tensors, adapter: None })
    }

    /// The checkpoint under the low-rank adapter in `folder`, if the folder has one.
    ///
    /// # Errors
    /// The adapter is damaged, or belongs to another checkpoint.
    pub fn with_adapter(mut self, folder: &Path) -> Result<Self, CheckpointError> {
        self.adapter = Adapter::find(&self, folder)?.map(Box::new);
        Ok(self)
    }

    /// Opens the checkpoint at `path`. If `path` is a folder with only one file that has a checkpoint's extension, that
    /// file is opened, else as by [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn find(path: &Path) -> Result<Self, CheckpointError> {
        match files_in(path).as_slice() {
            [file] => Self::open(file),
            _ => Self::open(path),
        }
    }

    /// The checkpoint with its tensors under other names and in other arrangements. `arrange` gives both, `Err` with the
    /// expected form if the tensor has another one, and `None` for a tensor to leave out.
    ///
    /// # Errors
    /// A tensor has another form than expected.
    pub(crate) fn rearranged(
        mut self,
        arrange: impl Fn(&str, &StoredTensor) -> Option<Result<(String, StoredTensor), &'static str>>,
    ) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::new();
        for (stored, entry) in std::mem::take(&mut self.tensors) {
            let Some(arranged) = arrange(&stored, &entry.stored) else { continue };
            let (name, tensor) = arranged.map_err(|expected| CheckpointError::Damaged {
                path: self.path.clone(),
                problem: format!("tensor `{stored}` has shape {:?}, expected {expected}", entry.stored.info().shape),
            })?;
            tensors.insert(name, Entry { stored: tensor, ..entry });
        }
        Ok(Self { tensors, ..self })
    }

    /// The file, or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files that hold tensors, and those of the adapter.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        // In a box, because an adapter's files are those of checkpoints, too.
        let of_adapter: Box<dyn Iterator<Item = &Path>> = match &self.adapter {
            Some(adapter) => Box::new(adapter.files()),
            None => Box::new(std::iter::empty()),
        };
        self.shards.iter().map(|shard| shard.path.as_path()).chain(of_adapter)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the checkpoint has a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The prefix that the checkpoint puts before a network's tensor `name`: nothing, `module.`, `state_dict.`, ….
    /// `None` if the names of no tensor or of several tensors end with `name`.
    pub fn prefix_of(&self, name: &str) -> Option<&str> {
        let mut prefixes = self.names().filter_map(|other| {
            let prefix = other.strip_suffix(name)?;
            (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
        });
        match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => Some(prefix),
            _ => None,
        }
    }

    /// Type and shape of a tensor. The tensor does not count as used.
    ///
    /// # Errors
    /// The tensor is absent.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        Ok(self.entry(name)?.stored.info())
    }

    /// A copy of the values' bytes, little-endian and row-major.
    ///
    /// # Errors
    /// The tensor is absent, or its file cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let entry = self.entry(name)?;
        entry.is_used.set(true);
        let shard = &self.shards[entry.shard];
        entry.stored.read(&shard.path, &shard.source)
    }

    /// A tensor in its stored type on the CPU: a view of the file if its values are dense, else a copy. The caller must
    /// not write into it.
    ///
    /// # Errors
    /// The tensor is absent or has another shape, or its file cannot be read.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, CheckpointError> {
        let entry = self.shaped(name, shape)?;
        match self.view(entry) {
            Some(view) => Ok(view),
            None => self.copy(name, entry, Device::Cpu),
        }
    }

    /// A tensor as `kind` on `device`, with the adapter's changes: a view of the file if it is stored as `kind` and `device` is the CPU, else a
    /// converted copy.
    ///
    /// # Errors
    /// As [`Self::tensor`]. Also, the tensor holds integers although `kind` is a float, or the device lacks memory.
    pub fn load(&self, name: &str, shape: &[i64], device: Device, kind: Kind) -> Result<Tensor, CheckpointError> {
        let entry = self.shaped(name, shape)?;
        let stored = entry.stored.info().dtype;
        if is_float(kind) && !stored.is_float() {
            return Err(CheckpointError::NotFloat { path: self.path.clone(), name: name.to_owned(), found: stored });
        }
        let place = |source: tch::TchError| CheckpointError::Place { name: name.to_owned(), source: source.into() };
        if let Some(adapter) = &self.adapter
            && let Some(merged) = adapter.merged(self, name, shape)?
        {
            return merged.f_to_device(device).and_then(|tensor| tensor.f_to_kind(kind)).map_err(place);
        }
        if device == Device::Cpu && kind == kind_of(stored) {
            return self.tensor(name, shape);
        }
        // Not read from the map: its pages would count as this process's memory in addition to the copy. A GPU copies
        // from pinned memory while the next tensor is read, and converts on its own.
        let stored = self.copy(name, entry, device)?;
        let placed = stored.f_to_device_(device, stored.kind(), true, false);
        placed.and_then(|tensor| tensor.f_to_kind(kind)).map_err(place)
    }

    /// The scope of all tensors, to be placed on `device` as `kind`.
    pub fn root(&self, device: Device, kind: Kind) -> CheckpointScope<'_> {
        CheckpointScope::new(self, device, kind)
    }

    /// Names of the tensors that have not been used, sorted.
    pub fn unused(&self) -> Vec<&str> {
        self.tensors.iter().filter(|(_, entry)| !entry.is_used.get()).map(|(name, _)| name.as_str()).collect()
    }

    /// Checks a whole list of names and shapes of weights, so that one message lists all problems.
    ///
    /// # Errors
    /// Tensors are missing, have another shape, or do not hold floating-point numbers.
    pub fn require(&self, wanted: &[(String, Vec<i64>)]) -> Result<(), CheckpointError> {
        let mut misfit = Misfit { missing: Vec::new(), misshapen: Vec::new(), unused: Vec::new() };
        for (name, shape) in wanted {
            match self.tensors.get(name).map(|entry| entry.stored.info()) {
                None => misfit.missing.push(name.clone()),
                // Integers would be converted silently, without the scales that belong to them.
                Some(found) if found.shape != *shape || !found.dtype.is_float() => {
                    misfit.misshapen.push((name.clone(), shape.clone(), found.clone()));
                }
                Some(_) => {}
            }
        }
        if misfit.missing.is_empty() && misfit.misshapen.is_empty() {
            return Ok(());
        }
        // Tensors under unknown names help to recognise the checkpoint.
        let is_wanted = |name: &&str| wanted.iter().any(|(wanted, _)| wanted == name);
        misfit.unused = self.names().filter(|name| !is_wanted(name)).map(str::to_owned).collect();
        Err(CheckpointError::Unfit { path: self.path.clone(), misfit })
    }

    fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
            n_tensors: self.tensors.len(),
            nearest: agiqa_suggest::nearest(name, self.names()).map(str::to_owned),
        })
    }

    /// The entry of `name` with a checked shape. It counts as used from now on.
    fn shaped(&self, name: &str, shape: &[i64]) -> Result<&Entry, CheckpointError> {
        let entry = self.entry(name)?;
        let TensorInfo { dtype, shape: found } = entry.stored.info();
        if found != shape {
            return Err(CheckpointError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: found.clone(),
                dtype: *dtype,
            });
        }
        entry.is_used.set(true);
        Ok(entry)
    }

    /// The tensor as a view of its mapped file. `None` if its values are strided or not aligned to their size, or if
    /// the file cannot be mapped.
    fn view(&self, entry: &Entry) -> Option<Tensor> {
        let (offset, n_bytes) = entry.stored.dense_bytes()?;
        let TensorInfo { dtype, shape } = entry.stored.info();
        if !offset.is_multiple_of(dtype.n_bytes() as u64) || n_bytes == 0 {
            return None;
        }
        let shard = &self.shards[entry.shard];
        let mut map = shard.map.borrow_mut();
        if map.is_none() {
            let n_file = i64::try_from(shard.source.n_bytes()).ok()?;
            // `false` maps the file privately, so that even a write in place would never reach it.
            let options = (Kind::Uint8, Device::Cpu);
            *map = Some(Tensor::f_from_file(shard.path.to_str()?, false, n_file, options).ok()?);
        }
        let bytes = map.as_ref()?.f_narrow(0, i64::try_from(offset).ok()?, i64::try_from(n_bytes).ok()?).ok()?;
        bytes.f_view_dtype(kind_of(*dtype)).ok()?.f_view(shape.as_slice()).ok()
    }

    /// A copy of the tensor in memory, on its way to `device`.
    fn copy(&self, name: &str, entry: &Entry, device: Device) -> Result<Tensor, CheckpointError> {
        let shard = &self.shards[entry.shard];
        let TensorInfo { dtype, shape } = entry.stored.info();
        let place = |source: tch::TchError| CheckpointError::Place { name: name.to_owned(), source: source.into() };
        // Memory is taken only if the file is long enough.
        let inside = entry.stored.is_inside(shard.source.n_bytes());
        let Some((offset, n_bytes)) = entry.stored.dense_bytes().filter(|_| inside) else {
            let bytes = entry.stored.read(&shard.path, &shard.source)?;
            return Tensor::f_from_data_size(&bytes, shape, kind_of(*dtype)).map_err(place);
        };
        let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MAX_READERS);
        let read = |bytes: &mut [u8]| read_in_parallel(&shard.source, &shard.path, offset, bytes, n_threads);
        let (bytes, is_read) = device::host_bytes(n_bytes, device, read).map_err(place)?;
        is_read?;
        bytes.f_view_dtype(kind_of(*dtype)).and_then(|values| values.f_view(shape.as_slice())).map_err(place)
    }
}

/// The files in `folder` with a checkpoint's extension; none if it is no folder.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let is_checkpoint = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(is_checkpoint).collect()
}

/// The torch type of stored values.
pub fn kind_of(dtype: StoredDtype) -> Kind {
    match dtype {
        StoredDtype::F64 => Kind::Double,
        StoredDtype::F32 => Kind::Float,
        StoredDtype::F16 => Kind::Half,
        StoredDtype::BF16 => Kind::BFloat16,
        StoredDtype::I64 => Kind::Int64,
        StoredDtype::I32 => Kind::Int,
        StoredDtype::I16 => Kind::Int16,
        StoredDtype::I8 => Kind::Int8,
        StoredDtype::U8 => Kind::Uint8,
        StoredDtype::Bool => Kind::Bool,
    }
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16)
}
