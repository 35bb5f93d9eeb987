//! The networks of the extractors `clip-b16` and `dinov2-s14` on one thread, next to plain matrix products on one thread.
//!
//! `cargo bench --profile release --bench vit`, with the weights of both in the weights folder. Items are multiplications
//! and additions, so `Gitem/s` reads as GFLOP/s; the products of a network's own shapes are its ceiling.

use std::fmt;

use agiqa_nets::onnx::OnnxFile;
use agiqa_nets::vit::{Tap, Vit, VitConfig};
use agiqa_nets::{clip, dinov2};
use divan::Bencher;
use divan::counter::ItemsCount;
use tch::{Device, Kind, Tensor};

/// A network and the side of its input.
#[derive(Clone, Copy)]
struct Case {
    weights: &'static str,
    side_px: i64,
}

/// Sides in use.
const CASES: [Case; 4] = [
    Case { weights: "clip-b16", side_px: 224 },
    Case { weights: "clip-b16", side_px: 336 },
    Case { weights: "dinov2-s14", side_px: 392 },
    Case { weights: "dinov2-s14", side_px: 518 },
];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.weights, self.side_px)
    }
}

impl Case {
    fn config(self) -> VitConfig {
        if self.weights == "clip-b16" { clip::vit_b16() } else { dinov2::vit_s14() }
    }

    fn network(self, kind: Kind) -> Vit {
        let path = agiqa_weights::locate(self.weights).expect("run `agiqa weights fetch` first");
        let onnx = || OnnxFile::read(&path).expect("an ONNX file");
        let tensors = match self.weights {
            "clip-b16" => clip::package_tensors(&onnx(), &self.config()).expect("CLIP"),
            _ => dinov2::tensors_of(&path).expect("DINOv2"),
        };
        Vit::for_features(&self.config(), tensors, Device::Cpu, kind).expect("the tensors fit")
    }

    /// Sizes `(m, k, n)` of the products of a block, and how many of each.
    fn products(self) -> [(i64, [i64; 3]); 6] {
        let VitConfig { patch_px, dim: d, mlp_dim, n_heads, .. } = self.config();
        let n = 1 + (self.side_px / patch_px).pow(2);
        let head = d / n_heads;
        [
            (1, [n, d, 3 * d]),
            (n_heads, [n, head, n]),
            (n_heads, [n, n, head]),
            (1, [n, d, d]),
            (1, [n, d, mlp_dim]),
            (1, [n, mlp_dim, d]),
        ]
    }

    /// Operations of one image: the products of all blocks; the rest is under 1 %.
    fn n_operations(self) -> ItemsCount {
        let per_block: i64 =
            self.products().iter().map(|(times, sizes)| times * 2 * sizes.iter().product::<i64>()).sum();
        ItemsCount::new(per_block as usize * self.config().n_blocks)
    }
}

fn main() {
    divan::main();
}

fn network(bencher: Bencher, case: Case, kind: Kind) {
    tch::set_num_threads(1);
    let network = case.network(kind);
    let pixels = Tensor::rand([1, 3, case.side_px, case.side_px], (Kind::Float, Device::Cpu));
    bencher.counter(case.n_operations()).bench_local(|| network.forward_taps(&pixels, &[Tap::Block(11)], |_, _| ()));
}

#[divan::bench(args = CASES, sample_count = 12)]
fn network_f32(bencher: Bencher, case: Case) {
    network(bencher, case, Kind::Float);
}

#[divan::bench(args = CASES, sample_count = 12)]
fn network_bf16(bencher: Bencher, case: Case) {
    network(bencher, case, Kind::BFloat16);
}

fn products(bencher: Bencher, case: Case, kind: Kind) {
    tch::set_num_threads(1);
    let factor = |rows, columns| Tensor::rand([rows, columns], (Kind::Float, Device::Cpu)).to_kind(kind);
    // As many weights as the network has, so that they come from memory as they do there.
    let blocks: Vec<_> = (0..case.config().n_blocks)
        .map(|_| case.products().map(|(times, [m, k, n])| (times, factor(m, k), factor(k, n))))
        .collect();
    bencher.counter(case.n_operations()).bench_local(|| {
        for (times, a, b) in blocks.iter().flatten() {
            (0..*times).for_each(|_| drop(a.matmul(b)));
        }
    });
}

#[divan::bench(args = CASES, sample_count = 12)]
fn products_f32(bencher: Bencher, case: Case) {
    products(bencher, case, Kind::Float);
}

#[divan::bench(args = CASES, sample_count = 12)]
fn products_bf16(bencher: Bencher, case: Case) {
    products(bencher, case, Kind::BFloat16);
}
