//! The page of a night: are the scores of a dataset as they should be, and what do its best and worst images look like?
//!
//! Reads `images`, `scores`, `gates`, `rejects`, and the same of earlier nights. A night is a dataset, or the dataset that a
//! corpus' night is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::gates::{self, Gates};
use crate::thumbnail::Shown;
use crate::{Report, ReportError, mean, quantiles, sorted};
use agiqa_judge::check::drift::{Drift, Histogram};
use agiqa_judge::check::{self, CheckSettings, Checked, Counts};
use agiqa_judge::metrics::BootstrapSettings;
use agiqa_judge::scorer::{ScoredImages, Scorer};
use agiqa_judge::select::{Gain, Ranked, gain, ranked};
use agiqa_store::store::Store;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::{PartitionName, rejects};

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
    /// Earlier nights, oldest first. The last is the one that scores are compared with.
    pub against: Vec<PartitionName>,
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
    scores: Scores,
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
struct Scores {
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

/// A night with its scores.
struct Read {
    name: PartitionName,
    scored: ScoredImages,
    scores: Vec<f64>,
    counts: Counts,
}

impl Read {
    fn of(store: &Store, name: &PartitionName, scorer: &Scorer, records: &Runs) -> Result<Self, ReportError> {
        let scored = ScoredImages::read(store, name, None, scorer, records)?;
        let scores = scored.rows.iter().filter_map(|row| scored.score(*row)).collect();
        let counts = check::counts(store, name, &scored)?;
        Ok(Self { name: name.clone(), scored, scores, counts })
    }

    /// Scores by generator.
    fn of_generators(&self) -> BTreeMap<&str, Vec<f64>> {
        let mut generators: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for &row in &self.scored.rows {
            if let Some(score) = self.scored.score(row) {
                let generator = self.scored.images.rows[row].generator.as_deref();
                generators.entry(generator.unwrap_or("unknown")).or_default().push(score);
            }
        }
        generators
    }

    /// The scale of `self` and `before` together, as `agiqa check` has it.
    fn histograms(&self, before: Option<&Self>) -> (f64, Histogram, Option<Histogram>) {
        let known = || before.into_iter().flat_map(|night| &night.scores).chain(&self.scores).copied().collect();
        let scale = self.scored.scale.clone().unwrap_or_else(|| check::middle(known()));
        let of = |night: &Self| Histogram::of(night.scores.iter().copied(), &scale);
        (*scale.start(), of(self), before.map(of))
    }

