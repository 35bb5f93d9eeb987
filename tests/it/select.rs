//! `agiqa select`: groups, ranks, margins, gains, the table, and the folder of links.

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::Store;
use agiqa_store::tables::images::{self, ExtraColumn, ExtraValues, ImageRow, Images};
use agiqa_store::tables::rejects;
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_store::tables::splits::{self, Part, SplitRow};

use crate::testdir::{TestDir, name};
use crate::train::Fixture;

/// One image of a test: prompt, generator, MOS and the score that `niqe` gives, lower being better.
pub struct Invented {
    pub prompt: Option<&'static str>,
    pub generator: &'static str,
    pub mos: f64,
    pub niqe: Option<f64>,
}

pub fn image(prompt: &'static str, mos: f64, niqe: f64) -> Invented {
    Invented { prompt: Some(prompt), generator: "g", mos, niqe: Some(niqe) }
}

/// Writes dataset `dataset` with one file per image, whose content is its number and `salt`, and the scores of `niqe`.
pub fn write(dir: &TestDir, dataset: &str, salt: &str, invented: &[Invented]) -> Store {
    let store = dir.store();
    let row = |(index, invented): (usize, &Invented)| {
        let bytes = format!("{salt}{index}");
        let file = dir.write(&format!("{dataset}/{index}.png"), &bytes);
        ImageRow {
            image_id: ImageId::of_bytes(bytes.as_bytes()),
            name: format!("{index}.png"),
            path: file.display().to_string(),
            n_bytes: bytes.len() as u64,
            width_px: 1,
            height_px: 1,
            format: "png".to_owned(),
            generator: Some(invented.generator.to_owned()),
            prompt: invented.prompt.map(str::to_owned),
            mos: Some(invented.mos),
            mos_std: None,
            mos_align: None,
        }
    };
    let rows: Vec<ImageRow> = invented.iter().enumerate().map(row).collect();
    let style =
        ExtraColumn { name: "style".to_owned(), values: ExtraValues::Text(vec![Some("s".to_owned()); rows.len()]) };
    let scored = rows.iter().zip(invented).filter_map(|(row, invented)| Some((row.image_id, invented.niqe?)));
    score(&store, &scored.collect::<Vec<_>>());
    images::write(&store, &name(dataset), &Images { rows, extra: vec![style] }).expect("images can be written");
    store
}

/// Writes scores of `niqe`, a method whose lower scores are better.
pub fn score(store: &Store, scores: &[(ImageId, f64)]) {
    let set = ScoreSet {
        scorer: name("niqe"),
        kind: ScorerKind::Method,
        fingerprint: Fingerprint::builder("test").finish(),
        direction: Direction::Lower,
        settings: serde_json::json!({}),
    };
    set.write_description(store).expect("a description can be written");
    set.write_part(store, scores).expect("scores can be written");
}

const SELECT: [&str; 7] = ["select", "--store", "store", "--dataset", "d", "--method", "niqe"];

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SELECT.into_iter().chain(more.iter().copied()).collect()
}

fn cats_and_dogs() -> Vec<Invented> {
    vec![
        image("a cat", 1.0, 5.0),
        image(" a cat ", 4.0, 3.0),
        image("a cat", 2.0, 3.5),
        image("a dog", 2.0, 4.0),
        image("a dog", 3.0, 6.0),
        image("a bird", 3.0, 6.0),
    ]
}

#[test]
fn the_best_of_each_prompt_is_chosen_with_its_margin_and_what_that_is_worth() {
    let dir = TestDir::new();
    write(&dir, "d", "", &cats_and_dogs());
    let ran = dir.agiqa(&args(&["--uncertain-below", "1", "--out", "keep.csv", "--resamples", "100"])).exits(0);
    let ran =
        ran.says("3 of 6 images chosen from 3 groups, 1 of them uncertain, 0 rejected").says("wrote keep.csv: 6 rows");
    // Chosen: the MOS 4 of (1, 4, 2) and the 2 of (2, 3).
    ran.prints("MOS    3.000   2.417   3.500   0.583 [-0.500, 1.667]  50.0 % (41.7 %)      2");
    let table = std::fs::read_to_string(dir.path().join("keep.csv")).expect("the table is there");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        rows[0].join(" "),
        "prompt generator image_id name path rank n_candidates score margin uncertain chosen"
    );
    let without_path = |row: &[&str]| [&row[..2], &row[3..4], &row[5..]].concat().join(" ");
    assert_eq!(without_path(&rows[1]), "a cat g 1.png 1 3 -3.0 0.5 true true");
    assert_eq!(without_path(&rows[3]), "a cat g 0.png 3 3 -5.0   false");
    assert_eq!(without_path(&rows[6]), "a bird g 5.png 1 1 -6.0   true", "a group of one is kept, and has no margin");
    dir.agiqa(&args(&["--top", "2", "--out", "keep.parquet", "--json"])).exits(0).prints("\"type\":\"selection\"");
    let parquet = std::fs::read(dir.path().join("keep.parquet")).expect("the table is there");
    assert!(parquet.starts_with(b"PAR1"));
}

