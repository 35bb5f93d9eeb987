//! Files of `torch.save` before version 1.6: pickles one after the other, then the storages.
//!
//! ```text
//! pickle 1     a number that marks the format
//! pickle 2     the version, 1001
//! pickle 3     facts about the machine, `little_endian` among them
//! pickle 4     the object, as in the newer format
//! pickle 5     the keys of the storages
//! storages     in the order of the keys: number of values in 8 bytes, then the values
//! ```

use std::collections::HashMap;
use std::path::Path;

use super::pickle::{Object, Refusal, Unpickled, Value, unpickle};
use super::pytorch::{LEAST_PICKLE_MEMORY, leaves, tensors};
use super::{CheckpointError, ReadAt, StoredTensor};

/// The first pickle.
pub const MAGIC: &[u8] = &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// The only version that torch has written.
const VERSION: i64 = 1001;

/// Longest pickles together. A model of 1,000 tensors has some 200 kB of them.
const MAX_PICKLES_BYTES: u64 = 16 << 20;

/// The tensors of a file, named by their path through the dictionaries.
///
/// # Errors
/// A pickle that is refused, big-endian values, or storages that the file is too short for.
pub fn read(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let head = source.read(path, 0, source.n_bytes().min(MAX_PICKLES_BYTES) as usize)?;
    let max_memory = source.n_bytes().max(LEAST_PICKLE_MEMORY);
    let mut at = MAGIC.len();
    let mut next = || {
        let unpickled = unpickle(&head[at..], max_memory).map_err(|refusal: Refusal| CheckpointError::Refused {
            path: path.to_owned(),
            at: at + refusal.at,
            near: refusal.near,
            problem: refusal.problem,
        })?;
        at += unpickled.n_bytes;
        Ok::<_, CheckpointError>(unpickled)
    };
    let version = next()?.root;
    if version != Value::Int(VERSION) {
        return Err(damaged(format!("its version is {version:?}, expected {VERSION}")));
    }
    if !is_little_endian(&next()?) {
        return Err(damaged("its values are not little-endian".to_owned()));
    }
    let (unpickled, keys) = (next()?, next()?);
    let places = places(path, source, &unpickled, &keys, at as u64)?;
    let leaves = leaves(&unpickled, unpickled.n_bytes, max_memory).map_err(damaged)?;
    tensors(path, &unpickled, leaves, |key| Ok(places.get(key).copied()))
}

fn is_little_endian(facts: &Unpickled<'_>) -> bool {
    let Value::Object(facts_idx) = facts.root else { return false };
    let Object::Dict(items) = &facts.objects[facts_idx] else { return false };
    items.contains(&(Value::Str("little_endian"), Value::Bool(true)))
}

/// First byte and number of bytes of each storage. The first storage begins at byte `at`.
fn places<'a>(
    path: &Path,
    source: &dyn ReadAt,
    unpickled: &Unpickled<'a>,
    keys: &Unpickled<'a>,
    mut at: u64,
) -> Result<HashMap<&'a str, (u64, u64)>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let storages = unpickled.objects.iter().filter_map(|object| match object {
        Object::Storage { dtype, key, numel } => Some((*key, (*dtype, *numel))),
        _ => None,
    });
    let storages: HashMap<_, _> = storages.collect();
    let keys = match keys.root {
        Value::Object(list) => match &keys.objects[list] {
            Object::List(keys) => keys.as_slice(),
            _ => &[],
        },
        _ => &[],
    };
    let mut places = HashMap::new();
    for key in keys {
        let storage = match key {
            Value::Str(key) => storages.get(key).map(|storage| (*key, *storage)),
            _ => None,
        };
        let (key, (dtype, numel)) = storage.ok_or_else(|| damaged(format!("no tensor has the storage {key:?}")))?;
        let stored = source.read(path, at, 8)?;
        let n_stored = i64::from_le_bytes(std::array::from_fn(|i| stored[i]));
        if n_stored != numel {
            return Err(damaged(format!("storage `{key}` has {n_stored} values, expected {numel}")));
        }
        let n_bytes = u64::try_from(numel).ok().and_then(|numel| numel.checked_mul(dtype.n_bytes() as u64));
        let end = n_bytes.and_then(|n_bytes| Some((n_bytes, (at + 8).checked_add(n_bytes)?)));
        let Some((n_bytes, end)) = end.filter(|(_, end)| *end <= source.n_bytes()) else {
            return Err(CheckpointError::Truncated {
                path: path.to_owned(),
                n_bytes: source.n_bytes(),
                problem: format!("{numel} values of storage `{key}` at byte {} are beyond its end", at + 8),
            });
        };
        places.insert(key, (at + 8, n_bytes));
        at = end;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_file;

    fn text(text: &str) -> Vec<u8> {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A file with one tensor `module.w` of shape (2, 3) and the values 0 to 5. Its storage claims `numel` values.
    fn file(numel: i64) -> Vec<u8> {
        let (name, storage, key, place) = (text("module.w"), text("storage"), text("7"), text("cpu"));
        let object = [
            b"\x80\x02}".as_slice(),
            &name,
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &storage,
            b"ctorch\nFloatStorage\n",
            &key,
            &place,
            b"K\x06NtQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.",
        ]
        .concat();
        let facts = [b"\x80\x02}".as_slice(), &text("little_endian"), b"\x88s."].concat();
        let keys = [b"\x80\x02]".as_slice(), &key, b"a."].concat();
        let values: Vec<u8> = (0..6_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        [MAGIC, b"\x80\x02M\xe9\x03.", &facts, &object, &keys, &numel.to_le_bytes(), &values].concat()
    }

    #[test]
    fn tensors_are_read_under_their_names() {
        let (path, file) = (Path::new("x.pkl"), file(6));
        let tensors = read_file(path, &file).expect("a whole file");
        let [(name, tensor)] = tensors.as_slice() else { panic!("one tensor") };
        assert_eq!((name.as_str(), tensor.info().shape.as_slice()), ("module.w", &[2, 3][..]));
        let values: Vec<u8> = (0..6_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        assert_eq!(tensor.read(path, &file).expect("they are there"), values);
    }

    #[test]
    fn files_that_are_cut_short_or_contradict_themselves_are_refused() {
        let (path, whole) = (Path::new("x.pkl"), file(6));
        for n_bytes in MAGIC.len()..whole.len() {
            read_file(path, &whole[..n_bytes].to_vec()).expect_err("cut short");
        }
        let error = read_file(path, &whole[..whole.len() - 1].to_vec()).expect_err("cut short").to_string();
        assert!(error.contains("6 values of storage `7`") && error.contains("cut short"), "{error}");
        let error = read_file(path, &file(7)).expect_err("another count").to_string();
        assert!(error.contains("storage `7` has 7 values, expected 6"), "{error}");
        let error = read_file(path, &b"\x80\x02}.".to_vec()).expect_err("not torch's").to_string();
        assert!(error.contains("a bare pickle"), "{error}");
    }
}
