//! Initial parameters of a training: from a checkpoint, with PyTorch's defaults for the rest.

use std::collections::BTreeMap;

use rand_mt::Mt64;
use tch::Tensor;

use crate::train::random::unit;
use agiqa_nets::layers::NamedTensors;

/// Standard deviation of the tables of relative positions, which start normally distributed.
const TABLE_STD: f64 = 0.02;

/// Tensors of `parameters`. A tensor that `read` has in the same shape is taken from there. The others are drawn by
/// `seed`. Also returns the names of the drawn tensors.
///
/// The draws are the published code's: weights and biases of linear layers and convolutions are uniform in ±1/√(fan-in)
/// (PyTorch's default, which its Swin blocks keep), norms are 1 and 0, and tables of relative positions are normal with
/// a deviation of 0.02.
pub fn initial(parameters: &BTreeMap<String, Vec<i64>>, read: &NamedTensors, seed: u32) -> (NamedTensors, Vec<String>) {
    let mut tensors = NamedTensors::new();
    let mut drawn = Vec::new();
    for (name, shape) in parameters {
        let tensor = match read.get(name).filter(|tensor| tensor.size() == *shape) {
            Some(tensor) => tensor.shallow_clone(),
            None => {
                drawn.push(name.clone());
                // Each parameter has its own generator, so another backbone does not change the values of the others.
                draw(name, shape, parameters, &mut generator_of(name, seed))
            }
        };
        tensors.insert(name.clone(), tensor);
    }
    (tensors, drawn)
}

fn generator_of(name: &str, seed: u32) -> Mt64 {
    let hash = u64::from_le_bytes(blake3::hash(name.as_bytes()).as_bytes()[..8].try_into().expect("eight bytes"));
    Mt64::new_with_key([u64::from(seed), 1, 0, hash])
}

fn draw(name: &str, shape: &[i64], parameters: &BTreeMap<String, Vec<i64>>, generator: &mut Mt64) -> Tensor {
    let is_norm = name.rsplit('.').nth(1).is_some_and(|layer| layer.starts_with("norm"));
    let n: i64 = shape.iter().product();
    let bound = if is_norm || name.ends_with(".gamma") {
        let value = if name.ends_with(".bias") { 0.0_f32 } else { 1.0 };
        return Tensor::from_slice(&vec![value; n as usize]).view(shape);
    } else if name.ends_with(".weight") || name.ends_with(".bias") {
        let weight = name.strip_suffix(".bias").map_or(name.to_owned(), |layer| format!("{layer}.weight"));
        let fan_in: i64 = parameters.get(&weight).map_or(shape, Vec::as_slice)[1..].iter().product();
        1.0 / (fan_in.max(1) as f64).sqrt()
    } else {
        let values: Vec<f32> = (0..n).map(|_| (TABLE_STD * normal(generator)) as f32).collect();
        return Tensor::from_slice(&values).view(shape);
    };
    let values: Vec<f32> = (0..n).map(|_| ((2.0 * unit(generator) - 1.0) * bound) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Values of the parameter `name`, normally distributed around 0 with the deviation `std`, drawn by `seed`.
pub(super) fn normal_values(name: &str, shape: &[i64], std: f64, seed: u32) -> Tensor {
    let generator = &mut generator_of(name, seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_: i64| (std * normal(generator)) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Standard normal, by Box and Muller. (timm cuts at 100 deviations, which never happens.)
fn normal(generator: &mut Mt64) -> f64 {
    let (radius, angle) = (1.0 - unit(generator), std::f64::consts::TAU * unit(generator));
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept_and_the_rest_has_the_bounds_of_its_layer() {
        let shapes = [("a.weight", vec![3, 100]), ("a.bias", vec![3]), ("norm1.weight", vec![4]), ("t", vec![9, 2])];
        let parameters: BTreeMap<String, Vec<i64>> =
            shapes.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
        let read = NamedTensors::from([("a.bias".to_owned(), Tensor::from_slice(&[1.0_f32, 2.0, 3.0]))]);
        let (tensors, drawn) = initial(&parameters, &read, 5);
        assert_eq!(drawn, ["a.weight", "norm1.weight", "t"]);
        assert_eq!(tensors["a.bias"], read["a.bias"]);
        let largest = tensors["a.weight"].abs().max().double_value(&[]);
        assert!(largest <= 0.1 && largest > 0.09, "{largest}");
        assert_eq!(tensors["norm1.weight"], Tensor::from_slice(&[1.0_f32; 4]));
        let (again, _) = initial(&parameters, &read, 5);
        assert_eq!(again["t"], tensors["t"]);
    }
}
