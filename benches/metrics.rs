//! What `agiqa evaluate` spends its time on. Run with `cargo bench --profile release --bench metrics`.

use agiqa_judge::metrics::{self, BootstrapSettings};
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// The size of AGIQA-3K, and a hundred thousand images.
const SIZES: [usize; 2] = [2982, 100_000];

/// MOS in 0..5 and scores that follow them with noise, in a fixed pseudo-random order.
fn sample(n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut state = 1_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mos: Vec<f64> = (0..n).map(|_| 5.0 * uniform()).collect();
    let scores = mos.iter().map(|mos| 0.8 * mos + 0.5 + uniform() + uniform() + uniform() - 1.5).collect();
    (scores, mos)
}

#[divan::bench(args = SIZES)]
fn srcc(bencher: Bencher, n: usize) {
    let (scores, mos) = sample(n);
    bencher.counter(ItemsCount::new(n)).bench(|| metrics::srcc(&scores, &mos));
}

#[divan::bench(args = SIZES)]
fn krcc(bencher: Bencher, n: usize) {
    let (scores, mos) = sample(n);
    bencher.counter(ItemsCount::new(n)).bench(|| metrics::krcc(&scores, &mos));
}

#[divan::bench(args = SIZES)]
fn fit_logistic4(bencher: Bencher, n: usize) {
    let (scores, mos) = sample(n);
    bencher.counter(ItemsCount::new(n)).bench(|| metrics::fit_logistic4(&scores, &mos));
}

/// All six metrics with 1000 resamples, the logistic fitted anew in each.
#[divan::bench(args = [597, 2982], sample_count = 10)]
fn evaluate_with_1000_resamples(bencher: Bencher, n: usize) {
    let (scores, mos) = sample(n);
    let settings = BootstrapSettings::default();
    bencher.counter(ItemsCount::new(n)).bench(|| metrics::evaluate(&scores, &mos, Some(&settings)));
}
