//! Safetensors: the header's length in eight bytes, a JSON header, the values.
//! Format: <https://github.com/huggingface/safetensors/blob/v0.4.0/README.md#format>.

use std::fmt;
use std::path::Path;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{CheckpointError, ReadAt, StoredDtype, StoredTensor, TensorInfo};

/// Longest header that is read, as in the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Key of the header's only entry that is not a tensor.
const METADATA: &str = "__metadata__";

/// A tensor's entry in the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: (u64, u64),
}

/// The tensors of a header, in its order. They are read directly: a tree of JSON values would take many times its
/// length.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry: Entry =
                map.next_value().map_err(|error| A::Error::custom(format_args!("tensor `{name}`: {error}")))?;
            entries.push((name, entry));
        }
        Ok(Header(entries))
    }
}

/// The tensors of a file.
///
/// # Errors
/// The file is cut short, the header is not JSON or contradicts itself or the file, or a number type is unknown.
pub fn read(path: &Path, source: &dyn ReadAt) -> Result<Vec<(String, StoredTensor)>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let length = source.read(path, 0, 8)?;
    let n_header = u64::from_le_bytes(std::array::from_fn(|i| length[i]));
    if n_header > MAX_HEADER_BYTES {
        return Err(damaged(format!("a header of {n_header} bytes is over the limit of {MAX_HEADER_BYTES}")));
    }
    let header = source.read(path, 8, n_header as usize)?;
    let start = 8 + n_header;
    let Header(entries) = serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let dtype = StoredDtype::ALL
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
