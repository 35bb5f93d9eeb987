//! `agiqa report`: the panels of both pages, their numbers as JSON, hostile text, size, and what a browser says.

use std::path::{Path, PathBuf};
use std::process::Command;

use agiqa_store::identity::ImageId;
use agiqa_store::metric::{Estimate, Estimates};
use agiqa_store::tables::comparison::{self, ComparisonRow, Judged};
use agiqa_store::tables::images::{self, Images};
use agiqa_store::tables::models::RunRecord;
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::scores::{Direction, ScorerKind};
use agiqa_store::tables::splits::Part;
use serde_json::Value;

use crate::pipeline::{PIPELINE, run, with_features};
use crate::select::{Invented, score, write};
use crate::testdir::{Ran, TestDir, name};

const NIGHT_PANELS: [&str; 10] =
    ["verdict", "scores", "checks", "nights", "generators", "rejects", "worst", "best", "selection", "gates"];

const RUNS_PANELS: [&str; 10] =
    ["metrics", "scatter", "subsets", "errors", "most-wrong", "paper", "training", "generators", "gates", "provenance"];

/// A page and its numbers.
struct Page {
    html: String,
    json: Value,
}

impl Page {
    fn read(dir: &TestDir, path: &str) -> Self {
        let read = |path: &PathBuf| std::fs::read_to_string(path).expect("the report is there");
        let path = dir.path().join(path);
        let json = serde_json::from_str(&read(&path.with_extension("json"))).expect("the numbers are JSON");
        Self { html: read(&path), json }
    }

    /// Fails unless the page is one safe file with these panels, whose JSON has the keys that the schema lists.
    #[track_caller]
    fn assert_whole(&self, page: &str, panels: &[&str]) {
        let Self { html, json } = self;
        assert!(html.len() < 2_000_000, "{} bytes", html.len());
        for id in panels {
            assert!(html.contains(&format!("<section id=\"{id}\" aria-labelledby=\"{id}-title\">")), "no panel {id}");
        }
        assert_eq!(html.matches("<section ").count(), panels.len());
        let policy = "default-src &#39;none&#39;; img-src data:; style-src &#39;unsafe-inline&#39;";
        assert!(html.contains(policy) && !html.contains("<script") && !html.contains("http://"), "not self-contained");
        for landmark in ["<html lang=\"en\">", "<header>", "<nav aria-label=", "<main id=\"main\">", "<footer>"] {
            assert_eq!(html.matches(landmark).count(), 1, "{landmark}");
        }
        let count = |what: &str| html.matches(what).count();
        assert_eq!(count("<svg "), count("role=\"img\"><title>"), "a chart without a title");
        assert_eq!(count("<svg "), count("<desc>"), "a chart without a description");
        assert_eq!(count("<img "), count(" alt=\""), "an image without an alternative text");
        assert_eq!(count("<th"), count("<th scope=") + count("<thead>"), "a header without a scope");
        let schema: Value = serde_json::from_str(&agiqa_report::document().1).expect("a schema");
        let keys = |value: &Value| {
            let mut keys: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(json), keys(&schema["pages"][page]));
    }
}

/// The name of the only group that has a report.
fn reported(dir: &TestDir) -> String {
    let object = dir.store().list("reports").expect("a listing").into_iter().next().expect("a report");
    object.path.trim_start_matches("reports/run=").split('/').next().unwrap_or_default().to_owned()
}

/// The pipeline over data.example, with a report at its end.
fn with_runs() -> (TestDir, Ran) {
    let dir = with_features();
    dir.write("p.toml", format!("{PIPELINE}\n[report]\nwords = [\"a\", \"unheard-of\"]\n"));
    let ran = run(&dir, &[]).exits(0);
    (dir, ran)
}

