//! `agiqa features`, by its older names: which images get which features, and what happens to those that cannot.

use std::collections::BTreeMap;
use std::path::Path;

use agiqa::features::dinov2::Dinov2Options;
use agiqa::features::{CommonSettings, DeviceChoice, Dtype, FeatureSettings, NetworkSettings, feature_sets};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::features::{FeatureKind, FeatureSet};
use agiqa_store::tables::rejects::{self, RejectRow};

use crate::testdir::{TestDir, open_store, shared, weights};

/// Side that keeps the network fast: a grid of 4 × 4 patches.
const SIDE: &str = "56";

/// Whether the network's weights are there; where they are not, the test says so and passes.
pub fn has_network() -> bool {
    weights("dinov2-s14/vit_s_focus.onnx").is_some()
}

/// A picture that no other `seed` gives: coloured waves and noise.
pub fn picture(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let waves: Vec<f64> = (0..6).map(|_| next() * 0.6).collect();
    let image = image::RgbImage::from_fn(72, 64, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        image::Rgb([0, 1, 2].map(|c| {
            let wave = (x * waves[2 * c] + y * waves[2 * c + 1]).sin() * 90.0 + 128.0;
            (wave + 30.0 * next()) as u8
        }))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
    bytes.into_inner()
}

/// Writes pictures `seeds` into the folder `images`.
pub fn pictures(dir: &TestDir, seeds: impl IntoIterator<Item = u32>) {
    for seed in seeds {
        dir.write(&format!("images/picture-{seed:03}.png"), picture(seed));
    }
}

/// Bits of all vectors of the corpus after an extraction with `more`, by image.
fn bits_with(pictures: impl Fn(&TestDir), more: &[&str]) -> std::collections::BTreeMap<String, Vec<u32>> {
    let dir = TestDir::new();
    pictures(&dir);
    let base = ["extract", "--store", "store", "--images", "images", "--device", "cpu"];
    run_two_threads(&dir, &[&base[..], more].concat());
    crate::extract_maniqa::bits_of_features(&dir, "store")
}

#[test]
fn vectors_of_the_smallest_images_depend_on_no_order_company_or_number_of_threads() {
    if !has_network() {
        return;
    }
    let in_order = |dir: &TestDir| pictures(dir, 0..5);
    let shuffled =
        |dir: &TestDir| (0..5).for_each(|i| _ = dir.write(&format!("images/{}.png", (i * 3 + 2) % 5), picture(i)));
    let alone = |dir: &TestDir| pictures(dir, [3]);
    for side in ["28", "56"] {
        let more = |threads| ["--extractor", "dinov2-s14", "--side", side, "--threads", threads];
        let expected = bits_with(in_order, &more("2"));
        assert_eq!(expected.len(), 5);
        for (image, bits) in [bits_with(shuffled, &more("2")), bits_with(alone, &more("1"))].iter().flatten() {
            assert!(bits == &expected[image], "{image} at side {side}");
        }
    }
}

/// The settings of `dinov2-s14` at `side` pixels.
pub fn dinov2_of_side(side: u32) -> FeatureSettings {
    let options = Dinov2Options { side: Some(side), ..Dinov2Options::default() };
    FeatureSettings { network: NetworkSettings::Dinov2S14(options), ..FeatureSettings::default() }
}

/// `agiqa extract` over the folder `images` into the folder `store`, small and fast.
pub fn extract<'a>(more: &[&'a str]) -> Vec<&'a str> {
    // One thread: tests run side by side, and torch's threads wait for each other by spinning.
    let base = ["extract", "--extractor", "dinov2-s14", "--store", "store", "--images", "images", "--side", SIDE];
    let base = base.into_iter().chain(["--device", "cpu", "--threads", "1"]);
    base.chain(more.iter().copied()).collect()
}

/// Bits of every vector per image, over all columns of both tables.
pub type Bits = BTreeMap<ImageId, Vec<u32>>;

/// What the store in `folder` holds of its only pair of feature sets. Fails where an image is in two parts.
#[track_caller]
pub fn features(folder: &Path) -> Bits {
    let store = open_store(folder);
    let mut bits = Bits::new();
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    assert_eq!(sets.len(), 2, "one semantic and one quality set");
    for kind in [FeatureKind::Semantic, FeatureKind::Quality] {
        let set = sets.iter().find(|set| set.kind == kind).expect("a set per table");
        let done = set.done(&store).expect("parts can be read");
        assert_eq!(n_rows(&store, set), done.len(), "an image is in two rows of {}", set.prefix());
        for (id, row) in vectors(&store, set) {
            bits.entry(id).or_default().extend(row.iter().map(|value| value.to_bits()));
        }
    }
    bits
}

