//! Invented checkpoints of any size. Values are written as they are computed, so 16 GB of them need no memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::rule::Rule;

/// Number of values computed at once.
const CHUNK: usize = 1 << 22;

/// Largest size of a shard. A tensor that would exceed it starts a new shard.
const DEFAULT_SHARD_BYTES: u64 = 1 << 30;

/// Types of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// 32 bits.
    F32,
    /// The upper half of 32 bits.
    Bf16,
    /// IEEE's 16 bits.
    F16,
}

impl Float {
    /// The name in safetensors.
    fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Settings of an invented checkpoint.
#[derive(Clone, Debug)]
pub struct Invented {
    /// Type of the stored values.
    pub dtype: Float,
    /// Seed of the rule.
    pub seed: u64,
    /// Approximate size of a shard in bytes. A larger tensor has its own shard.
    pub shard_bytes: u64,
}

impl Default for Invented {
    fn default() -> Self {
        Self { dtype: Float::Bf16, seed: 20, shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

type Tensor = (String, Vec<i64>);

impl Invented {
    /// Writes `model-….safetensors` and their index, with `tensors` by name and shape, into `folder`, which must exist.
    ///
    /// # Errors
    /// Fails with the system's error, e.g. if the disk is full.
    pub fn write(&self, tensors: Vec<Tensor>, folder: &Path) -> std::io::Result<()> {
        let shards = self.shards(tensors);
        let mut weight_map = Map::new();
        let mut total = 0;
        for (i, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            total += self.write_shard(shard, &folder.join(&name))?;
            weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string())
    }

    /// Writes `tensors` into the single file `path`. Returns the number of bytes of their values.
    ///
    /// # Errors
    /// Fails with the system's error, e.g. if the disk is full.
    pub fn write_shard(&self, tensors: &[Tensor], path: &Path) -> std::io::Result<u64> {
        let mut header = Map::new();
        let mut end = 0;
        for (name, shape) in tensors {
            let begin = end;
            end += self.n_bytes(shape);
            header.insert(
                name.clone(),
                json!({ "dtype": self.dtype.as_str(), "shape": shape, "data_offsets": [begin, end] }),
            );
        }
        let mut header = Value::from(header).to_string();
        // The values must begin at a multiple of 64 bytes, so that memory maps of them are aligned.
        while !(8 + header.len()).is_multiple_of(64) {
            header.push(' ');
        }
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (name, shape) in tensors {
            let rule = Rule::of(name, shape, self.seed);
            let numel = shape.iter().product::<i64>() as usize;
            for start in (0..numel).step_by(CHUNK) {
                let end = (start + CHUNK).min(numel);
                file.write_all(&self.bytes(rule, start..end))?;
            }
        }
        file.flush()?;
        Ok(end)
    }

    fn n_bytes(&self, shape: &[i64]) -> u64 {
        shape.iter().product::<i64>() as u64 * self.dtype.n_bytes() as u64
    }

    /// Tensors in order, cut into shards.
    fn shards(&self, tensors: Vec<Tensor>) -> Vec<Vec<Tensor>> {
        let mut shards = vec![Vec::new()];
        let mut n_bytes = 0;
        for (name, shape) in tensors {
            let n = self.n_bytes(&shape);
            if n_bytes > 0 && n_bytes + n > self.shard_bytes {
                shards.push(Vec::new());
                n_bytes = 0;
            }
            n_bytes += n;
            shards.last_mut().expect("never empty").push((name, shape));
        }
        shards
    }

    fn bytes(&self, rule: Rule, range: std::ops::Range<usize>) -> Vec<u8> {
        let n_bytes = self.dtype.n_bytes();
        let mut bytes = vec![0; range.len() * n_bytes];
        let start = range.start as u64;
        bytes.par_chunks_mut(n_bytes * 4096).enumerate().for_each(|(block, bytes)| {
            let first = start + block as u64 * 4096;
            for (i, bytes) in bytes.chunks_exact_mut(n_bytes).enumerate() {
                let value = rule.value(first + i as u64);
                match self.dtype {
                    Float::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
                    Float::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    Float::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                }
            }
        });
        bytes
    }
}
