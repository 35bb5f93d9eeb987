//! Sources and settings that cannot be used, or in part.

use std::io::Write as _;
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

/// A chunk of a PNG file whose text inflates to `n_bytes`.
fn bomb(n_bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(b"zTXtparameters\0\0".to_vec(), flate2::Compression::best());
    encoder.write_all(&vec![b'a'; n_bytes]).expect("memory takes everything");
    let chunk = encoder.finish().expect("memory takes everything");
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    let n = u32::try_from(chunk.len() - 4).expect("small");
    [&n.to_be_bytes()[..], &chunk, &crc.sum().to_be_bytes()].concat()
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
    dir.write("none.csv", "path,prompt\n");
    run("none.csv").says("none.csv` has no data rows");
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
    let of_night = |command: &str, night: &str, more: &[&str]| {
        let args = [command, "--store", "store", "--corpus", "gen", "--night", night, "--method", "brisque"];
        dir.agiqa(&[&args[..], more].concat())
    };
    // Their checks fail by the share of rejects, and their pages show the rejects.
    for (night, n) in [("n1", 2), ("n2", 1)] {
        let ran = of_night("check", night, &[]).exits(1);
        let line = ran.stdout.lines().find(|line| line.contains("reject_share")).expect("a check");
        assert!(line.starts_with("FAIL") && line.contains(&format!("{n} of {n} images rejected")), "{line}");
        of_night("report", night, &["--out", "n.html"]).exits(0);
        let html = std::fs::read_to_string(dir.path().join("n.html")).expect("a page");
        assert!(html.contains("No image has a score: the rejects say why."), "{night}");
        assert!(html.contains("truncated in ") || html.contains("empty in "), "{night}");
    }
    of_night("select", "n2", &[]).exits(2).says("`brisque` has scored no image of dataset `gen.n2`");
    of_night("check", "n3", &[]).exits(2).says("no images of dataset `gen.n3`");
}

#[test]
fn hostile_prompts_and_metadata_go_through_a_night_as_text() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..4);
    let prompts = [
        "<script>alert(1)</script><b>&amp;".to_owned(),
        "a \u{202e}b".to_owned(),
        "two\nlines".to_owned(),
        "x".repeat(100_000),
    ];
    let line = |(at, prompt): (usize, &String)| {
        serde_json::json!({ "path": format!("out/{at:03}.png"), "prompt": prompt }).to_string() + "\n"
    };
    dir.write("l.jsonl", prompts.iter().enumerate().map(line).collect::<String>());
    // A chunk that claims 4 GiB, and texts that inflate to 64 MiB.
    let whole = picture(9, 120, 120);
    let with_chunk = |chunk: &[u8]| [&whole[..33], chunk, &whole[33..]].concat();
    let liar = [&u32::MAX.to_be_bytes()[..], b"tEXtprompt\0a"].concat();
    dir.write("hostile/liar.png", with_chunk(&liar));
    dir.write("hostile/bomb.png", with_chunk(&bomb(64 << 20)));
    let ran = score(&dir, "n1", &["l.jsonl", "hostile"], &[]).exits(1).says("5 images, 6 files opened, 1 rejected");
    ran.says("5 of 5 images have scores");
    assert!(rejected(&dir, "n1")[0].path.as_deref().is_some_and(|path| path.ends_with("liar.png")));
    let found = super::night(&dir, "n1");
    let prompt = |name: &str| {
        let row = found.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
        row.prompt.clone()
    };
    for (at, expected) in prompts.iter().enumerate() {
        assert_eq!(prompt(&format!("out/{at:03}.png")).as_ref(), Some(expected));
    }
    assert_eq!(prompt("bomb.png"), None);
    let by = ["--store", "store", "--corpus", "gen", "--night", "n1", "--method", "brisque"];
    dir.agiqa(&[&["select", "--by", "prompt", "--out", "s.csv"], &by[..]].concat()).exits(1);
    dir.agiqa(&[&["report", "--out", "n.html"], &by[..]].concat()).exits(0);
    let html = std::fs::read_to_string(dir.path().join("n.html")).expect("a page");
    assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "markup is text");
    assert!(
        !html.contains('\u{202e}') && html.contains("(100000 characters)"),
        "marks are escaped, long texts are cut"
    );
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
