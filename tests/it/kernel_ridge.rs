//! Kernel ridge regression: its mathematics against reference numbers, and its runs.

use std::collections::BTreeMap;

use agiqa_judge::metrics;
use agiqa_nets::kernel_ridge::{Kernel, KernelRidge, Scorer};
use agiqa_store::identity::ImageId;
use agiqa_store::tables::features::{FeatureRows, FeatureSet};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, images, metrics as metrics_table};
use serde::Deserialize;
use tch::Tensor;

use crate::scored::scored;
use crate::testdir::{Ran, reference};
use crate::train::{Fixture, Random};

#[derive(Deserialize)]
struct Reference {
    columns: Vec<Vec<Vec<f32>>>,
    labels: Vec<f64>,
    strengths: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    gamma: f64,
    support: Vec<i64>,
    best: usize,
    residuals: Vec<Vec<f64>>,
    sigma: f64,
    scores: Vec<f64>,
    stds: Vec<f64>,
}

fn matrix(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        // Means and deviations of the standardisation are float32.
        assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found} instead of {expected}");
    }
}

#[test]
fn closed_forms_are_those_of_brute_force() {
    let text = std::fs::read(reference("kernel_ridge.json")).expect("a file of ours");
    let Reference { columns, labels, strengths, cases } = serde_json::from_slice(&text).expect("its form");
    let n = labels.len();
    let train: Vec<Tensor> = columns.iter().map(|rows| matrix(&rows[..n])).collect();
    let new: Vec<Tensor> = columns.iter().map(|rows| matrix(&rows[n..])).collect();
    for case in cases {
        let support = Tensor::from_slice(&case.support);
        let rows = train.iter().map(|column| column.index_select(0, &support)).collect();
        let kernel = Kernel::new(case.gamma, rows, Kernel::standardise(&train));
        let fit = |strengths: &[f64]| {
            let fitted = match case.support.len() == n {
                true => kernel.fit(&labels, strengths, 2, &|| true),
                false => kernel.fit_by_subset(&train, &case.support, &labels, strengths, 2, &|| true),
            };
            fitted.expect("it fits").expect("nothing stops it")
        };
        for (strength, residuals) in strengths.iter().zip(&case.residuals) {
            assert_close(&fit(&[*strength]).residuals, residuals);
        }
        let fitted = fit(&strengths);
        assert_eq!(fitted.best, case.best, "gamma {}", case.gamma);
        let errors: Vec<f64> = fitted.candidates.iter().map(|candidate| candidate.error).collect();
        let expected = |residuals: &Vec<f64>| (residuals.iter().map(|r| r * r).sum::<f64>() / n as f64).sqrt();
        assert_close(&errors, &case.residuals.iter().map(expected).collect::<Vec<_>>());
        assert_close(&[fitted.sigma.expect("residuals")], &[case.sigma]);
        let (lambda, sigma) = (fitted.lambda(), fitted.sigma);
        let scorer = Scorer::new(kernel, fitted.dual, fitted.mean, lambda, sigma).expect("it fits into memory");
        let (scores, stds): (Vec<f64>, Vec<Option<f64>>) =
            scorer.score(&new, 3).expect("it fits into memory").into_iter().unzip();
        assert_close(&scores, &case.scores);
        assert_close(&stds.into_iter().map(|std| std.expect("a deviation")).collect::<Vec<_>>(), &case.stds);
    }
}

