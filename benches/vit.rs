//! Images per second and GFLOP/s of the default extractor's network, beside those of a plain matrix product.
//!
//! `cargo bench --profile release --bench vit` with the weights of `dinov2-s14` in the weights folder.

use std::time::Instant;

use agiqa::models::{dinov2, vit::Vit};
use tch::{Device, Kind, Tensor};

fn flops(n: f64) -> f64 {
    // Per block: qkv, proj, fc1, fc2, and the two products of attention; one multiplication and one addition each.
    12.0 * (2.0 * n * (384.0 * 1152.0 + 384.0 * 384.0 + 2.0 * 384.0 * 1536.0) + 4.0 * n * n * 384.0)
}
fn main() {
    let _guard = tch::no_grad_guard();
    let side: i64 = 392;
    let n_threads: i32 = std::env::var("T").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    tch::set_num_threads(n_threads);
    let path = agiqa::weights::locate("dinov2-s14").expect("fetched");
    let nets: Vec<(String, Vit, i64)> = [(Kind::Float, 1), (Kind::BFloat16, 1), (Kind::Float, 4), (Kind::BFloat16, 4)]
        .into_iter()
        .map(|(kind, b)| (format!("{kind:?} b{b}"), dinov2::load(&path, Device::Cpu, kind).expect("loads"), b))
        .collect();
    let x = Tensor::randn([4, 3, side, side], (Kind::Float, Device::Cpu));
    let n = (side / 14 * side / 14) as f64;
    let mut best = vec![f64::MAX; nets.len()];
    let mut outs: Vec<Option<Tensor>> = nets.iter().map(|_| None).collect();
    for _ in 0..6 {
        for (i, (_, net, b)) in nets.iter().enumerate() {
            let clock = || {
                std::fs::read_to_string("/proc/thread-self/schedstat")
                    .ok()
                    .and_then(|t| t.split(' ').next()?.parse::<f64>().ok())
                    .unwrap_or(f64::NAN)
            };
            let s = clock();
            let _w = Instant::now();
            let out = net.forward_blocks(&x.narrow(0, 0, *b), &[11]);
            let e = clock();
            let t = (e - s) * 1e-9;
            best[i] = best[i].min(t / *b as f64);
            outs[i] = out.into_iter().next().map(|o| net.final_norm(&o).narrow(0, 0, 1));
        }
    }
    for (i, (name, _, _)) in nets.iter().enumerate() {
        let d = outs[i].as_ref().zip(outs[0].as_ref()).map(|(a, b)| {
            let e = (a - b);
            (
                f64::try_from(e.abs().max()).unwrap_or(f64::NAN),
                f64::try_from(e.square().mean(Kind::Float).sqrt() / b.square().mean(Kind::Float).sqrt())
                    .unwrap_or(f64::NAN),
            )
        });
        println!("{name}: {:.3} s/image {:.0} GFLOP/s err {d:?}", best[i], flops(n + 1.0) / best[i] / 1e9);
    }
}
