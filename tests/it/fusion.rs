//! The fusion module's mathematics, and its optimiser's, against the published code and PyTorch.

use agiqa::train::{Adam, Gradient, Optimiser, Rule};
use agiqa_nets::fusion::{FusionConfig, FusionHead, FusionOutput, Gate, PARAMETER_NAMES, ProjectionMasks};
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::trained_head::{LabelScale, SCORE_BATCH, Standardisation, TrainedHead};
use tch::{Device, Kind, Tensor};

use crate::maniqa::{OURS, Small};
use crate::synth;
use crate::train::Random;

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, relative: f64) {
    assert_eq!(found.size(), expected.size(), "shape of {what}");
    let largest = expected.abs().max().double_value(&[]);
    let error = (found - expected).abs().max().double_value(&[]);
    assert!(error <= relative * largest, "{what}: off by {error:e}, largest value {largest:e}");
}

struct Reference {
    head: FusionHead,
    expected: NamedTensors,
    output: FusionOutput,
}

/// The head of `small` with this gate. Without a gate the last layer is wider, and follows from its name anew.
fn reference(small: &Small, gate: Gate) -> Reference {
    let config = small.config(gate).fusion;
    let parameter = |(name, shape): (&str, Vec<i64>)| match &small.tensors[name] {
        tensor if tensor.size() == shape => tensor.shallow_clone(),
        _ => synth::fill(name, &shape, small.seed()),
    };
    let parameters = PARAMETER_NAMES.into_iter().zip(config.shapes()).map(parameter).collect::<Vec<_>>();
    let head = FusionHead::new(config, parameters.try_into().expect("ten names"));
    let expected: NamedTensors =
        small.expected.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let inputs = [&expected["input.semantic"], &expected["input.coherence"], &expected["f1"]];
    let output = head.forward(inputs[0], inputs[1], inputs[2], None);
    Reference { head, expected, output }
}

/// Compares every stage. Float32 itself is off by 3e-6 of a stage's maximum.
fn compare_stages(small: &Small, gate: Gate) {
    let Reference { expected, output, .. } = reference(small, gate);
    let of = |name: &str| &expected[&format!("{}.{name}", gate.as_str())];
    assert_close("g_semantic", &output.semantic, &expected["g_semantic"], 2e-5);
    assert_close("g_coherence", &output.coherence, &expected["g_coherence"], 2e-5);
    assert_close("g_quality", &output.quality, &expected["g_maniqa"], 2e-5);
    assert_close("alpha", &output.alpha, of("alpha"), 2e-5);
    assert_close("fused", &output.fused, of("fused"), 2e-5);
    assert_close("score", &output.score, of("score"), 2e-5);
}

#[test]
fn fusion_agrees_with_pytorch_for_every_gate() {
    for small in OURS.map(Small::ours) {
        for gate in [Gate::Linear, Gate::Sigmoid, Gate::Concat] {
            compare_stages(&small, gate);
        }
    }
}

#[test]
fn fusion_agrees_with_the_published_code_for_both_gates() {
    let Some(small) = Small::authors() else { return };
    for gate in [Gate::Linear, Gate::Sigmoid] {
        compare_stages(&small, gate);
    }
}

/// Compares gradients of the mean square error. Float32 itself is off by 3e-6 of a gradient's maximum.
fn compare_gradients(small: &Small) {
    for gate in [Gate::Linear, Gate::Sigmoid] {
        let Reference { head, expected, output } = reference(small, gate);
        let error = &output.score - &expected["input.targets"];
        let n = error.numel() as f64;
        let gradients = head.backward(&output, None, &(error * (2.0 / n)));
        let over_batch = |tensor: &Tensor| tensor.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
        let found = [
            ("fc4096_784_a2.0.bias", over_batch(&gradients.semantic)),
            ("fc784_784.bias", over_batch(&gradients.quality)),
            ("gating.weight", gradients.gate.tr().matmul(&output.concatenated)),
            ("gating.bias", over_batch(&gradients.gate)),
            ("output_fc.weight", gradients.output.tr().matmul(&output.fused)),
        ];
        for (name, gradient) in found {
            assert_close(name, &gradient, &expected[&format!("{}.grad.{name}", gate.as_str())], 1e-4);
        }
    }
}

