//! How a command ends: its exit code by the share of rejects, its last event, its summary, its metrics, its record.

use serde_json::Value;

use crate::select::{Invented, image, write};
use crate::testdir::TestDir;

fn json(dir: &TestDir, file: &str) -> Value {
    let text = std::fs::read_to_string(dir.path().join(file)).expect("the file is there");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_share_of_rejects_that_is_allowed_decides_the_exit_code() {
    let dir = TestDir::new();
    let mut images: Vec<Invented> = (0..9).map(|index| image("a cat", f64::from(index), 1.0)).collect();
    images.push(Invented { prompt: None, ..image("", 0.0, 1.0) });
    write(&dir, "d", "", &images);
    let select = ["select", "--store", "store", "--dataset", "d", "--method", "niqe"];
    let run = |more: &[&str]| dir.agiqa(&[&select, more].concat());
    run(&[]).exits(1).says("1 rejected");
    run(&["--max-rejects", "10%"]).exits(0).says("1 rejected");
    run(&["--max-rejects", "0.09"]).exits(1);
    run(&["--max-rejects", "10"]).exits(2).says("expected a share such as `1%`");
}

#[test]
fn the_end_is_the_last_event_the_summary_the_metrics_and_the_record() {
    let dir = TestDir::new();
    write(&dir, "d", "", &[image("a cat", 1.0, 1.0), image("a cat", 2.0, 2.0)]);
    let select = ["select", "--store", "store", "--dataset", "d", "--method", "niqe", "--out", "keep.csv"];
    let files = ["--json", "--summary", "night.json", "--metrics-file", "agiqa.prom"];
    let ran = dir.agiqa(&[&select[..], &files].concat()).exits(0);
    let last: Value = serde_json::from_str(ran.stdout.lines().last().expect("an event")).expect("JSON");
    assert_eq!(last, json(&dir, "night.json"));
    assert_eq!((&last["type"], &last["command"], &last["exit_code"]), (&"done".into(), &"select".into(), &0.into()));
    assert_eq!((&last["rows"]["n_in"], &last["outputs"][0]), (&2.into(), &"keep.csv".into()));
    let run_id = last["run_id"].as_str().expect("an identity");
    assert_eq!(run_id.len(), 16);
    assert!(ran.stdout.lines().all(|line| line.contains(run_id)));
    let sql = format!("SELECT command FROM runs WHERE run_id = '{run_id}'");
    assert_eq!(dir.agiqa(&["query", "--store", "store", &sql, "--format", "csv"]).exits(0).stdout, "command\nselect\n");
    let metrics = std::fs::read_to_string(dir.path().join("agiqa.prom")).expect("the file is there");
    for line in [
        "# TYPE agiqa_exit_code gauge",
        "agiqa_exit_code{command=\"select\"} 0",
        "agiqa_rows{command=\"select\",kind=\"in\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }

    let failed =
        dir.agiqa(&["--summary", "night.json", "select", "--store", "store", "--dataset", "e", "--method", "niqe"]);
    failed.exits(2);
    let found = json(&dir, "night.json");
    assert_eq!(found["exit_code"], 2);
    assert!(found["error"].as_str().is_some_and(|error| error.contains("the datasets are: `d`")), "{found}");
    dir.agiqa(&["methods", "--summary", "missing/night.json"]).exits(2).says("cannot write `missing/night.json`");
    let checked = ["check", "--store", "store", "--dataset", "d", "--method", "niqe", "--metrics-file", "agiqa.prom"];
    dir.agiqa(&checked).exits(0);
    let metrics = std::fs::read_to_string(dir.path().join("agiqa.prom")).expect("the file is there");
    assert!(metrics.contains("agiqa_checks{command=\"check\",outcome=\"failed\"} 0\n"), "{metrics}");
}
