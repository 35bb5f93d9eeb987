//! Tests of `agiqa train --fine-tune`, on a CLIP small enough to train in a second.

use std::collections::BTreeMap;

use agiqa_judge::metrics;
use agiqa_nets::clip::ClipCheckpoint;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::Part;
use tch::Tensor;

use crate::clip::write_network;
use crate::joint::Fixture;
use crate::scored::scored;
use crate::testdir::{Ran, weights};

/// A dataset of `n` images whose MOS is their brightness, with the features of the small CLIP in the folder `clip`.
fn fixture(n: usize, sides: &str) -> Fixture {
    let fixture = Fixture::new(n, 0);
    write_network(&fixture.dir);
    features(&fixture, &["--weights", "clip", "--side", sides]).exits(0);
    fixture
}

fn features(fixture: &Fixture, more: &[&str]) -> Ran {
    let base = ["features", "--extractor", "clip-b16", "--dataset", "d", "--store", "store", "--device", "cpu"];
    fixture.dir.agiqa(&[&base, more].concat())
}

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = ["train", "--fine-tune", "--store", "store", "--dataset", "d", "--features", "clip-b16", "--name", "t"];
    let small = ["--weights", "clip", "--width", "16", "--batch-size", "16", "--device", "cpu", "--threads", "1"];
    [&base[..], &small, more].concat()
}

fn train(fixture: &Fixture, more: &[&str]) -> Ran {
    fixture.dir.agiqa(&args(more))
}

/// The run that a training printed.
fn run_of(trained: &Ran) -> PartitionName {
    PartitionName::new(trained.stdout.trim()).expect("the name of one run")
}

fn predict(fixture: &Fixture, run: &PartitionName) -> Ran {
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()])
}

#[test]
fn a_run_is_a_head_over_the_columns_of_its_own_network() {
    let fixture = fixture(120, "20");
    let ran = train(&fixture, &["--epochs", "2", "--keep-epoch", "best"]).exits(0);
    let _ = ran.says("clip-b16 at 20 px in f32; ridge regression of strength").says("epoch 2 of 2").says("120 of 120");
    let run = fixture.only_run();
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    assert_eq!((record.recipe.as_str(), record.epochs.len()), ("fine-tune", 2));
    assert_eq!(record.settings["fine_tune"]["layer_decay"], 0.75);
    assert!(record.settings["weight_average"] == 0.99 && record.settings["optimiser"] == "adamw");
    predict(&fixture, &run).exits(0);
    let rows = scored(&fixture.store, &run);
    assert_eq!(rows.len(), 120);
    let of = |part: Part| -> (Vec<f64>, Vec<f64>) {
        rows.iter().filter(|row| row.part == Some(part)).map(|row| (row.score, row.mos.expect("a MOS"))).unzip()
    };
    let (scores, mos) = of(Part::Validation);
    let kept = record.epochs[record.best_epoch as usize - 1];
    let error = metrics::plcc(&scores, &mos).expect("defined") - kept.validation_plcc.expect("defined");
    assert!(error.abs() < 1e-4, "validation PLCC is off by {error:e}");
    let (scores, mos) = of(Part::Test);
    assert!(metrics::srcc(&scores, &mos).expect("defined") > 0.5);
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(0).prints("model");
    let split = record.split.as_str();
    fixture.dir.agiqa(&["compare", "--store", "store", "--dataset", "d", "--split", split]).exits(0).prints("t-random");
    let again = train(&fixture, &["--epochs", "2", "--keep-epoch", "best"]).exits(0);
    let _ = again.says("skipped: all 1 runs are trained").says("skipped: all 120 rows of 1 runs are present");
}

