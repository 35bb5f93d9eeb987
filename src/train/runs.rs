//! The runs of a training: their names, and which of them are already in the store in their current form.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::data::DataError;
use super::trainer::TrainError;
use crate::splits::SplitSettings;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::Freshness;
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{PartCounts, RunRecord};
use agiqa_store::tables::splits::{self, SplitRow};
use agiqa_store::tables::{PartitionName, images};

/// One run of a call: a split and a training seed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunSeed {
    /// Name of the split.
    pub split: PartitionName,
    /// Seed of initialisation, image order and dropout.
    pub seed: u32,
}

/// One run per seed. The seed sets both the split and the training: "10 random splits" are seeds 0 to 9 of both.
pub fn seeded_runs(seeds: impl IntoIterator<Item = u32>, split: impl Fn(u32) -> SplitSettings) -> Vec<RunSeed> {
    seeds.into_iter().map(|seed| RunSeed { split: split(seed).name(), seed }).collect()
}

/// A run with its group and split.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub run: PartitionName,
    /// Its group.
    pub group: PartitionName,
    /// Its split.
    pub split: PartitionName,
}

/// The runs in order, without duplicates.
pub(in crate::train) fn distinct(runs: &[RunSeed]) -> Vec<&RunSeed> {
    let mut seen = HashSet::new();
    runs.iter().filter(|run| seen.insert(*run)).collect()
}

/// The number of runs in words.
pub(in crate::train) fn n_runs_in_words(n_runs: usize) -> String {
    match n_runs {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    }
}

/// The stored inputs that decide a run's numbers.
pub(in crate::train) struct StoredInputs {
    mos: BTreeMap<ImageId, f64>,
    with_features: HashSet<ImageId>,
}

impl StoredInputs {
    /// MOS of the images of `dataset`, and the images that have features in all of `sets`.
    pub(in crate::train) fn read(
        store: &Store,
        dataset: &PartitionName,
        sets: &[FeatureSet],
    ) -> Result<Self, DataError> {
        let images = images::read(store, dataset)?;
        let mos = images.rows.iter().filter_map(|row| Some((row.image_id, row.mos?))).collect();
        let done = sets.iter().map(|set| set.done(store)).collect::<Result<Vec<_>, _>>()?;
        let with_features = images.rows.iter().map(|row| row.image_id);
        let with_features = with_features.filter(|id| done.iter().all(|done| done.contains(id))).collect();
        Ok(Self { mos, with_features })
    }
}

/// Splits by name.
pub(in crate::train) type Splits = BTreeMap<PartitionName, Vec<SplitRow>>;

/// The settings of a training. They decide the names of the runs, and whether the store already holds the runs.
pub struct RunPlan<'a> {
    /// Beginning of the runs' fingerprints.
    kind: &'static str,
    name: &'a PartitionName,
    dataset: &'a PartitionName,
    /// The runs, without duplicates.
    runs: Vec<&'a RunSeed>,
    /// Fingerprint of the settings.
    settings: Fingerprint,
}

impl<'a> RunPlan<'a> {
    /// The plan of a training with this name and these settings. Duplicate `runs` are dropped.
    pub(crate) fn new(
        kind: &'static str,
        name: &'a PartitionName,
        dataset: &'a PartitionName,
        runs: &'a [RunSeed],
        settings: Fingerprint,
    ) -> Self {
        Self { kind, name, dataset, runs: distinct(runs), settings }
    }

