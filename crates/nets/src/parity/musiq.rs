//! MUSIQ against pyiqa's and the authors' code.

use agiqa_images::RgbImage8;
use agiqa_synth::shared;
use serde_json::Value;
use tch::Tensor;

use super::{
    Watched, assert_near, compare_summary, fixture_image, integers, json, network, numbers, planes, values, weights_of,
    write,
};
use crate::layers::NamedTensors;
use crate::raters::musiq::{Musiq, Pyramid, Style};
use crate::raters::{Prepare, Prepared, RaterFile, RaterName};

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
        assert_near(
            &format!("{variant} {size} {name}"),
            &score,
            &[expected_score],
            SCORES * expected_score.abs().max(1.0),
        );
        if style == Style::Pyiqa {
            let stages = reference.as_object().expect("stages").iter();
            for (stage, expected) in stages.filter(|(stage, _)| stage.ends_with("_valid")) {
                watched.compare_summary(stage, expected, STAGES);
            }
            watched.compare_summary("cls", &reference["cls"], CLASS);
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

/// The arrays of the authors' file that `weights` are made of, under their names.
fn arrays(names: &Value, weights: &NamedTensors) -> Vec<(String, Tensor)> {
    let array = |(name, case): (&String, &Value)| {
        let (tensor, shape) = (&weights[name], integers(&case["shape"]));
        let flax = case["npz"].as_str().expect("a name").to_owned();
        let array = match shape.len() {
            // Our inputs last, flax's first.
            4 if flax.ends_with("kernel") => tensor.permute([2, 3, 1, 0]),
            2 | 3 if flax.ends_with("kernel") => tensor.transpose(0, 1),
            _ => tensor.shallow_clone(),
        };
        (flax, array.reshape(shape.as_slice()))
    };
    names.as_object().expect("names").iter().map(array).collect()
}

#[test]
fn the_authors_file_gives_the_tensors_of_pyiqas() {
    let Some(folder) = shared("parity/musiq") else { return };
    let weights = weights_of(&json(&folder.join("config.json"))["full"]);
    let mut arrays = arrays(&json(&folder.join("npz_names_full.json")), &weights);
    // The optimiser's.
    arrays.push(("opt/state/step".to_owned(), Tensor::from(7_i64)));
    let to = tempfile::tempdir().expect("a temporary folder can be made");
    Tensor::write_npz(&arrays, to.path().join("koniq_ckpt.npz")).expect("it can be written");
    let plain = write(&weights, &to.path().join("pyiqa.safetensors"), |name| name.to_owned());
    let hash = |path: &std::path::Path| {
        let file = RaterFile::open(RaterName::Musiq, Some("authors"), path).expect("a checkpoint");
        file.content_hash().expect("it can be read")
    };
    assert_eq!(hash(&to.path().join("koniq_ckpt.npz")), hash(&plain));

    // Cut short, and of another geometry.
    let path = to.path().join("koniq_ckpt.npz");
    let bytes = std::fs::read(&path).expect("it was written");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
    let error = RaterFile::open(RaterName::Musiq, None, &path).err().expect("refused");
    assert!(error.to_string().contains("cut short"), "{error}");
    let query = arrays.iter().position(|(name, _)| name.ends_with("encoderblock_3/MlpBlock_3/Dense_0/kernel"));
    arrays[query.expect("it is there")].1 = Tensor::zeros([2, 7, 2, 2, 2], tch::kind::FLOAT_CPU);
    Tensor::write_npz(&arrays, &path).expect("it can be written");
    let error = RaterFile::open(RaterName::Musiq, None, &path).err().expect("refused");
    assert!(error.to_string().contains("expected a kernel of 2, 3 or 4 dimensions"), "{error}");
    let error = RaterFile::open(RaterName::Dbcnn, None, &path).err().expect("refused");
    assert!(error.to_string().ends_with("it looks like musiq"), "{error}");
}