#[test]
fn a_score_depends_on_neither_its_batch_nor_the_threads() {
    let mut random = Random(3);
    let mut tensor = |n: i64, dim: i64| {
        let values: Vec<f32> = (0..n * dim).map(|_| random.next() as f32).collect();
        Tensor::from_slice(&values).view([n, dim])
    };
    let (support, new) = (vec![tensor(530, 40), tensor(530, 1030)], vec![tensor(300, 40), tensor(300, 1030)]);
    let labels: Vec<f64> =
        Vec::<f32>::try_from(support[0].select(1, 0)).expect("values").into_iter().map(f64::from).collect();
    let share = |columns: &[Tensor]| columns.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
    let kernel = || Kernel::new(0.3, share(&support), Kernel::standardise(&support));
    let fit =
        |n_threads| kernel().fit(&labels, &[0.5], n_threads, &|| true).expect("it fits").expect("nothing stops it");
    let fitted = fit(1);
    assert_eq!(fit(3).dual, fitted.dual);
    let scorer = Scorer::new(kernel(), fitted.dual, fitted.mean, 0.5, fitted.sigma).expect("it fits into memory");
    let all = scorer.score(&new, 1).expect("scores");
    for rows in [(0..300).rev().collect::<Vec<i64>>(), vec![299], (7..290).collect()] {
        let some: Vec<Tensor> = new.iter().map(|xs| xs.index_select(0, &Tensor::from_slice(&rows))).collect();
        let found = scorer.score(&some, 2).expect("scores");
        assert_eq!(found, rows.iter().map(|row| all[*row as usize]).collect::<Vec<_>>());
    }
}

/// `agiqa train` of kernel ridge regression on `fixture`, with `more`.
fn train(fixture: &Fixture, more: &[&str]) -> Ran {
    fixture.dir.agiqa(&fixture.train_args(&[&["--head", "kernel-ridge", "--gamma", "0"][..], more].concat()))
}

fn predict(fixture: &Fixture, run: &PartitionName) -> Ran {
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()])
}

fn record(fixture: &Fixture) -> RunRecord {
    RunRecord::read(&fixture.store, &fixture.only_run()).expect("a record")
}

/// The rows of `scores`: id, score and deviation, as SQL gives them.
fn rows(fixture: &Fixture) -> Vec<(String, f64, Option<f64>)> {
    let sql = "SELECT image_id, score, score_std FROM scores ORDER BY image_id";
    let ran = fixture.dir.agiqa(&["query", sql, "--store", "store", "--format", "json"]).exits(0);
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
        (
            row["image_id"].as_str().expect("an id").to_owned(),
            row["score"].as_f64().expect("a score"),
            row["score_std"].as_f64(),
        )
    };
    ran.stdout.lines().map(row).collect()
}

#[test]
fn a_regression_is_kept_cached_and_scores_every_image_with_a_deviation() {
    let fixture = Fixture::new(300, 0);
    train(&fixture, &["--seeds", "3"]).exits(0).prints("t-kernel-ridge-random-3-s3-").says("kept by leave-one-out");
    let run = fixture.only_run();
    predict(&fixture, &run).exits(0);
    let judged: Vec<_> = scored(&fixture.store, &run).into_iter().filter(|row| row.part == Some(Part::Test)).collect();
    let (scores, mos): (Vec<f64>, Vec<f64>) = judged.iter().map(|row| (row.score, row.mos.expect("a MOS"))).unzip();
    assert_eq!(scores.len(), 60);
    assert!(metrics::srcc(&scores, &mos).expect("defined") > 0.99);
    let kernel = record(&fixture).kernel_ridge.expect("its results");
    assert_eq!((kernel.n_support, kernel.strengths.len(), kernel.gamma), (210, 5, 0.0));
    let best = kernel.strengths.iter().min_by(|a, b| a.error.total_cmp(&b.error)).expect("five of them");
    assert_eq!(kernel.strength, best.strength);
    assert!(kernel.validation_coverage.is_some_and(|share| share > 0.8), "{kernel:?}");
    let found = rows(&fixture);
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|(_, _, std)| std.is_some_and(|std| std > 0.0 && std < 1.0)));
    train(&fixture, &["--seeds", "3"]).exits(0).says("skipped: all 1 runs");
    predict(&fixture, &run).exits(0).says("skipped: all 300 scores");
    // Evaluation knows it as a run.
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(0).prints("model");
    let table = metrics_table::read(&fixture.store, &run).expect("metrics");
    assert!(table.iter().any(|row| row.predictor == "model" && row.part == "test"));
}

