//! Files of `torch.save` since version 1.6, and of `torch.jit.save`: a zip with a pickle and one member per storage.
//!
//! ```text
//! NAME/data.pkl     the pickle: dictionaries whose leaves are views of storages
//! NAME/data/KEY     a storage's values, little-endian
//! NAME/byteorder    `little`; absent before torch 2.1
//! ```
//!
//! State dicts may lie inside other dictionaries; the keys on the way are joined by dots. Leaves other than tensors
//! (epoch, arguments, versions) are ignored. A whole pickled module gives the names that its state dict would have: its
//! attributes `_parameters` and `_buffers` hold tensors, and `_modules` holds further modules. A module of
//! TorchScript is the dictionary of its attributes.

use std::path::Path;

use super::pickle::{Object, Refusal, Unpickled, Value, unpickle};
use super::zip::Directory;
use super::{CheckpointError, ReadAt, StoredTensor, TensorInfo};

/// Longest pickle that is read. A model of 100,000 tensors has a pickle of some 20 MB.
const MAX_PICKLE_BYTES: u64 = 256 << 20;

/// Memory that every pickle may take, even if its file is small.
pub const LEAST_PICKLE_MEMORY: u64 = 64 << 20;

/// Approximate memory of an item on the walk through the dictionaries, without its name.
const ITEM_BYTES: u64 = 128;

/// Deepest nesting of dictionaries.
const MAX_DEPTH: usize = 16;

/// Greatest total length of all names per byte of the pickle. Without it, shared dictionaries could multiply names
/// without end.
const NAME_BYTES_PER_PICKLE_BYTE: usize = 16;

/// The tensors of a file, named by their path through the dictionaries.
///
/// # Errors
/// A damaged archive, a pickle that is refused, a tensor beyond its storage or a storage beyond the file.
pub fn read(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let archive = Directory::read(path, source)?;
    let mut pickles = archive.members.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = match (pickles.next(), pickles.next()) {
        (Some(prefix), None) => prefix,
        (None, _) => return Err(damaged("it is a zip without the `data.pkl` of PyTorch".to_owned())),
        (Some(_), Some(_)) => return Err(damaged("it has several members `data.pkl`".to_owned())),
    };
    let member = |name: &str| -> Result<Option<(u64, u64)>, CheckpointError> {
        let name = format!("{prefix}{name}");
        let Some(&member) = archive.members.get(&name) else { return Ok(None) };
        Ok(Some((archive.start_of(path, source, &name, member)?, member.n_bytes)))
    };
    if let Some((start, n_bytes)) = member("byteorder")? {
        let order = source.read(path, start, n_bytes.min(16) as usize)?;
        if order != b"little" {
            let found = String::from_utf8_lossy(&order);
            return Err(damaged(format!("its byte order is `{found}`, and only `little` is read")));
        }
    }
    let (start, n_bytes) = member("data.pkl")?.ok_or_else(|| damaged("`data.pkl` is missing".to_owned()))?;
    if n_bytes > MAX_PICKLE_BYTES {
        return Err(damaged(format!("a pickle of {n_bytes} bytes is over the limit of {MAX_PICKLE_BYTES}")));
    }
    let pickle = source.read(path, start, n_bytes as usize)?;
    let refused = |Refusal { at, near, problem }| CheckpointError::Refused { path: path.to_owned(), at, near, problem };
    // An opcode of one byte makes an object of a hundred bytes. A state dict's objects are small compared to its
    // values.
    let max_memory = source.n_bytes().max(LEAST_PICKLE_MEMORY);
    let unpickled = unpickle(&pickle, max_memory).map_err(refused)?;
    let leaves = leaves(&unpickled, pickle.len(), max_memory).map_err(damaged)?;

    let place = |key: &str| member(&format!("data/{key}"));
    tensors(path, &unpickled, leaves, place)
}