#[test]
fn killed_and_started_again_it_ends_with_the_same_bits() {
    let more = ["--epochs", "4", "--checkpoint-minutes", "0", "--micro-batch", "6"];
    let (undisturbed, killed) = (fixture(60, "20"), fixture(60, "20"));
    train(&undisturbed, &more).exits(0);
    (0..3).for_each(|_| killed.kill_once_saved(&args(&more)));
    train(&killed, &more).exits(0).says("continues after step");
    // A stamp says when a file was hashed.
    let files = |fixture: &Fixture| -> BTreeMap<String, Vec<u8>> {
        fixture.files().into_iter().filter(|(path, _)| !path.ends_with(".verified")).collect()
    };
    let (expected, found) = (files(&undisturbed), files(&killed));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, bytes) in &expected {
        assert!(*bytes == found[path], "{path} differs");
    }
}

/// The only epoch of a training that moves nothing, at `side`.
fn still(fixture: &Fixture, side: &str) -> models::EpochRecord {
    train(fixture, &["--epochs", "1", "--learning-rate", "1e-12", "--side", side]).exits(0);
    only_record(fixture).epochs[0]
}

/// The record of the only run, which is then forgotten.
fn only_record(fixture: &Fixture) -> RunRecord {
    let run = fixture.only_run();
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    fixture.store.delete(&models::record_path(&run)).expect("an object can be deleted");
    record
}

#[track_caller]
fn assert_alike(a: &models::EpochRecord, b: &models::EpochRecord) {
    let difference = |of: fn(&models::EpochRecord) -> f64| (of(a) - of(b)).abs();
    assert!(difference(|epoch| epoch.validation_plcc.expect("defined")) < 1e-4, "{a:?}, {b:?}");
    assert!(difference(|epoch| epoch.validation_srcc.expect("defined")) < 1e-9, "{a:?}, {b:?}");
    assert!(difference(|epoch| epoch.validation_mse) < 1e-4, "{a:?}, {b:?}");
}

#[test]
fn before_its_first_step_it_scores_as_ridge_regression_does() {
    let fixture_20 = fixture(60, "20");
    let ridge = |strengths: &str| {
        let set = format!("kernel.strengths={strengths}");
        let args = ["train", "--store", "store", "--dataset", "d", "--features", "clip-b16", "--head", "kernel-ridge"];
        fixture_20.dir.agiqa(&[&args[..], &["--gamma", "0", "--set", &set]].concat()).exits(0);
        only_record(&fixture_20)
    };
    let chosen = ridge("[0.1, 0.2, 0.4, 0.8, 1.6, 3.2]").kernel_ridge.expect("it is one").strength;
    assert_alike(&ridge(&format!("[{}]", 10.0 * chosen)).epochs[0], &still(&fixture_20, "20"));
    // A side takes its own columns.
    assert_alike(&still(&fixture(60, "20,24"), "24"), &still(&fixture(60, "24"), "24"));
}

#[test]
fn frozen_blocks_stay_and_the_others_move() {
    let fixture = fixture(60, "20");
    let start = ClipCheckpoint::open(&fixture.dir.path().join("clip")).expect("CLIP").tensors().expect("all there");
    let moved = |more: &[&str]| -> BTreeMap<String, bool> {
        let ran = train(&fixture, &[&["--epochs", "2", "--keep-epoch", "last"], more].concat()).exits(0);
        let folder = models::backbone_prefix(&run_of(&ran));
        let folder = fixture.dir.path().join("store").join(folder);
        let tensors = ClipCheckpoint::open(&folder).expect("CLIP").tensors().expect("all there");
        tensors.into_iter().map(|(name, tensor)| (name.clone(), tensor != start[&name])).collect()
    };
    assert!(moved(&[]).values().all(|moved| *moved));
    let is_frozen = |name: &str| !name.starts_with("blocks.") || name < "blocks.3";
    for (name, moved) in moved(&["--freeze-blocks", "3"]) {
        assert_eq!(moved, !is_frozen(&name), "{name}");
    }
    let refused = train(&fixture, &["--freeze-blocks", "7"]).exits(2);
    let _ = refused.says("`fine_tune.freeze_blocks` is 7 of the 6 blocks that are read");
}

