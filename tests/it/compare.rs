//! `agiqa compare`: methods side by side, their order, and which differences are real.

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::metric::{Estimate, Metric};
use agiqa_store::store::Store;
use agiqa_store::tables::comparison::{self, Judged};
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_store::tables::splits::{self, Part, SplitRow};

use crate::testdir::{TestDir, name};
use crate::train::Fixture;

const N_IMAGES: u32 = 240;

fn id(index: u32) -> ImageId {
    ImageId::of_bytes(&index.to_le_bytes())
}

/// Values in 0..1 that look random.
fn noise(seed: u32, index: u32) -> f64 {
    (f64::from((index + 1) * (seed + 7)) * 0.754_877_666).fract()
}

fn mos(index: u32) -> f64 {
    5.0 * noise(1, index)
}

/// A store with a dataset of the paper's name, half of it the test part of split `half`, and no scores.
pub fn store(dir: &TestDir) -> Store {
    let store = dir.store();
    let row = |index: u32| ImageRow {
        image_id: id(index),
        name: format!("{index}.png"),
        path: format!("/images/{index}.png"),
        n_bytes: 1,
        width_px: 1,
        height_px: 1,
        format: "png".to_owned(),
        generator: None,
        prompt: None,
        mos: Some(mos(index)),
        mos_std: None,
        mos_align: None,
    };
    let images = Images { rows: (0..N_IMAGES).map(row).collect(), extra: Vec::new() };
    images::write(&store, &name("agiqa-3k"), &images).expect("images can be written");
    let part = |index| if index % 2 == 0 { Part::Test } else { Part::Train };
    let rows: Vec<SplitRow> =
        (0..N_IMAGES).map(|index| SplitRow { image_id: id(index), seed: None, fold: 0, part: part(index) }).collect();
    splits::write(&store, &name("agiqa-3k"), &name("half"), &rows).expect("a split can be written");
    store
}

fn add(store: &Store, method: &str, direction: Direction, score: impl Fn(u32) -> Option<f64>) {
    let set = ScoreSet {
        scorer: name(method),
        kind: ScorerKind::Method,
        fingerprint: Fingerprint::builder("test").field("method", method.as_bytes()).finish(),
        direction,
        settings: serde_json::json!({}),
    };
    set.write_description(store).expect("a description can be written");
    let scores: Vec<(ImageId, f64)> = (0..N_IMAGES).filter_map(|index| Some((id(index), score(index)?))).collect();
    set.write_part(store, &scores).expect("scores can be written");
}

/// A good method, the paper's `niqe` with noise, and a method without a relation that lacks an image.
pub fn add_methods(store: &Store) {
    add(store, "good", Direction::Higher, |i| Some(mos(i) + 0.5 * noise(2, i)));
    add(store, "niqe", Direction::Lower, |i| Some(-mos(i) + 4.0 * noise(3, i)));
    add(store, "none", Direction::Lower, |i| (i != 4).then(|| noise(5, i)));
}

const COMPARE: [&str; 5] = ["compare", "--store", "store", "--dataset", "agiqa-3k"];

pub fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    COMPARE.into_iter().chain(more.iter().copied()).collect()
}

