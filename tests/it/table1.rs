//! The paper's Table 1 whole, on `data.example`: what is scored, what is missing, and that nothing missing is a failure.

use serde_json::Value;

use crate::score::checkpoint;
use crate::testdir::{Ran, TestDir};

/// Runs the pipeline on twenty images of `data.example` as if they were AGIQA-3K, without the weights of anybody.
fn run(dir: &TestDir, more: &[&str]) -> Ran {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/data.example");
    let table = std::fs::read_to_string(format!("{example}/data.csv")).expect("part of the project");
    dir.write("root/data.csv", table.lines().take(21).map(|line| format!("{line}\n")).collect::<String>());
    let _ = std::os::unix::fs::symlink(format!("{example}/images"), dir.path().join("root/images"));
    let pipeline = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/table1.toml");
    let root = format!("root={}", dir.path().join("root").display());
    let mut args = vec!["run", pipeline, "--store", "store", "--set", &root, "--set", "compare.bootstrap.resamples=20"];
    args.extend_from_slice(more);
    dir.agiqa_with(&args, |command| {
        command.env("AGIQA_WEIGHTS", dir.path().join("none"));
    })
}

#[test]
fn every_method_is_a_row_with_its_state_and_missing_weights_fail_nothing() {
    let dir = TestDir::new();
    let (baid, dbcnn) = (checkpoint(&dir, "baid", 0), checkpoint(&dir, "dbcnn", 0));
    let baid = format!("scorer.baid.weights={}", baid.display());
    let dbcnn = format!("scorer.dbcnn.weights={}", dbcnn.display());
    let mut more = vec!["--set", baid.as_str(), "--set", dbcnn.as_str()];
    let ran = run(&dir, &more).exits(0).says("score hyperiqa of agiqa-3k is left out");
    let ran = ran.says("features dinov2-s14 of agiqa-3k is left out").prints("paired bootstrap on each split");
    let ran = ran.prints("Table 1 of the paper on agiqa-3k, test part of official splits (1 split)");
    let ran = ran.prints("Table 1 of the paper on agiqa-3k, test part of random splits (10 splits)");
    let ran = ran.prints("its SHA-256 begins with c96c41b1");
    let (_, official) = ran.stdout.split_once("official splits").expect("checked above");
    let (official, random) = official.split_once("random splits").expect("checked above");
    let lacking = ["BRISQUE", "NIQE", "ILNIQE", "CLIPIQA", "CLIPIQA+", "Q-Align", "HyperIQA", "MANIQA", "StairIQA"];
    for (table, has_deviation) in [(official, false), (random, true)] {
        let line = |method: &str| {
            let begins = format!("{method} ");
            let line = table.lines().find(|line| line.starts_with(&begins));
            line.unwrap_or_else(|| panic!("no row of {method}\n{table}")).to_owned()
        };
        for method in ["BAID", "DBCNN"] {
            let line = line(method);
            assert!(line.contains("  scored  ") && line.contains('±') == has_deviation, "{line}");
        }
        for method in lacking.iter().chain(&["MUSIQ", "MA-AGIQA"]) {
            assert!(line(method).contains("  missing  "), "{}", line(method));
        }
        assert!(line("StairIQA").ends_with("0.8343 0.8933 0.6485 0.4510"), "{}", line("StairIQA"));
    }
    // What is there is not computed again, and a plan knows what is left out.
    more.push("--dry-run");
    let _ = run(&dir, &more).exits(0).prints("left out: `hyperiqa` has no weights").prints("skip   score baid");
    more.pop();
    more.push("--json");
    let ran = run(&dir, &more).exits(0);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let rows: Vec<&Value> = lines.iter().filter(|line| line["type"] == "table1").collect();
    assert_eq!(rows.len(), 26, "thirteen rows on two kinds of splits");
    let is_of = |row: &&&Value, method: &str, state: &str| row["method"] == method && row["state"] == state;
    assert!(rows.iter().any(|row| is_of(&row, "Q-Align", "missing") && row["paper"][0] == 0.6728));
    assert!(rows.iter().any(|row| is_of(&row, "BAID", "scored") && row["std"][0].is_f64()));
}

#[test]
fn without_any_weights_the_table_says_how_to_get_them() {
    let dir = TestDir::new();
    let ran = run(&dir, &[]).exits(0);
    let ran = ran.prints("MUSIQ  ").prints("musiq_koniq_ckpt-e95806b9.pth").prints("BRISQUE_release.zip");
    assert!(!ran.stdout.contains("  scored  "), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("Missing:").count(), 1, "{}", ran.stdout);
    let _ = run(&dir, &["--set", "skip_absent_weights=false"]).exits(2).says("agiqa weights fetch dinov2-s14");
    let _ = run(&dir, &["--set", "compare.paper_table=2"]).exits(2).says("expected 1");
}
