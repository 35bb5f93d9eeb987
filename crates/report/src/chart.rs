//! Charts as inline SVG: a plot over two axes, and rows of marks over one.
//!
//! A chart is 360 units wide, so that its letters have their size on a small screen. Its title and a sentence on what it
//! shows are its name and description for a screen reader.

use crate::html::{Html, el};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 40.0;

/// Greatest number of points that are drawn one by one.
pub(crate) const MAX_POINTS: usize = 2000;

/// A coordinate, to a tenth of a unit.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// A range of values with its name.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    name: String,
}

impl Axis {
    /// The axis from `low` to `high`, wider if they are equal.
    pub(crate) fn new(low: f64, high: f64, name: &str) -> Self {
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, low + 0.5) };
        Self { low, high, name: name.to_owned() }
    }

    /// The axis over `values`, with a margin of 3 %; over 0 to 1 without values.
    pub(crate) fn over(values: impl IntoIterator<Item = f64>, name: &str) -> Self {
        match agiqa_judge::scorer::range(values.into_iter().filter(|value| value.is_finite())) {
            Some(range) => {
                let margin = 0.03 * (range.end() - range.start());
                Self::new(range.start() - margin, range.end() + margin, name)
            }
            None => Self::new(0.0, 1.0, name),
        }
    }

    /// Its low and its high end.
    pub(crate) fn ends(&self) -> [f64; 2] {
        [self.low, self.high]
    }

    /// Share of the way from low to high.
    fn share(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Round values within the axis, about five, and their number of digits after the point.
    fn ticks(&self) -> (Vec<f64>, usize) {
        let rough = (self.high - self.low) / 5.0;
        let power = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let ticks =
            (first..first + 12).map(|index| index as f64 * step).take_while(|tick| *tick <= self.high).collect();
        (ticks, (-step.log10().floor()).clamp(0.0, 8.0) as usize)
    }
}

/// The look of a series: its place among the colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    First,
    Second,
    Third,
}

impl Series {
    fn class(self) -> &'static str {
        match self {
            Self::First => "s1",
            Self::Second => "s2",
            Self::Third => "s3",
        }
    }
}

/// The head of any chart: its SVG with title and description, `height` units high.
fn svg(title: &str, description: &str, height: f64) -> Html {
    el("svg")
        .attr("viewBox", format!("0 0 {WIDTH} {}", at(height)))
        .attr("role", "img")
        .add(el("title").text(title))
        .add(el("desc").text(description))
}

/// `drawing` with its caption and the names of its series.
fn figure(title: &str, drawing: Html, legend: &[(Series, String)]) -> Html {
    let mut caption = el("figcaption").add(el("strong").text(title));
    if !legend.is_empty() {
        let entry = |(series, name): &(Series, String)| {
            el("li").add(el("span").attr("class", format!("key {}", series.class()))).text(name)
        };
        caption = caption.add(el("ul").attr("class", "legend").add_all(legend.iter().map(entry)));
    }
    el("figure").add(drawing).add(caption)
}