/// Rows in all parts of `set`, an image in two parts counted twice.
pub fn n_rows(store: &Store, set: &FeatureSet) -> usize {
    let parts = agiqa_store::store::part::list(store, &set.prefix()).expect("parts can be listed");
    let rows = |part| {
        let reader = agiqa_store::store::part::PartReader::open(store, part, set.kind.part_kind());
        reader.expect("a part can be opened").n_rows() as usize
    };
    parts.iter().map(rows).sum()
}

/// All vectors of `set`, columns joined.
pub fn vectors(store: &Store, set: &FeatureSet) -> BTreeMap<ImageId, Vec<f32>> {
    let ids: Vec<ImageId> = set.done(store).expect("parts can be read").into_iter().collect();
    let found = set.read(store, &ids).expect("vectors can be read");
    let row_of = |row: usize| {
        let columns = set.columns.iter().zip(&found.matrices);
        columns.flat_map(|(column, values)| values[row * column.dim..][..column.dim].to_vec()).collect()
    };
    ids.iter().zip(&found.rows).map(|(id, row)| (*id, row_of(row.expect("a done image has vectors")))).collect()
}

fn rejects_in(folder: &Path) -> Vec<RejectRow> {
    let store = open_store(folder);
    rejects::read(&store, "features").expect("rejects can be read")
}

#[test]
fn a_bare_folder_fills_both_tables_and_becomes_a_corpus_without_mos() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    dir.write("images/deeper/copy.png", picture(0));
    dir.write("images/notes.txt", "no image");
    dir.agiqa(&extract(&[])).exits(0).says("4 of 4 images have features");
    assert_eq!(features(&dir.path().join("store")).len(), 3, "a copy is computed once");

    let store = dir.store();
    let dataset = "images".parse().expect("a name");
    let corpus = agiqa_store::tables::images::read(&store, &dataset).expect("the corpus has a table");
    let names: Vec<&str> = corpus.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["deeper/copy.png", "picture-000.png", "picture-001.png", "picture-002.png"]);
    assert!(corpus.rows.iter().all(|row| row.mos.is_none() && row.width_px == 72 && row.height_px == 64));

    dir.agiqa(&extract(&[])).exits(0).says("all 4 images have features");
    dir.agiqa(&["embed", "--extractor", "dinov2-s14", "--store", "store", "--dataset", "images", "--side", SIDE])
        .exits(0)
        .says("all 4 images have features");
}

#[test]
fn an_image_has_the_same_bits_in_any_company_and_order() {
    if !has_network() {
        return;
    }
    for dtype in dtypes() {
        let all = TestDir::new();
        pictures(&all, 0..9);
        let args = extract(&["--dtype", dtype, "--batch-size", "4"]);
        // Two threads, so that rows of a batch are also divided among threads.
        let args: Vec<&str> = args.into_iter().map(|arg| if arg == "1" { "2" } else { arg }).collect();
        run_two_threads(&all, &args);
        let expected = features(&all.path().join("store"));
        assert_eq!(expected.len(), 9);

        // Other names, so another order and other places in the batches; then some alone, with padding for company.
        let shuffled = TestDir::new();
        for seed in 0..9 {
            shuffled.write(&format!("images/{}.png", seed * 5 % 9), picture(seed));
        }
        run_two_threads(&shuffled, &args);
        assert_eq!(features(&shuffled.path().join("store")), expected, "another order, {dtype}");

        let few = TestDir::new();
        pictures(&few, [2, 7]);
        run_two_threads(&few, &args);
        for (id, bits) in features(&few.path().join("store")) {
            assert_eq!(bits, expected[&id], "other company, {dtype}");
        }
    }
}

