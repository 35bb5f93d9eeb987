//! The page of a night as HTML.

use super::{Choice, Difference, Distribution, GeneratorLine, Night};
use crate::chart::{Axis, Mark, Plot, Rows, Series};
use crate::gates;
use crate::html::Html;
use crate::page::{Panel, charts, folded, images, none, page, table};
use crate::thumbnail::Shown;
use agiqa_judge::check::Checked;
use agiqa_store::layout::{self, number};

/// Generators that a chart shows. The table has all.
const N_GENERATORS: usize = 30;

/// Checks that the page shows. `report.json` has all.
const N_CHECKS: usize = 500;

pub(super) fn html(night: &Night) -> String {
    let about = match &night.against {
        Some(against) => format!("Scores by {}, compared with {against}.", night.scorer),
        None => format!("Scores by {}. There is no earlier night to compare with.", night.scorer),
    };
    let panels = vec![
        verdict(night),
        distribution(night),
        checks(night),
        nights(night),
        generators(&night.generators),
        rejects(night),
        extremes("worst", "Lowest scores", &night.worst),
        extremes("best", "Highest scores", &night.best),
        selection(night.selection.as_ref()),
        gates::panel(night.gates.as_ref(), N_GENERATORS),
    ];
    page(&format!("Night {}", night.dataset), &about, panels)
}

fn verdict(night: &Night) -> Panel {
    let n = |wanted: &str| night.checks.iter().filter(|checked| checked.outcome() == wanted).count();
    let (n_failed, n_warned) = (n("FAIL"), n("warn"));
    let verdict = match (n_failed, n_warned) {
        (0, 0) => "All checks passed.".to_owned(),
        (0, n) => format!("No check failed; {n} warned."),
        (n, _) => format!("{n} of {} checks failed.", night.checks.len()),
    };
    let counts = &night.images;
    let row = |name: &str, n: f64| vec![name.to_owned(), n.to_string()];
    let rows = [
        row("images", counts.n_images),
        row("scored", night.scores.n as f64),
        row("rejected", counts.n_rejected),
        row("neither scored nor rejected", counts.n_unscored),
        row("copies of an earlier row", counts.n_duplicates),
    ];
    Panel::new("verdict", "Verdict", &verdict).add(table("images of the night", &["what", "n"], &rows))
}

/// The middle of each bin within the scale, with the share of all scores that it holds.
fn shares(scores: &Distribution, counts: &[u64]) -> Vec<(f64, f64)> {
    let n: u64 = counts.iter().sum();
    let bins = counts.get(1..counts.len().saturating_sub(1)).unwrap_or_default();
    let middle = |index: usize| scores.bin_low + (index as f64 + 0.5) * scores.bin_width;
    bins.iter().enumerate().map(|(index, count)| (middle(index), *count as f64 / n.max(1) as f64)).collect()
}

/// The end of each bin, with the share of scores below it.
fn below(scores: &Distribution, counts: &[u64]) -> Vec<(f64, f64)> {
    let n: u64 = counts.iter().sum();
    let mut sum = 0;
    let point = |(index, count): (usize, &u64)| {
        sum += count;
        (scores.bin_low + index as f64 * scores.bin_width, sum as f64 / n.max(1) as f64)
    };
    counts.iter().take(counts.len().saturating_sub(1)).enumerate().map(point).collect()
}

fn distribution(night: &Night) -> Panel {
    let scores = &night.scores;
    if scores.n == 0 {
        return Panel::new("scores", "Scores", "").add(none("No image has a score: the rejects say why."));
    }
    let now = shares(scores, &scores.counts);
    let before = scores.counts_before.as_ref().map(|counts| (shares(scores, counts), below(scores, counts)));
    let note = format!(
        "{} scores: mean {}, median {}, 10 % below {}, 10 % above {}, from {} to {}.",
        scores.n,
        number(scores.mean, 3),
        number(Some(scores.p50), 3),
        number(Some(scores.p10), 3),
        number(Some(scores.p90), 3),
        number(Some(scores.min), 3),
        number(Some(scores.max), 3)
    );
    let (low, high) = (scores.bin_low, scores.bin_low + scores.bin_width * now.len() as f64);
    let highest = now.iter().chain(before.iter().flat_map(|(shares, _)| shares)).map(|bin| bin.1).fold(0.0, f64::max);
    let half = scores.bin_width / 2.0;
    let bars: Vec<(f64, f64, f64)> = now.iter().map(|(middle, share)| (middle - half, middle + half, *share)).collect();
    let tooltip =
        |index: usize| format!("{} scores from {:.3} to {:.3}", scores.counts[index + 1], bars[index].0, bars[index].1);
    let mut histogram = Plot::new(
        "Distribution of scores",
        &note,
        Axis::new(low, high, "score"),
        Axis::new(0.0, 1.05 * highest, "share of the images"),
    )
    .bars(Series::First, &bars, tooltip)
    .named(Series::First, night.dataset.as_str());
    let mut cumulative = Plot::new(
        "Share of scores below a score",
        "The cumulative distribution of the scores.",
        Axis::new(low, high, "score"),
        Axis::new(0.0, 1.0, "share below"),
    )
    .line(Series::First, &below(scores, &scores.counts))
    .named(Series::First, night.dataset.as_str());
    if let (Some((shares, below)), Some(against)) = (&before, &night.against) {
        histogram = histogram.line(Series::Second, shares).named(Series::Second, against.as_str());
        cumulative = cumulative.line(Series::Second, below).named(Series::Second, against.as_str());
    }
    let panel = Panel::new("scores", "Scores", &note).add(charts([histogram.html(), cumulative.html()]));
    match (&night.drift, &night.against) {
        (Some(drift), Some(against)) => panel.add(difference(drift, against.as_str())),
        _ => panel.add(none("There is nothing to compare with: this is the first night, or no earlier one was named.")),
    }
}

