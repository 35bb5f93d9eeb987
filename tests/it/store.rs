//! The store under bad weather: kills, signals, a second writer, damaged and forbidden parts, a full disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agiqa::features::feature_sets;

use super::features::dinov2_of_side;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::part::{self, PartKind};
use agiqa_store::store::{ObjectInfo, Store};
use agiqa_store::tables::features::{FeatureRows, FeatureSet};

use crate::features::{extract, features, has_network, n_rows, picture, pictures};
use crate::testdir::{TestDir, open_store};

/// Settings under which a run lasts long enough to be disturbed and writes many parts, of [`PART_ROWS`] rows.
const SLOW: &[&str] = &["--side", "140", "--batch-size", "1", "--part-rows", "2", "--threads", "1"];

/// Rows of a part under [`SLOW`].
const PART_ROWS: usize = 2;

fn slow_extract() -> Vec<&'static str> {
    let base = ["extract", "--extractor", "dinov2-s14", "--store", "store", "--images", "images", "--device", "cpu"];
    base.into_iter().chain(SLOW.iter().copied()).collect()
}

fn start(dir: &TestDir, args: &[&str]) -> Child {
    let mut command = dir.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("agiqa can be started")
}

fn parts_in(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .collect()
}

/// Waits until `store` holds more than `n` feature parts; false where the process ended before that.
fn wait_for_parts(dir: &TestDir, n: usize, child: &mut Child) -> bool {
    let patience = Instant::now() + Duration::from_secs(120);
    while parts_in(&dir.path().join("store/features")).len() <= n {
        if child.try_wait().expect("a child can be asked").is_some() {
            return false;
        }
        assert!(Instant::now() < patience, "no part appears");
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How many images have features in every table of the store in `folder`, and how many in some of them only.
fn done_in(folder: &Path) -> (usize, usize) {
    let store = open_store(folder);
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    let done: Vec<HashSet<ImageId>> = sets.iter().map(|set| set.done(&store).expect("parts can be read")).collect();
    let all: HashSet<ImageId> = done.iter().flatten().copied().collect();
    let n_whole = all.iter().filter(|id| done.iter().all(|done| done.contains(id))).count();
    (n_whole, all.len() - n_whole)
}

/// Row counts of the newest record of `command` in `runs/`.
fn newest_rows(dir: &TestDir) -> serde_json::Value {
    let mut records: Vec<PathBuf> = walkdir::WalkDir::new(dir.path().join("store/runs"))
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.is_file())
        .collect();
    records.sort_by_key(|path| path.metadata().and_then(|data| data.modified()).expect("a file has a time"));
    let text = std::fs::read(records.last().expect("a run was recorded")).expect("a record can be read");
    serde_json::from_slice::<serde_json::Value>(&text).expect("records are JSON")["stages"][0]["rows"].clone()
}

#[test]
fn killed_again_and_again_an_extraction_ends_with_the_tables_of_an_undisturbed_one() {
    if !has_network() {
        return;
    }
    let undisturbed = TestDir::new();
    pictures(&undisturbed, 0..14);
    undisturbed.agiqa(&slow_extract()).exits(0);
    let expected = features(&undisturbed.path().join("store"));

    let dir = TestDir::new();
    pictures(&dir, 0..14);
    let mut n_kills = 0;
    for round in 0..5_u64 {
        let n_parts = parts_in(&dir.path().join("store/features")).len();
        let mut child = start(&dir, &slow_extract());
        if wait_for_parts(&dir, n_parts, &mut child) {
            // Other moments of the work in each round.
            std::thread::sleep(Duration::from_millis(round * 17 % 50));
        }
        n_kills += usize::from(child.kill().is_ok());
        child.wait().expect("a killed child can be waited for");
        // Everything readable at all times, and nothing twice: no finished row was computed again.
        if parts_in(&dir.path().join("store/features")).len() > 1 {
            assert!(features(&dir.path().join("store")).len() <= 14);
            // A part is written to one table after the other: what a kill in between leaves is computed a second time.
            let (_, n_repeated) = done_in(&dir.path().join("store"));
            assert!(n_repeated <= PART_ROWS, "a kill costs {n_repeated} finished rows");
        }
    }
    assert!(n_kills > 0);
    let (n_whole, _) = done_in(&dir.path().join("store"));
    dir.agiqa(&slow_extract()).exits(0).says("14 of 14 images have features");
    assert_eq!(newest_rows(&dir)["n_cached"], n_whole as u64, "only what lacks features is computed");
    assert_eq!(features(&dir.path().join("store")), expected);
}

#[test]
fn sigterm_commits_what_is_finished_and_exits_130() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..40);
    let mut child = start(&dir, &slow_extract());
    assert!(wait_for_parts(&dir, 0, &mut child), "it is still at work");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child can be signalled");
    let status = child.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(130));
    let rows = newest_rows(&dir);
    let n_done = features(&dir.path().join("store")).len() as u64;
    assert_eq!(rows["n_out"], n_done, "what was counted is in the store");
    assert_eq!(rows["n_left"], 40 - n_done);
    assert!((2..40).contains(&n_done), "{n_done}");

    dir.agiqa(&slow_extract()).exits(0);
    assert_eq!(features(&dir.path().join("store")).len(), 40);
    assert_eq!(newest_rows(&dir)["n_cached"], n_done, "nothing was computed twice");
}

