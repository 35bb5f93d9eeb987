//! `agiqa evaluate --table`: the same forms of tables as `agiqa ingest`, and rows that must not be used.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::Value;

use crate::testdir::{Ran, TestDir};

/// Eight rows of score and MOS.
const ROWS: [(f64, f64); 8] =
    [(1.0, 1.2), (2.5, 2.0), (2.0, 2.6), (4.0, 3.9), (3.0, 3.1), (4.5, 4.8), (3.5, 3.2), (1.5, 1.1)];

fn csv() -> String {
    let mut text = "name,score,mos\n".to_owned();
    for (at, (score, mos)) in ROWS.iter().enumerate() {
        let _ = writeln!(text, "i{at},{score},{mos}");
    }
    text
}

fn evaluate(dir: &TestDir, table: &str, more: &[&str]) -> Ran {
    let args = ["evaluate", "--json", "--resamples", "0", "--score", "score", "--mos", "mos", "--table", table];
    dir.agiqa(&[&args, more].concat())
}

/// The number of rows and the SRCC in the first line.
#[track_caller]
fn judged(ran: &Ran) -> (u64, f64) {
    let line: Value = serde_json::from_str(ran.stdout.lines().next().expect("a line")).expect("JSON");
    (line["n"].as_u64().expect("a number"), line["srcc"]["value"].as_f64().expect("a number"))
}

#[test]
fn every_form_of_a_table_gives_the_same_metrics() {
    let dir = TestDir::new();
    dir.write("t.csv", csv());
    let expected = judged(&evaluate(&dir, "t.csv", &[]).exits(0));
    assert_eq!(expected.0, 8);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(csv().as_bytes()).expect("in memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(csv().as_bytes()).expect("in memory");
    let rows: Vec<Value> =
        ROWS.iter().map(|(score, mos)| serde_json::json!({"name": "i", "score": score, "mos": mos})).collect();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let latin = csv().replace("i0", "caf\u{e9}").chars().map(|c| c as u8).collect();
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("gzip_as.csv", gzip.finish().expect("in memory")),
        ("z.zlib.csv", zlib.finish().expect("in memory")),
        ("t.csv.zst", zstd::encode_all(csv().as_bytes(), 1).expect("in memory")),
        ("base.tab", csv().replace(',', "\t").into_bytes()),
        ("base.json", serde_json::to_vec(&rows).expect("plain data")),
        ("base.jsonl", lines.join("\n").into_bytes()),
        ("cr.csv", csv().replace('\n', "\r").into_bytes()),
        ("semicolon.csv", csv().replace(',', ";").into_bytes()),
        ("header_space.csv", csv().replace("name,score,mos", "name, score , mos").into_bytes()),
        ("utf16.csv", csv().encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("latin1.csv", latin),
    ];
    for (name, bytes) in forms {
        dir.write(name, bytes);
        assert_eq!(judged(&evaluate(&dir, name, &[]).exits(0)), expected, "{name}");
    }
    dir.write("comma.csv", csv().replace(',', ";").replace('.', ","));
    evaluate(&dir, "comma.csv", &[]).exits(2).says("give `--decimal-comma`");
    assert_eq!(judged(&evaluate(&dir, "comma.csv", &["--decimal-comma"]).exits(0)), expected);
    dir.write("plain.txt", csv().lines().skip(1).map(|line| line.replace(',', " ") + "\n").collect::<String>());
    let by_number = ["evaluate", "--json", "--resamples", "0", "--score", "2", "--mos", "3", "--no-header"];
    assert_eq!(judged(&dir.agiqa(&[&by_number[..], &["--table", "plain.txt"]].concat()).exits(0)), expected);
    dir.agiqa(&["evaluate", "--store", "s", "--run", "r", "--no-header"]).exits(2).says("go with --table");
}

#[test]
fn rows_of_another_width_are_never_used_but_named_and_counted() {
    let dir = TestDir::new();
    let shifted = csv().replace("i1,2.5,2\n", "i1,two dogs, 5,2.5,2\n").replace("i3,4,3.9\n", "i3,4\n");
    dir.write("t.csv", &shifted);
    let ran = evaluate(&dir, "t.csv", &[])
        .exits(1)
        .says("ragged-row: `t.csv`, row 2 (line 3): expected 3 cells as in the header, found 5")
        .says("row 4 (line 5): expected 3 cells as in the header, found 2")
        .says(
            "2 of 8 rows left out: 0 without a finite `score`, 0 without a finite `mos`, 2 that cannot be understood",
        );
    assert_eq!(judged(&ran).0, 6);
    assert!(ran.stdout.contains("\"n_rejected\":2"), "{}", ran.stdout);
    dir.write("t.jsonl", "{\"score\":1,\"mos\":1}\n[1,2]\n{\"score\":2,\"mos\":\n{\"score\":2,\"mos\":3}\n");
    assert_eq!(judged(&evaluate(&dir, "t.jsonl", &[]).exits(1).says("(line 3)")).0, 2);
}

#[test]
fn a_repeated_column_is_refused_and_missing_values_are_missing() {
    let dir = TestDir::new();
    dir.write("t.csv", "name,score,mos,mos\na,1,2,9\n");
    evaluate(&dir, "t.csv", &[]).exits(2).says("more than one column `mos`: column 3, column 4");
    dir.write("t.csv", csv() + "x,NA,3\ny,#N/A,3\nz,2,None\nw,N/A,null\n");
    let ran =
        evaluate(&dir, "t.csv", &[]).exits(1).says("4 of 12 rows left out: 3 without a finite `score`, 2 without");
    assert_eq!(judged(&ran).0, 8);
    dir.write("r.csv", "\"\",\"score\",\"mos\"\n\"1\",5.04,5.17\n\"2\",0.4,NA\n\"3\",3.1,3.2\n");
    assert_eq!(judged(&evaluate(&dir, "r.csv", &[]).exits(1)).0, 2);
}

#[test]
fn mapped_metrics_need_six_rows() {
    let dir = TestDir::new();
    for n in 2..=8 {
        dir.write("t.csv", csv().lines().take(n + 1).map(|line| format!("{line}\n")).collect::<String>());
        let ran = evaluate(&dir, "t.csv", &[]).exits(0);
        let line: Value = serde_json::from_str(ran.stdout.lines().next().expect("a line")).expect("JSON");
        for metric in ["plcc", "rmse"] {
            assert_eq!(line[metric]["value"].is_null(), n < 6, "{metric} of {n} rows");
        }
    }
}
