//! Safetensors: the header's length in eight bytes, a JSON header, the values.
//! Format: <https://github.com/huggingface/safetensors/blob/v0.4.0/README.md#format>.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CheckpointError, Dtype, ReadAt, StoredTensor, TensorInfo};

/// Longest header that is read, as in the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor, as the header has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: (u64, u64),
}

/// The tensors of a file.
///
/// # Errors
/// A file that is cut short, a header that is no JSON or contradicts itself or the file, a number type unknown here.
pub fn read(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let length = source.read(path, 0, 8)?;
    let n_header = u64::from_le_bytes(std::array::from_fn(|i| length[i]));
    if n_header > MAX_HEADER_BYTES {
        return Err(damaged(format!("a header of {n_header} bytes is over the limit of {MAX_HEADER_BYTES}")));
    }
    let header = source.read(path, 8, n_header as usize)?;
    let start = 8 + n_header;
    let header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let mut tensors = Vec::with_capacity(header.len());
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry = serde_json::from_value(entry)
            .map_err(|error| damaged(format!("tensor `{name}` in its header: {error}")))?;
        let dtype = Dtype::ALL
            .into_iter()
            .find(|dtype| dtype.as_str() == entry.dtype)
            .ok_or_else(|| damaged(format!("tensor `{name}` has the unknown type `{}`", entry.dtype)))?;
        let (begin, end) = entry.data_offsets;
        let place = start.checked_add(begin).zip(end.checked_sub(begin));
        let (at, n_bytes) = place.ok_or_else(|| damaged(format!("tensor `{name}` ends before it begins")))?;
        let tensor = StoredTensor::dense(TensorInfo { dtype, shape: entry.shape }, at, n_bytes)
            .map_err(|problem| damaged(format!("tensor `{name}`: {problem}")))?;
        if !tensor.is_inside(source.n_bytes()) {
            let problem = format!("tensor `{name}` of {n_bytes} bytes at {at} is beyond its end");
            return Err(CheckpointError::Truncated { path: path.to_owned(), n_bytes: source.n_bytes(), problem });
        }
        tensors.push((name, tensor));
    }
    Ok(tensors)
}
