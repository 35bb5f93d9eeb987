//! Tests of `splits`.

use std::collections::{BTreeMap, HashMap, HashSet};

use agiqa::splits::{SplitSettings, assign};
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::rejects;
use agiqa_store::tables::splits::{self, Part, SplitRow};

use crate::testdir::{TestDir, name, shared};

fn image(name: &str, generator: &str, prompt: &str) -> ImageRow {
    ImageRow {
        image_id: ImageId::of_bytes(name.as_bytes()),
        name: name.to_owned(),
        path: format!("/images/{name}"),
        n_bytes: 10,
        width_px: 4,
        height_px: 4,
        format: "png".to_owned(),
        generator: Some(generator.to_owned()),
        prompt: Some(prompt.to_owned()),
        mos: Some(1.0),
        mos_std: None,
        mos_align: None,
    }
}

/// A store with a dataset `d` of `n` images, two generators, five images per prompt.
fn store_of(dir: &TestDir, n: usize) -> Store {
    let store = dir.store();
    let row = |i: usize| image(&format!("{i}.png"), ["sd", "glide"][i % 2], &format!("prompt {}", i / 5));
    let images = Images { rows: (0..n).map(row).collect(), extra: Vec::new() };
    images::write(&store, &name("d"), &images).expect("a table can be written");
    store
}

fn part_sizes(rows: &[SplitRow]) -> [usize; 3] {
    Part::ALL.map(|part| rows.iter().filter(|row| row.part == part).count())
}

/// Rows of AGIQA-3K's table as images; identity by name, which is as good here.
fn agiqa_3k() -> Option<Images> {
    let mut reader = csv::Reader::from_path(shared("datasets/agiqa-3k/data.csv")?).expect("a CSV table");
    let names = reader.records().map(|record| record.expect("a row")[0].to_owned());
    Some(Images { rows: names.map(|name| image(&name, "g", "p")).collect(), extra: Vec::new() })
}

#[test]
fn the_official_split_is_that_of_pythons_random_in_order() {
    let cases: serde_json::Value =
        serde_json::from_slice(&agiqa_synth::reference_file("splits.json")).expect("a JSON document");
    let cases = cases.as_array().expect("a list");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let number = |key: &str| u32::try_from(case[key].as_u64().expect("a number")).expect("of 32 bits");
        let rows = (0..number("n")).map(|i| image(&format!("{i}.png"), "g", "p")).collect();
        is_split_as(&Images { rows, extra: Vec::new() }, number("seed"), case);
    }
}

/// Fails unless the official split of `images` is the lists of row numbers in `expected`.
fn is_split_as(images: &Images, seed: u32, expected: &serde_json::Value) {
    let assignment = assign(images, &[], &SplitSettings::Official { seed }).expect("enough images");
    for part in Part::ALL {
        let rows = expected[part.as_str()].as_array().expect("a list of row numbers");
        let expected: Vec<ImageId> =
            rows.iter().map(|row| images.rows[row.as_u64().expect("a row number") as usize].image_id).collect();
        let found: Vec<ImageId> =
            assignment.rows.iter().filter(|row| row.part == part).map(|row| row.image_id).collect();
        assert_eq!(found, expected, "{part}");
    }
}

#[test]
fn the_official_split_of_seed_20_is_that_of_the_published_code_in_order() {
    let Some(path) = shared("parity/split/random_seed20_70_10_20.json") else { return };
    let Some(images) = agiqa_3k() else { return };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("a JSON document");
    is_split_as(&images, 20, &expected);
}

