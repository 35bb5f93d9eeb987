//! MANIQA and MA-AGIQA agree with the authors' code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agiqa::train::{Adam, Gradient, Optimiser, Rule};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::fusion::Gate;
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::ma_agiqa::{MaAgiqa, MaAgiqaConfig};
use agiqa_nets::maniqa::{Maniqa, ManiqaConfig, ManiqaTap, Mode, weights};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::synth::{self, after_blocks, relative_error};
use crate::testdir::{TestDir, reference, shared};

/// What the fixtures say of a network besides its sizes.
#[derive(Deserialize)]
struct Fixture {
    #[serde(flatten)]
    maniqa: ManiqaConfig,
    semantic_dim: i64,
    fusion_dim: i64,
    seed: u64,
    overrides: BTreeMap<String, synth::Override>,
    parameter_shapes: BTreeMap<String, Vec<i64>>,
    #[serde(default)]
    stages: BTreeMap<String, StageSummary>,
}

/// Of a stage of the full network, per image.
#[derive(Deserialize)]
struct StageSummary {
    shape: Vec<i64>,
    mean_std: Vec<[f64; 2]>,
    first8: Vec<Vec<f64>>,
    abs_max: f64,
}

pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is of this form")
}

pub fn read_tensors(path: &Path) -> NamedTensors {
    Tensor::read_safetensors(path).expect("a safetensors file").into_iter().collect()
}

/// A small network, its inputs and what it makes of them.
pub struct Small {
    fixture: Fixture,
    pub tensors: NamedTensors,
    pub expected: NamedTensors,
    train: Option<TrainFixture>,
}

impl Small {
    /// One of ours: its weights follow from their names, and `tests/reference/maniqa.py` computed what is expected.
    pub fn ours(name: &str) -> Self {
        let folder = reference(name);
        let fixture: Fixture = read_json(&folder.join("config.json"));
        let steps = folder.join("train.safetensors");
        Self {
            tensors: fixture.tensors(),
            expected: read_tensors(&folder.join("expected.safetensors")),
            train: steps.exists().then(|| TrainFixture::of_tensors(&fixture, &read_tensors(&steps))),
            fixture,
        }
    }

    /// Of the authors' code, where the reference material is.
    #[track_caller]
    pub fn authors() -> Option<Self> {
        let folder = shared("parity/maniqa/tiny")?;
        Some(Self {
            fixture: read_json(&folder.join("config.json")),
            tensors: read_tensors(&folder.join("model.safetensors")),
            expected: read_tensors(&folder.join("expected.safetensors")),
            train: Some(read_json(&folder.join("train.json"))),
        })
    }

    /// The sizes with this gate.
    pub fn config(&self, gate: Gate) -> MaAgiqaConfig {
        self.fixture.config(gate)
    }

    /// The seed of the weights.
    pub fn seed(&self) -> u64 {
        self.fixture.seed
    }
}

/// Our two networks: as the paper has it, and on DINOv2.
pub const OURS: [&str; 2] = ["maniqa", "maniqa_dinov2"];

/// Writes one of our networks, as its users have it, into the folder of its name in `dir`; returns the folder.
pub fn write_weights(dir: &TestDir, name: &str) -> PathBuf {
    let config = std::fs::read(reference(name).join("config.json")).expect("part of the project");
    dir.write(&format!("{name}/config.json"), config);
    let folder = dir.path().join(name);
    let tensors: Vec<(String, Tensor)> = Small::ours(name).tensors.into_iter().collect();
    Tensor::write_safetensors(&tensors, folder.join("model.safetensors")).expect("it can be written");
    folder
}

impl Fixture {
    fn config(&self, gate: Gate) -> MaAgiqaConfig {
        let Self { maniqa, semantic_dim, fusion_dim, .. } = self;
        MaAgiqaConfig::new(maniqa.clone(), *semantic_dim, *semantic_dim, *fusion_dim, gate)
    }

    /// The tensors by the fixtures' rule.
    fn tensors(&self) -> NamedTensors {
        synth::tensors(&self.parameter_shapes, self.seed, &self.overrides)
    }
}

/// The fixtures' name of the tokens before the first block, which the network does not show.
const BEFORE_BLOCKS: &str = "vit.embed";

