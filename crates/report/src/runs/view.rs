//! The page of runs as HTML.

use super::{Group, PaperTable, Provenance, Scatter, Subset};
use crate::chart::{Axis, Mark, Plot, Rows, Series};
use crate::gates;
use crate::html::{Html, el};
use crate::page::{Panel, charts, folded, images, none, page, table};
use crate::thumbnail::Shown;
use agiqa_judge::metrics::Logistic4;
use agiqa_store::layout::{number, with_deviation, with_interval};
use agiqa_store::metric::{Estimate, Metric, N_PAPER};
use agiqa_store::tables::metrics::{MetricsRow, Statistic};

/// Rows that a chart shows. The table has all.
const N_ROWS: usize = 30;

/// Runs whose settings are shown.
const N_PROVENANCE: usize = 50;

pub(super) fn html(group: &Group) -> String {
    let n_runs = group.runs.len();
    let about = format!(
        "{n_runs} run{} trained on {}. Charts are about the {} images that a run did not learn from.",
        if n_runs == 1 { "" } else { "s" },
        group.dataset,
        group.scatter.n
    );
    let panels = vec![
        agreement(group),
        scatter(&group.scatter),
        subsets(group),
        errors(group),
        most_wrong(group),
        tables(&group.tables),
        training(group),
        generators(group),
        gates::panel(group.gates.as_ref(), N_ROWS),
        provenance(group),
    ];
    page(&format!("Runs {}", group.name), &about, panels)
}

fn agreement(group: &Group) -> Panel {
    let panel = Panel::new(
        "metrics",
        "Metrics",
        "Agreement of scores with MOS on the test part; means ± standard deviations over runs.",
    );
    let shown = group.metrics.iter().filter(|row| matches!(row.statistic, Statistic::Value | Statistic::Mean));
    let row = |row: &MetricsRow| {
        let is_deviation = |other: &&MetricsRow| {
            other.statistic == Statistic::Std && (&other.predictor, &other.subset) == (&row.predictor, &row.subset)
        };
        let deviation = group.metrics.iter().find(is_deviation);
        let metrics = Metric::ALL.map(|metric| match row.statistic {
            Statistic::Value => with_interval(row.metrics[metric], 4),
            _ => with_deviation(row.metrics[metric].value, deviation.and_then(|row| row.metrics[metric].value), 4),
        });
        let name =
            if row.subset == "all" { row.predictor.clone() } else { format!("{}, {}", row.predictor, row.subset) };
        [crate::excerpt(&name, 80), row.n.to_string()].into_iter().chain(metrics).collect::<Vec<_>>()
    };
    let (all, of_subsets): (Vec<&MetricsRow>, Vec<&MetricsRow>) = shown.partition(|row| row.subset == "all");
    let head: Vec<&str> = ["predictor", "n"].into_iter().chain(Metric::ALL.map(Metric::heading)).collect();
    let panel = if all.is_empty() {
        panel.add(none("The runs have no metrics: `agiqa evaluate` computes them."))
    } else {
        let rows: Vec<Vec<String>> = all.into_iter().map(row).collect();
        panel.add(table("metrics of the test part", &head, &rows))
    };
    let line = |run: &super::RunLine| {
        let [train, validation, test] = run.n_images.map(|n| n.to_string());
        let chosen = format!("epoch {} by {}", run.best_epoch, run.chosen_by);
        vec![
            run.run.to_string(),
            run.recipe.clone(),
            run.split.to_string(),
            run.seed.to_string(),
            train,
            validation,
            test,
            chosen,
        ]
    };
    let runs: Vec<Vec<String>> = group.runs.iter().map(line).collect();
    let rows: Vec<Vec<String>> = of_subsets.into_iter().map(row).collect();
    let of_runs = folded("runs", &["run", "recipe", "split", "seed", "training", "validation", "test", "kept"], &runs);
    if rows.is_empty() {
        panel.add(of_runs)
    } else {
        panel.add(folded("metrics of subsets", &head, &rows)).add(of_runs)
    }
}