#[test]
fn the_official_split_of_the_ingested_dataset_is_that_of_the_published_code_less_the_rejects() {
    let Some(path) = shared("parity/split/random_seed20_70_10_20.json") else { return };
    let (Some(table), Some(folder)) = (shared("datasets/agiqa-3k/data.csv"), shared("datasets/agiqa-3k/images")) else {
        return;
    };
    let Some(rows_of_table) = agiqa_3k().map(|images| images.rows) else { return };
    let dir = TestDir::new();
    let (table, folder) = (table.display().to_string(), folder.display().to_string());
    let args = ["ingest", "--adapter", "agiqa-3k", "--table", &table, "--images", &folder, "--store", "store"];
    dir.agiqa(&args).exits(1).says("2972 images, 10 rejected (10 duplicate-image)");
    let args = ["split", "--store", "store", "--dataset", "agiqa-3k", "--split", "official", "--seeds", "20"];
    dir.agiqa(&args).exits(0);

    let store = dir.store();
    let ingested = images::read(&store, &name("agiqa-3k")).expect("images").rows;
    let id_of: HashMap<&str, ImageId> = ingested.iter().map(|row| (row.name.as_str(), row.image_id)).collect();
    let assigned = splits::read(&store, &name("agiqa-3k"), &name("official-20")).expect("a split");
    assert_eq!(assigned.len(), 2972);
    let published: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("a JSON document");
    for part in Part::ALL {
        let rows = published[part.as_str()].as_array().expect("a list of row numbers");
        let names = rows.iter().map(|row| &rows_of_table[row.as_u64().expect("a row number") as usize].name);
        let expected: Vec<ImageId> = names.filter_map(|name| id_of.get(name.as_str()).copied()).collect();
        let found: Vec<ImageId> = assigned.iter().filter(|row| row.part == part).map(|row| row.image_id).collect();
        assert_eq!(found, expected, "{part}");
    }
}

#[test]
fn the_published_files_of_agiqa_3k_give_their_own_parts() {
    let Some(folder) = shared("datasets/agiqa-3k") else { return };
    let Some(mut images) = agiqa_3k() else { return };
    let file = |name: &str| folder.join(name);
    let (train, validation, test) = (file("train.csv"), file("validation.csv"), file("test.csv"));
    let settings = SplitSettings::Published { train, validation, test };
    let assignment = assign(&images, &[], &settings).expect("the files fit");
    assert_eq!(part_sizes(&assignment.rows), [1789, 596, 597]);
    assert_eq!((assignment.unmatched.len(), assignment.n_unassigned), (0, 0));
    // One row that ingest rejected is missed by name, and everything else stays where it was.
    let lost = images.rows.remove(7);
    let without = assign(&images, &[], &settings).expect("the files still fit");
    assert_eq!(without.unmatched.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [lost.name.as_str()]);
    let kept: Vec<&SplitRow> = assignment.rows.iter().filter(|row| row.image_id != lost.image_id).collect();
    assert_eq!(without.rows.iter().collect::<Vec<_>>(), kept);
}

#[test]
fn splits_by_seed_are_written_and_a_second_call_finds_them() {
    let dir = TestDir::new();
    let store = store_of(&dir, 100);
    let args = ["split", "--store", "store", "--dataset", "d", "--seeds", "0..2"];
    dir.agiqa(&args).exits(0).says("70 training, 10 validation, 20 test images");
    let rows: Vec<Vec<SplitRow>> = (0..3)
        .map(|seed| splits::read(&store, &name("d"), &name(&format!("random-{seed}"))).expect("a split"))
        .collect();
    for rows in &rows {
        assert_eq!(part_sizes(rows), [70, 10, 20]);
    }
    assert_ne!(
        rows[0].iter().map(|row| row.image_id).collect::<Vec<_>>(),
        rows[1].iter().map(|row| row.image_id).collect::<Vec<_>>()
    );
    dir.agiqa(&args).exits(0).says("split d random-1: skipped");
}

#[test]
fn a_split_by_prompt_keeps_prompts_whole() {
    let dir = TestDir::new();
    let store = store_of(&dir, 200);
    dir.agiqa(&["split", "--store", "store", "--dataset", "d", "--split", "by-prompt", "--seeds", "4"]).exits(0);
    let rows = splits::read(&store, &name("d"), &name("prompt-4")).expect("a split");
    assert_eq!(part_sizes(&rows), [140, 20, 40]);
    let images = images::read(&store, &name("d")).expect("images");
    let mut parts_of_prompt: BTreeMap<String, HashSet<Part>> = BTreeMap::new();
    for row in rows {
        let image = images.rows.iter().find(|image| image.image_id == row.image_id).expect("one of them");
        parts_of_prompt.entry(image.prompt.clone().expect("a prompt")).or_default().insert(row.part);
    }
    assert!(parts_of_prompt.values().all(|parts| parts.len() == 1));
}

