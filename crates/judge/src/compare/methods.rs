//! Every method that has scored one dataset, in a common form: a score per image, and a direction.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::CompareError;
use crate::evaluate::listed;
use crate::paper;
use agiqa_store::identity::{FingerprintBuilder, ImageId};
use agiqa_store::metric::N_PAPER;
use agiqa_store::store::{Store, part};
use agiqa_store::tables::comparison::Judged;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::scores::{self, Direction, ScoreSet, ScorerKind};
use agiqa_store::tables::{PartitionName, images, splits};

/// One method's scores.
#[derive(Clone, Debug)]
pub(super) struct MethodScores {
    /// Name, extended if other scorers have the same name.
    pub(super) name: String,
    /// Name to look up in the paper's Table 1.
    pub(super) paper_name: String,
    /// Kind of the scorer.
    pub(super) kind: ScorerKind,
    /// Whether lower or higher scores mean better quality.
    pub(super) direction: Direction,
    /// Score per image.
    pub(super) of_image: HashMap<ImageId, f64>,
}

/// A method that has scores of the dataset but cannot be compared, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) method: String,
    pub(super) reason: String,
}

/// The judged images: id and MOS, in the order of the dataset's table. Duplicate images of the table stay duplicates.
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

/// Every method that has scored at least one of the judged images, and the methods that must be left out.
pub(super) fn all(
    store: &Store,
    records: &[Arc<RunRecord>],
    judged: &Judged,
    ids: &[ImageId],
) -> Result<(Vec<MethodScores>, Vec<LeftOut>), CompareError> {
    let wanted: HashSet<ImageId> = ids.iter().copied().collect();
    let sets = ScoreSet::list(store)?;
    let names: Vec<String> = sets.iter().map(name).collect();
    let of_judged = |mut scores: HashMap<ImageId, f64>| {
        scores.retain(|id, _| wanted.contains(id));
        scores
    };
    let (mut methods, mut left_out) = (Vec::new(), Vec::new());
    let mut add = |method: MethodScores, reason: Option<String>| match reason {
        _ if method.of_image.is_empty() => {}
        Some(reason) => left_out.push(LeftOut { method: method.name, reason }),
        None => methods.push(method),
    };
    for (set, name) in sets.iter().zip(&names) {
        // Score sets of other parameters or versions may have the same name. The fingerprint then distinguishes them.
        let is_alone = names.iter().filter(|other| *other == name).count() == 1;
        let name = if is_alone { name.clone() } else { format!("{name} [{}]", set.fingerprint.short()) };
        let of_image = of_judged(set.read(store)?);
        let reason = run_that_made(set, records).and_then(|record| reason_to_leave_out(record, judged));
        let (paper_name, kind, direction) = (set.scorer.to_string(), set.kind, set.direction);
        add(MethodScores { name, paper_name, kind, direction, of_image }, reason);
    }
    for record in records {
        let of_image = of_judged(scores::read_of_run(store, record)?);
        let name = record.run.to_string();
        // A trained network of another system has that system's row.
        let trained = record.settings["rater"]["network"].as_str();
        let other = trained.map_or_else(|| name.clone(), str::to_owned);
        let paper_name = if is_of_the_paper(record) { paper::METHOD.to_owned() } else { other };
        let (kind, direction) = (ScorerKind::Run, Direction::Higher);
        add(MethodScores { name, paper_name, kind, direction, of_image }, reason_to_leave_out(record, judged));
    }
    left_out.sort_by(|a, b| a.method.cmp(&b.method));
    Ok((methods, left_out))
}

/// Name of a method or rating, with the setting that resizes its images.
fn name(set: &ScoreSet) -> String {
    let resize = set.settings.get("resize").and_then(|resize| resize.as_str()).filter(|resize| *resize != "none");
    match (set.kind, resize) {
        (ScorerKind::Rating, _) => format!("{} rating", set.scorer),
        (_, Some(resize)) => format!("{} ({resize})", set.scorer),
        (_, None) => set.scorer.to_string(),
    }
}

