//! Seconds an image of a rating network, as `benches/peers/pyiqa_networks.py` measures its peer: from file to rating, or
//! forward and backward. Loading is not counted.
//!
//! ```sh
//! cargo run --release --example rater_speed -- NETWORK WEIGHTS IMAGES N --threads 2                      # ratings
//! cargo run --release --example rater_speed -- NETWORK WEIGHTS IMAGES N --threads 2 --parts              # GFLOP/s of each part
//! cargo run --release --example rater_speed -- NETWORK WEIGHTS IMAGES N --threads 2 --train SIDE BATCH   # N steps
//! ```
//!
//! A training step sees squares of SIDE pixels that are cut out of the first images, BATCH at once. `--dtype bf16` and
//! `--device cuda:0` rate with other products and elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use agiqa::features::{DeviceChoice, Dtype};
use agiqa_images::{DecodeLimits, RgbImage8};
use agiqa_nets::device::{Product, watched_products};
use agiqa_nets::layers::{NamedTensors, Phase};
use agiqa_nets::raters::{Prepared, Rater, RaterFile, RaterName, RaterStart};
use clap::Parser;
use tch::{Device, Kind, Tensor};

#[derive(Parser)]
struct Args {
    network: RaterName,
    weights: PathBuf,
    /// Folder of images.
    images: PathBuf,
    /// Number of images, or of steps.
    n: usize,
    #[arg(long)]
    threads: i32,
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Rates the first image and prints its products.
    #[arg(long)]
    parts: bool,
    #[arg(long, num_args = 2, value_names = ["SIDE", "BATCH"])]
    train: Option<Vec<u32>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { network: name, weights, images, n, threads, device, dtype, parts, train } = Args::parse();
    agiqa::allocator::keep_freed_memory();
    tch::set_num_threads(threads);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&images)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let (mut seconds, mean) = match train.as_deref() {
        Some([side, batch]) => steps(name, &weights, &paths, n, *side, *batch as usize)?,
        _ => {
            let device = device.device()?;
            dtype.check_on(device)?;
            // The peer's prompts.
            let variant = (name == RaterName::ClipIqa).then_some("pyiqa");
            let network = RaterFile::open(name, name.variant(variant)?, &weights)?.load(device, dtype.kind())?;
            if parts {
                return print_parts(network.as_ref(), paths.first().ok_or("no image")?, device, dtype.kind());
            }
            rate(network.as_ref(), &paths[..paths.len().min(n)], device)?
        }
    };
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("{}", serde_json::json!({ "of": "agiqa", "network": name, "seconds": median, "mean": mean }));
    Ok(())
}

/// Prints the products that one image takes, the slowest first. Products of equal sizes share a row. The ceiling is the
/// rate of a product of 2048³ in the same run.
fn print_parts(network: &dyn Rater, path: &Path, device: Device, kind: Kind) -> Result<(), Box<dyn std::error::Error>> {
    if device != Device::Cpu {
        return Err("a GPU works on after a product was launched: parts are timed on CPUs".into());
    }
    let _no_grad = tch::no_grad_guard();
    let inputs = input(&network.preprocessor().prepare(&read(path)?)?).unsqueeze(0);
    let side = 2048;
    let matrix = Tensor::rand([side, side], (kind, device));
    let ceilings = (0..5).map(|_| {
        let started = Instant::now();
        let _ = matrix.matmul(&matrix);
        2e-9 * (side as f64).powi(3) / started.elapsed().as_secs_f64()
    });
    let ceiling = ceilings.fold(0.0, f64::max);
    let _ = network.rate(&inputs);
    let started = Instant::now();
    let (_, products) = watched_products(|| network.rate(&inputs))?;
    let seconds = started.elapsed().as_secs_f64();
    let mut parts: BTreeMap<String, (usize, Product)> = BTreeMap::new();
    for product in products {
        let (n, sum) = parts
            .entry(product.name.clone())
            .or_insert_with(|| (0, Product { flop: 0.0, seconds: 0.0, ..product.clone() }));
        *n += 1;
        sum.flop += product.flop;
        sum.seconds += product.seconds;
    }
    let mut parts: Vec<(usize, Product)> = parts.into_values().collect();
    parts.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let in_products = |value: fn(&Product) -> f64| parts.iter().map(|(_, product)| value(product)).sum::<f64>();
    let (flop, in_all) = (in_products(|product| product.flop), in_products(|product| product.seconds));
    let row = |name: &str, n: usize, flop: f64, seconds: f64| {
        let rate = 1e-9 * flop / seconds;
        println!("| {name} | {n} | {:.3} | {:.1} | {rate:.0} | {:.2} |", 1e-9 * flop, 1e3 * seconds, rate / ceiling);
    };
    println!("| part | number | GFLOP | ms | GFLOP/s | share of {ceiling:.0} |\n|---|---|---|---|---|---|");
    let n_shown = parts.iter().take_while(|(_, product)| product.seconds > 0.02 * seconds).count();
    parts[..n_shown].iter().for_each(|(n, Product { name, flop, seconds })| row(name, *n, *flop, *seconds));
    let n = parts.iter().map(|(n, _)| n).sum();
    row("all products", n, flop, in_all);
    println!("| all else | | | {:.1} | | |", 1e3 * (seconds - in_all));
    row("the image", 1, flop, seconds);
    Ok(())
}

fn read(path: &Path) -> Result<RgbImage8, Box<dyn std::error::Error>> {
    Ok(agiqa_images::decode(&std::fs::read(path)?, &DecodeLimits::default())?.1)
}

fn input(Prepared { values, shape }: &Prepared) -> Tensor {
    Tensor::from_slice(values).view(shape.as_slice())
}

/// Seconds of each image, and the mean rating. The first image is rated once more before.
fn rate(network: &dyn Rater, paths: &[PathBuf], device: Device) -> Result<(Vec<f64>, f64), Box<dyn std::error::Error>> {
    let _no_grad = tch::no_grad_guard();
    let preprocessor = network.preprocessor();
    let (mut seconds, mut ratings) = (Vec::new(), Vec::new());
    for path in paths.iter().take(1).chain(paths) {
        let started = Instant::now();
        let prepared = preprocessor.prepare(&read(path)?)?;
        ratings.push(network.rate(&input(&prepared).unsqueeze(0).to_device(device)).double_value(&[0]));
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
