//! How much of each input the heads of some runs let through: by generator, and along the scores.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::chart::{Axis, Mark, Plot, Rows, Series};
use crate::page::{Panel, charts, folded, none};
use agiqa_store::identity::ImageId;
use agiqa_store::layout;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::gates;
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::scores::ScoreSet;

/// Names of the inputs in the order of a gate's weights.
const INPUTS: [&str; 3] = ["f_1 (quality)", "f_a (semantic content)", "f_b (coherence)"];

const SERIES: [Series; 3] = [Series::First, Series::Second, Series::Third];

/// Groups of images of about equal size, from the lowest scores to the highest.
const N_STEPS: usize = 10;

/// Weights of f_1, f_a and f_b; `None` for an input that is not read.
pub(crate) type Weights = [Option<f64>; 3];

/// The mean over `records` of an image's weights, of the images that `is_wanted` accepts and one of them has weighed.
pub(crate) fn read(
    store: &Store,
    records: &[Arc<RunRecord>],
    is_wanted: impl Fn(&ImageId) -> bool,
) -> Result<HashMap<ImageId, Weights>, PartError> {
    let mut sums: HashMap<ImageId, ([f64; 3], [f64; 3])> = HashMap::new();
    for record in records {
        let rows = gates::read(store, &ScoreSet::of_run(record))?;
        for row in rows.into_iter().filter(|row| is_wanted(&row.image_id)) {
            let (sum, n) = sums.entry(row.image_id).or_default();
            for (index, weight) in row.weights.iter().enumerate() {
                sum[index] += weight.unwrap_or_default();
                n[index] += f64::from(u8::from(weight.is_some()));
            }
        }
    }
    let mean =
        |(sum, n): ([f64; 3], [f64; 3])| [0, 1, 2].map(|index: usize| (n[index] > 0.0).then(|| sum[index] / n[index]));
    Ok(sums.into_iter().map(|(id, sums)| (id, mean(sums))).collect())
}

/// The gates of one group of images.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GateLine {
    /// The generator, or the step.
    pub(crate) of: String,
    pub(crate) n: usize,
    /// Mean score.
    pub(crate) score: f64,
    /// Mean weights of f_1, f_a and f_b.
    pub(crate) weights: Weights,
}

/// Gates by generator, and by steps of the score.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gates {
    pub(crate) generators: Vec<GateLine>,
    pub(crate) steps: Vec<GateLine>,
}

/// An image: its generator, score and weights.
type Gated<'a> = (Option<&'a str>, f64, Weights);

/// The gates of images, each with its generator, score and weights; `None` without images.
pub(crate) fn gates(mut images: Vec<Gated>) -> Option<Gates> {
    images.sort_by(|a, b| a.1.total_cmp(&b.1));
    let line = |of: String, images: &[Gated]| {
        let of_input = |index: usize| images.iter().filter_map(|image| image.2[index]).collect::<Vec<_>>();
        let score = crate::mean(&images.iter().map(|image| image.1).collect::<Vec<_>>()).unwrap_or_default();
        GateLine { of, n: images.len(), score, weights: [0, 1, 2].map(|index| crate::mean(&of_input(index))) }
    };
    let mut of_generator: BTreeMap<&str, Vec<Gated>> = BTreeMap::new();
    images.iter().for_each(|image| of_generator.entry(image.0.unwrap_or("unknown")).or_default().push(*image));
    let generators = of_generator.into_iter().map(|(generator, images)| line(generator.to_owned(), &images)).collect();
    let n_per_step = images.len().div_ceil(N_STEPS).max(1);
    let steps = images.chunks(n_per_step).enumerate();
    let steps = steps.map(|(index, images)| line(format!("step {}", index + 1), images)).collect();
    (!images.is_empty()).then_some(Gates { generators, steps })
}

/// The panel of `gates`.
pub(crate) fn panel(gates: Option<&Gates>, n_most: usize) -> Panel {
    let note = "How much of each input the fusion lets through: means over images.";
    let panel = Panel::new("gates", "Gate weights", note);
    let Some(Gates { generators, steps }) = gates else {
        return panel
            .add(none("There are no gate weights: the head has no gates, or the scores are of no fusion head."));
    };
    let named = || SERIES.into_iter().zip(INPUTS.map(str::to_owned)).collect::<Vec<_>>();
    let mut shown: Vec<&GateLine> = generators.iter().collect();
    shown.sort_by(|a, b| b.n.cmp(&a.n).then_with(|| a.of.cmp(&b.of)));
    shown.truncate(n_most);
    let marks = |line: &GateLine| {
        let mark = |(series, weight): (Series, Option<f64>)| Some((series, Mark::Value(weight?, None)));
        SERIES.into_iter().zip(line.weights).filter_map(mark).collect()
    };
    let weights = generators.iter().chain(steps).flat_map(|line| line.weights).flatten();
    let axis = Axis::over(weights, "mean weight");
    let rows = Rows {
        title: "Weights per generator".to_owned(),
        description: format!("Mean weight of each of three inputs, for {} generators.", shown.len()),
        axis: axis.clone(),
        rows: shown.into_iter().map(|line| (format!("{} ({})", line.of, line.n), marks(line))).collect(),
        legend: named(),
    };
    let scores = Axis::over(steps.iter().map(|line| line.score), "mean score of a tenth of the images");
    let mut plot = Plot::new(
        "Weights against score",
        "Mean weight of each of three inputs, over tenths of the images from low to high scores.",
        scores,
        axis,
    );
    for (index, series) in SERIES.into_iter().enumerate() {
        let points: Vec<(f64, f64)> =
            steps.iter().filter_map(|line| Some((line.score, line.weights[index]?))).collect();
        plot = plot.line(series, &points).dots(series, &points).named(series, INPUTS[index]);
    }
    let cells = |line: &GateLine| {
        let numbers = [Some(line.score)].into_iter().chain(line.weights).map(|value| layout::number(value, 4));
        [crate::excerpt(&line.of, 80), line.n.to_string()].into_iter().chain(numbers).collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = steps.iter().chain(generators).take(500).map(cells).collect();
    let head = ["images", "n", "mean score", INPUTS[0], INPUTS[1], INPUTS[2]];
    panel.add(charts([rows.html(), plot.html()])).add(folded("gate weights", &head, &lines))
}
