//! `schemas/*.json` is printed from the code.

use std::path::Path;

#[test]
fn the_files_in_schemas_are_those_that_the_code_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let documents = agiqa_store::tables::schema_json::documents();
    for (name, text) in &documents {
        let found = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&found, text, "schemas/{name} differs; run `agiqa schemas --out schemas`");
    }
    let n_files = std::fs::read_dir(&folder).expect("schemas/ is part of the project").count();
    assert_eq!(n_files, documents.len(), "a file in schemas/ belongs to no table");
}
