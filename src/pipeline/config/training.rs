//! `[train]` and `[[variant]]`: the trainings.

use std::collections::BTreeMap;

use super::Reader;
use crate::ingest::IngestSettings;
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::overlay::read_training;
use crate::pipeline::tree::{Entry, Node, NodeValue};
use crate::splits::SplitSettings;
use crate::train::TrainSettings;
use crate::train::recipes::RecipeSettings;
use agiqa_store::tables::PartitionName;

/// `[train]`.
#[derive(Clone, Debug)]
pub struct TrainSection {
    /// The dataset of the training.
    pub dataset: PartitionName,
    /// Hyperparameters.
    pub settings: TrainSettings,
    /// What is trained.
    pub recipe: RecipeSettings,
    /// Seeds of initialisation, image order and dropout.
    pub seeds: Seeds,
}

/// The seeds of the trainings on a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// The split's own seed.
    OfSplit,
    /// The same seeds on each split.
    Same(Vec<u32>),
    /// Seeds by the name of the split. A split that is not named has its own seed.
    BySplit(BTreeMap<String, Vec<u32>>),
}

impl Seeds {
    /// The seeds of the trainings on `split`.
    pub fn on(&self, split: &SplitSettings) -> Vec<u32> {
        let own = || vec![split.seed().unwrap_or(0)];
        match self {
            Self::OfSplit => own(),
            Self::Same(seeds) => seeds.clone(),
            Self::BySplit(seeds) => seeds.get(split.name().as_str()).cloned().unwrap_or_else(own),
        }
    }
}

/// `[[variant]]`: a training under a name of its own.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name, which is part of its runs' names.
    pub name: PartitionName,
    /// `[train]`, overridden by the variant's own keys.
    pub train: TrainSection,
    /// The dataset whose test part its heads are evaluated on.
    pub test: PartitionName,
}

impl Reader<'_> {
    pub(super) fn variants(
        &mut self,
        datasets: &[IngestSettings],
        has_features: bool,
        splits: &[SplitSettings],
    ) -> Result<Vec<Variant>, ConfigError> {
        let Some(node) = self.document.remove("variant") else { return Ok(Vec::new()) };
        let origin = node.origin;
        let Some(items) = node.into_items() else {
            return Err(self.wrong(origin, "`variant`: expected `[[variant]]` tables"));
        };
        let Some(base) = self.document.remove("train") else {
            return Err(self.wrong(origin, "`[[variant]]` needs a `[train]` table, which it changes"));
        };
        let mut variants: Vec<Variant> = Vec::new();
        for (idx, mut item) in items.into_iter().enumerate() {
            const VARIANT_KEYS: &[&str] = &["name", "train", "test"];
            if let Some(entry) = item.entries().iter().find(|entry| !VARIANT_KEYS.contains(&entry.key.as_str())) {
                let hint = suggestion(&entry.key, VARIANT_KEYS);
                let problem = format!("unknown key `{}` in `variant.{idx}`{hint}", entry.key);
                return Err(self.wrong(entry.key_origin, problem));
            }
            let name_node = item.remove("name").ok_or_else(|| {
                self.wrong(item.origin, format!("`variant.{idx}.name` is missing: the runs' names contain it"))
            })?;
            let name: PartitionName = de::settings(self.sources, &format!("variant.{idx}.name"), &name_node, &[])?;
            if variants.iter().any(|other| other.name == name) {
                return Err(self.wrong(name_node.origin, format!("duplicate variant `{name}`")));
            }
            let mut node = base.clone();
            if let Some(own) = item.remove("train") {
                if !matches!(own.value, NodeValue::Table(_)) {
                    let problem =
                        format!("`variant.{idx}.train`: expected a table of `[train]`'s keys, found {}", own.kind());
                    return Err(self.wrong(own.origin, problem));
                }
                for entry in own.entries() {
                    node.insert(&entry.key, entry.node.clone());
                }
            }
            let train = self.train(node, datasets, has_features, splits)?;
            let test = match item.remove("test") {
                Some(test) => {
                    let path = format!("variant.{idx}.test");
                    let dataset = de::settings(self.sources, &path, &test, &[])?;
                    self.check_dataset(datasets, &path, &dataset, test.origin)?;
                    self.check_scored(&path, &train, &dataset, test.origin)?;
                    dataset
                }
                None => train.dataset.clone(),
            };
            variants.push(Variant { name, train, test });
        }
        if let Some(predict) = self.document.get("predict") {
            let problem = "with `[[variant]]` tables, a variant's `test` takes the place of `[predict]`";
            return Err(self.wrong(predict.origin, problem));
        }
        Ok(variants)
    }

    /// `train.seeds`: a list, or lists by the name of a split.
    fn seeds(&self, node: &Node, splits: &[SplitSettings]) -> Result<Seeds, ConfigError> {
        let path = "train.seeds";
        let seeds = match node.value {
            NodeValue::Table(_) => Seeds::BySplit(de::settings(self.sources, path, node, &[])?),
            _ => Seeds::Same(de::settings(self.sources, path, node, &[])?),
        };
        let names: Vec<String> = splits.iter().map(|split| split.name().to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let is_unknown = |entry: &&Entry| !names.contains(&entry.key.as_str());
        if let Some(entry) = node.entries().iter().find(is_unknown) {
            let hint = suggestion(&entry.key, &names);
            let problem = format!("`{path}`: the pipeline has no split `{}`{hint}", entry.key);
            return Err(self.wrong(entry.key_origin, problem));
        }
        if splits.iter().any(|split| seeds.on(split).is_empty()) {
            return Err(self.wrong(node.origin, format!("`{path}`: expected at least one seed")));
        }
        Ok(seeds)
    }

    pub(super) fn train(
        &self,
        mut node: Node,
        datasets: &[IngestSettings],
        has_features: bool,
        splits: &[SplitSettings],
    ) -> Result<TrainSection, ConfigError> {
        // A rating network reads images alone.
        let reads_columns = node.get("rater").is_none();
        for (has, table) in [(has_features || !reads_columns, "features"), (!splits.is_empty(), "split")] {
            if !has {
                return Err(self.wrong(node.origin, format!("`[train]` needs a `[{table}]` table")));
            }
        }
        let seeds = match node.remove("seeds") {
            Some(seeds) => self.seeds(&seeds, splits)?,
            None => Seeds::OfSplit,
        };
        let dataset = match node.remove("dataset") {
            Some(dataset) => {
                let name = de::settings(self.sources, "train.dataset", &dataset, &[])?;
                self.check_dataset(datasets, "train.dataset", &name, dataset.origin)?;
                name
            }
            None if datasets.len() == 1 => datasets[0].dataset.clone(),
            None => return Err(self.wrong(node.origin, "`[train]` needs `dataset`: the pipeline has several")),
        };
        let origin = node.origin;
        let (settings, recipe) = read_training(self.sources, "train", node, &["dataset", "seeds"])?;
        let checked = settings.check().and_then(|()| recipe.check());
        checked.map_err(|error| self.wrong(origin, format!("`train`: {error}")))?;
        Ok(TrainSection { dataset, settings, recipe, seeds })
    }
}
