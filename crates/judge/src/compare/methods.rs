//! Every method that a store has scores of, for one dataset, on one footing: a score per image, and a direction.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::CompareError;
use crate::evaluate::RunInfo;
use crate::paper;
use agiqa_store::identity::{FingerprintBuilder, ImageId};
use agiqa_store::store::Store;
use agiqa_store::tables::baselines::{Direction, ScoreSet};
use agiqa_store::tables::comparison::{Judged, MethodKind};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::{PartitionName, images, predictions, splits};

/// Column of an extractor's features that is a score of its own.
const RATING: &str = "rating";

/// One method's scores.
#[derive(Clone, Debug)]
pub(super) struct MethodScores {
    /// Name, with what tells it from others of its name.
    pub(super) name: String,
    /// Name that the paper may have a row for.
    pub(super) paper_name: String,
    /// Where the scores come from.
    pub(super) kind: MethodKind,
    /// Which scores mean better quality.
    pub(super) direction: Direction,
    /// Score per image.
    pub(super) of_image: HashMap<ImageId, f64>,
}

/// A method that has scores of the dataset but cannot be compared, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) method: String,
    pub(super) reason: String,
}

/// The images that are judged: id and MOS, in the order of the dataset's table; an image twice in the table is there twice.
pub(super) fn judged_images(store: &Store, judged: &Judged) -> Result<Vec<(ImageId, f64)>, CompareError> {
    let dataset = &judged.dataset;
    let rows = images::read(store, dataset)?.rows;
    if rows.is_empty() {
        let known = listed(images::datasets(store)?.iter().map(PartitionName::as_str));
        return Err(CompareError::NoDataset { url: store.url().to_owned(), dataset: dataset.clone(), known });
    }
    let wanted: Option<HashSet<ImageId>> = match &judged.part {
        None => None,
        Some((split, part)) => {
            let assigned = splits::read(store, dataset, split)?;
            if assigned.is_empty() {
                let known = listed(split_names(store, dataset)?.iter().map(String::as_str));
                return Err(CompareError::NoSplit { dataset: dataset.clone(), split: split.clone(), known });
            }
            Some(assigned.into_iter().filter(|row| row.part == *part).map(|row| row.image_id).collect())
        }
    };
    let is_wanted = |id: &ImageId| wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
    let judged: Vec<(ImageId, f64)> = rows
        .into_iter()
        .filter(|row| is_wanted(&row.image_id))
        .filter_map(|row| Some((row.image_id, row.mos?)))
        .collect();
    if judged.is_empty() { Err(CompareError::NoMos { dataset: dataset.clone() }) } else { Ok(judged) }
}

fn split_names(store: &Store, dataset: &PartitionName) -> Result<BTreeSet<String>, CompareError> {
    let prefix = format!("splits/dataset={dataset}");
    let name = |path: &str| Some(path.strip_prefix(&prefix)?.strip_prefix("/split=")?.split('/').next()?.to_owned());
    Ok(store.list(&prefix)?.iter().filter_map(|object| name(&object.path)).collect())
}

/// Every method with a score of one of `judged`'s images, and those that had to be left out.
pub(super) fn all(
    store: &Store,
    judged: &Judged,
    ids: &[ImageId],
) -> Result<(Vec<MethodScores>, Vec<LeftOut>), CompareError> {
    let wanted: HashSet<ImageId> = ids.iter().copied().collect();
    let mut methods = baselines(store)?;
    methods.extend(ratings(store, ids)?);
    let (runs, mut left_out) = runs(store, judged)?;
    methods.extend(runs);
    for method in &mut methods {
        method.of_image.retain(|id, _| wanted.contains(id));
    }
    methods.retain(|method| !method.of_image.is_empty());
    left_out.sort_by(|a, b| a.method.cmp(&b.method));
    Ok((methods, left_out))
}

fn baselines(store: &Store) -> Result<Vec<MethodScores>, CompareError> {
    let sets = ScoreSet::list(store)?;
    let mut methods = Vec::new();
    for set in &sets {
        let resize = set.settings.get("resize").and_then(|resize| resize.as_str()).filter(|resize| *resize != "none");
        let name = match resize {
            Some(resize) => format!("{} ({resize})", set.method),
            None => set.method.to_string(),
        };
        methods.push(MethodScores {
            name,
            paper_name: set.method.to_string(),
            kind: MethodKind::Baseline,
            direction: set.direction,
            of_image: set.read(store)?,
        });
    }
    // Other parameters or another version under the same description: the fingerprint tells them apart.
    let names: Vec<String> = methods.iter().map(|method| method.name.clone()).collect();
    for (method, set) in methods.iter_mut().zip(&sets) {
        if names.iter().filter(|name| **name == method.name).count() > 1 {
            method.name = format!("{} [{}]", method.name, set.fingerprint.short());
        }
    }
    Ok(methods)
}

