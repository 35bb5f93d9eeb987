//! `agiqa extract --extractor maniqa`: from image files to columns, by the authors' numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agiqa_store::identity::ImageId;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::scores::{ScoreSet, ScorerKind};
use tch::{Kind, Tensor};

use crate::maniqa::{OURS, write_weights};
use crate::testdir::{Ran, TestDir, open_store, reference, shared};

/// Our small network, and what it makes of its images.
const SMALL: &str = "maniqa";

fn expected_of_ours() -> PathBuf {
    reference(SMALL).join("expected.safetensors")
}

fn read(path: &Path) -> Vec<(String, Tensor)> {
    Tensor::read_safetensors(path).expect("a safetensors file")
}

/// Writes the images of the file `expected`, as large as the network takes them, and returns who they are, in order.
fn images(dir: &TestDir, expected: &Path) -> Vec<ImageId> {
    let tensors = read(expected);
    let (_, images) = tensors.iter().find(|(name, _)| name == "input.u8").expect("it is there");
    let (n, height, width) = (images.size()[0], images.size()[1], images.size()[2]);
    (0..n)
        .map(|i| {
            let levels = Vec::<u8>::try_from(images.get(i).flatten(0, -1)).expect("8-bit levels");
            let image = image::RgbImage::from_raw(width as u32, height as u32, levels).expect("RGB");
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
            let bytes = bytes.into_inner();
            dir.write(&format!("images/{i}.png"), &bytes);
            ImageId::of_bytes(&bytes)
        })
        .collect()
}

fn extract(dir: &TestDir, weights: &Path, more: &[&str]) -> Ran {
    let weights = weights.display().to_string();
    let base = ["extract", "--extractor", "maniqa", "--weights", &weights, "--images", "images", "--store", "store"];
    let base = base.into_iter().chain(["--device", "cpu", "--threads", "1"]);
    dir.agiqa(&base.chain(more.iter().copied()).collect::<Vec<_>>())
}

/// `f_1` and the rating of `ids` in the only feature set of the store.
fn columns(dir: &TestDir, ids: &[ImageId]) -> [Tensor; 2] {
    let store = dir.store();
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    let [set] = sets.as_slice() else { panic!("one set, found {}", sets.len()) };
    let names: Vec<&str> = set.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["f_1", "rating"]);
    let found = set.read(&store, ids).expect("vectors can be read");
    [0, 1].map(|column| {
        let (dim, values) = (set.columns[column].dim, &found.matrices[column]);
        let row = |row: &Option<usize>| {
            let row = row.expect("every image has features");
            Tensor::from_slice(&values[row * dim..][..dim])
        };
        Tensor::stack(&found.rows.iter().map(row).collect::<Vec<_>>(), 0)
    })
}

/// The bits of all vectors in the only feature set of `store`, by image.
pub fn bits_of_features(dir: &TestDir, store: &str) -> BTreeMap<String, Vec<u32>> {
    let store = open_store(&dir.path().join(store));
    let mut bits = BTreeMap::new();
    for set in FeatureSet::list(&store).expect("sets can be listed") {
        let ids: Vec<ImageId> = set.done(&store).expect("rows can be read").into_iter().collect();
        let found = set.read(&store, &ids).expect("vectors can be read");
        for (matrix, column) in found.matrices.iter().zip(&set.columns) {
            for (id, row) in ids.iter().zip(&found.rows) {
                let row = &matrix[row.expect("it is done") * column.dim..][..column.dim];
                let values: &mut Vec<u32> = bits.entry(id.to_string()).or_default();
                values.extend(row.iter().map(|value| value.to_bits()));
            }
        }
    }
    bits
}

/// Largest difference from the numbers in `expected` over their largest magnitude, of `f_1` and of the rating.
fn errors(dir: &TestDir, expected: &Path, ids: &[ImageId]) -> [f64; 2] {
    let tensors = read(expected);
    let [f_1, rating] = columns(dir, ids);
    [("f1", f_1), ("rating", rating.squeeze())].map(|(name, found)| {
        let (_, expected) = tensors.iter().find(|(other, _)| other == name).expect("it is there");
        assert_eq!(found.size(), expected.size());
        ((found.to_kind(Kind::Float) - expected).abs().max() / expected.abs().max()).double_value(&[])
    })
}

/// Extracts with the network in `weights` and compares with `expected`.
fn compare_columns(dir: &TestDir, weights: &Path, expected: &Path) {
    let ids = images(dir, expected);
    for (dtype, tolerance) in [("f32", 2e-5), ("bf16", 0.1)] {
        if dtype == "bf16" && !agiqa::features::cpu_has_bf16() {
            continue;
        }
        let ran = extract(dir, weights, &["--dtype", dtype, "--batch-size", "2"]).exits(0);
        let of_all = format!("{} of {} images", ids.len(), ids.len());
        let _ = ran.says("10 tensors of the checkpoint are not read").says("fc784_784.weight").says(&of_all);
        for error in errors(dir, expected, &ids) {
            assert!(error < tolerance, "{dtype}: {error:e}");
        }
        std::fs::remove_dir_all(dir.path().join("store")).expect("it was written");
    }
}

#[test]
fn columns_hold_the_numbers_of_the_reference() {
    for name in OURS {
        let dir = TestDir::new();
        let weights = write_weights(&dir, name);
        compare_columns(&dir, &weights, &reference(name).join("expected.safetensors"));
    }
}