/// The joint training whose network rated the images of `set`, if one did.
fn run_that_made<'a>(set: &ScoreSet, records: &'a [Arc<RunRecord>]) -> Option<&'a RunRecord> {
    let is_its_network = |record: &&Arc<RunRecord>| {
        let quality = record.quality().filter(|_| record.recipe == models::JOINT);
        quality.is_some_and(|quality| quality.extractor == set.scorer && quality.fingerprint == set.fingerprint)
    };
    records.iter().find(is_its_network).filter(|_| set.kind == ScorerKind::Rating).map(Arc::as_ref)
}

/// The reason why a run cannot be judged, if any. A run has learned from the other parts of its own split, so it can
/// only be judged on that split.
fn reason_to_leave_out(record: &RunRecord, judged: &Judged) -> Option<String> {
    let own = &record.split;
    match &judged.part {
        _ if record.dataset != judged.dataset => None,
        Some((split, _)) if split == own => None,
        Some((split, _)) => Some(format!("trained on another split than `{split}`")),
        None => Some(format!("trained on a part of these images: name its split, `{own}`")),
    }
}

/// Whether a run is the paper's complete method. An ablation or a run on other features has no row in Table 1.
fn is_of_the_paper(record: &RunRecord) -> bool {
    let is_whole = record.settings.get("inputs").is_none() && record.settings["gate"] != "concat";
    is_whole
        && !record.is_kernel_ridge()
        && record.semantic().is_some_and(paper::is_semantic_set)
        && record.quality().is_some_and(paper::is_quality_set)
}

/// The paper's figures of `method` on `dataset`.
pub(super) fn paper_figures(judged: &Judged, method: &MethodScores) -> [Option<f64>; N_PAPER] {
    paper::row(judged.dataset.as_str(), &method.paper_name).map_or([None; N_PAPER], paper::PaperRow::figures)
}

/// Adds every input of a comparison to `builder`.
pub(super) fn hash(
    store: &Store,
    records: &[Arc<RunRecord>],
    judged: &Judged,
    builder: &mut FingerprintBuilder,
) -> Result<(), CompareError> {
    for set in ScoreSet::list(store)? {
        builder.json("set", &set);
        set.hash(store, builder)?;
    }
    for record in records {
        builder.json("run", record);
        scores::hash_of_run(store, record, builder)?;
    }
    let split = judged.part.as_ref().map(|(split, _)| splits::path(&judged.dataset, split));
    let images = part::list(store, &images::prefix(&judged.dataset))?.into_iter().map(|object| object.path);
    for path in images.chain(split) {
        let content = store.get_if_exists(&path)?.unwrap_or_default();
        builder.field(&path, blake3::hash(&content).as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::paper::PaperPrompt;
    use agiqa_store::identity::Fingerprint;
    use agiqa_store::tables::features::{FeatureKind, FeatureSet};
    use agiqa_store::tables::models::PartCounts;

    /// A run on features of `extractors`. `prompts` describes the semantic features.
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
            schema_version: models::RECORD_VERSION,
            run: name("run"),
            group: name("group"),
            dataset: name("agiqa-3k"),
            split: name("random-0"),
            fold: 0,
            seed: 0,
            fingerprint,
            recipe: "head".to_owned(),
            inputs: models::fusion_inputs(
                &set(extractors[0], FeatureKind::Semantic, json!({ "prompts": prompts })),
                &set(extractors[1], FeatureKind::Quality, json!({ "config": paper::features().config })),
            ),
            settings,
            parts: [PartCounts::default(); 3],
            chosen_by: "last".to_owned(),
            best_epoch: 1,
            epochs: Vec::new(),
            ridge: None,
            kernel_ridge: None,
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
        smaller.inputs[1].features.settings["config"]["embed_dim"] = json!(384);
        assert!(!is_of_the_paper(&smaller));
    }
}
