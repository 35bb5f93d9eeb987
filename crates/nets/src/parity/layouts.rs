//! Rating networks from checkpoint file and picture to the rating, in every published layout, against
//! `tests/reference/raters.py`.

use std::path::{Path, PathBuf};

use agiqa_images::RgbImage8;
use agiqa_synth::{picture_of_case, reference};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{assert_near, json, values, weights_of, write};
use crate::checkpoint::CheckpointError;
use crate::layers::NamedTensors;
use crate::raters::{Rater, RaterError, RaterFile, RaterName, Rounded, Unfit};

fn cases() -> Vec<(RaterName, Value)> {
    let all = json(&reference("raters.json"));
    let cases = all.as_object().expect("networks").iter();
    cases.map(|(name, case)| (name.parse().expect("a network of ours"), case.clone())).collect()
}

fn picture(case: &Value) -> RgbImage8 {
    let (width, height, pixels) = picture_of_case(case);
    RgbImage8 { width_px: width as u32, height_px: height as u32, pixels }
}

fn rating(rater: &dyn Rater, image: &RgbImage8) -> Vec<f64> {
    let prepared = rater.preprocessor().prepare(image).expect("it fits");
    let input = Tensor::from_slice(&prepared.values).view(prepared.shape.as_slice());
    let _no_grad = tch::no_grad_guard();
    values(&rater.rate(&input.unsqueeze(0)))
}

/// The checkpoint of `case` in its layout number `layout`. Learned prompts have a file of their own.
fn write_layout(case: &Value, weights: &NamedTensors, layout: usize, folder: &Path) -> PathBuf {
    let stored = |name: &str| case["layouts"][layout][name].as_str().expect("a stored name").to_owned();
    let copy = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.shallow_clone());
    let (prompts, others): (NamedTensors, NamedTensors) =
        weights.iter().map(copy).partition(|(name, _)| name.starts_with("prompt_learner."));
    if prompts.is_empty() {
        return write(&others, &folder.join(format!("{layout}.safetensors")), stored);
    }
    let folder = folder.join("plus");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    write(&prompts, &folder.join("prompts.safetensors"), stored);
    write(&others, &folder.join("clip.safetensors"), stored);
    folder
}

#[test]
fn every_network_rates_pictures_as_numpy_does_from_every_layout() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cases = cases();
    // Q-Align has a folder with settings, and ResNet-50 no published checkpoint. Both have tests of their own.
    assert_eq!(cases.len() + 2, RaterName::ALL.len(), "every network has a case");
    for (name, case) in cases {
        let weights = weights_of(&case);
        let mut hashes = Vec::new();
        for layout in 0..case["layouts"].as_array().expect("layouts").len() {
            let path = write_layout(&case, &weights, layout, folder.path());
            let variant = name.variant(None).expect("the default");
            let file = RaterFile::open(name, variant, &path).unwrap_or_else(|error| panic!("{name}: {error}"));
            hashes.push(file.content_hash().expect("it can be read"));
            let rater = file.load(Device::Cpu, Kind::Float).expect("it can be loaded");
            // One picture of each network is enough to see that a layout is read, and all of them in the first layout.
            let n_pictures = if layout == 0 { usize::MAX } else { 1 };
            for picture_case in case["pictures"].as_array().expect("pictures").iter().take(n_pictures) {
                let expected = picture_case["rating"].as_f64().expect("a number");
                let what = format!("{name}, layout {layout}");
                assert_near(&what, &rating(rater.as_ref(), &picture(picture_case)), &[expected], 1e-5);
            }
        }
        // The sole head of StairIQA's training code is none of the published six.
        let is_one = name == RaterName::StairIqa || hashes.iter().all(|hash| *hash == hashes[0]);
        assert!(is_one, "{name}: equal weights have one fingerprint");
    }
}

