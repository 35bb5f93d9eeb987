//! Agreement with the reference values of the three methods, intermediates included: with NumPy's of
//! `tests/reference/handcrafted.py`, by parameter files of ours, and with the published ones where they are.

use std::path::{Path, PathBuf};

use agiqa_synth::{picture_of_case, reference, shared};
use serde_json::Value;

use super::brisque::{self, Brisque};
use super::ilniqe::{self, Extractor, Ilniqe};
use super::niqe::{self, Niqe};
use super::plane::luma;
use super::{ScoreError, imresize};
use agiqa_images::{DecodeLimits, RgbImage8};

/// An entry of a reference, and its image.
struct Case {
    entry: Value,
    image: RgbImage8,
}

fn read(expected: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(expected).expect("it can be read")).expect("it is JSON")
}

/// The cases in `tests/reference`.
fn ours() -> Vec<Case> {
    let expected = read(&reference("handcrafted/expected.json"));
    let entries = expected["synthetic"].as_array().expect("a list").iter();
    let case = |entry: &Value| {
        let (width, height, pixels) = picture_of_case(entry);
        let image = RgbImage8 { width_px: width as u32, height_px: height as u32, pixels };
        Case { entry: entry.clone(), image }
    };
    entries.map(case).collect()
}

/// Parameter files that say nothing about quality, which go with [`ours`].
fn our_params() -> PathBuf {
    reference("handcrafted")
}

/// Those of a list of the published reference, whose images are in a folder; none where they are absent.
#[track_caller]
fn listed(list: &str, folder: &str) -> Option<Vec<Case>> {
    let expected = read(&shared("parity/handcrafted/expected.json")?);
    let folder = shared(folder)?;
    let case = |entry: &Value| {
        let bytes =
            agiqa_images::read(&folder.join(entry["name"].as_str().expect("a name"))).expect("the image is there");
        let (_, image) = agiqa_images::decode(&bytes, &DecodeLimits::default()).expect("the image is whole");
        Case { entry: entry.clone(), image }
    };
    Some(expected[list].as_array().expect("a list").iter().map(case).collect())
}

/// Those with intermediate values.
#[track_caller]
fn published() -> Option<Vec<Case>> {
    listed("synthetic", "parity")
}

/// Those of AGIQA-3K, too, which have scores only.
#[track_caller]
fn all_published() -> Option<Vec<Case>> {
    let mut all = published()?;
    all.extend(listed("images", "datasets/agiqa-3k/images")?);
    Some(all)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

#[track_caller]
fn assert_near(what: &str, found: f64, expected: f64, absolute: f64, relative: f64) {
    let tolerance = absolute.max(relative * expected.abs());
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected} ± {tolerance}");
}

/// Compares feature by feature.
#[track_caller]
fn assert_features(what: &str, found: &[f64], expected: &Value, relative: f64) {
    let expected: Vec<f64> = expected.as_array().expect("a list").iter().map(number).collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_near(&format!("{what}[{index}]"), *found, *expected, 1e-6, relative);
    }
}

#[test]
fn pixels_and_luma_are_those_of_the_reference() {
    compare_pixels(&ours());
}

#[test]
fn pixels_and_luma_are_those_of_the_published_reference() {
    let Some(cases) = all_published() else { return };
    compare_pixels(&cases);
}

fn compare_pixels(cases: &[Case]) {
    for Case { entry, image } in cases {
        let name = &entry["name"];
        // The reference names them by SHA-256, which this program has no use for; sums tell any other decoder too.
        let sums: Vec<u64> =
            (0..3).map(|channel| image.pixels.iter().skip(channel).step_by(3).map(|v| u64::from(*v)).sum()).collect();
        assert_eq!(Value::from(sums), entry["rgb_sum"], "{name}");
        assert_eq!(luma(image).values.iter().sum::<f64>(), number(&entry["gray_sum"]), "{name}");
    }
}

#[test]
fn the_image_resized_for_ilniqe_is_that_of_the_reference() {
    compare_resized(&ours());
}

#[test]
fn the_image_resized_for_ilniqe_is_that_of_the_published_reference() {
    let Some(cases) = published() else { return };
    compare_resized(&cases);
}

fn compare_resized(cases: &[Case]) {
    for Case { entry, image } in cases {
        let resized = imresize::resize(image, 524, 524);
        let expected = &entry["intermediate"]["ilniqe"]["resized"];
        let sums: Vec<u64> =
            (0..3).map(|channel| resized.pixels.iter().skip(channel).step_by(3).map(|v| u64::from(*v)).sum()).collect();
        assert_eq!(Value::from(sums), expected["sum"]);
        for channel in 0..3 {
            let first: Vec<u8> = resized.pixels.iter().skip(channel).step_by(3).take(8).copied().collect();
            assert_eq!(Value::from(first), expected["first_row_first_8_rgb"][channel]);
        }
    }
}

#[test]
fn brisque_has_the_features_of_the_reference() {
    compare_brisque(&ours());
}

#[test]
fn brisque_has_the_published_features() {
    let Some(cases) = published() else { return };
    compare_brisque(&cases);
}

