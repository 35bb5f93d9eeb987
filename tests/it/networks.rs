//! Networks agree with their reference implementations. Reference numbers and the Python that made them are in
//! `tests/reference`.

use std::collections::{BTreeMap, HashMap};

use agiqa_nets::dinov2;
use agiqa_nets::layers::{Activation, NamedTensors, NetworkError};
use agiqa_nets::maniqa::ManiqaConfig;
use agiqa_nets::pixels::{IMAGENET_MEAN, IMAGENET_STD};
use agiqa_nets::vit::{Vit, VitConfig};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::synth::{self, after_blocks, relative_error};
use crate::testdir::{reference, weights};

/// Root mean square of the difference, as a part of that of `expected`.
fn relative_rms(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((found - &expected).square().sum(Kind::Double) / expected.square().sum(Kind::Double)).sqrt().double_value(&[])
}

fn tiny() -> (VitConfig, NamedTensors, HashMap<String, Tensor>) {
    let config = VitConfig {
        patch_px: 2,
        dim: 8,
        n_blocks: 3,
        final_norm: true,
        n_heads: 2,
        mlp_dim: 12,
        layer_norm_eps: 1e-6,
        layer_scale: true,
        patch_bias: true,
        pre_norm: false,
        activation: Activation::Gelu,
        position_grid: 5,
    };
    let tensors = Tensor::read_safetensors(reference("vit_tiny.safetensors")).expect("part of the project");
    let (weights, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| name.starts_with("weights."));
    let weights = weights.into_iter().map(|(name, tensor)| (name["weights.".len()..].to_owned(), tensor)).collect();
    (config, weights, others.into_iter().collect())
}

#[test]
fn a_tiny_vit_agrees_with_pytorch_with_and_without_layer_scale() {
    let (config, weights, reference) = tiny();
    for (name, layer_scale) in [("scaled", true), ("plain", false)] {
        let config = VitConfig { layer_scale, ..config.clone() };
        let vit = Vit::new(&config, &weights, Device::Cpu, Kind::Float).expect("it fits");
        let outputs = after_blocks(&vit, &reference["pixels"], &[0, 1, 2]);
        for (i, xs) in outputs.iter().enumerate() {
            let error = relative_error(xs, &reference[&format!("{name}.block.{i}")]);
            assert!(error < 1e-5, "{name}, block {i}: {error:e}");
        }
    }
}

#[test]
fn bf16_products_stay_within_a_percent_or_two_of_f32() {
    let (config, weights, reference) = tiny();
    let vit = Vit::new(&config, &weights, Device::Cpu, Kind::BFloat16).expect("it fits");
    let outputs = after_blocks(&vit, &reference["pixels"], &[2]);
    assert_eq!(outputs[0].kind(), Kind::Float, "taps are f32 whatever the products are");
    let error = relative_rms(&outputs[0], &reference["scaled.block.2"]);
    assert!(error < 0.02, "{error:e}");
}

#[test]
fn taps_do_not_depend_on_each_other_nor_an_image_on_its_batch() {
    let (config, weights, reference) = tiny();
    let pixels = &reference["pixels"];
    for kind in [Kind::Float, Kind::BFloat16] {
        let vit = Vit::new(&config, &weights, Device::Cpu, kind).expect("it fits");
        let all = after_blocks(&vit, pixels, &[0, 1, 2]);
        let one = after_blocks(&vit, pixels, &[1]);
        assert_eq!(all[1], one[0], "{kind:?}");
        assert_eq!(after_blocks(&vit.share(), pixels, &[0, 2])[0], all[0], "{kind:?}: a later block changed a tap");
        for i in 0..2 {
            let alone = after_blocks(&vit, &pixels.narrow(0, i, 1), &[2]);
            // Libraries may choose another order of additions for another number of rows.
            let error = relative_error(&alone[0], &all[2].narrow(0, i, 1));
            assert!(error < if kind == Kind::Float { 1e-6 } else { 2e-2 }, "{kind:?}, image {i}: {error:e}");
        }
        assert!(after_blocks(&vit, pixels, &[]).is_empty());
    }
}

