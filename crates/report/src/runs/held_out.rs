//! The scores that runs gave to images of their test parts, with the scores of a baseline.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::ReportError;
use agiqa_judge::evaluate::trivial::GroupMeans;
use agiqa_judge::metrics;
use agiqa_judge::scorer::{GENERATOR_MEAN, Scorer, Scores};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::models::{RunRecord, Runs};
use agiqa_store::tables::scores::{self, ScoreSet};
use agiqa_store::tables::splits::{self, Part};

/// An image that at least one run has not learned from.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldOut {
    /// Row in the dataset's table.
    pub(super) row: usize,
    /// Mean score by the runs in whose test part the image is.
    pub(super) score: f64,
    pub(super) mos: f64,
    /// Score by the baseline. Higher is better.
    pub(super) baseline: Option<f64>,
}

/// All of them, with the dataset's table and the baseline's name.
pub(super) struct HeldOuts {
    pub(super) images: Images,
    pub(super) of: Vec<HeldOut>,
    pub(super) baseline: Option<String>,
}

/// Sum and number of values per image.
type Sums = HashMap<ImageId, (f64, f64)>;

fn add(sums: &mut Sums, id: ImageId, value: f64) {
    let (sum, n) = sums.entry(id).or_default();
    (*sum, *n) = (*sum + value, *n + 1.0);
}

/// The held-out images of `records`, which have one dataset. The baseline is `baseline`, by default the method with the
/// greatest SRCC, or else the mean MOS of an image's generator in the training part.
///
/// # Errors
/// Fails if no image is held out, or if the baseline does not exist or has scored none.
pub(super) fn read(
    store: &Store,
    records: &[Arc<RunRecord>],
    name: &PartitionName,
    baseline: Option<&str>,
) -> Result<HeldOuts, ReportError> {
    let Some(dataset) = records.first().map(|record| record.dataset.clone()) else {
        return Err(ReportError::NothingHeldOut { name: name.clone() });
    };
    let images = images::read(store, &dataset)?;
    let (mut sums, mut trivial) = (Sums::new(), Sums::new());
    for record in records {
        let assigned = splits::read(store, &record.dataset, &record.split)?;
        let of_part = |part: Part| -> HashSet<ImageId> {
            let rows = assigned.iter().filter(|row| row.fold == record.fold && row.part == part);
            rows.map(|row| row.image_id).collect()
        };
        let (training, test) = (of_part(Part::Train), of_part(Part::Test));
        let scored = scores::read_of_run(store, record)?;
        scored.iter().filter(|(id, _)| test.contains(id)).for_each(|(id, score)| add(&mut sums, *id, *score));
        let learned = images.rows.iter().filter(|row| training.contains(&row.image_id));
        let means = GroupMeans::of(learned.filter_map(|row| Some((row.generator.as_deref(), row.mos?))));
        if let Some(means) = means.filter(GroupMeans::has_groups) {
            let tested = images.rows.iter().filter(|row| test.contains(&row.image_id));
            tested.for_each(|row| add(&mut trivial, row.image_id, means.predict(row.generator.as_deref())));
        }
    }
    let mut seen = HashSet::new();
    let held_out = |(row, image): (usize, &images::ImageRow)| {
        let (sum, n) = sums.get(&image.image_id)?;
        seen.insert(image.image_id).then_some(())?;
        Some(HeldOut { row, score: sum / n, mos: image.mos?, baseline: None })
    };
    let mut of: Vec<HeldOut> = images.rows.iter().enumerate().filter_map(held_out).collect();
    if of.is_empty() {
        return Err(ReportError::NothingHeldOut { name: name.clone() });
    }
    let trivial = || trivial.iter().map(|(id, (sum, n))| (*id, sum / n)).collect::<HashMap<_, _>>();
    let id = |held_out: &HeldOut| images.rows[held_out.row].image_id;
    let chosen = match baseline {
        Some(GENERATOR_MEAN) => Some((GENERATOR_MEAN.to_owned(), trivial())),
        Some(method) => {
            let scorer = Scorer::Method(method.to_owned());
            Some((method.to_owned(), Scores::read(store, &scorer, &Runs::default())?.of_image))
        }
        None => best_method(store, |scores| srcc(&of, |held_out| scores.get(&id(held_out)).copied()))?
            .or_else(|| Some((GENERATOR_MEAN.to_owned(), trivial()))),
    };
    let (found, scores) = chosen.unwrap_or_default();
    of.iter_mut().for_each(|held_out| held_out.baseline = scores.get(&images.rows[held_out.row].image_id).copied());
    let is_scored = of.iter().any(|held_out| held_out.baseline.is_some());
    if let Some(baseline) = baseline.filter(|_| !is_scored) {
        return Err(ReportError::NoBaseline { baseline: baseline.to_owned(), dataset });
    }
    Ok(HeldOuts { images, of, baseline: is_scored.then_some(found) })
}

/// A method's name and its scores by image.
type NamedScores = (String, HashMap<ImageId, f64>);

/// The method or rating with the greatest value of `judge`; none if it is undefined for all.
fn best_method(
    store: &Store,
    judge: impl Fn(&HashMap<ImageId, f64>) -> Option<f64>,
) -> Result<Option<NamedScores>, ReportError> {
    let mut best: Option<(f64, String, HashMap<ImageId, f64>)> = None;
    for set in ScoreSet::list(store)? {
        let mut scores = set.read(store)?;
        scores.values_mut().for_each(|score| *score = set.direction.ascending(*score));
        let Some(srcc) = judge(&scores) else { continue };
        if best.as_ref().is_none_or(|(other, ..)| srcc > *other) {
            best = Some((srcc, set.scorer.to_string(), scores));
        }
    }
    Ok(best.map(|(_, name, scores)| (name, scores)))
}

/// SRCC of `score` with the MOS, over the images that have it.
fn srcc(of: &[HeldOut], score: impl Fn(&HeldOut) -> Option<f64>) -> Option<f64> {
    let (scores, mos): (Vec<f64>, Vec<f64>) =
        of.iter().filter_map(|held_out| Some((score(held_out)?, held_out.mos))).unzip();
    metrics::srcc(&scores, &mos)
}