fn difference(drift: &Difference, against: &str) -> Html {
    let row =
        |name: &str, value: f64, chance: Option<f64>| vec![name.to_owned(), number(Some(value), 4), number(chance, 4)];
    let rows = [
        row("population stability index", drift.psi, Some(drift.psi_null_p99)),
        row("Kolmogorov and Smirnov's D", drift.ks_d, Some(drift.ks_null_p99)),
        row("Wasserstein's distance", drift.w1, None),
    ];
    let caption = format!("{} scores against {} of {against}", drift.n, drift.n_before);
    table(&caption, &["difference", "value", "exceeded by chance in 1 of 100 nights"], &rows)
}

fn checks(night: &Night) -> Panel {
    let row = |checked: &Checked| {
        let [value, limit] = [checked.value, checked.limit].map(|value| number(value, 4));
        let scope = crate::excerpt(&checked.scope, 80);
        vec![checked.name(), checked.outcome().to_owned(), scope, value, limit, crate::excerpt(&checked.message, 200)]
    };
    // A check may have a row for each of very many values. Those that did not pass come first.
    let mut checks: Vec<&Checked> = night.checks.iter().collect();
    if checks.len() > N_CHECKS {
        checks.sort_by_key(|checked| checked.passed);
    }
    let rows: Vec<Vec<String>> = checks.into_iter().take(N_CHECKS).map(row).collect();
    let head = ["check", "outcome", "scope", "value", "limit", "found"];
    Panel::new("checks", "Checks", "").add(table("checks of the night", &head, &rows))
}

