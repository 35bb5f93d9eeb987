//! The page of a group of runs: how good are its scores, where, against what, and what are they made of?
//!
//! Reads `images`, `splits`, `scores`, `gates`, `metrics`, `comparison`, `experiments`, `train_log` and the records of the
//! runs. Pictures of single images are of those that a run did not learn from: each image has the mean score of the runs in
//! whose test part it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::chart::{Axis, Cells, MAX_POINTS};
use crate::gates::{self, Gates};
use crate::thumbnail::Shown;
use crate::{Report, ReportError, mean};
use agiqa_judge::metrics::{self, BootstrapSettings, Logistic4, PairedSrcc};
use agiqa_judge::scorer::Scorer;
use agiqa_store::metric::Estimate;
use agiqa_store::store::Store;
use agiqa_store::tables::metrics::MetricsRow;
use agiqa_store::tables::models::{self, RunRecord, Runs, StrengthRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, train_log};

mod held_out;

mod tables;

mod view;

use held_out::{HeldOut, HeldOuts};
use tables::PaperTable;

/// Images on which two methods' errors are compared, as in the paper's Figure 6.
const N_WORST: usize = 300;

/// Width of a bin of errors, on the MOS scale, as in the paper's Figure 6.
const ERROR_BIN: f64 = 0.1;

/// Images on which the baseline is most wrong that are shown.
const N_SHOWN: usize = 6;

/// Words that form subsets where none are named.
const N_WORDS: usize = 6;

/// Fewest images of such a subset.
const MIN_IMAGES: usize = 10;

/// Words without meaning for an image.
const STOP_WORDS: [&str; 10] = ["with", "from", "that", "this", "into", "over", "very", "their", "style", "image"];

/// Resampled values that the intervals of a subset cost at most.
const MAX_DRAWS: usize = 20_000_000;

/// What a page of runs shows.
#[derive(Clone, Debug)]
pub struct RunsSettings {
    /// The run or group.
    pub scorer: Scorer,
    /// The method whose errors are compared: `name`, `name@fingerprint`, or `generator-mean`. Default: the method with the
    /// greatest SRCC.
    pub baseline: Option<String>,
    /// Words; images whose prompt holds one are a subset. Default: the commonest of the test images' prompts.
    pub words: Vec<String>,
    /// Whether images have thumbnails.
    pub has_thumbnails: bool,
}

