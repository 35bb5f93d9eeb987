//! Nights one after the other: what is known is not read again, and a night is what it is however often it is scored.

use std::mem::MaybeUninit;

use rustix::fs::inotify;

use super::{n_scores, names, night, pictures, query, rejected, score, tables, tar, touch};
use crate::baseline::picture;
use crate::testdir::TestDir;

#[test]
fn a_second_night_opens_new_files_alone_and_marks_known_contents() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..5);
    score(&dir, "n1", &["out"], &[]).exits(0).says("5 images, 5 files opened").says("5 of 5 images have scores, 0 of");
    dir.write("out/005.png", picture(5, 120, 120));
    // A copy has a known content under another name.
    dir.write("out/copy.png", picture(1, 120, 120));
    let ran = score(&dir, "n2", &["out"], &[]).exits(0);
    ran.says("7 images, 2 files opened").says("7 of 7 images have scores, 6 of them from earlier nights");
    assert_eq!((names(&dir, "n1").len(), names(&dir, "n2").len(), n_scores(&dir, "n2")), (5, 7, 7));
    assert_eq!(query(&dir, "SELECT count(*) AS n FROM scores"), "6\n");
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("inotify");
    inotify::add_watch(&watch, dir.path().join("out"), inotify::WatchFlags::OPEN).expect("a watch");
    dir.write("more/000.png", picture(0, 120, 120));
    score(&dir, "n3", &["out", "more"], &[]).exits(0).says("8 images, 1 files opened");
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    while let Ok(event) = events.next() {
        assert!(event.events().contains(inotify::ReadFlags::ISDIR), "{:?} is opened", event.file_name());
    }
}

#[test]
fn a_night_that_exists_is_added_to_and_replaced_on_request() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..3);
    score(&dir, "n1", &["out"], &[]).exits(0);
    let once = tables(&dir, "store");
    score(&dir, "n1", &["out"], &[]).exits(0).says("3 images, 0 files opened");
    assert_eq!(tables(&dir, "store"), once);
    dir.write("out/003.png", picture(3, 120, 120));
    std::fs::remove_file(dir.path().join("out/000.png")).expect("it can go");
    touch(&dir.write("out/001.png", picture(11, 120, 120)));
    score(&dir, "n1", &["out"], &[]).exits(0).says("1 files have changed").says("`--replace` takes them up again");
    assert_eq!(names(&dir, "n1"), ["000.png", "001.png", "002.png", "003.png"]);
    score(&dir, "n1", &["out"], &["--replace"]).exits(0).says("3 images, 1 files opened");
    assert_eq!(
        (names(&dir, "n1"), n_scores(&dir, "n1")),
        (["001.png", "002.png", "003.png"].map(str::to_owned).to_vec(), 3)
    );
}

#[test]
fn shares_of_a_night_add_up_to_it_and_read_disjoint_files() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..9);
    dir.write("out/broken.png", b"\x89PNG\r\n\x1a\n");
    dir.write("more.tar", tar(&[("a.png", picture(20, 120, 120)), ("b.png", picture(21, 120, 120))]));
    let mut n_opened = 0;
    for shard in ["1/3", "2/3", "3/3"] {
        let ran = score(&dir, "n1", &["out", "more.tar"], &["--shard", shard]);
        let opened =
            ran.stderr.split(" files opened").next().and_then(|text| text.rsplit(' ').next()).expect("a count");
        n_opened += opened.parse::<u32>().expect("a number");
    }
    assert_eq!((n_opened, names(&dir, "n1").len(), n_scores(&dir, "n1")), (12, 11, 11));
    assert_eq!(rejected(&dir, "n1").len(), 1);
    // The whole finds nothing to do, and a share finds its work done.
    score(&dir, "n1", &["out", "more.tar"], &[]).exits(1).says("11 images, 0 files opened, 1 rejected");
    score(&dir, "n1", &["out", "more.tar"], &["--shard", "1/3"]);
    assert_eq!((rejected(&dir, "n1").len(), names(&dir, "n1").len()), (1, 11));
    score(&dir, "n1", &["out"], &["--shard", "1/2", "--replace"]).exits(2).says("leave `--shard` out");
}

#[test]
fn a_night_can_be_selected_from_and_checked_against_the_one_before() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..4);
    dir.write(
        "out/metadata.csv",
        "file_name,prompt,seed\n000.png,a cat,1\n001.png,a cat,2\n002.png,a dog,3\n003.png,a dog,4\n",
    );
    score(&dir, "n1", &["out"], &[]).exits(0);
    score(&dir, "n2", &["out"], &[]).exits(0);
    let of_night = ["--store", "store", "--corpus", "gen", "--night", "n2", "--method", "brisque"];
    dir.agiqa(&[&["select", "--out", "best.csv", "--link", "keep"], &of_night[..]].concat()).exits(0);
    assert_eq!(std::fs::read_dir(dir.path().join("keep")).expect("a folder").count(), 2);
    let ran = dir.agiqa(&[&["check"], &of_night[..]].concat());
    assert!(ran.stdout.contains("too few to compare: 4 against 4"), "{}", ran.stdout);
    let seeds = night(&dir, "n2").column_text("seed").expect("a column");
    assert_eq!(seeds.into_iter().flatten().collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[test]
fn the_last_event_names_the_night() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..1);
    let ran = score(&dir, "n1", &["out"], &["--json"]).exits(0);
    let last = ran.stdout.lines().last().expect("events");
    assert!(last.contains("\"type\":\"done\"") && last.contains("\"night\":\"gen.n1\""), "{last}");
}