#[test]
fn columns_hold_the_authors_numbers() {
    let Some(folder) = shared("parity/maniqa/tiny") else { return };
    compare_columns(&TestDir::new(), &folder, &folder.join("expected.safetensors"));
}

#[test]
fn ratings_are_scores_as_well_and_copied_without_being_computed_again() {
    let dir = TestDir::new();
    let folder = write_weights(&dir, SMALL);
    let ids = images(&dir, &expected_of_ours());
    let _ = extract(&dir, &folder, &[]).exits(0);
    let [_, rating] = columns(&dir, &ids);
    let expected: Vec<f64> = Vec::<f32>::try_from(rating.squeeze()).expect("f32").into_iter().map(f64::from).collect();
    let scores = dir.path().join("store/scores");
    let assert_copied = || {
        let store = dir.store();
        let sets = ScoreSet::list(&store).expect("sets can be listed");
        let [set] = sets.as_slice() else { panic!("one set, found {}", sets.len()) };
        assert_eq!((set.scorer.as_str(), set.kind), ("maniqa", ScorerKind::Rating));
        let found = set.read(&store).expect("ratings");
        assert_eq!(ids.iter().map(|id| found[id]).collect::<Vec<_>>(), expected);
        assert!(scores.join(format!("scorer=maniqa/fingerprint={}/scorer.json", set.fingerprint.short())).exists());
    };
    assert_copied();
    std::fs::remove_dir_all(&scores).expect("it can be removed");
    let _ =
        extract(&dir, &folder, &[]).exits(0).says("2 ratings are not in `scores`").says("2 of 2 images have features");
    assert_copied();
    let _ = extract(&dir, &folder, &[]).exits(0).says("skipped: all 2 images have features");
}

#[test]
fn a_prefix_and_tensors_that_nothing_reads_do_not_make_other_features() {
    let dir = TestDir::new();
    let folder = write_weights(&dir, SMALL);
    let ids = images(&dir, &expected_of_ours());
    let config = dir.write("prefixed/config.json", std::fs::read(folder.join("config.json")).expect("it is there"));
    let prefixed = config.parent().expect("a folder");
    let mut tensors: Vec<(String, Tensor)> = read(&folder.join("model.safetensors"))
        .into_iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor))
        .collect();
    tensors.push(("module.swintransformer1.layers.0.downsample.weight".to_owned(), Tensor::from_slice(&[1_f32])));
    Tensor::write_safetensors(&tensors, prefixed.join("epoch-7.safetensors")).expect("it can be written");
    let _ = extract(&dir, prefixed, &[]).exits(0).says("module.swintransformer1.layers.0.downsample.weight");
    assert!(errors(&dir, &expected_of_ours(), &ids).iter().all(|error| *error < 2e-5));
    let _ = extract(&dir, &folder, &[]).exits(0).says("all 2 images have features");
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_computed() {
    let dir = TestDir::new();
    let folder = write_weights(&dir, SMALL);
    images(&dir, &expected_of_ours());
    let _ = dir.agiqa(&["extract", "--extractor", "maniqa", "--images", "images", "--store", "store"]).exits(2);
    let _ = extract(&dir, dir.path(), &[]).exits(2).says("config.json");
    let _ = extract(&dir, &folder, &["--side", "224"]).exits(2).says("unknown key `side` in `extractor.maniqa`");
    let _ = extract(&dir, &folder, &["--prompt", "sharp=Is it sharp?"])
        .exits(2)
        .says("unknown key `prompts` in `extractor.maniqa`");

    let config = std::fs::read_to_string(folder.join("config.json")).expect("it is there");
    let other = config.replace("\"dim_mlp\": 20", "\"dim_mlp\": 40");
    assert_ne!(config, other);
    let path = dir.write("other/config.json", other);
    dir.write("other/model.safetensors", std::fs::read(folder.join("model.safetensors")).expect("it is there"));
    let ran = extract(&dir, path.parent().expect("a folder"), &[]).exits(2);
    let _ = ran.says("swintransformer1.layers.0.blocks.0.mlp.fc1.weight").says("expected [40, 16] found [20, 16]");

    // timm's own checkpoint of the transformer is where a training starts, and no MANIQA.
    let vit: Vec<(String, Tensor)> = read(&folder.join("model.safetensors"))
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("vit.")?.to_owned(), tensor)))
        .collect();
    let path = dir.write("timm/config.json", &config);
    let timm = path.parent().expect("a folder");
    Tensor::write_safetensors(&vit, timm.join("model.safetensors")).expect("it can be written");
    let _ = extract(&dir, timm, &[]).exits(2).says("a vision transformer alone").says("train --joint");

    let weights = folder.display().to_string();
    let named = ["--weights", &weights, "--images", "images", "--store", "store"];
    let embed = ["embed", "--extractor", "maniqa"].into_iter().chain(named).collect::<Vec<_>>();
    let _ = dir.agiqa(&embed).exits(2).says("fills `quality` only");
    let default = ["extract"].into_iter().chain(named).collect::<Vec<_>>();
    let _ = dir.agiqa(&default).exits(2).says("holds no image tower of CLIP");
    assert!(!dir.path().join("store/features").exists());
}