#[test]
fn runs_are_one_per_split_and_the_gated_head_stands_beside() {
    let fixture = Fixture::new(60, 0);
    let args = ["--head", "both", "--epochs", "2", "--split-seed", "4", "--seeds", "0..2"];
    fixture.dir.agiqa(&fixture.train_args(&args)).exits(0);
    let runs = models::runs(&fixture.store).expect("a listing");
    let of = |beginning: &str| runs.iter().filter(|run| run.as_str().starts_with(beginning)).count();
    assert_eq!((of("t-random-4-s"), of("t-kernel-ridge-random-4-s0-"), runs.len()), (3, 1, 4));
    // The gated runs are those that a call without the other head makes.
    let alone = ["--epochs", "2", "--split-seed", "4", "--seeds", "0..2"];
    fixture.dir.agiqa(&fixture.train_args(&alone)).exits(0).says("skipped: all 3 runs");
}

#[test]
fn a_subset_of_support_images_scores_nearly_as_well() {
    let fixture = Fixture::new(300, 0);
    let subset = ["--set", "kernel.max_rows=100", "--set", "kernel.n_support=60"];
    train(&fixture, &subset).exits(0).says("60 support images");
    let run = fixture.only_run();
    predict(&fixture, &run).exits(0);
    let judged: Vec<_> = scored(&fixture.store, &run).into_iter().filter(|row| row.part == Some(Part::Test)).collect();
    let (scores, mos): (Vec<f64>, Vec<f64>) = judged.iter().map(|row| (row.score, row.mos.expect("a MOS"))).unzip();
    assert!(metrics::srcc(&scores, &mos).expect("defined") > 0.99);
    assert!(rows(&fixture).iter().all(|(_, _, std)| std.is_some_and(|std| std > 0.0)));
}

#[test]
fn a_kernel_that_is_not_positive_definite_gets_more_on_its_diagonal_and_says_so() {
    let fixture = Fixture::new(60, 0);
    // A linear kernel of 18 values cannot have rank 42.
    let said = train(&fixture, &["--set", "kernel.strengths=[1e-30, 1]"]).exits(0);
    said.says("rounding leaves the kernel not positive definite at strength 1e-30").says("is added to its diagonal");
    let kernel = record(&fixture).kernel_ridge.expect("its results");
    assert!(kernel.strengths[0].jitter > 0.0 && kernel.strengths[1].jitter == 0.0, "{kernel:?}");
    predict(&fixture, &fixture.only_run()).exits(0);
    assert!(scored(&fixture.store, &fixture.only_run()).iter().all(|row| row.score.is_finite()));
}

#[test]
fn few_rows_and_equal_labels_give_finite_scores() {
    let fixture = Fixture::new(10, 0);
    fixture.set_mos(|_, _| Some(3.0));
    train(&fixture, &[]).exits(0);
    predict(&fixture, &fixture.only_run()).exits(0);
    for (_, score, std) in rows(&fixture) {
        assert_eq!((score, std), (3.0, Some(0.0)), "nothing differs, so nothing is left open");
    }
}

#[test]
fn tied_mos_and_fewer_rows_than_values_give_scores_that_differ() {
    let fixture = Fixture::new(20, 0);
    fixture.set_mos(|_, mos| mos.map(f64::round));
    train(&fixture, &[]).exits(0);
    predict(&fixture, &fixture.only_run()).exits(0);
    let mut scores: Vec<f64> = rows(&fixture).into_iter().map(|(_, score, _)| score).collect();
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    assert_eq!(scores.len(), 20);
}

#[test]
fn one_training_row_gives_its_mos_without_a_deviation() {
    let fixture = Fixture::new(6, 0);
    train(&fixture, &["--train-share", "0.17", "--validation-share", "0.33"]).exits(0);
    assert_eq!(record(&fixture).kernel_ridge.expect("its results").n_support, 1);
    predict(&fixture, &fixture.only_run()).exits(0);
    let found = rows(&fixture);
    assert!(found.iter().all(|(_, score, std)| *score == found[0].1 && std.is_none()), "{found:?}");
}