#[test]
#[expect(clippy::approx_constant, reason = "0.5236 is a correlation, not a sixth of a circle")]
fn methods_are_ranked_whatever_their_direction_with_the_papers_figures_beside() {
    let dir = TestDir::new();
    let store = store(&dir);
    add_methods(&store);
    let ran = dir.agiqa(&args(&["--split", "half"])).exits(0).says("3 methods on 120 images; best: good");
    let ran =
        ran.prints("agiqa-3k, test part of split half; 95 % bootstrap intervals").prints("0.5236 0.5668 0.3637 0.8260");
    let ran = ran.prints("by paired bootstrap on the 119 images that all have scored");
    let verdicts: Vec<&str> = ran.stdout.lines().filter(|line| line.contains(" over ")).collect();
    assert!(verdicts.len() == 2 && verdicts.iter().all(|line| line.ends_with("real")), "{verdicts:?}");

    let judged = Judged { dataset: name("agiqa-3k"), part: Some((name("half"), Part::Test)) };
    let rows = comparison::read(&store, &judged).expect("the comparison is in the store");
    let names: Vec<(&str, u64, u64)> = rows.iter().map(|row| (row.method.as_str(), row.rank, row.n)).collect();
    assert_eq!(names, [("good", 1, 120), ("niqe", 2, 120), ("none", 3, 119)]);
    assert!(
        rows[1].metrics[Metric::Srcc].value > Some(0.5),
        "a lower-is-better score correlates positively once turned"
    );
    assert_eq!(rows[0].beats, ["niqe", "none"]);
    assert_eq!(rows[1].paper, [Some(0.5236), Some(0.5668), Some(0.3637), Some(0.826)]);
    assert_eq!(rows[0].paper, [None; 4]);
    let metric = agiqa_judge::metrics::evaluate(
        &(0..N_IMAGES).step_by(2).map(|i| mos(i) - 4.0 * noise(3, i)).collect::<Vec<_>>(),
        &(0..N_IMAGES).step_by(2).map(mos).collect::<Vec<_>>(),
        None,
    )
    .expect("finite");
    let values = |metrics: &[Estimate]| metrics.iter().map(|metric| metric.value).collect::<Vec<_>>();
    assert_eq!(values(&rows[1].metrics.0), values(&metric.0[..4]));

    dir.agiqa(&args(&["--split", "half"])).exits(0).says("skipped");
    add(&store, "late", Direction::Higher, |i| Some(noise(8, i)));
    dir.agiqa(&args(&["--split", "half"])).exits(0).says("have changed").prints("late");
}

#[test]
fn an_extractor_that_rates_images_is_a_method_too() {
    let dir = TestDir::new();
    let store = store(&dir);
    add(&store, "niqe", Direction::Lower, |i| Some(-mos(i) + 4.0 * noise(3, i)));
    let column = |name: &str, dim| VectorColumn { name: name.to_owned(), dim };
    let set = FeatureSet {
        extractor: name("maniqa"),
        fingerprint: Fingerprint::builder("test").finish(),
        kind: FeatureKind::Quality,
        columns: vec![column("f_1", 2), column("rating", 1)],
        settings: serde_json::json!({}),
    };
    set.write_description(&store).expect("a description can be written");
    let rated = |i: u32| (mos(i) + 0.5 * noise(2, i)) as f32;
    let rows = FeatureRows {
        image_ids: (0..N_IMAGES).map(id).collect(),
        vectors: vec![vec![0.0; 2 * N_IMAGES as usize], (0..N_IMAGES).map(rated).collect()],
        n_tokens: Vec::new(),
    };
    set.write_part(&store, &rows).expect("features can be written");
    dir.agiqa(&args(&["--split", "half"]))
        .exits(0)
        .says("2 methods on 120 images; best: maniqa rating")
        .prints("0.8618 0.9115 0.6839 0.4111");
    let judged = Judged { dataset: name("agiqa-3k"), part: Some((name("half"), Part::Test)) };
    let rows = comparison::read(&store, &judged).expect("the comparison is in the store");
    assert_eq!((rows[0].method.as_str(), rows[0].kind), ("maniqa rating", ScorerKind::Rating));
}

#[test]
fn methods_that_cannot_be_told_apart_are_said_to_be_so() {
    let dir = TestDir::new();
    let store = store(&dir);
    add(&store, "one", Direction::Higher, |i| Some(mos(i) + 4.0 * noise(2, i)));
    add(&store, "other", Direction::Higher, |i| Some(mos(i) + 4.0 * noise(3, i)));
    dir.agiqa(&args(&[])).exits(0).prints("agiqa-3k, all images").prints("not distinguishable");
}

