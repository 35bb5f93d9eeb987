//! The page of a night: are the scores of a dataset as they should be, and what do its best and worst images look like?
//!
//! Reads `images`, `scores`, `gates`, `rejects`, and the same of earlier nights. A night is a dataset, or the dataset that a
//! corpus' night is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;

use crate::gates::{self, Gates};
use crate::thumbnail::Shown;
use crate::{Report, ReportError, mean, quantiles, sorted};
use agiqa_judge::check::drift::{Drift, Histogram};
use agiqa_judge::check::{self, CheckSettings, Checked, Checking, Compared, Counts, Rejected};
use agiqa_judge::metrics::BootstrapSettings;
use agiqa_judge::scorer::{self, ScoredImages, Scorer, ScorerError, Scores};
use agiqa_judge::select::{Gain, Ranked, gain, ranked};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::{PartitionName, images};

mod view;

/// Examples of each kind of reject.
const N_EXAMPLES: usize = 3;

/// Groups of images that are shown as examples of a choice.
const N_GROUPS: usize = 5;

/// What a page of a night shows.
#[derive(Clone, Debug)]
pub struct NightSettings {
    /// The dataset.
    pub dataset: PartitionName,
    /// What gives the scores.
    pub scorer: Scorer,
    /// Earlier nights, oldest first.
    pub against: Vec<PartitionName>,
    /// The one of them that scores are compared with.
    pub previous: Option<PartitionName>,
    /// Where the bins of scores are; `None` if the scorer or the scores decide.
    pub scale: Option<RangeInclusive<f64>>,
    /// The checks.
    pub checks: Vec<CheckSettings>,
    /// Number of the best and of the worst images that are shown.
    pub n_shown: usize,
    /// Whether these have thumbnails.
    pub has_thumbnails: bool,
}

/// The numbers of a page.
#[derive(Clone, Debug, Serialize)]
struct Night {
    page: &'static str,
    schema: u32,
    agiqa_version: &'static str,
    dataset: PartitionName,
    scorer: PartitionName,
    against: Option<PartitionName>,
    images: Counts,
    scores: Distribution,
    checks: Vec<Checked>,
    drift: Option<Difference>,
    nights: Vec<NightLine>,
    generators: Vec<GeneratorLine>,
    rejects: Vec<RejectKind>,
    best: Vec<Shown>,
    worst: Vec<Shown>,
    selection: Option<Choice>,
    gates: Option<Gates>,
}

/// The distribution of scores, in bins from `low`; a first and a last bin hold what lies outside.
#[derive(Clone, Debug, Serialize)]
struct Distribution {
    n: usize,
    mean: Option<f64>,
    min: f64,
    p10: f64,
    p50: f64,
    p90: f64,
    max: f64,
    bin_low: f64,
    bin_width: f64,
    counts: Vec<u64>,
    counts_before: Option<Vec<u64>>,
}

/// How the scores differ from those of another night.
#[derive(Clone, Copy, Debug, Serialize)]
struct Difference {
    n: u64,
    n_before: u64,
    psi: f64,
    psi_null_p99: f64,
    ks_d: f64,
    ks_null_p99: f64,
    w1: f64,
}

/// One of the nights.
#[derive(Clone, Debug, Serialize)]
struct NightLine {
    night: PartitionName,
    n: usize,
    n_rejected: f64,
    mean: Option<f64>,
    p10: f64,
    p50: f64,
    p90: f64,
    /// Population stability index against the night before.
    psi: Option<f64>,
}

/// One generator.
#[derive(Clone, Debug, Serialize)]
struct GeneratorLine {
    generator: String,
    n: usize,
    mean: f64,
    mean_before: Option<f64>,
    /// `mean` minus `mean_before`.
    change: Option<f64>,
    /// 10, 25, 50, 75 and 90 % quantiles.
    quantiles: [f64; 5],
}

/// Rejects of one stage and kind.
#[derive(Clone, Debug, Serialize)]
struct RejectKind {
    stage: String,
    kind: String,
    n: usize,
    /// Whether the night before had none of this kind; `None` on a first night.
    is_new: Option<bool>,
    examples: Vec<String>,
}

