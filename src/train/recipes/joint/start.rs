//! The start of a joint training: the network's sizes, the existing weights, and the identity of both.

use std::path::{Path, PathBuf};

use tch::Tensor;

use super::JointSettings;
use agiqa_nets::checkpoint::{Checkpoint, CheckpointError, Wanted};
use agiqa_nets::dinov2::{self, Dinov2Error};
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::ma_agiqa::MaAgiqaConfig;
use agiqa_nets::maniqa::{ManiqaConfig, ManiqaConfigError};
use agiqa_weights::WeightsError;

/// The default weights, used if the settings name no folder.
const DEFAULT_WEIGHTS: &str = "dinov2-s14";

/// The default side, pixels: 28 × 28 tokens, as in the paper.
const DEFAULT_SIDE_PX: u32 = 392;

/// Tensors that mark the position of a network in a checkpoint: of a MANIQA, and of a transformer alone.
const LANDMARK: &str = "conv1.weight";
const VIT_LANDMARK: &str = "blocks.0.attn.qkv.weight";

/// A joint training cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start from the weights")]
pub(super) struct CannotStart(#[from] StartError);

/// A training cannot start from the weights.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum StartError {
    /// The sizes in `config.json`, or the sizes for the given `side`, do not form a valid network.
    #[error(transparent)]
    Config(#[from] ManiqaConfigError),
    /// The weights `dinov2-s14` are absent or do not match the manifest.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file of `dinov2-s14` is malformed.
    #[error(transparent)]
    Dinov2(#[from] Dinov2Error),
    /// The weights `dinov2-s14` do not match the transformer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The folder's checkpoint cannot be read, or has another geometry.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The folder's checkpoint holds another network.
    #[error(
        "`{}` holds neither a MANIQA (a tensor `conv1.weight`) nor a vision transformer (`blocks.0.attn.qkv.weight`), with \
         or without a prefix; it begins with {found}", path.display()
    )]
    NoNetwork {
        path: PathBuf,
        /// The first names of its tensors.
        found: String,
    },
}

/// Sizes of the quality half.
///
/// # Errors
/// Fails if `config.json` is absent or malformed, or if its sizes do not match.
pub(super) fn maniqa_config(settings: &JointSettings) -> Result<ManiqaConfig, StartError> {
    let config = match &settings.weights {
        Some(folder) => ManiqaConfig::read(&folder.join("config.json"))?,
        None => ManiqaConfig::dinov2_s14(i64::from(settings.side.unwrap_or(DEFAULT_SIDE_PX))),
    };
    config.check()?;
    Ok(config)
}

/// Opens the checkpoint in `folder`, with its tensors that the network reads.
fn open(folder: &Path, config: &MaAgiqaConfig) -> Result<(Checkpoint, Wanted), StartError> {
    let checkpoint = Checkpoint::find(folder)?;
    let mut parameters = config.parameters();
    let wanted = if let Some(prefix) = checkpoint.prefix_of(LANDMARK) {
        let maniqa = config.maniqa.parameters();
        parameters.retain(|name, _| maniqa.contains_key(name));
        Wanted::new(&checkpoint, &parameters, |name| format!("{prefix}{name}"))?
    } else if let Some(prefix) = checkpoint.prefix_of(VIT_LANDMARK) {
        parameters.retain(|name, _| name.starts_with("vit."));
        Wanted::new(&checkpoint, &parameters, |name| format!("{prefix}{}", name.strip_prefix("vit.").unwrap_or(name)))?
    } else {
        let found: Vec<String> = checkpoint.names().take(5).map(|name| format!("`{name}`")).collect();
        return Err(StartError::NoNetwork { path: checkpoint.path().to_owned(), found: found.join(", ") });
    };
    Ok((checkpoint, wanted))
}

/// Identity of the weights for a fingerprint, hexadecimal.
///
/// # Errors
/// Fails if the weights are absent or have another geometry.
pub(super) fn content_hash(settings: &JointSettings, config: &MaAgiqaConfig) -> Result<String, StartError> {
    let Some(folder) = &settings.weights else { return Ok(agiqa_weights::content_hash(DEFAULT_WEIGHTS)?) };
    let (checkpoint, wanted) = open(folder, config)?;
    Ok(wanted.content_hash(&checkpoint)?)
}

/// The initial weights of a training.
pub(super) struct Start {
    /// Weights under their names in the whole network, f32 or in the stored type.
    pub(super) tensors: NamedTensors,
    /// Names of the checkpoint's unused tensors, sorted.
    pub(super) unused: Vec<String>,
}

/// Reads the weights that `settings` name.
///
/// # Errors
/// Fails if the weights are absent, damaged or have another geometry.
pub(super) fn read(settings: &JointSettings, config: &MaAgiqaConfig) -> Result<Start, StartError> {
    let Some(folder) = &settings.weights else {
        let tensors = dinov2::tensors_of(&agiqa_weights::locate(DEFAULT_WEIGHTS)?)?;
        let tensors: NamedTensors = tensors.into_iter().map(|(name, tensor)| (format!("vit.{name}"), tensor)).collect();
        // A missing tensor is drawn at random. For the transformer's tensors, this must be an error instead.
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
    let tensors = wanted.read(&checkpoint)?;
    Ok(Start { tensors, unused: checkpoint.unused().into_iter().map(str::to_owned).collect() })
}
