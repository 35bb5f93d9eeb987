//! Tensors of invented weights, which follow from parameter names, so that a test of a network needs no file of them.

use std::collections::BTreeMap;

use agiqa_nets::layers::NamedTensors;
use serde::Deserialize;
use tch::Tensor;

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
