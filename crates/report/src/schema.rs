//! `schemas/report.json`: the panels of both pages, and the keys of their JSON.

use serde_json::{Value, json};

/// Keys that both pages have.
const BOTH: &[(&str, &str)] = &[
    ("page", "`night` or `runs`"),
    ("schema", "version of this form"),
    ("agiqa_version", "version of the program"),
    ("generators", "one entry per generator, with its means"),
    (
        "gates",
        "mean gate weights of f_1, f_a, f_b per generator, and over tenths of the images by score; null without gates",
    ),
];

const NIGHT: &[(&str, &str)] = &[
    ("dataset", "the night"),
    ("scorer", "run, group or method whose scores are shown; higher is better"),
    ("against", "the night that scores are compared with; null on a first night"),
    ("images", "numbers of images, rejects, images without either, and copies"),
    ("scores", "mean, quantiles and histogram; the first and the last bin are open"),
    ("checks", "what `agiqa check` finds: the event `check`"),
    ("drift", "population stability index, Kolmogorov and Smirnov's D, Wasserstein's distance; null on a first night"),
    ("nights", "one entry per night, oldest first"),
    ("rejects", "number and examples of each stage and kind"),
    ("best", "the images with the highest scores"),
    ("worst", "the images with the lowest scores"),
    ("selection", "what choosing the best image of each prompt is worth; null if no prompt has two images"),
];

const RUNS: &[(&str, &str)] = &[
    ("name", "the run or group"),
    ("dataset", "the dataset that it was trained on"),
    ("runs", "one entry per run"),
    ("metrics", "rows of table `metrics` about the test part"),
    ("scatter", "score and MOS of held-out images, as points or counts in cells, with the fitted logistic mapping"),
    ("baseline", "the method that is compared with; null without one"),
    ("subsets", "SRCC with 95 % intervals on all images, per generator and per word of the prompts"),
    ("errors", "errors of both methods in bins, on the images where the baseline errs most; null without a baseline"),
    ("most_wrong", "the images on which the baseline is most wrong"),
    ("training", "loss and validation metrics per epoch of each run"),
    ("strengths", "strengths that a kernel ridge regression tried, with their errors"),
    ("tables", "tables of the paper, with this store's numbers"),
    ("provenance", "fingerprints, hashes, features and settings of each run"),
];

/// Keys of each page.
fn pages() -> [(&'static str, &'static [(&'static str, &'static str)]); 2] {
    [("night", NIGHT), ("runs", RUNS)]
}

/// Name and text of the file.
pub fn document() -> (String, String) {
    let keys = |own: &[(&str, &str)]| -> Value {
        BOTH.iter()
            .chain(own)
            .map(|(key, doc)| ((*key).to_owned(), json!(doc)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let pages: serde_json::Map<_, _> = pages().into_iter().map(|(page, own)| (page.to_owned(), keys(own))).collect();
    let document = json!({ "schema_version": crate::SCHEMA, "path": "reports/…/report.json", "pages": pages });
    let text = serde_json::to_string_pretty(&document).expect("a list of names is plain data");
    ("report.json".to_owned(), text + "\n")
}