fn label(x: f64, y: f64, anchor: &'static str, text: impl AsRef<str>) -> Html {
    el("text").attr("x", at(x)).attr("y", at(y)).attr("text-anchor", anchor).text(text)
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> Html {
    el("path").attr("class", "grid").attr("d", format!("M{} {}L{} {}", at(x1), at(y1), at(x2), at(y2)))
}

/// Marks over two axes.
pub(crate) struct Plot {
    title: String,
    description: String,
    x: Axis,
    y: Axis,
    marks: Vec<Html>,
    legend: Vec<(Series, String)>,
}

impl Plot {
    pub(crate) fn new(title: &str, description: &str, x: Axis, y: Axis) -> Self {
        let (title, description) = (title.to_owned(), description.to_owned());
        Self { title, description, x, y, marks: Vec::new(), legend: Vec::new() }
    }

    /// Names a series under the chart.
    pub(crate) fn named(mut self, series: Series, name: impl Into<String>) -> Self {
        self.legend.push((series, name.into()));
        self
    }

    fn px(&self, x: f64) -> f64 {
        LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let step = |(index, (x, y)): (usize, &(f64, f64))| {
            format!("{}{} {}", if index == 0 { 'M' } else { 'L' }, at(self.px(*x)), at(self.py(*y)))
        };
        points.iter().enumerate().map(step).collect()
    }

    /// A bar from 0 for each `(low, high, value)`, with `name` of the value as its tooltip.
    pub(crate) fn bars(mut self, series: Series, bars: &[(f64, f64, f64)], name: impl Fn(usize) -> String) -> Self {
        let bar = |(index, (low, high, value)): (usize, &(f64, f64, f64))| {
            let (left, right, top) = (self.px(*low), self.px(*high), self.py(*value));
            el("rect")
                .attr("class", format!("area {}", series.class()))
                .attr("x", at(left))
                .attr("y", at(top))
                .attr("width", at((right - left).max(0.5)))
                .attr("height", at((self.py(0.0) - top).max(0.0)))
                .add(el("title").text(name(index)))
        };
        let drawn: Vec<Html> = bars.iter().enumerate().filter(|(_, bar)| bar.2 > 0.0).map(bar).collect();
        self.marks.extend(drawn);
        self
    }

    pub(crate) fn line(mut self, series: Series, points: &[(f64, f64)]) -> Self {
        if !points.is_empty() {
            let path = el("path").attr("class", format!("line {}", series.class())).attr("d", self.path(points));
            self.marks.push(path);
        }
        self
    }

    /// The area between two lines, each of `(x, y)` from left to right.
    pub(crate) fn band(mut self, series: Series, upper: &[(f64, f64)], lower: &[(f64, f64)]) -> Self {
        let points: Vec<(f64, f64)> = upper.iter().chain(lower.iter().rev()).copied().collect();
        let path = format!("{}Z", self.path(&points));
        self.marks.push(el("path").attr("class", format!("band {}", series.class())).attr("d", path));
        self
    }

    /// A dot for each point.
    pub(crate) fn dots(mut self, series: Series, points: &[(f64, f64)]) -> Self {
        let dot = |(x, y): &(f64, f64)| format!("M{} {}h0", at(self.px(*x)), at(self.py(*y)));
        let path: String = points.iter().map(dot).collect();
        self.marks.push(el("path").attr("class", format!("dots {}", series.class())).attr("d", path));
        self
    }

    /// A shaded cell for each of `cells`, the darker the more points it holds.
    pub(crate) fn cells(mut self, series: Series, cells: &Cells) -> Self {
        let most = cells.counts.iter().map(|cell| cell.2).max().unwrap_or(1) as f64;
        let (width, height) =
            ((WIDTH - LEFT - RIGHT) / Cells::PER_SIDE as f64, (HEIGHT - TOP - BOTTOM) / Cells::PER_SIDE as f64);
        // Five shades by the logarithm of the count, each one path.
        let shade = |n: u64| (5.0 * (n as f64).ln_1p() / most.ln_1p()).ceil().clamp(1.0, 5.0) as usize;
        for wanted in 1..=5 {
            let of_shade = cells.counts.iter().filter(|cell| shade(cell.2) == wanted);
            let path: String = of_shade
                .map(|(column, row, _)| {
                    let (x, y) = (LEFT + *column as f64 * width, HEIGHT - BOTTOM - (*row as f64 + 1.0) * height);
                    format!("M{} {}h{}v{}h-{}z", at(x), at(y), at(width), at(height), at(width))
                })
                .collect();
            if !path.is_empty() {
                let opacity = format!("{:.1}", wanted as f64 / 5.0);
                let class = format!("cell {}", series.class());
                self.marks.push(el("path").attr("class", class).attr("fill-opacity", opacity).attr("d", path));
            }
        }
        self
    }

    pub(crate) fn html(self) -> Html {
        let mut drawing = svg(&self.title, &self.description, HEIGHT);
        let (ticks, digits) = self.x.ticks();
        for tick in ticks {
            let x = self.px(tick);
            drawing = drawing.add(rule(x, TOP, x, HEIGHT - BOTTOM));
            drawing = drawing.add(label(x, HEIGHT - BOTTOM + 13.0, "middle", format!("{tick:.digits$}")));
        }
        let (ticks, digits) = self.y.ticks();
        for tick in ticks {
            let y = self.py(tick);
            drawing = drawing.add(rule(LEFT, y, WIDTH - RIGHT, y));
            drawing = drawing.add(label(LEFT - 4.0, (y + 3.5).min(HEIGHT - BOTTOM), "end", format!("{tick:.digits$}")));
        }
        let (middle_x, middle_y) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        drawing = drawing.add(label(middle_x, HEIGHT - 8.0, "middle", &self.x.name));
        let turned = format!("rotate(-90 11 {})", at(middle_y));
        drawing = drawing.add(label(11.0, middle_y, "middle", &self.y.name).attr("transform", turned));
        figure(&self.title, drawing.add_all(self.marks), &self.legend)
    }
}

/// Points counted in square cells over a plot.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Cells {
    /// Cells along each axis.
    pub(crate) per_side: usize,
    /// Column, row and number of points of each cell that has some.
    pub(crate) counts: Vec<(usize, usize, u64)>,
}

impl Cells {
    const PER_SIDE: usize = 50;

