//! The place of a tensor's values in a file.

use std::path::Path;

use super::{CheckpointError, ReadAt, StoredDtype};

/// Greatest number of dimensions of a tensor. More dimensions mean damage.
pub const MAX_DIMS: usize = 16;

/// Type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Number type.
    pub dtype: StoredDtype,
    /// Sizes, none negative.
    pub shape: Vec<i64>,
}

/// A tensor in a file. Its values are at `offset + Σ index · stride`, all of them inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    info: TensorInfo,
    /// Distance between neighbours along each dimension, in values; `None` if the values are dense and row-major.
    strides: Option<Vec<usize>>,
    /// First byte of the first value.
    offset: u64,
    /// Number of values.
    numel: usize,
    /// Number of stored values from the first to the last in the file, values in between included.
    span: usize,
}

/// The number of values of `shape`; `None` if a size is negative, the dimensions are too many, or the product
/// overflows.
pub fn numel(shape: &[i64]) -> Option<usize> {
    if shape.len() > MAX_DIMS {
        return None;
    }
    let n = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(usize::try_from(size).ok()?))?;
    isize::try_from(n).is_ok().then_some(n)
}

impl StoredTensor {
    /// A dense, row-major tensor whose values fill bytes `start .. start + n_bytes` of its file.
    ///
    /// # Errors
    /// The problem, in words, if type and shape need another number of bytes.
    pub fn dense(info: TensorInfo, start: u64, n_bytes: u64) -> Result<Self, String> {
        let numel = numel(&info.shape).ok_or_else(|| format!("{:?} is not a valid shape", info.shape))?;
        let wanted = (numel as u64).checked_mul(info.dtype.n_bytes() as u64);
        if wanted != Some(n_bytes) {
            return Err(format!("{} of shape {:?} do not fill the {n_bytes} bytes given", info.dtype, info.shape));
        }
        Ok(Self { info, strides: None, offset: start, numel, span: numel })
    }

    /// A view of a storage of `n_stored` values at byte `start` of its file: PyTorch's size, stride and offset.
    ///
    /// # Errors
    /// The problem, in words: the view leaves its storage, or repeats its values, which would allow any size.
    pub fn view(info: TensorInfo, strides: &[i64], first: i64, n_stored: u64, start: u64) -> Result<Self, String> {
        let shape = info.shape.clone();
        let view = || format!("size {shape:?}, stride {strides:?} and offset {first}");
        let numel = numel(&shape).ok_or_else(|| format!("{} do not describe a tensor", view()))?;
        if strides.len() != shape.len() {
            return Err(format!("{} differ in length", view()));
        }
        let outside = || format!("{} leave the storage of {n_stored} values", view());
        let strides: Vec<usize> =
            strides.iter().map(|&stride| usize::try_from(stride).ok()).collect::<Option<_>>().ok_or_else(outside)?;
        let first = u64::try_from(first).map_err(|_| outside())?;
        // Index of the last value, relative to the first.
        let last = shape.iter().zip(&strides).try_fold(0_u64, |last, (&size, &stride)| {
            last.checked_add((size.max(1) as u64 - 1).checked_mul(stride as u64)?)
        });
        let last = last.ok_or_else(outside)?;
        let span = if numel == 0 { 0 } else { last.checked_add(1).ok_or_else(outside)? };
        if first.checked_add(span).is_none_or(|end| end > n_stored) {
            return Err(outside());
        }
        if numel as u64 > n_stored {
            return Err(format!("{} repeat values of a storage of {n_stored}, which is not supported", view()));
        }
        let offset = first
            .checked_mul(info.dtype.n_bytes() as u64)
            .and_then(|bytes| start.checked_add(bytes))
            .ok_or_else(outside)?;
        let span = usize::try_from(span).map_err(|_| outside())?;
        let strides = (!is_dense(&shape, &strides)).then_some(strides);
        Ok(Self { info, strides, offset, numel, span })
    }

    /// The same values in the same order under another shape; `None` if they are not dense, or the shape has another
    /// number of values.
    pub fn reshaped(&self, shape: &[i64]) -> Option<Self> {
        let fits = self.strides.is_none() && numel(shape) == Some(self.numel);
        let info = TensorInfo { dtype: self.info.dtype, shape: shape.to_vec() };
        fits.then(|| Self { info, ..self.clone() })
    }