#[test]
fn two_writers_on_one_store_do_not_disturb_each_other() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..10);
    let mut children = [start(&dir, &slow_extract()), start(&dir, &slow_extract())];
    for child in &mut children {
        assert_eq!(child.wait().expect("a child can be waited for").code(), Some(0));
    }
    let alone = TestDir::new();
    pictures(&alone, 0..10);
    alone.agiqa(&slow_extract()).exits(0);

    let store = dir.store();
    let lone = alone.store();
    for set in FeatureSet::list(&store).expect("sets can be listed") {
        // An image may be in two parts; readers see it once, with the values that either writer computed.
        assert!((10..=20).contains(&n_rows(&store, &set)));
        assert_eq!(crate::features::vectors(&store, &set), crate::features::vectors(&lone, &set));
    }
    dir.agiqa(&slow_extract()).exits(0).says("all 10 images have features");
}

/// A store that holds invented features of the pictures `seeds`, made without a network.
fn store_with_features(dir: &TestDir, seeds: std::ops::Range<u32>) -> (Store, [FeatureSet; 2]) {
    let store = dir.store();
    let settings = dinov2_of_side(56);
    let pair = feature_sets(&settings).expect("settings that make sense");
    let sets = [pair.semantic, pair.quality];
    for set in &sets {
        let mut rows = FeatureRows::empty(set.columns.len());
        for seed in seeds.clone() {
            rows.image_ids.push(ImageId::of_bytes(&picture(seed)));
            rows.n_tokens.push(17);
            for (column, values) in set.columns.iter().zip(&mut rows.vectors) {
                values.extend(std::iter::repeat_n(seed as f32, column.dim));
            }
        }
        set.write_description(&store).expect("it can be written");
        set.write_part(&store, &rows).expect("it can be written");
    }
    (store, sets)
}

#[test]
fn what_is_cached_is_not_computed_and_needs_no_weights() {
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    store_with_features(&dir, 0..3);
    let args = extract(&[]);
    // The first run lists the images as a corpus, the second has nothing to do at all.
    for said in ["3 of 3 images have features", "all 3 images have features"] {
        let output = dir.command(&args).env("AGIQA_WEIGHTS", dir.path().join("none")).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.contains(said), "{stderr}");
    }
    assert_eq!(newest_rows(&dir)["n_cached"], 3);
}

#[test]
fn a_part_cut_short_is_an_error_that_names_it_and_says_what_to_do() {
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    let (store, sets) = store_with_features(&dir, 0..3);
    let part = &part::list(&store, &sets[1].prefix()).expect("parts can be listed")[0];
    let path = dir.path().join("store").join(&part.path);
    let bytes = std::fs::read(&path).expect("a part can be read");
    for kept in [bytes.len() - 1, bytes.len() / 2, 3, 0] {
        std::fs::write(&path, &bytes[..kept]).expect("a part can be cut");
        dir.agiqa(&extract(&[])).exits(2).says(&part.path).says("is damaged (cut short?)").says("delete it");
    }
}

#[test]
fn a_part_that_may_not_be_read_is_not_called_damaged() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    let (store, sets) = store_with_features(&dir, 0..3);
    let part = &part::list(&store, &sets[1].prefix()).expect("parts can be listed")[0];
    let path = dir.path().join("store").join(&part.path);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).expect("it is the test's own file");
    let args = extract(&[]);
    let mut command = dir.command(&args);
    if rustix::process::geteuid().is_root() {
        // No permission binds root, but one in a user namespace of its own is nobody outside of it.
        command = Command::new("unshare");
        command.args(["--user", env!("CARGO_BIN_EXE_agiqa")]).args(&args).current_dir(dir.path());
    }
    let output = command.output();
    let said = output.as_ref().map_or(String::new(), |output| String::from_utf8_lossy(&output.stderr).into_owned());
    let Some(output) = output.ok().filter(|_| !said.contains("unshare")) else {
        println!("skipped: root may read everything here, and may not give that up");
        return;
    };
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("cannot read `{}`", part.path)) && said.contains("Permission denied"), "{said}");
    assert!(!said.contains("damaged") && !said.contains("delete"), "{said}");
}