/// Name that the fixtures give a stage, where they keep it.
fn name_of(stage: ManiqaTap) -> Option<String> {
    Some(match stage {
        ManiqaTap::Taps => "concat".to_owned(),
        ManiqaTap::Channels { stage: 1, block: 0 } => "tab1_0".to_owned(),
        ManiqaTap::Channels { stage, block: 1 } => format!("tab{stage}"),
        ManiqaTap::Reduced { stage } => format!("conv{stage}"),
        ManiqaTap::SwinBlock { stage: 1, layer: 0, block } => format!("swin1.layer0.block{block}"),
        ManiqaTap::SwinLayer { stage: 1, layer: 0 } => "swin1.layer0".to_owned(),
        ManiqaTap::Swin { stage } => format!("swin{stage}"),
        ManiqaTap::Channels { .. } | ManiqaTap::SwinBlock { .. } | ManiqaTap::SwinLayer { .. } => return None,
    })
}

/// Every stage of the network under the name that the fixtures give it; for scores and gates of the fusion too.
fn stages(
    fixture: &Fixture,
    tensors: &NamedTensors,
    expected: &NamedTensors,
    pixels: &Tensor,
) -> BTreeMap<String, Tensor> {
    let _no_grad = tch::no_grad_guard();
    let mut found = BTreeMap::new();
    let grid = fixture.maniqa.grid();
    for (gate, prefix) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let network = MaAgiqa::new(&fixture.config(gate), tensors, Device::Cpu, Kind::Float).expect("the tensors fit");
        let maniqa = network.maniqa().forward_observed(pixels, Mode::Evaluate, |stage, xs| {
            let Some(name) = name_of(stage) else { return };
            let xs = match stage {
                ManiqaTap::Swin { .. } => {
                    let (b, _, c) = xs.size3().expect("tokens");
                    xs.transpose(1, 2).reshape([b, c, grid, grid])
                }
                _ => xs.shallow_clone(),
            };
            found.insert(name, xs);
        });
        let name = |block: &usize| format!("vit.block{block}");
        let is_kept = |block: &usize| expected.contains_key(&name(block)) || fixture.stages.contains_key(&name(block));
        let blocks: Vec<usize> = (0..fixture.maniqa.vit.depth).filter(is_kept).collect();
        let tokens = after_blocks(network.maniqa().vit(), pixels, &blocks);
        found.extend(blocks.iter().map(name).zip(tokens));
        found.insert("rating".to_owned(), maniqa.rating());
        for (name, xs) in [("S", maniqa.scores), ("W", maniqa.weights), ("f1", maniqa.f_1)] {
            found.insert(name.to_owned(), xs);
        }
        let whole = network.forward(pixels, &expected["input.semantic"], &expected["input.coherence"], Mode::Evaluate);
        let fusion = whole.fusion;
        for (name, xs) in
            [("g_semantic", fusion.semantic), ("g_coherence", fusion.coherence), ("g_maniqa", fusion.quality)]
        {
            found.insert(name.to_owned(), xs);
        }
        for (name, xs) in [("alpha", fusion.alpha), ("fused", fusion.fused), ("score", fusion.score)] {
            found.insert(format!("{prefix}.{name}"), xs);
        }
    }
    found
}

#[test]
fn names_and_shapes_of_parameters_are_those_of_the_published_checkpoints() {
    for fixture in ["parity/maniqa/tiny/config.json", "parity/maniqa/full/expected.json"] {
        let Some(path) = shared(fixture) else { return };
        has_the_parameters_of(&read_json(&path));
    }
}

#[test]
fn names_and_shapes_of_parameters_are_those_of_the_reference() {
    for name in OURS {
        has_the_parameters_of(&Small::ours(name).fixture);
    }
}

fn has_the_parameters_of(fixture: &Fixture) {
    fixture.maniqa.check().expect("sizes fit together");
    assert_eq!(fixture.config(Gate::Linear).parameters(), fixture.parameter_shapes);
}

/// Compares every stage that `small` has; returns how many that are.
///
/// Float32 itself is off by 1e-6 of a stage's maximum. Where a norm of the transformer has an epsilon of 1e-5 instead of
/// 1e-6, or its GELU the tanh, the taps are off by 1e-4 and more.
fn compare_stages(small: &Small) -> usize {
    let found = stages(&small.fixture, &small.tensors, &small.expected, &small.expected["input.pixels"]);
    let mut n_compared = 0;
    for (name, expected) in &small.expected {
        // A head without a gate has other parameters: `fusion` has it.
        let is_other = name.starts_with("input.") || name.starts_with("concat.") || name.contains(".grad.");
        if is_other || name == BEFORE_BLOCKS {
            continue;
        }
        let error = relative_error(&found[name], expected);
        assert!(error < 2e-5, "{name}: {error:e}");
        n_compared += 1;
    }
    n_compared
}

