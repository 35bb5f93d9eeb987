//! `models/run=<run>/`: the files that a training leaves for prediction and evaluation. None is parquet.
//!
//! ```text
//! models/run=<run>/run.json            RunRecord; written last, so a run with this file is finished
//! models/run=<run>/head.safetensors    the head of the chosen epoch, or a kernel ridge regression, with its standardisation
//! models/run=<run>/ridge_scores.json   {image_id: score} of ridge regression on the same columns, if requested
//! models/run=<run>/maniqa/             the network of a joint training: `config.json` and `model.safetensors`,
//!                                      which `agiqa features --extractor maniqa --weights` reads
//! models/run=<run>/rater/              the network of a training of a rating network: `rater.json` and `model.safetensors`,
//!                                      which `agiqa score --weights` reads
//! models/run=<run>/backbone/           the network of a fine-tuning, in the form that its extractor's setting `weights` reads
//! models/run=<run>/state.safetensors   during a training: the state from which it can resume
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PartitionName;
use super::features::FeatureSet;
use crate::identity::Fingerprint;
use crate::store::{Store, StoreError};

fn choices(word: &PartitionName, names: &[String]) -> String {
    agiqa_suggest::choices(word.as_str(), names.iter().map(String::as_str))
}

/// A run's record cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RunRecordError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run does not exist.
    #[error("no finished run `{run}` in store `{url}`; the finished runs are: {}", choices(run, known))]
    Absent { run: PartitionName, url: String, known: Vec<String> },
    /// No run belongs to the group.
    #[error("no run of group `{group}` in store `{url}`; the groups are: {}", choices(group, groups))]
    NoGroup { group: PartitionName, url: String, groups: Vec<String> },
    /// This program cannot read the record.
    #[error("`{path}` in store `{url}` is not a run's record that this agiqa reads; train again")]
    Json { path: String, url: String, source: serde_json::Error },
}

/// The number of images that a run used, and of images that it could not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCounts {
    /// Images of the part with features and MOS.
    pub n_used: usize,
    /// Images of the part left out because semantic or quality features are missing (`allow_missing`).
    pub n_without_features: usize,
    /// Images of the part left out because they have no MOS (`allow_missing`).
    pub n_without_mos: usize,
}

/// The results of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean squared error over the epoch's training batches, weighted by batch size, with dropout, on the scale of the
    /// training labels.
    pub train_loss: f64,
    /// SRCC on the validation part; null if undefined.
    pub validation_srcc: Option<f64>,
    /// PLCC on the validation part, without any mapping; null if undefined.
    pub validation_plcc: Option<f64>,
    /// Mean squared error on the validation part, on the MOS scale.
    pub validation_mse: f64,
}

/// Results of ridge regression, for comparison with the head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RidgeRecord {
    /// Regularisation, relative to the mean of the kernel's diagonal. It is the value of a fixed list that does best on
    /// the validation part.
    pub lambda: f64,
    /// SRCC on the validation part; null if undefined.
    pub validation_srcc: Option<f64>,
    /// PLCC on the validation part; null if undefined.
    pub validation_plcc: Option<f64>,
}

/// A strength that a kernel ridge regression tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrengthRecord {
    /// What is added to the kernel's diagonal.
    pub strength: f64,
    /// What was added beyond that, because the kernel was not positive definite for want of precision; mostly 0.
    pub jitter: f64,
    /// Root of the mean squared leave-one-out residual of the training part, on the MOS scale.
    pub error: f64,
}

/// Results of a kernel ridge regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRidgeRecord {
    /// Width of the kernel; 0 for a linear kernel.
    pub gamma: f64,
    /// The strength that was kept: the one with the smallest error.
    pub strength: f64,
    /// All strengths that were tried.
    pub strengths: Vec<StrengthRecord>,
    /// Images whose kernel with an image gives its score.
    pub n_support: usize,
    /// Share of the validation images whose MOS is within 1.96 standard deviations of the score; null without
    /// deviations.
    pub validation_coverage: Option<f64>,
}

