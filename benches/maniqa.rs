//! MANIQA of the paper's size on invented weights, part by part, beside a plain matrix product.
//!
//! `cargo bench --profile release --bench maniqa -- [f32|bf16] [IMAGES PER BATCH] [THREADS]`, by default f32, 8 and 2.
//! Each part's time is the shortest of five passes; operations are the multiplications and additions of its products, so
//! that the rates compare with the product's, which is the ceiling.

use std::time::Instant;

use agiqa_nets::layers::NamedTensors;
use agiqa_nets::maniqa::{Maniqa, ManiqaConfig, ManiqaTap, Mode};
use tch::{Device, Kind, Tensor};

/// Passes, after one that warms up.
const N_PASSES: usize = 5;

/// A part of the network, in the order of the computation.
const PARTS: [&str; 8] = [
    "transformer, blocks 0 to 9",
    "channel attention 1",
    "1 x 1 convolution 1",
    "Swin stage 1",
    "channel attention 2",
    "1 x 1 convolution 2",
    "Swin stage 2",
    "heads",
];

/// Operations of one image, per part.
fn n_operations(config: &ManiqaConfig) -> [f64; 8] {
    let vit = config.vit_config();
    let (n, d) = (config.n_tokens() as f64, vit.dim as f64);
    let tokens = n + 1.0;
    let vit = vit.n_blocks as f64
        * (2.0 * tokens * (4.0 * d * d + 2.0 * d * vit.mlp_dim as f64) + 4.0 * tokens * tokens * d)
        + 2.0 * n * d * 3.0 * (vit.patch_px * vit.patch_px) as f64;
    // As the formula has it: three products with weights, two between channels.
    let channels = |c: f64| config.num_tab as f64 * (6.0 * c * n * n + 4.0 * c * c * n);
    let wide = d * config.vit.taps.len() as f64;
    let dim = config.embed_dim as f64;
    let swin = |d: f64| {
        let (window, hidden) = ((config.window_size * config.window_size) as f64, config.dim_mlp as f64);
        let block = 2.0 * n * (4.0 * d * d + 2.0 * d * hidden) + 4.0 * n * window * d;
        let layer = |depth: &usize| *depth as f64 * block + 18.0 * n * d * d;
        config.depths.iter().map(layer).sum::<f64>()
    };
    let half = dim / 2.0;
    let heads = 2.0 * (2.0 * n * half * half + 2.0 * n * half);
    [vit, channels(wide), 2.0 * n * wide * dim, swin(dim), channels(dim), 2.0 * n * dim * half, swin(half), heads]
}

/// Seconds of each part in one pass.
fn pass(network: &Maniqa, pixels: &Tensor) -> [f64; 8] {
    let mut seconds = [0.0; 8];
    let mut last = Instant::now();
    let mut add = |part: usize| {
        seconds[part] += last.elapsed().as_secs_f64();
        last = Instant::now();
    };
    let _ = network.forward_observed(pixels, Mode::Evaluate, |stage, _| {
        add(match stage {
            ManiqaTap::Taps => 0,
            ManiqaTap::Channels { stage, .. } => 3 * stage - 2,
            ManiqaTap::Reduced { stage } => 3 * stage - 1,
            ManiqaTap::SwinBlock { stage, .. } | ManiqaTap::SwinLayer { stage, .. } | ManiqaTap::Swin { stage } => {
                3 * stage
            }
        });
    });
    add(7);
    seconds
}

/// Operations per second of a product of square matrices in `kind`.
fn product_rate(kind: Kind) -> f64 {
    let n = 3072;
    let factor = || Tensor::rand([n, n], (Kind::Float, Device::Cpu)).to_kind(kind);
    let (a, b) = (factor(), factor());
    let seconds = (0..N_PASSES).map(|_| {
        let started = Instant::now();
        let _ = a.matmul(&b);
        started.elapsed().as_secs_f64()
    });
    2.0 * (n as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, default: i64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let kind = if arguments.first().is_some_and(|dtype| dtype == "bf16") { Kind::BFloat16 } else { Kind::Float };
    let (n_images, n_threads) = (number(1, 8), number(2, 2));
    tch::set_num_threads(n_threads as i32);
    let config = ManiqaConfig::vit_b8();
    let weight = |shape: &Vec<i64>| {
        let fan_in: i64 = shape[1..].iter().product();
        Tensor::randn(shape.as_slice(), (Kind::Float, Device::Cpu)) * (fan_in.max(1) as f64).powf(-0.5)
    };
    let tensors: NamedTensors = config.parameters().into_iter().map(|(name, shape)| (name, weight(&shape))).collect();
    let _no_grad = tch::no_grad_guard();
    let network = Maniqa::new(&config, &tensors, Device::Cpu, kind).expect("the tensors fit");
    drop(tensors);
    let pixels = Tensor::randn([n_images, 3, config.vit.img_size, config.vit.img_size], (Kind::Float, Device::Cpu));
    let _ = pass(&network, &pixels);
    let mut seconds = [f64::INFINITY; 8];
    for _ in 0..N_PASSES {
        let found = pass(&network, &pixels);
        seconds = std::array::from_fn(|i| seconds[i].min(found[i]));
    }
    let operations = n_operations(&config).map(|n| n * n_images as f64);
    let ceiling = product_rate(Kind::Float).max(product_rate(kind));
    println!("{n_images} images, {n_threads} threads, {kind:?}; a plain product runs at {:.0} GFLOP/s", ceiling / 1e9);
    let line = |part: &str, operations: f64, seconds: f64| {
        let rate = operations / seconds;
        let (ms, share) = (1e3 * seconds / n_images as f64, 100.0 * rate / ceiling);
        println!(
            "{part:<28} {:>7.1} GFLOP {ms:>8.1} ms {:>6.0} GFLOP/s {share:>4.0} %",
            operations / 1e9 / n_images as f64,
            rate / 1e9
        );
    };
    for ((part, operations), seconds) in PARTS.iter().zip(operations).zip(seconds) {
        line(part, operations, seconds);
    }
    line("an image", operations.iter().sum(), seconds.iter().sum());
}