/// What choosing the best image of each group is worth.
#[derive(Clone, Debug, Serialize)]
struct Choice {
    by: &'static str,
    n_groups: usize,
    gain: Gain,
    gain_mos: Gain,
    uncertain_below: Option<f64>,
    n_uncertain: Option<usize>,
    /// Quantiles of the margins at 10, 50 and 90 %.
    margins: [f64; 3],
    examples: Vec<ChoiceLine>,
}

/// One group's choice.
#[derive(Clone, Debug, Serialize)]
struct ChoiceLine {
    group: String,
    chosen: String,
    score: f64,
    margin: Option<f64>,
    n_candidates: usize,
}

/// One of the nights, with the scores of its rows.
struct OneNight {
    name: PartitionName,
    scores: Vec<f64>,
    n_rejected: f64,
}

impl OneNight {
    fn histogram(&self, scale: &RangeInclusive<f64>) -> Histogram {
        Histogram::of(self.scores.iter().copied(), scale)
    }
}

/// Scores by generator.
fn of_generators(scored: &ScoredImages) -> BTreeMap<&str, Vec<f64>> {
    let mut generators: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for &row in &scored.rows {
        if let Some(score) = scored.score(row) {
            let generator = scored.images.rows[row].generator.as_deref();
            generators.entry(generator.unwrap_or("unknown")).or_default().push(score);
        }
    }
    generators
}

/// Makes the page. Scores, gates and rejects are read once, for all nights; of nights before the last, only the ids of their
/// images.
///
/// # Errors
/// Fails if a dataset or the scorer does not exist, if it has scored no image, or if a table is broken.
pub(crate) fn report(store: &Store, settings: &NightSettings, records: &Runs) -> Result<Report, ReportError> {
    let NightSettings { dataset, scorer, .. } = settings;
    let scores = Arc::new(Scores::read(store, scorer, records)?);
    let rejected = Rejected::read(store)?;
    let (now, counts) = check::read(store, dataset, &scores, &rejected)?;
    let before = |name: &PartitionName| ScoredImages::of(store, name, None, scores.clone());
    let before = settings.previous.as_ref().map(before).transpose()?;
    let test = check::test_part(store, &scores, scorer, records, &settings.checks)?;
    let what = settings.previous.as_ref().map(|name| format!("`{name}`")).unwrap_or_default();
    let previous = before.as_ref().map(|scored| Compared { what: &what, scored });
    let checking = Checking { now: &now, counts, previous, test: test.as_ref(), scale: settings.scale.clone() };
    let scale = checking.scale();
    let nights = nights(store, settings, &rejected, (&now, counts), before.as_ref())?;
    let is_previous = |night: &&OneNight| Some(&night.name) == settings.previous.as_ref();
    let (tonight, last) = (&nights[nights.len() - 1], nights.iter().find(is_previous));
    let ids: HashSet<ImageId> = now.images.rows.iter().map(|row| row.image_id).collect();
    let of_image = gates::read(store, &crate::records_of(store, scorer, records)?, |id| ids.contains(id))?;
    let weighed = now.rows.iter().filter_map(|&row| {
        let image = &now.images.rows[row];
        Some((image.generator.as_deref(), now.score(row)?, *of_image.get(&image.image_id)?))
    });
    let shown = |is_best| shown(&now, settings, &of_image, is_best);
    let night = Night {
        page: "night",
        schema: crate::SCHEMA,
        agiqa_version: env!("CARGO_PKG_VERSION"),
        dataset: dataset.clone(),
        scorer: scores.scorer.clone(),
        against: settings.previous.clone(),
        images: counts,
        scores: distribution(tonight, last, &scale),
        checks: checking.run(&settings.checks),
        drift: last.and_then(|last| difference(&tonight.histogram(&scale), &last.histogram(&scale))),
        nights: lines(&nights, &scale),
        generators: generators(&now, before.as_ref()),
        rejects: reject_kinds(&rejected, dataset, settings.previous.as_ref()),
        best: shown(true),
        worst: shown(false),
        selection: choice(&now, "prompt").or_else(|| choice(&now, "group_id")),
        gates: gates::gates(weighed.collect()),
    };
    Ok(Report::new(view::html(&night), &night, tonight.scores.len()))
}

