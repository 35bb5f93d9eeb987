//! MUSIQ against pyiqa's and the authors' code.

use agiqa_images::RgbImage8;
use agiqa_synth::shared;
use serde_json::Value;
use tch::Tensor;

use super::{
    Watched, assert_near, compare_summary, fixture_image, integers, json, network, numbers, planes, values, weights_of,
};
use crate::raters::musiq::{Musiq, Pyramid, Style};
use crate::raters::{Prepare, Prepared};

/// Differences from float64, as parts of the maximum.
const STAGES: f64 = 2e-4;
const CLASS: f64 = 2e-5;
const SCORES: f64 = 1e-5;

/// The picture of a case, which may be a part of a file.
fn picture(folder: &std::path::Path, name: &str, case: &Value) -> RgbImage8 {
    let image = fixture_image(folder, name);
    let Some(crop) = case["crop"].as_object() else { return image };
    let number = |key: &str| crop[key].as_u64().expect("a number") as usize;
    let rows = image.pixels.chunks_exact(3 * image.width_px as usize).skip(number("top")).take(number("height"));
    let pixels = rows.flat_map(|row| &row[3 * number("left")..][..3 * number("width")]).copied().collect();
    RgbImage8 { width_px: number("width") as u32, height_px: number("height") as u32, pixels }
}

/// The grid positions of the real tokens in pyiqa's list, which is filled up.
fn real_positions(case: &Value) -> Vec<i64> {
    let all = integers(&case["spatial"]);
    let mut at = 0;
    let mut real = Vec::new();
    for scale in case["scales"].as_array().expect("scales") {
        let n_real: i64 = integers(&scale["grid_hw"]).iter().product();
        real.extend(&all[at..at + n_real as usize]);
        at += scale["sequence"].as_i64().unwrap_or(n_real) as usize;
    }
    real
}

fn compare(size: &str, style: Style) {
    let (Some(folder), Some(_)) = (shared("parity/musiq"), shared("datasets/agiqa-3k/images")) else { return };
    let (config, expected) = (json(&folder.join("config.json")), json(&folder.join("expected.json")));
    let _no_grad = tch::no_grad_guard();
    let variant = if style == Style::Authors { "authors" } else { "pyiqa" };
    let mut musiq: Musiq = network(&weights_of(&config[size]), Some(variant));
    musiq.sizes.n_heads = config[size]["config"]["num_heads"].as_i64().expect("a number");
    let patch_px = config[size]["config"]["patch_size"].as_u64().expect("a number") as usize;
    let pyramid = Pyramid { patch_px, style };
    for (name, case) in expected[size].as_object().expect("cases") {
        let reference = if style == Style::Authors { &case["official"] } else { &case["stages"] };
        if reference.is_null() {
            continue;
        }
        let image = picture(&folder, name, case);
        for (i, found) in pyramid.scales(&image).expect("it fits").iter().enumerate().take(2) {
            let what = format!("{variant} {size} {name} resized{i}");
            let expected = &reference[format!("resized{i}")];
            if style == Style::Pyiqa {
                compare_summary(&what, &planes(found), expected, STAGES);
            } else {
                // "Then pixels agree to 3e-7", in the fixture's own comparison.
                let all = values(&planes(found));
                let probes = numbers(&expected["probes"]);
                let at: Vec<f64> = (0..probes.len()).map(|k| all[(k * 2_654_435_761 + 12345) % all.len()]).collect();
                assert_near(&what, &at, &probes, 1e-5);
            }
        }
        let Prepared { values: tokens, shape } = pyramid.prepare(&image).expect("it fits");
        let tokens = Tensor::from_slice(&tokens).view(shape.as_slice());
        let positions: Vec<i64> = values(&tokens.select(1, shape[1] - 2)).iter().map(|place| *place as i64).collect();
        assert_eq!(positions, real_positions(case), "{name}");
        let mut watched = Watched::default();
        let score = values(&musiq.forward(&tokens, &mut watched.watch()));
        let expected_score = if style == Style::Authors { &reference["score"] } else { &case["score"] };
        let expected_score = expected_score.as_f64().expect("a score");
        // The authors' code runs in float32 on its own pixels.
        let tolerance = if style == Style::Authors { 10.0 * SCORES } else { SCORES };
        assert_near(
            &format!("{variant} {size} {name}"),
            &score,
            &[expected_score],
            tolerance * expected_score.abs().max(1.0),
        );
        if style == Style::Pyiqa {
            let stages = reference.as_object().expect("stages").iter();
            for (stage, expected) in stages.filter(|(stage, _)| stage.ends_with("_valid")) {
                watched.compare_summary(stage, expected, STAGES);
            }
            watched.compare_summary("cls", &reference["cls"], CLASS.max(STAGES));
        }
    }
}

#[test]
fn the_tiny_and_the_published_size_agree_with_pyiqas() {
    compare("tiny", Style::Pyiqa);
    compare("full", Style::Pyiqa);
}

#[test]
fn the_authors_variant_agrees_with_the_authors_code() {
    compare("tiny", Style::Authors);
    compare("full", Style::Authors);
}
