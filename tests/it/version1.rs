//! A store of version 1: its runs and scores are read, new ones are written beside.

use std::sync::Arc;

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::Store;
use agiqa_store::store::part::{self, PartKind};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, comparison, metrics};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use crate::evaluate::{N, add_run, id, mos, part, store};
use crate::scored::{Scored, scored};
use crate::testdir::{TestDir, name};
use crate::train::Fixture;

/// Writes a part of version 1 of `table`.
fn write_part(store: &Store, table: &'static str, path: &str, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    part::write(store, PartKind { table, version: 1 }, path, &batch, None).expect("a part can be written");
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn reals(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from_iter(values))
}

/// Writes the table `predictions` of a run on `dataset`.
fn write_predictions(store: &Store, run: &PartitionName, dataset: &str, rows: &[Scored]) {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let parts: StringArray = rows.iter().map(|row| row.part.map(Part::as_str)).collect();
    let alpha = || reals(rows.iter().map(|_| Some(0.5)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("dataset", texts(rows.iter().map(|_| dataset))),
        ("image_id", texts(ids.iter().map(String::as_str))),
        ("name", texts(ids.iter().map(String::as_str))),
        ("part", Arc::new(parts)),
        ("mos", reals(rows.iter().map(|row| row.mos))),
        ("score", reals(rows.iter().map(|row| Some(row.score)))),
        ("alpha_quality", alpha()),
        ("alpha_semantic", alpha()),
        ("alpha_coherence", alpha()),
    ];
    write_part(store, "predictions", &format!("predictions/run={run}/part-0.parquet"), columns);
}

/// Writes the table `baselines` of method `niqe`.
fn write_baseline(store: &Store, scores: &[(ImageId, f64)]) -> Fingerprint {
    let fingerprint = Fingerprint::builder("test").finish();
    let folder = format!("baselines/method=niqe/fingerprint={}", fingerprint.short());
    let description =
        json!({ "method": "niqe", "fingerprint": fingerprint, "direction": "lower", "settings": { "resize": "none" } });
    store.put(&format!("{folder}/method.json"), description.to_string().into_bytes()).expect("it can be written");
    let ids: Vec<String> = scores.iter().map(|(id, _)| id.to_string()).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image_id", texts(ids.iter().map(String::as_str))),
        ("score", reals(scores.iter().map(|(_, score)| Some(*score)))),
        ("direction", texts(scores.iter().map(|_| "lower"))),
    ];
    write_part(store, "baselines", &format!("{folder}/part-0123456789abcdef.parquet"), columns);
    fingerprint
}

/// Turns a run's record into one of version 1.
fn age_record(store: &Store, run: &PartitionName) {
    let path = models::record_path(run);
    let mut record: Value = serde_json::from_slice(&store.get(&path).expect("a record")).expect("JSON");
    let fields = record.as_object_mut().expect("an object");
    for input in fields.remove("inputs").expect("inputs").as_array().expect("a list") {
        let mut features = input.clone();
        let role = features.as_object_mut().expect("an object").remove("role").expect("a role");
        fields.insert(role.as_str().expect("text").to_owned(), features);
    }
    fields.remove("schema_version");
    fields.remove("recipe");
    store.put(&path, record.to_string().into_bytes()).expect("it can be written");
}

fn delete(store: &Store, tables: &[&str]) {
    for object in tables.iter().flat_map(|table| store.list(table).expect("a listing")) {
        store.delete(&object.path).expect("it can be deleted");
    }
}

#[test]
fn runs_and_methods_of_version_1_are_evaluated_and_compared_to_the_same_digits() {
    let dir = TestDir::new();
    let store = store(&dir);
    add_run(&store, "one", 0.5, |index| Some(mos(index)));
    let niqe: Vec<(ImageId, f64)> = (0..N).map(|index| (id(index), ((index * 53) % 100) as f64 - mos(index))).collect();
    let set = ScoreSet {
        scorer: name("niqe"),
        kind: ScorerKind::Method,
        fingerprint: write_baseline(&store, &niqe),
        direction: Direction::Lower,
        settings: json!({ "resize": "none" }),
    };
    delete(&store, &["baselines"]);
    set.write_description(&store).expect("it can be written");
    set.write_part(&store, &niqe).expect("it can be written");
    let evaluate = ["evaluate", "--store", "store", "--run", "one", "--resamples", "50", "--json"];
    let compare = ["compare", "--store", "store", "--dataset", "toy", "--split", "random-1", "--resamples", "50"];
    let judged = comparison::Judged { dataset: name("toy"), part: Some((name("random-1"), Part::Test)) };
    let judge = || {
        let metrics_lines = |text: String| text.lines().filter(|line| line.contains("\"metrics\"")).collect::<String>();
        let evaluated = metrics_lines(dir.agiqa(&evaluate).exits(0).stdout);
        let compared = dir.agiqa(&compare).exits(0).stdout;
        let rows = metrics::read(&store, &name("one")).expect("metrics");
        (evaluated, compared, rows, comparison::read(&store, &judged).expect("a comparison"))
    };
    let expected = judge();
    assert_eq!(expected.3.len(), 2);

    let rows: Vec<Scored> = scored(&store, &name("one"));
    assert!((0..N).all(|index| rows[index].part == Some(part(index))));
    delete(&store, &["scores", "metrics", "comparison"]);
    age_record(&store, &name("one"));
    write_predictions(&store, &name("one"), "toy", &rows);
    write_baseline(&store, &niqe);
    assert_eq!(judge(), expected);
    assert!(store.list("scores").expect("a listing").is_empty(), "judging writes no scores");
    dir.agiqa(&evaluate).exits(0).says("skipped");
}

#[test]
fn a_run_of_version_1_scores_again_to_the_same_bits_and_its_older_scores_end_with_a_new_training() {
    let fixture = Fixture::new(60, 0);
    let train = fixture.train_args(&["--epochs", "2"]);
    fixture.dir.agiqa(&train).exits(0);
    let run = fixture.only_run();
    let predict = ["predict", "--store", "store", "--run", run.as_str()];
    fixture.dir.agiqa(&predict).exits(0);
    let expected = scored(&fixture.store, &run);
    delete(&fixture.store, &["scores", "gates"]);
    age_record(&fixture.store, &run);
    write_predictions(&fixture.store, &run, "d", &expected);
    let record = RunRecord::read(&fixture.store, &run).expect("a record of version 1");
    assert_eq!((record.schema_version, record.recipe.as_str()), (1, "head"));
    fixture.dir.agiqa(&train).exits(0).says("skipped: all 1 runs");
    let without_gates = |rows: &[Scored]| rows.iter().map(|row| Scored { gates: None, ..*row }).collect::<Vec<_>>();
    assert_eq!(scored(&fixture.store, &run), without_gates(&expected));

    fixture.dir.agiqa(&predict).exits(0).says("60 of 60 scores are lacking");
    assert_eq!(scored(&fixture.store, &run), expected);
    // Once the run is trained anew, what it scored before is nobody's.
    delete(&fixture.store, &["scores"]);
    fixture.store.delete(&models::record_path(&run)).expect("it can be deleted");
    fixture.dir.agiqa(&train).exits(0).says("1 runs trained");
    assert!(scored(&fixture.store, &run).is_empty());
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(2).says("`agiqa predict` first");
}
