//! Tests of `agiqa train --rater`, on networks small enough to train in a second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agiqa_judge::metrics;
use agiqa_nets::layers::NamedTensors;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, scores};
use agiqa_synth::reference_file;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::scored::scored;
use crate::synth;
use crate::testdir::{Ran, TestDir};

/// Networks with their options. Crops are small, so that tests are fast.
const NETWORKS: &[(&str, &[&str])] = &[
    ("hyperiqa", &[]),
    ("dbcnn", &["--crop", "48"]),
    ("stairiqa", &["--crop", "64"]),
    ("baid", &[]),
    ("musiq", &["--micro-batch", "3"]),
    ("resnet50", &["--crop", "64", "--flip", "true"]),
    ("efficientnet-lite0", &["--crop", "64"]),
];

/// Number of images of `data.example` that are ingested.
const N_IMAGES: usize = 20;

/// Small weights of the network `name`. A ResNet-50 is the trunk of HyperIQA with an output.
pub fn weights(name: &str) -> NamedTensors {
    let cases: Value = serde_json::from_slice(&reference_file("raters.json")).expect("it is JSON");
    let case = &cases[if name == "resnet50" { "hyperiqa" } else { name }];
    let mut shapes: BTreeMap<String, Vec<i64>> = serde_json::from_value(case["shapes"].clone()).expect("shapes");
    if name == "resnet50" {
        let trunk = |(name, shape): (String, Vec<i64>)| Some((name.strip_prefix("base_model.")?.to_owned(), shape));
        shapes = shapes.into_iter().filter_map(trunk).collect();
        let d = shapes["layer4.0.bn3.weight"][0];
        shapes.extend([("fc.weight".to_owned(), vec![1, d]), ("fc.bias".to_owned(), vec![1])]);
    }
    synth::tensors(&shapes, case["seed"].as_u64().expect("a seed"), &BTreeMap::new())
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example")
}

/// A store with some images of `data.example` as the dataset `d`, and a checkpoint.
struct Fixture {
    dir: TestDir,
    network: &'static str,
    options: Vec<String>,
}

impl Fixture {
    fn new(network: &'static str) -> Self {
        let dir = TestDir::new();
        let table = std::fs::read_to_string(example().join("data.csv")).expect("a table");
        dir.write("data.csv", rows_of(&table, N_IMAGES));
        let tensors: Vec<(String, Tensor)> = weights(network).into_iter().collect();
        let path = dir.write("start.safetensors", "");
        Tensor::write_safetensors(&tensors, &path).expect("it can be written");
        let own = NETWORKS.iter().find(|(name, _)| *name == network).map_or(&[][..], |(_, own)| *own);
        let fixture = Self { dir, network, options: own.iter().map(|option| (*option).to_owned()).collect() };
        fixture.ingest();
        fixture
    }

    fn ingest(&self) {
        let images = example().join("images").display().to_string();
        let ingest = ["ingest", "--store", "store", "--dataset", "d", "--adapter", "agiqa-3k", "--table", "data.csv"];
        self.dir.agiqa(&[&ingest[..], &["--images", &images]].concat()).exits(0);
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let common = ["train", "--store", "store", "--dataset", "d", "--rater", self.network, "--name", "t"];
        let settings = ["--weights", "start.safetensors", "--device", "cpu", "--threads", "1", "--batch-size", "4"];
        let own = self.options.iter().map(String::as_str);
        common.into_iter().chain(settings).chain(own).chain(more.iter().copied()).collect()
    }

    fn train(&self, more: &[&str]) -> Ran {
        self.dir.agiqa(&self.args(more))
    }

    fn only_run(&self) -> PartitionName {
        let runs = models::runs(&self.dir.store()).expect("a listing");
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }

    fn trained(&self) -> NamedTensors {
        let path = format!("{}/{}", models::rater_prefix(&self.only_run()), models::RATER_WEIGHTS);
        let path = self.dir.path().join("store").join(path);
        Tensor::read_safetensors(path).expect("a safetensors file").into_iter().collect()
    }

