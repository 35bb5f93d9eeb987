//! Guards against absurd numbers, full disks and missing folders: an error with what was expected, and the documented code.

use std::fs::File;
use std::process::Command;

use crate::baseline::{params, picture};
use crate::testdir::TestDir;

fn with_a_picture() -> TestDir {
    let dir = TestDir::new();
    dir.write("images/x.png", picture(0, 200, 200));
    dir
}

const NSS: [&str; 7] = ["features", "--extractor", "nss", "--images", "images", "--store", "store"];

#[test]
fn absurd_numbers_are_refused_with_the_limit() {
    let dir = with_a_picture();
    dir.agiqa(&["schemas", "--threads", "99999999"])
        .exits(2)
        .says("`--threads 99999999`: expected 1 to 1024; this machine has ");
    dir.agiqa(&["schemas", "--threads", "1024"]).exits(0);
    let features = |more: [&str; 2]| dir.agiqa(&[&NSS[..], &more].concat());
    features(["--batch-size", "5000"]).exits(2).says("`batch_size = 5000`: expected 1 to 4096");
    features(["--part-rows", "99999999999"]).exits(2).says("`part_rows = 99999999999`: expected 1 to 1000000");
    features(["--set", "part_rows=2000000"]).exits(2).says("`part_rows = 2000000`: expected 1 to 1000000");
    let params = params().display().to_string();
    let baseline =
        ["baseline", "--params", &params, "--images", "images", "--store", "store", "--part-rows", "1000001"];
    dir.agiqa(&baseline).exits(2).says("`part_rows = 1000001`: expected 1 to 1000000");
}

#[test]
fn a_full_disk_behind_stdout_asks_for_a_retry_and_a_closed_pipe_does_not() {
    let dir = with_a_picture();
    let full =
        |command: &mut Command| _ = command.stdout(File::options().write(true).open("/dev/full").expect("a device"));
    let json = [&NSS[..], &["--json"]].concat();
    dir.agiqa_with(&json, full).exits(75).says("cannot write to stdout: ");
    dir.agiqa(&json).exits(0);
    for args in [vec!["schemas"], vec!["methods"], vec!["query", "--store", "store", "SELECT * FROM images"]] {
        dir.agiqa_with(&args, full).exits(75).says("cannot write to stdout");
        let closed = |command: &mut Command| {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            command.stdout(writer);
        };
        dir.agiqa_with(&args, closed).exits(0);
    }
}

#[test]
fn a_limit_on_the_size_of_files_asks_for_a_retry() {
    let dir = with_a_picture();
    let program = env!("CARGO_BIN_EXE_agiqa");
    let script = format!("ulimit -f 0; exec '{program}' {}", NSS.join(" "));
    let output = Command::new("sh").current_dir(dir.path()).args(["-c", &script]).output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
    dir.agiqa(&NSS).exits(0);
}

#[test]
fn without_a_home_folder_no_shared_folder_stands_in_for_it() {
    let dir = with_a_picture();
    let homeless = |command: &mut Command| {
        for name in ["HOME", "XDG_CACHE_HOME", "AGIQA_WEIGHTS"] {
            command.env_remove(name);
        }
    };
    let baseline = ["baseline", "--images", "images", "--store", "store"];
    dir.agiqa_with(&baseline, homeless).exits(2).says("set HOME or AGIQA_WEIGHTS");
    let empty = |command: &mut Command| {
        homeless(command);
        command.env("HOME", "");
    };
    dir.agiqa_with(&["features", "--images", "images", "--store", "store"], empty)
        .exits(2)
        .says("set HOME or AGIQA_WEIGHTS");
    // What needs no weights works.
    dir.agiqa_with(&NSS, homeless).exits(0);
}