fn ratings(store: &Store, ids: &[ImageId]) -> Result<Vec<MethodScores>, CompareError> {
    let sets: Vec<FeatureSet> = FeatureSet::list(store)?
        .into_iter()
        .filter(|set| set.columns.iter().any(|column| column.name == RATING && column.dim == 1))
        .collect();
    let mut methods = Vec::new();
    for set in &sets {
        let is_alone = sets.iter().filter(|other| other.extractor == set.extractor).count() == 1;
        let name = if is_alone {
            format!("{} {RATING}", set.extractor)
        } else {
            format!("{} {RATING} [{}]", set.extractor, set.fingerprint.short())
        };
        let column = set.columns.iter().position(|column| column.name == RATING).unwrap_or(0);
        let found = set.read(store, ids)?;
        let score = |row: &Option<usize>| row.map(|row| f64::from(found.matrices[column][row]));
        methods.push(MethodScores {
            name,
            paper_name: set.extractor.to_string(),
            kind: MethodKind::Rating,
            direction: Direction::Higher,
            of_image: ids.iter().zip(&found.rows).filter_map(|(id, row)| Some((*id, score(row)?))).collect(),
        });
    }
    Ok(methods)
}

fn runs(store: &Store, judged: &Judged) -> Result<(Vec<MethodScores>, Vec<LeftOut>), CompareError> {
    let (mut methods, mut left_out) = (Vec::new(), Vec::new());
    for run in models::runs(store)? {
        let rows: Vec<_> =
            predictions::read(store, &run)?.into_iter().filter(|row| row.dataset == judged.dataset.as_str()).collect();
        if rows.is_empty() {
            continue;
        }
        let info = RunInfo::read(store, &run)?;
        // A run has learned from the other parts of its own split: it can be judged on that split only.
        if info.dataset == judged.dataset && judged.part.as_ref().map(|(split, _)| split) != Some(&info.split) {
            let reason = match &judged.part {
                Some((split, _)) => format!("it was trained on split `{}`, not `{split}`", info.split),
                None => format!("it was trained on a part of these images: name its split, `{}`", info.split),
            };
            left_out.push(LeftOut { method: run.to_string(), reason });
            continue;
        }
        methods.push(MethodScores {
            name: run.to_string(),
            paper_name: paper_name(store, &run)?,
            kind: MethodKind::Run,
            direction: Direction::Higher,
            of_image: rows.into_iter().map(|row| (row.image_id, row.score)).collect(),
        });
    }
    Ok((methods, left_out))
}

/// A run on the paper's features is the paper's method; any other is none of its.
fn paper_name(store: &Store, run: &PartitionName) -> Result<String, CompareError> {
    let Ok(record) = RunRecord::read(store, run) else { return Ok(run.to_string()) };
    Ok(if is_of_the_paper(&record) { paper::METHOD.to_owned() } else { run.to_string() })
}

/// Whether a run is the paper's method whole: an ablation, or other features, has no row in its Table 1.
fn is_of_the_paper(record: &RunRecord) -> bool {
    let is_whole = record.settings.get("inputs").is_none() && record.settings["gate"] != "concat";
    is_whole && paper::is_semantic_set(&record.semantic) && paper::is_quality_set(&record.quality)
}

/// The paper's figures of `method` on `dataset`.
pub(super) fn paper_figures(judged: &Judged, method: &MethodScores) -> [Option<f64>; 4] {
    paper::row(judged.dataset.as_str(), &method.paper_name).map_or([None; 4], paper::PaperRow::figures)
}