#[test]
fn a_pipeline_ends_with_a_page_about_its_runs() {
    let (dir, ran) = with_runs();
    let group = reported(&dir);
    let path = format!("store/reports/run={group}/report.html");
    ran.says(&format!("report: {}", dir.path().canonicalize().expect("it exists").join(&path).display()));
    let Page { html, json } = Page::read(&dir, &path);
    let page = Page { html, json };
    page.assert_whole("runs", &RUNS_PANELS);
    let Page { html, json } = &page;
    // The numbers of the page are those of the file, and those of the tables.
    let srcc = json["scatter"]["srcc"].as_f64().expect("a number");
    assert!(html.contains(&format!("SRCC {srcc:.4}")), "SRCC {srcc:.4} is not on the page");
    let rows = agiqa_store::tables::metrics::read(&dir.store(), &name(&group)).expect("metrics");
    assert_eq!(json["metrics"].as_array().map(Vec::len), Some(rows.iter().filter(|row| row.part == "test").count()));
    assert_eq!(json["scatter"]["n"], json["scatter"]["points"].as_array().map(Vec::len).expect("points"));
    assert_eq!((json["runs"].as_array().map(Vec::len), &json["baseline"]), (Some(2), &"generator-mean".into()));
    assert_eq!(json["training"][0]["epochs"].as_array().map(Vec::len), Some(2));
    let of_word = json["subsets"]
        .as_array()
        .expect("subsets")
        .iter()
        .find(|subset| subset["subset"] == "prompt with “unheard-of”");
    assert_eq!(of_word.map(|subset| &subset["n"]), Some(&0.into()));
    assert!(html.matches("data:image/jpeg;base64,").count() == 6, "the six images that the baseline misjudges");
    // A second run has nothing to do, and the same tables give the same bytes.
    run(&dir, &[])
        .exits(0)
        .says(&format!("report {group}: skipped: `reports/run={group}/report.html` shows the present"));
    let words = ["--words", "a,unheard-of", "--out", "own.html"];
    dir.agiqa(&[&["report", "--store", "store", "--group", &group][..], &words].concat())
        .exits(0)
        .says("report: own.html");
    assert!(Page::read(&dir, "own.html").html == *html, "other bytes");
    dir.agiqa(&["report", "--store", "store", "--group", &group, "--baseline", "niqe"])
        .exits(2)
        .says("no method `niqe`");
}

#[test]
fn a_trained_method_of_the_paper_is_one_row_of_its_table() {
    let dir = with_features();
    dir.write("p.toml", PIPELINE.replace("dataset = \"example\"", "dataset = \"agiqa-3k\"") + "\n[report]\n");
    run(&dir, &[]).exits(0);
    let (store, group) = (dir.store(), reported(&dir));
    let runs = agiqa_store::tables::models::runs(&store).expect("runs");
    let record = RunRecord::read(&store, &runs[0]).expect("a record");
    let paper = agiqa_judge::paper::row("agiqa-3k", "hyperiqa").expect("a row").figures();
    let row = ComparisonRow {
        method: "own-rater-s0".to_owned(),
        kind: ScorerKind::Run,
        direction: Direction::Higher,
        rank: 1,
        n: 12,
        metrics: Estimates([Estimate::default(); 4]),
        paper,
        n_paired: 12,
        lead: Estimate::default(),
        beats: Vec::new(),
    };
    let judged = Judged { dataset: record.dataset.clone(), part: Some((record.split.clone(), Part::Test)) };
    comparison::write(&store, &judged, &[row], record.fingerprint).expect("a comparison can be written");
    dir.agiqa(&["report", "--store", "store", "--group", &group, "--out", "own.html"]).exits(0);
    let tables = Page::read(&dir, "own.html").json["tables"].clone();
    let rows = tables.as_array().and_then(|tables| tables.last()?["rows"].as_array().cloned()).expect("a table");
    let methods: Vec<&str> = rows.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(methods.len(), 13, "{methods:?}");
    assert!(methods.contains(&"own-rater-s0") && !methods.contains(&"HyperIQA"), "{methods:?}");
}

#[test]
fn a_night_has_its_best_and_worst_images_as_thumbnails() {
    let dir = with_features();
    let store = dir.store();
    let rows = images::read(&store, &name("example")).expect("images").rows;
    let scores: Vec<(ImageId, f64)> = rows.iter().map(|row| (row.image_id, -row.mos.unwrap_or(0.0))).collect();
    score(&store, &scores);
    let args = ["report", "--store", "store", "--dataset", "example", "--method", "niqe", "--out", "night.html"];
    dir.agiqa(&args).exits(0).says("report: night.html");
    let page = Page::read(&dir, "night.html");
    page.assert_whole("night", &NIGHT_PANELS);
    assert_eq!(page.html.matches("data:image/jpeg;base64,").count(), 24);
    let best = rows.iter().filter_map(|row| row.mos).fold(0.0, f64::max);
    assert_eq!(page.json["best"][0]["score"].as_f64(), Some(best));
    assert!(page.html.contains(&format!("score {best:.3}")));
    assert!(page.html.contains("There is nothing to compare with"), "a first night");
    let counts: u64 = page.json["scores"]["counts"].as_array().expect("bins").iter().filter_map(Value::as_u64).sum();
    assert_eq!((counts, &page.json["scores"]["n"]), (60, &60.into()));
    dir.agiqa(&[&args[..], &["--no-thumbnails", "--images", "3"]].concat()).exits(0);
    let page = Page::read(&dir, "night.html");
    assert!(!page.html.contains("<img") && page.json["worst"].as_array().map(Vec::len) == Some(3));
    // Into the store, where it is up to date the second time.
    dir.agiqa(&args[..7]).exits(0).says("kB about 60 images in ").says("report.html");
    dir.agiqa(&args[..7]).exits(0).says("report example by niqe: skipped");
}

