//! `agiqa query`: SQL over a store's tables, whatever their parts, in every format, and what it says of misspelt names.

use std::io::Read as _;
use std::process::Stdio;

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::metric::{Estimate, Estimates};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ExtraColumn, ExtraValues, ImageRow, Images};
use agiqa_store::tables::metrics::{self, MetricsRow, Statistic};
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_store::tables::splits::{self, Part, SplitRow};

use crate::testdir::{Ran, TestDir, name};

fn id(index: u32) -> ImageId {
    ImageId::of_bytes(&index.to_le_bytes())
}

fn image(index: u32) -> ImageRow {
    ImageRow {
        image_id: id(index),
        name: format!("{index}.png"),
        path: format!("/images/{index}.png"),
        n_bytes: u64::from(index) + 1,
        width_px: 64,
        height_px: 64,
        format: "png".to_owned(),
        generator: Some(if index.is_multiple_of(2) { "even" } else { "odd" }.to_owned()),
        prompt: None,
        mos: (index != 3).then_some(f64::from(index) / 3.0),
        mos_std: None,
        mos_align: None,
    }
}

fn extra(name: &str, values: ExtraValues) -> ExtraColumn {
    ExtraColumn { name: name.to_owned(), values }
}

/// A folder with the store `store`, all of whose tables a test adds itself.
struct Fixture {
    dir: TestDir,
    store: Store,
}

impl Fixture {
    fn empty() -> Self {
        let dir = TestDir::new();
        let store = dir.store();
        Self { dir, store }
    }

    /// Dataset `a` of four images and `b` of two, each with a column of its own and one of another type than in the other.
    fn new() -> Self {
        let fixture = Self::empty();
        let texts = |values: &[&str]| ExtraValues::Text(values.iter().map(|value| Some((*value).to_owned())).collect());
        let reals = |values: &[f64]| ExtraValues::Real(values.iter().copied().map(Some).collect());
        let a =
            vec![extra("style", texts(&["oil", "ink", "oil", "pen"])), extra("level", reals(&[0.5, 1.0, 1.5, 2.0]))];
        let b = vec![extra("level", texts(&["low", "high"])), extra("seed", reals(&[7.0, 8.0]))];
        for (dataset, ids, extra) in [("a", 0..4, a), ("b", 10..12, b)] {
            let images = Images { rows: ids.map(image).collect(), extra };
            images::write(&fixture.store, &name(dataset), &images).expect("images can be written");
        }
        fixture
    }

    /// Scores of two runs on dataset `a`, the first right and the second off by one, and a split of it.
    fn with_scores(self) -> Self {
        for (run, shift) in [("good-1", 0.0), ("bad-2", 1.0)] {
            let set = ScoreSet {
                scorer: name(run),
                kind: ScorerKind::Run,
                fingerprint: Fingerprint::builder(run).finish(),
                direction: Direction::Higher,
                settings: serde_json::Value::Null,
            };
            let scores: Vec<(ImageId, f64)> = (0..4).map(|i| (id(i), f64::from(i) / 3.0 + shift)).collect();
            set.write_part(&self.store, &scores).expect("scores can be written");
        }
        let row = |index: u32| {
            let part = if index < 2 { Part::Train } else { Part::Test };
            SplitRow { image_id: id(index), seed: None, fold: 0, part }
        };
        let rows: Vec<SplitRow> = (0..4).map(row).collect();
        splits::write(&self.store, &name("a"), &name("random-0"), &rows).expect("a split can be written");
        self
    }

    /// Features of two widths, under the two fingerprints that are returned.
    fn with_features(&self) -> [Fingerprint; 2] {
        [2, 7].map(|dim| {
            let set = FeatureSet {
                extractor: name("synthetic"),
                fingerprint: Fingerprint::builder("test").json("dim", &dim).finish(),
                kind: FeatureKind::Quality,
                columns: vec![VectorColumn { name: "f_1".to_owned(), dim }],
                settings: serde_json::Value::Null,
            };
            let values = (0..3 * dim).map(|i| i as f32 / 4.0).collect();
            let rows = FeatureRows { image_ids: (0..3).map(id).collect(), vectors: vec![values], n_tokens: Vec::new() };
            set.write_part(&self.store, &rows).expect("a part can be written");
            set.fingerprint
        })
    }

