//! `agiqa score SOURCES…`: nights of a corpus, from their sources to `night_scores`.

use std::collections::BTreeMap;
use std::path::Path;

use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::rejects::{self, RejectRow};

use crate::baseline::{params, picture};
use crate::testdir::{Ran, TestDir};

mod bad_input;

mod nights;

mod pipeline;

mod runs;

mod sources;

mod tables;

/// Scores `sources` as the night `night` of the corpus `gen` by BRISQUE.
fn score(dir: &TestDir, night: &str, sources: &[&str], more: &[&str]) -> Ran {
    let params = params().display().to_string();
    let base =
        ["score", "--store", "store", "--corpus", "gen", "--night", night, "--method", "brisque", "--params", &params];
    dir.agiqa(&[&base[..], sources, more].concat())
}

/// The table `images` of a night.
fn night(dir: &TestDir, night: &str) -> Images {
    let dataset = format!("gen.{night}").parse().expect("a name");
    images::read(&dir.store(), &dataset).expect("a table")
}

/// Names of a night's images, sorted.
fn names(dir: &TestDir, label: &str) -> Vec<String> {
    let mut names: Vec<String> = night(dir, label).rows.into_iter().map(|row| row.name).collect();
    names.sort();
    names
}

/// Number of scores of a night in `night_scores`.
fn n_scores(dir: &TestDir, night: &str) -> usize {
    let name = |text: &str| text.parse().expect("a name");
    let table = ScoredNight { scorer: name("brisque"), corpus: name("gen"), night: name(night) };
    let mut n = 0;
    table.for_each(&dir.store(), |_| n += 1).expect("a table");
    n
}

/// Rejects of a night while it was taken up.
fn rejected(dir: &TestDir, night: &str) -> Vec<RejectRow> {
    rejects::read_of(&dir.store(), "corpus", &format!("gen.{night}").parse().expect("a name")).expect("a table")
}

/// The answer of `agiqa query` as CSV without its header.
fn query(dir: &TestDir, sql: &str) -> String {
    let ran = dir.agiqa(&["query", sql, "--store", "store", "--format", "csv"]).exits(0);
    ran.stdout.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
}

/// A tar file with these members. Returns its bytes.
fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("a member");
    }
    builder.into_inner().expect("a tar file")
}

/// Every table of the store but records of runs, as sorted lines by file kind: equal for equal work.
fn tables(dir: &TestDir, store: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let without_time = |text: &str| -> Vec<String> { text.lines().skip(1).map(str::to_owned).collect() };
    for sql in [
        "SELECT uri, version, state, first_night, name, container, bytes, image_id, prompt, kind FROM inventory",
        "SELECT dataset, image_id, name, path, bytes, width, prompt, cached FROM images",
        "SELECT scorer, night, image_id, name, score, cached FROM night_scores",
        "SELECT night, scope, n, n_new, n_rejected, mean, p50, bin_low, bin_width, against, psi, w1 FROM nights",
        "SELECT stage, dataset, image_id, path, row, kind, message FROM rejects",
    ] {
        let ran = dir.agiqa(&["query", sql, "--store", store, "--format", "csv"]).exits(0);
        let mut lines = without_time(&ran.stdout);
        lines.sort();
        tables.insert(sql.rsplit(' ').next().unwrap_or_default().to_owned(), lines);
    }
    tables
}

/// Writes pictures with these seeds as `folder/SEED.png`.
fn pictures(dir: &TestDir, folder: &str, seeds: std::ops::Range<u32>) {
    seeds.for_each(|seed| _ = dir.write(&format!("{folder}/{seed:03}.png"), picture(seed, 120, 120)));
}

/// Sets the time of a file's last change back, so that the file has another version.
fn touch(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("a file");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("its time can be set");
}
