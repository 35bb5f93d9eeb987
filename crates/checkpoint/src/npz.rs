//! Archives of `numpy.savez`: a zip with one member `NAME.npy` per array, as JAX's programs keep weights.
//!
//! ```text
//! member = "\x93NUMPY" version (2 bytes) length of the header (2 or 4 bytes) header, values
//! header = {'descr': '<f4', 'fortran_order': False, 'shape': (7, 7, 3, 64), }
//! ```
//!
//! Arrays of other types than numbers, such as text, are passed over.

use std::path::Path;

use super::zip::Directory;
use super::{CheckpointError, ReadAt, StoredDtype, StoredTensor, TensorInfo};

/// What every member begins with.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest header that is read. numpy itself reads no longer ones.
const MAX_HEADER_BYTES: u64 = 10_000;

/// Whether the archive holds arrays.
pub fn has_arrays(archive: &Directory) -> bool {
    archive.members.keys().any(|name| name.ends_with(".npy"))
}

/// The arrays of `archive`, sorted by name.
///
/// # Errors
/// A member is cut short or damaged.
pub fn read(
    path: &Path,
    source: &dyn ReadAt,
    archive: &Directory,
) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let mut members: Vec<_> = archive.members.iter().filter(|(name, _)| name.ends_with(".npy")).collect();
    members.sort_by_key(|(name, _)| *name);
    let mut tensors = Vec::with_capacity(members.len());
    for (name, &member) in members {
        let start = archive.start_of(path, source, name, member)?;
        let bytes = source.read(path, start, member.n_bytes.min(MAX_HEADER_BYTES + 12) as usize)?;
        let array = array(&bytes, start, member.n_bytes).map_err(|problem| CheckpointError::Damaged {
            path: path.to_owned(),
            problem: format!("array `{name}`: {problem}"),
        })?;
        let name = name.strip_suffix(".npy").unwrap_or(name).to_owned();
        tensors.extend(array.map(|array| (name, array)));
    }
    Ok(tensors)
}

/// The array whose member begins with `bytes` at byte `start` of the file and has `n_bytes`; `None` if it has no numbers.
fn array(bytes: &[u8], start: u64, n_bytes: u64) -> Result<Option<StoredTensor>, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin as numpy's arrays do")?;
    let (n_header, rest) = match *rest {
        [1, _, a, b, ref rest @ ..] => (u32::from(u16::from_le_bytes([a, b])), rest),
        [2 | 3, _, a, b, c, d, ref rest @ ..] => (u32::from_le_bytes([a, b, c, d]), rest),
        _ => return Err("a version of the format that is not known".to_owned()),
    };
    let header = rest.get(..n_header as usize).ok_or("its header is cut short, or over the limit")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is no text")?;
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let lacks = |key: &str| format!("its header lacks `{key}`");
    let descr = value("descr").ok_or_else(|| lacks("descr"))?;
    let Some(dtype) = descr.strip_prefix('\'').and_then(|rest| dtype(rest.split('\'').next()?)) else {
        return Ok(None);
    };
    let is_by_columns = value("fortran_order").ok_or_else(|| lacks("fortran_order"))?.starts_with("True");
    let shape =
        value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).ok_or_else(|| lacks("shape"))?;
    let sizes = shape.0.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<i64> =
        sizes.map(str::parse).collect::<Result<_, _>>().map_err(|error| format!("its shape: {error}"))?;
    let first = (bytes.len() - rest.len()) as u64 + u64::from(n_header);
    let n_left = n_bytes.checked_sub(first).ok_or("its header is cut short")?;
    let tensor = StoredTensor::dense(TensorInfo { dtype, shape: shape.clone() }, start + first, n_left)?;
    if !is_by_columns || shape.len() < 2 {
        return Ok(Some(tensor));
    }
    // Stored by columns, it is its transpose stored by rows.
    let mirrored = TensorInfo { dtype, shape: shape.iter().rev().copied().collect() };
    let order: Vec<usize> = (0..shape.len()).rev().collect();
    let tensor = StoredTensor::dense(mirrored, start + first, n_left)?;
    Ok(tensor.permuted(&order))
}

/// The number type that numpy calls `name`; `None` for another one, and for numbers with their most significant byte first.
fn dtype(name: &str) -> Option<StoredDtype> {
    Some(match name.trim_start_matches(['<', '|']) {
        "f8" => StoredDtype::F64,
        "f4" => StoredDtype::F32,
        "f2" => StoredDtype::F16,
        "i8" => StoredDtype::I64,
        "i4" => StoredDtype::I32,
        "i2" => StoredDtype::I16,
        "i1" => StoredDtype::I8,
        "u1" => StoredDtype::U8,
        "b1" => StoredDtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(header: &str, n_values: usize) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend((0..n_values as u8).flat_map(|value| [value, 0]));
        bytes
    }

    fn read_one(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some(array) = array(bytes, 0, bytes.len() as u64)? else { return Ok(None) };
        let values = array.read(Path::new("x"), &bytes.to_vec()).expect("inside");
        Ok(Some(values.chunks_exact(2).map(|value| value[0]).collect()))
    }

    #[test]
    fn arrays_by_rows_and_by_columns_are_read_by_rows() {
        let rows = member("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }", 6);
        assert_eq!(read_one(&rows), Ok(Some(vec![0, 1, 2, 3, 4, 5])));
        let columns = member("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }\n", 6);
        assert_eq!(read_one(&columns), Ok(Some(vec![0, 2, 4, 1, 3, 5])));
        let scalar = member("{'descr': '<i2', 'fortran_order': False, 'shape': (), }", 1);
        assert_eq!(read_one(&scalar), Ok(Some(vec![0])));
        let text = member("{'descr': '<U3', 'fortran_order': False, 'shape': (1,), }", 6);
        assert_eq!(read_one(&text), Ok(None));
    }

    #[test]
    fn damage_is_named() {
        let whole = member("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }", 6);
        for n in 0..whole.len() {
            read_one(&whole[..n]).expect_err("cut short");
        }
        for header in ["{}", "{'descr': '<i2'}", "{'descr': '<i2', 'fortran_order': False, 'shape': (2, -3), }"] {
            read_one(&member(header, 6)).expect_err("refused");
        }
    }
}
