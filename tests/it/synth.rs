//! Tensors of invented weights, which follow from parameter names, so that a test of a network needs no file of them; and
//! what tests compare of networks.

use std::collections::BTreeMap;

use agiqa_nets::layers::NamedTensors;
use agiqa_nets::vit::{Tap, Vit};
use serde::Deserialize;
use tch::{Kind, Tensor};

/// The parameter `name` of shape `shape`.
pub fn fill(name: &str, shape: &[i64], seed: u64) -> Tensor {
    Tensor::from_slice(&agiqa_synth::values(name, shape, seed)).view(shape)
}

/// What becomes of a parameter after the rule.
#[derive(Clone, Copy, Deserialize)]
pub struct Override {
    #[serde(default = "one")]
    mul: f32,
    #[serde(default)]
    add: f32,
}

fn one() -> f32 {
    1.0
}

/// All parameters of these names and shapes.
pub fn tensors(shapes: &BTreeMap<String, Vec<i64>>, seed: u64, overrides: &BTreeMap<String, Override>) -> NamedTensors {
    let fill = |(name, shape): (&String, &Vec<i64>)| {
        let tensor = fill(name, shape, seed);
        let tensor = match overrides.get(name) {
            Some(Override { mul, add }) => tensor * f64::from(*mul) + f64::from(*add),
            None => tensor,
        };
        (name.clone(), tensor)
    };
    shapes.iter().map(fill).collect()
}

/// Largest difference, as a part of the largest magnitude of `expected`.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((found - &expected).abs().max() / expected.abs().max()).double_value(&[])
}

/// The tokens of `vit` after `blocks`, in ascending order.
pub fn after_blocks(vit: &Vit, pixels: &Tensor, blocks: &[usize]) -> Vec<Tensor> {
    let taps: Vec<Tap> = blocks.iter().map(|block| Tap::Block(*block)).collect();
    let mut outputs = Vec::new();
    vit.forward_taps(pixels, &taps, |_, tokens| outputs.push(tokens.shallow_clone()));
    outputs
}