#[test]
fn images_without_group_or_score_are_rejects() {
    let dir = TestDir::new();
    let mut invented = cats_and_dogs();
    invented.push(Invented { prompt: Some("  "), ..image("", 1.0, 1.0) });
    invented.push(Invented { prompt: None, ..image("", 1.0, 1.0) });
    invented.push(Invented { niqe: None, ..image("a cat", 1.0, 1.0) });
    let store = write(&dir, "d", "", &invented);
    dir.agiqa(&args(&[])).exits(1).says("3 of 9 images chosen from 3 groups, 3 rejected");
    let mut kinds: Vec<String> =
        rejects::read(&store, "select").expect("rejects").into_iter().map(|row| row.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["no-group", "no-group", "no-score"]);
    dir.agiqa(&args(&["--by", "style,generator"])).exits(1).says("1 of 9 images chosen from 1 groups, 1 rejected");
}

#[test]
fn chosen_images_appear_as_links_or_copies_and_a_folder_of_others_is_refused() {
    let dir = TestDir::new();
    let store = write(&dir, "d", "", &cats_and_dogs());
    let files = |folder: &str| {
        let entries = std::fs::read_dir(dir.path().join(folder)).expect("the folder is there").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    for (folder, flags) in [("hard", &[][..]), ("soft", &["--symbolic"]), ("copy", &["--copy"])] {
        let args = args(&[&["--link", folder], flags].concat());
        dir.agiqa(&args).exits(0);
        dir.agiqa(&args).exits(0);
        assert_eq!(files(folder), ["1.png", "3.png", "5.png"]);
        assert_eq!(std::fs::read(dir.path().join(folder).join("1.png")).expect("readable"), b"1");
        let is_link = std::fs::symlink_metadata(dir.path().join(folder).join("1.png")).expect("there").is_symlink();
        assert_eq!(is_link, folder == "soft");
    }
    dir.agiqa(&args(&["--link", "hard", "--by", "style"])).exits(2).says("which is not chosen: empty it");
    std::fs::remove_file(dir.path().join("d/1.png")).expect("it is there");
    dir.write("d/3.png", "other bytes");
    dir.agiqa(&args(&["--link", "late"])).exits(1).says("2 rejected");
    let mut kinds: Vec<String> =
        rejects::read(&store, "select").expect("rejects").into_iter().map(|row| row.kind).collect();
    kinds.sort();
    assert_eq!(
        (kinds, files("late")),
        (vec!["changed-file".to_owned(), "missing-file".to_owned()], vec!["5.png".to_owned()])
    );
}

#[test]
fn a_run_a_group_and_a_generators_mean_select_too() {
    let fixture = Fixture::new(120, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2"])).exits(0);
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let record = agiqa_store::tables::models::RunRecord::read(&fixture.store, &run).expect("a record");
    let select = |more: &[&str]| {
        let args = ["select", "--store", "store", "--dataset", "d", "--by", "format", "--split", record.split.as_str()];
        fixture.dir.agiqa(&[&args, more].concat())
    };
    // Not evaluated, the run has no error by which a choice were uncertain.
    select(&["--run", run.as_str()]).exits(0).says("1 of 24 images chosen from 1 groups, 0 rejected");
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str(), "--resamples", "0"]).exits(0);
    select(&["--run", run.as_str()]).exits(0).says("1 of 24 images chosen from 1 groups, ").says(" of them uncertain");
    select(&["--group", record.group.as_str()]).exits(0).says("1 of 24 images chosen");
    select(&["--method", "generator-mean"]).exits(0).says("1 of 24 images chosen");
    select(&["--run", run.as_str(), "--part", "train"]).exits(0).says("1 of 84 images chosen");
}

#[test]
fn what_is_missing_or_misspelt_is_named() {
    let dir = TestDir::new();
    let store = write(&dir, "d", "", &cats_and_dogs());
    dir.agiqa(&args(&["--by", "promt"])).exits(2).says("no column `promt` to group by; did you mean `prompt`");
    dir.agiqa(&["select", "--store", "store", "--dataset", "d", "--method", "ilniqe"])
        .exits(2)
        .says("the methods with scores are: `niqe`");
    dir.agiqa(&["select", "--store", "store", "--dataset", "e", "--method", "niqe"])
        .exits(2)
        .says("the datasets are: `d`");
    dir.agiqa(&["select", "--store", "store", "--dataset", "d"]).exits(2).says("--method");
    dir.agiqa(&args(&["--out", "keep.xlsx"])).exits(2).says("its extension is none of");
    dir.agiqa(&args(&["--split", "half"])).exits(2).says("no images in part `test` of split `half`");
    dir.agiqa(&["select", "--store", "store", "--dataset", "d", "--method", "generator-mean"])
        .exits(2)
        .says("`--split`");
    let rows: Vec<SplitRow> = images::read(&store, &name("d"))
        .expect("images")
        .rows
        .iter()
        .map(|row| SplitRow { image_id: row.image_id, seed: None, fold: 0, part: Part::Test })
        .collect();
    splits::write(&store, &name("d"), &name("all"), &rows).expect("a split can be written");
    dir.agiqa(&["select", "--store", "store", "--dataset", "d", "--method", "generator-mean", "--split", "all"])
        .exits(2)
        .says("a mean over training images");
}
