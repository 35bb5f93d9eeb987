//! Nights that trained heads score, with features that stay or go.

use std::collections::BTreeMap;

use agiqa_store::identity::ImageId;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::gates;
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::scores::{ScoreRow, ScoreSet};

use super::{pictures, query};
use crate::pipeline::{PIPELINE, run, with_features};
use crate::testdir::{Ran, TestDir, weights};

/// A store with two runs of one group, over invented features of data.example.
fn trained() -> (TestDir, Vec<RunRecord>) {
    let dir = with_features();
    run(&dir, &[]).exits(0);
    let store = dir.store();
    let runs = agiqa_store::tables::models::runs(&store).expect("runs");
    let records = runs.iter().map(|run| RunRecord::read(&store, run).expect("a record")).collect();
    (dir, records)
}

fn score(dir: &TestDir, source: &str, by: [&str; 2], more: &[&str]) -> Ran {
    let base = ["score", source, "--store", "store", "--corpus", "gen", "--night", "n1", by[0], by[1]];
    dir.agiqa(&[&base[..], more].concat())
}

fn example_images() -> String {
    format!("{}/data.example/images", env!("CARGO_MANIFEST_DIR"))
}

/// Score and deviation of each image in `night_scores`, by its id.
fn night_scores(dir: &TestDir, scorer: &str) -> BTreeMap<String, (f64, Option<f64>)> {
    let sql = format!("SELECT image_id, score, score_std FROM night_scores WHERE scorer = '{scorer}' AND night = 'n1'");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        (cells[0].to_owned(), (cells[1].parse().expect("a score"), cells[2].parse().ok()))
    };
    query(dir, &sql).lines().map(row).collect()
}

#[test]
fn a_head_scores_a_night_from_features_that_are_there() {
    let (dir, records) = trained();
    let images = example_images();
    let run = records[0].run.as_str();
    let side = ["--set", "side=56"];
    score(&dir, &images, ["--run", run], &side)
        .exits(0)
        .says("60 images, 60 files opened")
        .says("60 of 60 images have");
    let of_run = ScoreSet::of_run(&records[0]).read(&dir.store()).expect("scores");
    let found = night_scores(&dir, run);
    assert_eq!(found.len(), 60);
    of_run.iter().for_each(|(id, score)| assert_eq!(found[&id.to_string()], (*score, None)));
    assert_eq!(query(&dir, "SELECT count(*) AS n FROM night_scores WHERE alpha_quality IS NULL"), "0\n");
    // Other settings would be other features.
    let ran = score(&dir, &images, ["--run", run], &[]).exits(2);
    ran.says("reads other features than `dinov2-s14` would compute (").says("56").says("--set KEY=VALUE");
    score(&dir, &images, ["--run", run], &["--set", "dinov2-s14.side=56"]).exits(0).says("60 images, 0 files opened");
}

#[test]
fn the_mean_of_a_group_scores_a_night_with_its_spread() {
    let (dir, mut records) = trained();
    // The runs of a group differ in their seeds alone.
    let group = records[0].group.clone();
    records.retain(|record| record.group == group);
    score(&dir, &example_images(), ["--group", group.as_str()], &["--set", "side=56"]).exits(0);
    let of_runs: Vec<_> =
        records.iter().map(|record| ScoreSet::of_run(record).read(&dir.store()).expect("scores")).collect();
    let found = night_scores(&dir, group.as_str());
    assert_eq!((found.len(), of_runs[0].len()), (60, 60));
    for id in of_runs[0].keys() {
        let scores: Vec<f64> = of_runs.iter().map(|of_run| of_run[id]).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let std = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / scores.len() as f64).sqrt();
        let (score, found_std) = found[&id.to_string()];
        assert!((score - mean).abs() < 1e-12, "{score} instead of {mean}");
        if scores.len() > 1 {
            assert!(found_std.is_some_and(|found| (found - std).abs() < 1e-12), "{found_std:?} instead of {std}");
        }
    }
}

#[test]
fn an_average_of_kinds_of_heads_scores_a_night_by_its_members() {
    let dir = with_features();
    dir.write("p.toml", PIPELINE.replacen("epochs = 2", "epochs = 2\nhead = \"both\"", 1).replacen("[0, 1]", "[0]", 1));
    run(&dir, &[]).exits(0);
    let store = dir.store();
    let runs = agiqa_store::tables::models::runs(&store).expect("runs");
    let records: Vec<_> = runs.iter().map(|run| RunRecord::read(&store, run).expect("a record")).collect();
    let groups: Vec<&str> = records.iter().map(|record| record.group.as_str()).collect();
    let args = ["predict", "--store", "store", "--group", groups[0], "--group", groups[1], "--average", "both"];
    dir.agiqa(&[&args[..], &["--weights", "validation"]].concat()).exits(0);
    let averages = agiqa_store::tables::models::runs(&store).expect("runs");
    let average = averages.iter().find(|run| !runs.contains(run)).expect("the average is a run");
    let record = RunRecord::read(&store, average).expect("a record");
    let average_scores = ScoreSet::of_run(&record).read_rows(&store).expect("scores");
    score(&dir, &example_images(), ["--run", average.as_str()], &["--set", "side=56"]).exits(0);
    score(&dir, &example_images(), ["--group", record.group.as_str()], &["--set", "side=56"]).exits(0);
    for scorer in [average, &record.group] {
        let found = night_scores(&dir, scorer.as_str());
        assert_eq!((found.len(), average_scores.len()), (60, 60));
        for (id, row) in &average_scores {
            let (score, std) = found[&id.to_string()];
            assert!((score - row.score).abs() < 1e-12, "{score} instead of {}", row.score);
            assert!((std.expect("a spread") - row.std.expect("a spread")).abs() < 1e-12);
        }
    }
}

