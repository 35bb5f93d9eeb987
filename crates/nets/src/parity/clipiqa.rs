//! CLIPIQA and CLIPIQA+ against the authors' code.

use std::collections::HashMap;
use std::path::Path;

use agiqa_synth::shared;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{Watched, assert_near, compare_whole, image, json, tensors, values, write};
use crate::checkpoint::Checkpoint;
use crate::layers::{NamedTensors, TensorScope};
use crate::raters::clipiqa::{ClipIqa, learned_in};
use crate::raters::{Architecture, Prepared, Rater, RaterFile, RaterName, Stored};

/// Differences of stages from float64, as parts of the maximum, and of scores.
const STAGES: f64 = 2e-5;
const SCORES: f64 = 3e-5;

/// The weights of a fixture: by the rule, and changed where the end of a name is listed.
fn weights_of(config: &Value) -> NamedTensors {
    let mut config = config.clone();
    let shapes = config["shapes"].as_object().expect("names and shapes").clone();
    let overrides: HashMap<&String, Value> = shapes
        .keys()
        .filter_map(|name| {
            let mut changes = config["overrides_mul_add"].as_array().expect("a list").iter();
            let change = changes.find(|change| name.ends_with(change[0].as_str().expect("a name")))?;
            Some((name, serde_json::json!({ "mul": change[1], "add": change[2] })))
        })
        .collect();
    config["overrides"] = serde_json::json!(overrides);
    super::weights_of(&config)
}

/// Learned prompts of the fixture: 16 vectors, or 16 for each prompt.
fn learned(width: i64, seed: u64, is_one_for_both: bool) -> Tensor {
    let (name, shape, factor) = match is_one_for_both {
        true => ("prompt_learner.ctx", vec![16, width], 1.0),
        false => ("prompt_learner.ctx2", vec![2, 16, width], 0.25),
    };
    Tensor::from_slice(&agiqa_synth::values(name, &shape, seed)).view(shape.as_slice()) * factor
}

fn input(rater: &dyn Rater, path: &Path) -> Tensor {
    let Prepared { values, shape } = rater.preprocessor().prepare(&image(path)).expect("it fits");
    Tensor::from_slice(&values).view(shape.as_slice()).unsqueeze(0)
}

/// The network of the checkpoint at `path`.
fn clipiqa(path: &Path, weights: &NamedTensors, variant: Option<&str>) -> ClipIqa {
    let checkpoint = Checkpoint::open(path).expect("a checkpoint");
    let stored = Stored::find(&checkpoint, ClipIqa::LAYOUTS).expect("a layout fits");
    let sizes = ClipIqa::sizes(&stored, variant).expect("the sizes can be read");
    ClipIqa::new(&TensorScope::new(weights, Device::Cpu, Kind::Float), &sizes).expect("the tensors fit")
}

