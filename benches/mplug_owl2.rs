//! mPLUG-Owl2 by parts, beside plain matrix products of the same type.
//!
//! ```sh
//! cargo run --release --example synthetic_mplug_owl2 -- bench /tmp/owl TOKENIZER f32
//! AGIQA_MPLUG_OWL2=/tmp/owl cargo bench --profile release --bench mplug_owl2
//! ```
//!
//! Items are multiplications and additions of the products, so `Gitem/s` reads as GFLOP/s. Two threads, 8 images.

use std::path::PathBuf;

use agiqa::models::checkpoint::Checkpoint;
use agiqa::models::mplug_owl2::{Config, Frontend, MplugOwl2, Prompt, PromptIds};
use divan::Bencher;
use divan::counter::ItemsCount;
use tch::{Device, Kind, Tensor};

const KINDS: [&str; 2] = ["f32", "bf16"];

const N_IMAGES: i64 = 8;

fn main() {
    divan::main();
}

fn kind_of(name: &str) -> Kind {
    if name == "bf16" { Kind::BFloat16 } else { Kind::Float }
}

/// The network and its sizes; nothing where the variable is not set.
fn network(kind: Kind) -> Option<(MplugOwl2, Config)> {
    let folder = PathBuf::from(std::env::var_os("AGIQA_MPLUG_OWL2")?);
    tch::set_num_threads(2);
    let Frontend { config, tokenizer, .. } = Frontend::read(&folder).expect("a checkpoint's folder");
    let ids: Vec<PromptIds> = Prompt::of_the_paper().iter().map(|prompt| PromptIds::of(prompt, &tokenizer)).collect();
    let checkpoint = Checkpoint::open(&folder).expect("a checkpoint");
    let network = MplugOwl2::new(&checkpoint, &config, &ids, Device::Cpu, kind).expect("it fits");
    Some((network, config))
}

fn pixels(config: &Config) -> Tensor {
    Tensor::rand([N_IMAGES, 3, config.vision.image_px, config.vision.image_px], (Kind::Float, Device::Cpu))
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

fn count(n: i64) -> ItemsCount {
    ItemsCount::new((n * N_IMAGES) as usize)
}

#[divan::bench(args = KINDS, sample_count = 5)]
fn vision_tower(bencher: Bencher, kind: &str) {
    let Some((network, config)) = network(kind_of(kind)) else { return };
    let pixels = pixels(&config);
    let one = |i: i64| network.vision_tokens(&pixels.narrow(0, i, 1));
    bencher.counter(count(n_operations(&config)[0])).bench_local(|| (0..N_IMAGES).map(one).collect::<Vec<_>>());
}

#[divan::bench(args = KINDS, sample_count = 5)]
fn vision_and_abstractor(bencher: Bencher, kind: &str) {
    let Some((network, config)) = network(kind_of(kind)) else { return };
    let pixels = pixels(&config);
    let [vision, abstractor, _] = n_operations(&config);
    bencher.counter(count(vision + abstractor)).bench_local(|| network.see(&pixels));
}

#[divan::bench(args = KINDS, sample_count = 5)]
fn whole(bencher: Bencher, kind: &str) {
    let Some((network, config)) = network(kind_of(kind)) else { return };
    let pixels = pixels(&config);
    bencher.counter(count(n_operations(&config).iter().sum())).bench_local(|| network.embed(&pixels));
}

#[divan::bench(args = KINDS, sample_count = 5)]
fn product(bencher: Bencher, kind: &str) {
    let n = 4096;
    tch::set_num_threads(2);
    let factor = || Tensor::rand([n, n], (Kind::Float, Device::Cpu)).to_kind(kind_of(kind));
    let (a, b) = (factor(), factor());
    bencher.counter(ItemsCount::new(2 * n.pow(3) as usize)).bench_local(|| a.matmul(&b));
}
