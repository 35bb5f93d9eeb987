//! `agiqa score`: from image files and a checkpoint to `scores`, by the numbers of `tests/reference/raters.py`.

use std::path::{Path, PathBuf};

use agiqa_store::identity::ImageId;
use agiqa_store::tables::rejects;
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_synth::{picture_of_case, reference_file};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Pickle, archive};
use crate::synth;
use crate::testdir::{Ran, TestDir, reference};

fn cases() -> Value {
    serde_json::from_slice(&reference_file("raters.json")).expect("it is JSON")
}

/// Writes the checkpoint of the network `name` in its layout number `layout`. Returns its file, or the folder of several.
pub fn checkpoint(dir: &TestDir, name: &str, layout: usize) -> PathBuf {
    let case = &cases()[name];
    let shapes = serde_json::from_value(case["shapes"].clone()).expect("names and shapes");
    let overrides = serde_json::from_value(case["overrides"].clone()).expect("changes by name");
    let tensors = synth::tensors(&shapes, case["seed"].as_u64().expect("a seed"), &overrides);
    let stored = |name: &str| case["layouts"][layout][name].as_str().expect("a stored name").to_owned();
    let (prompts, others): (Vec<_>, Vec<(String, Tensor)>) = tensors
        .into_iter()
        .map(|(name, tensor)| (stored(&name), tensor))
        .partition(|(name, _)| name.contains("prompt"));
    // Learned prompts have a file of their own.
    let folder = if prompts.is_empty() { String::new() } else { format!("{name}/") };
    let path = dir.write(&format!("{folder}{name}-{layout}.safetensors"), "");
    Tensor::write_safetensors(&others, &path).expect("it can be written");
    if prompts.is_empty() {
        return path;
    }
    let path = dir.write(&format!("{folder}prompts.safetensors"), "");
    Tensor::write_safetensors(&prompts, &path).expect("it can be written");
    path.parent().expect("a folder").to_owned()
}

/// Writes a picture as PNG and returns its identity.
pub fn write_png(dir: &TestDir, name: &str, width: u32, height: u32, pixels: Vec<u8>) -> ImageId {
    let image = image::RgbImage::from_raw(width, height, pixels).expect("RGB");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
    let bytes = bytes.into_inner();
    dir.write(&format!("images/{name}"), &bytes);
    ImageId::of_bytes(&bytes)
}

/// Writes the pictures of `name`'s case. Returns their identities and ratings.
fn pictures(dir: &TestDir, name: &str) -> Vec<(ImageId, f64)> {
    let write = |(i, case): (usize, &Value)| {
        let (width, height, pixels) = picture_of_case(case);
        let id = write_png(dir, &format!("{i}.png"), width as u32, height as u32, pixels);
        (id, case["rating"].as_f64().expect("a number"))
    };
    cases()[name]["pictures"].as_array().expect("pictures").iter().enumerate().map(write).collect()
}

