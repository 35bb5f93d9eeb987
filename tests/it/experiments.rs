//! The paper's tables as pipelines: what they plan, what they end in, and that they go on where they stopped.

use std::path::Path;

use agiqa::features::feature_sets;

use super::features::dinov2_of_side;
use agiqa_store::store::Store;
use agiqa_store::tables::features::{FeatureRows, FeatureSet};
use agiqa_store::tables::images;

use crate::scored::scored;
use crate::testdir::{Ran, TestDir};

/// A pipeline of the repository, with its heads small and its features those of [`fill_features`].
fn run(dir: &TestDir, pipeline: &str, more: &[&str]) -> Ran {
    let path = format!("{}/pipelines/{pipeline}.toml", env!("CARGO_MANIFEST_DIR"));
    let small = ["extractor.dinov2-s14.side=56", "train.epochs=3", "train.width=8", "split.seeds=[0, 1]"];
    let mut args = vec!["run", &path, "--store", "store"];
    small.iter().for_each(|set| args.extend(["--set", set]));
    args.extend(more);
    dir.agiqa(&args)
}

/// Two datasets of 30 drawn images each: one as AGIQA-3K's authors publish theirs, one as AIGCQA-20K's.
pub fn datasets() -> TestDir {
    let dir = TestDir::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data.example");
    let table = std::fs::read_to_string(source.join("data.csv")).expect("it is part of the project");
    let (header, rows) = table.split_once('\n').expect("a header");
    let rows: Vec<&str> = rows.lines().collect();
    let (first, second) = rows.split_at(30);
    dir.write("3k/data.csv", format!("{header}\n{}\n", first.join("\n")));
    let name_of = |row: &str| row.split(',').next().expect("a name").to_owned();
    // Prompts hold commas, so the rating is counted from the end: it comes before its deviation and the alignment's two.
    let line = |row: &&str| format!("{},a drawing,{}", name_of(row), row.rsplit(',').nth(3).expect("a rating"));
    let lines: Vec<String> = second.iter().map(line).collect();
    dir.write("20k/info_train.csv", format!("name,prompt,mos\n{}\n", lines.join("\n")));
    for (folder, rows) in [("3k", first), ("20k", second)] {
        for row in rows {
            let name = name_of(row);
            let bytes = std::fs::read(source.join("images").join(&name)).expect("every row has its image");
            dir.write(&format!("{folder}/images/{name}"), bytes);
        }
    }
    dir
}

/// Gives every image of the store features that say something of its MOS, in place of an extractor that needs weights.
fn fill_features(store: &Store) {
    let pair = feature_sets(&dinov2_of_side(56)).expect("valid settings");
    for dataset in images::datasets(store).expect("datasets can be listed") {
        let rows = images::read(store, &dataset).expect("it was ingested").rows;
        for set in [&pair.semantic, &pair.quality] {
            let vectors = |column: usize, dim: usize| {
                let value = move |idx: usize, row: &images::ImageRow| {
                    let noise = f32::from(row.image_id.as_bytes()[(idx + column) % 16]) / 64.0;
                    row.mos.unwrap_or(0.0) as f32 * (idx % 3) as f32 + noise
                };
                rows.iter().flat_map(|row| (0..dim).map(move |idx| value(idx, row))).collect()
            };
            let features = FeatureRows {
                image_ids: rows.iter().map(|row| row.image_id).collect(),
                vectors: set.columns.iter().enumerate().map(|(at, column)| vectors(at, column.dim)).collect(),
                n_tokens: if set.columns.len() > 1 { vec![16; rows.len()] } else { Vec::new() },
            };
            FeatureSet::write_description(set, store).expect("the store can be written");
            set.write_part(store, &features).expect("the store can be written");
        }
    }
}

/// Ingests what `pipeline` names and fills in the features.
fn prepare(dir: &TestDir, pipeline: &str, set: &[&str]) -> Store {
    let mut args = set.to_vec();
    args.extend(["--stage", "ingest"]);
    run(dir, pipeline, &args).exits(0);
    let store = dir.store();
    fill_features(&store);
    store
}

