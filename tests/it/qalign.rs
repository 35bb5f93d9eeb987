//! `agiqa score --method qalign` by the numbers of `tests/reference/qalign.py`.

use std::path::{Path, PathBuf};

use agiqa_nets::mplug_owl2::{Config, tensors};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::scores::ScoreSet;
use agiqa_synth::reference_file;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::mplug_owl2::{SAFETENSORS, write_weights};
use crate::score::write_png;
use crate::synth::fill;
use crate::testdir::{Ran, TestDir, reference};

/// Seed of the weights.
const SEED: u64 = 34;

fn expected() -> Value {
    serde_json::from_slice(&reference_file("qalign.json")).expect("it is JSON")
}

/// All tensors of the checkpoint.
fn weights() -> Vec<(String, Tensor)> {
    let config = Config::read(&reference("mplug_owl2/config.json")).expect("it can be read");
    let mut shapes = tensors(&config);
    shapes.push(("lm_head.weight".to_owned(), vec![config.decoder.vocab_size, config.decoder.dim]));
    shapes.into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape, SEED))).collect()
}

/// A folder `weights` as users have it, with `tensors` in one file, and the images.
fn prepared(tensors: &[(String, Tensor)]) -> TestDir {
    let dir = TestDir::new();
    write_weights(&dir.path().join("weights"), &[]);
    Tensor::write_safetensors(tensors, dir.path().join("weights").join(SAFETENSORS)).expect("it can be written");
    for name in expected()["f16"].as_object().expect("scores by image").keys() {
        dir.write(&format!("images/{name}"), std::fs::read(reference("images").join(name)).expect("an image"));
    }
    dir
}

fn score(dir: &TestDir, more: &[&str]) -> Ran {
    let args = ["score", "--method", "qalign", "--weights", "weights", "--images", "images", "--store", "store"];
    let rest = ["--device", "cpu"];
    dir.agiqa(&args.into_iter().chain(rest).chain(more.iter().copied()).collect::<Vec<_>>())
}

fn sets(dir: &TestDir) -> Vec<(ScoreSet, Store)> {
    let open = || dir.store();
    let sets = ScoreSet::list(&open()).expect("sets can be listed");
    sets.into_iter().map(|set| (set, open())).collect()
}

/// Compares the scores of the sole set with `expected`, which are of images by name.
#[track_caller]
fn compare(dir: &TestDir, expected: &Value, is_unit: bool) {
    let sets = sets(dir);
    let [(set, store)] = sets.as_slice() else { panic!("one set, found {}", sets.len()) };
    let found = set.read(store).expect("scores");
    for (name, score) in expected.as_object().expect("scores by image") {
        let id = ImageId::of_bytes(&std::fs::read(reference("images").join(name)).expect("an image"));
        let score = score.as_f64().expect("a number");
        let score = if is_unit { (score - 1.0) / 4.0 } else { score };
        assert!((found[&id] - score).abs() < 1e-5, "{name}: found {}, expected {score}", found[&id]);
    }
}

fn half(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.to_kind(Kind::Half))).collect()
}

#[test]
fn every_prompt_and_scale_gives_the_reference_s_scores() {
    let dir = prepared(&weights());
    for (variant, scores) in expected()["scores"].as_object().expect("scores by prompt") {
        // The scale is the same for all prompts.
        let scales = [(variant.clone(), false), (format!("{variant}-0-1"), true)];
        for (variant, is_unit) in scales.into_iter().take(if variant == "quality" { 2 } else { 1 }) {
            let _ = score(&dir, &["--variant", &variant]).exits(0).says("4 of 4 images have scores");
            compare(&dir, scores, is_unit);
            std::fs::remove_dir_all(dir.path().join("store")).expect("it can be removed");
        }
    }
}

#[test]
fn a_score_has_the_same_bits_in_every_batch() {
    let dir = prepared(&weights());
    let mut found: Vec<Vec<u64>> = Vec::new();
    for batch_size in ["1", "2", "3", "8"] {
        let _ = score(&dir, &["--batch-size", batch_size]).exits(0);
        let sets = sets(&dir);
        let scores = sets[0].0.read(&sets[0].1).expect("scores");
        let mut bits: Vec<u64> = scores.values().map(|score| score.to_bits()).collect();
        bits.sort_unstable();
        found.push(bits);
        std::fs::remove_dir_all(dir.path().join("store")).expect("it can be removed");
    }
    assert!(found.iter().all(|bits| *bits == found[0]));
}

/// Writes `tensors` in two shards with an index, as `format` names them. Removes the single file.
fn write_shards(dir: &Path, tensors: &[(String, Tensor)], format: &str) {
    std::fs::remove_file(dir.join(SAFETENSORS)).expect("it was written");
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut weight_map = serde_json::Map::new();
    for (i, shard) in [first, second].into_iter().enumerate() {
        let name = format!("model-0000{}-of-00002.{format}", i + 1);
        Tensor::write_safetensors(shard, dir.join(&name)).expect("it can be written");
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map }).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).expect("it can be written");
}

