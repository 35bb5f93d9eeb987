//! Q-Align against the published code, with the released vocabulary.

use std::collections::HashMap;
use std::path::Path;

use agiqa_synth::shared;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{assert_near, integers, json, numbers, tensors, values};
use crate::mplug_owl2::{self, Config, PromptIds, Tokenizer};
use crate::raters::Rater;
use crate::raters::qalign::{Folder, QAlign, VARIANTS, levels, prompt};

/// Our variants and the fixture's names.
const NAMES: [(&str, &str); 6] = [
    ("quality", "scorer_quality"),
    ("quality-eval", "eval_quality"),
    ("quality-github", "github_score_quality"),
    ("aesthetics", "scorer_aesthetics"),
    ("aesthetic", "pyiqa_aesthetic"),
    ("video", "scorer_video"),
];

/// Largest differences of a level's logit and of a score, as the fixture allows them.
const LOGITS: f64 = 5e-5;
const SCORES: f64 = 3e-5;

/// Puts the fixture's files into `to` as a user has them, tensors excepted.
fn put_frontend(fixture: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    let put = |from: &Path| {
        std::fs::copy(from, to.join(from.file_name().expect("a file"))).expect("it can be copied");
    };
    put(&fixture.join("tiny/config.json"));
    put(&fixture.join("tiny/preprocessor_config.json"));
    put(&fixture.join("../mplug_owl2/tokenizer.model"));
}

/// Writes the fixture's weights in f32, which follow from their names.
fn write_f32(fixture: &Path, expected: &Value, to: &Path) {
    let config = Config::read(&fixture.join("tiny/config.json")).expect("it can be read");
    let (vocabulary, dim) = (config.decoder.vocab_size, config.decoder.dim);
    let mut shapes = mplug_owl2::tensors(&config);
    shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, dim]));
    let seed = expected["seed"].as_u64().expect("a seed");
    let fill = |(name, shape): (String, Vec<i64>)| {
        let tensor = Tensor::from_slice(&agiqa_synth::values(&name, &shape, seed)).view(shape.as_slice());
        let is_head = name == "lm_head.weight";
        (name, if is_head { tensor * expected["lm_head_mul"].as_f64().expect("a factor") } else { tensor })
    };
    let weights: Vec<(String, Tensor)> = shapes.into_iter().map(fill).collect();
    Tensor::write_safetensors(&weights, to.join("model.safetensors")).expect("it can be written");
}

fn load(folder: &Path, variant: &str) -> QAlign {
    Folder::open(folder, variant).expect("a folder").load(Device::Cpu, Kind::Float).expect("it can be loaded")
}

#[test]
fn prompts_and_levels_have_the_published_ids() {
    let Some(fixture) = shared("parity/qalign") else { return };
    let expected = json(&fixture.join("prompts.json"));
    let tokenizer = Tokenizer::find(&fixture.join("../mplug_owl2")).expect("it can be read");
    for (variant, name) in NAMES {
        let case = &expected["prompts"][name];
        assert_eq!(prompt(variant), case["prompt"].as_str().expect("a text"));
        assert_eq!(prompt(&format!("{variant}-0-1")), prompt(variant));
        let ids = PromptIds::of_text(&prompt(variant), &tokenizer);
        assert_eq!([&ids.before[..], &[-200], &ids.after].concat(), integers(&case["input_ids"]), "{variant}");
    }
    assert_eq!(VARIANTS.len(), 2 * NAMES.len());
    assert_eq!(levels(&tokenizer).expect("LLaMA's words"), [15129, 1781, 6534, 6460, 4319]);
}

#[test]
fn logits_and_scores_agree_with_the_published_code() {
    let Some(fixture) = shared("parity/qalign") else { return };
    let expected = json(&fixture.join("tiny/expected.json"));
    let stages: HashMap<String, Tensor> = tensors(&fixture.join("tiny/expected.safetensors"));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (f32s, halves) = (folder.path().join("f32"), folder.path().join("f16"));
    put_frontend(&fixture, &f32s);
    write_f32(&fixture, &expected, &f32s);
    put_frontend(&fixture, &halves);
    for file in ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    {
        std::fs::copy(fixture.join("tiny").join(file), halves.join(file)).expect("it can be copied");
    }
    let images = expected["images"].as_array().expect("images");
    let pixels = |i: usize| stages[&format!("i{i}.pixel_values")].unsqueeze(0);
    let all = Tensor::cat(&(0..images.len()).map(pixels).collect::<Vec<_>>(), 0);
    let _no_grad = tch::no_grad_guard();
    for (variant, name) in NAMES {
        for (path, is_half) in [(&f32s, false), (&halves, true)] {
            let network = load(path, variant);
            for (i, image) in images.iter().enumerate() {
                let case = &image["prompts"][name];
                let case = if is_half { &case["f16_weights"] } else { case };
                let what = format!("{variant}, image {i}, halves: {is_half}");
                assert_near(&what, &values(&network.level_logits(&pixels(i))), &numbers(&case["level_logits"]), LOGITS);
                let score = case["score_1_to_5"].as_f64().expect("a number");
                assert_near(&what, &values(&network.rate(&pixels(i))), &[score], SCORES);
            }
            // The same bits in a batch, in any place of it.
            let alone: Vec<f64> = (0..images.len()).flat_map(|i| values(&network.rate(&pixels(i)))).collect();
            assert_eq!(values(&network.rate(&all)), alone, "{variant}");
            assert_eq!(
                values(&network.rate(&all.flip([0_i64].as_slice()))).into_iter().rev().collect::<Vec<_>>(),
                alone
            );
        }
    }
    let unit = load(&f32s, "quality-0-1").rate(&pixels(0));
    let score = images[0]["prompts"]["scorer_quality"]["score_0_to_1"].as_f64().expect("a number");
    assert_near("0 to 1", &values(&unit), &[score], SCORES / 4.0);
}

#[test]
fn the_last_position_is_that_of_the_whole_pass() {
    let Some(fixture) = shared("parity/qalign") else { return };
    let stages = tensors(&fixture.join("tiny/expected.safetensors"));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    put_frontend(&fixture, folder.path());
    write_f32(&fixture, &json(&fixture.join("tiny/expected.json")), folder.path());
    let network = load(folder.path(), "quality");
    let _no_grad = tch::no_grad_guard();
    for i in 0..3 {
        let stage = |name: &str| stages[&format!("i{i}.{name}")].shallow_clone();
        let visual = network.network.see(&stage("pixel_values").unsqueeze(0));
        assert_near("abstractor", &values(&visual), &values(&stage("abstractor")), 3e-5);
        let hidden = stage("hidden");
        let last = hidden.select(0, hidden.size()[0] - 1);
        assert_near("last", &values(&network.network.last_hidden(&visual)), &values(&last), 5e-5);
        let read = network.network.read(&visual).squeeze_dim(0);
        let (n, n_read) = (hidden.size()[0], read.size()[0]);
        assert_near("hidden", &values(&read), &values(&hidden.narrow(0, n - n_read, n_read)), 5e-5);
    }
}