/// The lines of the printed table that begin with `variant`.
fn line<'a>(ran: &'a Ran, variant: &str) -> &'a str {
    let found: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with(&format!("{variant} ("))).collect();
    let [line] = found.as_slice() else { panic!("{} lines of {variant}: {}", found.len(), ran.stdout) };
    line
}

#[test]
fn the_ablation_trains_all_seven_combinations_and_ends_in_one_table_beside_the_paper_s() {
    let (dir, pipeline, root) = (datasets(), "table3-ablation-agiqa-3k", ["--set", "root=3k"]);
    let planned = run(&dir, pipeline, &[&root[..], &["--dry-run"]].concat()).exits(0).prints("14 runs");
    let variants = ["f_1", "f_a", "f_b", "f_1-f_a", "f_1-f_b", "f_a-f_b", "f_1-f_a-f_b"];
    for variant in variants {
        let run = format!("{pipeline}-{variant}-random-1-s1-");
        assert_eq!(planned.stdout.matches(&run).count(), 1, "{run}: {}", planned.stdout);
    }
    let store = prepare(&dir, pipeline, &root);
    let ran = run(&dir, pipeline, &root).exits(0).prints("not the paper's features").prints("dinov2-s14@");
    for variant in variants {
        let line = line(&ran, variant);
        assert!(
            line.contains("(2 runs)") && line.contains(&variant.replace('-', " + ")) && line.contains('±'),
            "{line}"
        );
    }
    assert!(line(&ran, "f_1").trim_end().ends_with("0.8800      0.9196  0.7031  —"), "{}", line(&ran, "f_1"));
    assert!(line(&ran, "f_1-f_b").contains("0.8820"), "{}", line(&ran, "f_1-f_b"));

    // A head reads what it is told to: there is no gate of anything else.
    for run in agiqa_store::tables::models::runs(&store).expect("runs can be listed") {
        let rows = scored(&store, &run);
        assert_eq!(rows.len(), 30);
        let name = run.as_str();
        let read = name.trim_start_matches("table3-ablation-agiqa-3k-").split("-random").next().expect("a name");
        for row in &rows {
            for (input, gate) in ["f_1", "f_a", "f_b"].into_iter().zip(row.gates.expect("a head with gates")) {
                assert_eq!(
                    gate.is_some(),
                    read.split('-').any(|name| name == input),
                    "{name}: gate {gate:?} of {input}"
                );
            }
        }
    }

    let again = run(&dir, pipeline, &root).exits(0).says("skipped: the table of 7 variants is up to date");
    assert!(!again.stderr.contains(": ran: "), "{}", again.stderr);
    assert_eq!(again.stdout, ran.stdout);
    let folder = store.list("experiments").expect("it can be listed");
    let markdown = folder.iter().find(|object| object.path.ends_with("table.md")).expect("a table for people");
    let markdown = String::from_utf8(store.get(&markdown.path).expect("it is there").to_vec()).expect("text");
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| f_")).count(), 7, "{markdown}");
    let json = run(&dir, pipeline, &[&root[..], &["--json"]].concat()).exits(0);
    let lines: Vec<serde_json::Value> =
        json.stdout.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    let rows: Vec<_> = lines.iter().filter(|line| line["type"] == "experiment").collect();
    assert_eq!((rows.len(), &rows[0]["ours"]["n_runs"], &rows[0]["paper"][0]), (7, &2.into(), &0.88.into()));
}