/// Runs to success; torch's threads sleep while they wait for each other, because other tests want the processors.
fn run_two_threads(dir: &TestDir, args: &[&str]) {
    let output = dir.command(args).env("OMP_WAIT_POLICY", "passive").output().expect("agiqa can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The number types that this machine computes in.
fn dtypes() -> Vec<&'static str> {
    if agiqa::features::cpu_has_bf16() {
        return vec!["f32", "bf16"];
    }
    println!("skipped for bf16: this CPU has no instructions for it");
    vec!["f32"]
}

#[test]
fn bf16_features_are_close_to_f32_ones_and_kept_apart_from_them() {
    if !has_network() || !dtypes().contains(&"bf16") {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..4);
    dir.agiqa(&extract(&["--dtype", "f32"])).exits(0);
    dir.agiqa(&extract(&["--dtype", "bf16"])).exits(0).says("4 of 4 images lack features");
    let store = dir.store();
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    assert_eq!(sets.len(), 4, "two tables, two types");
    for kind in [FeatureKind::Semantic, FeatureKind::Quality] {
        let of_dtype = |dtype: &str| {
            let set = sets.iter().find(|set| set.kind == kind && set.settings["dtype"] == dtype).expect("a set");
            vectors(&store, set)
        };
        let (exact, rounded) = (of_dtype("f32"), of_dtype("bf16"));
        for (id, exact) in &exact {
            let squares = |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let error = squares(&mut exact.iter().zip(&rounded[id]).map(|(a, b)| a - b));
            let relative = (error / squares(&mut exact.iter().copied())).sqrt();
            assert!(relative < 0.03, "{kind:?} of {id}: bf16 differs from f32 by {relative} of its norm");
            assert!(relative > 0.0, "{kind:?} of {id}: bf16 equals f32, so it was not used");
        }
    }
}

/// `tests/data/dinov2_s14_AttnGAN_normal_000.safetensors` holds what an independent forward in PyTorch gives for that
/// image in f32 (weights from the same file, Pillow's decoder and bicubic resize to 392 px, pooling in f64).
#[test]
fn features_equal_those_of_the_reference_forward_in_pytorch() {
    let Some(image) = shared("datasets/agiqa-3k/images/AttnGAN_normal_000.jpg") else { return };
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    dir.write("images/AttnGAN_normal_000.jpg", std::fs::read(image).expect("it can be read"));
    let args = ["extract", "--extractor", "dinov2-s14", "--store", "store", "--images", "images", "--batch-size", "1"];
    dir.agiqa(&args).exits(0);
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dinov2_s14_AttnGAN_normal_000.safetensors");
    let reference = std::fs::read(reference).expect("the fixture is part of the project");
    let reference = safetensors::SafeTensors::deserialize(&reference).expect("the fixture is whole");
    let store = dir.store();
    for set in FeatureSet::list(&store).expect("sets can be listed") {
        let found: Vec<f32> = vectors(&store, &set).into_values().flatten().collect();
        let mut start = 0;
        for column in &set.columns {
            let expected = reference.tensor(&column.name).expect("a tensor per column").data();
            let expected = expected.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let found = &found[start..start + column.dim];
            assert_eq!(expected.len(), found.len());
            start += column.dim;
            let (mut error, mut norm) = (0.0, 0.0);
            for (found, expected) in found.iter().zip(expected) {
                error += f64::from(found - expected).powi(2);
                norm += f64::from(expected).powi(2);
            }
            let relative = (error / norm).sqrt();
            // What is left comes from the resize, whose rounding differs from Pillow's in one value of ten by one level.
            assert!(relative < 0.004, "`{}` differs by {relative} of its norm", column.name);
        }
    }
}

#[test]
fn one_bad_image_among_good_ones_is_a_reject_and_is_tried_again_on_request_only() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    let good = picture(3);
    dir.write("images/broken.png", &good[..good.len() / 2]);
    dir.agiqa(&extract(&[])).exits(1).says("3 of 4 images have features, 1 rejected");
    let rejected = rejects_in(&dir.path().join("store"));
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].image_id, Some(ImageId::of_bytes(&good[..good.len() / 2])));
    assert!(rejected[0].path.as_ref().is_some_and(|path| path.ends_with("broken.png")), "{rejected:?}");
    assert!(rejected[0].fingerprint.is_some() && !rejected[0].message.is_empty(), "{rejected:?}");

    // Known to be bad: nothing is computed, and the exit code still says so.
    dir.agiqa(&extract(&[])).exits(1).says("skipped");
    dir.agiqa(&extract(&["--retry-rejects"])).exits(1).says("1 of 4 images lack features");
    assert_eq!(rejects_in(&dir.path().join("store")).len(), 1, "tried again, rejected again, listed once");

    // Repaired, it is another content, so another image.
    dir.write("images/broken.png", &good);
    dir.agiqa(&extract(&["--retry-rejects"])).exits(0).says("4 of 4 images have features");
    assert_eq!(features(&dir.path().join("store")).len(), 4);
}

