//! Extractor `nss`: the statistics of BRISQUE and NIQE as quality features.

use std::collections::BTreeMap;
use std::path::Path;

use agiqa_store::identity::ImageId;
use agiqa_store::tables::features::{FeatureKind, FeatureSet};
use agiqa_store::tables::{images, rejects};

use crate::features::{n_rows, vectors};
use crate::testdir::{TestDir, reference, shared};

/// Waves and noise that no other `seed` gives, as PNG.
pub fn picture(seed: u32, width: u32, height: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    png(&image::RgbImage::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave = (f64::from(x) * 0.11).sin() * (f64::from(y) * 0.07 + f64::from(seed)).cos() * 80.0 + 100.0;
        image::Rgb([0, 9, 20].map(|shift| wave as u8 + shift + (state >> 28) as u8))
    }))
}

fn png(image: &image::RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
    bytes.into_inner()
}

fn extract<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = ["extract", "--extractor", "nss", "--store", "store", "--images", "images", "--threads", "2"];
    base.into_iter().chain(more.iter().copied()).collect()
}

/// Vectors of the only feature set; fails where an image is in two parts.
fn features(dir: &TestDir) -> BTreeMap<ImageId, Vec<f32>> {
    let store = dir.store();
    let sets = FeatureSet::list(&store).expect("sets can be listed");
    assert_eq!(sets.len(), 1, "a quality set, and nothing else");
    assert_eq!((sets[0].kind, sets[0].extractor.as_str()), (FeatureKind::Quality, "nss"));
    let columns: Vec<(&str, usize)> = sets[0].columns.iter().map(|column| (column.name.as_str(), column.dim)).collect();
    assert_eq!(columns, [("f_1", 72)]);
    let found = vectors(&store, &sets[0]);
    assert_eq!(n_rows(&store, &sets[0]), found.len());
    found
}

#[test]
fn vectors_are_the_statistics_of_the_reference() {
    compare_vectors(&reference("handcrafted/expected.json"), |case| {
        let (width, height, pixels) = agiqa_synth::picture_of_case(case);
        png(&image::RgbImage::from_raw(width as u32, height as u32, pixels).expect("RGB"))
    });
}

#[test]
fn vectors_are_the_published_statistics() {
    let (Some(expected), Some(folder)) = (shared("parity/handcrafted/expected.json"), shared("parity")) else { return };
    compare_vectors(&expected, |case| {
        std::fs::read(folder.join(case["name"].as_str().expect("a name"))).expect("the image is there")
    });
}

/// Extracts from the images of the cases in the file `expected`, and compares.
fn compare_vectors(expected: &Path, image_of: impl Fn(&serde_json::Value) -> Vec<u8>) {
    let text = std::fs::read(expected).expect("it can be read");
    let expected: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let dir = TestDir::new();
    let cases = expected["synthetic"].as_array().expect("a list");
    let mut of_image = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let bytes = image_of(case);
        of_image.insert(ImageId::of_bytes(&bytes), &case["intermediate"]);
        dir.write(&format!("images/{index}.png"), bytes);
    }
    dir.agiqa(&extract(&[])).exits(0);
    let found = features(&dir);
    assert_eq!(found.len(), cases.len());
    for (id, vector) in found {
        let intermediate = of_image[&id];
        let brisque = ["scale1", "scale2"].map(|scale| &intermediate["brisque"][scale]["features"]);
        let expected = brisque.into_iter().chain([&intermediate["niqe"]["mu"]]);
        let expected: Vec<f64> = expected
            .flat_map(|list| list.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")))
            .collect();
        assert_eq!(vector.len(), expected.len());
        for (index, (found, expected)) in vector.iter().zip(&expected).enumerate() {
            let tolerance = 1e-6_f64.max(2e-6 * expected.abs());
            assert!((f64::from(*found) - expected).abs() < tolerance, "f_1[{index}]: {found}, expected {expected}");
        }
    }
}

#[test]
fn what_is_there_is_not_computed_again_and_shards_resume_each_other() {
    let (whole, sharded) = (TestDir::new(), TestDir::new());
    for dir in [&whole, &sharded] {
        for seed in 0..6 {
            dir.write(&format!("images/{seed}.png"), picture(seed, 200, 100));
        }
    }
    whole.agiqa(&extract(&[])).exits(0).says("6 of 6 images have features");
    whole.agiqa(&extract(&[])).exits(0).says("skipped").says("all 6 images have features");
    sharded.agiqa(&extract(&["--shard", "2/3"])).exits(0);
    let n_first = features(&sharded).len();
    assert!(n_first < 6, "a third of 6 images is {n_first}");
    sharded.agiqa(&extract(&["--part-rows", "1"])).exits(0).says("6 of 6 images have features");
    let bits = |dir: &TestDir| -> Vec<(ImageId, Vec<u32>)> {
        features(dir).into_iter().map(|(id, vector)| (id, vector.iter().map(|v| v.to_bits()).collect())).collect()
    };
    assert_eq!(bits(&whole), bits(&sharded));

    whole.write("images/late.png", picture(9, 200, 100));
    whole.agiqa(&extract(&[])).exits(0).says("1 of 7 images lack features");
    assert_eq!(features(&whole).len(), 7);
}