#[test]
fn every_stage_of_small_networks_agrees_with_pytorch() {
    assert_eq!(OURS.map(|name| compare_stages(&Small::ours(name))), [27, 27]);
}

#[test]
fn every_stage_of_a_tiny_network_agrees_with_the_authors_code() {
    let Some(small) = Small::authors() else { return };
    assert_eq!(compare_stages(&small), 27);
}

/// As published: a state dict under a prefix, with tensors that no forward pass reads.
#[test]
fn a_checkpoint_of_the_whole_gives_the_scores_of_the_reference_and_lists_what_is_not_read() {
    let small = Small::ours("maniqa");
    let (dir, expected) = (TestDir::new(), &small.expected);
    let prefixed = |(name, tensor): (&String, &Tensor)| (format!("module.{name}"), tensor.shallow_clone());
    let mut tensors: Vec<(String, Tensor)> = small.tensors.iter().map(prefixed).collect();
    tensors.push(("module.fc784_784_a1.weight".to_owned(), Tensor::from_slice(&[1_f32])));
    let path = dir.path().join("ma_agiqa.safetensors");
    Tensor::write_safetensors(&tensors, &path).expect("it can be written");
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    for (gate, name) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let config = small.config(gate);
        let tensors = weights::read(&checkpoint, &config.parameters()).expect("all of them are there");
        let network = MaAgiqa::new(&config, &tensors, Device::Cpu, Kind::Float).expect("the tensors fit");
        let (pixels, f_a, f_b) = (&expected["input.pixels"], &expected["input.semantic"], &expected["input.coherence"]);
        let _no_grad = tch::no_grad_guard();
        let score = network.forward(pixels, f_a, f_b, Mode::Evaluate).fusion.score;
        let error = relative_error(&score, &expected[&format!("{name}.score")]);
        assert!(error < 2e-5, "{name}: {error:e}");
    }
    assert!(checkpoint.unused().contains(&"module.fc784_784_a1.weight"), "{:?}", checkpoint.unused());
}

/// Dropout and stochastic depth are drawn in training only, anew for each image, and by the generator's seed.
#[test]
fn training_drops_what_the_seed_says_and_evaluation_nothing() {
    let Small { fixture, tensors, expected, .. } = Small::ours("maniqa");
    let network = Maniqa::new(&fixture.maniqa, &tensors, Device::Cpu, Kind::Float).expect("the tensors fit");
    let _no_grad = tch::no_grad_guard();
    let one = expected["input.pixels"].narrow(0, 0, 1);
    let twice = Tensor::cat(&[&one, &one], 0);
    let weights = |mode: Mode, seed: i64| {
        tch::manual_seed(seed);
        network.forward(&twice, mode).weights
    };
    let still = weights(Mode::Evaluate, 1);
    assert_eq!(still, weights(Mode::Evaluate, 2));
    let dropped = weights(Mode::Train, 1);
    assert_eq!(dropped, weights(Mode::Train, 1));
    for other in [&weights(Mode::Train, 2), &still] {
        assert!(relative_error(&dropped, other) > 1e-3);
    }
    assert!(relative_error(&dropped.get(0), &dropped.get(1)) > 1e-3, "both images drop the same");
}