#[test]
fn an_image_that_changed_or_went_away_since_ingest_is_rejected_until_it_is_back() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..3);
    dir.agiqa(&extract(&[])).exits(0);
    dir.write("images/picture-001.png", picture(50));
    std::fs::remove_file(dir.path().join("images/picture-002.png")).expect("it is there");
    // Another side needs the images again.
    let again = ["extract", "--extractor", "dinov2-s14", "--store", "store", "--dataset", "images", "--side", "70"];
    dir.agiqa(&again).exits(1).says("1 of 3 images have features, 2 rejected");
    let mut kinds: Vec<String> = rejects_in(&dir.path().join("store")).into_iter().map(|row| row.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["changed", "missing"]);

    pictures(&dir, 0..3);
    dir.agiqa(&again).exits(1);
    let retry: Vec<&str> = again.into_iter().chain(["--retry-rejects"]).collect();
    dir.agiqa(&retry).exits(0).says("3 of 3 images have features");
    assert!(rejects_in(&dir.path().join("store")).is_empty(), "what is repaired is no reject");
}

#[test]
fn an_image_beyond_the_pixel_limit_is_rejected() {
    if !has_network() {
        return;
    }
    let dir = TestDir::new();
    pictures(&dir, 0..2);
    dir.agiqa(&extract(&["--max-pixels", "4000"])).exits(1).says("0 of 2 images have features, 2 rejected");
    assert!(rejects_in(&dir.path().join("store")).iter().all(|row| row.kind == "too-large"));
}

#[test]
fn shards_together_are_the_whole_and_another_count_resumes_them() {
    if !has_network() {
        return;
    }
    let whole = TestDir::new();
    pictures(&whole, 0..12);
    whole.agiqa(&extract(&[])).exits(0);
    let expected = features(&whole.path().join("store"));

    let dir = TestDir::new();
    pictures(&dir, 0..12);
    dir.agiqa(&extract(&["--shard", "2/3"])).exits(0);
    let n_first = features(&dir.path().join("store")).len();
    assert!((1..12).contains(&n_first), "a third of 12 images is {n_first}");
    for shard in ["1/2", "2/2"] {
        dir.agiqa(&extract(&["--shard", shard])).exits(0);
    }
    assert_eq!(features(&dir.path().join("store")), expected);
    dir.agiqa(&extract(&[])).exits(0).says("all 12 images have features");
}

#[test]
fn a_truncated_weights_file_is_named_and_nothing_is_computed() {
    let Some(weights) = weights("dinov2-s14/vit_s_focus.onnx") else { return };
    let dir = TestDir::new();
    pictures(&dir, 0..1);
    let bytes = std::fs::read(&weights).expect("weights can be read");
    dir.write("weights/dinov2-s14/vit_s_focus.onnx", &bytes[..bytes.len() / 2]);
    let args = extract(&[]);
    let output = dir.command(&args).env("AGIQA_WEIGHTS", dir.path().join("weights")).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("vit_s_focus.onnx") && stderr.contains("truncated") && stderr.contains("weights fetch"),
        "{stderr}"
    );
    let parts = walkdir::WalkDir::new(dir.path().join("store")).into_iter().flatten();
    assert_eq!(parts.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "parquet")).count(), 0);
}

#[test]
fn settings_that_make_no_sense_are_refused_with_what_would() {
    let dir = TestDir::new();
    pictures(&dir, 0..1);
    dir.agiqa(&extract(&["--set", "side=60"])).exits(2).says("`side = 60`").says("56 or 70");
    let default = ["extract", "--store", "store", "--images", "images", "--side", "60"];
    dir.agiqa(&default).exits(2).says("`sides = 60`").says("expected multiples of 16").says("such as 48");
    let extractor = ["embed", "--store", "store", "--images", "images", "--extractor", "dinov3"];
    dir.agiqa(&extractor).exits(2).says("unknown extractor `dinov3`: expected clip-b16, dinov2-s14");
    let shard = ["extract", "--store", "store", "--images", "images", "--shard", "3/2"];
    dir.agiqa(&shard).exits(2).says("expected `k/n`");
    dir.agiqa(&["extract", "--store", "store"]).exits(2).says("--dataset");
}