#[test]
fn several_sides_and_mirror_images_are_averaged() {
    let fixture = fixture(60, "20");
    let scores = |more: &[&str]| -> Vec<f64> {
        let run = run_of(&train(&fixture, &[&["--epochs", "2"], more].concat()).exits(0));
        predict(&fixture, &run).exits(0);
        scored(&fixture.store, &run).iter().map(|row| row.score).collect()
    };
    let [of_20, of_24, both, mirrored] = [
        scores(&[]),
        scores(&["--score-sides", "24"]),
        scores(&["--score-sides", "20,24"]),
        scores(&["--mirror", "true", "--keep-epoch", "last"]),
    ];
    for i in 0..60 {
        assert!((both[i] - (of_20[i] + of_24[i]) / 2.0).abs() < 1e-5);
    }
    assert!(of_20 != of_24 && of_20 != mirrored);
}

#[test]
fn what_it_cannot_train_is_refused_by_name() {
    let fixture = fixture(60, "20");
    let _ = train(&fixture, &["--side", "24"]).exits(2).says("`side = 24`: the features have 20 px");
    let _ = train(&fixture, &["--head", "both"]).exits(2).says("`head` is both; expected `gated`");
    let _ = train(&fixture, &["--dtype", "f16"]).exits(2).says("`fine_tune.dtype` is f16");
    let _ = train(&fixture, &["--set", "fine_tune.crop=0"]).exits(2).says("`fine_tune.crop` is 0");
    let _ = train(&fixture, &["--set", "fine_tune.crops=1"]).exits(2).says("did you mean `crop`?");
    let _ = train(&fixture, &["--joint"]).exits(2).says("--joint").says("--fine-tune");
    let other: Vec<&str> = args(&[]).into_iter().map(|arg| if arg == "clip-b16" { "synthetic" } else { arg }).collect();
    let other = [&other[..], &["--quality", "clip-b16"]].concat();
    let _ = fixture.dir.agiqa(&other).exits(2).says("takes the semantic and the quality features of one extractor");
    let path = fixture.dir.path().join("clip/model.safetensors");
    let moved = Tensor::read_safetensors(&path).expect("it was written").into_iter().map(|(name, xs)| (name, xs + 0.5));
    Tensor::write_safetensors(&moved.collect::<Vec<_>>(), &path).expect("it can be written");
    let _ = train(&fixture, &[]).exits(2).says("are not those of the weights in `clip`");
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_step_and_images() {
    let fixture = fixture(60, "20");
    let said = train(&fixture, &["--learning-rate", "1e20", "--weight-decay", "0", "--epochs", "3"]).exits(2);
    let _ = said.says("diverged: the loss of step").says("on the images").says("at learning rate");
    assert!(models::runs(&fixture.store).expect("a listing").is_empty());
}

#[test]
fn dinov2_is_trained_as_well() {
    if weights("dinov2-s14/vit_s_focus.onnx").is_none() {
        return;
    }
    let fixture = Fixture::new(20, 0);
    let store = ["--dataset", "d", "--store", "store", "--device", "cpu"];
    let made = [&["features", "--extractor", "dinov2-s14", "--side", "56"], &store[..]].concat();
    fixture.dir.agiqa(&made).exits(0);
    let args = ["train", "--fine-tune", "--features", "dinov2-s14", "--epochs", "1", "--freeze-blocks", "7"];
    let ran = fixture.dir.agiqa(&[&args, &store[..]].concat()).exits(0).says("dinov2-s14 at 56 px").says("20 of 20");
    predict(&fixture, &run_of(&ran)).exits(0);
    let refused = fixture.dir.agiqa(&[&args, &store[..], &["--score-sides", "70"]].concat()).exits(2);
    let _ = refused.says("`fine_tune.score_sides` is [70]");
}