#[test]
fn a_checkpoint_of_another_geometry_is_an_error_that_names_the_tensor_and_both_shapes() {
    let (config, mut weights, _) = tiny();
    let error = |config: &VitConfig, weights: &NamedTensors| {
        Vit::new(config, weights, Device::Cpu, Kind::Float).expect_err("refused").to_string()
    };
    let wide = VitConfig { mlp_dim: 16, ..config.clone() };
    assert_eq!(
        error(&wide, &weights),
        "tensor `blocks.0.mlp.fc1.weight`: expected shape [16, 8], found [12, 8]; this is a checkpoint of another geometry"
    );
    assert!(matches!(
        Vit::new(&VitConfig { n_heads: 3, ..config.clone() }, &weights, Device::Cpu, Kind::Float),
        Err(NetworkError::Heads { dim: 8, n_heads: 3 })
    ));
    weights.remove("blocks.2.norm1.weight");
    let message = error(&config, &weights);
    assert!(message.starts_with("the checkpoint has no tensor `blocks.2.norm1.weight`; the nearest is `"), "{message}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    side_px: i64,
    output: String,
    n_tokens: i64,
    rms: f64,
    max: f64,
    tokens: Vec<i64>,
    channels: Vec<i64>,
    values: Vec<Vec<f64>>,
}

/// The image that `dinov2_s14.py` calls `pixels`, normalised.
fn pixels(side_px: i64) -> Tensor {
    let mut values = Vec::new();
    for c in 0..3_i64 {
        let (mean, std) = (IMAGENET_MEAN[c as usize], IMAGENET_STD[c as usize]);
        for y in 0..side_px {
            for x in 0..side_px {
                let value = (x * 3 + y * 5 + c * 40 + (x / 24) * (y / 40) * 17) % 256;
                values.push((value as f32 / 255.0 - mean) / std);
            }
        }
    }
    Tensor::from_slice(&values).view([1, 3, side_px, side_px])
}

#[test]
fn dinov2_s14_agrees_with_onnx_runtime() {
    let Some(onnx) = weights("dinov2-s14/vit_s_focus.onnx") else { return };
    // The reference computes in f32, too, and in another order.
    for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 3e-2)] {
        let tensors = dinov2::tensors_of(&onnx).expect("the weights can be read");
        let vit = Vit::for_features(&dinov2::vit_s14(), tensors, Device::Cpu, kind).expect("the weights fit");
        compare_points(&vit, "dinov2_s14.json", &format!("{kind:?}"), tolerance);
    }
}

/// As large as the published one, and of weights that follow from their names.
#[test]
fn a_network_of_dinov2_s14s_size_agrees_with_pytorch() {
    let config = dinov2::vit_s14();
    let maniqa = ManiqaConfig::dinov2_s14(392);
    let mut shapes: BTreeMap<String, Vec<i64>> = maniqa
        .parameters()
        .into_iter()
        .filter_map(|(name, shape)| Some((name.strip_prefix("vit.")?.to_owned(), shape)))
        .collect();
    // MANIQA taps no block after the tenth.
    for i in maniqa.vit_config().n_blocks..config.n_blocks {
        let of_block = |name: &str| name.strip_prefix("blocks.0.").map(|rest| format!("blocks.{i}.{rest}"));
        let more: Vec<_> = shapes.iter().filter_map(|(name, shape)| Some((of_block(name)?, shape.clone()))).collect();
        shapes.extend(more);
    }
    let tensors = synth::tensors(&shapes, 33, &BTreeMap::new());
    // The reference computes in f64; float32 itself is off by 7e-7.
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 3e-2)] {
        let vit = Vit::new(&config, &tensors, Device::Cpu, kind).expect("it fits");
        compare_points(&vit, "vit_s14.json", &format!("{kind:?}"), tolerance);
    }
}

/// Compares outputs of `vit` with those in the file `expected`, at the points that are in it.
fn compare_points(vit: &Vit, expected: &str, what: &str, tolerance: f64) {
    let text = std::fs::read_to_string(reference(expected)).expect("part of the project");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("written by the script of that name");
    assert_eq!(cases.len(), 6);
    let mut outputs: HashMap<i64, Vec<Tensor>> = HashMap::new();
    for case in &cases {
        let side_px = case.side_px;
        let blocks = outputs.entry(side_px).or_insert_with(|| after_blocks(vit, &pixels(side_px), &[0, 5, 11]));
        let names = ["block.0", "block.5", "block.11"];
        let i = names.iter().position(|name| *name == case.output).expect("an output that is tapped");
        let xs = &blocks[i];
        assert_eq!(xs.size(), [1, case.n_tokens, 384]);
        let rms = xs.square().mean(Kind::Double).sqrt().double_value(&[]);
        let at = format!("{what}, {} px, {}", case.side_px, case.output);
        assert!((rms / case.rms - 1.0).abs() < tolerance, "{at}: rms {rms}, expected {}", case.rms);
        for (&token, values) in case.tokens.iter().zip(&case.values) {
            for (&channel, &expected) in case.channels.iter().zip(values) {
                let found = xs.double_value(&[0, token, channel]);
                let error = (found - expected).abs() / case.max;
                assert!(error < tolerance, "{at}, token {token}, channel {channel}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn another_onnx_file_than_dinov2_is_an_error_that_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("net.onnx");
    // A model with an empty graph: field 7, length 0.
    std::fs::write(&path, [0x3a, 0x00]).expect("a file can be written");
    let error = dinov2::tensors_of(&path).expect_err("refused").to_string();
    assert!(error.contains("no initializer `backbone.embeddings.cls_token` among its 0"), "{error}");
    std::fs::write(&path, [0x3a, 0x7f]).expect("a file can be written");
    let error = dinov2::tensors_of(&path).expect_err("refused").to_string();
    assert!(error.contains("is not an ONNX file, or is cut short"), "{error}");
}