/// The page of a night whose prompts, generators and files have hostile names, after a better one.
fn hostile(dir: &TestDir) -> Page {
    let long: &'static str = "x".repeat(100_000).leak();
    let prompts =
        ["<b onload='x'>&amp;</b><script>alert(1)</script>", "turned \u{202e}txet", "two\nlines", long, "", "plain"];
    let night = |shift: f64| -> Vec<Invented> {
        let image = |index: usize| Invented {
            prompt: Some(prompts[index % prompts.len()]),
            generator: if index.is_multiple_of(3) { "\"><img src=x>" } else { "g" },
            mos: 1.0,
            niqe: Some(((index as f64) * 0.618_033_988_75).fract() + shift),
        };
        (0..300).map(image).collect()
    };
    write(dir, "before", "before", &night(0.0));
    let store = write(dir, "now", "now", &night(0.3));
    let unread = RejectRow {
        dataset: Some("now".to_owned()),
        path: Some("<i>.png".to_owned()),
        ..RejectRow::now("broken", "<i>")
    };
    rejects::append(&store, "ingest", &[unread]).expect("rejects can be written");
    let of_night = ["report", "--store", "store", "--dataset", "now", "--method", "niqe"];
    dir.agiqa(&[&of_night[..], &["--against", "before", "--out", "n.html"]].concat()).exits(0);
    Page::read(dir, "n.html")
}

#[test]
fn hostile_prompts_are_text_and_the_difference_to_an_earlier_night_is_shown() {
    let dir = TestDir::new();
    let page = hostile(&dir);
    page.assert_whole("night", &NIGHT_PANELS);
    for hostile in ["<b ", "alert(1)</script>", "\u{202e}", "<img", "<i>"] {
        assert!(!page.html.contains(hostile), "{hostile:?} is on the page");
    }
    for shown in
        ["&lt;script&gt;alert(1)&lt;/script&gt;", "turned \\u{202e}txet", "two\\nlines", "… (100000 characters)"]
    {
        assert!(page.html.contains(shown), "{shown:?} is not on the page");
    }
    assert!(page.json["drift"]["ks_d"].as_f64().is_some_and(|d| d > 0.25), "{}", page.json["drift"]);
    assert_eq!(
        (&page.json["rejects"][0]["kind"], &page.json["rejects"][0]["is_new"]),
        (&"broken".into(), &true.into())
    );
    let checks = page.json["checks"].as_array().expect("checks");
    let ks = checks.iter().find(|check| check["check"] == "ks").expect("a check of D");
    assert_eq!((&ks["passed"], &ks["value"]), (&false.into(), &page.json["drift"]["ks_d"]));
    assert_eq!(page.json["selection"]["n_groups"], 5);
}

#[test]
fn a_night_of_100_000_images_gives_a_small_page() {
    let dir = TestDir::new();
    let store = dir.store();
    let rows: Vec<_> = (0..100_000).map(|index| crate::train::image(index, None)).collect();
    let value = |index: usize| ((index as f64) * 0.618_033_988_75).fract();
    score(&store, &rows.iter().enumerate().map(|(index, row)| (row.image_id, value(index))).collect::<Vec<_>>());
    images::write(&store, &name("now"), &Images { rows, extra: Vec::new() }).expect("images can be written");
    dir.agiqa(&["report", "--store", "store", "--dataset", "now", "--method", "niqe", "--out", "n.html"]).exits(0);
    let page = Page::read(&dir, "n.html");
    page.assert_whole("night", &NIGHT_PANELS);
    assert!(page.html.len() < 100_000, "{} bytes", page.html.len());
}