#[test]
fn the_comparison_comes_as_markdown_parquet_and_json_too() {
    let dir = TestDir::new();
    let store = store(&dir);
    add(&store, "brisque", Direction::Lower, |i| Some(-mos(i) + noise(2, i)));
    let markdown = dir.agiqa(&args(&["--format", "markdown"])).exits(0);
    markdown.prints("|  | method | SRCC |").prints("|---|---|").prints("| 1 | brisque | 0.9");
    let json = dir.agiqa(&args(&["--json"])).exits(0);
    let line = json.stdout.lines().find(|line| line.contains("\"comparison\"")).expect("a line of the comparison");
    let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&row["method"], &row["n"]), (&"brisque".into(), &N_IMAGES.into()));
    assert_eq!(row["paper"][0], 0.4726);

    dir.agiqa(&args(&["--format", "parquet"])).exits(2).says("--out");
    dir.agiqa(&args(&["--format", "parquet", "--out", "table.parquet"])).exits(0);
    let bytes = std::fs::read(dir.path().join("table.parquet")).expect("the file is there");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[test]
fn a_run_stands_beside_baselines_on_its_own_split_and_on_no_other() {
    let fixture = Fixture::new(300, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "20"])).exits(0);
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let d = name("d");
    let rows = images::read(&fixture.store, &d).expect("images").rows;
    let set = ScoreSet {
        scorer: name("brisque"),
        kind: ScorerKind::Method,
        fingerprint: Fingerprint::builder("test").finish(),
        direction: Direction::Lower,
        settings: serde_json::json!({}),
    };
    set.write_description(&fixture.store).expect("a description can be written");
    let score = |(index, row): (usize, &ImageRow)| Some((row.image_id, 3.0 * noise(4, index as u32) - row.mos?));
    let scores: Vec<(ImageId, f64)> = rows.iter().enumerate().filter_map(score).collect();
    set.write_part(&fixture.store, &scores).expect("scores can be written");

    let compare =
        |more: &[&str]| fixture.dir.agiqa(&[&["compare", "--store", "store", "--dataset", "d"][..], more].concat());
    let record = agiqa_store::tables::models::RunRecord::read(&fixture.store, &run).expect("a record");
    let split = record.split.as_str();
    let said = compare(&["--split", split]).exits(0).says("2 methods on 60 images");
    said.prints(run.as_str()).prints("brisque").prints("real");
    let judged = Judged { dataset: d.clone(), part: Some((name(split), Part::Test)) };
    let found = comparison::read(&fixture.store, &judged).expect("the comparison is in the store");
    let of_run = found.iter().find(|row| row.method == run.as_str()).expect("the run is compared");
    assert_eq!((of_run.kind, of_run.rank, of_run.n), (ScorerKind::Run, 1, 60));
    assert!(of_run.metrics[Metric::Srcc].value > Some(0.9) && of_run.beats == ["brisque"], "{of_run:?}");
    let of_baseline = found.iter().find(|row| row.method == "brisque").expect("the baseline is compared");
    assert_eq!((of_baseline.kind, of_baseline.n), (ScorerKind::Method, 60));

    // It has learnt from most of all images, so on them it is left out, with the reason.
    compare(&[]).exits(0).prints("brisque").says("name its split").says("1 methods on 300 images");
}

#[test]
fn what_is_missing_is_named() {
    let dir = TestDir::new();
    let store = store(&dir);
    dir.agiqa(&args(&[])).exits(2).says("no method has scored");
    add(&store, "brisque", Direction::Lower, |i| Some(noise(2, i)));
    dir.agiqa(&args(&["--split", "third"])).exits(2).says("no split `third`; the splits are: `half`");
    dir.agiqa(&["compare", "--store", "store", "--dataset", "other"]).exits(2).says("the datasets are: `agiqa-3k`");
}