/// The tensors of `leaves`. `place` gives first byte and number of bytes of a storage by its key.
pub(super) fn tensors(
    path: &Path,
    unpickled: &Unpickled<'_>,
    leaves: Vec<(String, &Object<'_>)>,
    place: impl Fn(&str) -> Result<Option<(u64, u64)>, CheckpointError>,
) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let mut tensors = Vec::with_capacity(leaves.len());
    for (name, leaf) in leaves {
        let Object::Tensor { storage, offset, size, stride } = leaf else { continue };
        let Object::Storage { dtype, key, numel } = &unpickled.objects[*storage] else { continue };
        let problem = |problem: String| CheckpointError::Damaged {
            path: path.to_owned(),
            problem: format!("tensor `{name}`: {problem}"),
        };
        let (start, n_stored) =
            place(key)?.ok_or_else(|| problem(format!("its storage `{key}` is not in the archive")))?;
        let n_claimed = u64::try_from(*numel).ok();
        let fits = n_claimed.and_then(|n| n.checked_mul(dtype.n_bytes() as u64)).is_some_and(|n| n <= n_stored);
        let n_claimed = n_claimed.filter(|_| fits).ok_or_else(|| {
            problem(format!("its storage `{key}` of {numel} {dtype} values has {n_stored} bytes only"))
        })?;
        let info = TensorInfo { dtype: *dtype, shape: size.clone() };
        let tensor = StoredTensor::view(info, stride, *offset, n_claimed, start).map_err(problem)?;
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

/// Names and objects of all tensors below the root, in the order of the file. Equal names keep their order.
pub(super) fn leaves<'p, 'a>(
    unpickled: &'p Unpickled<'a>,
    n_pickle_bytes: usize,
    max_memory: u64,
) -> Result<Vec<(String, &'p Object<'a>)>, String> {
    let mut leaves = Vec::new();
    let mut name_bytes_left = n_pickle_bytes.saturating_mul(NAME_BYTES_PER_PICKLE_BYTE);
    // Items that may still be visited. The limit keeps shared dictionaries from making the walk exponential.
    let mut n_left = n_pickle_bytes;
    let mut memory_left = max_memory;
    let mut pending = vec![(String::new(), unpickled.root, 0)];
    while let Some((name, value, depth)) = pending.pop() {
        let Value::Object(object) = value else { continue };
        let object = &unpickled.objects[object];
        let dictionaries: Vec<&[(Value<'a>, Value<'a>)]> = match object {
            Object::Tensor { .. } => {
                leaves.push((name, object));
                continue;
            }
            Object::Dict(items) => vec![items],
            Object::Instance { items, state } => {
                module_items(unpickled, *state).into_iter().chain([&items[..]]).collect()
            }
            Object::Tuple(_) | Object::List(_) | Object::Storage { .. } => continue,
        };
        if depth == MAX_DEPTH {
            return Err(format!("dictionaries are nested deeper than {MAX_DEPTH}"));
        }
        for items in dictionaries {
            n_left = n_left.checked_sub(items.len()).ok_or("its dictionaries contain each other")?;
            for (key, value) in items {
                let (Value::Str(key), Value::Object(_)) = (key, value) else { continue };
                let n_bytes = name.len() + 1 + key.len();
                name_bytes_left = name_bytes_left
                    .checked_sub(n_bytes)
                    .ok_or("its names are longer together than a state dict's can be")?;
                memory_left = memory_left
                    .checked_sub(ITEM_BYTES)
                    .ok_or("its dictionaries have more items together than a state dict's can have")?;
                let name = if depth == 0 { (*key).to_owned() } else { format!("{name}.{key}") };
                pending.push((name, *value, depth + 1));
            }
        }
    }
    // The walk pops from the back. Reversed, the leaves stand in the order of the file, and the last of equal names is
    // last.
    leaves.reverse();
    Ok(leaves)
}

/// Attributes of `torch.nn.Module` that its state dict is made of.
const MODULE_ATTRIBUTES: [&str; 3] = ["_parameters", "_buffers", "_modules"];

/// The tensors and modules of an object with the attributes `state`; nothing if it is not a module.
fn module_items<'p, 'a>(unpickled: &'p Unpickled<'a>, state: Option<Value<'a>>) -> Vec<&'p [(Value<'a>, Value<'a>)]> {
    let dictionary = |value: Value<'a>| match value {
        Value::Object(object) => match &unpickled.objects[object] {
            Object::Dict(items) => Some(items.as_slice()),
            _ => None,
        },
        _ => None,
    };
    let Some(attributes) = state.and_then(dictionary) else { return Vec::new() };
    let of_module = |(key, value): &(Value<'a>, Value<'a>)| match key {
        Value::Str(key) if MODULE_ATTRIBUTES.contains(key) => dictionary(*value),
        _ => None,
    };
    attributes.iter().filter_map(of_module).collect()
}
