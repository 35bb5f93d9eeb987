//! MANIQA's preprocessing agrees with OpenCV.

use std::collections::{BTreeMap, HashMap};

use agiqa_images::{DecodeLimits, RgbImage8, decode, interpolate_bicubic};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::maniqa::{read_json, read_tensors};
use crate::testdir::{reference, shared};

#[derive(Deserialize)]
struct Preprocessed {
    images: BTreeMap<String, PreprocessedImage>,
}

#[derive(Deserialize)]
struct PreprocessedImage {
    file: String,
    source: String,
    decoded_channel_sums: [u64; 3],
}

/// Fails unless `image` at the size of `fixed_point` is what OpenCV's portable code makes of it, and close to what its default
/// build does.
fn compare_resized(name: &str, image: &RgbImage8, fixed_point: &Tensor, default: &Tensor) {
    let size = fixed_point.size();
    let RgbImage8 { pixels, .. } = interpolate_bicubic(image, size[1] as u32, size[0] as u32);
    let levels = |xs: &Tensor| Vec::<u8>::try_from(xs.flatten(0, -1).to_kind(Kind::Uint8)).expect("8-bit levels");
    let (fixed_point, default) = (levels(fixed_point), levels(default));
    assert!(pixels == fixed_point, "{name}: {} differ", {
        pixels.iter().zip(&fixed_point).filter(|(found, expected)| found != expected).count()
    });
    let n_other = pixels.iter().zip(&default).filter(|(found, expected)| found != expected).count();
    assert!(n_other * 20 < pixels.len(), "{name}: {n_other} of {} differ from the default build", pixels.len());
    assert!(pixels.iter().zip(&default).all(|(found, expected)| found.abs_diff(*expected) <= 1), "{name}");
}

/// The pictures in `tests/reference/images`.
pub const PICTURES: [&str; 5] = ["wide.png", "alpha.png", "grey.png", "halved_colour.jpg", "whole_colour.jpg"];

#[test]
fn resizing_is_opencvs_bit_for_bit() {
    let expected = read_tensors(&reference("preprocess.safetensors"));
    for name in PICTURES {
        let bytes = std::fs::read(reference("images").join(name)).expect("part of the project");
        let (_, image) = decode(&bytes, &DecodeLimits::default()).expect("it is an image");
        let of = |which: &str| &expected[&format!("{name}.{which}")];
        compare_resized(name, &image, of("opencv"), of("opencv_default"));
    }
}

#[test]
fn resizing_images_of_the_dataset_is_opencvs_bit_for_bit() {
    let Some(folder) = shared("parity/preprocess_maniqa") else { return };
    let fixture: Preprocessed = read_json(&folder.join("expected.json"));
    let expected: HashMap<String, Tensor> = read_tensors(&folder.join("expected.safetensors"));
    for (name, PreprocessedImage { file, source, decoded_channel_sums }) in &fixture.images {
        let path = match source.as_str() {
            "dataset" => match dataset_image(file) {
                Some(path) => path,
                None => continue,
            },
            _ => folder.join(file),
        };
        let bytes = std::fs::read(&path).expect("it is there");
        let (_, image) = decode(&bytes, &DecodeLimits::default()).expect("it is an image");
        let sum = |c: usize| image.pixels.iter().skip(c).step_by(3).map(|level| u64::from(*level)).sum::<u64>();
        assert_eq!([sum(0), sum(1), sum(2)], *decoded_channel_sums, "{name}: decoding");
        let of = |which: &str| &expected[&format!("{name}.{which}")];
        compare_resized(name, &image, of("resized_u8_fixed_point"), of("resized_u8"));
    }
}

/// An image of AGIQA-3K by file name.
fn dataset_image(file: &str) -> Option<std::path::PathBuf> {
    shared("datasets").and_then(|folder| {
        walkdir::WalkDir::new(folder)
            .into_iter()
            .flatten()
            .map(walkdir::DirEntry::into_path)
            .find(|path| path.ends_with(file))
    })
}
