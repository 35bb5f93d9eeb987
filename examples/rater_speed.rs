//! Seconds an image of a rating network on a CPU, as `benches/peers/pyiqa_networks.py` measures its peer: from file to
//! rating, or forward and backward. Loading is not counted.
//!
//! ```sh
//! cargo run --release --example rater_speed -- NETWORK WEIGHTS IMAGES N --threads 2                      # ratings
//! cargo run --release --example rater_speed -- NETWORK WEIGHTS IMAGES N --threads 2 --train SIDE BATCH   # N steps
//! ```
//!
//! A training step sees squares of SIDE pixels that are cut out of the first images, BATCH at once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agiqa_images::{DecodeLimits, RgbImage8};
use agiqa_nets::layers::{NamedTensors, Phase};
use agiqa_nets::raters::{Prepared, RaterFile, RaterName, RaterStart};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (usual, train) = args.split_at(args.len().min(6));
    let [network, weights, images, n, flag, n_threads] = usual else {
        return Err("NETWORK WEIGHTS IMAGES N --threads N [--train SIDE BATCH]".into());
    };
    if flag != "--threads" {
        return Err(format!("expected --threads, found {flag}").into());
    }
    agiqa::allocator::keep_freed_memory();
    tch::set_num_threads(n_threads.parse()?);
    let (name, n) = (network.parse::<RaterName>()?, n.parse::<usize>()?);
    // The peer's prompts.
    let variant = (name == RaterName::ClipIqa).then_some("pyiqa");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(images)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let (mut seconds, mean) = match train {
        [] => rate(name, variant, Path::new(weights), &paths[..paths.len().min(n)])?,
        [_, side, batch] => steps(name, Path::new(weights), &paths, n, side.parse()?, batch.parse()?)?,
        _ => return Err("expected --train SIDE BATCH".into()),
    };
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("{}", serde_json::json!({ "of": "agiqa", "network": network, "seconds": median, "mean": mean }));
    Ok(())
}

fn read(path: &Path) -> Result<RgbImage8, Box<dyn std::error::Error>> {
    Ok(agiqa_images::decode(&std::fs::read(path)?, &DecodeLimits::default())?.1)
}

fn input(Prepared { values, shape }: &Prepared) -> Tensor {
    Tensor::from_slice(values).view(shape.as_slice())
}

/// Seconds of each image, and the mean rating. The first image is rated once more before.
fn rate(
    name: RaterName,
    variant: Option<&'static str>,
    weights: &Path,
    paths: &[PathBuf],
) -> Result<(Vec<f64>, f64), Box<dyn std::error::Error>> {
    let network = RaterFile::open(name, name.variant(variant)?, weights)?.load(Device::Cpu, Kind::Float)?;
    let _no_grad = tch::no_grad_guard();
    let preprocessor = network.preprocessor();
    let (mut seconds, mut ratings) = (Vec::new(), Vec::new());
    for path in paths.iter().take(1).chain(paths) {
        let started = Instant::now();
        let prepared = preprocessor.prepare(&read(path)?)?;
        ratings.push(network.rate(&input(&prepared).unsqueeze(0)).double_value(&[0]));
        seconds.push(started.elapsed().as_secs_f64());
    }
    let n = paths.len() as f64;
    Ok((seconds.split_off(1), ratings[1..].iter().sum::<f64>() / n))
}

/// Seconds an image of each step, and the last loss. One more step comes before.
fn steps(
    name: RaterName,
    weights: &Path,
    paths: &[PathBuf],
    n_steps: usize,
    side: u32,
    batch: usize,
) -> Result<(Vec<f64>, f64), Box<dyn std::error::Error>> {
    let start = RaterStart::open(name, name.variant(None)?, Some(weights))?;
    let learns = |name: &str| !start.is_frozen(name) && !start.is_statistic(name);
    let tensors = start.read()?.into_iter().map(|(name, xs)| {
        let learns = learns(&name);
        (name, xs.copy().set_requires_grad(learns))
    });
    let tensors: NamedTensors = tensors.collect();
    let network = start.network(&tensors, Device::Cpu, Phase::Learning { by_batch: true, drops: true })?;
    let preprocessor = start.preprocessor();
    let crop = |path: &PathBuf| {
        let image = read(path)?;
        let (width, side) = (image.width_px as usize, side as usize);
        let row = |y: usize| image.pixels[3 * y * width..][..3 * side].to_vec();
        let pixels = (0..side).flat_map(row).collect();
        let crop = RgbImage8 { width_px: side as u32, height_px: side as u32, pixels };
        Ok::<_, Box<dyn std::error::Error>>(input(&preprocessor.whole(&crop)?))
    };
    let inputs = Tensor::stack(&paths.iter().take(batch).map(crop).collect::<Result<Vec<_>, _>>()?, 0);
    let targets = Tensor::arange(inputs.size()[0], (Kind::Float, Device::Cpu)) / batch as f64;
    let (mut seconds, mut loss) = (Vec::new(), f64::NAN);
    for _ in 0..=n_steps {
        let started = Instant::now();
        let error = (network.rate(&inputs) - &targets).square().mean(Kind::Float);
        error.backward();
        loss = error.double_value(&[]);
        seconds.push(started.elapsed().as_secs_f64() / batch as f64);
        tensors.values().filter(|xs| xs.requires_grad()).for_each(|xs| _ = xs.grad().zero_());
    }
    Ok((seconds.split_off(1), loss))
}
