//! `agiqa baseline`: which images get which scores, and what happens to those that cannot and to broken parameters.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa_store::identity::ImageId;
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::scores::{Direction, ScoreSet};

use crate::testdir::{TestDir, reference};

/// Parameter files of the three methods' forms, which say nothing about quality.
pub(crate) fn params() -> PathBuf {
    reference("handcrafted")
}

/// A picture of `width` × `height` that no other `seed` gives, as PNG.
pub(crate) fn picture(seed: u32, width: u32, height: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let (fx, fy) = (0.05 + 0.3 * next(), 0.05 + 0.3 * next());
    png(&image::RgbImage::from_fn(width, height, |x, y| {
        let wave = (f64::from(x) * fx).sin() * (f64::from(y) * fy).cos() * 80.0 + 128.0;
        image::Rgb([0.0, 9.0, -7.0].map(|shift| (wave + shift + 25.0 * next()) as u8))
    })
    .into())
}

fn png(image: &image::DynamicImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
    bytes.into_inner()
}

fn baseline<'a>(params: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let params = params.to_str().expect("a path in UTF-8");
    let base = ["baseline", "--store", "store", "--images", "images", "--params", params, "--threads", "2"];
    base.into_iter().chain(more.iter().copied()).collect()
}

/// Scores per method. Fails where a method has more than one set.
pub(crate) fn scores(dir: &TestDir) -> HashMap<String, HashMap<ImageId, f64>> {
    let store = dir.store();
    let mut found = HashMap::new();
    for set in ScoreSet::list(&store).expect("sets can be listed") {
        assert_eq!(set.direction, Direction::Lower);
        let scores = set.read(&store).expect("scores can be read");
        assert!(found.insert(set.scorer.to_string(), scores).is_none(), "two sets of {}", set.scorer);
    }
    found
}

pub(crate) fn rejects_of(dir: &TestDir) -> Vec<RejectRow> {
    rejects::read(&dir.store(), "baseline").expect("rejects can be read")
}

#[test]
fn every_method_scores_every_image_once_and_a_second_run_does_nothing() {
    let params = params();
    let dir = TestDir::new();
    for seed in 0..3 {
        dir.write(&format!("images/{seed}.png"), picture(seed, 200, 210));
    }
    dir.write("images/copy.png", picture(0, 200, 210));
    dir.agiqa(&baseline(&params, &[])).exits(0).says("12 of 12 scores are present");
    let first = scores(&dir);
    for method in ["brisque", "niqe", "ilniqe"] {
        assert_eq!(first[method].len(), 3, "{method}: a copy is scored once");
        assert!(first[method].values().all(|score| score.is_finite()));
    }
    dir.agiqa(&baseline(&params, &[])).exits(0).says("skipped").says("all 12 scores are present");

    let corpus = agiqa_store::tables::images::read(&dir.store(), &"images".parse().expect("a name")).expect("a table");
    assert_eq!(corpus.rows.len(), 4, "the folder becomes a corpus");

    dir.write("images/late.png", picture(9, 200, 210));
    dir.agiqa(&baseline(&params, &["--methods", "niqe"])).exits(0).says("1 of 5 scores are lacking");
    let second = scores(&dir);
    assert_eq!((second["niqe"].len(), second["brisque"].len()), (4, 3));
    assert!(first["niqe"].iter().all(|(id, score)| second["niqe"][id] == *score));
}

#[test]
fn scores_do_not_depend_on_threads_shards_or_part_sizes() {
    let params = params();
    let (whole, sharded) = (TestDir::new(), TestDir::new());
    for dir in [&whole, &sharded] {
        for seed in 0..6 {
            dir.write(&format!("images/{seed}.png"), picture(seed, 200, 100));
        }
    }
    whole.agiqa(&baseline(&params, &["--methods", "brisque,niqe"])).exits(0);
    for shard in ["1/3", "3/3", "2/3"] {
        let more = ["--methods", "brisque,niqe", "--shard", shard, "--part-rows", "1"];
        sharded.agiqa(&baseline(&params, &more)).exits(0);
    }
    let bits = |dir: &TestDir| {
        let mut bits: Vec<(String, ImageId, u64)> = Vec::new();
        for (method, scores) in scores(dir) {
            bits.extend(scores.into_iter().map(|(id, score)| (method.clone(), id, score.to_bits())));
        }
        bits.sort();
        bits
    };
    assert_eq!(bits(&whole), bits(&sharded));
    sharded.agiqa(&baseline(&params, &["--methods", "brisque,niqe"])).exits(0).says("all 12 scores are present");
}