    fn query(&self, sql: &str) -> Ran {
        self.query_with(sql, &[])
    }

    fn query_with(&self, sql: &str, more: &[&str]) -> Ran {
        self.dir.agiqa(&[&["query", "--store", "store", sql][..], more].concat())
    }
}

/// The rows of a file of JSON lines.
fn rows(json: &str) -> Vec<serde_json::Value> {
    json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn tables_are_asked_by_name_and_united_over_datasets() {
    let fixture = Fixture::new();
    let ran =
        fixture.query("SELECT dataset, name, generator, mos, style, level, seed FROM images ORDER BY dataset, name");
    insta::assert_snapshot!(ran.exits(0).stdout, @r"
    dataset  name    generator  mos       style  level  seed
    a        0.png   even       0.0       oil    0.5    —
    a        1.png   odd        0.333333  ink    1.0    —
    a        2.png   even       0.666667  oil    1.5    —
    a        3.png   odd        —         pen    2.0    —
    b        10.png  even       3.333333  —      low    7.0
    b        11.png  odd        3.666667  —      high   8.0
    ");
}

#[test]
fn partitions_are_columns_of_text_and_tables_can_be_joined_and_grouped() {
    let fixture = Fixture::new().with_scores();
    // The example of docs/tables.md, on the test part.
    let ran = fixture.query(
        "SELECT i.generator, s.scorer, count(*) AS n, avg(abs(s.score - i.mos)) AS error \
         FROM scores s JOIN images i USING (image_id) JOIN splits p USING (image_id) \
         WHERE p.part = 'test' GROUP BY ALL ORDER BY ALL",
    );
    insta::assert_snapshot!(ran.exits(0).stdout, @r"
    generator  scorer  n  error
    even       bad-2   1  1.0
    even       good-1  1  0.0
    odd        bad-2   1  —
    odd        good-1  1  —
    ");
}

#[test]
fn a_value_of_a_partition_that_looks_like_a_number_stays_text() {
    let fixture = Fixture::empty();
    for split in ["007", "1e3"] {
        let row = SplitRow { image_id: id(1), seed: None, fold: 0, part: Part::Test };
        splits::write(&fixture.store, &name("2024"), &name(split), &[row]).expect("a split can be written");
    }
    let ran = fixture.query_with("SELECT dataset, split FROM splits ORDER BY split", &["--format", "json"]).exits(0);
    assert_eq!(ran.stdout, "{\"dataset\":\"2024\",\"split\":\"007\"}\n{\"dataset\":\"2024\",\"split\":\"1e3\"}\n");
    fixture.query("SELECT count(*) AS n FROM splits WHERE split = '007'").exits(0).prints("n\n1\n");
}

#[test]
fn a_folder_above_the_store_is_no_partition() {
    let dir = TestDir::new();
    let url = dir.path().join("dataset=x/store").display().to_string();
    let store = Store::open(&url, OpenMode::CreateIfMissing).expect("a store can be made");
    let images = Images { rows: vec![image(0)], extra: Vec::new() };
    images::write(&store, &name("a"), &images).expect("images can be written");
    dir.agiqa(&["query", "--store", &url, "SELECT dataset, name FROM images"]).exits(0).prints("a        0.png\n");
}

#[test]
fn vectors_are_abbreviated_for_people_and_whole_for_programs() {
    let fixture = Fixture::empty();
    let [narrow, wide] = fixture.with_features();
    let of = |columns: &str, fingerprint: Fingerprint| {
        let (fingerprint, image) = (fingerprint.short(), id(0));
        format!("SELECT {columns} FROM quality WHERE fingerprint = '{fingerprint}' AND image_id = '{image}'")
    };
    let ran = fixture.query(&of("f_1", wide)).exits(0);
    assert_eq!(ran.stdout, "f_1\n[0.0, 0.25, 0.5, … 7 values]\n");
    let ran = fixture.query_with(&of("f_1, rating", narrow), &["--format", "json"]).exits(0);
    assert_eq!(ran.stdout, "{\"f_1\":[0.0,0.25],\"rating\":null}\n");
    let ran = fixture.query_with(&of("f_1[2] AS second, array_length(f_1) AS n", wide), &["--format", "csv"]).exits(0);
    assert_eq!(ran.stdout, "second,n\n0.25,7\n");
    let ran = fixture.query("SELECT fingerprint, count(*) AS n FROM quality GROUP BY fingerprint ORDER BY n");
    assert_eq!(ran.exits(0).stdout.lines().count(), 3);
}

#[test]
fn a_row_that_two_writers_have_written_is_there_once() {
    let fixture = Fixture::empty();
    let [narrow, _] = fixture.with_features();
    let set = FeatureSet {
        extractor: name("synthetic"),
        fingerprint: narrow,
        kind: FeatureKind::Quality,
        columns: vec![VectorColumn { name: "f_1".to_owned(), dim: 2 }],
        settings: serde_json::Value::Null,
    };
    let rows = FeatureRows { image_ids: vec![id(2), id(3)], vectors: vec![vec![0.0; 4]], n_tokens: Vec::new() };
    set.write_part(&fixture.store, &rows).expect("a part can be written");
    let sql = format!("SELECT count(*) AS n FROM quality WHERE fingerprint = '{}'", narrow.short());
    fixture.query(&sql).exits(0).prints("n\n4\n");
}

#[test]
fn only_the_tables_of_a_query_are_opened_and_unfinished_parts_are_not() {
    let fixture = Fixture::new();
    fixture.dir.write("store/metrics/run=r/metrics.parquet", "cut short");
    fixture.dir.write("store/images/dataset=a/part-0.parquet#1", "half of it");
    fixture.query("SELECT count(*) AS n FROM images").exits(0).prints("n\n6\n");
    fixture.query("SELECT * FROM metrics").exits(2).says("`metrics/run=r/metrics.parquet`").says("damaged");
}

#[test]
fn columns_that_are_not_used_are_not_read() {
    let fixture = Fixture::new();
    let ran = fixture.query_with("EXPLAIN SELECT name FROM images WHERE mos > 1", &["--format", "csv"]).exits(0);
    ran.prints("PROJECT 2/").prints("SELECTION");
}

#[test]
fn every_format_is_printed_and_written() {
    let fixture = Fixture::new();
    let sql = "SELECT name, mos, prompt FROM images WHERE dataset = 'a' AND name < '2' ORDER BY name";
    let ran = fixture.query_with(sql, &["--format", "markdown"]).exits(0);
    assert_eq!(ran.stdout, "| name | mos | prompt |\n|---|---|---|\n| 0.png | 0.0 | — |\n| 1.png | 0.333333 | — |\n");
    let ran = fixture.query_with(sql, &["--format", "csv"]).exits(0);
    assert_eq!(ran.stdout, "name,mos,prompt\n0.png,0.0,\n1.png,0.3333333333333333,\n");
    let json = "{\"name\":\"0.png\",\"mos\":0.0,\"prompt\":null}\n\
                {\"name\":\"1.png\",\"mos\":0.3333333333333333,\"prompt\":null}\n";
    assert_eq!(fixture.query_with(sql, &["--format", "json"]).exits(0).stdout, json);
    let with_events = fixture.query_with(sql, &["--json"]).exits(0).stdout;
    assert!(with_events.strip_prefix(json).is_some_and(|end| end.contains("\"type\":\"done\"")), "{with_events}");

    let out = |file: &str| std::fs::read(fixture.dir.path().join(file)).expect("the file is there");
    let ran = fixture.query_with(sql, &["--out", "answer.jsonl"]).exits(0).says("wrote answer.jsonl: 2 rows");
    assert!(ran.stdout.is_empty());
    assert_eq!(out("answer.jsonl"), json.as_bytes());
    fixture.query_with(sql, &["--out", "answer.md"]).exits(0);
    assert!(out("answer.md").starts_with(b"| name |"));
    fixture.query_with(sql, &["--out", "answer.txt"]).exits(0);
    assert!(out("answer.txt").starts_with(b"name   mos       prompt\n"));
    fixture.query_with(sql, &["--out", "answer.dat", "--format", "csv"]).exits(0);
    assert!(out("answer.dat").starts_with(b"name,mos,prompt\n"));
    fixture.query_with(sql, &["--out", "answer.xlsx"]).exits(2).says("give `--format`");
    fixture.query_with(sql, &["--format", "parquet"]).exits(2).says("--out");
    let names: Vec<String> = std::fs::read_dir(fixture.dir.path())
        .expect("the folder can be listed")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with('.')), "a temporary file is left: {names:?}");
}

#[test]
fn parquet_keeps_types_and_can_be_asked_again() {
    let fixture = Fixture::new();
    fixture.with_features();
    let sql = "SELECT i.name, i.mos, q.f_1 FROM images i JOIN quality q USING (image_id)";
    fixture.query_with(sql, &["--out", "answer.parquet"]).exits(0).says("6 rows");
    let ran = fixture
        .query_with(
            "SELECT name, mos, f_1 FROM read_parquet('answer.parquet') ORDER BY name, f_1",
            &["--format", "json"],
        )
        .exits(0);
    let rows = rows(&ran.stdout);
    assert_eq!((rows.len(), &rows[2]["mos"]), (6, &(1.0 / 3.0).into()));
    assert!(rows.iter().any(|row| row["f_1"].as_array().is_some_and(|values| values.len() == 7)));
}

#[test]
fn an_existing_file_is_replaced_only_by_a_whole_answer() {
    let fixture = Fixture::new();
    fixture.dir.write("answer.csv", "old");
    let read = || std::fs::read_to_string(fixture.dir.path().join("answer.csv")).expect("the file is there");
    fixture.query_with("SELECT mso FROM images", &["--out", "answer.csv"]).exits(2);
    assert_eq!(read(), "old");
    fixture.query_with("SELECT count(*) AS n FROM images", &["--out", "answer.csv"]).exits(0);
    assert_eq!(read(), "n\n6\n");
}

#[test]
fn a_misspelt_table_or_column_is_told_with_the_nearest() {
    let fixture = Fixture::new().with_scores();
    fixture
        .query("SELECT * FROM imagse")
        .exits(2)
        .says("no table `imagse`; did you mean `images`? tables of this store: `images`, `splits`, `scores`");
    for sql in [
        "SELECT mso FROM images",
        "SELECT i.mso FROM images i JOIN scores s USING (image_id)",
        "SELECT name FROM images WHERE mso > 1",
        "SELECT name FROM images ORDER BY mso",
        "SELECT avg(mso) AS m FROM images GROUP BY generator",
        "WITH good AS (SELECT mso FROM images) SELECT * FROM good",
    ] {
        fixture
            .query(sql)
            .exits(2)
            .says("table `images` has no column `mso`; did you mean `mos`? its columns: `dataset`, `image_id`, `name`");
    }
    fixture
        .query("SELECT scroe FROM images i JOIN scores s USING (image_id)")
        .exits(2)
        .says("no table of the query has a column `scroe`; did you mean `score` of `scores`?")
        .says("columns of `images`:");
    fixture
        .query("SELECT name FROM images JOIN scores USING (imag_id)")
        .exits(2)
        .says("has a column `imag_id`; did you mean `image_id` of `images`?");
    fixture.query("SELECT name FROM images WHERE generator = \"even\"").exits(2).says("single quotes: 'even'");
}

#[test]
fn a_table_without_parts_is_empty_and_says_who_writes_it() {
    let fixture = Fixture::new();
    let ran = fixture.query("SELECT run, srcc FROM metrics WHERE srcc > 0.5").exits(0);
    let ran = ran.says("table `metrics` has no parts in this store yet; `agiqa evaluate` writes it");
    assert_eq!(ran.stdout, "run  srcc\n");
    fixture.query_with("SELECT * FROM metrics", &["--format", "json"]).exits(0);
    fixture.query("SELECT srrc FROM metrics").exits(2).says("did you mean `srcc`?");
    fixture.dir.agiqa(&["query", "--store", "elsewhere", "SELECT 1"]).exits(2).says("no store at `elsewhere`");
}

#[test]
fn what_does_not_only_read_is_refused() {
    let fixture = Fixture::new();
    fixture.query("DROP TABLE images").exits(2).says("a query only reads, and `DROP` does not: expected SELECT");
    fixture.query("DELETE FROM images WHERE mos > 1").exits(2).says("`DELETE`");
    fixture.query("CREATE TABLE t AS SELECT * FROM images").exits(2).says("`CREATE`");
    fixture.query("SELECT 1; SELECT 2").exits(2).says("one at a time");
    fixture.query("SELEC 1").exits(2).says("cannot read the query");
    fixture
        .query("WITH images AS (SELECT * FROM images) SELECT * FROM images")
        .exits(2)
        .says("hides the table `images`");
}

#[test]
fn tables_are_shown_and_described() {
    let fixture = Fixture::new();
    let row = MetricsRow {
        dataset: "a".to_owned(),
        part: "test".to_owned(),
        predictor: "model".to_owned(),
        subset: "all".to_owned(),
        statistic: Statistic::Value,
        n_runs: 1,
        n: 4,
        metrics: Estimates([Estimate { value: Some(0.9), low: None, high: None }; 6]),
    };
    metrics::write(&fixture.store, &name("r"), &[row], None).expect("metrics can be written");
    let tables = rows(&fixture.query_with("SHOW TABLES", &["--format", "json"]).exits(0).stdout);
    let table = |name: &str| tables.iter().find(|row| row["table"] == name).expect("every table is shown");
    assert_eq!((&table("images")["n_parts"], &table("images")["n_rows"]), (&2.into(), &6.into()));
    assert_eq!((&table("metrics")["n_rows"], &table("splits")["n_parts"]), (&1.into(), &0.into()));
    assert_eq!(table("metrics")["written_by"], "agiqa evaluate");

    let columns = rows(&fixture.query_with("DESCRIBE images", &["--format", "json"]).exits(0).stdout);
    assert_eq!((&columns[0]["column"], &columns[0]["kept_in"]), (&"dataset".into(), &"hive partition".into()));
    let of = |name: &str| columns.iter().find(|row| row["column"] == name).expect("every column is described");
    assert_eq!((&of("mos")["type"], &of("level")["type"]), (&"Float64".into(), &"Utf8".into()));
    fixture.query("DESCRIBE splits").exits(0).says("`agiqa split` writes it").prints("fold");
}

#[test]
fn the_records_of_runs_are_tables_too() {
    let fixture = Fixture::new();
    fixture.dir.agiqa(&["split", "--store", "store", "--dataset", "a"]).exits(0);
    let runs =
        rows(&fixture.query_with("SELECT command, args, exit_code FROM runs", &["--format", "json"]).exits(0).stdout);
    assert_eq!((runs.len(), &runs[0]["command"], &runs[0]["args"][0]), (1, &"split".into(), &"split".into()));
    fixture.query("SELECT r.command, s.outcome FROM run_stages s JOIN runs r USING (record)").exits(0);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let fixture = Fixture::new();
    let sql = "SELECT a.name, b.name AS other, c.name AS third, d.name AS fourth, e.name AS fifth, f.name AS sixth, \
               g.name AS seventh FROM images a CROSS JOIN images b CROSS JOIN images c CROSS JOIN images d \
               CROSS JOIN images e CROSS JOIN images f CROSS JOIN images g";
    let mut command = fixture.dir.command(&["query", "--store", "store", sql, "--format", "csv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("agiqa can be started");
    let mut head = [0; 16];
    child.stdout.take().expect("it was piped").read_exact(&mut head).expect("there is output");
    assert!(child.wait().expect("it ends").success());
}
