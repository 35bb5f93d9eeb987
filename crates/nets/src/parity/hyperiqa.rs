//! HyperIQA against pyiqa's, whose weights are the authors' under other names.

use agiqa_synth::shared;
use serde_json::Value;
use tch::Tensor;

use super::{
    Watched, assert_near, compare_summary, compare_whole, fixture_image, json, network, numbers, planes, tensors,
    values, weights_of,
};
use crate::raters::hyperiqa::{HyperIqa, enlarged};
use crate::raters::{Prepared, Rater};

/// Differences of stages and scores from float64, as parts of the maximum.
const STAGES: f64 = 2e-5;
const SCORES: f64 = 5e-6;

#[test]
fn every_stage_and_score_agrees_with_pyiqas() {
    let (Some(folder), Some(_)) = (shared("parity/hyperiqa"), shared("datasets/agiqa-3k/images")) else { return };
    let (config, expected) = (json(&folder.join("config.json")), json(&folder.join("expected.json")));
    let whole = tensors(&folder.join("expected.safetensors"));
    let _no_grad = tch::no_grad_guard();
    let hyperiqa: HyperIqa = network(&weights_of(&config), None);
    for (i, (name, case)) in expected["images"].as_object().expect("cases").iter().enumerate() {
        let image = fixture_image(&folder, name);
        let Prepared { values: pixels, shape } = hyperiqa.preprocessor().prepare(&image).expect("it fits");
        let crops = Tensor::from_slice(&pixels).view(shape.as_slice());
        if let Value::Object(_) = &case["upscaled"] {
            let ones = Tensor::from_slice(&crate::pixels::IMAGENET_STD).view([3, 1, 1]);
            let means = Tensor::from_slice(&crate::pixels::IMAGENET_MEAN).view([3, 1, 1]);
            let larger = planes(&enlarged(&image).expect("it fits")) * ones + means;
            compare_summary("upscaled", &larger, &case["upscaled"], 5e-5);
        }
        let stage_crop = case["stage_crop"]["index"].as_i64().expect("a position");
        let mut watched = Watched::default();
        let score = hyperiqa.forward(&crops.narrow(0, stage_crop, 1), &mut watched.watch());
        compare_summary(name, &crops.narrow(0, stage_crop, 1), &case["stages"]["normalized"], 5e-5);
        for (stage, expected) in case["stages"].as_object().expect("stages") {
            let found = match stage.as_str() {
                "normalized" | "feat0" | "score" => continue,
                "feat1" | "feat2" | "feat3" | "feat4" => stage.replace("feat", "layer"),
                _ => stage.clone(),
            };
            watched.compare_summary(&found, expected, STAGES);
            if let Some(expected) = whole.get(&format!("img{i}.{stage}")) {
                compare_whole(stage, &watched.0[&found], expected, STAGES);
            }
        }
        let scores = numbers(&case["crop_scores"]);
        let tolerance = SCORES * scores.iter().fold(0.0_f64, |max, score| max.max(score.abs()));
        assert_near(name, &values(&score), &scores[stage_crop as usize..][..1], tolerance);
        if i == 1 {
            let found = hyperiqa.rate(&crops.unsqueeze(0));
            assert_near(name, &values(&found), &[case["score_pyiqa"].as_f64().expect("a score")], tolerance);
        }
    }
}