/// The numbers of a page.
#[derive(Clone, Debug, Serialize)]
struct Group {
    page: &'static str,
    schema: u32,
    agiqa_version: &'static str,
    name: PartitionName,
    dataset: PartitionName,
    runs: Vec<RunLine>,
    metrics: Vec<MetricsRow>,
    scatter: Scatter,
    baseline: Option<String>,
    subsets: Vec<Subset>,
    errors: Option<Errors>,
    most_wrong: Vec<Shown>,
    training: Vec<Curve>,
    strengths: Vec<StrengthRecord>,
    tables: Vec<PaperTable>,
    generators: Vec<GeneratorLine>,
    gates: Option<Gates>,
    provenance: Vec<Provenance>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
struct RunLine {
    run: PartitionName,
    recipe: String,
    split: PartitionName,
    seed: u32,
    n_images: [usize; 3],
    chosen_by: String,
    best_epoch: u32,
    fingerprint: String,
}

/// Scores against MOS, with the fitted mapping.
#[derive(Clone, Debug, Serialize)]
struct Scatter {
    n: usize,
    /// Parameters of the mapping; none below six images.
    logistic: Option<[f64; 4]>,
    /// Root mean squared error after the mapping.
    rmse: Option<f64>,
    srcc: Option<f64>,
    plcc: Option<f64>,
    /// Lower and upper end of the scores and of the MOS as drawn.
    range: [f64; 4],
    /// Score and MOS of each image, if they are few.
    points: Option<Vec<(f64, f64)>>,
    /// Their number in cells, if they are many.
    cells: Option<Cells>,
}

/// SRCC on some of the images.
#[derive(Clone, Debug, Serialize)]
struct Subset {
    subset: String,
    n: usize,
    srcc: Estimate,
    baseline: Option<Estimate>,
}

/// Absolute errors of two methods on the images where the baseline errs most, in bins from 0.
#[derive(Clone, Debug, Serialize)]
struct Errors {
    n: usize,
    bin_width: f64,
    baseline: Vec<usize>,
    model: Vec<usize>,
    baseline_mean: Option<f64>,
    model_mean: Option<f64>,
}

/// The course of one run's training.
#[derive(Clone, Debug, Serialize)]
struct Curve {
    run: PartitionName,
    epochs: Vec<EpochLine>,
}

/// One epoch.
#[derive(Clone, Copy, Debug, Serialize)]
struct EpochLine {
    epoch: u32,
    loss: f64,
    validation_srcc: Option<f64>,
    validation_plcc: Option<f64>,
}

/// One generator.
#[derive(Clone, Debug, Serialize)]
struct GeneratorLine {
    generator: String,
    n: usize,
    mean_mos: f64,
    mean_score: f64,
    /// Mean score minus mean MOS.
    bias: f64,
}

/// Where a run comes from.
#[derive(Clone, Debug, Serialize)]
struct Provenance {
    run: PartitionName,
    fingerprint: String,
    /// First 16 digits of the hash of the head's file.
    head: Option<String>,
    /// Role, extractor and fingerprint of the features.
    features: Vec<String>,
    settings: serde_json::Value,
    /// Settings of the extractors, with the hashes of their weights.
    extractors: Vec<serde_json::Value>,
    agiqa_version: String,
}

/// Makes the page.
///
/// # Errors
/// Fails if the runs do not exist, have no scored test image, or if a table is broken.
pub(crate) fn report(store: &Store, settings: &RunsSettings, records: &Runs) -> Result<Report, ReportError> {
    let name = match &settings.scorer {
        Scorer::Run(name) | Scorer::Group(name) => name.clone(),
        Scorer::Method(method) => return Err(ReportError::NoTraining { method: method.clone() }),
    };
    let records = crate::records_of(store, &settings.scorer, records)?;
    let held_out = held_out::read(store, &records, &name, settings.baseline.as_deref())?;
    let of_image = gates::read(store, &records, |_| true)?;
    let weighed = held_out.of.iter().filter_map(|one| {
        let image = &held_out.images.rows[one.row];
        Some((image.generator.as_deref(), one.score, *of_image.get(&image.image_id)?))
    });
    let mapped = Mapped::of(&held_out.of);
    let metrics = metrics_of(store, &name, &records)?;
    let dataset = records[0].dataset.clone();
    let group = Group {
        page: "runs",
        schema: crate::SCHEMA,
        agiqa_version: env!("CARGO_PKG_VERSION"),
        runs: records.iter().map(|record| run_line(record)).collect(),
        scatter: scatter(&held_out.of, mapped.model),
        subsets: subsets(&held_out, &settings.words)?,
        errors: errors(&held_out.of, &mapped),
        most_wrong: most_wrong(&held_out, &mapped, settings.has_thumbnails),
        training: records.iter().map(|record| curve(store, record)).collect::<Result<Vec<_>, _>>()?,
        strengths: records
            .iter()
            .filter_map(|record| record.kernel_ridge.as_ref())
            .take(1)
            .flat_map(|found| found.strengths.clone())
            .collect(),
        tables: tables::tables(store, &name, &records, &metrics)?,
        generators: generators(&held_out),
        gates: gates::gates(weighed.collect()),
        provenance: records.iter().map(|record| provenance(store, record)).collect::<Result<Vec<_>, _>>()?,
        baseline: held_out.baseline.clone(),
        name,
        dataset,
        metrics,
    };
    Ok(Report::new(view::html(&group), &group, held_out.of.len()))
}

fn run_line(record: &RunRecord) -> RunLine {
    RunLine {
        run: record.run.clone(),
        recipe: record.recipe.clone(),
        split: record.split.clone(),
        seed: record.seed,
        n_images: record.parts.map(|part| part.n_used),
        chosen_by: record.chosen_by.clone(),
        best_epoch: record.best_epoch,
        fingerprint: record.fingerprint.short(),
    }
}

/// The metrics on the test part: over the runs of a group, or of the only run.
fn metrics_of(store: &Store, name: &PartitionName, records: &[Arc<RunRecord>]) -> Result<Vec<MetricsRow>, ReportError> {
    let mut rows = agiqa_store::tables::metrics::read(store, name)?;
    // A group of one run has the metrics of the run.
    if let (true, [only]) = (rows.is_empty(), records) {
        rows = agiqa_store::tables::metrics::read(store, &only.run)?;
    }
    rows.retain(|row| row.part == Part::Test.as_str());
    Ok(rows)
}

/// The mappings of the scores of model and baseline to the MOS scale.
struct Mapped {
    model: Option<Logistic4>,
    baseline: Option<Logistic4>,
}

impl Mapped {
    fn of(of: &[HeldOut]) -> Self {
        let fit = |score: &dyn Fn(&HeldOut) -> Option<f64>| {
            let (scores, mos): (Vec<f64>, Vec<f64>) = of.iter().filter_map(|one| Some((score(one)?, one.mos))).unzip();
            metrics::fit_logistic4(&scores, &mos)
        };
        Self { model: fit(&|one| Some(one.score)), baseline: fit(&|one| one.baseline) }
    }