/// The version of `run.json`. Version 1 names a semantic and a quality set instead of a list of inputs.
pub const RECORD_VERSION: u32 = 2;

/// The recipe of a run whose head is the gated fusion over cached columns.
pub const HEAD: &str = "head";

/// The recipe of a run whose head is a kernel ridge regression.
pub const KERNEL_RIDGE: &str = "kernel-ridge";

/// The recipe of a run that trained a network that rates images.
pub const RATER: &str = "rater";

/// The recipe of a run whose MANIQA was trained with its head.
pub const JOINT: &str = "joint";

/// The recipe of a run whose network was fine-tuned with its head.
pub const FINE_TUNE: &str = "fine-tune";

/// The role of the features that hold f_a and f_b.
pub const SEMANTIC: &str = "semantic";

/// The role of the features that hold f_1.
pub const QUALITY: &str = "quality";

/// Features that a run reads, with their role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInput {
    /// Role of the features in the recipe, e.g. [`SEMANTIC`].
    pub role: String,
    /// The features.
    #[serde(flatten)]
    pub features: FeatureSet,
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this file; [`RECORD_VERSION`] for new files.
    pub schema_version: u32,
    /// Name of the run.
    pub run: PartitionName,
    /// Name of the group. The runs of a group differ only in split seed and training seed.
    pub group: PartitionName,
    /// Dataset that the run was trained on.
    pub dataset: PartitionName,
    /// Split of that dataset.
    pub split: PartitionName,
    /// Fold of that split.
    pub fold: i64,
    /// Training seed, for the initialisation, the order of images and dropout.
    pub seed: u32,
    /// Fingerprint of all inputs that decide the numbers: settings, features, images, MOS, split.
    pub fingerprint: Fingerprint,
    /// Name of the recipe: `head` trains a head over columns, `kernel-ridge` fits kernel ridge regression to them, `joint`
    /// trains MANIQA with a head, `fine-tune` an extractor's network, `rater` a network that rates images.
    pub recipe: String,
    /// The features that the run reads.
    pub inputs: Vec<RunInput>,
    /// The training settings.
    pub settings: Value,
    /// Images of the training, validation and test part.
    pub parts: [PartCounts; 3],
    /// The criterion that chose the epoch: `validation SRCC + PLCC`, `validation MSE` or `last`; `leave-one-out` chooses the
    /// strength of a kernel ridge regression.
    pub chosen_by: String,
    /// The epoch whose head was kept.
    pub best_epoch: u32,
    /// All epochs. A kernel ridge regression has one, and its training loss is the mean squared leave-one-out residual.
    pub epochs: Vec<EpochRecord>,
    /// Ridge regression, if requested.
    pub ridge: Option<RidgeRecord>,
    /// Kernel ridge regression, if it is the run's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ridge: Option<KernelRidgeRecord>,
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

/// Folder of the rating network that a training left.
pub fn rater_prefix(run: &PartitionName) -> String {
    format!("{}/rater", prefix(run))
}

/// The file of that network's weights.
pub const RATER_WEIGHTS: &str = "model.safetensors";

/// The file with that network's name, its variant and the scale of its ratings.
pub const RATER_DESCRIPTION: &str = "rater.json";