#[test]
fn gradients_agree_with_pytorch_for_both_gates() {
    compare_gradients(&Small::ours("maniqa"));
}

#[test]
fn gradients_agree_with_the_published_code_for_both_gates() {
    let Some(small) = Small::authors() else { return };
    compare_gradients(&small);
}

#[test]
fn gradients_under_dropout_are_those_of_autograd() {
    // What a head does not read has width 0.
    let subsets = [[5, 4, 3], [0, 0, 3], [5, 0, 0], [0, 4, 0], [5, 0, 3], [0, 4, 3], [5, 4, 0]];
    let gates = [Gate::Linear, Gate::Sigmoid, Gate::Concat];
    for (gate, dims) in gates.into_iter().flat_map(|gate| subsets.map(|dims| (gate, dims))) {
        let [semantic_dim, coherence_dim, quality_dim] = dims;
        let config = FusionConfig { semantic_dim, coherence_dim, quality_dim, width: 6, gate };
        let mut random = Random(9);
        let mut tensor = |shape: &[i64]| {
            let n: i64 = shape.iter().product();
            Tensor::from_slice(&(0..n).map(|_| random.next() as f32).collect::<Vec<f32>>()).view(shape)
        };
        let inputs = dims.map(|dim| tensor(&[7, dim]));
        let [semantic, coherence, _] = config.projected();
        let masks = ProjectionMasks {
            semantic: tensor(&[7, semantic]).gt(0.0).to_kind(Kind::Float) * 2.0,
            coherence: tensor(&[7, coherence]).gt(0.0).to_kind(Kind::Float) * 2.0,
        };
        let parameters = config.shapes().map(|shape| tensor(&shape).set_requires_grad(true));
        let head = FusionHead::new(config, parameters);
        let output = head.forward(&inputs[0], &inputs[1], &inputs[2], Some(&masks));
        assert_eq!(output.alpha.size(), [7, 3]);
        for (i, dim) in dims.into_iter().enumerate() {
            let alpha = output.alpha.select(1, i as i64);
            assert!(
                dim > 0 || alpha.abs().max().double_value(&[]) == 0.0,
                "{gate:?} {dims:?}: a gate of what is not read"
            );
        }
        let loss = output.score.square().mean(Kind::Float);
        let there: Vec<&Tensor> = head.parameters().into_iter().filter(|parameter| parameter.numel() > 0).collect();
        let mut expected = Tensor::run_backward(&[loss], &there, false, false).into_iter();
        let gradients = head.backward(&output, Some(&masks), &(&output.score * (2.0 / 7.0)));
        let weight = |d_output: &Tensor, inputs: &Tensor| d_output.tr().matmul(inputs);
        let bias = |d_output: &Tensor| d_output.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
        let found = [
            weight(&gradients.semantic, &inputs[0]),
            bias(&gradients.semantic),
            weight(&gradients.coherence, &inputs[1]),
            bias(&gradients.coherence),
            weight(&gradients.quality, &inputs[2]),
            bias(&gradients.quality),
            weight(&gradients.gate, &output.concatenated),
            bias(&gradients.gate),
            weight(&gradients.output, &output.fused),
            bias(&gradients.output),
        ];
        for ((name, found), parameter) in PARAMETER_NAMES.iter().zip(&found).zip(head.parameters()) {
            assert_eq!(found.size(), parameter.size(), "{gate:?} {dims:?} {name}");
            if parameter.numel() > 0 {
                assert_close(name, found, &expected.next().expect("one per parameter"), 1e-5);
            }
        }
    }
}

