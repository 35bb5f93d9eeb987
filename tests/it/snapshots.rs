//! What the program prints, word for word: help, messages about wrong input, and tables. `INSTA_UPDATE=always cargo test
//! --release --test it snapshots` writes the new texts, to be read before they are committed.

use std::fmt::Write as _;

use crate::compare;
use crate::select::{image, write};
use crate::testdir::TestDir;

/// Commands of `agiqa`, as its help lists them.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).filter(|name| name != "help").collect()
}

#[test]
fn help_of_every_command() {
    let dir = TestDir::new();
    let all = dir.agiqa(&["--help"]).exits(0).stdout;
    let commands = commands(&all);
    assert!(commands.len() > 15, "{commands:?}");
    insta::assert_snapshot!("help", all);
    for command in &commands {
        let help = dir.agiqa(&[command, "--help"]).exits(0).stdout;
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
}

/// Commands that cannot run, on the store `store` with dataset `d` and the scores of `niqe`, a table `t.csv` and a pipeline
/// for each that names one.
const WRONG: &[&[&str]] = &[
    &["evaluat", "--store", "store"],
    &["features", "--images", "nowhere", "--store", "new"],
    &["features", "--images", "d", "--store", "new", "--extractor", "clip-b61"],
    &["features", "--images", "d", "--store", "new", "--side", "225"],
    &["features", "--images", "d", "--store", "new", "--dtype", "f8"],
    &["features", "--images", "d", "--store", "new", "--batch-size", "0"],
    &["baseline", "--images", "d", "--store", "new", "--params", "nowhere"],
    &["split", "--store", "store", "--dataset", "b"],
    &["split", "--store", "store", "--dataset", "d", "--set", "train=0.9", "--set", "validation=0.3"],
    &["split", "--store", "store", "--dataset", "d", "--set", "generator=h"],
    &["train", "--store", "store", "--dataset", "d", "--features", "clip-b16"],
    &["train", "--store", "store", "--dataset", "d"],
    &["train", "--store", "store", "--dataset", "d", "--features", "clip-b16", "--set", "epoch=3"],
    &["train", "--store", "store", "--dataset", "d", "--features", "clip-b16", "--set", "learning_rate=fast"],
    &["predict", "--store", "store", "--run", "clip-b16-random-0-s0-7a9ac538"],
    &["evaluate", "--table", "t.csv", "--score", "scor", "--mos", "mos"],
    &["evaluate", "--table", "t.csv", "--score", "name", "--mos", "mos"],
    &["compare", "--store", "store", "--dataset", "d", "--split", "random-0"],
    &["select", "--store", "store", "--dataset", "d", "--method", "brisque"],
    &["select", "--store", "store", "--dataset", "d", "--method", "niqe", "--by", "promt"],
    &["check", "--store", "store", "--dataset", "e", "--method", "niqe"],
    &["report", "--store", "store"],
    &["report", "--store", "nowhere", "--method", "niqe"],
    &["reproduce", "no-such-run", "--store", "store"],
    &["query", "SELECT nam FROM images", "--store", "store"],
    &["query", "SELECT * FROM imags", "--store", "store"],
    &["query", "SELEC * FROM images", "--store", "store"],
    &["weights", "verify", "clip-b61"],
    &["run", "wrong-key.toml"],
    &["run", "wrong-type.toml"],
    &["run", "t.csv"],
    &["run", "nowhere.toml"],
];

#[test]
fn messages_about_wrong_input() {
    let dir = TestDir::new();
    write(&dir, "d", "", &[image("a cat", 1.0, 5.0), image("a cat", 4.0, 3.0), image("a dog", 2.0, 4.0)]);
    dir.write("t.csv", "name,score,mos\na,1,2\nb,2,3\nc,3,1\n");
    dir.write("wrong-key.toml", "name = \"n\"\n[[dataset]]\ndataset = \"d\"\nadaptor = \"generic\"\n");
    dir.write("wrong-type.toml", "name = \"n\"\n[train]\nepochs = \"many\"\n");
    let folder = dir.path().display().to_string();
    let mut text = String::new();
    for args in WRONG {
        let ran = dir.agiqa_with(args, |command| _ = command.env("AGIQA_WEIGHTS", "weights")).exits(2);
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
        let _ = write!(text, "$ agiqa {}\n{}\n", args.join(" "), ran.stderr.replace(&folder, "FOLDER"));
    }
    insta::assert_snapshot!("messages", text);
}

#[test]
fn printed_tables() {
    let dir = TestDir::new();
    let store = compare::store(&dir);
    compare::add_methods(&store);
    insta::assert_snapshot!("compare", dir.agiqa(&compare::args(&["--split", "half"])).exits(0).stdout);
    insta::assert_snapshot!("methods", dir.agiqa(&["methods"]).exits(0).stdout);
    let of_store = ["--store", "store", "--dataset", "agiqa-3k", "--method", "good"];
    insta::assert_snapshot!("check", dir.agiqa(&[&["check"], &of_store[..]].concat()).exits(0).stdout);
    let dir = TestDir::new();
    let cats = [image("a cat", 1.0, 5.0), image("a cat", 4.0, 3.0), image("a dog", 2.0, 4.0), image("a dog", 3.0, 6.0)];
    write(&dir, "d", "", &cats);
    let of_store = ["--store", "store", "--dataset", "d", "--method", "niqe"];
    let select = [&["select", "--resamples", "100"], &of_store[..]].concat();
    insta::assert_snapshot!("select", dir.agiqa(&select).exits(0).stdout);
    for format in ["text", "csv", "json", "markdown"] {
        let sql = "SELECT name, mos, prompt FROM images ORDER BY name";
        let ran = dir.agiqa(&["query", sql, "--store", "store", "--format", format]).exits(0);
        insta::assert_snapshot!(format!("query_{format}"), ran.stdout);
    }
}
