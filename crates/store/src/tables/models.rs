//! `models/run=<run>/`: what a training leaves for prediction and evaluation. No parquet: one record, one head.
//!
//! ```text
//! models/run=<run>/run.json            RunRecord; written last, so a run that has one is finished
//! models/run=<run>/head.safetensors    the head of the chosen epoch, with its standardisation
//! models/run=<run>/ridge_scores.json   {image_id: score} of ridge regression on the same columns, where asked for
//! models/run=<run>/maniqa/              of a joint training: the whole network as `config.json` and `model.safetensors`, in
//!                                      the form that `agiqa extract --extractor maniqa --weights` reads
//! models/run=<run>/state.safetensors   while training: everything needed to go on from where it stopped
//! ```

use serde::{Deserialize, Serialize};

use super::PartitionName;
use super::features::FeatureSet;
use crate::identity::Fingerprint;
use crate::store::{Store, StoreError};

/// A run's record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RunRecordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such run.
    #[error("there is no finished run `{run}` in store `{url}`; there are: {}", known.join(", "))]
    Absent {
        /// The run asked for.
        run: PartitionName,
        /// The store.
        url: String,
        /// The runs there are.
        known: Vec<String>,
    },
    /// The record is not one of this version.
    #[error("`{path}` in store `{url}` is not a run's record that this agiqa reads; train again")]
    Json {
        /// Path of the record.
        path: String,
        /// The store.
        url: String,
        /// Cause.
        source: serde_json::Error,
    },
}

/// How many images a run used, and how many it could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCounts {
    /// Images of the part with features and MOS.
    pub n_used: usize,
    /// Images of the part left out because semantic or quality features are missing (`allow_missing`).
    pub n_without_features: usize,
    /// Images of the part left out because they have no MOS (`allow_missing`).
    pub n_without_mos: usize,
}

/// What one epoch was like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean squared error over the epoch's training batches, weighted by their sizes, on the scale trained on, with
    /// dropout.
    pub train_loss: f64,
    /// SRCC on the validation part; null where undefined.
    pub validation_srcc: Option<f64>,
    /// PLCC, without any mapping, on the validation part; null where undefined.
    pub validation_plcc: Option<f64>,
    /// Mean squared error on the validation part, on the MOS scale.
    pub validation_mse: f64,
}

/// Ridge regression beside the head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RidgeRecord {
    /// Regularisation, relative to the mean of the kernel's diagonal; the best on the validation part of a fixed list.
    pub lambda: f64,
    /// SRCC on the validation part; null where undefined.
    pub validation_srcc: Option<f64>,
    /// PLCC on the validation part; null where undefined.
    pub validation_plcc: Option<f64>,
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the run.
    pub run: PartitionName,
    /// Name of the group: runs that differ in split seed and training seed only.
    pub group: PartitionName,
    /// Dataset that it was trained on.
    pub dataset: PartitionName,
    /// Split of that dataset.
    pub split: PartitionName,
    /// Fold of that split.
    pub fold: i64,
    /// Training seed: initialisation, order of images, dropout.
    pub seed: u32,
    /// Of everything that decides the numbers: settings, features, images, MOS, split.
    pub fingerprint: Fingerprint,
    /// The semantic features.
    pub semantic: FeatureSet,
    /// The quality features.
    pub quality: FeatureSet,
    /// The training settings.
    pub settings: serde_json::Value,
    /// Images of the training, validation and test part.
    pub parts: [PartCounts; 3],
    /// What the epoch was chosen by: `validation SRCC + PLCC`, `validation MSE` or `last`.
    pub chosen_by: String,
    /// The epoch whose head was kept.
    pub best_epoch: u32,
    /// All epochs.
    pub epochs: Vec<EpochRecord>,
    /// Ridge regression, where asked for.
    pub ridge: Option<RidgeRecord>,
    /// Version of this program.
    pub agiqa_version: String,
}

/// Folder of `run`.
pub fn prefix(run: &PartitionName) -> String {
    format!("models/run={run}")
}

/// Path of a run's record.
pub fn record_path(run: &PartitionName) -> String {
    format!("{}/run.json", prefix(run))
}

/// Path of a run's head.
pub fn head_path(run: &PartitionName) -> String {
    format!("{}/head.safetensors", prefix(run))
}

/// Path of a run's ridge scores.
pub fn ridge_path(run: &PartitionName) -> String {
    format!("{}/ridge_scores.json", prefix(run))
}

/// Folder of the network that a joint training left.
pub fn maniqa_prefix(run: &PartitionName) -> String {
    format!("{}/maniqa", prefix(run))
}

/// Path of that network's sizes.
pub fn maniqa_config_path(run: &PartitionName) -> String {
    format!("{}/config.json", maniqa_prefix(run))
}

/// Path of that network's weights.
pub fn maniqa_weights_path(run: &PartitionName) -> String {
    format!("{}/model.safetensors", maniqa_prefix(run))
}

/// Path of the state of an unfinished run.
pub fn state_path(run: &PartitionName) -> String {
    format!("{}/state.safetensors", prefix(run))
}

/// Finished runs in `store`.
pub fn runs(store: &Store) -> Result<Vec<PartitionName>, StoreError> {
    let objects = store.list("models")?;
    let name = |path: &str| PartitionName::new(path.strip_prefix("models/run=")?.strip_suffix("/run.json")?).ok();
    Ok(objects.iter().filter_map(|object| name(&object.path)).collect())
}

impl RunRecord {
    /// Reads the record of `run`, or none where the run is not finished.
    pub fn read_if_finished(store: &Store, run: &PartitionName) -> Result<Option<Self>, RunRecordError> {
        let path = record_path(run);
        let Some(bytes) = store.get_if_exists(&path)? else { return Ok(None) };
        let url = store.url().to_owned();
        serde_json::from_slice(&bytes).map(Some).map_err(|source| RunRecordError::Json { path, url, source })
    }

    /// Reads the record of `run`.
    pub fn read(store: &Store, run: &PartitionName) -> Result<Self, RunRecordError> {
        match Self::read_if_finished(store, run)? {
            Some(record) => Ok(record),
            None => {
                let known = runs(store)?.into_iter().map(|run| format!("`{run}`")).collect();
                Err(RunRecordError::Absent { run: run.clone(), url: store.url().to_owned(), known })
            }
        }
    }

    /// Writes the record.
    pub fn write(&self, store: &Store) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(self).expect("a run's record is plain data");
        store.put(&record_path(&self.run), json)
    }
}