#[test]
fn three_steps_of_adam_and_adamw_are_those_of_pytorch() {
    // tests/reference/adam.py
    let cases = [(Optimiser::Adam, ADAM), (Optimiser::Adamw, ADAMW)];
    for (kind, expected) in cases {
        let weight = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.0, 0.25, -0.75]).view([2, 3]);
        let rule = Rule { kind, weight_decay: 0.1, average_decay: 0.0, beta_2: 0.999 };
        let mut adam = Adam::new(rule, &[&weight]);
        for step in 0..3 {
            let gradient = Tensor::from_slice(&[0.1_f32, -0.2, 0.3, 0.0, 1e-3, -4.0]).view([2, 3]) * (step + 1) - 0.05;
            adam.step(0.1, &[Gradient::Whole(gradient)]);
        }
        assert_close("weight", &weight.to_kind(Kind::Double), &Tensor::from_slice(&expected).view([2, 3]), 1e-6);
    }
}

const ADAM: [f64; 6] = [0.206619578, -0.702654118, 1.703773185, 0.295128687, 0.522970439, -0.457334429];
const ADAMW: [f64; 6] = [0.204374456, -0.67877378, 1.653262752, 0.297009941, 0.539367104, -0.438231094];

#[test]
fn a_score_does_not_depend_on_its_batch() {
    // Widths as real ones are: it is the kernels for large products that round by position.
    let config =
        FusionConfig { semantic_dim: 768, coherence_dim: 500, quality_dim: 301, width: 784, gate: Gate::Sigmoid };
    let mut random = Random(5);
    let mut tensor = |shape: &[i64]| {
        let n: i64 = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| random.next() as f32 * 0.2).collect();
        Tensor::from_slice(&values).view(shape)
    };
    let parameters = config.shapes().map(|shape| tensor(&shape));
    let n = 2 * SCORE_BATCH as i64 + 5;
    let features = [tensor(&[n, 768]), tensor(&[n, 500]), tensor(&[n, 301])];
    let inputs = [768, 500, 301].map(Standardisation::identity);
    let labels = LabelScale { scale: 1.0, offset: 0.0 };
    let head = TrainedHead { head: FusionHead::new(config, parameters), inputs, labels, linear: None };
    let all = head.score(&features);
    let select = |rows: &[i64]| [0, 1, 2].map(|i| features[i].index_select(0, &Tensor::from_slice(rows)));
    let reversed: Vec<i64> = (0..n).rev().collect();
    let every_third: Vec<i64> = (0..n).filter(|row| row % 3 == 1).collect();
    for rows in [reversed, every_third, vec![n - 1], (7..n).collect()] {
        let scores = head.score(&select(&rows));
        for (row, (score, alpha)) in rows.iter().zip(scores.score.iter().zip(&scores.alpha)) {
            assert_eq!(score.to_bits(), all.score[*row as usize].to_bits(), "row {row}");
            assert_eq!(alpha, &all.alpha[*row as usize], "row {row}");
        }
    }
}

#[test]
fn standardisation_ignores_constant_dimensions_and_scales_the_others() {
    let options = (Kind::Float, Device::Cpu);
    let xs = Tensor::from_slice(&[1_f32, 5.0, 1000.0, 3.0, 5.0, 1000.1]).view([2, 3]);
    let Standardisation { mean, scale } = Standardisation::fit(&xs);
    assert_close("mean", &mean, &Tensor::from_slice(&[2_f32, 5.0, 1000.05]), 1e-6);
    assert_eq!(scale.double_value(&[1]), 0.0, "a constant dimension says nothing");
    assert!((scale.double_value(&[0]) - 1.0).abs() < 1e-6);
    assert!((scale.double_value(&[2]) - 20.0).abs() < 0.1);
    let one_row = Standardisation::fit(&xs.narrow(0, 0, 1));
    assert_eq!(one_row.scale, Tensor::zeros([3], options));
}