    /// Every object below `models` and `scores`, by path.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let store = self.dir.store();
        let objects = ["models", "scores"].into_iter().flat_map(|prefix| store.list(prefix).expect("a listing"));
        objects.map(|object| (object.path.clone(), store.get(&object.path).expect("an object").to_vec())).collect()
    }

    fn state(&self) -> Option<PathBuf> {
        let objects = self.dir.store().list("models").expect("a listing");
        let state = objects.into_iter().find(|object| object.path.ends_with("/state.safetensors"))?;
        Some(self.dir.path().join("store").join(state.path))
    }

    /// Starts the training and ends it as soon as its state is another one than it was.
    fn kill_after_a_saved_state(&self, more: &[&str]) {
        self.dir.kill_once(&self.args(more), || self.state());
    }
}

/// Whether training left the tensors `name` as they were.
fn is_same(before: &NamedTensors, after: &NamedTensors, name: &str) -> bool {
    before[name] == after[name].to_kind(Kind::Float)
}

#[test]
fn every_network_trains_scores_and_is_then_a_run_like_any_other() {
    for (network, _) in NETWORKS {
        let fixture = Fixture::new(network);
        let args = ["--epochs", "2", "--learning-rate", "1e-4"];
        let ran = fixture.train(&args).exits(0).says("epoch 2 of 2").says("20 of 20 images have scores");
        let _ = if *network == "baid" { ran.says("it learns (MOS - 0) / 5") } else { ran };
        let (run, store) = (fixture.only_run(), fixture.dir.store());
        let record = RunRecord::read(&store, &run).expect("a record");
        assert_eq!((record.recipe.as_str(), record.inputs.len(), record.epochs.len()), ("rater", 0, 2), "{network}");
        assert_eq!(record.parts.map(|part| part.n_used), [14, 2, 4]);

        // The scores are those of the training.
        let rows = scored(&store, &run);
        let of_part = rows.iter().filter(|row| row.part == Some(Part::Validation));
        let (found, mos): (Vec<f64>, Vec<f64>) = of_part.map(|row| (row.score, row.mos.expect("a MOS"))).unzip();
        let kept = record.epochs[record.best_epoch as usize - 1];
        let error = found.iter().zip(&mos).map(|(score, mos)| (score - mos).powi(2)).sum::<f64>() / 2.0;
        assert!((error - kept.validation_mse).abs() < 1e-4 * error, "{network}: {error}, {}", kept.validation_mse);
        assert!(metrics::srcc(&found, &mos) == kept.validation_srcc, "{network}");
        assert_eq!(scores::read_of_run(&store, &record).expect("scores").len(), N_IMAGES);
        fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(0);
        let predict = fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
        let _ = predict.says("skipped: all 20 rows of 1 runs are present");

        // What learns has changed, and nothing else.
        let (before, after) = (weights(network), fixture.trained());
        let frozen = |name: &str| *network == "baid" && (name.starts_with("GenAes.") || name.contains(".vgg."));
        for name in after.keys().filter(|name| !name.ends_with("num_batches_tracked")) {
            // Attention does not see a constant in its keys; weight decay alone moves it.
            assert_eq!(is_same(&before, &after, name), frozen(name), "{network}: {name}");
        }
        fixture.train(&args).exits(0).says("skipped: all 1 runs are trained").says("all 20 rows of 1 runs are present");
    }
}

/// Batch norms with statistics that move, dropout, averages, batches in parts.
fn killed_and_started_again_it_ends_with_the_same_bits(network: &'static str, more: &[&str]) {
    let args = [&["--epochs", "2", "--checkpoint-minutes", "0", "--learning-rate", "1e-4"][..], more].concat();
    let (undisturbed, killed) = (Fixture::new(network), Fixture::new(network));
    undisturbed.train(&args).exits(0);
    for _ in 0..2 {
        killed.kill_after_a_saved_state(&args);
    }
    killed.train(&args).exits(0).says("continues after step");
    let (expected, found) = (undisturbed.files(), killed.files());
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{network}");
    for (path, bytes) in &expected {
        // The record of a table's part holds the time at which it was written.
        assert!(*bytes == found[path] || path.ends_with(".parquet"), "{network}: {path} differs");
    }
    let run = undisturbed.only_run();
    let of = |fixture: &Fixture| -> Vec<u64> {
        scored(&fixture.dir.store(), &run).iter().map(|row| row.score.to_bits()).collect()
    };
    assert_eq!(of(&undisturbed), of(&killed), "{network}");
}

