//! `agiqa check`: rejects, scores and drift, by default and as a file says, with exit codes.

use agiqa_store::store::Store;
use agiqa_store::tables::rejects::{self, RejectRow};

use crate::select::{Invented, write};
use crate::testdir::{Ran, TestDir, name};

/// `n` images of two generators, whose scores lie between 0 and 1 around 0.5 + `shift`, spread by `width`.
fn night(n: usize, shift: f64, width: f64) -> Vec<Invented> {
    let image = |index: usize| {
        let score = 0.5 + shift + width * (((index as f64 + 0.5) * 0.618_033_988_75).fract() - 0.5);
        let generator = if index.is_multiple_of(2) { "even" } else { "odd" };
        // Lower is better for this method.
        Invented { prompt: None, generator, mos: 1.0, niqe: Some(-score) }
    };
    (0..n).map(image).collect()
}

fn nights(n: usize, shift: f64) -> (TestDir, Store) {
    let dir = TestDir::new();
    write(&dir, "before", "before", &night(n, 0.0, 0.8));
    let store = write(&dir, "now", "now", &night(n, shift, 0.8));
    (dir, store)
}

fn check(dir: &TestDir, more: &[&str]) -> Ran {
    let args = ["check", "--store", "store", "--dataset", "now", "--method", "niqe"];
    dir.agiqa(&[&args, more].concat())
}

/// The line of stdout that holds `words`, as words.
#[track_caller]
fn line(ran: &Ran, words: &str) -> String {
    let lines = ran.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut found = lines.filter(|line| line.contains(words));
    found.next().unwrap_or_else(|| panic!("no line holds {words:?}:\n{}", ran.stdout))
}

#[test]
fn a_first_night_has_nothing_to_compare_with_and_passes() {
    let (dir, _) = nights(400, 0.0);
    let ran = check(&dir, &[]).exits(0).says("check now: 8 checks passed, 0 failed, 0 warned");
    assert_eq!(
        line(&ran, "reject_share"),
        "ok reject_share all 0.0000 0.0100 0 of 400 images rejected (table `rejects`)"
    );
    assert_eq!(line(&ran, "ks"), "ok ks all — 0.0000 nothing to compare with: passes");
}

#[test]
fn equal_nights_pass_and_a_worse_one_fails_by_its_scores_and_its_generators() {
    let (dir, _) = nights(400, 0.0);
    check(&dir, &["--against", "before"]).exits(0).says("8 checks passed");
    let (dir, _) = nights(400, -0.2);
    let ran = check(&dir, &["--against", "before"]).exits(1).says("4 checks passed, 3 failed, 1 warned");
    assert!(line(&ran, "ks").starts_with("FAIL ks all 0.25"), "{}", ran.stdout);
    assert!(line(&ran, "psi").starts_with("warn psi all "), "{}", ran.stdout);
    assert!(line(&ran, "generator=even").starts_with("FAIL mean generator=even 0.2"), "{}", ran.stdout);
    // A better night is no drop, but another distribution.
    let (dir, _) = nights(400, 0.2);
    let ran = check(&dir, &["--against", "before", "--json"]).exits(1);
    ran.prints("\"type\":\"check\"")
        .prints("\"check\":\"ks\"")
        .prints("\"checks\":{\"failed\":1,\"passed\":6,\"warned\":1}");
}

