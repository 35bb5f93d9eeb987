//! The kinds of sources, and what they say of their images.

use std::sync::Arc;

use agiqa_store::identity::ImageId;
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};

use super::{n_scores, names, night, pictures, score, tar};
use crate::baseline::picture;
use crate::testdir::{self, TestDir};

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    testdir::parquet(&RecordBatch::try_from_iter(columns).expect("columns of one length"), None)
}

/// The values of a night's column, by the names of images.
fn column(dir: &TestDir, label: &str, name: &str) -> Vec<(String, Option<String>)> {
    let images = night(dir, label);
    let values = images.column_text(name).expect("a column");
    let mut found: Vec<_> = images.rows.iter().map(|row| row.name.clone()).zip(values).collect();
    found.sort();
    found
}

fn prompts(dir: &TestDir, label: &str) -> Vec<Option<String>> {
    column(dir, label, "prompt").into_iter().map(|(_, prompt)| prompt).collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect()
}

#[test]
fn a_folders_tables_and_texts_describe_its_images() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..3);
    dir.write("out/metadata.jsonl", "{\"file_name\": \"000.png\", \"prompt\": \"a cat\", \"generator\": \"toy\"}\n");
    dir.write("out/001.txt", "a dog\n");
    dir.write("out/notes.md", "text");
    score(&dir, "n1", &["out"], &[]).exits(0).says("3 images").says("left out: 1 not an image (`notes.md`)");
    assert_eq!(prompts(&dir, "n1"), some(&["a cat", "a dog", ""]));
    let sources = column(&dir, "n1", "prompt_source").into_iter().map(|(_, source)| source);
    assert_eq!(sources.collect::<Vec<_>>(), some(&["column", "sidecar", "none"]));
    assert_eq!(column(&dir, "n1", "generator")[0].1.as_deref(), Some("toy"));
    // The text of a known file is not read again, a table is.
    score(&dir, "n2", &["out"], &[]).exits(0).says("3 images, 0 files opened");
    assert_eq!(prompts(&dir, "n2"), some(&["a cat", "a dog", ""]));
}

