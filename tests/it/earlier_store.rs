//! A store that an earlier version made: its features are kept, its runs count as trained, its scores still evaluate.
//!
//! `tests/data/store-of-0.1.0` was made by the program at commit 111211e from twelve images of `data.example` in
//! `/data/example`, which is not there any more: whatever would be computed anew would fail, so a cached row is proven by
//! the exit code.

use std::path::Path;

use super::testdir::{TestDir, shared};

/// The pipeline that made the store.
const PIPELINE: &str = r#"
name = "old"
[[dataset]]
dataset = "example"
adapter = "agiqa-3k"
table = "data.csv"
images = "images"
[features]
semantic = "dinov2-s14"
quality = "dinov2-s14"
[extractor.dinov2-s14]
side = 28
[split]
kind = "random"
seeds = [0]
[train]
width = 8
epochs = 2
[evaluate]
"#;

/// A folder with the pipeline and a copy of the store.
fn dir() -> TestDir {
    let dir = TestDir::new();
    dir.write("old.toml", PIPELINE);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-of-0.1.0");
    for entry in walkdir::WalkDir::new(&source).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let name = entry.path().strip_prefix(&source).expect("inside the folder");
        let bytes = std::fs::read(entry.path()).expect("a file of ours");
        dir.write(&format!("store/{}", name.display()), bytes);
    }
    dir
}

/// Names of the folders of features, which end in fingerprints.
fn fingerprints(dir: &TestDir) -> Vec<String> {
    let features = walkdir::WalkDir::new(dir.path().join("store/features")).sort_by_file_name();
    let names = features.into_iter().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("fingerprint=")).collect()
}

#[test]
fn features_of_an_earlier_version_are_cached_under_the_same_fingerprints() {
    let dir = dir();
    let before = fingerprints(&dir);
    assert_eq!(
        before,
        ["fingerprint=674f692bea03bc80", "fingerprint=719a044340e0b211", "fingerprint=2182b7a0ddcc9181"]
    );
    for (command, extractor, side) in
        [("embed", "dinov2-s14", "28"), ("extract", "dinov2-s14", "28"), ("extract", "nss", "192")]
    {
        let args = [command, "--extractor", extractor, "--side", side, "--dataset", "example", "--store", "store"];
        dir.agiqa(&args).exits(0).says("skipped: all 12 images have features");
    }
    assert_eq!(fingerprints(&dir), before);
}

#[test]
fn runs_of_an_earlier_version_are_trained() {
    let dir = dir();
    let ran = dir.agiqa(&["run", "old.toml", "--store", "store", "--stage", "split", "--stage", "train"]).exits(0);
    ran.says("train old on example (1 run): skipped: all 1 runs are trained");
}

#[test]
fn predictions_of_an_earlier_version_still_evaluate() {
    let dir = dir();
    std::fs::remove_dir_all(dir.path().join("store/metrics")).expect("it is there");
    let run = "old-random-0-s0-a50ba8df";
    let ran = dir.agiqa(&["evaluate", "--run", run, "--store", "store"]).exits(0);
    ran.prints("model               -0.500").prints("ridge               1.000");
}

#[test]
fn scores_and_rejects_of_handcrafted_methods_of_an_earlier_version_are_cached() {
    let Some(params) = shared("iqa-params") else { return };
    let dir = dir();
    let params = params.display().to_string();
    let args =
        ["baseline", "--methods", "niqe,brisque", "--params", &params, "--dataset", "example", "--store", "store"];
    dir.agiqa(&args).exits(1).says("skipped: 23 of 24 scores are present, 1 rejected");
}