#[test]
fn products_of_16_bits_move_every_rating_a_little() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, case) in cases() {
        let path = write_layout(&case, &weights_of(&case), 0, folder.path());
        let file = RaterFile::open(name, name.variant(None).expect("the default"), &path).expect("it is whole");
        let load = || file.load(Device::Cpu, Kind::Float).expect("it can be loaded");
        // What `load` makes for a CPU that multiplies bf16 fast. Other CPUs compute it as well, slowly.
        let rounded = Rounded { network: load(), kind: Kind::BFloat16, device: Device::Cpu };
        let pictures: Vec<_> = case["pictures"].as_array().expect("pictures").iter().map(picture).collect();
        let ratings = |rater: &dyn Rater| pictures.iter().flat_map(|image| rating(rater, image)).collect::<Vec<_>>();
        let (exact, found) = (ratings(load().as_ref()), ratings(&rounded));
        let largest = exact.iter().fold(0_f64, |largest, rating| largest.max(rating.abs()));
        let errors = exact.iter().zip(&found).map(|(exact, found)| (exact - found).abs() / largest);
        let error = errors.fold(0_f64, f64::max);
        assert!(error > 0.0 && error < 0.1, "{name}: bf16 moves a rating by {error:e} of the largest");
    }
}

#[test]
fn a_checkpoint_of_another_network_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut cases = cases();
    // It takes two files.
    cases.retain(|(name, _)| *name != RaterName::ClipIqaPlus);
    for (i, (found, case)) in cases.iter().enumerate() {
        let (asked, _) = &cases[(i + 1) % cases.len()];
        let path = write_layout(case, &weights_of(case), 0, folder.path());
        let error = RaterFile::open(*asked, None, &path).err().expect("refused");
        assert!(matches!(error, RaterError::Another { .. }), "{error}");
        assert!(error.to_string().ends_with(&format!("it looks like {found}")), "{error}");
        let error = RaterFile::open(RaterName::ClipIqaPlus, None, &path).err().expect("refused");
        assert!(error.to_string().contains("no learned prompts"), "{error}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, case) in cases() {
        let mut weights = weights_of(&case);
        // No bias is a source of sizes.
        let is_vector = |name: &str| name.ends_with("bias");
        let changed = weights.iter().filter(|(name, _)| is_vector(name)).map(|(name, _)| name.clone()).max();
        let changed = changed.expect("every network has biases");
        weights.insert(changed.clone(), Tensor::from_slice(&[0.0_f32; 2]));
        let path = write_layout(&case, &weights, 0, folder.path());
        let error = RaterFile::open(name, None, &path).err().expect("refused");
        assert!(matches!(&error, RaterError::Checkpoint(CheckpointError::Unfit { .. })), "{name}: {error}");
        assert!(error.to_string().contains(&changed) && error.to_string().contains("[2]"), "{name}: {error}");
    }
}

#[test]
fn pictures_that_are_too_small_too_large_or_too_thin_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let grey = |width_px: u32, height_px: u32| {
        let pixels = vec![128; width_px as usize * height_px as usize * 3];
        RgbImage8 { width_px, height_px, pixels }
    };
    for (name, case) in cases() {
        let path = write_layout(&case, &weights_of(&case), 0, folder.path());
        let file = RaterFile::open(name, None, &path).expect("a checkpoint");
        let preprocessor = file.load(Device::Cpu, Kind::Float).expect("it can be loaded").preprocessor();
        let refused = |image: &RgbImage8| preprocessor.prepare(image).err();
        let least = match name {
            RaterName::Dbcnn => 16,
            RaterName::ClipIqa | RaterName::ClipIqaPlus => 31,
            RaterName::HyperIqa
            | RaterName::StairIqa
            | RaterName::Baid
            | RaterName::Musiq
            | RaterName::QAlign
            | RaterName::ResNet50
            | RaterName::EfficientNetLite0 => 1,
        };
        if least > 1 {
            assert!(matches!(refused(&grey(400, least - 1)), Some(Unfit::TooSmall { .. })), "{name}");
        }
        assert_eq!(refused(&grey(least, least)), None, "{name}");
        let is_native = !preprocessor.has_one_shape();
        let too_large = refused(&grey(2049, 2048));
        assert_eq!(matches!(too_large, Some(Unfit::TooLarge { .. })), is_native, "{name}: {too_large:?}");
        if name != RaterName::Baid && !is_native {
            assert!(matches!(refused(&grey(40_000, 1)), Some(Unfit::TooLarge { .. })), "{name}: a thin picture");
        }
    }
}