#[test]
fn lists_of_every_form_name_files_relative_to_themselves() {
    let dir = TestDir::new();
    pictures(&dir, "x", 0..2);
    dir.write("l/a.txt", "../x/000.png\n../x/001.png\n");
    dir.write("l/a.csv", "path,prompt\n../x/000.png,\"a cat, sitting\"\n../x/001.png,\n");
    dir.write("l/a.tsv", "uri\tprompt\n../x/000.png\ta cat, sitting\n../x/001.png\t\n");
    dir.write(
        "l/a.jsonl",
        "{\"path\": \"../x/000.png\", \"prompt\": \"a cat, sitting\"}\n{\"path\": \"../x/001.png\"}\n",
    );
    let texts = |texts: [&'static str; 2]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let columns = vec![("path", texts(["../x/000.png", "../x/001.png"])), ("prompt", texts(["a cat, sitting", ""]))];
    dir.write("l/a.parquet", parquet(columns));
    for (night, ending) in [("txt", "txt"), ("csv", "csv"), ("tsv", "tsv"), ("jsonl", "jsonl"), ("parquet", "parquet")]
    {
        score(&dir, night, &[&format!("l/a.{ending}")], &[]).exits(0).says("2 images");
        let expected = if night == "txt" { ["", ""] } else { ["a cat, sitting", ""] };
        assert_eq!(prompts(&dir, night), some(&expected), "{ending}");
    }
}

#[test]
fn members_of_a_tar_file_are_images_with_their_descriptions_and_are_read_by_range() {
    let dir = TestDir::new();
    let members = [
        ("s/0.jpg", picture(0, 120, 120)),
        ("s/1.png", picture(1, 120, 120)),
        ("s/0.json", b"{\"prompt\": \"a cat\", \"seed\": 7}".to_vec()),
        ("s/1.txt", b"a dog".to_vec()),
        ("s/1.cls", b"3".to_vec()),
        ("s/2.seg.png", b"\x89PNG\r\n\x1a\n".to_vec()),
    ];
    dir.write("a.tar", tar(&members));
    let check = |label: &str| {
        assert_eq!(names(&dir, label), ["s/0.jpg", "s/1.png"]);
        assert_eq!(prompts(&dir, label), some(&["a cat", "a dog"]));
        assert_eq!((column(&dir, label, "seed")[0].1.as_deref(), n_scores(&dir, label)), (Some("7"), 2));
    };
    score(&dir, "n1", &["a.tar"], &[]).exits(1).says("2 images, 4 files opened, 1 rejected");
    check("n1");
    let row = &night(&dir, "n1").rows[0];
    let (_, range) = row.path.rsplit_once(".tar#").expect("a range");
    let (offset, n_bytes) = range.split_once('+').expect("offset and length");
    let (offset, n): (usize, usize) = (offset.parse().expect("a number"), n_bytes.parse().expect("a number"));
    let bytes = std::fs::read(dir.path().join("a.tar")).expect("the file");
    assert_eq!(ImageId::of_bytes(&bytes[offset..offset + n]), row.image_id);
    // The next night knows the file, its members, and what was wrong with one.
    score(&dir, "n2", &["a.tar"], &[]).exits(1).says("2 images, 0 files opened, 1 rejected");
    check("n2");
}

#[test]
fn cells_of_a_parquet_file_are_images_as_bytes_or_as_hugging_faces_structure() {
    let dir = TestDir::new();
    let pictures: Vec<Vec<u8>> = (0..40).map(|seed| picture(seed, 120, 120)).collect();
    let bytes = || Arc::new(BinaryArray::from_iter_values(&pictures)) as ArrayRef;
    let prompts_of = Arc::new(StringArray::from_iter_values((0..40).map(|i| format!("prompt {i}")))) as ArrayRef;
    dir.write("plain.parquet", parquet(vec![("image", bytes()), ("caption", prompts_of.clone())]));
    let paths = Arc::new(StringArray::from_iter_values((0..40).map(|i| format!("{i:02}.png")))) as ArrayRef;
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let structure =
        StructArray::from(vec![(field("bytes", DataType::Binary), bytes()), (field("path", DataType::Utf8), paths)]);
    dir.write("hf.parquet", parquet(vec![("image", Arc::new(structure)), ("prompt", prompts_of)]));
    score(&dir, "n1", &["plain.parquet"], &[]).exits(0).says("40 images, 40 files opened");
    score(&dir, "n2", &["hf.parquet"], &[]).exits(0).says("40 images, 40 files opened").says("40 of them from earlier");
    assert_eq!(names(&dir, "n1")[3], "plain-000003");
    assert_eq!(names(&dir, "n2")[3], "03.png");
    assert_eq!(prompts(&dir, "n2")[3].as_deref(), Some("prompt 3"));
    assert_eq!(prompts(&dir, "n1")[3].as_deref(), Some("prompt 3"));
    score(&dir, "n3", &["hf.parquet"], &[]).exits(0).says("40 images, 0 files opened");
    assert_eq!(prompts(&dir, "n3")[3].as_deref(), Some("prompt 3"));
    // Two columns of images: each is named, or none can be chosen.
    dir.write("two.parquet", parquet(vec![("chosen", bytes()), ("rejected", bytes())]));
    score(&dir, "n4", &["two.parquet"], &[]).exits(2).says("--image-column").says("`chosen` (Binary)");
    score(&dir, "n4", &["two.parquet"], &["--image-column", "chosen,rejected"]).exits(0).says("80 images");
    // A column alone after both, and both again: each night has the images that it asks for.
    for (night, columns, n) in [("n6", "chosen", 40), ("n7", "chosen,rejected", 80), ("n8", "rejected", 40)] {
        let ran = score(&dir, night, &["two.parquet"], &["--image-column", columns]).exits(0);
        ran.says(&format!("{n} images, 0 files opened"));
    }
    score(&dir, "n5", &["two.parquet"], &["--image-column", "chosn"]).exits(2).says("did you mean `chosen`?");
}

#[test]
fn several_sources_make_one_night_and_a_file_in_two_of_them_counts_once() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..2);
    dir.write("a.tar", tar(&[("0.png", picture(7, 120, 120))]));
    dir.write("l.txt", "out/000.png\n");
    let ran = score(&dir, "n1", &["out", "a.tar", "l.txt", "out/001.png"], &[]).exits(0);
    ran.says("3 images, 3 files opened, 2 named more than once");
    assert_eq!(names(&dir, "n1"), ["0.png", "000.png", "001.png"]);
}