#[test]
fn collapsed_scores_and_images_without_score_fail_and_rejects_count_by_their_share() {
    let dir = TestDir::new();
    write(&dir, "before", "before", &night(300, 0.0, 0.8));
    let mut now = night(300, 0.0, 0.0);
    (0..3).for_each(|index| now[index].niqe = None);
    let store = write(&dir, "now", "now", &now);
    // Equal values all the same: their deviation is that of rounding.
    let ran = check(&dir, &["--against", "before"]).exits(1);
    assert!(line(&ran, "score_std").starts_with("FAIL score_std all 0.0000"), "{}", ran.stdout);
    assert_eq!(
        line(&ran, "unscored_share"),
        "FAIL unscored_share all 0.0100 0.0000 3 of 300 images have neither score nor reject"
    );
    let rows = agiqa_store::tables::images::read(&store, &name("now")).expect("images").rows;
    let reject = |index: usize| RejectRow {
        dataset: Some("now".to_owned()),
        image_id: Some(rows[index].image_id),
        ..RejectRow::now("too-small", "")
    };
    let unread =
        RejectRow { dataset: Some("now".to_owned()), path: Some("x.png".to_owned()), ..RejectRow::now("broken", "") };
    // A reject of an image that has a score, or of another dataset, is none of this scorer's.
    let other = RejectRow { dataset: Some("before".to_owned()), ..reject(0) };
    rejects::append(&store, "baseline", &[reject(0), reject(1), reject(2), reject(9), other])
        .expect("rejects can be written");
    rejects::append(&store, "ingest", &[unread]).expect("rejects can be written");
    let ran = check(&dir, &[]).exits(1);
    assert!(line(&ran, "reject_share").starts_with("FAIL reject_share all 0.0133 0.0100 4 of 301"), "{}", ran.stdout);
    assert!(line(&ran, "unscored_share").starts_with("ok unscored_share all 0.0000"), "{}", ran.stdout);
    let ran = check(&dir, &["--max-rejects", "2%"]).exits(1);
    assert!(line(&ran, "reject_share").starts_with("ok reject_share all 0.0133 0.0200"), "{}", ran.stdout);
}

#[test]
fn a_file_names_the_checks_and_a_mistake_in_it_has_a_place() {
    let (dir, _) = nights(400, -0.2);
    let run = |text: &str| {
        dir.write("night.toml", text);
        check(&dir, &["--against", "before", "--config", "night.toml"])
    };
    let checks = "[score]\ncorpus = \"gen\"\n[[check]]\nof = \"images\"\nmin = 500\nseverity = \"warn\"\n[[check]]\nof = \"mean\"\n\
                  scope = \"generator=odd\"\nmax_drop = 0.3\n[[check]]\nof = \"w1\"\nmax = 0.3\n[[check]]\nof = \"psi\"\nmin_n = 1000\n\
                  [[check]]\nof = \"ks\"\nagainst = \"test\"\n[[check]]\nof = \"mean\"\nmin = 0.2\nmax = 0.4\n";
    let ran = run(checks).exits(0).says("6 checks passed, 0 failed, 1 warned");
    assert_eq!(line(&ran, "images"), "warn images all 400.0000 500.0000");
    assert!(
        line(&ran, "psi").ends_with("too few to compare: 400 against 400 scores, fewer than 1000"),
        "{}",
        ran.stdout
    );
    run(&checks.replace("0.3\n[[check]]\nof = \"w1\"", "0.1\n[[check]]\nof = \"w1\"")).exits(1).says("1 failed");
    run("[[check]]\nof = \"pis\"\n").exits(2).says("line 2").says("expected one of");
    run("[[check]]\nof = \"psi\"\nmaximum = 1\n").exits(2).says("line 3").says("unknown field `maximum`");
    run("\n[[check]]\nof = \"images\"\n").exits(2).says("`night.toml`, line 2: a check of images has no limit");
    run("[score]\n").exits(2).says("no table `[[check]]`");
    check(&dir, &["--against", "nothing"]).exits(2).says("the datasets are: `before`, `now`");
}

#[test]
fn images_that_are_there_twice_are_a_warning() {
    let dir = TestDir::new();
    let store = write(&dir, "now", "now", &night(200, 0.0, 0.8));
    let mut images = agiqa_store::tables::images::read(&store, &name("now")).expect("images");
    images.extra.clear();
    (0..10).for_each(|index| images.rows.push(images.rows[index].clone()));
    agiqa_store::tables::images::write(&store, &name("now"), &images).expect("images can be written");
    let ran = check(&dir, &[]).exits(0).says("1 warned");
    assert_eq!(
        line(&ran, "duplicate_share"),
        "warn duplicate_share all 0.0500 0.0100 10 of 200 images occur more than once"
    );
}