fn score(dir: &TestDir, more: &[&str]) -> Ran {
    let base = ["score", "--images", "images", "--store", "store", "--device", "cpu"];
    dir.agiqa(&base.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn every_network_writes_the_reference_s_scores_and_scores_nothing_twice() {
    for name in cases().as_object().expect("networks").keys() {
        let dir = TestDir::new();
        let expected = pictures(&dir, name);
        let weights = text(&checkpoint(&dir, name, 0));
        let all = format!("{0} of {0} images have scores", expected.len());
        let _ = score(&dir, &["--method", name, "--weights", &weights]).exits(0).says(&all);
        let sets = ScoreSet::list(&dir.store()).expect("sets can be listed");
        let [set] = sets.as_slice() else { panic!("one set, found {}", sets.len()) };
        assert_eq!(
            (set.scorer.as_str(), set.kind, set.direction),
            (name.as_str(), ScorerKind::Method, Direction::Higher)
        );
        let found = set.read(&dir.store()).expect("scores");
        for (id, rating) in &expected {
            assert!((found[id] - rating).abs() < 1e-5, "{name}: found {}, expected {rating}", found[id]);
        }
        let _ = score(&dir, &["--method", name, "--weights", &weights]).exits(0).says("skipped: all");
    }
}

#[test]
fn equal_weights_in_another_layout_are_the_same_scores_and_another_head_is_not() {
    let dir = TestDir::new();
    pictures(&dir, "hyperiqa");
    for layout in 0..3 {
        let weights = text(&checkpoint(&dir, "hyperiqa", layout));
        let ran = score(&dir, &["--method", "hyperiqa", "--weights", &weights]).exits(0);
        let _ = if layout == 0 { ran } else { ran.says("skipped: all 2 images have scores") };
    }
    let dir = TestDir::new();
    pictures(&dir, "stairiqa");
    let weights = text(&checkpoint(&dir, "stairiqa", 1));
    for variant in ["koniq10k", "flive"] {
        let _ = score(&dir, &["--method", "stairiqa", "--weights", &weights, "--variant", variant]).exits(0);
    }
    assert_eq!(ScoreSet::list(&dir.store()).expect("sets").len(), 2);
}

#[test]
fn several_methods_score_in_one_command() {
    let dir = TestDir::new();
    pictures(&dir, "dbcnn");
    let dbcnn = text(&checkpoint(&dir, "dbcnn", 1));
    let baid = text(&checkpoint(&dir, "baid", 0));
    let params = text(&reference("handcrafted"));
    let (first, second) = (format!("dbcnn={dbcnn}"), format!("baid={baid}"));
    let named = ["--weights", first.as_str(), "--weights", second.as_str(), "--params", params.as_str()];
    let methods = ["--method", "dbcnn", "--method", "brisque,baid"];
    let _ = score(&dir, &methods.into_iter().chain(named).collect::<Vec<_>>()).exits(0);
    let names: Vec<String> =
        ScoreSet::list(&dir.store()).expect("sets").iter().map(|set| set.scorer.to_string()).collect();
    assert_eq!(names, ["baid", "brisque", "dbcnn"]);

    let _ = score(&dir, &["--method", "dbcnn,baid", "--weights", &dbcnn]).exits(2).says("dbcnn=PATH or baid=PATH");
    let _ = score(&dir, &["--method", "brisque", "--weights", &dbcnn]).exits(2).says("no network is among the methods");
    let _ = score(&dir, &["--method", "dbcnn,dbcnn"]).exits(2).says("duplicate method `dbcnn`");
    let _ = score(&dir, &["--method", "hyperiq"]).exits(2).says("did you mean `hyperiqa`?");
}

#[test]
fn weights_that_do_not_fit_are_explained_before_anything_is_computed() {
    let dir = TestDir::new();
    pictures(&dir, "dbcnn");
    let weights = checkpoint(&dir, "dbcnn", 0);
    let other = score(&dir, &["--method", "hyperiqa", "--weights", &text(&weights)]).exits(2);
    let _ = other.says("not a checkpoint of `hyperiqa`").says("`fc_w_modules.0.weight`").says("it looks like dbcnn");

    let bytes = std::fs::read(&weights).expect("it was written");
    let cut = dir.write("cut.safetensors", &bytes[..bytes.len() - 100]);
    let _ = score(&dir, &["--method", "dbcnn", "--weights", &text(&cut)]).exits(2).says("cut short");
    let system = Pickle::new().class("os", "system").raw(b"(").text("true").raw(b"tR").stop();
    let archive = dir.write("archive.pth", archive(&system, &[]));
    let refused = score(&dir, &["--method", "dbcnn", "--weights", &text(&archive)]).exits(2);
    let _ = refused.says("class `os.system`");
    let mut tensors = crate::raters::weights("resnet50");
    let d = tensors["fc.weight"].size()[1];
    tensors.insert("fc.weight".to_owned(), Tensor::zeros([1000, d], (Kind::Float, Device::Cpu)));
    let head = dir.write("head.safetensors", "");
    Tensor::write_safetensors(&tensors.into_iter().collect::<Vec<_>>(), &head).expect("it can be written");
    let refused = score(&dir, &["--method", "resnet50", "--weights", &text(&head)]).exits(2);
    let _ = refused.says("`fc.weight`").says(&format!("expected [1, {d}] found [1000, {d}]"));
    let noise = dir.write("noise.pth", "no checkpoint at all");
    let _ = score(&dir, &["--method", "dbcnn", "--weights", &text(&noise)]).exits(2).says("perhaps a server's answer");
    let absent = text(&dir.path().join("absent.pth"));
    let _ = score(&dir, &["--method", "dbcnn", "--weights", &absent]).exits(2).says("absent.pth is absent");
    let variant = score(&dir, &["--method", "dbcnn", "--weights", &text(&weights), "--variant", "koniq10k"]).exits(2);
    let _ = variant.says("`dbcnn` has no variant `koniq10k`");
    let typo = score(&dir, &["--method", "dbcnn", "--weights", &text(&weights), "--set", "varaint=x"]).exits(2);
    let _ = typo.says("unknown key `varaint` in `scorer.dbcnn`; did you mean `variant`?");
    assert!(!dir.path().join("store/scores").exists());
}

#[test]
fn images_outside_a_network_s_sizes_are_rejects_and_stay_in_the_corpus() {
    // Networks that see a picture as it is refuse it for its sides or its pixels, those that resize it for what they would see.
    let (small, large) = (Some("too-small"), Some("too-large"));
    for (name, tiny, thin, huge) in [
        ("dbcnn", small, small, large),
        ("clipiqa", small, small, large),
        ("musiq", None, small, large),
        ("hyperiqa", None, large, None),
        ("stairiqa", None, large, None),
        ("efficientnet-lite0", None, large, None),
        ("baid", None, None, None),
    ] {
        let dir = TestDir::new();
        let pictures = [("tiny.png", 8, 8, tiny), ("thin.png", 2000, 9, thin), ("huge.png", 2049, 2048, huge)];
        for (file, width, height, _) in pictures {
            write_png(&dir, file, width, height, vec![90; 3 * (width * height) as usize]);
        }
        let weights = text(&checkpoint(&dir, name, 0));
        let args = ["--method", name, "--weights", &weights];
        let expected: Vec<(&str, &str)> =
            pictures.iter().filter_map(|(file, _, _, kind)| Some((*file, (*kind)?))).collect();
        let (code, n_good) = (i32::from(!expected.is_empty()), 3 - expected.len());
        let _ = score(&dir, &args).exits(code).says(&format!("{n_good} of 3 images have scores"));
        let rows = rejects::read(&dir.store(), "score").expect("rejects");
        let found = |(file, kind): &(&str, &str)| {
            let is_it = |row: &&rejects::RejectRow| row.path.as_deref().is_some_and(|path| path.ends_with(file));
            rows.iter().find(is_it).is_some_and(|row| row.kind.as_str() == *kind && row.message.contains("pixels, "))
        };
        assert!(rows.len() == expected.len() && expected.iter().all(found), "{name}: {rows:?}");
        let _ = score(&dir, &args).exits(code).says("skipped");
    }
}

#[test]
fn a_pipeline_scores_by_networks() {
    let dir = TestDir::new();
    let weights = checkpoint(&dir, "baid", 0);
    let name = weights.file_name().expect("a file").to_string_lossy().into_owned();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data.example");
    let pipeline = format!(
        r#"
        name = "scores"
        store = "store"
        [[dataset]]
        dataset = "example"
        adapter = "agiqa-3k"
        table = "{data}/data.csv"
        images = "{data}/images"
        [scorer.baid]
        weights = "{name}"
        device = "cpu"
        "#
    );
    dir.write("p.toml", &pipeline);
    let _ = dir.agiqa(&["run", "p.toml"]).exits(0).says("60 of 60 images have scores");
    let _ = dir.agiqa(&["run", "p.toml", "--stage", "score"]).exits(0).says("skipped: all 60 images have scores");
    dir.write("p.toml", pipeline.replace("scorer.baid", "scorer.bait"));
    let _ = dir.agiqa(&["run", "p.toml"]).exits(2).says("unknown scorer `bait`").says("`baid`");
}