fn scatter(scatter: &Scatter) -> Panel {
    let [x_low, x_high, y_low, y_high] = scatter.range;
    let figures = format!(
        "{} images: SRCC {}, PLCC after the mapping {}, RMSE after the mapping {}.",
        scatter.n,
        number(scatter.srcc, 4),
        number(scatter.plcc, 4),
        number(scatter.rmse, 4)
    );
    let description = format!("MOS over score of each image, with the fitted logistic mapping. {figures}");
    let (x, y) = (Axis::new(x_low, x_high, "score"), Axis::new(y_low, y_high, "MOS"));
    let mut plot = Plot::new("MOS against score", &description, x, y).named(Series::First, "images");
    plot = match (&scatter.points, &scatter.cells) {
        (Some(points), _) => plot.dots(Series::First, points),
        (None, Some(cells)) => plot.cells(Series::First, cells),
        (None, None) => plot,
    };
    let mut mapping = none("Six images are needed to fit the mapping.");
    if let (Some([b1, b2, b3, b4]), Some(rmse)) = (scatter.logistic, scatter.rmse) {
        let logistic = Logistic4 { b1, b2, b3, b4 };
        let xs: Vec<f64> = (0..=60).map(|step| x_low + (x_high - x_low) * f64::from(step) / 60.0).collect();
        let line = |shift: f64| xs.iter().map(|x| (*x, logistic.map(*x) + shift)).collect::<Vec<_>>();
        plot = plot.band(Series::Second, &line(rmse), &line(-rmse)).line(Series::Second, &line(0.0));
        plot = plot.named(Series::Second, "logistic mapping ± its RMSE");
        let head = ["parameter", "value"];
        let values = [("b1, far right", b1), ("b2, far left", b2), ("b3, middle", b3), ("b4, width", b4)];
        let rows = values.map(|(name, value)| vec![name.to_owned(), number(Some(value), 5)]);
        mapping = folded("logistic mapping b2 + (b1 − b2) / (1 + exp(−(x − b3) / b4))", &head, &rows);
    }
    Panel::new("scatter", "Scores against MOS", &figures).add(charts([plot.html()])).add(mapping)
}

fn value(estimate: &Estimate) -> Option<Mark> {
    Some(Mark::Value(estimate.value?, estimate.low.zip(estimate.high)))
}

fn subsets(group: &Group) -> Panel {
    let note = "SRCC on all images, per generator, and on images whose prompt holds a word, with 95 % intervals (as the paper's \
                Figure 2).";
    let baseline = group.baseline.clone().unwrap_or_default();
    let marks = |subset: &Subset| {
        let model = value(&subset.srcc).map(|mark| (Series::First, mark));
        let baseline = subset.baseline.as_ref().and_then(value).map(|mark| (Series::Second, mark));
        model.into_iter().chain(baseline).collect::<Vec<_>>()
    };
    let shown = group.subsets.iter().filter(|subset| subset.srcc.value.is_some()).take(N_ROWS);
    let rows: Vec<_> = shown.map(|subset| (format!("{} ({})", subset.subset, subset.n), marks(subset))).collect();
    let ends =
        |estimate: &Estimate| [estimate.value, estimate.low, estimate.high].into_iter().flatten().collect::<Vec<_>>();
    let all =
        group.subsets.iter().flat_map(|subset| std::iter::once(&subset.srcc).chain(&subset.baseline).flat_map(ends));
    let mut legend = vec![(Series::First, group.name.to_string())];
    legend.extend(group.baseline.is_some().then(|| (Series::Second, baseline.clone())));
    let chart = Rows {
        title: "SRCC per subset".to_owned(),
        description: format!("SRCC with its interval on {} subsets of the test images.", rows.len()),
        axis: Axis::over(all, "SRCC"),
        rows,
        legend,
    };
    let cells = |subset: &Subset| {
        let baseline = with_interval(subset.baseline.unwrap_or_default(), 4);
        vec![crate::excerpt(&subset.subset, 80), subset.n.to_string(), with_interval(subset.srcc, 4), baseline]
    };
    let lines: Vec<Vec<String>> = group.subsets.iter().map(cells).collect();
    let head = ["subset", "n", "SRCC", &format!("SRCC of {baseline}")];
    let n_columns = if group.baseline.is_some() { 4 } else { 3 };
    let lines: Vec<Vec<String>> = lines.into_iter().map(|line| line[..n_columns].to_vec()).collect();
    Panel::new("subsets", "Subsets", note).add(chart.html()).add(folded("subsets", &head[..n_columns], &lines))
}

