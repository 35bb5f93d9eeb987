//! Paths of any bytes: arguments, folders, stores, settings and names of images, and how tables and records write them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agiqa_store::path_text::{path_of, text_of};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::images::{self, ImageRow};

use crate::baseline::{params, picture};
use crate::extract_maniqa::bits_of_features;
use crate::maniqa::{OURS, write_weights};
use crate::testdir::{Ran, TestDir, reference};

/// A folder whose name is not UTF-8, in `dir`.
fn odd_folder(dir: &TestDir) -> PathBuf {
    let folder = dir.path().join(OsStr::from_bytes(b"dir\xFF"));
    std::fs::create_dir_all(folder.join("images")).expect("a folder of any name");
    folder
}

/// Runs `agiqa` with arguments of any bytes.
fn agiqa(dir: &TestDir, args: &[&dyn AsRef<OsStr>]) -> Ran {
    dir.agiqa_with(&[], |command| args.iter().for_each(|arg| _ = command.arg(arg)))
}

fn rows(store: &Path) -> Vec<ImageRow> {
    let store = Store::open(&text_of(store), OpenMode::Existing).expect("the store is there");
    images::read(&store, &"x".parse().expect("a name")).expect("a table").rows
}

/// Three files whose names differ in bytes that are not text, and in how text writes such bytes.
const NAMES: [&[u8]; 3] = [b"caf\xE9.png", br"caf\xe9.png", "café.png".as_bytes()];

fn write_pictures(folder: &Path) {
    for (seed, name) in NAMES.iter().enumerate() {
        let path = folder.join("images").join(OsStr::from_bytes(name));
        std::fs::write(path, picture(seed as u32, 200, 200)).expect("a file of any name");
    }
}

#[test]
fn arguments_folders_and_names_may_be_any_bytes_and_each_has_its_own_text() {
    let dir = TestDir::new();
    let folder = odd_folder(&dir);
    write_pictures(&folder);
    let (store, parameters) = (folder.join("store"), folder.join("params"));
    std::fs::create_dir(&parameters).expect("a folder");
    for entry in std::fs::read_dir(params()).expect("part of the project").flatten() {
        std::fs::copy(entry.path(), parameters.join(entry.file_name())).expect("a copy");
    }
    let images = folder.join("images");
    let args: [&dyn AsRef<OsStr>; 11] = [
        &"baseline",
        &"--methods",
        &"brisque",
        &"--params",
        &parameters,
        &"--images",
        &images,
        &"--dataset",
        &"x",
        &"--store",
        &store,
    ];
    agiqa(&dir, &args).exits(0).says("3 of 3 scores are present");
    agiqa(&dir, &args).exits(0).says("skipped");

    let rows = rows(&store);
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [r"caf\x5cxe9.png", r"caf\xe9.png", "café.png"]);
    for row in &rows {
        assert_eq!(path_of(&row.path), images.canonicalize().expect("there").join(path_of(&row.name)));
    }
    let records = std::fs::read_dir(store.join("runs")).expect("records").flatten();
    let record = std::fs::read_to_string(records.last().expect("two").path()).expect("text");
    assert!(record.contains(r#"dir\\xff/images""#), "{record}");

    // The table alone leads to the files.
    let args: [&dyn AsRef<OsStr>; 9] =
        [&"baseline", &"--methods", &"niqe", &"--params", &parameters, &"--dataset", &"x", &"--store", &store];
    agiqa(&dir, &args).exits(0).says("3 of 3 scores are present");
    let sql = r"SELECT count(*) AS n FROM images WHERE name = 'caf\xe9.png'";
    agiqa(&dir, &[&"query", &"--store", &store, &sql, &"--format", &"csv"]).exits(0).prints("n\n1\n");
}

#[test]
fn a_setting_names_a_path_of_any_bytes_by_its_text() {
    let dir = TestDir::new();
    let folder = odd_folder(&dir);
    write_pictures(&folder);
    std::fs::write(folder.join("t.csv"), "name,mos\ncaf\\xe9.png,1\ncafé.png,2\n").expect("a file");
    let pipeline = r#"
        name = "odd"
        store = 'st\xffore'
        [[dataset]]
        dataset = "x"
        adapter = "generic"
        table = "t.csv"
        images = "nowhere"
        mos_scale = [0, 5]
        columns = { name = "name", mos = "mos" }
    "#;
    std::fs::write(folder.join("p.toml"), pipeline).expect("a file");
    let args: [&dyn AsRef<OsStr>; 6] = [
        &"run",
        &folder.join("p.toml"),
        &"--set",
        &OsStr::from_bytes(b"dataset.0.images=dir\xFF/images"),
        &"--stage",
        &"ingest",
    ];
    agiqa(&dir, &args).exits(0).says("2 images");
    let rows = rows(&folder.join(OsStr::from_bytes(b"st\xFFore")));
    // A file of the very name in the table goes before one that the name is only the text of.
    let files: Vec<PathBuf> = rows.iter().map(|row| path_of(&row.path)).collect();
    assert!(files[0].ends_with(OsStr::from_bytes(NAMES[1])), "{files:?}");

    std::fs::remove_file(folder.join("images").join(OsStr::from_bytes(NAMES[1]))).expect("it is there");
    agiqa(&dir, &args).exits(0).says("2 images");
    let rows = self::rows(&folder.join(OsStr::from_bytes(b"st\xFFore")));
    assert!(path_of(&rows[0].path).ends_with(OsStr::from_bytes(NAMES[0])), "{}", rows[0].path);
}

#[test]
fn an_escaped_name_does_not_lead_out_of_the_folder() {
    let dir = TestDir::new();
    dir.write("secret.png", picture(1, 32, 32));
    dir.write("img/a.png", picture(2, 32, 32));
    dir.write("t.csv", "name,mos\n\\x2e\\x2e/secret.png,1\n\\x2e\\x2e\\x2fsecret.png,1\na.png,1\n");
    let base = ["ingest", "--adapter", "generic", "--dataset", "x", "--images", "img", "--store", "store"];
    let more = ["--column", "name=name", "--column", "mos=mos", "--mos-scale", "0..5", "--table", "t.csv"];
    dir.agiqa(&[&base[..], &more[..]].concat()).exits(1).says("1 images, 2 rejected (2 escapes-folder)");
}

#[test]
fn weights_in_a_folder_of_any_name_give_the_same_features() {
    let dir = TestDir::new();
    let weights = write_weights(&dir, OURS[0]);
    let odd = dir.path().join(OsStr::from_bytes(b"weights\xFF"));
    let pictures = reference("images");
    let features = |weights: &Path, store: &str| {
        let args: [&dyn AsRef<OsStr>; 11] = [
            &"extract",
            &"--extractor",
            &"maniqa",
            &"--weights",
            &weights,
            &"--images",
            &pictures,
            &"--store",
            &store,
            &"--threads",
            &"1",
        ];
        agiqa(&dir, &args).exits(0);
        bits_of_features(&dir, store)
    };
    let expected = features(&weights, "a");
    std::fs::rename(&weights, &odd).expect("a folder of any name");
    assert_eq!(features(&odd, "b"), expected);
}
