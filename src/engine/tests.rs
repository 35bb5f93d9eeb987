//! The engine with guests of its own, under random images, parts, shards and repetitions.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tch::Device;

use super::*;
use agiqa_images::RgbImage8;
use agiqa_nets::device::Memory;
use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::stage::{Freshness, Stage, StageContext};
use agiqa_store::store::part::{self, PartReader};
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::shard::Shard;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureSet, VectorColumn};
use agiqa_store::tables::rejects;
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};

/// How the guest computes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    PerImage,
    FixedBatches,
    VaryingSizes,
}

/// A guest that gives an image the level of its first pixel: as a score, and as a vector of two values. Level 7 is unusable,
/// level 9 gives NaN.
#[derive(Clone, Debug)]
struct Levels {
    kind: Kind,
    device: FakeDevice,
    batch_size: usize,
    part_rows: usize,
    shard: Shard,
    retry_rejects: bool,
}

/// What a network meets on its device.
#[derive(Clone, Debug)]
struct FakeDevice {
    on_cpu: bool,
    /// Greatest number of images that fit into its memory.
    room: usize,
    /// What happened, in order.
    log: Arc<Mutex<Vec<Event>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A batch of this many images was launched.
    Launched(usize),
    /// A batch of this many images did not fit.
    Failed(usize),
    /// The rows of this many real images were fetched.
    Fetched(usize),
}

impl FakeDevice {
    fn note(&self, event: Event) {
        self.log.lock().expect("no panic").push(event);
    }
}

impl Default for FakeDevice {
    fn default() -> Self {
        Self { on_cpu: true, room: usize::MAX, log: Arc::default() }
    }
}

fn name(text: &str) -> PartitionName {
    PartitionName::new(text).expect("a name")
}

fn scores() -> ScoreSet {
    let fingerprint = Fingerprint::builder("test").json("output", &"scores").finish();
    ScoreSet {
        scorer: name("levels"),
        kind: ScorerKind::Method,
        fingerprint,
        direction: Direction::Higher,
        settings: serde_json::json!({}),
    }
}

fn vectors() -> FeatureSet {
    FeatureSet {
        extractor: name("levels"),
        fingerprint: Fingerprint::builder("test").json("output", &"vectors").finish(),
        kind: FeatureKind::Quality,
        columns: vec![VectorColumn { name: "f_1".to_owned(), dim: 2 }],
        settings: serde_json::json!({}),
    }
}

/// The score of a picture.
fn level(pixel: u8) -> f64 {
    if pixel == 9 { f64::NAN } else { f64::from(pixel) }
}

/// Rows of images with these first pixels.
fn rows(pixels: &[u8]) -> Vec<OutputRows> {
    let values = pixels.iter().flat_map(|pixel| [f32::from(*pixel), 2.0 * f32::from(*pixel)]).collect();
    vec![
        OutputRows::Scores(pixels.iter().map(|pixel| level(*pixel).into()).collect()),
        OutputRows::Vectors { columns: vec![values], n_tokens: 1 },
    ]
}

fn checked(image: &RgbImage8) -> Result<u8, Unusable> {
    match image.pixels[0] {
        7 => Err(Unusable { kind: "flat", message: "level 7".to_owned() }),
        pixel => Ok(pixel),
    }
}

struct Levelling;

impl PerImage for Levelling {
    fn compute(&self, image: &RgbImage8, tasks: &[usize]) -> Vec<Result<Vec<OutputRows>, Unusable>> {
        assert_eq!(tasks, [0]);
        vec![checked(image).map(|pixel| rows(&[pixel]))]
    }
}

impl Preprocessor for Kind {
    fn size(&self) -> InputSize {
        if *self == Self::VaryingSizes { InputSize::Varying } else { InputSize::Fixed }
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let pixel = checked(image)?;
        Ok(match self {
            // As many values as the image is wide.
            Self::VaryingSizes => Input {
                values: Values::U8(vec![pixel; image.width_px as usize]),
                shape: vec![i64::from(image.width_px)],
            },
            Self::PerImage | Self::FixedBatches => {
                Input { values: Values::F32(vec![f32::from(pixel), 0.5]), shape: vec![2] }
            }
        })
    }
}

struct LevelNetwork {
    frame: Frame,
    device: FakeDevice,
    n_last: usize,
}

