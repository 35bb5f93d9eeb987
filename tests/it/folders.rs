//! Folders of images: every file below one is scored, rejected, or left out for a reason that is counted and named.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;

use agiqa_store::tables::images;

use crate::baseline::{params, picture, rejects_of, scores};
use crate::testdir::{Ran, TestDir};

fn baseline(dir: &TestDir, more: &[&str]) -> Ran {
    let params = params().display().to_string();
    let base = ["baseline", "--methods", "brisque", "--params", &params, "--images", "images", "--store", "store"];
    dir.agiqa(&base.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

fn jpeg(seed: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::load_from_memory(&picture(seed, 120, 120)).expect("a picture");
    image.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("JPEG can be encoded");
    bytes.into_inner()
}

/// Names of the images in the table of the corpus.
fn names(dir: &TestDir) -> Vec<String> {
    let table = images::read(&dir.store(), &"images".parse().expect("a name")).expect("a table");
    table.rows.into_iter().map(|row| row.name).collect()
}

/// Events of files left out: reason, number and names.
fn left_out(ran: &Ran) -> Vec<(String, u64, Vec<String>)> {
    let events = ran.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let of_event = |event: serde_json::Value| {
        let names =
            event["names"].as_array().expect("names").iter().map(|name| name.as_str().expect("text").to_owned());
        (
            event["reason"].as_str().expect("text").to_owned(),
            event["n_files"].as_u64().expect("a count"),
            names.collect(),
        )
    };
    events.filter(|event| event["type"] == "left-out").map(of_event).collect()
}

#[test]
fn files_are_told_by_their_content_and_what_is_left_out_is_counted_and_named() {
    let dir = TestDir::new();
    dir.write("images/x.png", picture(0, 120, 120));
    dir.write("images/noext", jpeg(1));
    dir.write("images/photo.jpe", jpeg(2));
    dir.write("images/deep/er/table.csv", picture(3, 120, 120));
    dir.write("images/new.avif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B");
    dir.write("images/phone", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic");
    dir.write("images/empty.png", "");
    dir.write("images/page.jpg", "<html>not found</html>");
    for (name, content) in [
        ("notes.txt", "BMW and other cars"),
        ("plan", "P5 is the fifth plan"),
        ("labels.csv", "name,mos\nx.png,1\n"),
        ("_SUCCESS", ""),
        (".hidden.png", "hidden"),
        ("sub/._x.png", "of a Mac"),
        (".git/objects/ab/cd", "hidden"),
        (".git/HEAD", "hidden"),
        ("__MACOSX/x.png", "of an archive"),
        ("sub/thumbs.db", "of Windows"),
        ("@eaDir/x.png/SYNOPHOTO", "of a disk station"),
    ] {
        dir.write(&format!("images/{name}"), content);
    }
    let ran = baseline(&dir, &["--json"]).exits(1).says("4 of 8 scores are present, 4 rejected");
    let expected: [(&str, u64, &[&str]); 3] = [
        ("not an image", 4, &["_SUCCESS", "labels.csv", "notes.txt", "plan"]),
        ("hidden", 4, &[".git/", ".hidden.png", "sub/._x.png"]),
        ("of the system", 3, &["@eaDir/", "__MACOSX/", "sub/thumbs.db"]),
    ];
    let expected =
        expected.map(|(reason, n, names)| (reason.to_owned(), n, names.iter().map(|s| (*s).to_owned()).collect()));
    assert_eq!(left_out(&ran), expected);
    let ran = ran.says("left out: 4 not an image (`_SUCCESS`, `labels.csv`, `notes.txt`, `plan`), 4 hidden (`.git/`, ");
    let _ = ran.says("3 of the system (`@eaDir/`, ");
    assert_eq!(scores(&dir)["brisque"].len(), 4);
    assert_eq!(names(&dir), ["deep/er/table.csv", "noext", "photo.jpe", "x.png"]);
    let mut rejects: Vec<(String, String)> = rejects_of(&dir)
        .into_iter()
        .map(|row| {
            (row.path.expect("a path").rsplit('/').next().expect("a name").to_owned(), row.kind + ": " + &row.message)
        })
        .collect();
    rejects.sort();
    for ((name, message), (expected, words)) in rejects.iter().zip([
        ("empty.png", "empty: "),
        ("new.avif", "unsupported: "),
        ("page.jpg", "not-an-image: "),
        ("phone", "unsupported: "),
    ]) {
        assert!(name == expected && message.starts_with(words), "{name}: {message}");
    }
    assert!(rejects[1].1.contains("the format AVIF") && rejects[3].1.contains("the format HEIC"), "{rejects:?}");
    // What is left out is said again when there is nothing to do.
    baseline(&dir, &[]).exits(1).says("skipped").says("3 of the system (`@eaDir/`, ");
}

#[test]
fn a_folder_without_images_says_what_is_there() {
    let dir = TestDir::new();
    dir.write("images/notes.txt", "no picture");
    baseline(&dir, &[]).exits(2).says("no image file below").says("left out: 1 not an image (`notes.txt`)");
    std::fs::remove_dir_all(dir.path().join("images")).expect("it was made");
    baseline(&dir, &[]).exits(2).says("cannot read image folder `images`");
}

#[test]
fn links_are_followed_once_and_cycles_and_dangling_links_are_left_out() {
    let dir = TestDir::new();
    dir.write("images/x.png", picture(0, 120, 120));
    dir.write("images/sub/y.png", picture(1, 120, 120));
    dir.write("elsewhere/deep/z.png", picture(2, 120, 120));
    let link = |target: &str, name: &str| symlink(target, dir.path().join("images").join(name)).expect("a link");
    link("b", "a");
    link("a", "b");
    link("self", "self");
    link(".", "here");
    link("..", "up");
    link("/", "root");
    link("..", "sub/parent");
    link("gone.png", "dangling.png");
    link("x.png/nothing", "through-a-file");
    link("sub", "again");
    link("../elsewhere", "other");
    link("../elsewhere/deep", "second");
    symlink("../../elsewhere", dir.path().join("elsewhere/deep/back")).expect("a link");
    link("x.png", "same.png");
    let fifo = std::process::Command::new("mkfifo").arg(dir.path().join("images/pipe.png")).status();
    assert!(fifo.expect("mkfifo is there").success());
    let ran = baseline(&dir, &["--json"]).exits(0).says("4 of 4 scores are present");
    let found: Vec<(String, Vec<String>)> =
        left_out(&ran).into_iter().map(|(reason, _, names)| (reason, names)).collect();
    let expected: [(&str, &[&str]); 4] = [
        ("dangling link", &["dangling.png", "through-a-file"]),
        ("link cycle", &["a", "b", "here", "other/deep/back", "root", "self", "sub/parent", "up"]),
        ("link to a folder of which the files are here already", &["again", "second"]),
        ("not a regular file", &["pipe.png"]),
    ];
    let expected = expected.map(|(reason, names)| (reason.to_owned(), names.iter().map(|s| (*s).to_owned()).collect()));
    assert_eq!(found, expected);
    assert_eq!(names(&dir), ["other/deep/z.png", "same.png", "sub/y.png", "x.png"]);
    baseline(&dir, &[]).exits(0).says("skipped");
}

#[test]
fn a_folder_that_cannot_be_read_is_a_reject_and_the_others_are_scored() {
    let dir = TestDir::new();
    dir.write("images/x.png", picture(0, 120, 120));
    dir.write("images/closed/y.png", picture(1, 120, 120));
    dir.write("images/closed.png", picture(2, 120, 120));
    std::fs::create_dir(dir.path().join("store")).expect("a folder");
    let mode = |name: &str, mode: u32| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.path().join(name), permissions).expect("its owner may");
    };
    for (name, bits) in [("", 0o755), ("store", 0o777), ("images/closed", 0o000), ("images/closed.png", 0o000)] {
        mode(name, bits);
    }
    let params = params().display().to_string();
    let args = ["baseline", "--methods", "brisque", "--params", &params, "--images", "images", "--store", "store"];
    // Nothing is closed to the superuser, so the command runs as another user, if that user can start it.
    let is_root = std::fs::read_dir(dir.path().join("images/closed")).is_ok();
    let mut command = dir.command(&args);
    if is_root {
        command.uid(65534).gid(65534);
    }
    let started = command.output();
    mode("images/closed", 0o755);
    let Ok(output) = started else { return println!("skipped: the program cannot be started as another user") };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if is_root && stderr.contains("Permission denied") && !stderr.contains("scores") {
        return println!("skipped: {stderr}");
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("1 of 3 scores are present, 2 rejected"), "{stderr}");
    let mut rejects: Vec<(String, String)> =
        rejects_of(&dir).into_iter().map(|row| (row.path.expect("a path"), row.kind)).collect();
    rejects.sort();
    let ends = |(path, kind): &(String, String), end: &str| Path::new(path).ends_with(end) && kind == "unreadable";
    assert!(ends(&rejects[0], "images/closed") && ends(&rejects[1], "images/closed.png"), "{rejects:?}");
}