#[test]
fn every_stage_of_a_full_size_network_agrees_with_the_authors_code() {
    let Some(folder) = shared("parity/maniqa/full") else { return };
    let fixture: Fixture = read_json(&folder.join("expected.json"));
    let expected = read_tensors(&folder.join("expected.safetensors"));
    let pixels = (expected["input.u8"].to_kind(Kind::Float) / 255.0 - 0.5) / 0.5;
    let pixels = pixels.permute([0, 3, 1, 2]).contiguous();
    let found = stages(&fixture, &fixture.tensors(), &expected, &pixels);
    for (name, found) in &found {
        if let Some(expected) = expected.get(name) {
            let error = relative_error(found, expected);
            assert!(error < 1e-4, "{name}: {error:e}");
        }
    }
    assert!(!fixture.stages.is_empty());
    let stages = fixture.stages.iter().filter(|(name, _)| *name != BEFORE_BLOCKS);
    for (name, StageSummary { shape, mean_std, first8, abs_max }) in stages {
        let found = &found[name];
        assert_eq!(found.size(), *shape, "{name}");
        for (i, ([mean, std], first8)) in mean_std.iter().zip(first8).enumerate() {
            let image = found.get(i as i64).to_kind(Kind::Double).flatten(0, -1);
            let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-4 * abs_max;
            let (found_mean, found_std) = (image.mean(Kind::Double), image.std(false));
            assert!(close(found_mean.double_value(&[]), *mean), "{name}, image {i}: mean {found_mean:?}");
            assert!(close(found_std.double_value(&[]), *std), "{name}, image {i}: deviation {found_std:?}");
            for (j, expected) in first8.iter().enumerate() {
                let found = image.double_value(&[j as i64]);
                assert!(close(found, *expected), "{name}, image {i}, value {j}: {found}, expected {expected}");
            }
        }
    }
}

/// ViT-S/14 at 392 px has the paper's 28 × 28 tokens, and a table of positions for 37 × 37. What is fastest in evaluation
/// (folded layer scales, merged weights, other layouts) gives what the plain formulas of a training give, and each image's
/// numbers are its own.
#[test]
fn maniqa_on_dinov2_s14_has_the_paper_s_tokens_and_computes_the_same_trained_and_frozen() {
    let config = ManiqaConfig::dinov2_s14(392);
    config.check().expect("sizes fit together");
    assert_eq!((config.grid(), config.n_tokens()), (28, 784));
    // As the fixtures' full-size network: else attention saturates, and scores are cut off at 0.
    let fill = |name: &str, shape: &[i64]| {
        let factor = match name {
            _ if name.ends_with("c_q.weight") || name.ends_with("c_k.weight") => 0.5,
            "conv1.weight" | "fc_weight.3.weight" => 0.25,
            _ => 1.0,
        };
        let offset = if name == "fc_score.3.bias" { 3.0 } else { 0.0 };
        synth::fill(name, shape, 5) * factor + offset
    };
    let tensors: NamedTensors =
        config.parameters().iter().map(|(name, shape)| (name.clone(), fill(name, shape))).collect();
    assert_eq!(tensors["vit.pos_embed"].size(), [1, 1 + 37 * 37, 384]);
    let trained: NamedTensors =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy().set_requires_grad(true))).collect();
    let _no_grad = tch::no_grad_guard();
    let build = |tensors| Maniqa::new(&config, tensors, Device::Cpu, Kind::Float).expect("the tensors fit");
    let (frozen, trained) = (build(&tensors), build(&trained));
    let pixels = synth::fill("pixels", &[2, 3, 392, 392], 5) * 10.0;
    let mut tapped = None;
    let found = frozen.forward_observed(&pixels, Mode::Evaluate, |stage, xs| {
        if stage == ManiqaTap::Taps {
            tapped = Some(xs.size());
        }
    });
    assert_eq!(tapped.expect("it passes there"), [2, 4 * 384, 784]);
    let plain = trained.forward(&pixels, Mode::Evaluate);
    let alone = frozen.forward(&pixels.narrow(0, 1, 1), Mode::Evaluate);
    for (what, found, expected) in [
        ("scores", &found.scores, &plain.scores),
        ("weights", &found.weights, &plain.weights),
        ("f_1", &found.f_1, &plain.f_1),
        ("rating", &found.rating(), &plain.rating()),
        ("f_1 of an image alone", &alone.f_1, &found.f_1.narrow(0, 1, 1)),
    ] {
        assert_eq!(found.size(), expected.size(), "{what}");
        let error = relative_error(found, expected);
        assert!(error < 2e-5, "{what}: {error:e}");
    }
    assert_eq!(found.f_1.size(), [2, 784]);
    assert!(found.f_1.std(false).double_value(&[]) > 0.0, "all tokens say the same");
}

/// One variant of `train.json`.
#[derive(Deserialize)]
struct TrainVariant {
    grad_l2: BTreeMap<String, f64>,
    zero_in_exact_arithmetic: BTreeMap<String, serde_json::Value>,
    adam: BTreeMap<String, AdamRun>,
}