    /// The tensor with its dimensions in another order: dimension `i` of the result is dimension `order[i]` of this one.
    /// `None` if `order` does not name every dimension once.
    pub fn permuted(&self, order: &[usize]) -> Option<Self> {
        let shape = &self.info.shape;
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..shape.len()) {
            return None;
        }
        let dense = || {
            let mut strides = vec![1; shape.len()];
            for i in (1..shape.len()).rev() {
                strides[i - 1] = strides[i] * shape[i] as usize;
            }
            strides
        };
        let strides = self.strides.clone().unwrap_or_else(dense);
        let strides: Vec<usize> = order.iter().map(|&i| strides[i]).collect();
        let info = TensorInfo { dtype: self.info.dtype, shape: order.iter().map(|&i| shape[i]).collect() };
        let strides = (!is_dense(&info.shape, &strides)).then_some(strides);
        Some(Self { info, strides, ..self.clone() })
    }

    /// Type and shape.
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// Number of values.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// First byte and number of bytes of the values, if they are dense and row-major.
    pub fn dense_bytes(&self) -> Option<(u64, usize)> {
        self.strides.is_none().then(|| (self.offset, self.numel * self.info.dtype.n_bytes()))
    }

    /// Whether all bytes are within a file of `n_bytes`.
    pub fn is_inside(&self, n_bytes: u64) -> bool {
        (self.span as u64)
            .checked_mul(self.info.dtype.n_bytes() as u64)
            .and_then(|n| n.checked_add(self.offset))
            .is_some_and(|end| end <= n_bytes)
    }

    /// The values' bytes, little-endian and row-major.
    ///
    /// # Errors
    /// The file ends before them, or cannot be read.
    pub fn read(&self, path: &Path, source: &dyn ReadAt) -> Result<Vec<u8>, CheckpointError> {
        let n_bytes = self.info.dtype.n_bytes();
        let stored = source.read(path, self.offset, self.span * n_bytes)?;
        let Some(strides) = &self.strides else { return Ok(stored) };
        let mut bytes = Vec::with_capacity(self.numel * n_bytes);
        let mut index = vec![0_usize; strides.len()];
        for _ in 0..self.numel {
            let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            bytes.extend_from_slice(&stored[at * n_bytes..][..n_bytes]);
            // The last dimension varies fastest.
            for (i, &size) in index.iter_mut().zip(&self.info.shape).rev() {
                *i += 1;
                if (*i as i64) < size {
                    break;
                }
                *i = 0;
            }
        }
        Ok(bytes)
    }
}

/// Whether `strides` describe dense, row-major values. The stride of a dimension of size 1 does not matter.
fn is_dense(shape: &[i64], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size as usize;
            fits
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(shape: &[i64]) -> TensorInfo {
        TensorInfo { dtype: StoredDtype::U8, shape: shape.to_vec() }
    }

    #[test]
    fn strided_views_read_their_values_in_row_major_order() {
        let stored: Vec<u8> = (0..12).collect();
        let path = Path::new("x");
        // (4, 3) transposed, and every second column of (3, 4) from the second on.
        let transposed = StoredTensor::view(info(&[3, 4]), &[1, 3], 0, 12, 0).expect("inside");
        assert_eq!(transposed.read(path, &stored).expect("there"), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        assert_eq!(transposed.dense_bytes(), None);
        let columns = StoredTensor::view(info(&[3, 2]), &[4, 2], 1, 12, 0).expect("inside");
        assert_eq!(columns.read(path, &stored).expect("there"), [1, 3, 5, 7, 9, 11]);
        let dense = StoredTensor::view(info(&[2, 1, 3]), &[3, 99, 1], 6, 12, 0).expect("inside");
        assert_eq!(dense.dense_bytes(), Some((6, 6)));
        let scalar = StoredTensor::view(info(&[]), &[], 11, 12, 0).expect("inside");
        assert_eq!(scalar.read(path, &stored).expect("there"), [11]);
        let empty = StoredTensor::view(info(&[0, 3]), &[3, 1], 12, 12, 0).expect("inside");
        assert_eq!(empty.read(path, &stored).expect("there"), [0_u8; 0]);
    }

    #[test]
    fn views_that_leave_or_repeat_their_storage_are_refused() {
        for (shape, strides, first) in [
            (&[3, 4][..], &[4, 1][..], 1),
            (&[13], &[1], 0),
            (&[2], &[i64::MAX], 0),
            (&[2], &[-1], 5),
            (&[1], &[1], -1),
            (&[i64::MAX, i64::MAX], &[0, 0], 0),
            (&[100, 100], &[0, 0], 0),
            (&[-1], &[1], 0),
            (&[1, 2], &[1], 0),
            (&[1; 17], &[1; 17], 0),
        ] {
            StoredTensor::view(info(shape), strides, first, 12, 0).expect_err("refused");
        }
    }
}