#[test]
fn hyperiqa_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("hyperiqa", &[]);
}

#[test]
fn dbcnn_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("dbcnn", &["--weight-average", "0.9"]);
}

#[test]
fn stairiqa_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("stairiqa", &[]);
}

#[test]
fn baid_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("baid", &["--micro-batch", "3"]);
}

#[test]
fn musiq_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("musiq", &[]);
}

#[test]
fn resnet50_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("resnet50", &[]);
}

#[test]
fn efficientnet_lite0_killed_and_started_again_ends_with_the_same_bits() {
    killed_and_started_again_it_ends_with_the_same_bits("efficientnet-lite0", &[]);
}

#[test]
fn batch_norms_learn_as_they_are_told() {
    let fixture = Fixture::new("resnet50");
    let before = weights("resnet50");
    for (mode, statistics_stay, weights_stay) in [("eval", true, false), ("frozen", true, true)] {
        fixture.train(&["--epochs", "1", "--learning-rate", "1e-4", "--batch-norm", mode]).exits(0);
        let after = fixture.trained();
        assert_eq!(is_same(&before, &after, "layer2.0.bn2.running_var"), statistics_stay, "{mode}");
        assert_eq!(is_same(&before, &after, "layer2.0.bn2.weight"), weights_stay, "{mode}");
        assert!(!is_same(&before, &after, "layer2.0.conv2.weight"), "{mode}");
        fixture.dir.store().delete(&models::record_path(&fixture.only_run())).expect("an object can be deleted");
        let left = fixture.dir.store().list("models").expect("a listing");
        left.iter().for_each(|object| fixture.dir.store().delete(&object.path).expect("an object can be deleted"));
    }
}

#[test]
fn a_loss_that_is_no_number_stops_and_names_the_step_and_the_images() {
    for (network, _) in NETWORKS {
        let fixture = Fixture::new(network);
        let ran = fixture.train(&["--epochs", "2", "--learning-rate", "1e30", "--schedule", "constant"]).exits(2);
        let ran = ran.says("diverged: the loss of step 2 (epoch 1)").says("on the images");
        let named = ran.stderr.split("on the images").nth(1).expect("their list").split(',').take(4);
        assert!(named.map(str::trim).all(|id| id.len() >= 32), "{}", ran.stderr);
    }
}

#[test]
fn a_training_part_that_teaches_nothing_is_told() {
    let fixture = Fixture::new("resnet50");
    let table = std::fs::read_to_string(fixture.dir.path().join("data.csv")).expect("it was written");
    let mut lines = table.lines().map(|line| line.rsplitn(5, ',').collect::<Vec<_>>());
    let headings = lines.next().expect("headings").into_iter().rev().collect::<Vec<_>>().join(",");
    // The fourth column from the end is the MOS.
    let equal = |cells: Vec<&str>| format!("{},3.0,{},{},{}", cells[4], cells[2], cells[1], cells[0]);
    let rows: Vec<String> = std::iter::once(headings).chain(lines.map(equal)).collect();
    fixture.dir.write("data.csv", rows.join("\n"));
    fixture.ingest();
    let ran = fixture.train(&["--epochs", "1", "--learning-rate", "1e-4"]).exits(0);
    let _ = ran.says("the 2 validation images all have the same MOS");
    let rows = scored(&fixture.dir.store(), &fixture.only_run());
    assert!(rows.len() == N_IMAGES && rows.iter().all(|row| row.score.is_finite()));

    fixture.dir.write("data.csv", rows_of(&table, 1));
    fixture.ingest();
    let _ = fixture.train(&["--epochs", "1"]).exits(2).says("leaves a part empty");
}

/// The headings and the first `n` rows of `table`.
fn rows_of(table: &str, n: usize) -> String {
    table.lines().take(n + 1).collect::<Vec<_>>().join("\n")
}

