//! Tests of `predict`.

use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::models::{self, RunRecord};

use crate::scored::{scored, scored_of};
use crate::testdir::name;
use crate::train::{Fixture, image};

#[test]
fn scoring_another_dataset_keeps_the_scores_of_the_first() {
    let fixture = Fixture::new(100, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2", "--seeds", "3"])).exits(0);
    let run = fixture.only_run();
    let mut corpus = images::read(&fixture.store, &name("d")).expect("images");
    corpus.rows.truncate(7);
    for row in &mut corpus.rows {
        row.mos = None;
    }
    images::write(&fixture.store, &name("corpus"), &corpus).expect("images can be written");
    let predict = ["predict", "--store", "store", "--run", run.as_str()];
    fixture.dir.agiqa(&predict).exits(0);
    let parts = || fixture.store.list("scores").expect("a listing");
    let own = parts();
    // The corpus has no image that is not scored.
    fixture.dir.agiqa(&[&predict[..], &["--dataset", "corpus"]].concat()).exits(0).says("skipped: all 7 scores");
    corpus.rows.push(image(100, None));
    images::write(&fixture.store, &name("corpus"), &corpus).expect("images can be written");
    let predict_corpus = [&predict[..], &["--dataset", "corpus"]].concat();
    fixture.dir.agiqa(&predict_corpus).exits(1).says("7 scores of 1 runs, 1 images rejected");
    assert_eq!(parts(), own);
    assert_eq!(scored(&fixture.store, &run).len(), 100);
    let of_corpus = scored_of(&fixture.store, &run, &name("corpus"));
    assert_eq!(of_corpus.len(), 7);
    assert!(of_corpus.iter().all(|row| row.mos.is_none() && row.part.is_none()));
    fixture.dir.agiqa(&predict).exits(0).says("skipped");
    fixture.dir.agiqa(&predict_corpus).exits(1).says("skipped");
}

#[test]
fn scores_are_the_same_whatever_images_are_scored_with_them() {
    let fixture = Fixture::new(100, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2"])).exits(0);
    let run = fixture.only_run();
    let predict = ["predict", "--store", "store", "--run", run.as_str()];
    // A corpus: some of the images, in another order, without MOS.
    let rows = (0..100).rev().filter(|i| i % 7 != 2).map(|i| image(i, None)).collect();
    images::write(&fixture.store, &name("corpus"), &Images { rows, extra: Vec::new() }).expect("a table");
    fixture.dir.agiqa(&[&predict[..], &["--dataset", "corpus"]].concat()).exits(0).says("86 scores");
    assert_eq!(scored(&fixture.store, &run).len(), 86);
    // Those that are there are not scored again.
    fixture.dir.agiqa(&predict).exits(0).says("14 of 100 scores are lacking");
    let in_two = scored(&fixture.store, &run);
    for part in fixture.store.list("scores").expect("a listing") {
        fixture.store.delete(&part.path).expect("it can be deleted");
    }
    fixture.dir.agiqa(&predict).exits(0).says("100 of 100 scores are lacking");
    assert_eq!(scored(&fixture.store, &run), in_two);
}

#[test]
fn a_run_that_is_trained_anew_has_no_scores_of_its_earlier_training() {
    let fixture = Fixture::new(60, 0);
    let train = fixture.train_args(&["--epochs", "2"]);
    fixture.dir.agiqa(&train).exits(0);
    let run = fixture.only_run();
    let predict = ["predict", "--store", "store", "--run", run.as_str()];
    fixture.dir.agiqa(&predict).exits(0);
    fixture.set_mos(|i, mos| if i == 0 { Some(9.0) } else { mos });
    fixture.dir.agiqa(&train).exits(0);
    assert!(scored(&fixture.store, &run).is_empty());
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(2).says("`agiqa predict` first");
    fixture.dir.agiqa(&predict).exits(0).says("60 of 60 scores are lacking");
    assert_eq!(scored(&fixture.store, &run).len(), 60);
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let bytes = || {
        let fixture = Fixture::new(80, 0);
        let group = ["--epochs", "2", "--seeds", "0,1"];
        let run = |args: &[&str]| {
            let output = fixture.dir.command(args).env("SOURCE_DATE_EPOCH", "1700000000").output().expect("agiqa");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&fixture.train_args(&group));
        let runs = models::runs(&fixture.store).expect("a listing");
        let group = RunRecord::read(&fixture.store, &runs[0]).expect("a record").group;
        run(&["predict", "--store", "store", "--group", group.as_str()]);
        let read = |path: &str| fixture.store.get(path).expect("a part").to_vec();
        let listed = ["scores", "gates"].map(|table| fixture.store.list(table).expect("a listing"));
        listed.iter().flatten().map(|object| (object.path.clone(), read(&object.path))).collect::<Vec<_>>()
    };
    let (first, second) = (bytes(), bytes());
    assert_eq!(first.len(), 6, "per run a description, a part of scores and one of gates");
    assert_eq!(first, second);
}

#[test]
fn unknown_runs_and_groups_are_named_with_those_there_are() {
    let fixture = Fixture::new(60, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "1"])).exits(0);
    let run = fixture.only_run();
    let known = format!("the finished runs are: `{run}`");
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", "nope"]).exits(2).says("`nope`").says(&known);
    fixture.dir.agiqa(&["predict", "--store", "store", "--group", "nope"]).exits(2).says("the groups are: `t-random-");
}