/// Gives every image the same features.
fn make_constant(fixture: &Fixture) {
    let sets = FeatureSet::list(&fixture.store).expect("sets");
    let dataset = PartitionName::new("d").expect("a valid name");
    let rows = images::read(&fixture.store, &dataset).expect("images").rows;
    std::fs::remove_dir_all(fixture.dir.path().join("store/features")).expect("it was written");
    for set in sets {
        let vectors = set.columns.iter().map(|column| vec![3.25; rows.len() * column.dim]).collect();
        let image_ids = rows.iter().map(|row| row.image_id).collect();
        set.write_description(&fixture.store).expect("an object can be written");
        let rows = FeatureRows { image_ids, vectors, n_tokens: vec![1; rows.len()] };
        set.write_part(&fixture.store, &rows).expect("a part can be written");
    }
}

#[test]
fn thin_data_gives_finite_scores_by_both_heads() {
    let tied = |fixture: &Fixture| fixture.set_mos(|_, mos| mos.map(f64::round));
    let equal = |fixture: &Fixture| fixture.set_mos(|_, _| Some(3.0));
    let one_row = &["--train-share", "0.17", "--validation-share", "0.33"][..];
    type Change<'a> = &'a dyn Fn(&Fixture);
    let cases: [(&str, usize, Change<'_>, &[&str]); 5] = [
        ("fewer rows than values", 20, &|_| {}, &[]),
        ("tied MOS", 40, &tied, &[]),
        ("equal MOS", 10, &equal, &[]),
        ("one training row", 6, &|_| {}, one_row),
        ("constant columns", 20, &make_constant, &[]),
    ];
    for (what, n, change, more) in cases {
        let fixture = Fixture::new(n, 0);
        change(&fixture);
        let args = [&["--head", "both", "--start", "ridge", "--epochs", "2"][..], more].concat();
        fixture.dir.agiqa(&fixture.train_args(&args)).exits(0);
        let runs = models::runs(&fixture.store).expect("a listing");
        assert_eq!(runs.len(), 2, "{what}");
        for run in &runs {
            predict(&fixture, run).exits(0);
            let mut scores: Vec<f64> = scored(&fixture.store, run).iter().map(|row| row.score).collect();
            assert!(scores.len() == n && scores.iter().all(|score| score.is_finite()), "{what}, {run}: {scores:?}");
            scores.dedup();
            assert!(what != "constant columns" || scores.len() == 1, "{what}, {run}: {scores:?}");
        }
    }
}

#[test]
fn support_images_without_features_are_counted() {
    let fixture = Fixture::new(60, 0);
    train(&fixture, &[]).exits(0);
    let run = fixture.only_run();
    let bytes = fixture.store.get(&models::head_path(&run)).expect("a head");
    let mut file = KernelRidge::from_bytes(&bytes).expect("a whole file");
    file.header.support[3] = ImageId::of_bytes(b"no image").to_string();
    fixture.store.put(&models::head_path(&run), file.to_bytes()).expect("it can be written");
    predict(&fixture, &run).exits(2).says("1 of its 42 support images have no features any more");
}

#[test]
fn settings_out_of_range_are_named() {
    let fixture = Fixture::new(40, 0);
    train(&fixture, &["--set", "kernel.gamma=-1"]).exits(2).says("`kernel.gamma` is -1; expected 0 (linear) or more");
    train(&fixture, &["--set", "kernel.strengths=[]"]).exits(2).says("`kernel.strengths` is []");
    train(&fixture, &["--set", "kernel.gama=1"]).exits(2).says("unknown key `gama`");
    let joint = ["train", "--joint", "--store", "store", "--dataset", "d", "--semantic", "synthetic", "--head", "both"];
    fixture.dir.agiqa(&joint).exits(2).says("`head` is both; expected `gated`");
    let shrinkage = fixture.train_args(&["--start", "ridge", "--shrinkage", "0"]);
    fixture.dir.agiqa(&shrinkage).exits(2).says("`shrinkage` is 0; expected a number above 0");
    let start = fixture.train_args(&["--start", "ridge", "--standardise", "false"]);
    fixture.dir.agiqa(&start).exits(2).says("`standardise` is false; expected `true` with `start = \"ridge\"`");
}

#[test]
fn a_ridge_start_is_a_fixed_part_of_the_score() {
    let fixture = Fixture::new(300, 0);
    // At a learning rate of almost nothing, the scores are those of the start.
    let base = fixture.train_args(&["--epochs", "1", "--start", "ridge"]);
    let args: Vec<&str> = base.iter().map(|arg| if *arg == "0.01" { "1e-12" } else { arg }).collect();
    for labels in ["standardised", "raw"] {
        let known = models::runs(&fixture.store).expect("a listing");
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "standardised" { labels } else { arg }).collect();
        fixture.dir.agiqa(&args).exits(0);
        let runs = models::runs(&fixture.store).expect("a listing");
        let run = runs.iter().find(|run| !known.contains(run)).expect("a run of its own");
        predict(&fixture, run).exits(0);
        let by_id: BTreeMap<ImageId, f64> =
            serde_json::from_slice(&fixture.store.get(&models::ridge_path(run)).expect("scores")).expect("an object");
        let (scores, ridge): (Vec<f64>, Vec<f64>) =
            scored(&fixture.store, run).iter().map(|row| (row.score, by_id[&row.image_id])).unzip();
        assert!(metrics::plcc(&scores, &ridge).expect("defined") > 0.99, "{labels}");
        let record = RunRecord::read(&fixture.store, run).expect("a record");
        assert_eq!(record.settings["start"], "ridge");
        assert!(record.epochs[0].validation_mse < 0.5, "{:?}", record.epochs);
    }
}