#[test]
fn images_without_a_score_are_rejected_with_the_reason_and_the_others_are_scored() {
    let params = params();
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 200));
    dir.write("images/small.png", picture(2, 120, 150));
    dir.write("images/pixel.png", picture(3, 1, 1));
    dir.write("images/black.png", png(&image::RgbImage::new(200, 200).into()));
    dir.write("images/white.png", png(&image::RgbImage::from_pixel(300, 200, image::Rgb([255; 3])).into()));
    dir.write("images/broken.png", b"\x89PNG\r\n\x1a\nno more");
    dir.agiqa(&baseline(&params, &[])).exits(1).says("5 of 18 scores are present, 13 rejected");
    let found = scores(&dir);
    assert_eq!(found["brisque"].len(), 2, "good and small");
    assert_eq!(found["niqe"].len(), 1, "small is too small for two blocks");
    assert_eq!(found["ilniqe"].len(), 2, "small is resized");
    let rejects = rejects_of(&dir);
    let kinds = |name: &str| -> Vec<&str> {
        let of_name = rejects.iter().filter(|row| row.path.as_ref().is_some_and(|path| path.ends_with(name)));
        let mut kinds: Vec<&str> = of_name.map(|row| row.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds
    };
    assert_eq!(kinds("good.png"), [""; 0]);
    assert_eq!(kinds("small.png"), ["too-small"]);
    assert_eq!(kinds("pixel.png"), ["flat", "too-small", "too-small"]);
    assert_eq!(kinds("black.png"), ["flat"; 3]);
    assert_eq!(kinds("white.png"), ["flat"; 3]);
    assert_eq!(kinds("broken.png").len(), 3);
    let small = rejects.iter().find(|row| row.kind == "too-small").expect("there is one");
    assert!(small.message.contains("the method needs at least"), "{}", small.message);

    dir.agiqa(&baseline(&params, &[])).exits(1).says("skipped");
    assert_eq!(rejects_of(&dir).len(), 13, "earlier rejects are not tried again");
    dir.agiqa(&baseline(&params, &["--retry-rejects"])).exits(1).says("5 of 18 scores are present, 13 rejected");
    assert_eq!(rejects_of(&dir).len(), 13, "tried again, and each is there once");
}

#[test]
fn grey_and_16_bit_images_have_the_scores_of_their_8_bit_colours() {
    let params = params();
    let dir = TestDir::new();
    let rgb = image::load_from_memory(&picture(5, 200, 200)).expect("a picture");
    let grey = image::DynamicImage::ImageLuma8(rgb.to_luma8());
    dir.write("images/grey.png", png(&grey));
    dir.write("images/grey-as-colour.png", png(&image::DynamicImage::ImageRgb8(grey.to_rgb8())));
    dir.write("images/grey-16.png", png(&image::DynamicImage::ImageLuma16(grey.to_luma16())));
    dir.write("images/colour.png", png(&rgb));
    dir.write("images/colour-16.png", png(&image::DynamicImage::ImageRgb16(rgb.to_rgb16())));
    dir.agiqa(&baseline(&params, &[])).exits(0).says("15 of 15 scores are present");
    for (method, scores) in scores(&dir) {
        let mut bits: Vec<u64> = scores.values().map(|score| score.to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!((scores.len(), bits.len()), (5, 2), "{method}: one score for the grey ones, one for the colours");
    }
}

#[test]
fn parameter_files_that_are_absent_cut_short_or_of_another_kind_stop_the_command() {
    let params = params();
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 200));
    let bytes = |name: &str| std::fs::read(params.join(name)).expect("part of the project");
    let (model, ranges) = (bytes("brisque_allmodel"), bytes("brisque_allrange"));
    let (niqe, ilniqe) = (bytes("niqe_modelparameters.mat"), bytes("ilniqe_templateModel.mat"));
    let broken = dir.path().join("broken");
    let refused = |method: &str, message: &str| {
        dir.agiqa(&baseline(&broken, &["--methods", method])).exits(2).says(message);
    };
    refused("niqe", "no parameter file");

    dir.write("broken/brisque_allrange", &ranges);
    let n_half = model.len() / 2;
    let n_lines = n_half - model[..n_half].iter().rev().position(|byte| *byte == b'\n').expect("it has lines");
    let n_before_colon = model[n_lines..].iter().position(|byte| *byte == b':').expect("a vector follows");
    dir.write("broken/brisque_allmodel", &model[..n_lines + n_before_colon]);
    refused("brisque", "expected `number:value`");
    dir.write("broken/brisque_allmodel", &model[..n_lines]);
    refused("brisque", "expected 8 support vectors");
    let text = String::from_utf8(model.clone()).expect("text");
    dir.write("broken/brisque_allmodel", text.replace(" 36:", " 37:"));
    refused("brisque", "numbers 1 to 36");
    dir.write("broken/brisque_allmodel", text.replace("epsilon_svr", "c_svc"));
    refused("brisque", "line 1: expected `svm_type epsilon_svr`");
    dir.write("broken/brisque_allmodel", &niqe);
    refused("brisque", "brisque_allmodel");
    dir.write("broken/brisque_allmodel", &model);
    let lines: Vec<&str> = std::str::from_utf8(&ranges).expect("text").lines().collect();
    dir.write("broken/brisque_allrange", lines[..20].join("\n"));
    refused("brisque", "the ranges of 36 features, found 18");

    for n in [10, 128, 300, niqe.len() - 100] {
        dir.write("broken/niqe_modelparameters.mat", &niqe[..n]);
        refused("niqe", "niqe_modelparameters.mat");
    }
    dir.write("broken/niqe_modelparameters.mat", &ilniqe);
    refused("niqe", "one called `mu_prisparam`, found `templateModel`");
    dir.write("broken/ilniqe_templateModel.mat", &niqe);
    refused("ilniqe", "`templateModel`");
    let mut hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".to_vec();
    hdf5.resize(512, b' ');
    hdf5.extend(b"\x89HDF\r\n\x1a\n");
    dir.write("broken/ilniqe_templateModel.mat", hdf5);
    refused("ilniqe", "version 7.3 (HDF5); save it again");
    assert!(!dir.path().join("store/scores").exists(), "nothing was scored");
}

