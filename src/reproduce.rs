//! `reproduce`: trains a run again from its record and compares what it leaves.
//!
//! Reads the record, `images`, `splits` and the cached columns. The run is trained, scored and evaluated in a temporary
//! folder, so that nothing in the store changes. It is the same if the head, the scores and the metrics are the same, bit
//! for bit. If they are not, the inputs that differ are the reason.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::predict::PredictStage;
use crate::train::recipes::{HeadKind, HeadSettings, RecipeSettings};
use crate::train::{RunSeed, TrainError, TrainSettings, TrainStage, Training};
use agiqa_judge::evaluate::{EvaluateSettings, EvaluateStage};
use agiqa_judge::metrics::BootstrapSettings;
use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::identity::ImageId;
use agiqa_store::layout;
use agiqa_store::metric::{Estimates, N_METRICS};
use agiqa_store::stage::{Stage, StageContext, StageError};
use agiqa_store::store::part::PartError;
use agiqa_store::store::{OpenMode, Store, StoreError};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::metrics::{self, MetricsRow};
use agiqa_store::tables::models::{self, RunRecord, RunRecordError, Runs};
use agiqa_store::tables::scores;
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, images};

/// Tables that a training reads.
const INPUTS: [&str; 3] = ["images", "splits", "features"];

/// A run cannot be trained again.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ReproduceError {
    /// The run was not trained from cached columns.
    #[error(
        "run `{run}` (recipe `{recipe}`) cannot be reproduced from the store: only a head over cached columns can, gated or \
         `kernel-ridge`"
    )]
    Recipe { run: PartitionName, recipe: String },
    /// The record was not written by a training of this program.
    #[error("the record of run `{run}` does not say how it was trained: {problem}; train it again with `agiqa train`")]
    Record { run: PartitionName, problem: String },
    /// There is no room for the training.
    #[error("cannot make a temporary folder to train in")]
    Folder(#[from] std::io::Error),
    /// The training fails.
    #[error("run `{run}` cannot be trained again")]
    Stage { run: PartitionName, source: StageError },
    /// The training cannot be planned.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A run cannot be read.
    #[error(transparent)]
    Run(#[from] RunRecordError),
    /// A table cannot be read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One thing, as the store has it and as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `input` or `output`.
    pub kind: &'static str,
    /// What it is.
    pub name: String,
    /// In the store, as a fingerprint, a hash or a number.
    pub stored: String,
    /// Now.
    pub now: String,
    /// Whether both are the same.
    pub same: bool,
    /// How they differ.
    pub note: String,
}

impl Item {
    fn new(kind: &'static str, name: impl Into<String>, stored: impl Into<String>, now: impl Into<String>) -> Self {
        let (name, stored, now) = (name.into(), stored.into(), now.into());
        Self { kind, same: stored == now, name, stored, now, note: String::new() }
    }
}

/// A run next to its repetition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reproduction {
    /// The run.
    pub run: PartitionName,
    /// Whether all outputs are there again, bit for bit.
    pub same: bool,
    /// Inputs, then outputs.
    pub items: Vec<Item>,
}

impl Reproduction {
    fn new(run: &PartitionName, items: Vec<Item>) -> Self {
        let mut outputs = items.iter().filter(|item| item.kind == "output").peekable();
        let same = outputs.peek().is_some() && outputs.all(|item| item.same);
        Self { run: run.clone(), same, items }
    }

