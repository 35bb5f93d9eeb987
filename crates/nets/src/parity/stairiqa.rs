//! StairIQA against the authors' code.

use std::path::Path;

use agiqa_images::RgbImage8;
use agiqa_synth::shared;
use tch::{Device, Kind, Tensor};

use super::{
    Watched, assert_near, fixture_image, json, network, normalised, numbers, tensors, values, weights_of, write,
};
use crate::raters::stairiqa::{FiveCrops, StairIqa};
use crate::raters::{RaterFile, RaterName};

/// The heads in the order of the fixture's scores.
const HEADS: [&str; 6] = ["flive", "flive-patch", "live-challenge", "koniq10k", "spaq", "bid"];

/// Compares all stages and the scores of `heads` on the normalised `pixels`.
#[track_caller]
fn compare(folder: &Path, config: &str, heads: &[&str], pixels: &Tensor, tolerance: f64) {
    let (config, expected) = (json(&folder.join(config)), tensors(&folder.join("expected.safetensors")));
    let weights = weights_of(&config);
    let largest = expected["scores"].abs().max().double_value(&[]);
    for (i, head) in heads.iter().enumerate() {
        let stairiqa: StairIqa = network(&weights, Some(head));
        let mut watched = Watched::default();
        let scores = stairiqa.forward(pixels, &mut watched.watch());
        let expected_scores = expected["scores"].select(1, i as i64);
        assert_near(head, &values(&scores), &values(&expected_scores), tolerance * largest);
        if i == 0 {
            let is_stored = |stage: &&String| expected.contains_key(&format!("{stage}.stats"));
            let stages: Vec<&String> = watched.0.keys().filter(is_stored).collect();
            assert!(stages.len() == 18, "{stages:?}");
            stages.iter().for_each(|stage| watched.compare_samples(stage, &expected, stage, tolerance));
        }
    }
}

#[test]
fn a_tiny_network_agrees_with_the_authors_code() {
    let Some(folder) = shared("parity/stairiqa/tiny") else { return };
    let _no_grad = tch::no_grad_guard();
    let expected = tensors(&folder.join("expected.safetensors"));
    compare(&folder, "config.json", &HEADS, &normalised(&expected["input.u8"]), 2e-5);
}

#[test]
fn the_published_size_agrees_with_the_authors_code() {
    let (Some(folder), Some(_)) = (shared("parity/stairiqa/full"), shared("datasets/agiqa-3k/images")) else { return };
    let _no_grad = tch::no_grad_guard();
    let config = json(&folder.join("expected.json"));
    let resized = tensors(&folder.join("../preprocess/expected.safetensors"));
    let centre = |name: &str| resized[&format!("resized384.{name}")].narrow(0, 32, 320).narrow(1, 32, 320);
    let levels = Tensor::stack(&["DALLE2_normal_017", "AttnGAN_normal_005"].map(centre), 0);
    compare(&folder, "expected.json", &HEADS[..1], &normalised(&levels), 1e-4);

    let (weights, images) = (weights_of(&config), &config["five_crop_scores"]);
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let published = write(&weights, &temporary.path().join("published.safetensors"), |name| format!("module.{name}"));
    let file = RaterFile::open(RaterName::StairIqa, Some("koniq10k"), &published).expect("a checkpoint");
    let stairiqa = file.load(Device::Cpu, Kind::Float).expect("it can be loaded");
    for (name, case) in images.as_object().expect("cases") {
        let image = fixture_image(&folder, name);
        let prepared = stairiqa.preprocessor().prepare(&image).expect("it fits");
        let inputs = Tensor::from_slice(&prepared.values).view(prepared.shape.as_slice()).unsqueeze(0);
        let means = numbers(&case["mean_per_head"]);
        assert_near(name, &values(&stairiqa.rate(&inputs)), &[means[3]], 1e-4 * means[3].abs());
    }
}

#[test]
fn a_published_file_gives_the_fixtures_scores() {
    let Some(folder) = shared("parity/stairiqa/tiny") else { return };
    let _no_grad = tch::no_grad_guard();
    let expected = tensors(&folder.join("expected.safetensors"));
    let pixels = normalised(&expected["input.u8"]);
    for (i, head) in HEADS.iter().enumerate() {
        let file = RaterFile::open(RaterName::StairIqa, Some(head), &folder.join("published_style.pkl"));
        let stairiqa = file.expect("a checkpoint").load(Device::Cpu, Kind::Float).expect("it can be loaded");
        // One crop for each picture.
        let scores = stairiqa.rate(&pixels.unsqueeze(1)).to_kind(Kind::Double);
        let largest = expected["scores"].abs().max().double_value(&[]);
        assert_near(head, &values(&scores), &values(&expected["scores"].select(1, i as i64)), 2e-5 * largest);
    }
}

#[test]
fn pictures_are_resized_and_cut_bit_for_bit_as_pillow_does() {
    let (Some(folder), Some(odd)) = (shared("parity/stairiqa/preprocess"), shared("parity/preprocess_maniqa")) else {
        return;
    };
    if shared("datasets/agiqa-3k/images").is_none() {
        return;
    }
    let (cases, expected) = (json(&folder.join("expected.json")), tensors(&folder.join("expected.safetensors")));
    for (name, case) in cases["images"].as_object().expect("cases") {
        let image = fixture_image(&odd, name);
        for (variant, shorter) in [("koniq10k", "384"), ("flive", "340"), ("flive-patch", "256")] {
            let case = &case["resize"][shorter];
            let resized = FiveCrops::of(variant).resized(&image).expect("it fits");
            assert_eq!(serde_json::json!([resized.width_px, resized.height_px]), case["size_wh"], "{name}");
            let sums: Vec<u64> = (0..3)
                .map(|channel| resized.pixels.iter().skip(channel).step_by(3).map(|level| u64::from(*level)).sum())
                .collect();
            assert_eq!(serde_json::json!(sums), case["channel_sums"], "{name}");
            assert_eq!(
                serde_json::json!(FiveCrops::of(variant).places(&resized)),
                case["five_crop_top_left"],
                "{name}"
            );
        }
        let stem = name.split('.').next().expect("a stem");
        let RgbImage8 { width_px, height_px, pixels } = FiveCrops::of("koniq10k").resized(&image).expect("it fits");
        let found = Tensor::from_slice(&pixels).view([i64::from(height_px), i64::from(width_px), 3]);
        if let Some(whole) = expected.get(&format!("resized384.{stem}")) {
            assert_eq!(found, *whole, "{name}");
        }
        if let Some(middle) = expected.get(&format!("resized384_rows_cols_96_159.{stem}")) {
            assert_eq!(found.narrow(0, 96, 64).narrow(1, 96, 64), *middle, "{name}");
        }
    }
}