#[test]
fn trunks_are_read_from_their_files_and_a_missing_one_is_named() {
    let fixture = Fixture::new("dbcnn");
    let train = |weights: &str| {
        let args = ["train", "--store", "store", "--dataset", "d", "--rater", "dbcnn", "--epochs", "1", "--crop", "48"];
        fixture.dir.agiqa(&[&args[..], &["--device", "cpu", "--batch-size", "4", "--weights", weights]].concat())
    };
    let write = |file: &str, own: &str, prefix: &str| {
        let of_trunk = weights("dbcnn")
            .into_iter()
            .filter_map(|(name, tensor)| Some((format!("{prefix}features.{}", name.strip_prefix(own)?), tensor)));
        let path = fixture.dir.write(&format!("trunks/{file}"), "");
        Tensor::write_safetensors(&of_trunk.collect::<Vec<_>>(), path).expect("it can be written");
    };
    write("vgg16-397923af.pth", "features1.", "");
    let absent = train("trunks").exits(2).says("the weights `scnn`").says("trunks lacks");
    let _ =
        absent.says("get `scnn.pkl` (2585667 bytes; its SHA-256 begins with 7ea73d75)").says("DBCNN_scnn-7ea73d75.pth");
    write("scnn.pkl", "features2.", "module.");
    let _ = train("trunks").exits(0).says("2 begin by seed 0").says("vgg16-397923af.pth").says("scnn.pkl");
    // Without `--weights`, the place of trunks is named.
    let args = ["train", "--store", "store", "--dataset", "d", "--rater", "stairiqa"];
    let ran = fixture.dir.agiqa_with(&args, |command| _ = command.env("AGIQA_WEIGHTS", "nowhere")).exits(2);
    let _ = ran.says("get `resnet50-11ad3fa6.pth` (about 98 MB").says("nowhere/imagenet");
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let fixture = Fixture::new("baid");
    let _ = fixture.train(&["--labels", "standardised"]).exits(2).says("between 0 and 1");
    let _ = fixture.train(&["--gate", "linear"]).exits(2).says("a rating network has no head");
    let _ = fixture.train(&["--crop", "64"]).exits(2).says("expected none");
    let base = ["train", "--store", "store", "--dataset", "d"];
    let of = |more: &[&str]| fixture.dir.agiqa(&[&base[..], more].concat());
    let _ = of(&["--rater", "clipiqa"]).exits(2).says("is not trained here");
    let other = of(&["--rater", "musiq", "--weights", "start.safetensors"]).exits(2);
    let _ = other.says("is not a checkpoint of `musiq`").says("it looks like baid");
    let _ = of(&["--features", "x", "--variant", "y"]).exits(2).says("--rater");
}

#[test]
fn a_pipeline_trains_evaluates_and_compares_without_features() {
    let fixture = Fixture::new("resnet50");
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example/images");
    let text = format!(
        "name = \"p\"\nstore = \"store\"\n[[dataset]]\ndataset = \"d\"\nadapter = \"agiqa-3k\"\ntable = \"data.csv\"\n\
         images = \"{}\"\n[split]\nkind = \"random\"\nseeds = [0, 1]\n[train]\nepochs = 1\nbatch_size = 4\n\
         [train.rater]\nnetwork = \"resnet50\"\nweights = \"start.safetensors\"\ncrop = 64\ndevice = \"cpu\"\n\
         [evaluate]\n[compare]\n",
        images.display()
    );
    fixture.dir.write("p.toml", &text);
    let run = |more: &[&str]| fixture.dir.agiqa(&[&["run", "p.toml"], more].concat());
    let ran = run(&[]).exits(0).says("scores of p on d (2 runs): ran").says("evaluate p-random");
    let _ = ran.says("resnet50");
    let _ = run(&[]).exits(0).says("scores of p on d (2 runs): skipped");
    let record =
        RunRecord::read(&fixture.dir.store(), &models::runs(&fixture.dir.store()).expect("runs")[0]).expect("a record");
    assert_eq!(record.settings["schedule"], "steps", "the network's protocol");
    let _ = run(&["--set", "train.width=4"]).exits(2).says("unknown key `width`");
    let _ = run(&["--set", "train.rater.netwerk=baid"]).exits(2).says("did you mean `network`");
}
