//! Agreement with reference values: published ones outside the repository, and ours of `tests/reference/raters.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa_images::{DecodeLimits, RgbImage8};
use agiqa_synth::shared;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::Checkpoint;
use crate::layers::{NamedTensors, TensorScope};
use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};
use crate::raters::{Architecture, Stored};

mod clipiqa;
mod dbcnn;
mod hyperiqa;
mod layouts;
mod musiq;
mod qalign;
mod saan;
mod stairiqa;
mod trunks;

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("it is JSON")
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(path).expect("a safetensors file").into_iter().collect()
}

fn image(path: &Path) -> RgbImage8 {
    let bytes = agiqa_images::read(path).expect("the image is there");
    agiqa_images::decode(&bytes, &DecodeLimits::default()).expect("the image is whole").1
}

/// The image `name` of a fixture in `folder`, or of AGIQA-3K.
fn fixture_image(folder: &Path, name: &str) -> RgbImage8 {
    let own = folder.join(name);
    match own.exists() {
        true => image(&own),
        false => image(&shared("datasets/agiqa-3k/images").expect("checked by the test").join(name)),
    }
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().expect("a list").iter().map(|number| number.as_i64().expect("a whole number")).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

/// The weights of a fixture by the rule: `seed`, `shapes` and `overrides` of `config`. Counts of batches are left out.
fn weights_of(config: &Value) -> NamedTensors {
    let seed = config["seed"].as_u64().expect("a seed");
    let shapes = config["shapes"].as_object().expect("names and shapes");
    let weights = shapes.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
    weights
        .map(|(name, shape)| {
            let shape = integers(shape);
            let tensor = Tensor::from_slice(&agiqa_synth::values(name, &shape, seed)).view(shape.as_slice());
            let overridden = &config["overrides"][name];
            let (mul, add) = (overridden["mul"].as_f64().unwrap_or(1.0), overridden["add"].as_f64().unwrap_or(0.0));
            (name.clone(), tensor * mul + add)
        })
        .collect()
}

/// The network of `weights`, whose sizes are read from a file of them.
fn network<N: Architecture>(weights: &NamedTensors, variant: Option<&str>) -> N {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = write(weights, &folder.path().join("model.safetensors"), |name| name.to_owned());
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    let stored = Stored::find(&checkpoint, N::LAYOUTS).expect("a layout fits");
    let sizes = N::sizes(&stored, variant).expect("the sizes can be read");
    N::new(&TensorScope::new(weights, Device::Cpu, Kind::Float), &sizes).expect("the tensors fit")
}

/// Writes `weights` to `path`, each under the name that `stored` makes of its own.
fn write(weights: &NamedTensors, path: &Path, stored: impl Fn(&str) -> String) -> PathBuf {
    let named: Vec<(String, &Tensor)> = weights.iter().map(|(name, tensor)| (stored(name), tensor)).collect();
    Tensor::write_safetensors(&named, path).expect("a file can be written");
    path.to_owned()
}

/// 8-bit pictures `(b, h, w, 3)` as normalised inputs `(b, 3, h, w)`.
fn normalised(levels: &Tensor) -> Tensor {
    let size = levels.size();
    let picture = |i: i64| {
        let pixels = Vec::<u8>::try_from(levels.get(i).flatten(0, -1)).expect("8-bit levels");
        let image = RgbImage8 { width_px: size[2] as u32, height_px: size[1] as u32, pixels };
        planes(&Planes::of(&image, IMAGENET_MEAN, IMAGENET_STD))
    };
    Tensor::cat(&(0..size[0]).map(picture).collect::<Vec<_>>(), 0)
}

/// A picture in floats as `(1, 3, h, w)`.
fn planes(planes: &Planes) -> Tensor {
    Tensor::from_slice(&planes.values).view([1, 3, planes.height as i64, planes.width as i64])
}

fn values(xs: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(xs.to_kind(Kind::Double).contiguous().flatten(0, -1)).expect("numbers")
}

#[track_caller]
fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance, "{what}, value {i}: found {found}, expected {expected} ± {tolerance:e}");
    }
}

/// The stages of a network that a test has watched.
#[derive(Default)]
struct Watched(HashMap<String, Tensor>);

impl Watched {
    fn watch(&mut self) -> impl FnMut(&str, &Tensor) {
        |name, xs| _ = self.0.insert(name.to_owned(), xs.copy())
    }

    /// Compares the stage `found` with `expected`: its `shape`, `mean`, `std`, `l2`, `absmax`, `first8` and `probes`.
    #[track_caller]
    fn compare_summary(&self, found: &str, expected: &Value, relative: f64) {
        let xs = self.0.get(found).unwrap_or_else(|| panic!("no stage {found}"));
        compare_summary(found, xs, expected, relative);
    }

    /// Compares the stage `found` with `{key}.stats`, `{key}.first8`, `{key}.sampled` or all of `key` in `expected`.
    /// The tolerance is a part of each image's maximum.
    #[track_caller]
    fn compare_samples(&self, found: &str, expected: &HashMap<String, Tensor>, key: &str, relative: f64) {
        let xs = self.0.get(found).unwrap_or_else(|| panic!("no stage {found}"));
        let stats = values(&expected[&format!("{key}.stats")]);
        let largest = stats.chunks_exact(3).map(|stats| stats[2]).fold(0.0, f64::max);
        for (i, stats) in stats.chunks_exact(3).enumerate() {
            let what = format!("{key} of image {i}");
            let all = values(&xs.get(i as i64));
            let n = all.len();
            let mean = all.iter().sum::<f64>() / n as f64;
            let std = (all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
            let absmax = all.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
            let tolerance = relative * largest;
            assert_near(&what, &[mean, std, absmax], stats, tolerance);
            let of_image = |part: &str| expected.get(&format!("{key}{part}")).map(|xs| values(&xs.get(i as i64)));
            match (of_image(""), of_image(".first8"), of_image(".sampled")) {
                (Some(whole), ..) => assert_near(&what, &all, &whole, tolerance),
                (None, Some(first), Some(sampled)) => {
                    assert_near(&what, &all[..first.len()], &first, tolerance);
                    let at: Vec<f64> = (0..sampled.len()).map(|k| all[(2 * k + 1) * n / (2 * sampled.len())]).collect();
                    assert_near(&what, &at, &sampled, tolerance);
                }
                _ => panic!("{what}: no values"),
            }
        }
    }
}

/// Compares all of `found` with `expected`. The tolerance is a part of the maximum.
#[track_caller]
fn compare_whole(what: &str, found: &Tensor, expected: &Tensor, relative: f64) {
    let expected = values(expected);
    let largest = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    assert_near(what, &values(found), &expected, relative * largest);
}

#[track_caller]
fn compare_summary(what: &str, xs: &Tensor, expected: &Value, relative: f64) {
    let all = values(xs);
    let n = all.len();
    assert_eq!(n as i64, integers(&expected["shape"]).iter().product::<i64>(), "{what}");
    let number = |key: &str| expected[key].as_f64().expect("a number");
    let tolerance = relative * number("absmax");
    let mean = all.iter().sum::<f64>() / n as f64;
    let absmax = all.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
    assert_near(what, &[mean, absmax], &[number("mean"), number("absmax")], tolerance);
    assert_near(what, &all[..n.min(8)], &numbers(&expected["first8"]), tolerance);
    let probes = numbers(&expected["probes"]);
    let at: Vec<f64> = (0..probes.len()).map(|i| all[(i * 2_654_435_761 + 12345) % n]).collect();
    assert_near(what, &at, &probes, tolerance);
}
