//! Synthetic checkpoints of any size, for benchmarks and tests of scale. Values follow from the tensors' names and are
//! written as they are computed, so that a checkpoint of 16 GB takes little memory.
//!
//! [`Rule`] computes the values, for tensors of any network.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, json};

use super::{Config, tensors};
use crate::checkpoint::Dtype;

/// Number of values computed at once.
const CHUNK: usize = 1 << 22;

/// A new shard begins if the current one would exceed this size.
const DEFAULT_SHARD_BYTES: u64 = 1 << 30;

/// Settings of a synthetic checkpoint.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Type of the stored values, a float of at most 32 bits.
    pub dtype: Dtype,
    /// Seed of the rule.
    pub seed: u64,
    /// Greatest size of a shard, bytes. A larger tensor has a shard of its own.
    pub shard_bytes: u64,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self { dtype: Dtype::BF16, seed: 20, shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

/// The values of one tensor, `offset + scale · c_i`.
///
/// For a tensor `name` and a seed, `state = fnv1a64(name) XOR seed`, `u_i` is the upper 24 bits of the i-th output of
/// splitmix64(state) over 2²⁴, and `c_i = 2 u_i − 1`. Vectors called `.weight` are `1 + 0.1 c`, scales of residual
/// branches `0.5 + 0.1 c`, other vectors `0.05 c`. Larger tensors called `.weight` are `√(3 / fan_in) c`, others `0.1
/// c`. In a batch norm's statistics, variances are `1 + 0.25 c`, means `0.1 c`, counts 0.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    state: u64,
    offset: f32,
    scale: f32,
}

impl Rule {
    /// The rule for the tensor `name` of this shape.
    pub fn of(name: &str, shape: &[i64], seed: u64) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let ends = |ending: &str| name.ends_with(ending);
        let (offset, scale) = match shape {
            _ if ends("num_batches_tracked") => (0.0, 0.0),
            _ if ends("running_var") => (1.0, 0.25),
            _ if ends("running_mean") => (0.0, 0.1),
            [] | [_] if ends(".weight") => (1.0, 0.1),
            [] | [_] if ends("gamma") || ends("lambda1") => (0.5, 0.1),
            [] | [_] => (0.0, 0.05),
            [_, inner @ ..] if ends(".weight") => (0.0, (3.0 / inner.iter().product::<i64>() as f64).sqrt() as f32),
            _ => (0.0, 0.1),
        };
        Self { state: hash ^ seed, offset, scale }
    }

    /// Value `i` in row-major order.
    pub fn value(self, i: u64) -> f32 {
        let z = self.state.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32;
        let c = 2.0 * u - 1.0;
        self.offset + self.scale * c
    }
}

impl Synthetic {
    /// Writes `model-….safetensors` and their index for a network of `config` into `folder`, which must exist.
    ///
    /// # Errors
    /// A file cannot be written, e.g. because the disk is full.
    ///
    /// # Panics
    /// If the type is not a float of at most 32 bits, which is the caller's bug.
    pub fn write(&self, config: &Config, folder: &Path) -> std::io::Result<()> {
        let shards = self.shards(tensors(config));
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

    fn n_bytes(&self, shape: &[i64]) -> u64 {
        shape.iter().product::<i64>() as u64 * self.dtype.n_bytes() as u64
    }

    /// Tensors in order, cut into shards.
    fn shards(&self, tensors: Vec<(String, Vec<i64>)>) -> Vec<Vec<(String, Vec<i64>)>> {
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

    /// Writes one shard. Returns the size of its tensors in bytes.
    fn write_shard(&self, tensors: &[(String, Vec<i64>)], path: &PathBuf) -> std::io::Result<u64> {
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
        let mut header = serde_json::Value::from(header).to_string();
        // The values begin at a multiple of 64 bytes, so that maps of them are aligned.
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

    fn bytes(&self, rule: Rule, range: std::ops::Range<usize>) -> Vec<u8> {
        let n_bytes = self.dtype.n_bytes();
        let mut bytes = vec![0; range.len() * n_bytes];
        let start = range.start as u64;
        bytes.par_chunks_mut(n_bytes * 4096).enumerate().for_each(|(block, bytes)| {
            let first = start + block as u64 * 4096;
            for (i, bytes) in bytes.chunks_exact_mut(n_bytes).enumerate() {
                let value = rule.value(first + i as u64);
                match self.dtype {
                    Dtype::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
                    Dtype::BF16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    Dtype::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    other => panic!("expected a float of at most 32 bits, found {other}"),
                }
            }
        });
        bytes
    }
}