fn errors(group: &Group) -> Panel {
    let panel = Panel::new("errors", "Errors where a baseline errs most", "");
    let (Some(errors), Some(baseline)) = (&group.errors, &group.baseline) else {
        return panel.add(none("No other method has scored at least six of the images."));
    };
    let note = format!(
        "Absolute errors on the MOS scale, in bins of {}, on the {} images where {baseline} errs most (as the paper's Figure 6): \
         mean {} of {baseline}, {} of the runs.",
        errors.bin_width,
        errors.n,
        number(errors.baseline_mean, 3),
        number(errors.model_mean, 3)
    );
    let bars = |counts: &[usize]| -> Vec<(f64, f64, f64)> {
        let bar = |(index, n): (usize, &usize)| {
            let low = index as f64 * errors.bin_width;
            (low, low + errors.bin_width, *n as f64 / (errors.n as f64 * errors.bin_width))
        };
        counts.iter().enumerate().map(bar).collect()
    };
    let [of_baseline, of_model] = [&errors.baseline, &errors.model].map(|counts| bars(counts));
    let highest = of_baseline.iter().chain(&of_model).map(|bar| bar.2).fold(0.0, f64::max);
    let tooltip = |counts: &'_ Vec<usize>, index: usize| {
        let low = index as f64 * errors.bin_width;
        format!("{} images with an error from {low:.1} to {:.1}", counts[index], low + errors.bin_width)
    };
    let plot = Plot::new(
        "Density of errors",
        &note,
        Axis::new(0.0, errors.bin_width * of_model.len() as f64, "absolute error"),
        Axis::new(0.0, 1.05 * highest, "density"),
    )
    .bars(Series::Second, &of_baseline, |index| tooltip(&errors.baseline, index))
    .bars(Series::First, &of_model, |index| tooltip(&errors.model, index))
    .named(Series::First, group.name.as_str())
    .named(Series::Second, baseline.as_str());
    let row = |index: usize| {
        let low = index as f64 * errors.bin_width;
        let range = format!("{low:.1} to {:.1}", low + errors.bin_width);
        vec![range, errors.baseline[index].to_string(), errors.model[index].to_string()]
    };
    let rows: Vec<Vec<String>> = (0..errors.model.len()).map(row).collect();
    panel.add(el("p").text(&note)).add(charts([plot.html()])).add(folded(
        "errors",
        &["absolute error", baseline, group.name.as_str()],
        &rows,
    ))
}

fn most_wrong(group: &Group) -> Panel {
    let panel = Panel::new("most-wrong", "Images that a baseline misjudges", "");
    let Some(baseline) = group.baseline.as_ref().filter(|_| !group.most_wrong.is_empty()) else {
        return panel.add(none("No other method has scored at least six of the images."));
    };
    let note = format!(
        "The images on which {baseline} is most wrong (as the paper's Figure 7). All numbers are on the MOS scale."
    );
    let about = |shown: &Shown| {
        vec![
            format!("MOS {}", number(shown.mos, 2)),
            format!("runs {}", number(Some(shown.score), 2)),
            format!("{baseline} {}", number(shown.baseline, 2)),
        ]
    };
    panel.add(el("p").text(note)).add(images(&group.most_wrong, about))
}

fn tables(tables: &[PaperTable]) -> Panel {
    let note = "This store's numbers next to the paper's: SRCC, PLCC, KRCC and RMSE on test parts.";
    let one = |found: &PaperTable| {
        let row = |line: &super::PaperLine| {
            let ours = (0..N_PAPER).map(|index| with_deviation(line.ours[index], line.ours_std[index], 4));
            let paper = line.paper.map(|value| number(value, 4));
            std::iter::once(crate::excerpt(&line.method, 100)).chain(ours).chain(paper).collect()
        };
        let rows: Vec<Vec<String>> = found.rows.iter().map(row).collect();
        let headings = Metric::PAPER.map(Metric::heading);
        let paper = headings.map(|heading| format!("paper {heading}"));
        let head: Vec<&str> =
            std::iter::once("method").chain(headings).chain(paper.iter().map(String::as_str)).collect();
        table(&found.title, &head, &rows)
    };
    Panel::new("paper", "The paper's tables", note).add_all(tables.iter().map(one))
}