fn compare_brisque(cases: &[Case]) {
    for Case { entry, image } in cases {
        let features = brisque::features(image).expect("the image is no flat one");
        for (scale, key) in ["scale1", "scale2"].into_iter().enumerate() {
            let expected = &entry["intermediate"]["brisque"][key]["features"];
            assert_features(key, &features[18 * scale..][..18], expected, 1e-6);
        }
    }
}

#[test]
fn niqe_has_the_features_of_the_reference() {
    compare_niqe(&ours());
}

#[test]
fn niqe_has_the_published_features() {
    let Some(cases) = published() else { return };
    compare_niqe(&cases);
}

fn compare_niqe(cases: &[Case]) {
    for Case { entry, image } in cases {
        let blocks = niqe::features(image).expect("the image is large enough");
        let expected = &entry["intermediate"]["niqe"];
        assert_eq!(blocks.len() as u64, expected["patches"].as_u64().expect("a count"));
        assert_features("first block", &blocks[0], &expected["first_block"], 1e-6);
        assert_features("second block", &blocks[1], &expected["second_block_is_below_first"], 1e-6);
        assert_features("last block", &blocks[blocks.len() - 1], &expected["last_block"], 1e-6);
        let means = niqe::column_means(&blocks).expect("defined");
        assert_features("mu", &means, &expected["mu"], 1e-6);
    }
}

#[test]
fn ilniqe_has_the_features_and_distances_of_the_reference() {
    compare_ilniqe(&ours(), &our_params());
}

#[test]
fn ilniqe_has_the_published_features_and_distances() {
    let (Some(cases), Some(params)) = (published(), shared("iqa-params")) else { return };
    compare_ilniqe(&cases, &params);
}

fn compare_ilniqe(cases: &[Case], params: &Path) {
    let scorer = Ilniqe::load(params).expect("a file of its form");
    for Case { entry, image } in cases {
        let expected = &entry["intermediate"]["ilniqe"];
        let blocks = Extractor::default().features(image);
        let half = ilniqe::N_SCALE_FEATURES;
        assert_features("scale 1", &blocks[0][..half], &expected["first_block_scale1"], 1e-5);
        assert_features("scale 2", &blocks[0][half..], &expected["first_block_scale2"], 1e-5);
        if let (Some(last), Some(found)) = (expected.get("last_block_scale1"), blocks.last()) {
            assert_features("last block", &found[..half], last, 1e-5);
            assert_features("last block, scale 2", &found[half..], &expected["last_block_scale2"], 1e-5);
        }
        let n_undefined = blocks.iter().filter(|block| block.iter().any(|value| value.is_nan())).count() as u64;
        assert_eq!(Value::from(n_undefined), entry["ilniqe_blocks_with_nan"]);
        let n_infinite = blocks.as_flattened().iter().filter(|value| **value == 10_000.0).count() as u64;
        assert_eq!(Value::from(n_infinite), entry["ilniqe_inf_features"]);
        let distances = scorer.distances(&blocks).expect("most blocks are defined");
        let found = distances.iter().sum::<f64>() / distances.len() as f64;
        assert_near("score", found, number(&entry["ilniqe"]), 0.005, 1e-4);
    }
}

#[test]
fn scores_are_those_of_the_reference() {
    compare_scores(&ours(), &our_params());
}

#[test]
fn scores_are_the_published_ones() {
    let (Some(cases), Some(params)) = (all_published(), shared("iqa-params")) else { return };
    compare_scores(&cases, &params);
}

fn compare_scores(cases: &[Case], params: &Path) {
    let brisque = Brisque::load(params).expect("files of their form");
    let niqe = Niqe::load(params).expect("a file of its form");
    let ilniqe = Ilniqe::load(params).expect("a file of its form");
    for Case { entry, image } in cases {
        let name = &entry["name"];
        let check = |method: &str, found: Result<f64, ScoreError>, absolute, relative| {
            let expected = &entry[method];
            match found {
                Ok(found) => assert_near(&format!("{method} of {name}"), found, number(expected), absolute, relative),
                Err(error) => assert!(expected.is_null(), "{method} of {name}: expected {expected}, found: {error}"),
            }
        };
        check("brisque", brisque.score(image), 0.005, 0.0);
        check("niqe", niqe.score(image), 0.0005, 5e-5);
        check("ilniqe", ilniqe.score(image), 0.005, 1e-4);
    }
}

#[test]
fn a_constant_image_has_no_score_by_any_method() {
    let params = our_params();
    let brisque = Brisque::load(&params).expect("files of their form");
    let niqe = Niqe::load(&params).expect("a file of its form");
    let ilniqe = Ilniqe::load(&params).expect("a file of its form");
    for level in [0, 128, 255] {
        let image = RgbImage8 { width_px: 256, height_px: 192, pixels: vec![level; 256 * 192 * 3] };
        for found in [brisque.score(&image), niqe.score(&image), ilniqe.score(&image)] {
            assert_eq!(found, Err(ScoreError::Flat), "level {level}");
        }
    }
    let pixel = RgbImage8 { width_px: 1, height_px: 1, pixels: vec![9, 80, 200] };
    assert_eq!(brisque.score(&pixel).map_err(|error| error.kind()), Err("too-small"));
    assert_eq!(niqe.score(&pixel).map_err(|error| error.kind()), Err("too-small"));
    assert_eq!(ilniqe.score(&pixel).map_err(|error| error.kind()), Err("flat"));
}