impl LevelNetwork {
    fn new(kind: Kind, device: FakeDevice, batch_size: usize) -> Self {
        let frame = Frame {
            preprocessor: Arc::new(kind),
            batch_size: BatchSize::Preferred(batch_size),
            device: if device.on_cpu { Device::Cpu } else { Device::Cuda(0) },
            notes: Vec::new(),
        };
        Self { frame, device, n_last: 0 }
    }
}

impl Network for LevelNetwork {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    /// 50 bytes of weights; a batch takes 7, and 3 for each image.
    fn memory(&self) -> Option<Memory> {
        (!self.device.on_cpu).then(|| Memory { free: 1000, allocated: 50, peak: 57 + 3 * self.n_last as u64 })
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let (n_images, n_padded) = (batch.n_images(), batch.size);
        self.n_last = n_padded;
        if n_padded > self.device.room {
            self.device.note(Event::Failed(n_padded));
            return Err(Box::new(tch::TchError::Torch("CUDA out of memory. Tried to allocate 2.00 GiB".to_owned())));
        }
        self.device.note(Event::Launched(n_padded));
        let inputs = batch.on(Device::Cpu).expect("memory");
        let of_image = &batch.inputs[0].shape;
        assert_eq!(inputs.size(), [n_padded as i64, of_image[0]], "a batch is padded to its size");
        let padding = inputs.narrow(0, n_images as i64, (n_padded - n_images) as i64);
        assert_eq!(padding.to_kind(tch::Kind::Float).abs().sum(tch::Kind::Float).double_value(&[]), 0.0);
        let firsts = inputs.narrow(0, 0, n_images as i64).select(1, 0).to_kind(tch::Kind::Uint8);
        let pixels = Vec::<u8>::try_from(firsts.contiguous()).expect("levels");
        let device = self.device.clone();
        Ok(Box::new(move || {
            device.note(Event::Fetched(n_images));
            Ok(rows(&pixels))
        }))
    }
}

impl Guest for Levels {
    fn tasks(&self) -> Vec<Task> {
        vec![Task { name: "levels".to_owned(), outputs: vec![Output::Scores(scores()), Output::Vectors(vectors())] }]
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        Ok(match self.kind {
            Kind::PerImage => Loaded::PerImage(Box::new(Levelling)),
            kind => {
                let (device, batch_size) = (self.device.clone(), self.batch_size);
                Loaded::Network(Box::new(LevelNetwork::new(kind, device, batch_size)))
            }
        })
    }
}

impl GuestSettings for Levels {
    fn words(&self) -> GuestWords {
        GuestWords {
            stage: "levels",
            title: "levels".to_owned(),
            unit: "images",
            done: "images have levels",
            lacking: "images lack levels",
            retry_hint: None,
        }
    }

    fn work(&self) -> Work {
        Work {
            max_pixels: 100,
            shard: self.shard,
            retry_rejects: self.retry_rejects,
            part_rows: NonZeroUsize::new(self.part_rows).expect("not zero"),
            part_secs: 60,
        }
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(self.clone()))
    }
}

/// A store and a folder of images: per image its width and first pixel, and a file that is no picture.
struct Night {
    folder: tempfile::TempDir,
    /// Level by content, of the files that are pictures.
    levels: BTreeMap<ImageId, u8>,
    n_files: u64,
}

