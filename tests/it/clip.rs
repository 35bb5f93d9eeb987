//! `clip-b16`: from image files to columns, by reference numbers of a small network and of the real one.

use std::collections::HashMap;
use std::path::Path;

use agiqa_images::{DecodeLimits, PillowFilter, decode, resize_as_pillow};
use agiqa_nets::clip::{self, ClipCheckpoint};
use agiqa_nets::onnx::OnnxFile;
use agiqa_nets::vit::Vit;
use agiqa_store::identity::ImageId;
use agiqa_store::tables::features::{FeatureSet, VectorColumn};
use agiqa_synth::{Float, Invented, picture};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::synth::{after_blocks, relative_error};
use crate::testdir::{Ran, TestDir, reference, shared, weights};

const WEIGHTS: &str = "clip-b16/clip_encoder.int8.onnx";

/// The pictures of `tests/reference/clip.py`.
const PICTURES: [&str; 2] = ["sea", "hills"];

/// The small network's `config.json`, in Hugging Face's form.
pub fn config() -> Value {
    json!({ "model_type": "clip", "vision_config": {
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 6, "num_attention_heads": 3, "image_size": 20,
        "patch_size": 4, "hidden_act": "quick_gelu"
    }})
}

/// Names and shapes of the small network.
fn shapes() -> Vec<(String, Vec<i64>)> {
    let mut shapes = vec![
        ("embeddings.class_embedding".to_owned(), vec![12]),
        ("embeddings.position_embedding.weight".to_owned(), vec![26, 12]),
        ("embeddings.patch_embedding.weight".to_owned(), vec![12, 3, 4, 4]),
    ];
    let mut layer = |name: String, shape: &[i64]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    layer("pre_layrnorm".to_owned(), &[12]);
    for i in 0..6 {
        let of_block = |name: &str| format!("encoder.layers.{i}.{name}");
        layer(of_block("layer_norm1"), &[12]);
        layer(of_block("layer_norm2"), &[12]);
        for part in ["q", "k", "v", "out"] {
            layer(of_block(&format!("self_attn.{part}_proj")), &[12, 12]);
        }
        layer(of_block("mlp.fc1"), &[20, 12]);
        layer(of_block("mlp.fc2"), &[12, 20]);
    }
    shapes.into_iter().map(|(name, shape)| (format!("vision_model.{name}"), shape)).collect()
}

/// Writes the small network into the folder `clip`.
pub fn write_network(dir: &TestDir) {
    let config = dir.write("clip/config.json", config().to_string());
    let invented = Invented { dtype: Float::F32, seed: 41, ..Invented::default() };
    let path = config.with_file_name("model.safetensors");
    invented.write_shard(&shapes(), &path).expect("a file can be written");
}

/// Writes the pictures, and returns who they are.
fn write_pictures(dir: &TestDir) -> [ImageId; 2] {
    PICTURES.map(|name| {
        let image = image::RgbImage::from_raw(45, 32, picture(name, 45, 32, 3)).expect("RGB");
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
        let bytes = bytes.into_inner();
        dir.write(&format!("images/{name}.png"), &bytes);
        ImageId::of_bytes(&bytes)
    })
}

fn features(dir: &TestDir, more: &[&str]) -> Ran {
    let base = ["features", "--extractor", "clip-b16", "--weights", "clip", "--images", "images", "--store", "store"];
    let base = base.into_iter().chain(["--device", "cpu", "--threads", "2"]);
    dir.agiqa_with(&base.chain(more.iter().copied()).collect::<Vec<_>>(), |command| {
        command.env("OMP_WAIT_POLICY", "passive");
    })
}

/// Every column of the only pair of sets in the store, for image `id`.
fn columns(dir: &TestDir, id: ImageId) -> HashMap<String, Vec<f32>> {
    let store = dir.store();
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    assert_eq!(sets.len(), 2, "one semantic and one quality set");
    let of_set = |set: &FeatureSet| {
        let found = set.read(&store, &[id]).expect("vectors can be read");
        let row = found.rows[0].expect("the image has features");
        let vector = |(column, matrix): (&VectorColumn, &Vec<f32>)| {
            (column.name.clone(), matrix[row * column.dim..][..column.dim].to_vec())
        };
        set.columns.iter().zip(&found.matrices).map(vector).collect::<Vec<_>>()
    };
    sets.iter().flat_map(of_set).collect()
}