/// Adds to `builder` everything that a comparison is computed from.
pub(super) fn hash(store: &Store, judged: &Judged, builder: &mut FingerprintBuilder) -> Result<(), CompareError> {
    let mut folders = vec![images::prefix(&judged.dataset), "baselines".to_owned()];
    if let Some((split, _)) = &judged.part {
        folders.push(format!("splits/dataset={}/split={split}", judged.dataset));
    }
    for run in models::runs(store)? {
        folders.push(format!("predictions/run={run}"));
        builder.field("run", &store.get(&models::record_path(&run))?);
    }
    for set in FeatureSet::list(store)? {
        if set.columns.iter().any(|column| column.name == RATING) {
            folders.push(set.prefix());
        }
    }
    for folder in folders {
        for object in store.list(&folder)? {
            // Parts of derived tables are named by their content; the others are small enough to be read.
            let is_named_by_content = ["baselines/", "features/"].iter().any(|table| object.path.starts_with(table));
            let content = if is_named_by_content { Vec::new() } else { store.get(&object.path)?.to_vec() };
            builder.field(&object.path, blake3::hash(&content).as_bytes());
        }
    }
    Ok(())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::paper::PaperPrompt;
    use agiqa_store::identity::Fingerprint;
    use agiqa_store::tables::features::FeatureKind;
    use agiqa_store::tables::models::PartCounts;

    /// A run on features of `extractors`, the semantic ones described by `prompts`.
    fn record(extractors: [&str; 2], prompts: serde_json::Value, settings: serde_json::Value) -> RunRecord {
        let name = |text: &str| PartitionName::new(text).expect("a valid name");
        let fingerprint = Fingerprint::builder("test").finish();
        let set = |extractor, kind, settings| FeatureSet {
            extractor: name(extractor),
            fingerprint,
            kind,
            columns: Vec::new(),
            settings,
        };
        RunRecord {
            run: name("run"),
            group: name("group"),
            dataset: name("agiqa-3k"),
            split: name("random-0"),
            fold: 0,
            seed: 0,
            fingerprint,
            semantic: set(extractors[0], FeatureKind::Semantic, json!({ "prompts": prompts })),
            quality: set(extractors[1], FeatureKind::Quality, json!({ "config": paper::features().config })),
            settings,
            parts: [PartCounts::default(); 3],
            chosen_by: "last".to_owned(),
            best_epoch: 1,
            epochs: Vec::new(),
            ridge: None,
            agiqa_version: String::new(),
        }
    }

    fn described(prompts: &[PaperPrompt]) -> serde_json::Value {
        prompts.iter().map(|prompt| json!({ "column": prompt.column, "text": prompt.text, "n_tokens": 9 })).collect()
    }

    #[test]
    fn only_the_papers_extractors_under_its_own_prompts_are_its_method() {
        let extractors = ["mplug-owl2", "maniqa"];
        let is_paper = |prompts: &[PaperPrompt]| is_of_the_paper(&record(extractors, described(prompts), json!({})));
        let own = |column: &str| PaperPrompt { column: column.to_owned(), text: "Is it sharp?".to_owned() };
        let [f_a, f_b] = &paper::features().prompts[..] else { panic!("the paper has two prompts") };
        assert!(is_paper(&[f_a.clone(), f_b.clone()]));
        assert!(is_paper(&[f_b.clone(), own("sharp"), f_a.clone()]), "the head reads f_a and f_b alone");
        assert!(!is_paper(&[f_a.clone(), own("f_b")]));
        assert!(!is_paper(&[own("f_a"), own("f_b")]));
        let swapped = [
            PaperPrompt { column: "f_b".to_owned(), ..f_a.clone() },
            PaperPrompt { column: "f_a".to_owned(), ..f_b.clone() },
        ];
        assert!(!is_paper(&swapped));
        assert!(!is_of_the_paper(&record(extractors, serde_json::Value::Null, json!({}))), "what it asks is not known");

        let paper = || described(&[f_a.clone(), f_b.clone()]);
        assert!(!is_of_the_paper(&record(["mplug-owl2", "nss"], paper(), json!({}))));
        assert!(!is_of_the_paper(&record(["dinov2-s14", "maniqa"], paper(), json!({}))));
        assert!(is_of_the_paper(&record(extractors, paper(), json!({ "gate": "sigmoid" }))));
        assert!(!is_of_the_paper(&record(extractors, paper(), json!({ "gate": "concat" }))));
        assert!(!is_of_the_paper(&record(extractors, paper(), json!({ "inputs": ["f_1"] }))));
        let mut smaller = record(extractors, paper(), json!({}));
        smaller.quality.settings["config"]["embed_dim"] = json!(384);
        assert!(!is_of_the_paper(&smaller));
    }
}
