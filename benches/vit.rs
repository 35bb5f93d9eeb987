//! The network of the default extractor on one thread, beside plain matrix products on one thread.
//!
//! `cargo bench --profile release --bench vit`, with the weights of `dinov2-s14` in the weights folder. Items are
//! multiplications and additions, so `Gitem/s` reads as GFLOP/s; the product is the ceiling for the network.

use agiqa_nets::dinov2;
use divan::Bencher;
use divan::counter::ItemsCount;
use tch::{Device, Kind, Tensor};

/// Sides in use: 28 × 28 and 37 × 37 patches.
const SIDES_PX: [i64; 2] = [392, 518];

fn main() {
    divan::main();
}

/// Operations of one image: the products of all blocks; the rest is under 1 %.
fn n_operations(side_px: i64) -> ItemsCount {
    let config = dinov2::vit_s14();
    let (n, d) = (1 + (side_px / config.patch_px).pow(2), config.dim);
    let per_block = 2 * n * (4 * d * d + 2 * d * config.mlp_dim) + 4 * n * n * d;
    ItemsCount::new(per_block as usize * config.n_blocks)
}

fn network(bencher: Bencher, side_px: i64, kind: Kind) {
    let path = agiqa_weights::locate("dinov2-s14").expect("run `agiqa weights fetch` first");
    tch::set_num_threads(1);
    let vit = dinov2::load(&path, Device::Cpu, kind).expect("the weights load");
    let pixels = Tensor::rand([1, 3, side_px, side_px], (Kind::Float, Device::Cpu));
    bencher.counter(n_operations(side_px)).bench_local(|| vit.forward_blocks(&pixels, &[11]));
}

#[divan::bench(args = SIDES_PX, sample_count = 12)]
fn network_f32(bencher: Bencher, side_px: i64) {
    network(bencher, side_px, Kind::Float);
}

#[divan::bench(args = SIDES_PX, sample_count = 12)]
fn network_bf16(bencher: Bencher, side_px: i64) {
    network(bencher, side_px, Kind::BFloat16);
}

fn product(bencher: Bencher, kind: Kind) {
    let n = 2048;
    tch::set_num_threads(1);
    let factor = || Tensor::rand([n, n], (Kind::Float, Device::Cpu)).to_kind(kind);
    let (a, b) = (factor(), factor());
    bencher.counter(ItemsCount::new(2 * n.pow(3) as usize)).bench_local(|| a.matmul(&b));
}

#[divan::bench(sample_count = 12)]
fn product_f32(bencher: Bencher) {
    product(bencher, Kind::Float);
}

#[divan::bench(sample_count = 12)]
fn product_bf16(bencher: Bencher) {
    product(bencher, Kind::BFloat16);
}