#[test]
fn a_source_without_images_is_an_error_that_names_it() {
    let dir = TestDir::new();
    std::fs::create_dir(dir.path().join("images")).expect("a folder can be made");
    dir.agiqa(&extract(&[])).exits(2).says("no image file below");
    dir.agiqa(&["extract", "--store", "store", "--images", "nowhere"]).exits(2).says("nowhere");
    let absent = ["extract", "--store", "store", "--dataset", "agiqa-3k"];
    dir.agiqa(&absent).exits(2).says("no images of dataset `agiqa-3k`").says("agiqa ingest");
}

#[test]
fn a_folder_does_not_replace_an_ingested_dataset() {
    let dir = TestDir::new();
    pictures(&dir, 0..1);
    let store = dir.store();
    let rated = agiqa_store::tables::images::ImageRow {
        image_id: ImageId::of_bytes(b"rated"),
        name: "rated.png".to_owned(),
        path: "/rated.png".to_owned(),
        n_bytes: 5,
        width_px: 1,
        height_px: 1,
        format: "png".to_owned(),
        generator: None,
        prompt: None,
        mos: Some(3.0),
        mos_std: None,
        mos_align: None,
    };
    let images = agiqa_store::tables::images::Images { rows: vec![rated], extra: Vec::new() };
    let dataset = "agiqa-3k".parse().expect("a name");
    agiqa_store::tables::images::write(&store, &dataset, &images).expect("a table can be written");
    dir.agiqa(&extract(&["--dataset", "agiqa-3k"])).exits(2).says("`agiqa-3k` is an ingested dataset with MOS");
    assert_eq!(agiqa_store::tables::images::read(&store, &dataset).expect("it can be read"), images);
}

#[test]
fn fingerprints_differ_by_what_decides_the_numbers_and_by_nothing_else() {
    let pair = |change: fn(&mut Dinov2Options, &mut CommonSettings)| {
        let (mut options, mut common) = (Dinov2Options::default(), CommonSettings::default());
        change(&mut options, &mut common);
        let settings = FeatureSettings { network: NetworkSettings::Dinov2S14(options), common };
        let pair = feature_sets(&settings).expect("settings that make sense");
        (pair.semantic.fingerprint, pair.quality.fingerprint)
    };
    let default = pair(|_, _| {});
    assert_eq!(default, pair(|options, _| options.side = Some(392)));
    assert_eq!(default, pair(|_, common| common.retry_rejects = true));
    assert_eq!(default, pair(|_, common| common.part_secs = 1));
    assert_ne!(default, pair(|options, _| options.side = Some(224)));
    assert_ne!(default, pair(|_, common| common.device = DeviceChoice::Cuda(0)), "a GPU takes f16 by default");
    let f32_on_gpu = pair(|options, common| (options.dtype, common.device) = (Some(Dtype::F32), DeviceChoice::Cuda(0)));
    assert_eq!(default, f32_on_gpu, "f32 is f32 on any device");
    let bf16 = pair(|options, _| options.dtype = Some(Dtype::Bf16));
    assert_ne!(default, bf16);
    // bf16 weights may be multiplied in f32 on a CPU: the same values have the same fingerprint, others another.
    let described = |device| {
        let options = Dinov2Options { dtype: Some(Dtype::Bf16), ..Dinov2Options::default() };
        let common = CommonSettings { device, ..CommonSettings::default() };
        let settings = FeatureSettings { network: NetworkSettings::Dinov2S14(options), common };
        let set = feature_sets(&settings).expect("settings that make sense").semantic;
        (set.fingerprint, set.settings)
    };
    let (on_gpu, on_cpu) = (described(DeviceChoice::Cuda(0)), described(DeviceChoice::Cpu));
    assert_eq!(on_gpu.1.get("products"), None);
    assert_eq!(on_cpu.0 == on_gpu.0, on_cpu.1.get("products").is_none(), "{}", on_cpu.1);
    assert_ne!(default.0, default.1, "a table each");
}