#[test]
fn images_too_small_or_too_flat_are_rejects_and_tried_again_on_request_only() {
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 100));
    dir.write("images/small.png", picture(2, 120, 150));
    dir.write("images/flat.png", png(&image::RgbImage::from_pixel(300, 200, image::Rgb([90; 3]))));
    let ran = dir.agiqa(&extract(&[])).exits(1).says("1 of 3 images have features, 2 rejected");
    ran.says("`--retry-rejects` tries them again").says("`--set extractor.NAME.retry_rejects=true`");
    let rejected = rejects::read(&dir.store(), "features").expect("rejects can be read");
    let kind = |name: &str| {
        let of_name = rejected.iter().filter(|row| row.path.as_ref().is_some_and(|path| path.ends_with(name)));
        of_name.map(|row| row.kind.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((kind("good.png"), kind("small.png"), kind("flat.png")), (vec![], vec!["too-small"], vec!["flat"]));
    let small = rejected.iter().find(|row| row.kind == "too-small").expect("there is one");
    assert!(small.message.contains("needs at least"), "{}", small.message);
    dir.agiqa(&extract(&[])).exits(1).says("skipped");
    dir.agiqa(&extract(&["--retry-rejects"])).exits(1).says("2 of 3 images lack features");
    assert_eq!(rejects::read(&dir.store(), "features").expect("rejects can be read").len(), 2);
}

#[test]
fn settings_that_it_does_not_have_are_refused() {
    let dir = TestDir::new();
    dir.write("images/good.png", picture(1, 200, 100));
    dir.agiqa(&extract(&["--side", "100"])).exits(2).says("192 to 4096");
    dir.agiqa(&extract(&["--dtype", "bf16"]))
        .exits(2)
        .says("unknown key `dtype` in `extractor.nss`; known are `side`, `device`");
    dir.agiqa(&extract(&["--weights", "folder"])).exits(2).says("unknown key `weights` in `extractor.nss`");
    dir.agiqa(&extract(&["--prompt", "sharp=Is it sharp?"])).exits(2).says("unknown key `prompts` in `extractor.nss`");
    let embed = ["embed", "--extractor", "nss", "--store", "store", "--images", "images"];
    dir.agiqa(&embed).exits(2).says("nss");
}

#[test]
fn a_second_folder_of_the_same_name_does_not_replace_the_first_unless_it_is_told_to() {
    let dir = TestDir::new();
    dir.write("mon/images/a.png", picture(1, 200, 100));
    dir.write("tue/images/b.png", picture(2, 200, 100));
    let extract = |folder: &str, more: &[&str]| {
        let base = ["extract", "--extractor", "nss", "--store", "store", "--threads", "2", "--images", folder];
        dir.agiqa(&[&base[..], more].concat())
    };
    let corpus = |name: &str| -> Vec<String> {
        let name = name.parse().expect("a name");
        let rows = images::read(&dir.store(), &name).expect("it can be read").rows;
        rows.into_iter().map(|row| row.path).collect()
    };
    let path = |name: &str| dir.path().canonicalize().expect("it is there").join(name).display().to_string();
    extract("mon/images", &[]).exits(0);
    dir.write("mon/images/deeper/c.png", picture(3, 200, 100));
    extract("mon/images", &[]).exits(0).says("2 of 2 images have features");
    let monday = vec![path("mon/images/a.png"), path("mon/images/deeper/c.png")];
    assert_eq!(corpus("images"), monday);

    let refused = extract("tue/images", &[]).exits(2).says("`images` is already a corpus of this store");
    let refused = refused.says(&format!("made from folder `{}`", path("mon/images"))).says(&path("tue/images"));
    refused.says("`--dataset NAME`").says("`--dataset images`");
    assert_eq!(corpus("images"), monday, "what is refused changes nothing");
    extract("tue/images", &["--dataset", "tuesday"]).exits(0);
    assert_eq!((corpus("images"), corpus("tuesday")), (monday, vec![path("tue/images/b.png")]));

    // A folder that was moved is another one, too, and its features are there.
    std::fs::rename(dir.path().join("mon"), dir.path().join("monday")).expect("it can be moved");
    extract("monday/images", &[]).exits(2).says(&format!("made from folder `{}`", path("mon/images")));
    extract("monday/images", &["--dataset", "images"]).exits(0).says("2 of 2 images have features");
    assert_eq!(corpus("images"), [path("monday/images/a.png"), path("monday/images/deeper/c.png")]);
    extract("monday/images", &[]).exits(0).says("skipped");
}