fn training(group: &Group) -> Panel {
    let panel = Panel::new("training", "Training", "");
    let curves: Vec<_> = group.training.iter().filter(|curve| curve.epochs.len() > 1).collect();
    if curves.is_empty() && group.strengths.is_empty() {
        return panel.add(none("The runs have no log of several epochs."));
    }
    if curves.is_empty() {
        let points: Vec<(f64, f64)> =
            group.strengths.iter().map(|tried| (tried.strength.log10(), tried.error)).collect();
        let (x, y) = (points.iter().map(|point| point.0), points.iter().map(|point| point.1));
        let plot = Plot::new(
            "Leave-one-out error by strength",
            "Root mean squared leave-one-out residual of each strength that the regression tried.",
            Axis::over(x, "logarithm (base 10) of the strength"),
            Axis::over(y, "error"),
        );
        return panel.add(charts([plot.line(Series::First, &points).dots(Series::First, &points).html()]));
    }
    let chart = |title: &str, name: &str, value: &dyn Fn(&super::EpochLine) -> Option<f64>, series: Series| {
        let lines: Vec<Vec<(f64, f64)>> = curves
            .iter()
            .take(N_ROWS)
            .map(|curve| {
                curve.epochs.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), value(epoch)?))).collect()
            })
            .collect();
        let points = || lines.iter().flatten();
        let description = format!("{name} after each epoch, a line for each of {} runs.", lines.len());
        let (x, y) =
            (Axis::over(points().map(|point| point.0), "epoch"), Axis::over(points().map(|point| point.1), name));
        lines.iter().fold(Plot::new(title, &description, x, y), |plot, line| plot.line(series, line)).html()
    };
    let loss = chart("Training loss", "mean squared error", &|epoch| Some(epoch.loss), Series::First);
    let srcc = chart("Validation SRCC", "SRCC on the validation part", &|epoch| epoch.validation_srcc, Series::Second);
    let last = |curve: &&super::Curve| {
        let epoch = curve.epochs[curve.epochs.len() - 1];
        let numbers = [Some(epoch.loss), epoch.validation_srcc, epoch.validation_plcc].map(|value| number(value, 4));
        [curve.run.to_string(), epoch.epoch.to_string()].into_iter().chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = curves.iter().map(last).collect();
    let head = ["run", "epoch", "loss", "validation SRCC", "validation PLCC"];
    panel.add(charts([loss, srcc])).add(folded("last epochs", &head, &rows))
}

fn generators(group: &Group) -> Panel {
    let note = "Mean MOS and mean score per generator, the highest MOS first.";
    let lines = &group.generators;
    let row = |line: &super::GeneratorLine| {
        let marks = vec![
            (Series::First, Mark::Value(line.mean_score, None)),
            (Series::Third, Mark::Value(line.mean_mos, None)),
        ];
        (format!("{} ({})", line.generator, line.n), marks)
    };
    let chart = Rows {
        title: "Generators".to_owned(),
        description: format!("Mean MOS and mean score of {} generators.", lines.len().min(N_ROWS)),
        axis: Axis::over(lines.iter().flat_map(|line| [line.mean_mos, line.mean_score]), "MOS scale"),
        rows: lines.iter().take(N_ROWS).map(row).collect(),
        legend: vec![(Series::First, "mean score".to_owned()), (Series::Third, "mean MOS".to_owned())],
    };
    let cells = |line: &super::GeneratorLine| {
        let numbers = [line.mean_mos, line.mean_score, line.bias].map(|value| number(Some(value), 4));
        [crate::excerpt(&line.generator, 80), line.n.to_string()].into_iter().chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = lines.iter().take(500).map(cells).collect();
    let head = ["generator", "n", "mean MOS", "mean score", "score − MOS"];
    Panel::new("generators", "Generators", note).add(chart.html()).add(folded("generators", &head, &rows))
}

fn provenance(group: &Group) -> Panel {
    let note = "What each run is made of. `agiqa reproduce RUN` trains it again and compares.";
    let one = |provenance: &Provenance| -> Html {
        let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let mut rows = vec![
            row("fingerprint of all inputs", &provenance.fingerprint),
            row("hash of the head", provenance.head.as_deref().unwrap_or("no file")),
            row("agiqa", &provenance.agiqa_version),
        ];
        rows.extend(provenance.features.iter().map(|feature| row("features", feature)));
        let settings = format!("settings {}", provenance.settings);
        let extractors =
            provenance.extractors.iter().map(|settings| el("pre").text(crate::excerpt(&settings.to_string(), 4000)));
        el("details")
            .add(el("summary").text(provenance.run.as_str()))
            .add(table(provenance.run.as_str(), &["what", "value"], &rows))
            .add(el("pre").text(settings))
            .add_all(extractors)
    };
    Panel::new("provenance", "Provenance", note).add_all(group.provenance.iter().take(N_PROVENANCE).map(one))
}