    /// Scores of model and baseline on the MOS scale.
    fn both(&self, one: &HeldOut) -> Option<[f64; 2]> {
        Some([self.model?.map(one.score), self.baseline?.map(one.baseline?)])
    }
}

fn scatter(of: &[HeldOut], logistic: Option<Logistic4>) -> Scatter {
    let points: Vec<(f64, f64)> = of.iter().map(|one| (one.score, one.mos)).collect();
    let (scores, mos): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (x, y) = (Axis::over(scores.iter().copied(), "score"), Axis::over(mos.iter().copied(), "MOS"));
    let mapped: Option<Vec<f64>> = logistic.map(|logistic| scores.iter().map(|score| logistic.map(*score)).collect());
    let are_few = points.len() <= MAX_POINTS;
    Scatter {
        n: points.len(),
        logistic: logistic.map(|Logistic4 { b1, b2, b3, b4 }| [b1, b2, b3, b4]),
        rmse: mapped.as_ref().and_then(|mapped| metrics::rmse(mapped, &mos)),
        srcc: metrics::srcc(&scores, &mos),
        plcc: mapped.as_ref().and_then(|mapped| metrics::plcc(mapped, &mos)),
        range: [x.ends(), y.ends()].concat().try_into().expect("two axes have four ends"),
        cells: (!are_few).then(|| Cells::of(&points, &x, &y)),
        points: are_few.then_some(points),
    }
}

/// SRCC on all images, per generator, and on images whose prompt holds a word.
fn subsets(held_out: &HeldOuts, words: &[String]) -> Result<Vec<Subset>, ReportError> {
    let HeldOuts { images, of, .. } = held_out;
    let mut named: Vec<(String, Vec<&HeldOut>)> = vec![("all".to_owned(), of.iter().collect())];
    let mut generators: BTreeMap<&str, Vec<&HeldOut>> = BTreeMap::new();
    for one in of {
        if let Some(generator) = images.rows[one.row].generator.as_deref() {
            generators.entry(generator).or_default().push(one);
        }
    }
    named.extend(generators.into_iter().map(|(generator, of)| (format!("generator={generator}"), of)));
    let mut of_word: BTreeMap<String, Vec<&HeldOut>> = BTreeMap::new();
    for one in of {
        let prompt = images.rows[one.row].prompt.as_deref().unwrap_or_default().to_lowercase();
        // A prompt of any length is looked at up to some point only.
        let found = prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(500);
        found
            .collect::<BTreeSet<_>>()
            .into_iter()
            .for_each(|word| of_word.entry(word.to_owned()).or_default().push(one));
    }
    let wanted: Vec<String> = match words {
        [] => {
            let is_telling = |(word, images): &(&String, &Vec<&HeldOut>)| {
                let n = images.len();
                word.chars().count() >= 4 && n >= MIN_IMAGES && n < of.len() && !STOP_WORDS.contains(&word.as_str())
            };
            let mut common: Vec<(&String, &Vec<&HeldOut>)> = of_word.iter().filter(is_telling).collect();
            common.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(b.0)));
            common.into_iter().take(N_WORDS).map(|(word, _)| word.clone()).collect()
        }
        words => words.iter().map(|word| word.to_lowercase()).collect(),
    };
    let with_word = wanted.into_iter().map(|word| {
        let images = of_word.remove(&word).unwrap_or_default();
        (format!("prompt with “{word}”"), images)
    });
    named.extend(with_word);
    named.into_iter().map(|(name, of)| subset(name, &of)).collect()
}

fn subset(name: String, of: &[&HeldOut]) -> Result<Subset, ReportError> {
    let n = of.len();
    let resamples = u32::try_from(MAX_DRAWS / n.max(1)).unwrap_or(u32::MAX).clamp(100, 1000);
    let bootstrap = BootstrapSettings { resamples, ..BootstrapSettings::default() };
    let mos: Vec<f64> = of.iter().map(|one| one.mos).collect();
    let baseline: Option<Vec<f64>> = of.iter().map(|one| one.baseline).collect();
    let methods: Vec<Vec<f64>> = std::iter::once(of.iter().map(|one| one.score).collect()).chain(baseline).collect();
    let paired = PairedSrcc::of(&methods, &mos, &bootstrap);
    let paired = paired.map_err(|source| ReportError::Metrics { subset: name.clone(), source })?;
    let baseline = (methods.len() > 1).then(|| paired.srcc(1)).filter(|baseline| baseline.value.is_some());
    Ok(Subset { subset: name, n, srcc: paired.srcc(0), baseline })
}