#[test]
fn without_parameter_files_the_command_says_what_to_get_and_where_to_put_it() {
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 200));
    let weights = dir.path().join("weights");
    let run = |methods: &str| {
        let args = ["baseline", "--store", "store", "--images", "images", "--methods", methods];
        dir.agiqa_with(&args, |command| _ = command.env("AGIQA_WEIGHTS", &weights))
    };
    let place = weights.join("iqa-params");
    run("brisque")
        .exits(2)
        .says(&format!("no parameter file `{}`", place.join("brisque_allmodel").display()))
        .says("get BRISQUE_release.zip from http://live.ece.utexas.edu/research/quality/BRISQUE_release.zip")
        .says("`allmodel` as `brisque_allmodel` (353497 bytes) and `allrange` as `brisque_allrange` (741 bytes)")
        .says(&format!("into {}", place.display()))
        .says("--params DIR");
    run("niqe").exits(2).says("`modelparameters.mat` as `niqe_modelparameters.mat`");
    run("ilniqe").exits(2).says("`templateModel.mat` as `ilniqe_templateModel.mat`");
    let params = params();
    let bytes = std::fs::read(params.join("niqe_modelparameters.mat")).expect("part of the project");
    dir.write("weights/iqa-params/niqe_modelparameters.mat", bytes);
    run("niqe").exits(0).says("1 of 1 scores are present");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 200));
    let nowhere = dir.path().join("nowhere");
    dir.agiqa(&baseline(&nowhere, &["--methods", "niqe,piqe"])).exits(2).says("expected brisque, niqe or ilniqe");
    dir.agiqa(&baseline(&nowhere, &["--methods", "niqe,niqe"])).exits(2).says("duplicate method `niqe`");
    dir.agiqa(&baseline(&nowhere, &["--side", "5"])).exits(2).says("32 to 4096");
}

#[test]
fn another_side_is_another_set_of_scores() {
    let params = params();
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 260, 240));
    dir.agiqa(&baseline(&params, &["--methods", "brisque"])).exits(0);
    dir.agiqa(&baseline(&params, &["--methods", "brisque", "--side", "256"])).exits(0);
    let sets = ScoreSet::list(&dir.store()).expect("sets can be listed");
    assert_eq!(sets.len(), 2);
    let values: Vec<f64> =
        sets.iter().flat_map(|set| set.read(&dir.store()).expect("scores").into_values().collect::<Vec<_>>()).collect();
    assert_ne!(values[0], values[1]);
}

#[test]
fn a_pipeline_scores_and_compares_and_does_neither_twice() {
    let params = params();
    let dir = TestDir::new();
    let (data, params) = (concat!(env!("CARGO_MANIFEST_DIR"), "/data.example"), params.display());
    let pipeline = format!(
        r#"
        name = "scores"
        store = "store"
        [[dataset]]
        dataset = "example"
        adapter = "agiqa-3k"
        table = "{data}/data.csv"
        images = "{data}/images"
        [baseline]
        methods = ["brisque", "niqe"]
        params = "{params}"
        side = 192
        [split]
        kind = "random"
        seeds = [0]
        [compare]
        part = "test"
        "#
    );
    dir.write("p.toml", pipeline);
    let ran = dir.agiqa(&["run", "p.toml"]).exits(0).says("120 of 120 scores are present");
    ran.says("2 methods on 12 images").prints("brisque (bilinear to 192 × 192)").prints("test part of split random-0");
    let again = dir.agiqa(&["run", "p.toml"]).exits(0).says("skipped: all 120 scores are present");
    again.says("skipped: 2 methods are compared").prints("brisque (bilinear to 192 × 192)");
}