fn nights(night: &Night) -> Panel {
    let panel =
        Panel::new("nights", "Earlier nights", "Median and the range of the middle 80 % of the scores, oldest first.");
    let lines = &night.nights;
    if lines.len() < 2 {
        return panel.add(none("There is no earlier night."));
    }
    let of = |value: fn(&super::NightLine) -> f64| -> Vec<(f64, f64)> {
        lines.iter().enumerate().map(|(index, line)| (index as f64 + 1.0, value(line))).collect()
    };
    let (p10, p50, p90) = (of(|line| line.p10), of(|line| line.p50), of(|line| line.p90));
    let x = Axis::new(1.0, lines.len() as f64, "night, oldest first");
    let y = Axis::over(p10.iter().chain(&p90).map(|point| point.1), "score");
    let medians = Plot::new(
        "Scores over the nights",
        "Median score of each night, with the range of the middle 80 %.",
        x.clone(),
        y,
    )
    .band(Series::First, &p90, &p10)
    .line(Series::First, &p50)
    .dots(Series::First, &p50);
    let indices: Vec<(f64, f64)> =
        lines.iter().enumerate().filter_map(|(index, line)| Some((index as f64 + 1.0, line.psi?))).collect();
    let highest = indices.iter().map(|point| point.1).fold(0.0, f64::max);
    let y = Axis::new(0.0, 1.1 * highest.max(1e-3), "population stability index");
    let drift = Plot::new("Change from night to night", "Population stability index against the night before.", x, y)
        .line(Series::Second, &indices)
        .dots(Series::Second, &indices);
    let row = |line: &super::NightLine| {
        let numbers =
            [line.mean, Some(line.p10), Some(line.p50), Some(line.p90), line.psi].map(|value| number(value, 4));
        [line.night.to_string(), line.n.to_string(), line.n_rejected.to_string()].into_iter().chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let head = ["night", "scored", "rejected", "mean", "10 %", "median", "90 %", "PSI"];
    panel.add(charts([medians.html(), drift.html()])).add(folded("nights", &head, &rows))
}

fn generators(lines: &[GeneratorLine]) -> Panel {
    let note = "A box holds the middle half of a generator's scores, and the lines the middle 80 %. The greatest drop comes first.";
    let axis = Axis::over(lines.iter().flat_map(|line| line.quantiles), "score");
    let row = |line: &GeneratorLine| {
        (format!("{} ({})", line.generator, line.n), vec![(Series::First, Mark::Quantiles(line.quantiles))])
    };
    let chart = Rows {
        title: "Scores per generator".to_owned(),
        description: format!("Quantiles of the scores of {} generators.", lines.len().min(N_GENERATORS)),
        axis,
        rows: lines.iter().take(N_GENERATORS).map(row).collect(),
        legend: Vec::new(),
    };
    let cells = |line: &GeneratorLine| {
        let numbers = [Some(line.mean), line.mean_before, line.change, Some(line.quantiles[2])];
        let numbers = numbers.map(|value| number(value, 4));
        [crate::excerpt(&line.generator, 80), line.n.to_string()].into_iter().chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = lines.iter().take(500).map(cells).collect();
    let head = ["generator", "n", "mean", "mean before", "change", "median"];
    Panel::new("generators", "Generators", note).add(chart.html()).add(folded("generators", &head, &rows))
}

fn rejects(night: &Night) -> Panel {
    let panel = Panel::new("rejects", "Rejects", "Images without a score, by stage and kind.");
    if night.rejects.is_empty() {
        return panel.add(none("No image was rejected."));
    }
    let row = |kind: &super::RejectKind| {
        let is_new = match kind.is_new {
            Some(true) => "new",
            Some(false) => "as before",
            None => layout::NONE,
        };
        vec![
            format!("{} in {}", kind.kind, kind.stage),
            kind.n.to_string(),
            is_new.to_owned(),
            kind.examples.join(" · "),
        ]
    };
    let rows: Vec<Vec<String>> = night.rejects.iter().map(row).collect();
    panel.add(table("rejects", &["kind", "n", "night before", "examples"], &rows))
}

fn extremes(id: &'static str, title: &str, shown: &[Shown]) -> Panel {
    let about = |shown: &Shown| {
        let mut lines = vec![format!("score {}", number(Some(shown.score), 3))];
        lines.extend(shown.generator.clone());
        lines.extend(shown.gates.map(|weights| {
            let weights: Vec<String> = weights.into_iter().flatten().map(|weight| number(Some(weight), 2)).collect();
            format!("gates {}", weights.join(" "))
        }));
        lines
    };
    Panel::new(id, title, "").add(images(shown, about))
}

fn selection(choice: Option<&Choice>) -> Panel {
    let panel = Panel::new(
        "selection",
        "Best of each prompt",
        "What choosing the best image of each prompt by score is worth.",
    );
    let Some(choice) = choice else {
        return panel.add(none("No prompt and no `group_id` has two images, so there is no choice."));
    };
    let row = |name: &str, gain: &agiqa_judge::select::Gain| {
        let means = [gain.chosen, gain.random, gain.best].map(|value| number(value, 3));
        let gained = layout::with_interval(gain.gain, 3);
        [name.to_owned(), gain.n_groups.to_string()].into_iter().chain(means).chain([gained]).collect()
    };
    let mut rows: Vec<Vec<String>> = vec![row("score", &choice.gain)];
    rows.extend((choice.gain_mos.n_groups > 0).then(|| row("MOS", &choice.gain_mos)));
    let [p10, p50, p90] = choice.margins.map(|value| number(Some(value), 3));
    let uncertain = match (choice.n_uncertain, choice.uncertain_below) {
        (Some(n), Some(limit)) => format!(" {n} choices are uncertain: their margin is below {limit:.3}."),
        _ => String::new(),
    };
    let note = format!(
        "{} groups ({}) have a choice. Margins to the next image: 10 % below {p10}, median {p50}, 10 % above {p90}.{uncertain}",
        choice.n_groups, choice.by
    );
    let example = |line: &super::ChoiceLine| {
        let [score, margin] = [Some(line.score), line.margin].map(|value| number(value, 3));
        vec![line.group.clone(), line.chosen.clone(), score, margin, line.n_candidates.to_string()]
    };
    let examples: Vec<Vec<String>> = choice.examples.iter().map(example).collect();
    let head = ["by", "groups", "chosen", "random", "best", "gain over random"];
    panel.add(crate::html::el("p").text(note)).add(table("gain", &head, &rows)).add(table(
        "the clearest choices",
        &[choice.by, "chosen", "score", "margin", "images"],
        &examples,
    ))
}
