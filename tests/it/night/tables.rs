//! `nights`, `selections` and `checks`: what the commands about a night leave in the store.

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::night_scores::{NightScore, ScoredNight};
use agiqa_store::tables::nights::{self, Bins, NightRow};
use agiqa_store::tables::scores::Direction;

use super::{pictures, query, score};
use crate::baseline::picture;
use crate::testdir::name;
use crate::testdir::{Ran, TestDir};

/// A command about a night by BRISQUE.
fn of_night(dir: &TestDir, command: &str, night: &str, more: &[&str]) -> Ran {
    let base = [command, "--store", "store", "--corpus", "gen", "--night", night, "--method", "brisque"];
    dir.agiqa(&[&base[..], more].concat())
}

/// Four pictures of two prompts by two generators.
fn described(dir: &TestDir) {
    pictures(dir, "out", 0..4);
    dir.write(
        "out/metadata.csv",
        "file_name,prompt,generator\n000.png,a cat,g\n001.png,a cat,g\n002.png,a dog,g\n003.png,a dog,h\n",
    );
}

#[test]
fn a_scored_night_has_its_statistics_as_a_whole_and_per_generator() {
    let dir = TestDir::new();
    described(&dir);
    dir.write("out/broken.png", b"\x89PNG\r\n\x1a\n");
    score(&dir, "n1", &["out"], &[]).exits(1);
    let counts = "SELECT scope, n, n_new, n_cached, n_rejected FROM nights WHERE night = 'n1' ORDER BY scope";
    assert_eq!(query(&dir, counts), "all,4,4,0,1\ngenerator=g,3,3,0,0\ngenerator=h,1,1,0,0\n");
    // They are those of `night_scores`, where lower scores are better.
    let own = query(&dir, "SELECT mean, min, max FROM nights WHERE scope = 'all'");
    let of_scores =
        query(&dir, "SELECT avg(-score) AS mean, min(-score) AS low, max(-score) AS high FROM night_scores");
    let numbers = |text: &str| -> Vec<f64> { text.trim().split(',').map(|n| n.parse().expect("a number")).collect() };
    let (own, of_scores) = (numbers(&own), numbers(&of_scores));
    own.iter().zip(&of_scores).for_each(|(own, other)| assert!((own - other).abs() < 1e-9, "{own} and {other}"));
    assert_eq!(query(&dir, "SELECT against, psi, w1 FROM nights WHERE scope = 'all'"), ",,\n", "a first night");
    // The second night has the bins of the first, so that two rows say how they differ.
    dir.write("out/004.png", picture(4, 120, 120));
    score(&dir, "n2", &["out"], &[]).exits(1);
    let bins = "SELECT bin_low, bin_width FROM nights WHERE scope = 'all' AND night = ";
    assert_eq!(query(&dir, &format!("{bins}'n1'")), query(&dir, &format!("{bins}'n2'")));
    let second = query(&dir, "SELECT n, n_new, n_cached, against FROM nights WHERE scope = 'all' AND night = 'n2'");
    assert_eq!(second, "5,1,4,n1\n");
    let differs =
        "SELECT scope FROM nights WHERE night = 'n2' AND psi >= 0 AND ks_d >= 0 AND ks_null_p99 > 0 ORDER BY scope";
    assert_eq!(query(&dir, differs), "all\ngenerator=g\ngenerator=h\n");
    let ran =
        dir.agiqa(&["query", "SELECT counts FROM nights WHERE scope = 'all'", "--store", "store", "--format", "json"]);
    let line: serde_json::Value =
        serde_json::from_str(ran.exits(0).stdout.lines().next().expect("a row")).expect("JSON");
    let counts: Vec<u64> = line["counts"].as_array().expect("a list").iter().filter_map(|n| n.as_u64()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (66, 4));
}