#[test]
fn a_variant_that_is_lost_is_made_again_and_nothing_else() {
    let (dir, pipeline, root) = (datasets(), "table5-moe", ["--set", "root=3k"]);
    let store = prepare(&dir, pipeline, &root);
    let first = run(&dir, pipeline, &root).exits(0);
    assert!(line(&first, "concatenated").contains("concat"), "{}", first.stdout);
    assert!(
        line(&first, "concatenated").contains("0.8921") && line(&first, "gated").contains("0.8939"),
        "{}",
        first.stdout
    );
    for run in agiqa_store::tables::models::runs(&store).expect("runs can be listed") {
        if run.as_str().contains("concatenated") {
            let rows = scored(&store, &run);
            assert!(rows.len() == 30 && rows.iter().all(|row| row.gates.is_none()), "a gate without gates");
            if run.as_str().contains("-s1-") {
                store.delete(&agiqa_store::tables::models::record_path(&run)).expect("it can be deleted");
            }
        }
    }
    let again = run(&dir, pipeline, &root).exits(0).says("1 runs trained");
    assert!(again.stderr.contains("table5-moe-agiqa-3k-gated on agiqa-3k (2 runs): skipped"), "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
}

#[test]
fn one_dataset_s_head_is_tested_on_the_other_s_test_part() {
    let (dir, pipeline) = (datasets(), "table2-cross-dataset");
    let roots = ["--set", "root_3k=3k", "--set", "root_20k=20k"];
    let store = prepare(&dir, pipeline, &roots);
    let ran = run(&dir, pipeline, &roots).exits(0).prints("HyperIQA").prints("StairIQA");
    for (variant, trained_on, tested_on, paper) in
        [("20k-to-3k", "aigcqa-20k", "agiqa-3k", "0.8053"), ("3k-to-20k", "agiqa-3k", "aigcqa-20k", "0.7722")]
    {
        let line = line(&ran, variant);
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == trained_on).expect("the dataset trained on");
        assert_eq!(words[at + 1], tested_on, "{line}");
        assert!(line.contains(paper), "{line}");
    }
    // The test part of a split of 30 is 6 images, and that of a run's own dataset stands beside it.
    for run in agiqa_store::tables::models::runs(&store).expect("runs can be listed") {
        let rows = agiqa_store::tables::metrics::read(&store, &run).expect("metrics");
        let n = |dataset: &str, part: &str| {
            let of_model = rows.iter().filter(|row| row.predictor == "model" && row.subset == "all");
            of_model.filter(|row| row.dataset == dataset && row.part == part).map(|row| row.n).collect::<Vec<_>>()
        };
        assert_eq!((n("agiqa-3k", "test"), n("aigcqa-20k", "test")), (vec![6], vec![6]), "{run}");
    }
}

#[test]
fn the_other_tables_run_on_small_datasets_of_the_same_form() {
    let dir = datasets();
    let sets = ["--set", "root=20k"];
    prepare(&dir, "table4-ablation-aigcqa-20k", &sets);
    let ran = run(&dir, "table4-ablation-aigcqa-20k", &sets).exits(0);
    assert!(line(&ran, "f_1-f_a-f_b").contains("0.8644"), "{}", ran.stdout);
    let sets = ["--set", "root=20k", "--set", "corpus=aigcqa-20k", "--set", "table=info_train.csv"];
    let of_20k = run(&dir, "table1-ma-agiqa", &sets).exits(0).prints("MUSIQ");
    assert!(line(&of_20k, "MA-AGIQA").contains("0.9050"), "{}", of_20k.stdout);
    // The table of another dataset stands beside it.
    let root = ["--set", "root=3k"];
    let store = prepare(&dir, "table1-ma-agiqa", &root);
    let of_3k = run(&dir, "table1-ma-agiqa", &root).exits(0);
    assert!(line(&of_3k, "MA-AGIQA").contains("0.8939"), "{}", of_3k.stdout);
    let again = run(&dir, "table1-ma-agiqa", &sets).exits(0).says("skipped: the table of 1 variants is up to date");
    assert_eq!(line(&again, "MA-AGIQA"), line(&of_20k, "MA-AGIQA"));
    let tables = store.list("experiments").expect("they can be listed");
    let n_of = |corpus: &str| {
        tables.iter().filter(|object| object.path.contains(&format!("=table1-ma-agiqa-{corpus}/"))).count()
    };
    assert_eq!((n_of("agiqa-3k"), n_of("aigcqa-20k")), (2, 2));
}

