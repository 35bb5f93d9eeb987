//! `agiqa reproduce`: yes, or which input differs; and a store that stays as it is.

use std::collections::BTreeMap;

use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::{self, RunRecord};

use crate::testdir::Ran;
use crate::train::Fixture;

/// Every object of the store with its bytes.
fn objects(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let folders =
        ["images", "splits", "features", "models", "scores", "gates", "metrics", "rejects", "train_log", "runs"];
    let listed = folders.iter().flat_map(|folder| store.list(folder).expect("a listing"));
    listed.map(|object| (object.path.clone(), store.get(&object.path).expect("an object").to_vec())).collect()
}

/// A run that is trained, scored and evaluated.
fn finished(more: &[&str]) -> (Fixture, PartitionName) {
    let fixture = Fixture::new(90, 0);
    fixture.dir.agiqa(&fixture.train_args(&[&["--epochs", "3"], more].concat())).exits(0);
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str(), "--by", "format"]).exits(0);
    (fixture, run)
}

fn reproduce(fixture: &Fixture, run: &PartitionName, more: &[&str]) -> Ran {
    let args = ["reproduce", run.as_str(), "--store", "store"];
    fixture.dir.agiqa(&[&args, more].concat())
}

#[test]
fn gated_heads_and_kernel_ridge_regressions_are_reproduced_and_the_store_stays_as_it_is() {
    for more in [&["--input-dropout", "0.1", "--inputs", "f_a,f_1"][..], &["--head", "kernel-ridge"]] {
        let (fixture, run) = finished(more);
        let before = objects(&fixture.store);
        let ran = reproduce(&fixture, &run, &[]).exits(0).prints(&format!("{run} is reproduced: the same bytes"));
        for item in ["head", "scores", "metrics on d", "all inputs", "semantic features (synthetic)"] {
            let line = ran.stdout.lines().find(|line| line.contains(item)).expect("a line per item");
            assert!(line.starts_with("same "), "{line}");
        }
        reproduce(&fixture, &run, &["--json"]).exits(0).prints("\"type\":\"reproduced\"").prints("\"same\":true");
        assert!(objects(&fixture.store) == before, "the store has changed");
    }
}

#[test]
fn what_differs_is_named() {
    let (fixture, run) = finished(&[]);
    reproduce(&fixture, &run, &["--resamples", "7"])
        .exits(1)
        .prints("metrics on d differ, although all inputs are the same")
        .prints("only their intervals: give the `--resamples` and `--seed`");
    let head = fixture.store.get(&models::head_path(&run)).expect("a head");
    fixture.store.put(&models::head_path(&run), b"other".to_vec()).expect("an object can be written");
    reproduce(&fixture, &run, &[]).exits(1).prints("not reproduced: head differ, although all inputs are the same");
    fixture.store.put(&models::head_path(&run), head).expect("an object can be written");
    fixture.set_mos(|i, mos| if i == 3 { Some(2.0) } else { mos });
    let ran = reproduce(&fixture, &run, &[]).exits(1).prints("and of the inputs: all inputs");
    assert!(ran.stdout.contains("by up to "), "{}", ran.stdout);
    let prefix = fixture.store.list("features").expect("a listing");
    prefix.iter().for_each(|object| fixture.store.delete(&object.path).expect("an object can be deleted"));
    reproduce(&fixture, &run, &[]).exits(1).prints(
        "it was not trained, since these inputs differ: semantic features (synthetic), quality features (synthetic)",
    );
}

#[test]
fn a_run_of_another_recipe_and_an_unknown_run_are_refused() {
    let (fixture, run) = finished(&[]);
    let mut record = RunRecord::read(&fixture.store, &run).expect("a record");
    record.recipe = "joint".to_owned();
    record.write(&fixture.store).expect("a record can be written");
    reproduce(&fixture, &run, &[]).exits(2).says("(recipe `joint`) cannot be reproduced from the store");
    record.recipe = "head".to_owned();
    record.settings["width"] = "wide".into();
    record.write(&fixture.store).expect("a record can be written");
    reproduce(&fixture, &run, &[]).exits(2).says("does not say how it was trained: invalid type");
    let absent = "nothing".parse().expect("a valid name");
    reproduce(&fixture, &absent, &[]).exits(2).says(run.as_str());
}
