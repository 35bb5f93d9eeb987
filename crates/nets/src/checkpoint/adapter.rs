//! Low-rank adapters of a checkpoint, as PEFT writes them (Hu et al. 2021, arXiv 2106.09685): products `B A` of narrow
//! matrices that are added to weights, and tensors that replace others whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Checkpoint, CheckpointError};

/// Names of the files with low-rank matrices.
const LOW_RANK: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Name of the adapter's settings.
const CONFIG: &str = "adapter_config.json";

/// Name of the file with tensors that were trained whole, which an adapter may lack.
const WHOLE: &str = "non_lora_trainables.bin";

/// Beginnings of names that wrappers of the training add.
const WRAPPERS: [&str; 2] = ["base_model.", "model."];

/// Tensors that networks read row by row, past [`Checkpoint::load`].
const UNADAPTABLE: [&str; 2] = ["embed_tokens.weight", "lm_head.weight"];

/// The settings that decide the numbers.
#[derive(Debug, Deserialize)]
struct Config {
    r: i64,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, i64>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
}

/// An adapter, found complete.
#[derive(Debug)]
pub(super) struct Adapter {
    config_path: PathBuf,
    low_rank: Checkpoint,
    /// The names of A `(r, in)` and B `(out, r)` by that of the weight `(out, in)`.
    pairs: BTreeMap<String, [String; 2]>,
    rank: i64,
    scale: f64,
    whole: Option<Checkpoint>,
    /// Names of whole tensors by the replaced ones'.
    replaced: BTreeMap<String, String>,
}

impl Adapter {
    /// The adapter in `folder` for the checkpoint `base`; `None` if the folder has none.
    ///
    /// # Errors
    /// A file is damaged, or does not belong to `base`.
    pub(super) fn find(base: &Checkpoint, folder: &Path) -> Result<Option<Self>, CheckpointError> {
        let Some(path) = LOW_RANK.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
            return Ok(None);
        };
        let (config_path, low_rank) = (folder.join(CONFIG), Checkpoint::open(&path)?);
        let problem = |path: &Path, problem: String| CheckpointError::Index { path: path.to_owned(), problem };
        let config = std::fs::read(&config_path).map_err(|source| CheckpointError::Io {
            action: "read",
            path: config_path.clone(),
            source,
        })?;
        let config: Config = serde_json::from_slice(&config)
            .map_err(|error| problem(&config_path, format!("it is no adapter's settings: {error}")))?;
        if config.use_rslora || config.use_dora || config.fan_in_fan_out || config.r < 1 {
            return Err(problem(&config_path, "expected plain LoRA: `W + lora_alpha / r · B A`".to_owned()));
        }
        if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
            return Err(problem(&config_path, "expected one rank and one scale for all weights".to_owned()));
        }
        let mut pairs = BTreeMap::new();
        for stored in low_rank.names() {
            let layer = ["A", "B"].map(|matrix| {
                let ends = [format!(".lora_{matrix}.weight"), format!(".lora_{matrix}.default.weight")];
                ends.iter().find_map(|end| stored.strip_suffix(end.as_str()))
            });
            let (place, layer) = match layer {
                [Some(layer), _] => (0, layer),
                [None, Some(layer)] => (1, layer),
                [None, None] => return Err(problem(&path, format!("tensor `{stored}` is neither A nor B of LoRA"))),
            };
            let weight = adapted(base, &format!("{layer}.weight"), &path, stored)?;
            let pair: &mut [String; 2] = pairs.entry(weight).or_default();
            stored.clone_into(&mut pair[place]);
        }
        if let Some((weight, _)) = pairs.iter().find(|(_, pair)| pair.iter().any(String::is_empty)) {
            return Err(problem(&path, format!("one of the two matrices for `{weight}` is absent")));
        }
        let whole = folder.join(WHOLE);
        let whole = if whole.is_file() { Some(Checkpoint::open(&whole)?) } else { None };
        let mut replaced = BTreeMap::new();
        for stored in whole.iter().flat_map(|whole| whole.names()) {
            replaced.insert(adapted(base, stored, &folder.join(WHOLE), stored)?, stored.to_owned());
        }
        Ok(Some(Self {
            config_path,
            low_rank,
            pairs,
            rank: config.r,
            scale: config.lora_alpha / config.r as f64,
            whole,
            replaced,
        }))
    }

    /// All files that decide the numbers.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let whole = self.whole.iter().flat_map(Checkpoint::files);
        self.low_rank.files().chain(whole).chain(std::iter::once(self.config_path.as_path()))
    }

    /// The tensor `name` of `base` with this adapter, f32 on the CPU if it is merged: `W + scale · B A`. `None` if the
    /// adapter leaves it as it is.
    pub(super) fn merged(
        &self,
        base: &Checkpoint,
        name: &str,
        shape: &[i64],
    ) -> Result<Option<Tensor>, CheckpointError> {
        let base_tensor = match (self.replaced.get(name), &self.whole) {
            (Some(stored), Some(whole)) => Some(whole.tensor(stored, shape)?),
            _ => None,
        };
        let Some([a, b]) = self.pairs.get(name) else { return Ok(base_tensor) };
        let [d_out, d_in] = *shape else { return Ok(base_tensor) };
        let weight = match base_tensor {
            Some(tensor) => tensor,
            None => base.tensor(name, shape)?,
        };
        let factor = |name: &str, shape: [i64; 2]| {
            Ok::<_, CheckpointError>(self.low_rank.tensor(name, &shape)?.to_kind(Kind::Float))
        };
        let (a, b) = (factor(a, [self.rank, d_in])?, factor(b, [d_out, self.rank])?);
        Ok(Some(weight.to_kind(Kind::Float) + b.matmul(&a) * self.scale))
    }
}

/// The tensor of `base` that `stored` of the file `path` is for: `name`, perhaps without the names of wrappers.
fn adapted(base: &Checkpoint, name: &str, path: &Path, stored: &str) -> Result<String, CheckpointError> {
    let mut rest = name;
    loop {
        if base.contains(rest) && !UNADAPTABLE.iter().any(|end| rest.ends_with(end)) {
            return Ok(rest.to_owned());
        }
        let Some(shorter) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) else {
            let problem = format!("tensor `{stored}` is for none of {} that can be adapted", base.path().display());
            return Err(CheckpointError::Index { path: path.to_owned(), problem });
        };
        rest = shorter;
    }
}