#[test]
fn the_pipeline_of_agiqa_3k_runs_on_aigcqa_20k() {
    let dir = datasets();
    let path = format!("{}/pipelines/agiqa-3k.toml", env!("CARGO_MANIFEST_DIR"));
    let of_20k = ["root=20k", "corpus=aigcqa-20k", "table=info_train.csv", "evaluate.by=[\"generator\"]"];
    // All prompts of this table are the same, so it cannot be split by prompt.
    let splits = ["split.1.seeds=[0]", "split.2.kind=random", "split.2.seeds=[1]"];
    let small = ["extractor.dinov2-s14.side=56", "train.width=8"];
    let features = ["features.semantic=dinov2-s14", "features.quality=dinov2-s14"];
    let mut args = vec!["run", &path, "--store", "store"];
    of_20k.iter().chain(&splits).chain(&small).chain(&features).for_each(|set| args.extend(["--set", set]));
    dir.agiqa(&[&args[..], &["--stage", "ingest"]].concat()).exits(0);
    fill_features(&dir.store());
    dir.agiqa(&args).exits(0).prints("aigcqa-20k-kernel-ridge-random").prints("aigcqa-20k-random");
}

#[test]
fn what_an_experiment_cannot_use_is_refused_with_its_place() {
    let dir = datasets();
    let plan = |set: &[&str]| {
        let mut args = vec!["--set", "root=3k", "--dry-run"];
        set.iter().for_each(|set| args.extend(["--set", set]));
        run(&dir, "table3-ablation-agiqa-3k", &args)
    };
    // Which of the two is missed depends on what lies in the weights folder.
    plan(&["features=mplug-owl2+maniqa"]).exits(2).says("extractor.m").says("weights");
    plan(&["features=dinov2-s14+maniqa"]).exits(2).says("extractor.maniqa").says("needs the folder of its weights");
    plan(&["features=dinov2"]).exits(2).says("--set features=dinov2");
    plan(&["train.inputs=[]"]).exits(0);
    plan(&["variant.0.train={ inputs = [] }"]).exits(2).says("`inputs` is []; expected one to three");
    plan(&["variant.0.train={ inputs = [\"f_2\"] }"]).exits(2).says("f_2");
    plan(&["variant.1.name=f_1"]).exits(2).says("duplicate variant `f_1`");
    plan(&["variant.1.nam=f_1"]).exits(2).says("unknown key `nam` in `variant.1`; did you mean `name`?");
    plan(&["variant.1.test=agiqa-4k"]).exits(2).says("did you mean `agiqa-3k`?");
    plan(&["experiment.paper_table=6"]).exits(2).says("tables 1 to 5");
    plan(&["evaluate.parts=[\"train\"]"]).exits(2).says("with `test` among its parts");
    plan(&["predict.also=[]"]).exits(2).says("takes the place of `[predict]`");
}

#[test]
fn images_that_are_not_there_are_missed_by_name() {
    let dir = datasets();
    std::fs::remove_dir_all(dir.path().join("20k/images")).expect("it was made");
    let sets = ["--set", "root=20k"];
    run(&dir, "table4-ablation-aigcqa-20k", &[&sets[..], &["--dry-run"]].concat())
        .exits(2)
        .prints("fails  ingest aigcqa-20k")
        .prints("14 runs")
        .says("cannot open image folder")
        .says("20k/images");
    run(&dir, "table4-ablation-aigcqa-20k", &sets).exits(2).says("20k/images");
    let roots = ["--set", "root_3k=3k", "--set", "root_20k=20k"];
    run(&dir, "table2-cross-dataset", &[&roots[..], &["--dry-run"]].concat())
        .exits(2)
        .prints("run    ingest agiqa-3k")
        .prints("fails  ingest aigcqa-20k")
        .prints("4 runs")
        .says("20k/images");
}
