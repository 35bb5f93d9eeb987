//! `[train]` and `[[variant]]`: the trainings.

use super::Reader;
use crate::ingest::IngestSettings;
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::overlay::read_training;
use crate::pipeline::tree::{Node, NodeValue};
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
    /// Seeds of initialisation, image order and dropout. Every split is trained on with each seed. `None` means the
    /// split's own seed.
    pub seeds: Option<Vec<u32>>,
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
        has_splits: bool,
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
            let train = self.train(node, datasets, has_features, has_splits)?;
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

    pub(super) fn train(
        &self,
        mut node: Node,
        datasets: &[IngestSettings],
        has_features: bool,
        has_splits: bool,
    ) -> Result<TrainSection, ConfigError> {
        // A rating network reads images alone.
        let reads_columns = node.get("rater").is_none();
        for (has, table) in [(has_features || !reads_columns, "features"), (has_splits, "split")] {
            if !has {
                return Err(self.wrong(node.origin, format!("`[train]` needs a `[{table}]` table")));
            }
        }
        let seeds = match node.remove("seeds") {
            Some(seeds) => {
                let list: Vec<u32> = de::settings(self.sources, "train.seeds", &seeds, &[])?;
                if list.is_empty() {
                    return Err(self.wrong(seeds.origin, "`train.seeds`: expected at least one seed"));
                }
                Some(list)
            }
            None => None,
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