#[test]
fn an_average_is_a_run_with_the_spread_of_its_members() {
    let fixture = Fixture::new(60, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--head", "both", "--epochs", "2", "--seeds", "0,1"])).exits(0);
    let runs = models::runs(&fixture.store).expect("a listing");
    let records: Vec<RunRecord> =
        runs.iter().map(|run| RunRecord::read(&fixture.store, run).expect("a record")).collect();
    let groups: Vec<&str> =
        records.iter().filter(|record| record.seed == 0).map(|record| record.group.as_str()).collect();
    let [one, other] = groups[..] else { panic!("two groups, not {groups:?}") };
    for weights in ["equal", "validation"] {
        let args = ["predict", "--store", "store", "--group", one, "--group", other, "--average", weights];
        let args = [&args[..], &["--weights", weights]].concat();
        fixture.dir.agiqa(&args).exits(0).says("120 scores of 2 averages");
        fixture.dir.agiqa(&args).exits(0).says("skipped: all 120 scores are present");
        let averages = models::runs(&fixture.store).expect("a listing");
        let run =
            averages.iter().find(|run| run.as_str().starts_with(&format!("{weights}-random-0-"))).expect("it is a run");
        let record = RunRecord::read(&fixture.store, run).expect("a record");
        let shares: Vec<f64> = serde_json::from_value(record.settings["weights"].clone()).expect("numbers");
        let members: Vec<PartitionName> = serde_json::from_value(record.settings["members"].clone()).expect("names");
        assert_eq!(shares == [0.5, 0.5], weights == "equal", "{shares:?}");
        let of_members = members.iter().map(|member| scored(&fixture.store, member)).collect::<Vec<_>>();
        let sql = format!("SELECT image_id, score, score_std FROM scores WHERE scorer = '{run}'");
        let ran = fixture.dir.agiqa(&["query", &sql, "--store", "store", "--format", "json"]).exits(0);
        assert_eq!(ran.stdout.lines().count(), 60);
        for line in ran.stdout.lines() {
            let row: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
            let of = |rows: &Vec<crate::scored::Scored>| {
                rows.iter().find(|scored| row["image_id"] == scored.image_id.to_string()).expect("scored").score
            };
            let (a, b) = (of(&of_members[0]), of(&of_members[1]));
            assert_close(&[row["score"].as_f64().expect("a score")], &[shares[0] * a + shares[1] * b]);
            let spread = (shares[0] * shares[1]).sqrt() * (a - b).abs();
            assert_close(&[row["score_std"].as_f64().expect("a deviation")], &[spread]);
        }
        fixture.dir.agiqa(&["evaluate", "--store", "store", "--group", record.group.as_str()]).exits(0).prints("model");
    }
    let alone = ["predict", "--store", "store", "--group", one, "--average", "x"];
    fixture.dir.agiqa(&alone).exits(2).says("an average takes at least two runs of one split");
}