    /// The answer in a sentence.
    pub fn verdict(&self) -> String {
        let run = &self.run;
        if self.same {
            return format!("{run} is reproduced: the same bytes");
        }
        let differing = |kind: &str| {
            let names = self.items.iter().filter(|item| item.kind == kind && !item.same).map(|item| item.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let (inputs, outputs) = (differing("input"), differing("output"));
        match (inputs.is_empty(), outputs.is_empty()) {
            (false, true) => {
                format!("{run} is not reproduced: it was not trained, since these inputs differ: {inputs}")
            }
            (false, false) => format!("{run} is not reproduced: {outputs} differ, and of the inputs: {inputs}"),
            (true, _) => format!(
                "{run} is not reproduced: {outputs} differ, although all inputs are the same: it was trained by another machine or \
                 another build of libtorch, or its files were changed"
            ),
        }
    }

    /// A line per item, for people.
    pub fn text(&self) -> String {
        let head = ["", "", "in the store", "now", ""].map(str::to_owned);
        let line = |item: &Item| {
            let verdict = if item.same { "same" } else { "DIFFERS" };
            [verdict.to_owned(), item.name.clone(), item.stored.clone(), item.now.clone(), item.note.clone()]
        };
        let lines: Vec<[String; 5]> = std::iter::once(head).chain(self.items.iter().map(line)).collect();
        layout::aligned(&lines)
    }
}

/// Trains `run` again and compares. `None` if it was interrupted. `bootstrap` are the settings of the intervals that its
/// metrics were computed with.
///
/// # Errors
/// Fails if the run does not exist, is no head over cached columns, or cannot be trained from what the store holds.
pub fn reproduce(
    run: &PartitionName,
    bootstrap: BootstrapSettings,
    context: &StageContext,
) -> Result<Option<Reproduction>, ReproduceError> {
    let store = &context.store;
    let record = RunRecord::read(store, run)?;
    let training = training_of(&record)?;
    let name = training.plan()?.run_names()?.into_iter().next().unwrap_or_else(|| run.clone());
    let mut items = inputs(store, &record, &name)?;
    if items.iter().any(|item| item.now == ABSENT) {
        return Ok(Some(Reproduction::new(run, items)));
    }
    let folder = tempfile::tempdir()?;
    let scratch = Store::open(&folder.path().display().to_string(), OpenMode::Existing)?.reading_from(store, &INPUTS);
    let console = Console::new(Verbosity::Quiet, EventFormat::Text);
    let inner = StageContext { store: scratch.clone(), console, ..context.clone() };
    let runs_to_end = |stage: &dyn Stage| {
        let report = stage.run(&inner).map_err(|source| ReproduceError::Stage { run: run.clone(), source })?;
        Ok::<_, ReproduceError>(!report.interrupted)
    };
    if !runs_to_end(training.as_ref())? {
        return Ok(None);
    }
    let records = Runs::default();
    let again = RunRecord::read(&scratch, &name)?;
    items.extend([
        Item::new("input", "images used (training, validation, test)", counts(&record), counts(&again)),
        Item::new("input", "all inputs", record.fingerprint.short(), again.fingerprint.short()),
    ]);
    let hash = |store: &Store, run: &PartitionName| -> Result<String, StoreError> {
        Ok(store.get_if_exists(&models::head_path(run))?.map_or(ABSENT.to_owned(), |bytes| short(blake3::hash(&bytes))))
    };
    items.push(Item::new("output", "head", hash(store, run)?, hash(&scratch, &name)?));
    let stored = scores::read_of_run(store, &record)?;
    let datasets = datasets_of(store, &stored)?;
    if !datasets.is_empty() {
        let (runs, records) = (vec![name.clone()], records.clone());
        if !runs_to_end(&PredictStage::new(runs, datasets, records))? {
            return Ok(None);
        }
        items.push(compared_scores(&stored, &scores::read_of_run(&scratch, &again)?));
    }
    for (dataset, rows) in by_dataset(metrics::read(store, run)?) {
        let settings = settings_of(&rows, bootstrap);
        let dataset = PartitionName::new(&dataset).map_err(TrainError::from)?;
        let evaluate = EvaluateStage::new(vec![name.clone()], name.clone(), dataset.clone(), settings, records.clone());
        if !runs_to_end(&evaluate)? {
            return Ok(None);
        }
        let now = by_dataset(metrics::read(&scratch, &name)?).remove(dataset.as_str()).unwrap_or_default();
        items.push(compared_metrics(&dataset, &rows, &now));
    }
    Ok(Some(Reproduction::new(run, items)))
}

/// What the store does not have.
const ABSENT: &str = "absent";

/// The first 16 digits of a hash.
fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

/// The training that the record describes.
fn training_of(record: &RunRecord) -> Result<Box<dyn Training>, ReproduceError> {
    let RunRecord { run, recipe, dataset, split, seed, .. } = record;
    let head = match recipe.as_str() {
        models::HEAD => HeadKind::Gated,
        models::KERNEL_RIDGE => HeadKind::KernelRidge,
        _ => return Err(ReproduceError::Recipe { run: run.clone(), recipe: recipe.clone() }),
    };
    let wrong = |problem: String| ReproduceError::Record { run: run.clone(), problem };
    let (Some(semantic), Some(quality), Value::Object(fields)) =
        (record.semantic(), record.quality(), &record.settings)
    else {
        return Err(wrong("it names no features or no settings".to_owned()));
    };
    let of = |keys: Vec<String>| -> Value {
        fields
            .iter()
            .filter(|(key, _)| keys.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<_, _>>()
            .into()
    };
    let keys = serde_json::to_value(TrainSettings::default()).unwrap_or_default();
    let keys = keys.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let settings: TrainSettings = serde_json::from_value(of(keys)).map_err(|error| wrong(error.to_string()))?;
    let own: HeadSettings =
        serde_json::from_value(of(HeadSettings::keys())).map_err(|error| wrong(error.to_string()))?;
    // `<name>-<split>-s<seed>-<8 hex>`
    let name = run.as_str().rsplit_once('-').and_then(|(rest, _)| rest.strip_suffix(&format!("-{split}-s{seed}")));
    // The stage adds this to the name by itself.
    let suffix = format!("-{}", models::KERNEL_RIDGE);
    let name =
        name.map(|name| if record.is_kernel_ridge() { name.strip_suffix(&suffix).unwrap_or(name) } else { name });
    let name = name.and_then(|name| PartitionName::new(name).ok());
    let name = name.ok_or_else(|| wrong("the run's name does not end in its split and seed".to_owned()))?;
    let runs = vec![RunSeed { split: split.clone(), seed: *seed }];
    let recipe = RecipeSettings::Head(HeadSettings { head, ..own });
    let training = TrainStage { name, dataset: dataset.clone(), runs, settings, recipe };
    Ok(training.on(Some(semantic.clone()), Some(quality.clone()))?)
}

/// What is known before the training: the code and its settings, and the features.
fn inputs(store: &Store, record: &RunRecord, name: &PartitionName) -> Result<Vec<Item>, ReproduceError> {
    let digits = |run: &PartitionName| run.as_str().rsplit('-').next().unwrap_or_default().to_owned();
    let mut items = vec![
        Item::new("input", "settings and code of the training", digits(&record.run), digits(name)),
        Item::new("input", "version of agiqa", &record.agiqa_version, env!("CARGO_PKG_VERSION")),
    ];
    let sets = FeatureSet::list(store)?;
    for input in &record.inputs {
        let features = &input.features;
        let is_meant =
            |set: &&FeatureSet| (&set.extractor, set.fingerprint) == (&features.extractor, features.fingerprint);
        let now = sets.iter().find(is_meant).map_or(ABSENT.to_owned(), |set| set.fingerprint.short());
        let name = format!("{} features ({})", input.role, features.extractor);
        items.push(Item::new("input", name, features.fingerprint.short(), now));
    }
    Ok(items)
}

fn counts(record: &RunRecord) -> String {
    record.parts.map(|part| part.n_used.to_string()).join(", ")
}

/// The datasets of which an image is in `scores`.
fn datasets_of(store: &Store, scores: &HashMap<ImageId, f64>) -> Result<Vec<PartitionName>, ReproduceError> {
    let mut datasets = Vec::new();
    for dataset in images::datasets(store)? {
        let mut is_scored = false;
        images::for_each_location(store, &dataset, |id, _| is_scored |= scores.contains_key(&id))?;
        datasets.extend(is_scored.then_some(dataset));
    }
    Ok(datasets)
}

fn compared_scores(stored: &HashMap<ImageId, f64>, now: &HashMap<ImageId, f64>) -> Item {
    // Images that are in no dataset any more cannot be scored again, and are not compared.
    let of_both: Vec<(&ImageId, f64)> =
        stored.iter().filter(|(id, _)| now.contains_key(id)).map(|(id, score)| (id, *score)).collect();
    let hash = |scores: &mut dyn Iterator<Item = (&ImageId, f64)>| {
        let sorted: BTreeMap<&ImageId, f64> = scores.collect();
        let mut hasher = blake3::Hasher::new();
        for (id, score) in &sorted {
            hasher.update(id.as_bytes()).update(&score.to_bits().to_le_bytes());
        }
        format!("{} {}", sorted.len(), short(hasher.finalize()))
    };
    let mut item = Item::new(
        "output",
        "scores",
        hash(&mut of_both.iter().copied()),
        hash(&mut now.iter().map(|(id, score)| (id, *score)).filter(|(id, _)| stored.contains_key(id))),
    );
    if !item.same {
        let greatest = of_both.iter().map(|(id, score)| (score - now[id]).abs()).fold(0.0, f64::max);
        item.note = format!("by up to {greatest:e}");
    }
    item
}

fn by_dataset(rows: Vec<MetricsRow>) -> BTreeMap<String, Vec<MetricsRow>> {
    let mut datasets: BTreeMap<String, Vec<MetricsRow>> = BTreeMap::new();
    rows.into_iter().for_each(|row| datasets.entry(row.dataset.clone()).or_default().push(row));
    datasets
}

/// The settings that give rows like `rows`. The rows do not tell those of their intervals.
fn settings_of(rows: &[MetricsRow], bootstrap: BootstrapSettings) -> EvaluateSettings {
    let mut by: Vec<String> = Vec::new();
    for (column, _) in rows.iter().filter_map(|row| row.subset.split_once('=')) {
        if !by.iter().any(|other| other == column) {
            by.push(column.to_owned());
        }
    }
    let has_intervals = rows.iter().any(|row| row.metrics.0.iter().any(|estimate| estimate.low.is_some()));
    let bootstrap = if has_intervals { bootstrap } else { BootstrapSettings { resamples: 0, ..bootstrap } };
    let parts = Part::ALL.into_iter().filter(|part| rows.iter().any(|row| row.part == part.as_str()));
    EvaluateSettings { by, bootstrap, parts: parts.collect() }
}

fn compared_metrics(dataset: &PartitionName, stored: &[MetricsRow], now: &[MetricsRow]) -> Item {
    let hash = |rows: &[MetricsRow]| {
        let json = serde_json::to_vec(rows).expect("rows are plain data");
        format!("{} {}", rows.len(), short(blake3::hash(&json)))
    };
    let mut item = Item::new("output", format!("metrics on {dataset}"), hash(stored), hash(now));
    // JSON writes a number such that it is read back exactly, so equal hashes are equal bits.
    let values = |rows: &[MetricsRow]| -> Vec<MetricsRow> {
        let of = |row: &MetricsRow| {
            let without = Estimates::<N_METRICS>::from_fn(|metric| {
                let value = row.metrics[metric].value;
                agiqa_store::metric::Estimate { value, ..Default::default() }
            });
            MetricsRow { metrics: without, ..row.clone() }
        };
        rows.iter().map(of).collect()
    };
    if !item.same && values(stored) == values(now) {
        item.note =
            "only their intervals: give the `--resamples` and `--seed` that they were evaluated with".to_owned();
    }
    item
}
