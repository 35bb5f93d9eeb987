//! SAAN against the authors' code.

use agiqa_images::RgbImage8;
use agiqa_synth::shared;
use tch::{Device, Kind, Tensor};

use super::{Watched, assert_near, fixture_image, json, network, normalised, tensors, values, weights_of};
use crate::raters::saan::{Saan, Square};
use crate::raters::{RaterFile, RaterName};

#[test]
fn the_tiny_and_the_published_size_agree_with_the_authors_code() {
    for (size, tolerance) in [("tiny", 2e-5), ("full", 1e-4)] {
        let (Some(folder), Some(resized)) =
            (shared(&format!("parity/baid/{size}")), shared("parity/baid/preprocess/expected.safetensors"))
        else {
            return;
        };
        let _no_grad = tch::no_grad_guard();
        let (config, expected) = (json(&folder.join("expected.json")), tensors(&folder.join("expected.safetensors")));
        let saan: Saan = network(&weights_of(&config), None);
        let levels = match expected.get("input.u8") {
            Some(levels) => levels.shallow_clone(),
            None => tensors(&resized)["resized224"].narrow(0, 0, 2),
        };
        let mut watched = Watched::default();
        let scores = saan.forward(&normalised(&levels), &mut watched.watch());
        assert_near(size, &values(&scores), &values(&expected["score"]), tolerance);
        let stages = config["stages_in_order"].as_array().expect("names");
        for stage in stages.iter().map(|stage| stage.as_str().expect("a name")) {
            let found = match stage {
                "gen" => "gen.layer3",
                "sty.content" => "sty.layer2",
                "sty.style" => "sty.vgg.relu4_1",
                // ReLU of another stage, pooled keys and values, and what follows at once from their neighbours.
                "sty" | "nlb.g" | "nlb.phi" | "nlb.theta" | "avg" | "score" => continue,
                _ => stage,
            };
            watched.compare_samples(found, &expected, stage, tolerance);
        }
    }
}

#[test]
fn a_published_file_gives_the_fixtures_scores() {
    let Some(folder) = shared("parity/baid/tiny") else { return };
    let _no_grad = tch::no_grad_guard();
    let expected = tensors(&folder.join("expected.safetensors"));
    let file = RaterFile::open(RaterName::Baid, None, &folder.join("model_best.pth")).expect("a checkpoint");
    let saan = file.load(Device::Cpu, Kind::Float).expect("it can be loaded");
    let scores = saan.rate(&normalised(&expected["input.u8"]));
    assert_near("score", &values(&scores), &values(&expected["score"]), 2e-5);
}

#[test]
fn pictures_are_resized_bit_for_bit_as_pillow_does() {
    let (Some(folder), Some(odd)) = (shared("parity/baid/preprocess"), shared("parity/preprocess_maniqa")) else {
        return;
    };
    if shared("datasets/agiqa-3k/images").is_none() {
        return;
    }
    let (cases, expected) = (json(&folder.join("expected.json")), tensors(&folder.join("expected.safetensors")));
    let names: Vec<&String> = cases["images"].as_object().expect("cases").keys().collect();
    for (i, name) in names.iter().enumerate() {
        let RgbImage8 { pixels, .. } = Square::resized(&fixture_image(&odd, name));
        let stem = name.split('.').next().expect("a stem");
        let whole = match expected.get(&format!("resized224.{stem}")) {
            Some(whole) => whole.shallow_clone(),
            None if i < 4 => expected["resized224"].get(i as i64),
            None => continue,
        };
        assert_eq!(Tensor::from_slice(&pixels).view([224, 224, 3]), whole, "{name}");
    }
}