#[test]
fn shards_of_halves_with_buffers_are_read() {
    let mut tensors = half(&weights());
    // Buffers that published files may have.
    let layer = "model.visual_abstractor.encoder.layers.0.crossattention.attention";
    tensors.push((format!("{layer}.q_pos_embed"), Tensor::zeros([5, 20], (Kind::Half, tch::Device::Cpu))));
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), Tensor::from_slice(&[1.0_f32; 4])));
    let dir = prepared(&[]);
    write_shards(&dir.path().join("weights"), &tensors, "safetensors");
    let _ = score(&dir, &[]).exits(0);
    compare(&dir, &expected()["f16"], false);
}

/// Puts the adapter of the reference into the folder `weights`, tensors under the names of PEFT.
fn write_adapter(dir: &TestDir, alpha: f64) -> PathBuf {
    let (mut low_rank, d) = (Vec::new(), 24);
    for i in 0..3 {
        for layer in ["q_proj", "v_proj.multiway.1"] {
            for (matrix, shape) in [("A", [2, d]), ("B", [d, 2])] {
                let name = format!("model.layers.{i}.self_attn.{layer}.lora_{matrix}.weight");
                low_rank.push((format!("base_model.model.{name}"), fill(&name, &shape, SEED)));
            }
        }
    }
    let path = dir.path().join("weights/adapter_model.safetensors");
    Tensor::write_safetensors(&low_rank, &path).expect("it can be written");
    dir.write("weights/adapter_config.json", json!({ "peft_type": "LORA", "r": 2, "lora_alpha": alpha }).to_string());
    let end = "model.visual_abstractor.vit_eos";
    let whole = vec![(format!("base_model.model.{end}"), -fill(end, &[1, 1, d], SEED))];
    let whole_path = dir.path().join("weights/non_lora_trainables.bin");
    Tensor::write_safetensors(&whole, &whole_path).expect("it can be written");
    path
}

#[test]
fn an_adapter_is_merged_when_it_is_loaded() {
    let dir = prepared(&weights());
    let _ = score(&dir, &[]).exits(0);
    let path = write_adapter(&dir, 4.0);
    // Other files, so other scores.
    let _ = score(&dir, &[]).exits(0).says("4 of 4 images have scores");
    assert_eq!(sets(&dir).len(), 2);
    std::fs::remove_dir_all(dir.path().join("store")).expect("it can be removed");
    let _ = score(&dir, &[]).exits(0);
    compare(&dir, &expected()["lora"], false);

    let bytes = std::fs::read(&path).expect("it was written");
    std::fs::write(&path, &bytes[..bytes.len() - 8]).expect("it can be written");
    let _ = score(&dir, &[]).exits(2).says("cut short");
    let other = vec![(
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
        Tensor::zeros([2, 24], tch::kind::FLOAT_CPU),
    )];
    Tensor::write_safetensors(&other, &path).expect("it can be written");
    let _ =
        score(&dir, &[]).exits(2).says("`base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight` is for none");
    std::fs::remove_file(dir.path().join("weights/adapter_config.json")).expect("it was written");
    let _ = score(&dir, &[]).exits(2).says("adapter_config.json");
}

#[test]
fn a_folder_that_does_not_fit_is_explained() {
    let tensors = weights();
    let headless: Vec<(String, Tensor)> = tensors
        .iter()
        .filter(|(name, _)| name != "lm_head.weight")
        .map(|(name, xs)| (name.clone(), xs.shallow_clone()))
        .collect();
    let dir = prepared(&headless);
    let verify = ["weights", "verify", "qalign", "--weights", "weights"];
    let _ = dir.agiqa(&verify).exits(1).prints("damaged").says("`lm_head.weight`");
    let _ = score(&dir, &[]).exits(2).says("tensors are missing: `lm_head.weight`");
    let wrong = score(&dir, &["--variant", "beauty"]).exits(2);
    let _ = wrong.says("`qalign` has no variant `beauty`: expected quality, quality-0-1, quality-eval");
    std::fs::remove_file(dir.path().join("weights/config.json")).expect("it was written");
    let _ = score(&dir, &[]).exits(2).says("not a checkpoint of `qalign`").says("it looks like mPLUG-Owl2 or Q-Align");

    // Half of a download.
    let dir = prepared(&tensors);
    let _ = dir.agiqa(&verify).exits(0).prints("present");
    let path = dir.path().join("weights").join(SAFETENSORS);
    let bytes = std::fs::read(&path).expect("it was written");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
    let _ = score(&dir, &[]).exits(2).says("cut short");
}

#[test]
fn an_image_whose_square_is_too_large_is_a_reject() {
    let dir = prepared(&weights());
    write_png(&dir, "thin.png", 8193, 1, vec![90; 8193 * 3]);
    let _ = score(&dir, &[]).exits(1).says("4 of 5 images have scores, 1 rejected");
    let rejects = dir.agiqa(&["query", "--store", "store", "SELECT kind, message FROM rejects"]).exits(0);
    let _ = rejects.prints("too-large").prints("over the limit of 67108864");
}

#[test]
fn the_number_type_can_be_chosen() {
    let dir = prepared(&weights());
    if agiqa::features::cpu_has_bf16() {
        let _ = score(&dir, &["--set", "dtype=bf16"]).exits(0).says("4 of 4 images have scores");
        let (set, _) = sets(&dir).pop().expect("one set");
        assert_eq!(set.settings["dtype"], "bf16");
    }
    let _ = score(&dir, &["--set", "dtype=f16"]).exits(2).says("f16 is computed on CUDA devices only");
}