#[derive(Deserialize)]
struct AdamRun {
    lr: f64,
    loss_at_each_step: Vec<f64>,
    loss_after_step_3: f64,
    param_l2_after_1: BTreeMap<String, f64>,
    change_l2_after_1: BTreeMap<String, f64>,
    param_l2_after_3: BTreeMap<String, f64>,
    change_l2_after_3: BTreeMap<String, f64>,
    loose: BTreeMap<String, BTreeMap<String, Loose>>,
}

/// What float32 itself misses of a parameter.
#[derive(Deserialize)]
struct Loose {
    param_rel: f64,
    change_rel: f64,
}

#[derive(Deserialize)]
struct TrainFixture {
    variants: BTreeMap<String, TrainVariant>,
}

impl TrainFixture {
    /// Of the tables that `maniqa.py` writes: a number per parameter, in the order of the names.
    fn of_tensors(fixture: &Fixture, tables: &NamedTensors) -> Self {
        let variant = |gate: &str| {
            let table = |what: &str| Vec::<f64>::try_from(tables[&format!("{gate}.{what}")].to_kind(Kind::Double));
            let numbers = |what: &str| table(what).expect("a list of numbers");
            let by_name = |what: &str| -> BTreeMap<String, f64> {
                let numbers = numbers(what);
                assert_eq!(numbers.len(), fixture.parameter_shapes.len());
                fixture.parameter_shapes.keys().cloned().zip(numbers).collect()
            };
            let grad_l2 = by_name("grad_l2");
            // The bias of keys moves all logits of a row alike, which a softmax does not see.
            let is_noise = |(_, norm): &(&String, &f64)| **norm < 1e-12;
            let zeros = grad_l2.iter().filter(is_noise).map(|(name, _)| (name.clone(), serde_json::Value::Null));
            let losses = numbers("losses");
            let run = AdamRun {
                lr: 1e-4,
                loss_at_each_step: losses[..3].to_vec(),
                loss_after_step_3: losses[3],
                param_l2_after_1: by_name("param_l2_after_1"),
                change_l2_after_1: by_name("change_l2_after_1"),
                param_l2_after_3: by_name("param_l2_after_3"),
                change_l2_after_3: by_name("change_l2_after_3"),
                // Of none is float32 off by more than a fifth of what is allowed.
                loose: BTreeMap::from(["after_1", "after_3"].map(|step| (step.to_owned(), BTreeMap::new()))),
            };
            TrainVariant {
                zero_in_exact_arithmetic: zeros.collect(),
                grad_l2,
                adam: BTreeMap::from([("lr_1e-4".to_owned(), run)]),
            }
        };
        Self { variants: ["linear", "sigmoid"].map(|gate| (gate.to_owned(), variant(gate))).into() }
    }
}

/// The small network ready for training: its parameters require gradients.
fn trainable(small: &Small, gate: Gate) -> (MaAgiqa, BTreeMap<String, Tensor>) {
    let config = small.config(gate);
    let names = config.parameters();
    let parameters: BTreeMap<String, Tensor> =
        names.keys().map(|name| (name.clone(), small.tensors[name].copy().set_requires_grad(true))).collect();
    let tensors: NamedTensors =
        parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    (MaAgiqa::new(&config, &tensors, Device::Cpu, Kind::Float).expect("the tensors fit"), parameters)
}

fn loss_of(network: &MaAgiqa, input: &NamedTensors) -> Tensor {
    let (f_a, f_b) = (&input["input.semantic"], &input["input.coherence"]);
    let output = network.forward(&input["input.pixels"], f_a, f_b, Mode::Evaluate);
    (output.fusion.score - &input["input.targets"]).square().mean(Kind::Float)
}

#[test]
fn gradients_agree_with_pytorch_for_every_parameter() {
    assert_eq!(compare_gradients(&Small::ours("maniqa")), 18);
}

#[test]
fn gradients_agree_with_the_authors_code_for_every_parameter() {
    let Some(small) = Small::authors() else { return };
    assert!(compare_gradients(&small) > 0);
}