impl Night {
    fn new(images: &[(u32, u8)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pictures = folder.path().join("pictures");
        std::fs::create_dir(&pictures).expect("a folder can be made");
        let mut levels = BTreeMap::new();
        for (index, (width, level)) in images.iter().enumerate() {
            let path = pictures.join(format!("{index}.png"));
            let image = image::RgbImage::from_pixel(*width, 2, image::Rgb([*level, 0, 0]));
            image.save(&path).expect("an image can be written");
            levels.insert(ImageId::of_bytes(&std::fs::read(&path).expect("it was written")), *level);
        }
        std::fs::write(pictures.join("text.png"), "no picture").expect("a file can be written");
        Self { folder, levels, n_files: images.len() as u64 + 1 }
    }

    fn context(&self, store: &str) -> StageContext {
        let path = self.folder.path().join(store).display().to_string();
        StageContext {
            store: Store::open(&path, OpenMode::CreateIfMissing).expect("a store"),
            console: Console::new(Verbosity::Quiet, EventFormat::Text),
            interrupt: Interrupt::default(),
            n_threads: 3,
            max_rejects: None,
        }
    }

    fn stage(&self, levels: Levels) -> ImageStage<Levels> {
        ImageStage::new(levels, ImageSource::Folder { folder: self.folder.path().join("pictures"), dataset: None })
    }

    fn compute(&self, levels: Levels, context: &StageContext) -> RowCounts {
        self.stage(levels).compute(context).expect("the stage works").rows
    }

    /// What a complete store holds: a score per usable content.
    fn expected(&self) -> BTreeMap<ImageId, f64> {
        let usable = self.levels.iter().filter(|(_, level)| ![7, 9].contains(*level));
        usable.map(|(id, level)| (*id, f64::from(*level))).collect()
    }
}

fn stored(store: &Store) -> BTreeMap<ImageId, f64> {
    scores().read(store).expect("scores can be read").into_iter().collect()
}

fn settings(kind: Kind, batch_size: usize, part_rows: usize) -> Levels {
    let device = FakeDevice::default();
    Levels { kind, device, batch_size, part_rows, shard: Shard::WHOLE, retry_rejects: false }
}

fn images() -> impl Strategy<Value = Vec<(u32, u8)>> {
    prop::collection::vec((1_u32..5, 0_u8..12), 1..14)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::PerImage), Just(Kind::FixedBatches), Just(Kind::VaryingSizes)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_image_has_its_rows_or_a_reject_and_a_second_run_has_nothing_to_do(
        images in images(), kind in kinds(), batch_size in 1_usize..6, part_rows in 1_usize..5,
    ) {
        let night = Night::new(&images);
        let context = night.context("store");
        let levels = settings(kind, batch_size, part_rows);
        let rows = night.compute(levels.clone(), &context);
        prop_assert!(rows.balanced() && rows.n_left == 0, "{rows:?}");
        prop_assert_eq!(rows.n_in, night.n_files);
        prop_assert_eq!(stored(&context.store), night.expected());
        let ids: Vec<ImageId> = night.expected().into_keys().collect();
        let found = vectors().read(&context.store, &ids).expect("vectors can be read");
        for (id, row) in ids.iter().zip(&found.rows) {
            let level = f32::from(night.levels[id]);
            let row = row.expect("a vector for every score");
            prop_assert_eq!(&found.matrices[0][2 * row..2 * row + 2], [level, 2.0 * level]);
        }
        let rejected = rejects::read(&context.store, "levels").expect("rejects can be read");
        let kinds: BTreeSet<&str> = rejected.iter().map(|row| row.kind.as_str()).collect();
        prop_assert!(kinds.is_subset(&BTreeSet::from(["flat", "non-finite", "not-an-image"])), "{kinds:?}");

        let again = night.stage(levels).freshness(&context.store).expect("it can be judged");
        let Freshness::Current { rows: cached, .. } = again else { panic!("{again:?}") };
        prop_assert_eq!((cached.n_out, cached.n_rejected), (rows.n_out, rows.n_rejected));
    }

    #[test]
    fn shards_and_repetitions_leave_what_one_run_leaves(
        images in images(), kind in kinds(), n_shards in 1_u32..4, batch_size in 1_usize..4,
    ) {
        let night = Night::new(&images);
        let context = night.context("sharded");
        for index in 1..=n_shards {
            let shard: Shard = format!("{index}/{n_shards}").parse().expect("a shard");
            let levels = Levels { shard, ..settings(kind, batch_size, 3) };
            prop_assert!(night.compute(levels.clone(), &context).balanced());
            let retried = night.compute(Levels { retry_rejects: true, ..levels }, &context);
            prop_assert!(retried.balanced() && retried.n_left == 0, "{retried:?}");
        }
        prop_assert_eq!(stored(&context.store), night.expected());
    }
}