/// The nights, oldest first. The last is tonight.
fn nights(
    store: &Store,
    settings: &NightSettings,
    rejected: &Rejected,
    (now, counts): (&ScoredImages, Counts),
    before: Option<&ScoredImages>,
) -> Result<Vec<OneNight>, ReportError> {
    let scores = &now.scores;
    let mut nights = Vec::with_capacity(settings.against.len() + 1);
    for name in &settings.against {
        let before = before.filter(|_| Some(name) == settings.previous.as_ref());
        let ids: Vec<ImageId> = match before {
            Some(before) => before.images.rows.iter().map(|row| row.image_id).collect(),
            None => images::ids(store, name)?,
        };
        let of_image: Vec<f64> = ids.iter().filter_map(|id| scores.of_image.get(id).copied()).collect();
        if of_image.is_empty() {
            let (scorer, dataset) = (scores.scorer.clone(), name.clone());
            let nothing = ScorerError::NoScores { scorer, dataset };
            return Err(if ids.is_empty() { scorer::no_dataset(store, name)? } else { nothing }.into());
        }
        let counts = rejected.counts(name, ids.into_iter(), |id| scores.of_image.contains_key(id));
        nights.push(OneNight { name: name.clone(), scores: of_image, n_rejected: counts.n_rejected });
    }
    let (name, scores) = (settings.dataset.clone(), now.all_scores().collect());
    nights.push(OneNight { name, scores, n_rejected: counts.n_rejected });
    Ok(nights)
}

fn distribution(now: &OneNight, before: Option<&OneNight>, scale: &RangeInclusive<f64>) -> Distribution {
    let histogram = now.histogram(scale);
    let all = sorted(now.scores.clone());
    let [min, p10, p50, p90, max] = quantiles(&all, [0.0, 0.1, 0.5, 0.9, 1.0]);
    Distribution {
        n: all.len(),
        mean: mean(&all),
        min,
        p10,
        p50,
        p90,
        max,
        bin_low: *scale.start(),
        bin_width: histogram.width,
        counts: histogram.counts,
        counts_before: before.map(|before| before.histogram(scale).counts),
    }
}

fn difference(now: &Histogram, before: &Histogram) -> Option<Difference> {
    let Drift { psi, psi_null_p99, ks_d, ks_null_p99, w1 } = Drift::between(now, before)?;
    Some(Difference { n: now.n(), n_before: before.n(), psi, psi_null_p99, ks_d, ks_null_p99, w1 })
}

fn lines(nights: &[OneNight], scale: &RangeInclusive<f64>) -> Vec<NightLine> {
    let histograms: Vec<Histogram> = nights.iter().map(|night| night.histogram(scale)).collect();
    let line = |(index, night): (usize, &OneNight)| {
        let [p10, p50, p90] = quantiles(&sorted(night.scores.clone()), [0.1, 0.5, 0.9]);
        let before = index.checked_sub(1).map(|index| &histograms[index]);
        NightLine {
            night: night.name.clone(),
            n: night.scores.len(),
            n_rejected: night.n_rejected,
            mean: mean(&night.scores),
            p10,
            p50,
            p90,
            psi: before.and_then(|before| difference(&histograms[index], before)).map(|difference| difference.psi),
        }
    };
    nights.iter().enumerate().map(line).collect()
}

/// The generators of the night, the greatest drop first.
fn generators(now: &ScoredImages, before: Option<&ScoredImages>) -> Vec<GeneratorLine> {
    let before = before.map(of_generators).unwrap_or_default();
    let line = |(generator, scores): (&str, Vec<f64>)| {
        let scores = sorted(scores);
        // A generator has an image.
        let mean = mean(&scores).unwrap_or_default();
        let mean_before = before.get(generator).and_then(|scores| crate::mean(scores));
        GeneratorLine {
            generator: generator.to_owned(),
            n: scores.len(),
            mean,
            mean_before,
            change: mean_before.map(|before| mean - before),
            quantiles: quantiles(&scores, [0.1, 0.25, 0.5, 0.75, 0.9]),
        }
    };
    let mut lines: Vec<GeneratorLine> = of_generators(now).into_iter().map(line).collect();
    let change = |line: &GeneratorLine| line.change.unwrap_or(f64::INFINITY);
    lines.sort_by(|a, b| change(a).total_cmp(&change(b)).then(a.mean.total_cmp(&b.mean)));
    lines
}