#[test]
fn every_stage_and_score_agrees_with_the_authors_code() {
    let Some(folder) = shared("parity/clipiqa") else { return };
    let config = json(&folder.join("tiny/config.json"));
    let (expected, cases) =
        (tensors(&folder.join("tiny/expected.safetensors")), json(&folder.join("tiny/expected.json")));
    let _no_grad = tch::no_grad_guard();
    let weights = weights_of(&config);
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let path = write(&weights, &temporary.path().join("clip.safetensors"), |name| name.to_owned());
    let raters = [None, Some("pyiqa")].map(|variant| clipiqa(&path, &weights, variant));
    let texts = Tensor::cat(&raters.each_ref().map(|rater| rater.text_features().shallow_clone()), 0);
    compare_whole("text_features", &texts, &expected["text_features"], STAGES);
    for prompt in 0..2 {
        let mut watched = Watched::default();
        let _ = raters[0].watch_text(prompt, &mut watched.watch());
        for stage in ["text.embed", "text.block0", "text.block1"] {
            let (found, expected) = (watched.0[stage].get(0), expected[stage].get(prompt as i64));
            let expected = expected.narrow(0, 0, found.size()[0]);
            compare_whole(stage, &found, &expected, STAGES);
        }
    }
    let seed = config["seed"].as_u64().expect("a seed");
    let width = config["geometry"]["transformer_width"].as_i64().expect("a width");
    let plus = [("ctx16", true), ("ctx2x16", false)].map(|(name, is_one)| {
        let folder = temporary.path().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        std::fs::copy(&path, folder.join("clip.safetensors")).expect("it can be copied");
        let prompts = learned(width, seed, is_one);
        Tensor::write_safetensors(&[("params.prompt_learner.ctx", &prompts)], folder.join("ctx.safetensors"))
            .expect("it can be written");
        let file = RaterFile::open(RaterName::ClipIqaPlus, None, &folder).expect("a folder with both");
        let score = if is_one { "score.plus.ctx16" } else { "score.plus.ctx2x16.pos_embedding" };
        (score, file.load(Device::Cpu, Kind::Float).expect("it can be loaded"))
    });
    for case in cases["images"].as_array().expect("cases") {
        let path = folder.join(case["image"].as_str().expect("a name"));
        if !path.exists() {
            continue;
        }
        let key = case["key"].as_str().expect("a key");
        let pixels = input(&raters[0], &path);
        let mut watched = Watched::default();
        let features = raters[0].image_features(&pixels, &mut watched.watch());
        compare_whole("input", &pixels, &expected[&format!("{key}.input")], STAGES);
        compare_whole("features", &features, &expected[&format!("{key}.image_features")], STAGES);
        for stage in ["stem.1", "stem.2", "stem.3", "stem.pool", "layer1.0", "layer1.1", "layer2.0", "layer4.0"] {
            let found = if stage == "stem.pool" { "stem" } else { stage };
            compare_whole(stage, &watched.0[found], &expected[&format!("{key}.{stage}")], STAGES);
        }
        let mut scores = vec![("score.official", raters[0].rate(&pixels)), ("score.pyiqa", raters[1].rate(&pixels))];
        scores.extend(plus.iter().map(|(name, rater)| (*name, rater.rate(&pixels))));
        for (name, found) in scores {
            let expected = case[name].as_f64().expect("a score");
            assert_near(&format!("{key} {name}"), &values(&found), &[expected], SCORES);
        }
    }
}

#[test]
fn the_published_size_agrees_with_the_authors_code() {
    let Some(folder) = shared("parity/clipiqa") else { return };
    let expected = tensors(&folder.join("full/expected.safetensors"));
    let _no_grad = tch::no_grad_guard();
    let weights = weights_of(&json(&folder.join("full/config.json")));
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let path = write(&weights, &temporary.path().join("clip.safetensors"), |name| name.to_owned());
    let raters = [None, Some("pyiqa")].map(|variant| clipiqa(&path, &weights, variant));
    let texts = Tensor::cat(&raters.each_ref().map(|rater| rater.text_features().shallow_clone()), 0);
    compare_whole("text_features", &texts, &expected["text_features"], STAGES);
    let cases = json(&folder.join("full/expected.json"));
    for case in cases["images"].as_array().expect("cases") {
        let path = folder.join(case["image"].as_str().expect("a name"));
        if path.exists() {
            let pixels = input(&raters[0], &path);
            let features = raters[0].image_features(&pixels, &mut |_, _| {});
            let key = case["key"].as_str().expect("a key");
            compare_whole(key, &features, &expected[&format!("{key}.image_features")], STAGES);
            for (rater, name) in raters.iter().zip(["score.official", "score.pyiqa"]) {
                let expected = case[name].as_f64().expect("a score");
                assert_near(name, &values(&rater.rate(&pixels)), &[expected], SCORES);
            }
        }
    }
}

#[test]
fn learned_prompts_are_found_in_every_published_layout() {
    let Some(folder) = shared("parity/clipiqa/archive") else { return };
    for (file, shape) in [
        ("learned_prompts_tensor.pth", vec![16, 64]),
        ("learned_prompts_parameter_f16.pth", vec![16, 64]),
        ("params_dict.pth", vec![2, 16, 64]),
        ("iter_80000_tiny.pth", vec![16, 64]),
    ] {
        let checkpoint = Checkpoint::open(&folder.join(file)).expect("a checkpoint");
        let name = learned_in(&checkpoint).expect("learned prompts");
        assert_eq!(checkpoint.info(&name).expect("it is there").shape, shape, "{file}: {name}");
        let has_clip = Stored::find(&checkpoint, ClipIqa::LAYOUTS).is_some();
        assert_eq!(has_clip, file.starts_with("iter"), "{file}: the authors' file repeats CLIP");
    }
}
