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
    assert_eq!(rows.len(), 28, "thirteen rows and a ResNet-50 on two kinds of splits");
    let is_of = |row: &&&Value, method: &str, state: &str| row["method"] == method && row["state"] == state;
    assert!(rows.iter().any(|row| is_of(&row, "Q-Align", "missing") && row["paper"][0] == 0.6728));
    assert!(rows.iter().any(|row| is_of(&row, "BAID", "scored") && row["std"][0].is_f64()));
}

#[test]
fn networks_that_are_trained_are_rows_over_their_seeds_next_to_published_weights() {
    let dir = TestDir::new();
    let dbcnn = checkpoint(&dir, "dbcnn", 0).display().to_string();
    let resnet = dir.write("resnet.safetensors", "");
    let tensors: Vec<_> = crate::raters::weights("resnet50").into_iter().collect();
    tch::Tensor::write_safetensors(&tensors, &resnet).expect("it can be written");
    let mut set = vec!["train.epochs=1".to_owned(), "split.1.seeds=[0, 1]".to_owned()];
    set.push("train.seeds={ official-20 = [0, 1, 2] }".to_owned());
    // The variants of the pipeline, in its order.
    for (network, weights, crop) in [(2, &dbcnn, 48), (6, &resnet.display().to_string(), 64)] {
        let key = format!("variant.{network}.train.rater");
        set.extend([format!("{key}.weights={weights}"), format!("{key}.crop={crop}"), format!("{key}.device=cpu")]);
    }
    set.push(format!("scorer.dbcnn.weights={dbcnn}"));
    set.push("report.thumbnails=false".to_owned());
    let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let ran =
        run(&dir, &more).exits(0).says("train table1-agiqa-3k-HyperIQA, hyperiqa, on agiqa-3k (5 runs) is left out");
    let ran = ran.prints("DBCNN (trained)").prints("Missing:\n").prints("  HyperIQA: ");
    let ran = ran.prints("a training of `stairiqa` starts from the weights `resnet50-");
    let rows = |table: &str, method: &str| -> Vec<String> {
        let begins = format!("{method} ");
        table.lines().filter(|line| line.starts_with(&begins)).map(str::to_owned).collect()
    };
    let (official, random) = ran.stdout.split_once("random splits (2 splits)").expect("a table of each kind");
    for (table, n_seeds) in [(official, 3), (random, 2)] {
        let (trained, paper) = (format!("  trained, {n_seeds} seeds  "), "0.8263 0.8900 0.6393 0.4533");
        let dbcnn = rows(table, "DBCNN");
        assert_eq!(dbcnn.iter().filter(|row| row.contains(&trained) && row.ends_with(paper)).count(), 1, "{table}");
        assert_eq!(dbcnn.iter().filter(|row| row.contains("  scored  ") && row.ends_with(paper)).count(), 1, "{table}");
        let resnet = rows(table, "ResNet-50");
        assert!(resnet.len() == 1 && resnet[0].contains(&trained) && resnet[0].contains('±'), "{table}");
        assert!(rows(table, "MUSIQ")[0].contains("  missing  "), "{table}");
    }
    // What was trained has its pages; what could not be trained has none.
    let pages = std::fs::read_dir(dir.path().join("store/reports")).expect("pages");
    let pages: Vec<String> =
        pages.map(|page| page.expect("a folder").file_name().into_string().expect("text")).collect();
    let count =
        |name: &str| pages.iter().filter(|page| page.starts_with(&format!("run=table1-agiqa-3k-{name}"))).count();
    assert_eq!((count("DBCNN"), count("ResNet-50"), pages.len()), (2, 2, 4), "{pages:?}");
    // Each split's own runs alone are judged there, and the others are one line.
    let ran = ran.says("and 1 more: trained on another split than `official-20`");
    assert!(ran.stderr.matches("compare: left out").count() == 3, "{}", ran.stderr);
    let ran = run(&dir, &more).exits(0).says("train table1-agiqa-3k-DBCNN, dbcnn, on agiqa-3k (5 runs): skipped");
    let _ = ran.prints("trained, 3 seeds");
    let _ = run(&dir, &["--set", "train.seeds={ official-2 = [0] }"]).exits(2).says("did you mean `official-20`?");
    let _ = run(&dir, &["--set", "train.seeds={ official-20 = [] }"]).exits(2).says("expected at least one seed");
}

#[test]
fn without_any_weights_the_table_says_how_to_get_them() {
    let dir = TestDir::new();
    let ran = run(&dir, &[]).exits(0);
    let ran = ran.prints("MUSIQ  ").prints("musiq_koniq_ckpt-e95806b9.pth").prints("BRISQUE_release.zip");
    assert!(!ran.stdout.contains("  scored  "), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("Missing:").count(), 1, "{}", ran.stdout);
    let _ = run(&dir, &["--set", "skip_absent_weights=false"]).exits(2).says("get `resnet50-0676ba61.pth`");
    let _ = run(&dir, &["--set", "compare.paper_table=2"]).exits(2).says("expected 1");
}
