//! `schemas/events.json`: the events that `--json` prints, for programs that read them.

use serde_json::{Value, json};

/// Events that are rows of tables. Equal runs print equal rows, so that these carry no `run_id`.
const ROWS: [&str; 5] = ["metrics", "leakage", "comparison", "experiment", "table1"];

/// Type, what prints it, and its fields without `type` and `run_id`.
const EVENTS: &[(&str, &str, &[&str])] = &[
    ("plan", "`run`", &["pipeline", "store", "dry_run", "stages"]),
    ("stage", "every stage", &["stage", "outcome", "reason", "summary", "rows", "elapsed_secs"]),
    ("metrics", "`run`, `evaluate`: the row of table `metrics`", &["run", "dataset", "part", "predictor", "subset"]),
    ("leakage", "`run`, `evaluate`", &["run", "dataset", "n", "n_shared", "n_runs", "share"]),
    ("comparison", "`run`, `compare`: the row of table `comparison`", &["method", "kind", "rank", "n"]),
    ("experiment", "`run`: the row of table `experiments`", &[]),
    ("table1", "`run`: a method of the paper's Table 1", &["dataset", "splits", "n_splits", "method", "state"]),
    ("tables", "`run`", &["store", "tables"]),
    ("excluded", "`evaluate --table`", &["n_rows", "n_excluded", "n_without_score", "n_without_mos"]),
    ("selection", "`select`", &["scorer", "top", "uncertain_below", "score", "mos"]),
    ("check", "`check`", &["check", "scope", "value", "limit", "passed", "severity", "message"]),
    ("reproduced", "`reproduce`", &["run", "same", "items"]),
    (
        "inspected",
        "`inspect`",
        &[
            "path",
            "container",
            "tool",
            "prompt",
            "negative_prompt",
            "seed",
            "model",
            "sampler",
            "group_id",
            "prompt_source",
            "declared_synthetic",
            "has_c2pa",
            "notes",
        ],
    ),
    ("method", "`methods`", &["name", "about", "fills", "weights"]),
    ("weights", "`weights`", &["name", "state"]),
    (
        "doctor",
        "`doctor`",
        &["agiqa_version", "libtorch", "cpu", "cuda_driver", "cuda_devices", "memory", "disks", "weights"],
    ),
    (
        "done",
        "every command, as its last line; also the file of `--summary`",
        &["schema", "command", "exit_code", "error", "night", "rows", "checks", "outputs", "elapsed_secs"],
    ),
];

/// Name and text of the file.
pub(super) fn document() -> (String, String) {
    let event = |(name, printed_by, fields): &(&str, &str, &[&str])| -> Value {
        let run_id = (!ROWS.contains(name)).then_some("run_id");
        let fields: Vec<&str> = ["type"].into_iter().chain(run_id).chain(fields.iter().copied()).collect();
        json!({ "type": name, "printed_by": printed_by, "fields": fields })
    };
    let events: Vec<Value> = EVENTS.iter().map(event).collect();
    let document = json!({ "events": events, "note": "An event may have more fields than are listed. Rows of tables have no `run_id`: the same run gives the same rows." });
    let text = serde_json::to_string_pretty(&document).expect("a list of names is plain data");
    ("events.json".to_owned(), text + "\n")
}