/// Seven pictures on a GPU with memory for `room` images at once, in batches of four, and what happened.
fn on_a_gpu(room: usize) -> (Vec<Event>, String) {
    let night = Night::new(&[(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 8)]);
    let context = night.context("store");
    let device = FakeDevice { on_cpu: false, room, log: Arc::default() };
    let levels = Levels { device: device.clone(), ..settings(Kind::FixedBatches, 4, 100) };
    let rows = night.compute(levels, &context);
    assert!(rows.balanced() && rows.n_left == 0, "{rows:?}");
    assert_eq!(stored(&context.store), night.expected());
    let set = vectors();
    let parts = part::list(&context.store, &set.prefix()).expect("parts");
    let reader = PartReader::open(&context.store, &parts[0], set.kind.part_kind()).expect("a part");
    let batch_size = reader.metadata_value("agiqa.batch_size").expect("the part says it");
    let log = device.log.lock().expect("no panic").clone();
    (log, batch_size)
}

#[test]
fn a_gpu_has_the_next_batch_before_the_rows_of_the_last_are_fetched() {
    use Event::{Fetched, Launched};
    let (log, batch_size) = on_a_gpu(100);
    // Three batches measure the memory.
    let measured = [1, 2, 6].map(|n| [Launched(n), Fetched(n)]).concat();
    assert_eq!(log, [&measured[..], &[Launched(4), Launched(4), Fetched(4), Fetched(3)]].concat());
    assert_eq!(batch_size, "4");
}

#[test]
fn if_memory_is_short_launched_batches_are_fetched_and_then_half_as_many_images_are_launched() {
    use Event::{Failed, Fetched, Launched};
    let (log, batch_size) = on_a_gpu(2);
    let measured = [Launched(1), Fetched(1), Launched(2), Fetched(2), Failed(6)];
    let batches = [Failed(4), Launched(2), Launched(2), Fetched(2), Launched(2), Fetched(2), Launched(2)];
    assert_eq!(log, [&measured[..], &batches[..], &[Fetched(2), Fetched(1)]].concat());
    assert_eq!(batch_size, "2");
    let night = Night::new(&[(1, 1)]);
    let device = FakeDevice { on_cpu: false, room: 0, log: Arc::default() };
    let levels = Levels { device, ..settings(Kind::FixedBatches, 4, 100) };
    let error = night.stage(levels).compute(&night.context("store")).expect_err("one image does not fit");
    let EngineError::Guest(error) = error else { panic!("{error}") };
    assert!(is_allocation_failure(error.as_ref()), "{error}");
}

#[test]
fn a_cpu_computes_a_batch_before_the_next() {
    use Event::{Fetched, Launched};
    let night = Night::new(&[(1, 1), (1, 2), (1, 3)]);
    let levels = settings(Kind::FixedBatches, 2, 100);
    night.compute(levels.clone(), &night.context("store"));
    let log = levels.device.log.lock().expect("no panic").clone();
    assert_eq!(log, [Launched(2), Fetched(2), Launched(2), Fetched(1)]);
}

#[test]
fn the_batch_size_follows_the_memory_that_batches_took() {
    let device = FakeDevice { on_cpu: false, ..FakeDevice::default() };
    let mut network = LevelNetwork::new(Kind::FixedBatches, device, 1);
    let room = memory::measured(&mut network);
    // 85 % of 1000 bytes without 7, at 3 an image: 281.
    assert_eq!(memory::choose(BatchSize::Preferred(1024), room).n_images, 256);
    network.device.on_cpu = true;
    assert_eq!(memory::measured(&mut network), None);
}

#[test]
fn an_interrupted_run_leaves_its_rows_and_the_next_one_goes_on() {
    let night = Night::new(&[(1, 1), (1, 2), (1, 3)]);
    let context = night.context("store");
    context.interrupt.raise();
    let report = night.stage(settings(Kind::PerImage, 1, 1)).compute(&context).expect("it stops early");
    assert!(report.interrupted && report.rows.balanced(), "{report:?}");
    let fresh = StageContext { interrupt: Interrupt::default(), ..context };
    night.compute(settings(Kind::FixedBatches, 2, 1), &fresh);
    assert_eq!(stored(&fresh.store), night.expected());
}

#[test]
fn an_image_that_only_the_guest_refuses_stays_in_the_corpus() {
    let night = Night::new(&[(1, 7), (1, 2)]);
    let context = night.context("store");
    night.compute(settings(Kind::PerImage, 1, 8), &context);
    let corpus = agiqa_store::tables::images::read(&context.store, &name("pictures")).expect("a table");
    let names: BTreeSet<&str> = corpus.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["0.png", "1.png"]));
    assert!(corpus.rows.iter().all(|row| Path::new(&row.path).is_absolute()));
}