    fn difference(&self, before: &Self) -> Option<Difference> {
        let (_, now, then) = self.histograms(Some(before));
        let then = then?;
        let Drift { psi, psi_null_p99, ks_d, ks_null_p99, w1 } = Drift::between(&now, &then)?;
        Some(Difference { n: now.n(), n_before: then.n(), psi, psi_null_p99, ks_d, ks_null_p99, w1 })
    }
}

/// Makes the page.
///
/// # Errors
/// Fails if a dataset or the scorer does not exist, if it has scored no image, or if a table is broken.
pub(crate) fn report(store: &Store, settings: &NightSettings, records: &Runs) -> Result<Report, ReportError> {
    let read = |name: &PartitionName| Read::of(store, name, &settings.scorer, records);
    let earlier = settings.against.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let (now, before) = (read(&settings.dataset)?, earlier.last());
    let of_image = gates::read(store, &crate::records_of(store, &settings.scorer, records)?)?;
    let weighed = now.scored.rows.iter().filter_map(|&row| {
        let image = &now.scored.images.rows[row];
        Some((image.generator.as_deref(), now.scored.score(row)?, *of_image.get(&image.image_id)?))
    });
    let checks = check::check(store, &settings.dataset, settings.against.last(), &settings.scorer, &settings.checks)?;
    let shown = |is_best| shown(&now, settings, &of_image, is_best);
    let night = Night {
        page: "night",
        schema: crate::SCHEMA,
        agiqa_version: env!("CARGO_PKG_VERSION"),
        dataset: settings.dataset.clone(),
        scorer: now.scored.scorer.clone(),
        against: before.map(|night| night.name.clone()),
        images: now.counts,
        scores: scores(&now, before),
        checks,
        drift: before.and_then(|before| now.difference(before)),
        nights: nights(&earlier, &now),
        generators: generators(&now, before),
        rejects: reject_kinds(store, &settings.dataset, settings.against.last())?,
        best: shown(true),
        worst: shown(false),
        selection: choice(&now, "prompt").or_else(|| choice(&now, "group_id")),
        gates: gates::gates(weighed.collect()),
    };
    Ok(Report::new(view::html(&night), &night, now.scores.len()))
}

fn scores(now: &Read, before: Option<&Read>) -> Scores {
    let (bin_low, histogram, histogram_before) = now.histograms(before);
    let all = sorted(now.scores.clone());
    let [min, p10, p50, p90, max] = quantiles(&all, [0.0, 0.1, 0.5, 0.9, 1.0]);
    Scores {
        n: all.len(),
        mean: mean(&all),
        min,
        p10,
        p50,
        p90,
        max,
        bin_low,
        bin_width: histogram.width,
        counts: histogram.counts,
        counts_before: histogram_before.map(|histogram| histogram.counts),
    }
}

fn nights(earlier: &[Read], now: &Read) -> Vec<NightLine> {
    let all: Vec<&Read> = earlier.iter().chain([now]).collect();
    let line = |(index, night): (usize, &&Read)| {
        let [p10, p50, p90] = quantiles(&sorted(night.scores.clone()), [0.1, 0.5, 0.9]);
        let before = index.checked_sub(1).map(|index| all[index]);
        NightLine {
            night: night.name.clone(),
            n: night.scores.len(),
            n_rejected: night.counts.n_rejected,
            mean: mean(&night.scores),
            p10,
            p50,
            p90,
            psi: before.and_then(|before| night.difference(before)).map(|difference| difference.psi),
        }
    };
    all.iter().enumerate().map(line).collect()
}

/// The generators of the night, the greatest drop first.
fn generators(now: &Read, before: Option<&Read>) -> Vec<GeneratorLine> {
    let before = before.map(Read::of_generators).unwrap_or_default();
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
    let mut lines: Vec<GeneratorLine> = now.of_generators().into_iter().map(line).collect();
    let change = |line: &GeneratorLine| line.change.unwrap_or(f64::INFINITY);
    lines.sort_by(|a, b| change(a).total_cmp(&change(b)).then(a.mean.total_cmp(&b.mean)));
    lines
}

fn reject_kinds(
    store: &Store,
    dataset: &PartitionName,
    before: Option<&PartitionName>,
) -> Result<Vec<RejectKind>, ReportError> {
    let of = |dataset| {
        let rows = rejects::of_dataset(store, dataset)?;
        Ok::<_, ReportError>(rows.into_iter().filter(|(stage, _)| !check::is_of_judging(stage)))
    };
    let before: Option<BTreeSet<(String, String)>> = match before {
        Some(before) => Some(of(before)?.map(|(stage, row)| (stage, row.kind)).collect()),
        None => None,
    };
    let mut kinds: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (stage, row) in of(dataset)? {
        let what = row.path.or_else(|| row.image_id.map(|id| id.to_string())).unwrap_or_default();
        let example = crate::excerpt(&format!("{what}: {}", row.message), 300);
        kinds.entry((stage, row.kind)).or_default().push(example);
    }
    let kind = |((stage, kind), mut examples): ((String, String), Vec<String>)| {
        examples.sort();
        let n = examples.len();
        examples.truncate(N_EXAMPLES);
        let is_new = before.as_ref().map(|before| !before.contains(&(stage.clone(), kind.clone())));
        RejectKind { stage, kind, n, is_new, examples }
    };
    let mut kinds: Vec<RejectKind> = kinds.into_iter().map(kind).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.n));
    Ok(kinds)
}

/// The best or the worst images. Equal scores are in the order of ids; copies of an image are shown once.
fn shown(
    now: &Read,
    settings: &NightSettings,
    of_image: &HashMap<agiqa_store::identity::ImageId, gates::Weights>,
    is_best: bool,
) -> Vec<Shown> {
    let images = &now.scored.images.rows;
    let mut rows: Vec<(f64, usize)> =
        now.scored.rows.iter().filter_map(|&row| Some((now.scored.score(row)?, row))).collect();
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
fn choice(now: &Read, by: &'static str) -> Option<Choice> {
    let images = &now.scored.images.rows;
    let values = now.scored.images.column_text(by)?;
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut candidates, mut seen) = (Vec::new(), HashSet::new());
    for &row in &now.scored.rows {
        let value = values[row].as_deref().map(str::trim).filter(|value| !value.is_empty());
        // A copy of an image is no further candidate.
        if let (Some(value), Some(score)) = (value, now.scored.score(row))
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
    let uncertain_below = now.scored.rmse.map(|rmse| rmse / std::f64::consts::SQRT_2);
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