#[test]
fn a_held_out_generator_is_the_test_part_and_nowhere_else() {
    let dir = TestDir::new();
    let store = store_of(&dir, 80);
    let args = ["split", "--store", "store", "--dataset", "d", "--split", "held-out-generator", "--generator"];
    dir.agiqa(&[&args[..], &["glide"]].concat()).exits(0);
    let rows = splits::read(&store, &name("d"), &name("held-out-glide-0")).expect("a split");
    assert_eq!(part_sizes(&rows), [35, 5, 40]);
    let images = images::read(&store, &name("d")).expect("images");
    for row in rows {
        let image = images.rows.iter().find(|image| image.image_id == row.image_id).expect("one of them");
        assert_eq!(image.generator.as_deref() == Some("glide"), row.part == Part::Test);
    }
    dir.agiqa(&[&args[..], &["dalle"]].concat()).exits(2).says("`dalle`; the generators are: glide, sd");
}

#[test]
fn a_part_that_would_be_empty_is_an_error_with_counts() {
    let dir = TestDir::new();
    store_of(&dir, 3);
    dir.agiqa(&["split", "--store", "store", "--dataset", "d"])
        .exits(2)
        .says("2 training, 0 validation, 1 test images of 3")
        .says("needs more images");
    store_of(&dir, 1);
    dir.agiqa(&["split", "--store", "store", "--dataset", "d"]).exits(2).says("0 training, 0 validation, 1 test");
}

#[test]
fn shares_that_make_no_split_are_refused_however_small_or_strange() {
    let dir = TestDir::new();
    store_of(&dir, 100);
    let with = |share: &str| {
        let share = format!("--train-share={share}");
        dir.agiqa(&["split", "--store", "store", "--dataset", "d", &share]).exits(2)
    };
    // Written without an exponent, this one would be longer than a name may be.
    with("1e-200")
        .says("split `random-1e-200-0.1-0` leaves a part empty: 0 training, 10 validation, 90 test images of 100");
    for share in ["0", "-1", "0.95", "1e300", "inf", "nan"] {
        with(share).says("both must be above 0 and their sum below 1");
    }
}

#[test]
fn a_dataset_without_images_is_named() {
    let dir = TestDir::new();
    store_of(&dir, 10);
    dir.agiqa(&["split", "--store", "store", "--dataset", "other"]).exits(2).says("dataset `other` has no images");
    dir.agiqa(&["split", "--store", "nowhere", "--dataset", "d"]).exits(2).says("no store at `nowhere`");
}

#[test]
fn names_of_published_files_without_an_image_are_rejects() {
    let dir = TestDir::new();
    let store = store_of(&dir, 6);
    dir.write("train.csv", "\u{feff}name,mos\r\n0.png,1\r\n1.png,2\r\n\"gone, alas.png\",3\r\n");
    dir.write("validation.csv", "mos,name\n1,2.png\n");
    dir.write("test.csv", "name\n3.png\n4.png\n");
    let args = ["split", "--store", "store", "--dataset", "d", "--split", "published", "--train-file", "train.csv"];
    let args = [&args[..], &["--validation-file", "validation.csv", "--test-file", "test.csv"]].concat();
    let said = "1 names of the files have no image in the store, the first `gone, alas.png`; 1 images are in none";
    dir.agiqa(&args).exits(1).says("2 training, 1 validation, 2 test images").says(said);
    let rejected = rejects::read(&store, "split").expect("rejects");
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].path.as_deref(), Some("gone, alas.png"));
    // Finding the same again says the same and rejects nothing twice.
    dir.agiqa(&args).exits(1).says("skipped");
    assert_eq!(rejects::read(&store, "split").expect("rejects").len(), 1);
    dir.write("test.csv", "name\n3.png\n0.png\n");
    dir.agiqa(&args).exits(2).says("test.csv").says("`0.png` is in the test part and already in the train part");
    dir.write("test.csv", "file,mos\n3.png,1\n");
    dir.agiqa(&args).exits(2).says("has no column `name`; the columns are: `file`, `mos`");
}
