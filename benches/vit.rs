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

#[path = "shapes/vit.rs"]
mod shapes;

use shapes::Products;

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

    fn n_operations(self) -> ItemsCount {
        ItemsCount::new(shapes::n_operations(&self.config(), self.side_px) as usize)
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
    let products = Products::new(&case.config(), case.side_px, kind);
    bencher.counter(case.n_operations()).bench_local(|| products.multiply());
}

#[divan::bench(args = CASES, sample_count = 12)]
fn products_f32(bencher: Bencher, case: Case) {
    products(bencher, case, Kind::Float);
}

#[divan::bench(args = CASES, sample_count = 12)]
fn products_bf16(bencher: Bencher, case: Case) {
    products(bencher, case, Kind::BFloat16);
}