/// Folder of the network that a fine-tuning left.
pub fn backbone_prefix(run: &PartitionName) -> String {
    format!("{}/backbone", prefix(run))
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

/// The inputs of a fusion head.
pub fn fusion_inputs(semantic: &FeatureSet, quality: &FeatureSet) -> Vec<RunInput> {
    let input = |role: &str, features: &FeatureSet| RunInput { role: role.to_owned(), features: features.clone() };
    vec![input(SEMANTIC, semantic), input(QUALITY, quality)]
}

impl RunRecord {
    /// Reads the record of `run`, or gives `None` if the run is not finished.
    pub fn read_if_finished(store: &Store, run: &PartitionName) -> Result<Option<Self>, RunRecordError> {
        let path = record_path(run);
        let Some(bytes) = store.get_if_exists(&path)? else { return Ok(None) };
        let record = serde_json::from_slice(&bytes).map(upgraded).and_then(serde_json::from_value);
        record.map(Some).map_err(|source| RunRecordError::Json { path, url: store.url().to_owned(), source })
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

    /// Whether the run's head is a kernel ridge regression.
    pub fn is_kernel_ridge(&self) -> bool {
        self.recipe == KERNEL_RIDGE
    }

    /// The features that the run reads in `role`.
    pub fn input(&self, role: &str) -> Option<&FeatureSet> {
        self.inputs.iter().find(|input| input.role == role).map(|input| &input.features)
    }

    /// The semantic features that the run's fusion head reads.
    pub fn semantic(&self) -> Option<&FeatureSet> {
        self.input(SEMANTIC)
    }

    /// The quality features that the run's fusion head reads.
    pub fn quality(&self) -> Option<&FeatureSet> {
        self.input(QUALITY)
    }
}

/// A record of version 1, converted to version 2. Any other value is unchanged.
fn upgraded(mut json: Value) -> Value {
    let Some(record) = json.as_object_mut().filter(|record| !record.contains_key("schema_version")) else {
        return json;
    };
    let mut inputs = Vec::new();
    for role in [SEMANTIC, QUALITY] {
        if let Some(Value::Object(mut features)) = record.remove(role) {
            features.insert("role".to_owned(), role.into());
            inputs.push(Value::Object(features));
        }
    }
    let is_joint = record.get("settings").is_some_and(|settings| settings["joint"].is_object());
    record.insert("schema_version".to_owned(), 1.into());
    record.insert("recipe".to_owned(), if is_joint { JOINT } else { "head" }.into());
    record.insert("inputs".to_owned(), inputs.into());
    json
}

/// The records of runs. Each is read once.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Mutex<BTreeMap<PartitionName, Arc<RunRecord>>>>);

impl Runs {
    /// The record of `run`, or `None` if the run is not finished.
    pub fn get_if_finished(
        &self,
        store: &Store,
        run: &PartitionName,
    ) -> Result<Option<Arc<RunRecord>>, RunRecordError> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get(run) {
            return Ok(Some(record.clone()));
        }
        let record = RunRecord::read_if_finished(store, run)?.map(Arc::new);
        records.extend(record.iter().map(|record| (run.clone(), record.clone())));
        Ok(record)
    }

    /// The record of `run`.
    pub fn get(&self, store: &Store, run: &PartitionName) -> Result<Arc<RunRecord>, RunRecordError> {
        match self.get_if_finished(store, run)? {
            Some(record) => Ok(record),
            // The error lists the existing runs.
            None => RunRecord::read(store, run).map(Arc::new),
        }
    }

    /// The records of all finished runs, sorted by name.
    pub fn all(&self, store: &Store) -> Result<Vec<Arc<RunRecord>>, RunRecordError> {
        runs(store)?.iter().map(|run| self.get(store, run)).collect()
    }

    /// The names of the runs of `group`. The list has at least one run.
    pub fn of_group(&self, store: &Store, group: &PartitionName) -> Result<Vec<PartitionName>, RunRecordError> {
        let records = self.all(store)?;
        let of_group: Vec<PartitionName> =
            records.iter().filter(|record| record.group == *group).map(|record| record.run.clone()).collect();
        if !of_group.is_empty() {
            return Ok(of_group);
        }
        let groups: BTreeSet<String> = records.iter().map(|record| format!("`{}`", record.group)).collect();
        let (group, url) = (group.clone(), store.url().to_owned());
        Err(RunRecordError::NoGroup { group, url, groups: groups.into_iter().collect() })
    }
}
