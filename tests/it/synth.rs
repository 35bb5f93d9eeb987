//! Weights that follow from parameter names, so that a test of a full-size network needs no file of them.
//!
//! The rule is that of the reference fixtures (`synth.py` beside them): a generator seeded by the name gives uniform
//! numbers, which are scaled by what the shape and the name say of the parameter's purpose.

use agiqa_nets::mplug_owl2::synthetic::Rule;
use tch::Tensor;

/// Values of the parameter `name` of shape `shape`, row-major.
pub fn values(name: &str, shape: &[i64], seed: u64) -> Vec<f32> {
    let rule = Rule::of(name, shape, seed);
    (0..shape.iter().product::<i64>() as u64).map(|i| rule.value(i)).collect()
}

/// The parameter `name` of shape `shape`.
pub fn fill(name: &str, shape: &[i64], seed: u64) -> Tensor {
    Tensor::from_slice(&values(name, shape, seed)).view(shape)
}

#[test]
fn numbers_are_those_of_the_reference() {
    // What `python synth.py` prints.
    assert_eq!(
        values("conv.weight", &[2, 3], 7),
        [-0.757_478_95, 0.954_105_73, 0.475_932_72, 0.594_930_77, 0.855_399_85, -0.121_632_34]
    );
    assert_eq!(values("norm.bias", &[3], 7), [-0.042_345_356, 0.031_957_187, -0.039_795_59]);
}
