//! The rate of a whole extraction by `clip-b16` (decoding, network, writing), next to the ceiling: plain products of the
//! network's own shapes on as many threads.
//!
//! ```sh
//! cargo run --release --example extraction_rate -- FOLDER [SIDE] [THREADS] [ROUNDS]     # 224 px, 2 threads, 5 rounds
//! ```
//!
//! Ceiling and extraction take turns, because a shared machine changes its speed. An extraction reads the weights and
//! hashes the files first, so FOLDER should hold a hundred images or more.

use std::error::Error;
use std::time::Instant;

use agiqa::engine::ImageSource;
use agiqa::features::clip::ClipOptions;
use agiqa::features::{CommonSettings, Dtype, FeatureSettings, FeatureStage, NetworkSettings};
use agiqa_nets::clip;
use agiqa_nets::vit::VitConfig;
use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::stage::StageContext;
use agiqa_store::store::{OpenMode, Store};
use tch::Kind;

#[path = "../benches/shapes/vit.rs"]
mod shapes;

use shapes::{Products, n_operations};

type Failure = Box<dyn Error>;

/// Images' worth of products per thread and round.
const N_CEILING: usize = 16;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (folder, numbers) = args.split_first().ok_or("usage: extraction_rate FOLDER [SIDE] [THREADS] [ROUNDS]")?;
    let number = |i: usize, default| numbers.get(i).map_or(Ok(default), |text| text.parse::<u32>());
    let (side_px, n_threads, n_rounds) = (number(0, 224)?, number(1, 2)?, number(2, 5)?);
    let config = clip::vit_b16();
    let gflop = n_operations(&config, side_px.into()) as f64 / 1e9;
    println!("{gflop:.1} GFLOP an image at {side_px} px, {n_threads} threads, f32");
    println!("round  ceiling GFLOP/s  images/s  GFLOP/s  share of the ceiling");
    let mut shares = Vec::new();
    for round in 1..=n_rounds {
        let ceiling = ceiling(&config, side_px.into(), n_threads) * gflop;
        let images_per_sec = extract(folder, side_px, n_threads)?;
        let rate = images_per_sec * gflop;
        shares.push(rate / ceiling);
        println!("{round:>5}  {ceiling:>15.0}  {images_per_sec:>8.2}  {rate:>7.0}  {:>19.1} %", 100.0 * rate / ceiling);
    }
    shares.sort_by(f64::total_cmp);
    let median = shares.get(shares.len() / 2).ok_or("expected one round or more")?;
    println!("median share: {:.1} %", 100.0 * median);
    Ok(())
}

/// Images per second, if the products were all.
fn ceiling(config: &VitConfig, side_px: i64, n_threads: u32) -> f64 {
    // A product of each thread's own, as the extractor works on one image per thread.
    let of_threads: Vec<Products> = (0..n_threads).map(|_| Products::new(config, side_px, Kind::Float)).collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for products in of_threads {
            scope.spawn(move || {
                tch::set_num_threads(1);
                (0..N_CEILING).for_each(|_| products.multiply());
            });
        }
    });
    N_CEILING as f64 * f64::from(n_threads) / started.elapsed().as_secs_f64()
}

/// Images per second of an extraction into a store that is empty.
fn extract(folder: &str, side_px: u32, n_threads: u32) -> Result<f64, Failure> {
    let place = tempfile::tempdir()?;
    let store = Store::open(&place.path().display().to_string(), OpenMode::CreateIfMissing)?;
    let options = ClipOptions {
        sides: Some(vec![side_px]),
        mirror: Some(false),
        dtype: Some(Dtype::F32),
        ..ClipOptions::default()
    };
    let common = CommonSettings { device: "cpu".parse()?, ..CommonSettings::default() };
    let settings = FeatureSettings { network: NetworkSettings::ClipB16(options), common };
    tch::set_num_threads(i32::try_from(n_threads)?);
    let console = Console::new(Verbosity::Quiet, EventFormat::Text);
    let n_threads = n_threads as usize;
    let context = StageContext { store, console, interrupt: Interrupt::default(), n_threads, max_rejects: None };
    let source = ImageSource::Folder { folder: folder.into(), dataset: None };
    let started = Instant::now();
    let report = FeatureStage::new(settings, source).compute(&context)?;
    Ok(report.rows.n_out as f64 / started.elapsed().as_secs_f64())
}
