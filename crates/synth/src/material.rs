//! Reference material of tests, inside the repository and outside it. A test handles absent material here.

use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A path in `tests/reference`, which is part of the repository.
pub fn reference(path: &str) -> PathBuf {
    repository().join("tests/reference").join(path)
}

/// The bytes of a file in `tests/reference`.
///
/// # Panics
/// Panics if the file cannot be read: the repository is then incomplete.
#[track_caller]
pub fn reference_file(path: &str) -> Vec<u8> {
    let path = reference(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A path in the reference material outside the repository. If it is absent, prints a message, counts the skipped test,
/// and returns `None`.
///
/// # Panics
/// Panics if the path is absent and `AGIQA_REQUIRE_SHARED` is set.
#[track_caller]
pub fn shared(path: &str) -> Option<PathBuf> {
    required_or_skipped(repository().join("../shared").join(path), "AGIQA_REQUIRE_SHARED")
}

/// `path`, if it exists. Otherwise prints a message, counts the skipped test, and returns `None`. `AGIQA_SKIPPED` names
/// a file that gets one line per skipped test.
///
/// # Panics
/// Panics if the path is absent and the environment variable `variable` is set.
#[track_caller]
pub fn required_or_skipped(path: PathBuf, variable: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os(variable).is_none(), "{variable} is set and {} is absent", path.display());
    println!("skipped: {} is absent", path.display());
    if let Some(list) = std::env::var_os("AGIQA_SKIPPED") {
        let mut file = std::fs::File::options().create(true).append(true).open(list).expect("the list can be written");
        // One line must be one write, so that the lines of parallel tests stay whole.
        file.write_all(format!("{}\n", test_name(Location::caller())).as_bytes()).expect("the list can be written");
    }
    None
}

/// The name of the running test: its thread has this name, unless tests run one by one in the main thread.
fn test_name(caller: &Location<'_>) -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", caller.file(), caller.line()),
    }
}
