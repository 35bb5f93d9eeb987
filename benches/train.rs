//! What training costs at the widths of real features: three inputs of 3072 columns, 2982 images split 70/10/20.
//!
//! `cargo bench --bench train`. Each sample reads the cached columns and trains two heads side by side for two epochs, so
//! on two cores ten heads of thirty epochs take 75 times as long, less the reading. Ridge is a sample of its own.

use agiqa::splits::{Fractions, SplitSettings, SplitStage};
use agiqa::train::recipes::{HeadRecipe, HeadSettings};
use agiqa::train::{Optimiser, TrainSettings, TrainStage, Training, seeded_runs};
use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::stage::{Stage, StageContext};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::models;

const N_IMAGES: usize = 2982;
const DIM: usize = 3072;
const SEEDS: std::ops::Range<u32> = 0..2;

fn main() {
    divan::main();
}

fn name(text: &str) -> PartitionName {
    PartitionName::new(text).expect("a valid name")
}

fn split(seed: u32) -> SplitSettings {
    SplitSettings::Random { seed, fractions: Fractions::default() }
}

/// A store with images, features and splits.
struct Data {
    _folder: tempfile::TempDir,
    context: StageContext,
    semantic: FeatureSet,
    quality: FeatureSet,
}

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(&folder.path().display().to_string(), OpenMode::Existing).expect("a folder");
        let set = |kind, columns: &[&str]| FeatureSet {
            extractor: name("bench"),
            fingerprint: Fingerprint::builder("bench").json("kind", &kind).finish(),
            kind,
            columns: columns.iter().map(|name| VectorColumn { name: (*name).to_owned(), dim: DIM }).collect(),
            settings: serde_json::Value::Null,
        };
        let semantic = set(FeatureKind::Semantic, &["f_a", "f_b"]);
        let quality = set(FeatureKind::Quality, &["f_1"]);
        let ids: Vec<ImageId> = (0..N_IMAGES).map(|i| ImageId::of_bytes(&i.to_le_bytes())).collect();
        let mut bits = 1_u64;
        let mut values = |n: usize| -> Vec<f32> {
            let mut next = || {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (bits >> 40) as f32 / (1 << 24) as f32
            };
            (0..n).map(|_| next()).collect()
        };
        for set in [&semantic, &quality] {
            let vectors = set.columns.iter().map(|_| values(N_IMAGES * DIM)).collect();
            let rows = FeatureRows { image_ids: ids.clone(), vectors, n_tokens: vec![1; N_IMAGES] };
            set.write_part(&store, &rows).expect("a part can be written");
        }
        let row = |(i, id): (usize, &ImageId)| ImageRow {
            image_id: *id,
            name: i.to_string(),
            path: i.to_string(),
            n_bytes: 1,
            width_px: 1,
            height_px: 1,
            format: "png".to_owned(),
            generator: None,
            prompt: None,
            mos: Some((i % 101) as f64 / 20.0),
            mos_std: None,
            mos_align: None,
        };
        let rows = ids.iter().enumerate().map(row).collect();
        images::write(&store, &name("d"), &Images { rows, extra: Vec::new() }).expect("a table can be written");
        let console = Console::new(Verbosity::Quiet, EventFormat::Text);
        let context = StageContext { store, console, interrupt: Interrupt::default(), n_threads: 2, max_rejects: None };
        for seed in SEEDS {
            let stage = SplitStage { dataset: name("d"), settings: split(seed) };
            stage.run(&context).expect("the split can be made");
        }
        Self { _folder: folder, context, semantic, quality }
    }

    /// Trains two heads, as if they had never been trained.
    fn train(&self, settings: TrainSettings, head: HeadSettings) {
        let stage = TrainStage {
            name: name("bench"),
            dataset: name("d"),
            runs: seeded_runs(SEEDS, split),
            settings,
            recipe: HeadRecipe { semantic: self.semantic.clone(), quality: self.quality.clone(), settings: head },
        };
        for run in stage.plan().expect("columns that a head reads").run_names().expect("valid names") {
            self.context.store.delete(&models::record_path(&run)).expect("an object can be deleted");
        }
        stage.run(&self.context).expect("it trains");
    }
}

/// Two heads, two epochs; batch 8 is the paper's.
#[divan::bench(args = [8, 64], sample_count = 3)]
fn two_heads_two_epochs(bencher: divan::Bencher<'_, '_>, batch_size: u32) {
    let data = Data::new();
    let settings = TrainSettings { optimiser: Optimiser::Adamw, batch_size, epochs: 2, ..TrainSettings::default() };
    let head = HeadSettings { input_dropout: 0.5, dropout: 0.5, ridge: false, ..HeadSettings::default() };
    let n_rows = 2 * 2 * (N_IMAGES * 7 / 10);
    bencher.counter(divan::counter::ItemsCount::new(n_rows)).bench_local(|| data.train(settings.clone(), head.clone()));
}

/// Two heads of width 1 for one epoch, and ridge on all columns beside each.
#[divan::bench(sample_count = 3)]
fn two_ridges(bencher: divan::Bencher<'_, '_>) {
    let data = Data::new();
    let settings = TrainSettings { batch_size: 512, epochs: 1, ..TrainSettings::default() };
    let head = HeadSettings { width: 1, ..HeadSettings::default() };
    bencher.bench_local(|| data.train(settings.clone(), head.clone()));
}