fn reject_kinds(rejected: &Rejected, dataset: &PartitionName, before: Option<&PartitionName>) -> Vec<RejectKind> {
    let before: Option<BTreeSet<(&str, &str)>> = before
        .map(|before| rejected.of_dataset(before).map(|(stage, row)| (stage.as_str(), row.kind.as_str())).collect());
    let mut kinds: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (stage, row) in rejected.of_dataset(dataset) {
        let what = row.path.clone().or_else(|| row.image_id.map(|id| id.to_string())).unwrap_or_default();
        let example = crate::excerpt(&format!("{what}: {}", row.message), 300);
        kinds.entry((stage, &row.kind)).or_default().push(example);
    }
    let kind = |((stage, kind), mut examples): ((&str, &str), Vec<String>)| {
        examples.sort();
        let n = examples.len();
        examples.truncate(N_EXAMPLES);
        let is_new = before.as_ref().map(|before| !before.contains(&(stage, kind)));
        RejectKind { stage: stage.to_owned(), kind: kind.to_owned(), n, is_new, examples }
    };
    let mut kinds: Vec<RejectKind> = kinds.into_iter().map(kind).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.n));
    kinds
}

/// The best or the worst images. Equal scores are in the order of ids; copies of an image are shown once.
fn shown(
    now: &ScoredImages,
    settings: &NightSettings,
    of_image: &HashMap<ImageId, gates::Weights>,
    is_best: bool,
) -> Vec<Shown> {
    let images = &now.images.rows;
    let mut rows: Vec<(f64, usize)> = now.rows.iter().filter_map(|&row| Some((now.score(row)?, row))).collect();
    let by_score = |a: &(f64, usize), b: &(f64, usize)| if is_best { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) };
    rows.sort_by(|a, b| {
        by_score(a, b).then_with(|| images[a.1].image_id.cmp(&images[b.1].image_id)).then(a.1.cmp(&b.1))
    });
    rows.dedup_by_key(|(_, row)| images[*row].image_id);
    let one = |(score, row): (f64, usize)| Shown {
        gates: of_image.get(&images[row].image_id).copied(),
        ..Shown::of(&images[row], score, settings.has_thumbnails)
    };
    rows.into_iter().take(settings.n_shown).map(one).collect()
}

/// What choosing the best of the images with one value of the column `by` is worth; `None` if no value has two images.
fn choice(now: &ScoredImages, by: &'static str) -> Option<Choice> {
    let images = &now.images.rows;
    let values = now.images.column_text(by)?;
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut candidates, mut seen) = (Vec::new(), HashSet::new());
    for &row in &now.rows {
        let value = values[row].as_deref().map(str::trim).filter(|value| !value.is_empty());
        // A copy of an image is no further candidate.
        if let (Some(value), Some(score)) = (value, now.score(row))
            && seen.insert((images[row].image_id, value))
        {
            let n_groups = groups.len();
            candidates.push((*groups.entry(value).or_insert(n_groups), row, score));
        }
    }
    let ranked = ranked(candidates, |row| (images[row].image_id, &images[row].name));
    let chosen: Vec<&Ranked> = ranked.iter().filter(|ranked| ranked.rank == 1 && ranked.n_candidates > 1).collect();
    if chosen.is_empty() {
        return None;
    }
    let bootstrap = BootstrapSettings::default();
    let uncertain_below = now.scores.rmse.map(|rmse| rmse / std::f64::consts::SQRT_2);
    let margins = sorted(chosen.iter().filter_map(|ranked| ranked.margin).collect());
    let mut clearest = chosen.clone();
    clearest.sort_by(|a, b| b.margin.unwrap_or_default().total_cmp(&a.margin.unwrap_or_default()));
    let line = |ranked: &&Ranked| ChoiceLine {
        group: crate::excerpt(values[ranked.row].as_deref().unwrap_or_default(), 120),
        chosen: crate::excerpt(&images[ranked.row].name, 80),
        score: ranked.score,
        margin: ranked.margin,
        n_candidates: ranked.n_candidates,
    };
    Some(Choice {
        by,
        n_groups: chosen.len(),
        gain: gain(&ranked, 1, |ranked| Some(ranked.score), &bootstrap),
        gain_mos: gain(&ranked, 1, |ranked| images[ranked.row].mos, &bootstrap),
        uncertain_below,
        n_uncertain: uncertain_below.map(|limit| margins.iter().filter(|margin| **margin < limit).count()),
        margins: quantiles(&margins, [0.1, 0.5, 0.9]),
        examples: clearest.iter().take(N_GROUPS).map(line).collect(),
    })
}
