//! Agreement with the reference values of the three methods, intermediates included.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::brisque::{self, Brisque};
use super::ilniqe::{self, Extractor, Ilniqe};
use super::niqe::{self, Niqe};
use super::plane::luma;
use super::{ScoreError, imresize};
use agiqa_images::{DecodeLimits, RgbImage8};

/// A path in the reference material next to the project. If it is absent, prints so and returns `None`.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("AGIQA_REQUIRE_SHARED").is_none(), "{} is absent", path.display());
    println!("skipped: {} is absent", path.display());
    None
}

fn expected() -> Option<Value> {
    let text = std::fs::read(shared("parity/handcrafted/expected.json")?).expect("it can be read");
    Some(serde_json::from_slice(&text).expect("it is JSON"))
}

fn decoded(path: &Path) -> RgbImage8 {
    let bytes = agiqa_images::read(path).expect("the image is there");
    agiqa_images::decode(&bytes, &DecodeLimits::default()).expect("the image is whole").1
}

/// The entries of `list` with their decoded images.
fn cases(list: &str, folder: &str) -> Vec<(Value, RgbImage8)> {
    let (Some(expected), Some(folder)) = (expected(), shared(folder)) else { return Vec::new() };
    let entries = expected[list].as_array().expect("a list").clone();
    entries
        .into_iter()
        .map(|entry| {
            let image = decoded(&folder.join(entry["name"].as_str().expect("a name")));
            (entry, image)
        })
        .collect()
}

fn all_cases() -> Vec<(Value, RgbImage8)> {
    let mut all = cases("synthetic", "parity");
    all.extend(cases("images", "datasets/agiqa-3k/images"));
    all
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

#[track_caller]
fn assert_near(name: &str, found: f64, expected: f64, absolute: f64, relative: f64) {
    let tolerance = absolute.max(relative * expected.abs());
    assert!((found - expected).abs() <= tolerance, "{name}: found {found}, expected {expected} ± {tolerance}");
}

/// Compares feature by feature.
#[track_caller]
fn assert_features(name: &str, found: &[f64], expected: &Value, relative: f64) {
    let expected: Vec<f64> = expected.as_array().expect("a list").iter().map(number).collect();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_near(&format!("{name}[{index}]"), *found, *expected, 1e-6, relative);
    }
}

#[test]
fn pixels_and_luma_agree_with_the_reference() {
    for (entry, image) in all_cases() {
        let name = &entry["name"];
        // The reference also has SHA-256 hashes, which this program does not compute. Sums reveal another decoder, too.
        let sums: Vec<u64> =
            (0..3).map(|channel| image.pixels.iter().skip(channel).step_by(3).map(|v| u64::from(*v)).sum()).collect();
        assert_eq!(Value::from(sums), entry["rgb_sum"], "{name}");
        assert_eq!(luma(&image).values.iter().sum::<f64>(), number(&entry["gray_sum"]), "{name}");
    }
}

#[test]
fn the_image_resized_for_ilniqe_agrees_with_the_reference() {
    for (entry, image) in cases("synthetic", "parity") {
        let resized = imresize::resize(&image, 524, 524);
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
    for (entry, image) in cases("synthetic", "parity") {
        let features = brisque::features(&image).expect("the image is not flat");
        for (scale, key) in ["scale1", "scale2"].into_iter().enumerate() {
            let expected = &entry["intermediate"]["brisque"][key]["features"];
            assert_features(key, &features[18 * scale..][..18], expected, 1e-6);
        }
    }
}

#[test]
fn niqe_has_the_features_of_the_reference() {
    for (entry, image) in cases("synthetic", "parity") {
        let blocks = niqe::features(&image).expect("the image is large enough");
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
    let Some(params) = shared("iqa-params") else { return };
    let scorer = Ilniqe::load(&params).expect("the published file");
    for (entry, image) in cases("synthetic", "parity") {
        let expected = &entry["intermediate"]["ilniqe"];
        let blocks = Extractor::default().features(&image);
        let half = ilniqe::N_SCALE_FEATURES;
        assert_features("scale 1", &blocks[0][..half], &expected["first_block_scale1"], 1e-5);
        assert_features("scale 2", &blocks[0][half..], &expected["first_block_scale2"], 1e-5);
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
fn scores_agree_with_the_reference() {
    let Some(params) = shared("iqa-params") else { return };
    let brisque = Brisque::load(&params).expect("the published files");
    let niqe = Niqe::load(&params).expect("the published file");
    let ilniqe = Ilniqe::load(&params).expect("the published file");
    for (entry, image) in all_cases() {
        let name = &entry["name"];
        let check = |method: &str, found: Result<f64, ScoreError>, absolute, relative| {
            let expected = &entry[method];
            match found {
                Ok(found) => assert_near(&format!("{method} of {name}"), found, number(expected), absolute, relative),
                Err(error) => assert!(expected.is_null(), "{method} of {name}: expected {expected}, found: {error}"),
            }
        };
        check("brisque", brisque.score(&image), 0.005, 0.0);
        check("niqe", niqe.score(&image), 0.0005, 5e-5);
        check("ilniqe", ilniqe.score(&image), 0.005, 1e-4);
    }
}

#[test]
fn a_constant_image_has_no_score_by_any_method() {
    let Some(params) = shared("iqa-params") else { return };
    let brisque = Brisque::load(&params).expect("the published files");
    let niqe = Niqe::load(&params).expect("the published file");
    let ilniqe = Ilniqe::load(&params).expect("the published file");
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