#[test]
fn what_cannot_be_reported_is_said() {
    let dir = TestDir::new();
    std::fs::create_dir(dir.path().join("store")).expect("a folder can be made");
    let report = |more: &[&str]| dir.agiqa(&[&["report", "--store", "store"], more].concat());
    report(&["--group", "g"]).exits(2).says("has no images and no runs, so there is nothing to report");
    report(&["--dataset", "d", "--method", "niqe"]).exits(2).says("has no images and no runs");
    write(&dir, "d", "", &[crate::select::image("a cat", 1.0, 5.0)]);
    report(&["--method", "niqe"]).exits(2).says("method `niqe` has no training to report");
    report(&["--dataset", "e", "--method", "niqe"]).exits(2).says("the datasets are: `d`");
    report(&["--dataset", "d", "--method", "niqe", "--out", "page.txt"])
        .exits(2)
        .says("name a file that ends in `.html`");
    report(&["--run", "r", "--against", "d"]).exits(2).says("--dataset");
}

/// A page that shows `page` in two frames, as wide as a phone and as a desk's screen, and writes what each says of itself.
const FRAMES: &str = "<!DOCTYPE html><body><pre id=said></pre><script>
addEventListener('message', event => document.getElementById('said').append(event.data + '\\n'));
for (const width of [375, 1440]) {
  const frame = document.createElement('iframe');
  frame.width = width; frame.height = 900; frame.src = 'measured.html';
  document.body.append(frame);
}
</script>";

/// Says which elements stand outside the page's width, those in a scrolling region aside.
const MEASURE: &str = "<script>addEventListener('load', () => {
  const outside = [...document.body.querySelectorAll('*')].filter(element =>
    !element.closest('.wide, pre, .skip') && element.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage(`width ${innerWidth} outside ${document.documentElement.scrollWidth > innerWidth} ` +
    outside.map(element => element.outerHTML.slice(0, 80)).join(' | '), '*');
});</script>";

/// Fails unless the browser shows all `panels` of the page `html` within the width of a phone and of a desk's screen, and
/// complains of nothing.
fn assert_shown(chromium: &Path, dir: &TestDir, html: &str, panels: &[&str]) {
    let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
    let dumped = |name: &str, html: &str| {
        let path = dir.write(name, html);
        let url = format!("file://{}", path.display());
        let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"];
        let budget = "--virtual-time-budget=5000";
        let output =
            Command::new(chromium).args(flags).args([&profile, budget, "--window-size=1600,2000", &url]).output();
        let output = output.expect("the browser can be started");
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (dom, log) = dumped("page.html", html);
    let missing: Vec<&&str> = panels.iter().filter(|id| !dom.contains(&format!("id=\"{id}\""))).collect();
    assert_eq!(missing, Vec::<&&str>::new());
    assert!(!log.contains("Content Security Policy") && !log.contains("CONSOLE"), "{log}");
    let start = html.find("<meta http-equiv").expect("the policy");
    let end = start + html[start..].find('>').expect("its end") + 1;
    dir.write("measured.html", format!("{}{MEASURE}{}", &html[..start], &html[end..]));
    let (dom, log) = dumped("frames.html", FRAMES);
    for width in [375, 1440] {
        let line = dom
            .lines()
            .find_map(|line| line.split_once(&format!("width {width} outside ")))
            .map(|(_, said)| said.trim());
        assert_eq!(line, Some("false"), "{width} px\n{log}");
    }
}

fn chromium() -> Option<PathBuf> {
    agiqa_synth::required_or_skipped(PathBuf::from("/usr/bin/chromium"), "AGIQA_REQUIRE_CHROMIUM")
}

#[test]
fn a_browser_shows_every_panel_about_runs_within_a_phones_width_and_finds_no_violation() {
    let Some(chromium) = chromium() else { return };
    let (dir, _) = with_runs();
    let page = Page::read(&dir, &format!("store/reports/run={}/report.html", reported(&dir)));
    assert_shown(&chromium, &dir, &page.html, &RUNS_PANELS);
}

#[test]
fn a_browser_shows_every_panel_of_a_night_with_hostile_prompts_and_finds_no_violation() {
    let Some(chromium) = chromium() else { return };
    let dir = TestDir::new();
    let page = hostile(&dir);
    assert_shown(&chromium, &dir, &page.html, &NIGHT_PANELS);
}
