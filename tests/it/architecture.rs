//! The crates use each other as ARCHITECTURE.md draws it, and in no other way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Per crate, the crates of ours that it uses.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The table under "## Crates": a row per crate, whose second column lists the crates that it uses.
fn drawn() -> Arrows {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("a file of ours");
    let section = text.split("## Crates").nth(1).expect("a section on crates").split("\n## ").next().unwrap_or("");
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).filter(|word| word.starts_with("agiqa")).collect()
    };
    let rows = section.lines().filter(|line| line.starts_with("| `agiqa"));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').collect();
        (words(cells[1]).pop_first().expect("a crate's name"), words(cells[2]))
    })
    .collect()
}

/// The same by the manifests: what a crate is built with, its tests aside.
fn built() -> Arrows {
    let crates = std::fs::read_dir(root().join("crates")).expect("a folder of ours").flatten();
    let manifests = crates.map(|entry| entry.path().join("Cargo.toml")).chain([root().join("Cargo.toml")]);
    manifests
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("every crate has a manifest");
            let manifest: toml::Table = toml::from_str(&text).expect("a manifest is TOML");
            let name = manifest["package"]["name"].as_str().expect("a crate has a name").to_owned();
            let uses = manifest["dependencies"].as_table().into_iter().flat_map(toml::Table::keys);
            (name, uses.filter(|used| used.starts_with("agiqa-")).cloned().collect())
        })
        .collect()
}

#[test]
fn crates_use_each_other_as_the_architecture_draws_it() {
    assert_eq!(drawn(), built(), "ARCHITECTURE.md (left) and the manifests (right) differ");
}

#[test]
fn libtorch_is_linked_by_the_networks_and_the_program_alone() {
    let crates = std::fs::read_dir(root().join("crates")).expect("a folder of ours").flatten();
    for folder in crates.map(|entry| entry.path()) {
        let text = std::fs::read_to_string(folder.join("Cargo.toml")).expect("every crate has a manifest");
        let has_torch = text.lines().any(|line| line.starts_with("tch.") || line.starts_with("torch-sys."));
        assert_eq!(has_torch, folder.ends_with("nets"), "{}", folder.display());
    }
}
