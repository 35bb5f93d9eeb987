//! Sources and settings that cannot be used, or in part.

use std::sync::Arc;

use agiqa_store::tables::images;
use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::{n_scores, names, pictures, rejected, score, tar};
use crate::baseline::picture;
use crate::testdir::{TestDir, parquet};
use crate::train::Fixture;

fn kinds(dir: &TestDir, night: &str) -> Vec<String> {
    let mut kinds: Vec<String> = rejected(dir, night).into_iter().map(|row| row.kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn a_source_that_is_absent_empty_or_of_no_known_kind_is_named() {
    let dir = TestDir::new();
    dir.write("empty/.keep", "");
    dir.write("texts/a.md", "text");
    dir.write("zero.tar", "");
    dir.write("x.bin", b"\x7fELF\0\0\0\0\x01\x02");
    let run = |source: &str| score(&dir, "n1", &[source], &[]).exits(2);
    run("absent").says("there is no source `absent`");
    run("s3://bucket/night").says("source `s3://bucket/night` is not on this machine");
    run("empty").says("holds no image").says("1 hidden (`.keep`)");
    run("texts").says("holds no image").says("1 not an image (`a.md`)");
    run("zero.tar").says("zero.tar` is empty");
    run("x.bin").says("of no known kind").says("expected a folder, a list");
    // A good source before a bad one: nothing is taken up if a name is wrong.
    pictures(&dir, "out", 0..1);
    score(&dir, "n2", &["out", "absent"], &[]).exits(2);
    assert!(images::read(&dir.store(), &"gen.n2".parse().expect("a name")).expect("no table").rows.is_empty());
}

#[test]
fn a_torn_tar_file_gives_what_it_holds_and_a_reject() {
    let dir = TestDir::new();
    let members: Vec<(String, Vec<u8>)> = (0..3).map(|i| (format!("{i}.png"), picture(i, 120, 120))).collect();
    let whole = tar(&members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
    let last = whole.len() - 1024 - members[2].1.len().next_multiple_of(512);
    for (night, cut, n_images) in [("body", last + 100, 2), ("header", last - 300, 2), ("mark", whole.len() - 1024, 3)]
    {
        dir.write(&format!("{night}.tar"), &whole[..cut]);
        score(&dir, night, &[&format!("{night}.tar")], &[]).exits(1).says("1 rejected");
        assert_eq!((names(&dir, night).len(), n_scores(&dir, night)), (n_images, n_images), "{night}");
        assert_eq!(kinds(&dir, night), ["truncated"]);
        // The next night knows it, without opening the file.
        let next = format!("{night}-2");
        score(&dir, &next, &[&format!("{night}.tar")], &[]).exits(1).says("0 files opened, 1 rejected");
        assert_eq!((names(&dir, &next).len(), kinds(&dir, &next).len()), (n_images, 1));
    }
}

#[test]
fn a_parquet_file_without_images_names_its_columns() {
    let dir = TestDir::new();
    let texts = Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("caption", texts.clone()), ("width", texts)]).expect("columns");
    dir.write("t.parquet", parquet(&batch, None));
    let ran = score(&dir, "n1", &["t.parquet"], &[]).exits(2);
    ran.says("no column with paths").says("none with image bytes; the columns are: `caption`, `width`");
    dir.write("damaged.parquet", b"PAR1 and nothing else");
    score(&dir, "n1", &["damaged.parquet"], &[]).exits(2).says("damaged.parquet` is damaged");
}

#[test]
fn a_list_rejects_the_rows_that_name_no_file_by_their_number() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..1);
    dir.write(
        "l.csv",
        "path,prompt\nout/000.png,a\nout/none.png,b\n,c\nhttps://x.org/a.png,d\nout/000.png,a,too many\n",
    );
    score(&dir, "n1", &["l.csv"], &[]).exits(1).says("1 images, 1 files opened, 4 rejected");
    assert_eq!(kinds(&dir, "n1"), ["empty-name", "missing", "not-local", "ragged-row"]);
    let missing = rejected(&dir, "n1").into_iter().find(|row| row.kind == "missing").expect("a reject");
    assert!(missing.message.contains("l.csv`, row 2 (line 3): file"), "{}", missing.message);
    // What was missing is looked for again.
    dir.write("out/none.png", picture(5, 120, 120));
    score(&dir, "n1", &["l.csv"], &[]).exits(1).says("2 images, 1 files opened, 3 rejected");
    assert_eq!(kinds(&dir, "n1").len(), 3);
}

#[test]
fn two_sources_of_one_name_keep_their_images_apart() {
    let dir = TestDir::new();
    dir.write("a/out/x.png", picture(1, 120, 120));
    dir.write("b/out/x.png", picture(2, 120, 120));
    score(&dir, "n1", &["a/out", "b/out"], &[]).exits(0).says("2 images, 2 files opened");
    assert_eq!((names(&dir, "n1"), n_scores(&dir, "n1")), (vec!["x.png".to_owned(), "x.png".to_owned()], 2));
}

#[test]
fn a_night_in_which_every_image_is_rejected_is_done_and_says_so() {
    let dir = TestDir::new();
    dir.write("out/a.png", b"\x89PNG\r\n\x1a\n");
    dir.write("out/b.jpg", "");
    score(&dir, "n1", &["out"], &[]).exits(1).says("0 images, 2 files opened, 2 rejected");
    assert_eq!(kinds(&dir, "n1").len(), 2);
    // An image whose header is whole, and whose body is not: it is rejected by what scores it.
    let whole = picture(1, 120, 120);
    dir.write("cut/a.png", &whole[..whole.len() / 2]);
    score(&dir, "n2", &["cut"], &[]).exits(1).says("1 images, 1 files opened").says("0 of 1 images have scores");
    let checked = ["check", "--store", "store", "--corpus", "gen", "--night", "n2", "--method", "brisque"];
    dir.agiqa(&checked).exits(2).says("`brisque` has scored no image of dataset `gen.n2`");
}

#[test]
fn names_that_cannot_be_a_night_are_refused() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..1);
    let run = |more: &[&str]| {
        dir.agiqa(&[&["score", "out", "--store", "store", "--method", "brisque"], more].concat()).exits(2)
    };
    run(&[]).says("--corpus");
    run(&["--corpus", "g", "--night", "a/b"]).says("cannot be a name here");
    run(&["--corpus", "g.h", "--night", "n"]).says("leave dots out");
}

#[test]
fn a_run_whose_features_are_others_than_the_program_would_compute_is_named() {
    let fixture = Fixture::new(100, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "1"])).exits(0);
    let run = fixture.only_run().to_string();
    pictures(&fixture.dir, "out", 0..1);
    let args = ["score", "out", "--store", "store", "--corpus", "gen", "--night", "n1", "--run", &run];
    fixture.dir.agiqa(&args).exits(2).says("reads other features than");
    let absent = ["score", "out", "--store", "store", "--corpus", "gen", "--night", "n1", "--run", "none"];
    fixture.dir.agiqa(&absent).exits(2).says("no finished run `none`");
}