#[test]
fn checks_and_selections_of_a_night_are_tables_and_go_when_the_night_is_replaced() {
    let dir = TestDir::new();
    described(&dir);
    score(&dir, "n1", &["out"], &[]).exits(0);
    of_night(&dir, "check", "n1", &[]).exits(0);
    let checks = query(&dir, "SELECT check, scope, passed, severity FROM checks ORDER BY check, scope");
    assert!(checks.contains("reject_share,all,1,fail\n") && checks.contains("mean,generator=h,1,fail\n"), "{checks}");
    assert_eq!(
        query(&dir, "SELECT value, message FROM checks WHERE check = 'ks'"),
        ",nothing to compare with: passes\n"
    );
    // The same checks once more replace their rows.
    of_night(&dir, "check", "n1", &[]).exits(0);
    assert_eq!(query(&dir, "SELECT check, scope, passed, severity FROM checks ORDER BY check, scope"), checks);
    of_night(&dir, "select", "n1", &["--uncertain-below", "1e9"]).exits(0);
    let chosen = "SELECT \"group\", count(*) AS n, sum(chosen) AS chosen, sum(uncertain) AS uncertain FROM selections \
                  WHERE by = 'prompt' GROUP BY \"group\" ORDER BY \"group\"";
    assert_eq!(query(&dir, chosen), "a cat,2,1,1\na dog,2,1,1\n");
    assert_eq!(
        query(&dir, "SELECT count(*) AS n FROM selections s JOIN night_scores n USING (image_id) WHERE s.uri = n.uri"),
        "4\n"
    );
    // Other columns form other groups, beside the first.
    of_night(&dir, "select", "n1", &["--by", "prompt,generator"]).exits(0);
    let by = "SELECT by, count(*) AS n, sum(chosen) AS chosen FROM selections GROUP BY by ORDER BY by";
    assert_eq!(query(&dir, by), "prompt,4,2\n\"prompt,generator\",4,3\n");
    of_night(&dir, "select", "n1", &["--top", "2"]).exits(0);
    assert_eq!(query(&dir, by), "prompt,4,4\n\"prompt,generator\",4,3\n");
    let ran = dir.agiqa(&["query", "SHOW TABLES", "--store", "store", "--format", "csv"]).exits(0);
    for table in ["nights,1,", "selections,2,8,", "checks,1,"] {
        ran.stdout.lines().find(|line| line.starts_with(table)).unwrap_or_else(|| panic!("{table}: {}", ran.stdout));
    }
    // What was said about the night before it was taken up again is void.
    score(&dir, "n1", &["out"], &["--replace"]).exits(0);
    let n = |table: &str| query(&dir, &format!("SELECT count(*) AS n FROM {table}"));
    assert_eq!([n("checks"), n("selections"), n("nights")], ["0\n", "0\n", "3\n"]);
}

#[test]
fn other_settings_start_a_series_of_their_own_and_shares_sum_up() {
    let dir = TestDir::new();
    pictures(&dir, "out", 0..6);
    score(&dir, "n1", &["out"], &["--shard", "1/2"]);
    score(&dir, "n1", &["out"], &["--shard", "2/2"]).exits(0);
    assert_eq!(query(&dir, "SELECT n, n_new FROM nights WHERE scope = 'all'"), "6,6\n");
    // An earlier night that other parameters have scored.
    let store = dir.store();
    let night = ScoredNight { scorer: name("brisque"), corpus: name("gen"), night: name("n0") };
    let row = NightScore {
        image_id: ImageId::of_bytes(b"x"),
        uri: "x".to_owned(),
        name: "x".to_owned(),
        generator: None,
        prompt: None,
        group_id: None,
        score: 1.0,
        std: None,
        gates: [None; 3],
        is_cached: false,
    };
    let other = Fingerprint::builder("other").finish();
    night.write_part(&store, Shard::WHOLE, Direction::Lower, other, &[row]).expect("a part can be written");
    let bins = Bins { low: -1.0, width: 1.0, counts: vec![0, 1] };
    let row = NightRow {
        scope: nights::ALL.to_owned(),
        n_scored: [1, 0],
        n_rejected: 0,
        moments: None,
        bins: Some(bins),
        difference: None,
    };
    nights::write(&store, &night, Some(other), &[row]).expect("a part can be written");
    of_night(&dir, "check", "n1", &[]).exits(0).prints("nothing to compare with");
    let of_n1 = "SELECT against FROM nights WHERE scope = 'all' AND night = 'n1'";
    assert_eq!(query(&dir, of_n1), "\n");
    score(&dir, "n2", &["out"], &[]).exits(0);
    assert_eq!(query(&dir, "SELECT against FROM nights WHERE night = 'n2'"), "n1\n");
    of_night(&dir, "check", "n2", &[]).exits(0).prints("too few to compare: 6 against 6");
}