#[test]
fn a_part_replaced_by_another_process_is_read_anew_or_said_to_be_replaced() {
    let dir = TestDir::new();
    let (store, sets) = store_with_features(&dir, 0..3);
    let kind = sets[1].kind.part_kind();
    let listed = &part::list(&store, &sets[1].prefix()).expect("parts can be listed")[0];
    let open = |object: &ObjectInfo| part::PartReader::open(&store, object, kind).expect("a part can be opened");
    let batch = open(listed).read(None).expect("it can be read").next().expect("one batch").expect("it can be read");
    part::write(&store, kind, &listed.path, &batch.slice(0, 1), Some(sets[1].fingerprint)).expect("it can be written");
    // Of another size than when it was listed, with its footer elsewhere.
    let reader = open(listed);
    assert_eq!(reader.n_rows(), 1);
    // What is replaced once its footer has been read is too late to start over.
    std::fs::write(dir.path().join("store").join(&listed.path), "short").expect("it can be written");
    let read = reader.read(None).and_then(|mut batches| batches.next().expect("there is a row"));
    let error = read.expect_err("the row is gone").to_string();
    assert!(error.contains("was replaced by another process while it was read: run the command again"), "{error}");
}

#[test]
fn a_part_of_another_schema_version_or_table_is_refused() {
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    let (store, sets) = store_with_features(&dir, 0..3);
    let set = &sets[1];
    let parts = part::list(&store, &set.prefix()).expect("parts can be listed");
    let kind = set.kind.part_kind();
    let reader = part::PartReader::open(&store, &parts[0], kind).expect("a part can be opened");
    let batch = reader.read(None).expect("it can be read").next().expect("one batch").expect("it can be read");
    let fingerprint: Option<Fingerprint> = Some(set.fingerprint);

    let newer = PartKind { version: kind.version + 1, ..kind };
    part::write(&store, newer, &parts[0].path, &batch, fingerprint).expect("it can be written");
    dir.agiqa(&extract(&[])).exits(2).says("schema version 2").says("reads version 1");

    let other = PartKind { table: "images", ..kind };
    part::write(&store, other, &parts[0].path, &batch, fingerprint).expect("it can be written");
    dir.agiqa(&extract(&[])).exits(2).says("expected a part of table `quality`, found `images`");
}

#[test]
fn what_is_no_finished_part_is_not_read() {
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    let (_, sets) = store_with_features(&dir, 0..3);
    // As a kill in the middle of a write leaves it.
    dir.write(&format!("store/{}/part-0123456789abcdef.parquet#1", sets[0].prefix()), "half a part");
    dir.write(&format!("store/{}/part-0123456789abcdef.parquet.tmp", sets[0].prefix()), "half a part");
    dir.agiqa(&extract(&[])).exits(0).says("3 of 3 images have features");
}

#[test]
fn a_store_that_cannot_be_written_to_is_an_error_that_names_it() {
    let dir = TestDir::new();
    pictures(&dir, 0..1);
    dir.write("file", "not a folder");
    let args = ["extract", "--store", "file/store", "--images", "images"];
    dir.agiqa(&args).exits(2).says("file/store");
    // Nobody writes here, not even root.
    dir.agiqa(&["extract", "--store", "/proc/agiqa", "--images", "images"]).exits(2).says("/proc/agiqa");
}

/// A small file system, unmounted when it goes out of scope.
pub(crate) struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    /// None, said plainly, where this process may not mount. With `AGIQA_REQUIRE_MOUNT=1` that fails the test.
    pub(crate) fn mount(folder: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("a folder can be made");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder);
        match command.stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Some(Self(folder.to_owned())),
            _ => {
                let variable = "AGIQA_REQUIRE_MOUNT";
                assert!(
                    std::env::var_os(variable).is_none(),
                    "{variable} is set and this process may not mount a tmpfs"
                );
                println!("skipped: this process may not mount a tmpfs");
                None
            }
        }
    }

    pub(crate) fn grow(&self, size: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,size={size}")]).arg(&self.0);
        assert!(command.status().expect("mount can be started").success(), "a tmpfs can grow");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_asks_for_a_retry_and_the_retry_completes() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..14);
    let folder = dir.path().join("store");
    let Some(disk) = Tmpfs::mount(&folder, "256k") else { return };
    let args = extract(&["--part-rows", "2"]);
    dir.agiqa(&args).exits(75).says("cannot write");
    // Nothing is corrupt: what was committed before can be read.
    let n_parts = parts_in(&folder).len();
    assert!(n_parts > 0, "the first parts had room");
    dir.agiqa(&args).exits(75);
    assert!(parts_in(&folder).len() >= n_parts);

    disk.grow("16m");
    dir.agiqa(&args).exits(0).says("14 of 14 images have features");
    assert_eq!(features(&folder).len(), 14);
}
