//! mPLUG-Owl2 by parts, beside plain matrix products of the same type.
//!
//! ```sh
//! cargo run --release --example synthetic_mplug_owl2 -- bench /tmp/owl TOKENIZER f32
//! AGIQA_MPLUG_OWL2=/tmp/owl cargo bench --profile release --bench mplug_owl2 -- [f32 | bf16] [IMAGES]
//! ```
//!
//! Two threads, 8 images unless told otherwise. The parts and a product of the sizes that fill most of the network's time
//! take turns, so that a load from elsewhere slows all of them alike; medians of five. Operations are the products' alone:
//! what is missing to 100 % went into norms, activations, softmaxes, copies and conversions. It may be more than 100 % in
//! bf16, where the processor multiplies f32 faster and the network does so.

use std::path::PathBuf;
use std::time::Instant;

use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::mplug_owl2::{Config, Frontend, MplugOwl2, Prompt, PromptIds};
use tch::{Device, Kind, Tensor};

const N_ROUNDS: usize = 5;

const N_THREADS: i32 = 2;

fn main() {
    agiqa::allocator::keep_freed_memory();
    tch::set_num_threads(N_THREADS);
    let Some(folder) = std::env::var_os("AGIQA_MPLUG_OWL2").map(PathBuf::from) else {
        println!("mplug_owl2: skipped: set AGIQA_MPLUG_OWL2 to the folder of a checkpoint");
        return;
    };
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let n_images = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(8);
    for (name, kind) in [("f32", Kind::Float), ("bf16", Kind::BFloat16)] {
        if !["f32", "bf16"].iter().any(|kind| args.iter().any(|arg| arg == kind)) || args.iter().any(|arg| arg == name)
        {
            measure(&folder, name, kind, n_images);
        }
    }
}

/// Operations of the vision tower, of the abstractor, and of the language model after the prefixes, per image.
fn n_operations(config: &Config) -> [i64; 3] {
    let (n, d, m) = (config.vision.n_tokens(), config.vision.dim, config.vision.mlp_dim);
    let vision = config.vision.n_layers * (2 * n * (4 * d * d + 2 * d * m) + 4 * n * n * d);
    let (q, a) = (config.abstractor.n_queries, &config.abstractor);
    let layer =
        2 * (q + n) * 2 * a.dim * a.dim + 2 * q * (2 * a.dim * a.dim + 3 * a.dim * a.mlp_dim) + 4 * q * (q + n) * a.dim;
    let abstractor = a.n_layers * layer + 2 * q * a.dim * config.decoder.dim;
    let (rows, d, m) = (2 * (config.n_visual_tokens() + 6), config.decoder.dim, config.decoder.mlp_dim);
    let decoder = config.decoder.n_layers * (2 * rows * (4 * d * d + 3 * d * m) + 4 * rows * 100 * d);
    [vision, abstractor, decoder]
}

fn measure(folder: &std::path::Path, name: &str, kind: Kind, n_images: i64) {
    let Frontend { config, tokenizer, .. } = Frontend::read(folder).expect("a checkpoint's folder");
    let ids: Vec<PromptIds> = Prompt::of_the_paper().iter().map(|prompt| PromptIds::of(prompt, &tokenizer)).collect();
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let network = MplugOwl2::new(&checkpoint, &config, &ids, Device::Cpu, kind).expect("it fits");
    let random = |shape: &[i64]| Tensor::rand(shape, (Kind::Float, Device::Cpu));
    let pixels = random(&[n_images, 3, config.vision.image_px, config.vision.image_px]);
    let visual = network.see(&pixels);
    let (n, d, m) = (config.vision.n_tokens(), config.vision.dim, config.vision.mlp_dim);
    let (rows, weight) = (random(&[n, d]).to_kind(kind), random(&[m, d]).to_kind(kind));
    let [vision, abstractor, decoder] = n_operations(&config).map(|n| n * n_images);
    let vision_only = || {
        for i in 0..n_images {
            let _ = network.vision_tokens(&pixels.narrow(0, i, 1));
        }
    };
    let product = || {
        for _ in 0..8 {
            let _ = rows.linear(&weight, None::<&Tensor>);
        }
    };
    let parts: [(&str, i64, &dyn Fn()); 5] = [
        ("plain product", 8 * 2 * n * d * m, &product),
        ("vision tower", vision, &vision_only),
        ("vision tower, abstractor", vision + abstractor, &|| drop(network.see(&pixels))),
        ("language model", decoder, &|| drop(network.read(&visual))),
        ("whole", vision + abstractor + decoder, &|| drop(network.embed(&pixels))),
    ];
    let mut seconds = vec![Vec::new(); parts.len()];
    for _ in 0..N_ROUNDS {
        for ((_, _, run), seconds) in parts.iter().zip(&mut seconds) {
            let start = Instant::now();
            run();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    println!("{name}, {N_THREADS} threads, {n_images} images");
    let mut ceiling = None;
    for ((part, n_operations, _), seconds) in parts.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[N_ROUNDS / 2];
        let rate = *n_operations as f64 / median / 1e9;
        let ceiling = *ceiling.get_or_insert(rate);
        println!("  {part:<26} {median:>8.3} s {rate:>8.1} GFLOP/s {:>5.0} % of the product", 100.0 * rate / ceiling);
    }
}
