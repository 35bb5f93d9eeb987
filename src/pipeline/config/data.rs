//! `[[dataset]]` and `[split]`: the images, and their parts.

use super::Reader;
use crate::ingest::IngestSettings;
use crate::pipeline::de;
use crate::pipeline::error::{ConfigError, suggestion};
use crate::pipeline::tree::{Node, NodeValue, Origin};
use crate::splits::SplitSettings;
use agiqa_store::tables::PartitionName;

impl Reader<'_> {
    pub(super) fn datasets(&mut self) -> Result<Vec<IngestSettings>, ConfigError> {
        if self.document.get("score").is_some() && self.document.get("dataset").is_none() {
            return Ok(Vec::new());
        }
        let node = self.required("dataset", "at least one `[[dataset]]`, or `[score]`")?;
        let NodeValue::Array(items) = &node.value else {
            let problem = format!("`dataset`: expected `[[dataset]]` tables, found {}", node.kind());
            return Err(self.wrong(node.origin, problem));
        };
        let mut datasets: Vec<IngestSettings> = Vec::new();
        for (idx, item) in items.iter().enumerate() {
            let settings: IngestSettings = de::settings(self.sources, &format!("dataset.{idx}"), item, &[])?;
            if datasets.iter().any(|other| other.dataset == settings.dataset) {
                return Err(self.wrong(item.origin, format!("duplicate dataset `{}`", settings.dataset)));
            }
            datasets.push(settings);
        }
        Ok(datasets)
    }

    pub(super) fn check_dataset(
        &self,
        datasets: &[IngestSettings],
        path: &str,
        name: &PartitionName,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let names: Vec<&str> = datasets.iter().map(|settings| settings.dataset.as_str()).collect();
        if names.contains(&name.as_str()) {
            return Ok(());
        }
        let problem = format!("`{path}`: the pipeline has no dataset `{name}`{}", suggestion(name.as_str(), &names));
        Err(self.wrong(origin, problem))
    }

    /// The splits of `[split]`, or of all `[[split]]` tables.
    pub(super) fn splits(&mut self) -> Result<Vec<SplitSettings>, ConfigError> {
        let Some(node) = self.document.remove("split") else { return Ok(Vec::new()) };
        let tables = match node.value {
            NodeValue::Array(tables) => tables,
            value => vec![Node { origin: node.origin, value }],
        };
        let mut splits: Vec<SplitSettings> = Vec::new();
        for table in tables {
            let origin = table.origin;
            for split in self.splits_of(table)? {
                if splits.iter().any(|other| other.name() == split.name()) {
                    return Err(self.wrong(origin, format!("duplicate split `{}`", split.name())));
                }
                splits.push(split);
            }
        }
        Ok(splits)
    }

    /// One split per element of `seeds` and of `generators`; a single split if the table has neither.
    fn splits_of(&self, mut node: Node) -> Result<Vec<SplitSettings>, ConfigError> {
        let mut variants = Vec::new();
        let lists =
            [("seeds", "seed"), ("generators", "generator")].map(|(list, single)| (node.remove(list), list, single));
        variants.push(node);
        for (list, plural, single) in lists {
            let Some(list) = list else { continue };
            let origin = list.origin;
            let Some(items) = list.into_items() else {
                let problem = format!("`split.{plural}`: expected an array of at least one {single}");
                return Err(self.wrong(origin, problem));
            };
            variants = variants
                .iter()
                .flat_map(|variant| {
                    items.iter().map(|item| {
                        let mut variant = variant.clone();
                        variant.insert(single, item.clone());
                        variant
                    })
                })
                .collect();
        }
        variants.iter().map(|variant| de::settings(self.sources, "split", variant, &["seeds", "generators"])).collect()
    }
}