/// Scores and gates of the images that have no features in `store`.
fn scored(store: &Store, record: &RunRecord) -> BTreeMap<String, (ScoreRow, [Option<f64>; 3])> {
    let set = ScoreSet::of_run(record);
    let rows = set.read_rows(store).expect("scores");
    let gates = gates::read(store, &set).expect("gates");
    gates.into_iter().map(|row| (row.image_id.to_string(), (rows[&row.image_id], row.weights))).collect()
}

#[test]
fn a_head_behind_its_extractor_gives_the_scores_of_kept_features_and_keeps_none() {
    if weights("dinov2-s14/vit_s_focus.onnx").is_none() {
        return;
    }
    let (dir, records) = trained();
    pictures(&dir, "out", 0..5);
    let group = records[0].group.clone();
    let records: Vec<RunRecord> = records.into_iter().filter(|record| record.group == group).collect();
    let n_features = |set: &FeatureSet| set.done(&dir.store()).expect("ids").len();
    let semantic = records[0].semantic().expect("a set");
    let options = ["--set", "side=56", "--batch-size", "2"];
    score(&dir, "out", ["--group", group.as_str()], &[&options[..], &["--features", "drop"]].concat()).exits(0);
    assert_eq!(n_features(semantic), 60, "those of the training");
    let dropped = records.iter().map(|record| scored(&dir.store(), record)).collect::<Vec<_>>();
    assert_eq!(dropped[0].len(), 65);
    // The same images again, with features that stay.
    for folder in ["scores", "gates", "night_scores"] {
        std::fs::remove_dir_all(dir.path().join("store").join(folder)).expect("a folder");
    }
    score(&dir, "out", ["--group", group.as_str()], &options).exits(0).says("5 images, 0 files opened");
    assert_eq!(n_features(semantic), 65);
    for (record, dropped) in records.iter().zip(dropped) {
        let kept = scored(&dir.store(), record);
        assert_eq!(kept.len(), 5);
        kept.iter().for_each(|(id, row)| assert_eq!(*row, dropped[id], "{id}"));
    }
}

/// Writes a dataset `d` of `n` pictures with MOS.
fn rated(dir: &TestDir, n: u32) {
    let url = dir.path().join("store").display().to_string();
    let store = Store::open(&url, OpenMode::CreateIfMissing).expect("a store can be made");
    let row = |seed: u32| {
        let bytes = crate::nss::picture(seed, 192, 192);
        let path = dir.write(&format!("rated/{seed}.png"), &bytes);
        let image = crate::train::image(seed as usize, Some(f64::from(seed % 7)));
        ImageRow { image_id: ImageId::of_bytes(&bytes), path: path.display().to_string(), ..image }
    };
    let images = Images { rows: (0..n).map(row).collect(), extra: Vec::new() };
    images::write(&store, &"d".parse().expect("a name"), &images).expect("images can be written");
}

#[test]
fn heads_behind_several_extractors_give_the_scores_of_kept_and_of_joined_features() {
    let dir = TestDir::new();
    rated(&dir, 20);
    crate::clip::write_network(&dir);
    let features = |extractor: &str, more: &[&str]| {
        let base = ["features", "--store", "store", "--dataset", "d", "--device", "cpu", "--extractor", extractor];
        dir.agiqa(&[&base[..], more].concat()).exits(0);
    };
    features("clip-b16", &["--weights", "clip", "--side", "20"]);
    features("nss", &[]);
    let train = |name: &str, quality: &str| {
        let args = ["train", "--store", "store", "--dataset", "d", "--semantic", "clip-b16", "--epochs", "1"];
        let run = dir.agiqa(&[&args[..], &["--quality", quality, "--name", name]].concat()).exits(0);
        run.stdout.trim().to_owned()
    };
    let runs = [train("two", "nss"), train("joined", "clip-b16,nss")];
    for seed in 30..33 {
        dir.write(&format!("out/{seed}.png"), crate::nss::picture(seed, 192, 192));
    }
    // Too small for one of the extractors.
    dir.write("out/small.png", crate::nss::picture(34, 40, 40));
    for run in &runs {
        let options =
            ["--weights", "clip-b16=clip", "--set", "clip-b16.sides=[20]", "--device", "cpu", "--batch-size", "2"];
        let ran = score(&dir, "out", ["--run", run], &[&options[..], &["--features", "drop"]].concat()).exits(1);
        ran.says("3 of 4 images have scores");
        let record = RunRecord::read(&dir.store(), &run.parse().expect("a name")).expect("a record");
        let dropped = scored(&dir.store(), &record);
        assert_eq!((dropped.len(), record.quality().expect("a set").done(&dir.store()).expect("ids").len()), (3, 20));
        for folder in ["scores", "gates", "night_scores"] {
            std::fs::remove_dir_all(dir.path().join("store").join(folder)).expect("a folder");
        }
        score(&dir, "out", ["--run", run], &options).exits(1).says("3 of 4 images have scores");
        let kept = scored(&dir.store(), &record);
        assert_eq!(kept, dropped, "{run}");
    }
}