/// Compares the norm of every gradient, and whole those that `small` has; returns how many that are.
///
/// Float32 itself is off by 3e-6.
fn compare_gradients(small: &Small) -> usize {
    let Small { expected, train, .. } = small;
    let train = train.as_ref().expect("this one was trained");
    let mut n_whole = 0;
    for (gate, name) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let variant = &train.variants[name];
        let (network, parameters) = trainable(small, gate);
        loss_of(&network, expected).backward();
        assert_eq!(variant.grad_l2.len(), parameters.len());
        for (parameter, tensor) in &parameters {
            let found = tensor.grad();
            let norm = found.norm().double_value(&[]);
            if variant.zero_in_exact_arithmetic.contains_key(parameter) {
                assert!(norm < 1e-5, "{name}, {parameter}: {norm:e}, expected rounding noise");
                continue;
            }
            let reference = variant.grad_l2[parameter];
            assert!((norm / reference - 1.0).abs() < 1e-4, "{name}, {parameter}: {norm}, expected {reference}");
            if let Some(whole) = expected.get(&format!("{name}.grad.{parameter}")) {
                let error = relative_error(&found, whole);
                assert!(error < 1e-4, "{name}, {parameter}: {error:e}");
                n_whole += 1;
            }
        }
    }
    n_whole
}

/// Norms of the parameters, and of what became of them since `start`, within what the fixtures allow.
fn compare_with_steps(
    at: &str,
    run: &AdamRun,
    variant: &TrainVariant,
    parameters: &BTreeMap<String, Tensor>,
    start: &BTreeMap<String, Tensor>,
    n_steps: usize,
) {
    let (norms, changes) = match n_steps {
        1 => (&run.param_l2_after_1, &run.change_l2_after_1),
        _ => (&run.param_l2_after_3, &run.change_l2_after_3),
    };
    let loose = &run.loose[&format!("after_{n_steps}")];
    for (name, parameter) in parameters {
        // Rounding noise, of which Adam makes full steps.
        if variant.zero_in_exact_arithmetic.contains_key(name) {
            continue;
        }
        let allowed = loose
            .get(name)
            .map_or((1e-5, 1e-2), |loose| ((10.0 * loose.param_rel).max(1e-5), (10.0 * loose.change_rel).max(1e-2)));
        let norm = |tensor: Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
        let (found, change) = (norm(parameter.detach()), norm(parameter.detach() - &start[name]));
        let off = |found: f64, expected: f64| (found / expected - 1.0).abs();
        assert!(off(found, norms[name]) < allowed.0, "{at}, {name}: norm {found}, expected {}", norms[name]);
        assert!(off(change, changes[name]) < allowed.1, "{at}, {name}: change {change}, expected {}", changes[name]);
    }
}

#[test]
fn steps_of_adam_over_the_whole_network_agree_with_pytorch() {
    compare_steps(&Small::ours("maniqa"));
}

#[test]
fn steps_of_adam_over_the_whole_network_agree_with_the_authors_code() {
    let Some(small) = Small::authors() else { return };
    compare_steps(&small);
}

fn compare_steps(small: &Small) {
    let Small { expected, train, .. } = small;
    let train = train.as_ref().expect("this one was trained");
    for (gate, name) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let variant = &train.variants[name];
        let run = &variant.adam["lr_1e-4"];
        let (network, parameters) = trainable(small, gate);
        let start: BTreeMap<String, Tensor> =
            parameters.iter().map(|(name, parameter)| (name.clone(), parameter.detach().copy())).collect();
        let values: Vec<Tensor> = parameters.values().map(Tensor::detach).collect();
        let rule = Rule { kind: Optimiser::Adam, weight_decay: 1e-5, average_decay: 0.0, beta_2: 0.999 };
        let mut adam = Adam::new(rule, &values.iter().collect::<Vec<_>>());
        for (step, reference) in run.loss_at_each_step.iter().chain([&run.loss_after_step_3]).enumerate() {
            let loss = loss_of(&network, expected);
            let found = loss.double_value(&[]);
            assert!((found / reference - 1.0).abs() < 1e-4, "{name}, step {step}: {found}, expected {reference}");
            if step == 1 || step == 3 {
                compare_with_steps(name, run, variant, &parameters, &start, step);
            }
            loss.backward();
            let _no_grad = tch::no_grad_guard();
            let gradients: Vec<Gradient<'_>> =
                parameters.values().map(|parameter| Gradient::Whole(parameter.grad().copy())).collect();
            adam.step(run.lr, &gradients);
            for parameter in parameters.values() {
                let _ = parameter.grad().zero_();
            }
        }
    }
}