/// The images by the baseline's error, the greatest first, each with the scores of both on the MOS scale.
fn by_baseline_error(of: &[HeldOut], mapped: &Mapped) -> Vec<(HeldOut, [f64; 2])> {
    let mut images: Vec<(HeldOut, [f64; 2])> = of.iter().filter_map(|one| Some((*one, mapped.both(one)?))).collect();
    let error = |(one, [_, baseline]): &(HeldOut, [f64; 2])| (baseline - one.mos).abs();
    images.sort_by(|a, b| error(b).total_cmp(&error(a)).then(a.0.row.cmp(&b.0.row)));
    images
}

fn errors(of: &[HeldOut], mapped: &Mapped) -> Option<Errors> {
    let mut images = by_baseline_error(of, mapped);
    // Of few images, the worse half.
    images.truncate(N_WORST.min(images.len().div_ceil(2)));
    let errors =
        |method: usize| -> Vec<f64> { images.iter().map(|(one, scores)| (scores[method] - one.mos).abs()).collect() };
    let [model, baseline] = [errors(0), errors(1)];
    let greatest = model.iter().chain(&baseline).copied().fold(0.0, f64::max);
    // A MOS scale may be of any width: errors beyond 100 bins share the last.
    let n_bins = ((greatest / ERROR_BIN).floor() as usize + 1).min(100);
    let binned = |errors: &[f64]| {
        let mut counts = vec![0; n_bins];
        errors.iter().for_each(|error| counts[((error / ERROR_BIN) as usize).min(n_bins - 1)] += 1);
        counts
    };
    (!images.is_empty()).then(|| Errors {
        n: images.len(),
        bin_width: ERROR_BIN,
        baseline: binned(&baseline),
        model: binned(&model),
        baseline_mean: mean(&baseline),
        model_mean: mean(&model),
    })
}

fn most_wrong(held_out: &HeldOuts, mapped: &Mapped, has_thumbnails: bool) -> Vec<Shown> {
    let shown = |(one, [model, baseline]): (HeldOut, [f64; 2])| Shown {
        baseline: Some(baseline),
        ..Shown::of(&held_out.images.rows[one.row], model, has_thumbnails)
    };
    by_baseline_error(&held_out.of, mapped).into_iter().take(N_SHOWN).map(shown).collect()
}

fn curve(store: &Store, record: &RunRecord) -> Result<Curve, ReportError> {
    let mut epochs: Vec<EpochLine> = Vec::new();
    for rows in train_log::read(store, &record.run)?.chunk_by(|a, b| a.epoch == b.epoch) {
        let n: f64 = rows.iter().map(|row| row.n_images as f64).sum();
        let loss = rows.iter().map(|row| row.loss * row.n_images as f64).sum::<f64>() / n.max(1.0);
        let last = rows[rows.len() - 1];
        let (validation_srcc, validation_plcc) = (last.validation_srcc, last.validation_plcc);
        epochs.push(EpochLine { epoch: last.epoch, loss, validation_srcc, validation_plcc });
    }
    Ok(Curve { run: record.run.clone(), epochs })
}

fn generators(held_out: &HeldOuts) -> Vec<GeneratorLine> {
    let mut of: BTreeMap<&str, Vec<&HeldOut>> = BTreeMap::new();
    for one in &held_out.of {
        of.entry(held_out.images.rows[one.row].generator.as_deref().unwrap_or("unknown")).or_default().push(one);
    }
    let line = |(generator, images): (&str, Vec<&HeldOut>)| {
        let n = images.len();
        let mean_mos = images.iter().map(|one| one.mos).sum::<f64>() / n as f64;
        let mean_score = images.iter().map(|one| one.score).sum::<f64>() / n as f64;
        GeneratorLine { generator: generator.to_owned(), n, mean_mos, mean_score, bias: mean_score - mean_mos }
    };
    let mut lines: Vec<GeneratorLine> = of.into_iter().map(line).collect();
    lines.sort_by(|a, b| b.mean_mos.total_cmp(&a.mean_mos));
    lines
}

fn provenance(store: &Store, record: &RunRecord) -> Result<Provenance, ReportError> {
    let head = store.get_if_exists(&models::head_path(&record.run))?;
    let feature = |input: &models::RunInput| {
        format!("{}: {}@{}", input.role, input.features.extractor, input.features.fingerprint.short())
    };
    Ok(Provenance {
        run: record.run.clone(),
        fingerprint: record.fingerprint.to_string(),
        head: head.map(|bytes| blake3::hash(&bytes).to_hex()[..16].to_owned()),
        features: record.inputs.iter().map(feature).collect(),
        settings: record.settings.clone(),
        extractors: record.inputs.iter().map(|input| input.features.settings.clone()).collect(),
        agiqa_version: record.agiqa_version.clone(),
    })
}
