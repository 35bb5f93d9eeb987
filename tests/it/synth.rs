//! Weights that follow from parameter names, so that a test of a full-size network needs no file of them.
//!
//! The rule is that of the reference fixtures (`synth.py` beside them): a generator seeded by the name gives uniform
//! numbers, which are scaled by what the shape and the name say of the parameter's purpose.

use tch::Tensor;

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Output `i`, from 1, of SplitMix64 started at `state`.
fn splitmix64(state: u64, i: u64) -> u64 {
    let mut z = state.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values of the parameter `name` of shape `shape`, row-major.
pub fn values(name: &str, shape: &[i64], seed: u64) -> Vec<f32> {
    let n: i64 = shape.iter().product();
    if name.ends_with("num_batches_tracked") {
        return vec![0.0; n as usize];
    }
    let is_weight = name.ends_with(".weight");
    let (offset, scale) = if name.ends_with("running_var") {
        (1.0, 0.25)
    } else if name.ends_with("running_mean") {
        (0.0, 0.1)
    } else if shape.len() <= 1 {
        match name {
            _ if is_weight => (1.0, 0.1),
            _ if name.ends_with("gamma") || name.ends_with("lambda1") => (0.5, 0.1),
            _ => (0.0, 0.05),
        }
    } else if is_weight {
        let fan_in: i64 = shape[1..].iter().product();
        (0.0, (3.0 / fan_in as f64).sqrt() as f32)
    } else {
        (0.0, 0.1)
    };
    let state = fnv1a64(name.as_bytes()) ^ seed;
    (1..=n as u64)
        .map(|i| {
            let unit = (splitmix64(state, i) >> 40) as f32 / (1 << 24) as f32;
            offset + scale * (2.0 * unit - 1.0)
        })
        .collect()
}

/// The parameter `name` of shape `shape`.
pub fn fill(name: &str, shape: &[i64], seed: u64) -> Tensor {
    Tensor::from_slice(&values(name, shape, seed)).view(shape)
}

#[test]
fn numbers_are_those_of_the_reference() {
    // What `python synth.py` prints.
    assert_eq!(fnv1a64(b"conv.weight"), 0x796f_8df8_8f56_d987);
    assert_eq!(
        values("conv.weight", &[2, 3], 7),
        [-0.757_478_95, 0.954_105_73, 0.475_932_72, 0.594_930_77, 0.855_399_85, -0.121_632_34]
    );
    assert_eq!(values("norm.bias", &[3], 7), [-0.042_345_356, 0.031_957_187, -0.039_795_59]);
}