    /// The points of `points` in cells over the two axes.
    pub(crate) fn of(points: &[(f64, f64)], x: &Axis, y: &Axis) -> Self {
        let mut counts = std::collections::BTreeMap::<(usize, usize), u64>::new();
        let place = |share: f64| ((share * Self::PER_SIDE as f64) as usize).min(Self::PER_SIDE - 1);
        points
            .iter()
            .for_each(|point| *counts.entry((place(x.share(point.0)), place(y.share(point.1)))).or_default() += 1);
        let counts = counts.into_iter().map(|((column, row), n)| (column, row, n)).collect();
        Self { per_side: Self::PER_SIDE, counts }
    }
}

/// A mark of a row.
pub(crate) enum Mark {
    /// Five quantiles as a box with whiskers.
    Quantiles([f64; 5]),
    /// A value, with its interval if it has one.
    Value(f64, Option<(f64, f64)>),
}

/// Marks over one axis, in rows with names.
pub(crate) struct Rows {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) axis: Axis,
    pub(crate) rows: Vec<(String, Vec<(Series, Mark)>)>,
    pub(crate) legend: Vec<(Series, String)>,
}

impl Rows {
    /// Height of a row: its name, then its marks.
    const ROW: f64 = 34.0;

    fn px(&self, x: f64) -> f64 {
        RIGHT + self.axis.share(x) * (WIDTH - 2.0 * RIGHT)
    }

    fn mark(&self, series: Series, mark: &Mark, y: f64) -> Html {
        let class = |kind: &str| format!("{kind} {}", series.class());
        let group = el("g");
        match mark {
            Mark::Quantiles(quantiles) => {
                let [p10, p25, p50, p75, p90] = quantiles.map(|value| self.px(value));
                let whiskers = format!(
                    "M{} {y}H{}M{} {y}H{}M{} {}V{}",
                    at(p10),
                    at(p25),
                    at(p75),
                    at(p90),
                    at(p50),
                    at(y - 5.0),
                    at(y + 5.0),
                    y = at(y)
                );
                let shape = el("rect")
                    .attr("class", class("box"))
                    .attr("x", at(p25))
                    .attr("y", at(y - 5.0))
                    .attr("width", at((p75 - p25).max(0.5)))
                    .attr("height", 10);
                group.add(shape).add(el("path").attr("class", class("line")).attr("d", whiskers))
            }
            Mark::Value(value, interval) => {
                let dot = el("path")
                    .attr("class", class("dots big"))
                    .attr("d", format!("M{} {}h0", at(self.px(*value)), at(y)));
                match interval {
                    Some((low, high)) => {
                        let line = format!("M{} {}H{}", at(self.px(*low)), at(y), at(self.px(*high)));
                        group.add(el("path").attr("class", class("line")).attr("d", line)).add(dot)
                    }
                    None => group.add(dot),
                }
            }
        }
    }

    pub(crate) fn html(&self) -> Html {
        let bottom = TOP + Self::ROW * self.rows.len() as f64;
        let mut drawing = svg(&self.title, &self.description, bottom + BOTTOM);
        let (ticks, digits) = self.axis.ticks();
        for tick in ticks {
            let x = self.px(tick);
            drawing = drawing.add(rule(x, TOP, x, bottom));
            drawing = drawing.add(label(x, bottom + 13.0, "middle", format!("{tick:.digits$}")));
        }
        for (index, (name, marks)) in self.rows.iter().enumerate() {
            let top = TOP + Self::ROW * index as f64;
            drawing = drawing.add(label(RIGHT, top + 12.0, "start", crate::excerpt(name, 52)));
            for (place, (series, mark)) in marks.iter().enumerate() {
                let shift = 6.0 * (place as f64 - (marks.len() as f64 - 1.0) / 2.0);
                drawing = drawing.add(self.mark(*series, mark, top + 24.0 + shift));
            }
        }
        drawing = drawing.add(label(WIDTH / 2.0, bottom + 32.0, "middle", &self.axis.name));
        figure(&self.title, drawing, &self.legend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let ticks = |low, high| Axis::new(low, high, "").ticks();
        assert_eq!(ticks(0.0, 5.0), (vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 0));
        assert_eq!(ticks(-0.03, 0.11).1, 2);
        assert_eq!(ticks(3.0, 3.0).0.len(), 5, "a range without width is widened");
        assert_eq!(Axis::over([f64::NAN], "").ticks().0.len(), 6);
    }

    #[test]
    fn cells_hold_every_point_once_and_their_number_is_bounded() {
        let points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i) * 1e-5, f64::from(i % 317) / 316.0)).collect();
        let (x, y) = (Axis::new(0.0, 1.0, "x"), Axis::new(0.0, 1.0, "y"));
        let cells = Cells::of(&points, &x, &y);
        assert_eq!(cells.counts.iter().map(|cell| cell.2).sum::<u64>(), 100_000);
        let html = Plot::new("t", "d", x, y).cells(Series::First, &cells).html().to_string();
        assert!(html.len() < 150_000, "{}", html.len());
    }
}
