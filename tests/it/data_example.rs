//! `data.example` is what its program makes.

#[expect(dead_code, reason = "its `main` reads the command line, which the test does not go through")]
#[path = "../../examples/make_data_example/main.rs"]
mod make_data_example;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every file under the folder but the README, by its relative path.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.expect("the folder can be listed"))
        .filter(|entry| entry.file_type().is_file() && entry.file_name() != "README.md")
        .map(|entry| {
            let name = entry.path().strip_prefix(root).expect("it was found under this folder");
            (name.display().to_string(), fs::read(entry.path()).expect("the file can be read"))
        })
        .collect()
}

#[test]
fn data_example_is_what_its_program_makes() {
    let made = tempfile::tempdir().expect("a temporary folder");
    make_data_example::write(made.path()).expect("the program writes its files");
    let (made, committed) = (files(made.path()), files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example")));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&committed));
    let differing: Vec<_> =
        made.iter().filter(|(name, bytes)| committed[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(
        differing.is_empty(),
        "these differ: {differing:?}\nhint: cargo run --release --example make_data_example -- data.example"
    );
}

#[test]
fn data_example_is_small_and_its_split_covers_it() {
    let committed = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example"));
    assert!(committed.values().map(Vec::len).sum::<usize>() < 3_000_000);
    let rows = |file: &str| {
        let text = std::str::from_utf8(&committed[file]).expect("the tables are UTF-8");
        let mut lines: Vec<_> = text.lines().skip(1).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    let mut parts: Vec<_> =
        ["train.csv", "validation.csv", "test.csv"].map(rows).join("\n").lines().map(str::to_owned).collect();
    parts.sort_unstable();
    assert_eq!(parts.join("\n"), rows("data.csv"));
}
