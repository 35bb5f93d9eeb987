//! What a user chooses about a rating network, and what of it decides the ratings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::features::{CommonSettings, Dtype, FeatureSettingsError, Precision};
use agiqa_images::DECODER_VERSION;
use agiqa_nets::raters::{RaterError, RaterFile, RaterName};
use agiqa_nets::trained_head::LabelScale;
use agiqa_store::identity::Fingerprint;
use agiqa_store::panics;
use agiqa_store::path_text;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};

/// A user's settings of one network. An absent setting takes its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatingOptions {
    /// File of the weights, or a folder with it. Default: the folder of the network's name in the weights folder.
    #[serde(with = "path_text::optional")]
    pub weights: Option<PathBuf>,
    /// Variant of the network, e.g. the dataset of a head. It decides the numbers. `agiqa methods` lists the variants;
    /// the first is the default.
    pub variant: Option<String>,
    /// Number type of products, `f32`, `bf16` or `f16`, and of the weights of a network of gigabytes. It decides the numbers.
    /// Default: `f32`.
    pub dtype: Option<Dtype>,
}

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq)]
pub struct RatingSettings {
    /// The network.
    pub network: RaterName,
    /// Its own settings.
    pub options: RatingOptions,
    /// Settings that every network takes.
    pub common: CommonSettings,
    /// The run that trained the weights; `None` for published weights.
    pub trained: Option<TrainedRater>,
}

/// A run that trained a rating network.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedRater {
    /// The scores of the run.
    pub set: ScoreSet,
    /// From ratings to the MOS scale.
    pub labels: LabelScale,
}

/// What keeps a rating stage as a whole from working.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RatingError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] FeatureSettingsError),
    /// No weights are there.
    #[error(
        "`{network}` has no weights: {} is absent; put a published checkpoint there, or name it (`--weights FILE`, in a \
         pipeline `weights = \"FILE\"`): {known}",
        place.display()
    )]
    Absent {
        network: RaterName,
        place: PathBuf,
        /// The checkpoints that are known, and how to get the first.
        known: String,
    },
    /// The weights cannot be used.
    #[error("cannot load `{network}`")]
    Load {
        network: RaterName,
        #[source]
        source: RaterError,
    },
    /// libtorch failed, e.g. because memory is short.
    #[error("`{network}` failed while {action}")]
    Torch {
        network: RaterName,
        action: &'static str,
        #[source]
        source: tch::TchError,
    },
}

/// How to get the weights of `network`, in words.
fn known(network: RaterName) -> String {
    let all: Vec<_> = agiqa_weights::published_for(network.as_str()).map(|(weights, _)| weights).collect();
    let first = all.first().copied().or_else(|| agiqa_weights::find(network.as_str()).ok());
    let first = first.map(agiqa_weights::Weights::how_to_get).unwrap_or_default();
    match all.get(1..) {
        None | Some([]) => first,
        Some(others) => {
            let names: Vec<&str> = others.iter().map(|weights| weights.name.as_str()).collect();
            format!("{first}; others are {} (`agiqa weights list`)", names.join(", "))
        }
    }
}

/// What decides a network's ratings, as it stands in `scorer.json`.
#[derive(Serialize)]
struct Description {
    method: RaterName,
    code_version: u32,
    weights_blake3: String,
    decoder_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'static str>,
    #[serde(flatten)]
    precision: Option<Precision>,
}

impl RatingSettings {
    /// The weights, found complete.
    pub(super) fn file(&self) -> Result<RaterFile, RatingError> {
        let network = self.network;
        let load_error = |source| RatingError::Load { network, source };
        let variant = self.variant()?;
        let path = self.place();
        if !path.exists() {
            return Err(RatingError::Absent { network, place: path, known: known(network) });
        }
        panics::of_file(&path, || RaterFile::open(network, variant, &path)).map_err(load_error)
    }

    /// The place of the weights, present or not: the path of the settings, or that of published weights which the settings
    /// name. By default, the first published file that is in the network's folder, or the folder itself.
    fn place(&self) -> PathBuf {
        let network = self.network.as_str();
        let in_folder = || agiqa_weights::published_for(network);
        match &self.options.weights {
            Some(path) if path.exists() => path.clone(),
            Some(path) => {
                let named = in_folder().find(|(weights, _)| path.as_os_str() == weights.name.as_str());
                named.map_or_else(|| path.clone(), |(_, published)| published.path())
            }
            None => {
                let present = in_folder().map(|(_, published)| published.path()).find(|path| path.exists());
                let is_folder = matches!(self.network, RaterName::ClipIqaPlus | RaterName::QAlign);
                present.filter(|_| !is_folder).unwrap_or_else(|| agiqa_weights::folder().join(network))
            }
        }
    }

    fn variant(&self) -> Result<Option<&'static str>, RatingError> {
        let load_error = |source| RatingError::Load { network: self.network, source };
        self.network.variant(self.options.variant.as_deref()).map_err(load_error)
    }

    /// The score set of the ratings that `file` gives. Reads the file to hash it.
    pub(super) fn score_set(&self, file: &RaterFile) -> Result<ScoreSet, RatingError> {
        if let Some(trained) = &self.trained {
            return Ok(trained.set.clone());
        }
        let network = self.network;
        let weights_blake3 = file.content_hash().map_err(|source| RatingError::Load { network, source })?;
        let dtype = self.options.dtype.unwrap_or_default();
        let has_precision = network.rounds_weights() || dtype != Dtype::F32;
        let description = Description {
            method: network,
            code_version: network.code_version(),
            weights_blake3,
            decoder_version: DECODER_VERSION,
            variant: self.variant()?,
            // A score in f32 is named as it was before other types were there.
            precision: has_precision.then(|| Precision::of(dtype, self.common.device)),
        };
        let settings = serde_json::to_value(description).expect("a description is plain data");
        Ok(ScoreSet {
            scorer: PartitionName::new(network.as_str()).expect("the names of networks are valid"),
            kind: ScorerKind::Method,
            fingerprint: Fingerprint::builder("rating").json("settings", &settings).finish(),
            direction: Direction::Higher,
            settings,
        })
    }
}
