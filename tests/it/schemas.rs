//! `schemas/*.json` is printed from the code.

use std::path::Path;

use serde_json::Value;

use crate::testdir::TestDir;

#[test]
fn the_files_in_schemas_are_those_that_the_code_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let mut documents = agiqa_store::tables::schema_json::documents();
    documents.push(agiqa_report::document());
    for (name, text) in &documents {
        let found = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&found, text, "schemas/{name} differs; run `agiqa schemas --out schemas`");
    }
    let n_files = std::fs::read_dir(&folder).expect("schemas/ is part of the project").count();
    assert_eq!(n_files, documents.len() + 1, "a file in schemas/ belongs to no table, and is not `events.json`");
}

/// Fails unless each line of `stdout` is an event with the fields that `events` lists, and the last is `done`.
#[track_caller]
fn assert_listed(events: &Value, stdout: &str) {
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for event in &lines {
        let listed = events["events"].as_array().expect("a list").iter().find(|listed| listed["type"] == event["type"]);
        let fields = listed.unwrap_or_else(|| panic!("{event} is not listed"))["fields"].as_array().expect("a list");
        let missing = fields.iter().filter_map(Value::as_str).find(|field| event.get(*field).is_none());
        assert_eq!(missing, None, "{event}");
        assert_eq!(event["run_id"], lines[0]["run_id"], "one invocation, one identity");
    }
    assert_eq!(lines.last().expect("an event")["type"], "done");
}

#[test]
fn the_events_that_commands_print_are_listed_with_their_fields() {
    let dir = TestDir::new();
    dir.agiqa(&["schemas", "--out", "schemas"]).exits(0);
    let printed = std::fs::read_to_string(dir.path().join("schemas/events.json")).expect("the file is there");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let found = std::fs::read_to_string(folder.join("events.json")).unwrap_or_default();
    assert_eq!(found, printed, "schemas/events.json differs; run `agiqa schemas --out schemas`");
    let events = serde_json::from_str(&printed).expect("JSON");
    for args in [&["methods"][..], &["doctor"], &["weights", "list"], &["inspect", "schemas/events.json"]] {
        let ran = dir.agiqa(&[&["--json"], args].concat());
        assert_listed(&events, &ran.stdout);
    }
    // What a pipeline prints, to its end.
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/example.toml").display().to_string();
    let ran =
        dir.agiqa(&["run", &pipeline, "--store", "store", "--stage", "ingest", "--stage", "split", "--json"]).exits(0);
    assert_listed(&events, &ran.stdout);
}
