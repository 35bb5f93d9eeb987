//! `pipelines/nightly.toml` over three invented nights of data.example.

use crate::baseline::params;
use crate::testdir::{Ran, TestDir};

fn run(dir: &TestDir, night: &str, more: &[&str]) -> Ran {
    let (root, params) = (env!("CARGO_MANIFEST_DIR"), params().display().to_string());
    let pipeline = format!("{root}/pipelines/nightly.toml");
    let (folder, label) = (format!("folder={night}"), format!("night={night}"));
    let params = format!("score.extractor.baseline.params={params}");
    let base = ["run", &pipeline, "--store", "store", "--set", &folder, "--set", &label, "--set", &params];
    dir.agiqa(&[&base[..], more].concat())
}

/// Writes the night `label`: some images of data.example, the first `n_broken` of them cut short.
fn write(dir: &TestDir, label: &str, is_of_night: impl Fn(&str) -> bool, n_broken: usize) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example/images");
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    let names: Vec<String> = names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let mut table = "file_name,generator\n".to_owned();
    for (at, name) in names.iter().filter(|name| is_of_night(name)).enumerate() {
        let bytes = std::fs::read(folder.join(name)).expect("a picture");
        let n_bytes = if at < n_broken { bytes.len() / 2 } else { bytes.len() };
        dir.write(&format!("{label}/{name}"), &bytes[..n_bytes]);
        table.push_str(&format!("{name},{}\n", name.split('_').next().unwrap_or_default()));
    }
    dir.write(&format!("{label}/metadata.csv"), table);
}

#[test]
fn the_nightly_pipeline_scores_three_nights_and_its_checks_find_the_bad_one() {
    let dir = TestDir::new();
    let is_good = |name: &str| !name.starts_with("toygan");
    write(&dir, "2026-11-25", |name| is_good(name) && !name.contains("_000"), 0);
    write(&dir, "2026-11-26", |name| is_good(name) && !name.contains("_014"), 0);
    // One generator alone, and three of its files are cut short.
    write(&dir, "2026-11-27", |name| name.starts_with("toygan") || name.contains("lowstep"), 3);
    run(&dir, "2026-11-25", &["--dry-run"]).exits(0).prints("run    corpus gen, night 2026-11-25");
    run(&dir, "2026-11-25", &[]).exits(0).says("checks passed, 0 failed").prints("nothing to compare with: passes");
    let ran = run(&dir, "2026-11-26", &[]).exits(0).says("checks passed, 0 failed");
    assert!(!ran.stdout.contains("nothing to compare with"), "{}", ran.stdout);
    let ran = run(&dir, "2026-11-27", &["--json"]).exits(1);
    let failed = |check: &str| {
        let mut lines = ran.stdout.lines().filter(|line| line.contains(&format!("\"check\":\"{check}\"")));
        lines.any(|line| line.contains("\"passed\":false"))
    };
    assert!(failed("reject_share"), "{}", ran.stdout);
    let last = ran.stdout.lines().last().expect("events");
    assert!(last.contains("\"night\":\"gen.2026-11-27\"") && last.contains("\"exit_code\":1"), "{last}");
    // Nothing is computed twice.
    run(&dir, "2026-11-26", &[]).exits(0).says("0 files opened");
}