    /// Name of a run: `<name>-<split>-s<seed>-<8 hex>`. The digits stand for dataset, features and hyperparameters, so
    /// the name is known before any data exist.
    ///
    /// # Errors
    /// Fails if the name is too long for a partition.
    pub fn run_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        let (name, RunSeed { split, seed }) = (self.name, run);
        Ok(PartitionName::new(&format!("{name}-{split}-s{seed}-{}", self.digits()))?)
    }

    /// Name of a run's group: the run's name without the seeds of split and training.
    ///
    /// # Errors
    /// Fails if the name is too long for a partition.
    pub fn group_name(&self, run: &RunSeed) -> Result<PartitionName, TrainError> {
        let split = run.split.as_str().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
        let split = if split.is_empty() { run.split.as_str() } else { split };
        Ok(PartitionName::new(&format!("{}-{split}-{}", self.name, self.digits()))?)
    }

    fn digits(&self) -> String {
        self.settings.short()[..8].to_owned()
    }

    /// Names of all runs, in order, without duplicates.
    ///
    /// # Errors
    /// Fails if a name is too long for a partition.
    pub fn run_names(&self) -> Result<Vec<PartitionName>, TrainError> {
        self.runs.iter().map(|run| self.run_name(run)).collect()
    }

    /// All runs with their groups and splits, in order.
    ///
    /// # Errors
    /// Fails if a name is too long for a partition.
    pub fn members(&self) -> Result<Vec<Member>, TrainError> {
        let member = |run: &&RunSeed| {
            Ok(Member { run: self.run_name(run)?, group: self.group_name(run)?, split: run.split.clone() })
        };
        self.runs.iter().map(member).collect()
    }

    /// Groups of runs that differ only in their seeds, each with the names of its runs. A single run is its own group,
    /// because a mean over one run carries no information.
    ///
    /// # Errors
    /// Fails if a name is too long for a partition.
    pub fn groups(&self) -> Result<Vec<(PartitionName, Vec<PartitionName>)>, TrainError> {
        let mut groups: BTreeMap<PartitionName, Vec<PartitionName>> = BTreeMap::new();
        for run in &self.runs {
            groups.entry(self.group_name(run)?).or_default().push(self.run_name(run)?);
        }
        let named = groups.into_iter().map(|(group, runs)| match runs.as_slice() {
            [run] => (run.clone(), runs),
            _ => (group, runs),
        });
        Ok(named.collect())
    }

    /// Fingerprint of every input that decides a run's numbers: settings, seed, and for each image its part, its MOS
    /// and whether it has features.
    fn fingerprint(&self, run: &RunSeed, rows: &[SplitRow], stored: &StoredInputs) -> Fingerprint {
        // Only ridge regression depends on every image that has features: its kernel and its scores include them all.
        Fingerprint::builder(self.kind)
            .json("training", &self.settings)
            .json("split", &run.split)
            .json("seed", &run.seed)
            .field("rows", &rows_hash(rows, &stored.mos, &stored.with_features))
            .finish()
    }

    /// The splits of the runs.
    pub(in crate::train) fn read_splits(&self, store: &Store) -> Result<Splits, TrainError> {
        let names: BTreeSet<&PartitionName> = self.runs.iter().map(|run| &run.split).collect();
        let read = |name: &PartitionName| {
            let rows = splits::read(store, self.dataset, name).map_err(DataError::from)?;
            Ok((name.clone(), rows))
        };
        names.into_iter().map(read).collect()
    }

    /// Whether all runs are trained on the store's current inputs. `read_stored` is called only if all runs are
    /// trained.
    pub(in crate::train) fn freshness(
        &self,
        store: &Store,
        read_stored: impl FnOnce() -> Result<StoredInputs, TrainError>,
    ) -> Result<Freshness, TrainError> {
        let runs = &self.runs;
        if runs.is_empty() {
            return Err(TrainError::NoRuns);
        }
        let mut records = Vec::with_capacity(runs.len());
        for run in runs {
            records.extend(RunRecord::read_if_finished(store, &self.run_name(run)?)?);
        }
        if records.len() < runs.len() {
            let n = runs.len() - records.len();
            return Ok(Freshness::Stale { reason: format!("{n} of {} runs are not trained yet", runs.len()) });
        }
        let stored = read_stored()?;
        let splits = self.read_splits(store)?;
        let mut rows = RowCounts::default();
        let mut n_changed = 0;
        for (run, record) in runs.iter().zip(&records) {
            n_changed += usize::from(self.fingerprint(run, &splits[&run.split], &stored) != record.fingerprint);
            add(&mut rows, row_counts(&record.parts, true));
        }
        if n_changed > 0 {
            let reason = format!("images, MOS, split or features of {n_changed} of {} runs changed", runs.len());
            return Ok(Freshness::Stale { reason });
        }
        Ok(Freshness::Current { reason: format!("all {} runs are trained", runs.len()), rows })
    }

    /// Runs that must be trained, with their fingerprints. The rows of the other runs are added to `cached`.
    pub(in crate::train) fn pending(
        &self,
        store: &Store,
        splits: &Splits,
        stored: &StoredInputs,
        cached: &mut RowCounts,
    ) -> Result<Vec<(RunSeed, Fingerprint)>, TrainError> {
        let mut pending = Vec::new();
        for run in &self.runs {
            let rows = &splits[&run.split];
            if rows.is_empty() {
                return Err(DataError::NoSplit { dataset: self.dataset.clone(), split: run.split.clone() }.into());
            }
            let fingerprint = self.fingerprint(run, rows, stored);
            match RunRecord::read_if_finished(store, &self.run_name(run)?)? {
                Some(record) if record.fingerprint == fingerprint => add(cached, row_counts(&record.parts, true)),
                _ => pending.push(((*run).clone(), fingerprint)),
            }
        }
        Ok(pending)
    }
}

/// Hash of each image's part, its MOS and whether it has features, in the split's order. The order decides the order of
/// training images, and thus the numbers.
fn rows_hash(rows: &[SplitRow], mos: &BTreeMap<ImageId, f64>, with_features: &HashSet<ImageId>) -> [u8; 32] {
    let mut content = blake3::Hasher::new();
    for SplitRow { image_id, seed: _, fold: _, part } in rows {
        let mos = mos.get(image_id).map_or(f64::NAN, |mos| *mos);
        content.update(image_id.as_bytes()).update(&[*part as u8, u8::from(with_features.contains(image_id))]);
        content.update(&mos.to_bits().to_le_bytes());
    }
    *content.finalize().as_bytes()
}

/// Row counts of a run: the rows of its split.
pub(in crate::train) fn row_counts(parts: &[PartCounts; 3], cached: bool) -> RowCounts {
    let n_out = parts.iter().map(|part| part.n_used as u64).sum();
    let n_rejected = parts.iter().map(|part| (part.n_without_features + part.n_without_mos) as u64).sum();
    RowCounts { n_in: n_out + n_rejected, n_out, n_cached: if cached { n_out } else { 0 }, n_rejected, n_left: 0 }
}

pub(in crate::train) fn add(sum: &mut RowCounts, counts: RowCounts) {
    let RowCounts { n_in, n_out, n_cached, n_rejected, n_left } = counts;
    sum.n_in += n_in;
    sum.n_out += n_out;
    sum.n_cached += n_cached;
    sum.n_rejected += n_rejected;
    sum.n_left += n_left;
}