#[test]
fn a_small_network_gives_the_columns_of_the_reference_at_two_sides_with_and_without_mirror_images() {
    let expected: HashMap<String, Tensor> =
        Tensor::read_safetensors(reference("clip.safetensors")).expect("part of the project").into_iter().collect();
    for (mode, mirror) in [("plain", "mirror=false"), ("mirror", "mirror=true")] {
        for (dtype, tolerance) in [("f32", 1e-5), ("bf16", 0.05)] {
            if dtype == "bf16" && !agiqa::features::cpu_has_bf16() {
                continue;
            }
            let dir = TestDir::new();
            write_network(&dir);
            let ids = write_pictures(&dir);
            let ran = features(&dir, &["--side", "20,28", "--set", mirror, "--dtype", dtype]);
            let ran = ran.exits(0).says("2 of 2 images have features");
            assert!(!ran.stderr.contains("default on a"), "the sides are named: {}", ran.stderr);
            for (name, id) in PICTURES.iter().zip(ids) {
                let found = columns(&dir, id);
                assert_eq!(found.len(), 6);
                for (column, values) in found {
                    let at = format!("{name}.{mode}.{column}");
                    let error = relative_error(&Tensor::from_slice(&values), &expected[&at]);
                    assert!(error < tolerance, "{at}, {dtype}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn columns_pool_the_blocks_and_statistics_that_are_set() {
    let dir = TestDir::new();
    write_network(&dir);
    let [id, _] = write_pictures(&dir);
    let set = [
        "--side",
        "20",
        "--set",
        "blocks={ f_1 = [0, 2], f_b = [5, 4, 3] }",
        "--set",
        "statistics=[\"class\", \"max\"]",
    ];
    features(&dir, &set).exits(0);
    let found = columns(&dir, id);
    let dims = ["f_a", "f_b", "f_1"].map(|column| found[column].len());
    assert_eq!(dims, [2 * 12, 3 * 2 * 12, 2 * 2 * 12]);
    let expected = Tensor::read_safetensors(reference("clip.safetensors")).expect("part of the project");
    let (_, f_b) = expected.iter().find(|(name, _)| name == "sea.plain.f_b").expect("it is there");
    let class = Tensor::from_slice(&found["f_b"][..12]);
    assert!(relative_error(&class, &f_b.narrow(0, 0, 12)) < 1e-5, "the class token of block 5 is first in both");
}

#[test]
fn settings_that_do_not_fit_the_network_are_refused_with_what_fits() {
    let dir = TestDir::new();
    write_network(&dir);
    write_pictures(&dir);
    for (set, says) in [
        ("sides=[30]", "`sides = 30`: expected multiples of 4 from 8 to 1024, such as 28"),
        ("sides=[20, 20]", "`sides = 20`: duplicate side"),
        ("sides=[]", "expected at least one side, such as 224"),
        ("blocks.f_1=[6]", "`blocks = [6]`: expected one or more blocks from 0 to 5, each once"),
        ("statistics=[\"median\"]", "unknown statistic `median`: expected class, mean, std, sample std"),
        ("side=20", "unknown key `side`"),
    ] {
        features(&dir, &["--set", set]).exits(2).says(says);
    }
    features(&dir, &["--side", "20", "--dtype", "f16"]).exits(2).says("f16 is computed on CUDA devices only");
    std::fs::remove_file(dir.path().join("clip/config.json")).expect("it was written");
    let refused =
        features(&dir, &["--side", "20"]).exits(2).says("patches of 4 px is none of the sizes that are known");
    let _ = refused.says("ViT-L/14: width 1024, 24 blocks, patches of 14 px");
}

#[test]
fn sides_that_are_not_named_are_said_with_what_the_other_device_takes() {
    let Some(_) = weights(WEIGHTS) else { return };
    let dir = TestDir::new();
    write_pictures(&dir);
    let base = ["features", "--extractor", "clip-b16", "--images", "images", "--store", "store", "--device", "cpu"];
    let ran = dir.agiqa(&base).exits(0).says("`clip-b16` takes side 224, the default on a CPU");
    ran.says("`sides = [224, 336, 512]` with `mirror = true`").says("0.876 at side 224, 0.882 at three sides");
}

/// The tensors of the small network, as OpenAI's archive names them.
fn open_ais(tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    let renamed = [
        ("vision_model.", "visual."),
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.patch_embedding", "conv1"),
        ("pre_layrnorm", "ln_pre"),
        ("encoder.layers", "transformer.resblocks"),
        ("layer_norm", "ln_"),
        ("self_attn.out_proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ];
    let mut named = Vec::new();
    for (name, tensor) in &tensors {
        let theirs = renamed.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
        if let Some((block, field)) = theirs.split_once("self_attn.q_proj.") {
            let parts = ["q", "k", "v"].map(|part| &tensors[&name.replace("q_proj", &format!("{part}_proj"))]);
            named.push((format!("{block}attn.in_proj_{field}"), Tensor::cat(&parts, 0)));
        } else if !theirs.contains("self_attn") {
            named.push((theirs, tensor.shallow_clone()));
        }
    }
    named
}

#[test]
fn both_forms_of_a_checkpoint_hold_the_same_network_and_others_are_told_apart() {
    let dir = TestDir::new();
    write_network(&dir);
    let folder = dir.path().join("clip");
    let read = Tensor::read_safetensors(folder.join("model.safetensors")).expect("it was written");
    dir.write("open/config.json", config().to_string());
    Tensor::write_safetensors(&open_ais(read), dir.path().join("open/ViT.safetensors")).expect("it can be written");
    let tensors =
        |name: &str| ClipCheckpoint::open(&dir.path().join(name)).expect("CLIP").tensors().expect("all there");
    assert!(tensors("clip") == tensors("open"));

    let error = |name: &str| ClipCheckpoint::open(&dir.path().join(name)).expect_err("refused").to_string();
    std::fs::remove_file(dir.path().join("open/config.json")).expect("it was written");
    let message = error("open");
    assert!(message.contains("width 12, 6 blocks, patches of 4 px is none of the sizes that are known"), "{message}");
    assert!(message.contains("ViT-L/14: width 1024, 24 blocks, patches of 14 px"), "{message}");

    let write = |json: &Value| drop(dir.write("clip/config.json", json.to_string()));
    let mut other = config();
    other["vision_config"]["num_hidden_layers"] = json!(7);
    write(&other);
    assert!(error("clip").contains("vision_model.encoder.layers.6.layer_norm1.weight"), "{}", error("clip"));
    other["vision_config"]["num_attention_heads"] = json!(5);
    write(&other);
    assert!(error("clip").contains("config.json: width 12 does not divide into 5 heads"), "{}", error("clip"));
    other["vision_config"]["hidden_act"] = json!("relu");
    other["vision_config"]["num_attention_heads"] = json!(3);
    write(&other);
    assert!(error("clip").contains("expected `quick_gelu` or `gelu`, found `relu`"), "{}", error("clip"));
    dir.write("clip/config.json", "[1");
    assert!(error("clip").contains("config.json: it does not describe a CLIP model"), "{}", error("clip"));

    Tensor::write_safetensors(
        &[("x", Tensor::zeros([1], (Kind::Float, Device::Cpu)))],
        dir.path().join("x.safetensors"),
    )
    .expect("it can be written");
    assert!(error("x.safetensors").contains("holds no image tower of CLIP"), "{}", error("x.safetensors"));
}

/// Compares tokens of `network` and the resized picture with the fixture of the real weights.
fn compare_with_fixture(network: &Vit, folder: &Path, image_idx: usize, side: u32, tolerance: f64) {
    let text = std::fs::read_to_string(folder.join("expected.json")).expect("part of the fixture");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let case = &cases["images"][image_idx];
    let name = case["name"].as_str().expect("a name");
    let picture = match name.strip_suffix(".png") {
        Some(_) => shared(&format!("parity/preprocess_maniqa/{name}")),
        None => shared(&format!("datasets/agiqa-3k/images/{name}")),
    };
    let Some(picture) = picture else { return };
    let bytes = std::fs::read(picture).expect("a file");
    let (_, image) = decode(&bytes, &DecodeLimits::default()).expect("a picture");
    let square = resize_as_pillow(&image, side, side, PillowFilter::Bicubic);
    let levels = Tensor::from_slice(&square.pixels).view([1, i64::from(side), i64::from(side), 3]);
    let per_channel = |values: [f32; 3]| Tensor::from_slice(&values).view([3, 1, 1]);
    let pixels = levels.permute([0, 3, 1, 2]).contiguous().to_kind(Kind::Float) / 255.0;
    let pixels = (pixels - per_channel(clip::MEAN)) / per_channel(clip::STD);
    let tensors = Tensor::read_safetensors(folder.join("expected.safetensors")).expect("part of the fixture");
    for (block, tokens) in [0, 5, 11].iter().zip(after_blocks(network, &pixels, &[0, 5, 11])) {
        let at = format!("i{image_idx}.{side}.block{block}.tokens");
        let (_, expected) = tensors.iter().find(|(name, _)| *name == at).expect("it is there");
        let found = tokens.get(0).index_select(0, &Tensor::from_slice(&[0_i64, 1, 100]));
        let max = case["sides"][side.to_string()][format!("block{block}")]["absmax"].as_f64().expect("a number");
        let error = (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[]) / max;
        assert!(error < tolerance, "{at}: {error:e}");
    }
}

#[test]
fn tokens_of_the_real_weights_agree_with_an_independent_forward_pass() {
    let (Some(onnx), Some(folder)) = (weights(WEIGHTS), shared("parity/clip_b16")) else { return };
    let (config, onnx) = (clip::vit_b16(), OnnxFile::read(&onnx).expect("an ONNX file"));
    let tensors = || clip::package_tensors(&onnx, &config).expect("CLIP");
    let network = |kind| Vit::for_features(&config, tensors(), Device::Cpu, kind).expect("the tensors fit");
    let f32 = network(Kind::Float);
    for (image_idx, side) in [(0, 224), (1, 224), (2, 224), (2, 336)] {
        compare_with_fixture(&f32, &folder, image_idx, side, 2e-5);
    }
    if agiqa::features::cpu_has_bf16() {
        compare_with_fixture(&network(Kind::BFloat16), &folder, 0, 224, 2e-2);
    }
}

#[test]
fn columns_of_the_real_weights_agree_with_an_independent_forward_pass() {
    let (Some(_), Some(folder)) = (weights(WEIGHTS), shared("parity/clip_b16")) else { return };
    let name = "AttnGAN_normal_001.jpg";
    let Some(picture) = shared(&format!("datasets/agiqa-3k/images/{name}")) else { return };
    let bytes = std::fs::read(picture).expect("a file");
    let dir = TestDir::new();
    dir.write(&format!("images/{name}"), &bytes);
    let base = ["features", "--extractor", "clip-b16", "--images", "images", "--store", "store", "--device", "cpu"];
    dir.agiqa(&base.into_iter().chain(["--side", "224,512"]).collect::<Vec<_>>()).exits(0);
    let found = columns(&dir, ImageId::of_bytes(&bytes));
    let tensors = Tensor::read_safetensors(folder.join("expected.safetensors")).expect("part of the fixture");
    for (side, suffix) in [(224, ""), (512, "_512")] {
        let joined: Vec<f32> =
            ["f_1", "f_a", "f_b"].iter().flat_map(|name| found[&format!("{name}{suffix}")].clone()).collect();
        let (_, expected) = tensors.iter().find(|(name, _)| *name == format!("i0.{side}.stats")).expect("it is there");
        let error = relative_error(&Tensor::from_slice(&joined), expected);
        assert!(error < 5e-5, "{side} px: {error:e}");
    }
}
