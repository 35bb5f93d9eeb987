//! What a joint training starts from: the network's sizes, the weights that there are, and what identifies both.

use std::path::{Path, PathBuf};

use tch::Tensor;

use super::JointSettings;
use agiqa_nets::checkpoint::{Checkpoint, CheckpointError};
use agiqa_nets::dinov2::{self, Dinov2Error};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::ma_agiqa::MaAgiqaConfig;
use agiqa_nets::maniqa::{ConfigError, ManiqaConfig, weights as checkpoints};
use agiqa_weights::WeightsError;

/// The weights where the settings name no folder.
const DEFAULT_WEIGHTS: &str = "dinov2-s14";

/// Their side, pixels: 28 × 28 tokens, as in the paper.
const DEFAULT_SIDE_PX: u32 = 392;

/// Tensors that tell where in a checkpoint a network's are: MANIQA's, and a transformer's alone.
const LANDMARK: &str = "conv1.weight";
const VIT_LANDMARK: &str = "blocks.0.attn.qkv.weight";

/// A joint training cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start from the weights")]
pub(super) struct CannotStart(#[from] StartError);

/// Weights that cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sizes in `config.json`, or those that `side` asks for, make no network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights `dinov2-s14` are absent or not what the manifest says.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file of `dinov2-s14` is not what it should be.
    #[error(transparent)]
    Dinov2(#[from] Dinov2Error),
    /// The weights `dinov2-s14` are not those of the transformer underneath.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The folder's checkpoint cannot be read, or is one of another geometry.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The folder's checkpoint is of something else.
    #[error(
        "`{}` holds neither a MANIQA (a tensor `conv1.weight`) nor a vision transformer (`blocks.0.attn.qkv.weight`), with \
         or without a prefix; it begins with {found}", path.display()
    )]
    NoNetwork {
        /// The checkpoint.
        path: PathBuf,
        /// Some of its names.
        found: String,
    },
}

/// Sizes of the quality half.
///
/// # Errors
/// A `config.json` that is absent or no description, sizes that do not fit together.
pub(super) fn maniqa_config(settings: &JointSettings) -> Result<ManiqaConfig, StartError> {
    let config = match &settings.weights {
        Some(folder) => ManiqaConfig::read(&folder.join("config.json"))?,
        None => ManiqaConfig::dinov2_s14(i64::from(settings.side.unwrap_or(DEFAULT_SIDE_PX))),
    };
    config.check()?;
    Ok(config)
}

/// A tensor of a checkpoint that the network reads.
struct Wanted {
    /// Its name in the network.
    name: String,
    /// Its name in the checkpoint.
    stored_name: String,
    shape: Vec<i64>,
}

/// Tensors of a checkpoint that the network reads.
fn wanted(checkpoint: &Checkpoint, config: &MaAgiqaConfig) -> Result<Vec<Wanted>, StartError> {
    let parameters = config.parameters();
    let below = |prefix: &str, is_wanted: &dyn Fn(&str) -> bool, stripped: &str| {
        let wanted = parameters.iter().filter(|(name, _)| is_wanted(name));
        let named = |(name, shape): (&String, &Vec<i64>)| {
            let stored_name = format!("{prefix}{}", name.strip_prefix(stripped).unwrap_or(name));
            Wanted { name: name.clone(), stored_name, shape: shape.clone() }
        };
        wanted.map(named).collect::<Vec<_>>()
    };
    if let Some(prefix) = checkpoint.prefix_of(LANDMARK) {
        let maniqa = config.maniqa.parameters();
        return Ok(below(prefix, &|name| maniqa.contains_key(name), ""));
    }
    if let Some(prefix) = checkpoint.prefix_of(VIT_LANDMARK) {
        return Ok(below(prefix, &|name| name.starts_with("vit."), "vit."));
    }
    let found: Vec<String> = checkpoint.names().take(5).map(|name| format!("`{name}`")).collect();
    Err(StartError::NoNetwork { path: checkpoint.path().to_owned(), found: found.join(", ") })
}

fn open(folder: &Path, config: &MaAgiqaConfig) -> Result<(Checkpoint, Vec<Wanted>), StartError> {
    let checkpoint = checkpoints::open(folder)?;
    let wanted = wanted(&checkpoint, config)?;
    let required: Vec<(String, Vec<i64>)> =
        wanted.iter().map(|wanted| (wanted.stored_name.clone(), wanted.shape.clone())).collect();
    checkpoint.require(&required)?;
    Ok((checkpoint, wanted))
}

/// What identifies the weights in a fingerprint, hexadecimal.
///
/// # Errors
/// Weights that are absent or of another geometry.
pub(super) fn content_hash(settings: &JointSettings, config: &MaAgiqaConfig) -> Result<String, StartError> {
    let Some(folder) = &settings.weights else { return Ok(agiqa_weights::content_hash(DEFAULT_WEIGHTS)?) };
    let (checkpoint, wanted) = open(folder, config)?;
    let mut hasher = blake3::Hasher::new();
    for Wanted { name, stored_name, shape: _ } in &wanted {
        let dtype = format!("{:?}", checkpoint.info(stored_name)?.dtype);
        hasher.update(name.as_bytes()).update(&[0]).update(dtype.as_bytes()).update(&[0]);
        hasher.update_rayon(&checkpoint.bytes(stored_name)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Weights that a training starts from.
pub(super) struct Start {
    /// Weights under their names in the whole network, f32 or as stored.
    pub(super) tensors: NamedTensors,
    /// Names in the checkpoint of what is not read, sorted.
    pub(super) unused: Vec<String>,
}

/// The weights that `settings` name.
///
/// # Errors
/// Weights that are absent, damaged or of another geometry.
pub(super) fn read(settings: &JointSettings, config: &MaAgiqaConfig) -> Result<Start, StartError> {
    let Some(folder) = &settings.weights else {
        let tensors = dinov2::tensors_of(&agiqa_weights::locate(DEFAULT_WEIGHTS)?)?;
        let tensors: NamedTensors = tensors.into_iter().map(|(name, tensor)| (format!("vit.{name}"), tensor)).collect();
        // What is not found is drawn, which of a transformer's must not go unnoticed.
        for (name, expected) in config.parameters().into_iter().filter(|(name, _)| name.starts_with("vit.")) {
            match tensors.get(&name).map(Tensor::size) {
                None => return Err(NetworkError::Missing { name, nearest: None }.into()),
                Some(found) if found != expected => return Err(NetworkError::Shape { name, expected, found }.into()),
                Some(_) => {}
            }
        }
        return Ok(Start { tensors, unused: Vec::new() });
    };
    let (checkpoint, wanted) = open(folder, config)?;
    let tensors = wanted
        .into_iter()
        .map(|Wanted { name, stored_name, shape }| Ok((name, checkpoint.tensor(&stored_name, &shape)?)));
    let tensors = tensors.collect::<Result<_, StartError>>()?;
    Ok(Start { tensors, unused: checkpoint.unused().into_iter().map(str::to_owned).collect() })
}
