//! `agiqa run`: what it refuses and where, what it plans, what it skips, what it prints.

use std::path::Path;

use agiqa::features::feature_sets;

use super::features::dinov2_of_side;
use agiqa_nets::trained_head::TrainedHead;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::tables::features::{FeatureRows, FeatureSet};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::{self, Part};
use agiqa_store::tables::{PartitionName, images, rejects};

use crate::features::picture;
use crate::testdir::{Ran, TestDir, open_store, reference, weights};

/// A pipeline over data.example without extraction settings that matter: its features are written by [`fill_features`].
pub const PIPELINE: &str = r#"name = "small"
store = "store"

[params.root]
type = "path"
help = "folder of the example data"

[[dataset]]
dataset = "example"
adapter = "agiqa-3k"
table = "${root}/data.csv"
images = "${root}/images"

[features]
semantic = "dinov2-s14"
quality = "dinov2-s14"

[extractor.dinov2-s14]
side = 56

[split]
kind = "random"
seeds = [0, 1]

[train]
epochs = 2

[evaluate]
by = ["generator"]
bootstrap = { resamples = 20 }
"#;

fn root() -> String {
    format!("root={}/data.example", env!("CARGO_MANIFEST_DIR"))
}

fn example() -> PartitionName {
    PartitionName::new("example").expect("a valid name")
}

/// Runs `p.toml` with the example data as its root.
pub fn run(dir: &TestDir, more: &[&str]) -> Ran {
    let root = root();
    let args: Vec<&str> = ["run", "p.toml", "--set", &root].into_iter().chain(more.iter().copied()).collect();
    dir.agiqa(&args)
}

/// Writes the pipeline with `from` replaced by `to`, and plans it.
fn plan_with(from: &str, to: &str) -> Ran {
    let dir = TestDir::new();
    let text = PIPELINE.replacen(from, to, 1);
    assert_ne!(text, PIPELINE, "`{from}` is not in the pipeline");
    dir.write("p.toml", text);
    run(&dir, &["--dry-run"])
}

/// Gives every image of the store features that depend on its id only, in place of an extractor that needs weights.
fn fill_features(store: &Path) {
    let store = open_store(store);
    let ids: Vec<_> =
        images::read(&store, &example()).expect("it was ingested").rows.iter().map(|row| row.image_id).collect();
    let pair = feature_sets(&dinov2_of_side(56)).expect("valid settings");
    for set in [&pair.semantic, &pair.quality] {
        let vectors = |column: usize, dim: usize| {
            ids.iter()
                .flat_map(|id| {
                    let bytes = *id.as_bytes();
                    (0..dim).map(move |idx| f32::from(bytes[(idx + column) % 16]) / 256.0 + idx as f32 / dim as f32)
                })
                .collect()
        };
        let rows = FeatureRows {
            image_ids: ids.clone(),
            vectors: set.columns.iter().enumerate().map(|(at, column)| vectors(at, column.dim)).collect(),
            n_tokens: if set.columns.len() > 1 { vec![16; ids.len()] } else { Vec::new() },
        };
        FeatureSet::write_description(set, &store).expect("the store can be written");
        set.write_part(&store, &rows).expect("the store can be written");
    }
}

/// A store in which everything up to the features is there.
pub fn with_features() -> TestDir {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    run(&dir, &["--stage", "ingest"]).exits(0);
    fill_features(&dir.path().join("store"));
    dir
}

#[test]
fn an_unknown_key_is_refused_at_every_level_with_line_and_nearest_key() {
    plan_with("name =", "nam =").exits(2).says("p.toml:1:1: unknown key `nam`; did you mean `name`?");
    plan_with("epochs", "epocs").exits(2).says("p.toml:26:1: unknown key `epocs` in `train`; did you mean `epochs`?");
    plan_with("[evaluate]", "[evalute]").exits(2).says("p.toml:28:2: unknown key `evalute`; did you mean `evaluate`?");
    plan_with("side", "sied").exits(2).says("p.toml:19:1: unknown key `sied` in `extractor.dinov2-s14`");
    plan_with("table =", "tabel =").exits(2).says("in `dataset.0`; did you mean `table`?");
    plan_with("seeds", "seds").exits(2).says("p.toml:23:1: unknown key `seds` in `split`; did you mean `seed");
    plan_with("resamples", "resample").exits(2).says("did you mean `resamples`?");
    plan_with("help", "halp").exits(2).says("p.toml:6:1: unknown key `halp` in `params.root`; did you mean `help`?");
    plan_with("[extractor.dinov2-s14]", "[extractor.dinov2-b14]").exits(2).says("does not use extractor `dinov2-b14`");
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_what_was_expected() {
    plan_with("side = 56", "side = \"big\"").exits(2).says("p.toml:19:8: `extractor.dinov2-s14.side`: expected u32");
    plan_with("kind = \"random\"", "kind = \"randon\"").exits(2).says("p.toml:22:8").says("did you mean `random`?");
    plan_with("semantic = \"dinov2-s14\"", "semantic = \"dinov2\"").exits(2).says("p.toml:15:12");
    plan_with("seeds = [0, 1]", "seeds = []").exits(2).says("p.toml:23:9").says("at least one");
    plan_with("seeds = [0, 1]", "seeds = [0, 0]").exits(2).says("duplicate split `random-0`");
    plan_with("name = \"small\"", "name = \"a/b\"").exits(2).says("p.toml:1:8").says("`a/b`");
    plan_with("[train]", "[train").exits(2).says("p.toml:25:").says("not valid TOML");
    plan_with("epochs = 2", "epochs = 2020-01-01").exits(2).says("p.toml:26:10").says("is a date");
}

#[test]
fn tables_that_need_one_another_are_missed() {
    plan_with("[features]\nsemantic = \"dinov2-s14\"\nquality = \"dinov2-s14\"\n", "")
        .exits(2)
        .says("the pipeline has no `[features]`");
    plan_with("[split]\nkind = \"random\"\nseeds = [0, 1]\n", "").exits(2).says("`[train]` needs a `[split]` table");
}

#[test]
fn a_parameter_without_a_value_says_how_to_give_one() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    dir.agiqa(&["run", "p.toml", "--dry-run"])
        .exits(2)
        .says("parameter `root` has no value (folder of the example data): give it with `--set root=…`");
    plan_with("${root}/data.csv", "${rot}/data.csv").exits(2).says("unknown parameter `${rot}`; did you mean `root`?");
    plan_with("[params.root]", "[params.unused]\nhelp = \"\"\n[params.root]").exits(2).says("is used nowhere");
}

#[test]
fn a_set_argument_that_names_nothing_is_refused() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    run(&dir, &["--dry-run", "--set", "rot=x"]).exits(2).says("--set rot=x").says("did you mean `root`?");
    run(&dir, &["--dry-run", "--set", "train.epocs=3"])
        .exits(2)
        .says("--set train.epocs=3: unknown key `epocs` in `train`; did you mean `epochs`?");
    run(&dir, &["--dry-run", "--set", "trian.epochs=3"]).exits(2).says("did you mean `train`?");
    run(&dir, &["--dry-run", "--set", "train.epochs=many"]).exits(2).says("expected u").says("--set train.epochs=many");
    run(&dir, &["--dry-run", "--set", "train"]).exits(2).says("expected `key=value`");
    run(&dir, &["--dry-run", "--set", "dataset.3.table=x"]).exits(2).says("an array of 1");
}

#[test]
fn a_dry_run_says_what_would_run_and_changes_nothing() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    run(&dir, &["--dry-run"])
        .exits(0)
        .prints("run    ingest example")
        .prints("after  split example random-0")
        .prints("after  evaluate");
    assert!(!dir.path().join("store").exists(), "a dry run made the store");

    run(&dir, &["--stage", "ingest", "--stage", "split"]).exits(0);
    let before = snapshot(dir.path());
    run(&dir, &["--dry-run"])
        .exits(0)
        .prints("skip   ingest example")
        .prints("skip   split example random-1")
        .prints("60 of 60 images lack features");
    assert_eq!(snapshot(dir.path()), before, "a dry run changed a file");
}

/// Every file below `folder` with its size and time of change.
fn snapshot(folder: &Path) -> Vec<(std::path::PathBuf, u64, std::time::SystemTime)> {
    walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("the test's own folder");
            let data = entry.metadata().expect("the test's own file");
            (entry.into_path(), data.len(), data.modified().expect("a file system with times"))
        })
        .collect()
}

#[test]
fn a_table_that_is_missing_ends_the_run_before_anything_is_computed() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    dir.agiqa(&["run", "p.toml", "--set", "root=nowhere", "--dry-run"]).exits(2).says("nowhere/data.csv");
    dir.agiqa(&["run", "absent.toml"]).exits(2).says("cannot read pipeline `absent.toml`");
    run(&dir, &["--stage", "predcit"]).exits(2).says("expected one of ingest, features");
}

#[test]
fn the_whole_pipeline_runs_once_and_then_says_why_it_skips_everything() {
    let dir = with_features();
    let first = run(&dir, &[]).exits(0);
    assert!(first.stderr.contains("ingest example: skipped"), "{}", first.stderr);
    let first = first.prints("generator-mean").prints("metrics/**/*.parquet").prints("duckdb").prints("polars");

    let second = run(&dir, &[]).exits(0).says("all 60 images have features");
    let n_skipped = second.stderr.lines().filter(|line| line.contains(": skipped: ")).count();
    let n_ran = second.stderr.lines().filter(|line| line.contains(": ran: ")).count();
    assert_eq!((n_ran, second.stdout), (0, first.stdout), "{}", second.stderr);
    assert!(n_skipped >= 7, "{}", second.stderr);
}

#[test]
fn several_quality_extractors_are_joined_to_one_f_1() {
    let dir = with_features();
    let joined = ["--set", "features.quality=[\"dinov2-s14\", \"nss\"]", "--set", "train.allow_missing=true"];
    // Two of the drawn images are too flat for statistics.
    run(&dir, &joined)
        .exits(1)
        .says("features nss of example: ran: 58 of 60 images have features")
        .says("join dinov2-s14.nss: ran: 58 of 58 images have joined features");
    run(&dir, &joined).exits(1).says("join dinov2-s14.nss: skipped: all 58 images have joined features");
    let store = dir.store();
    let sets = FeatureSet::list(&store).expect("readable descriptions");
    let dim_of = |name: &str| {
        let set = sets.iter().find(|set| set.extractor.as_str() == name && set.columns[0].name == "f_1");
        set.unwrap_or_else(|| panic!("no set `{name}`")).columns[0].dim
    };
    assert_eq!(dim_of("dinov2-s14.nss"), dim_of("dinov2-s14") + dim_of("nss"));
    let refused = |quality: &str, why: &str| {
        run(&dir, &["--dry-run", "--set", &format!("features.quality={quality}")]).exits(2).says(why);
    };
    refused("[]", "expected at least one extractor");
    refused("[\"nss\", \"nss\"]", "joined with itself");
    refused("[\"nss\", \"mplug-owl2\"]", "mplug-owl2");
    refused("[\"nss\", \"nsss\"]", "did you mean `nss`?");
}

#[test]
fn an_override_reruns_what_depends_on_it_and_nothing_else() {
    let dir = with_features();
    run(&dir, &[]).exits(0);
    run(&dir, &["--dry-run", "--set", "train.epochs=3"])
        .exits(0)
        .prints("skip   ingest")
        .prints("skip   features")
        .prints("skip   split example random-0")
        .prints("run    train");
    run(&dir, &["--dry-run", "--set", "split.seeds=[0, 1, 2]"]).exits(0).prints("run    split example random-2");
    run(&dir, &["--dry-run", "--set", "evaluate.by=[\"style\"]"])
        .exits(0)
        .prints("skip   train")
        .prints("skip   predict")
        .prints("run    evaluate");
}

#[test]
fn events_are_json_lines_with_a_type() {
    let dir = with_features();
    let ran = run(&dir, &["--json"]).exits(0);
    let events: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    let of_type = |name: &str| events.iter().filter(|event| event["type"] == name).collect::<Vec<_>>();
    assert_eq!(of_type("plan").len(), 1);
    let planned = of_type("plan")[0]["stages"].as_array().expect("stages").len();
    assert_eq!(of_type("stage").len(), planned);
    assert!(of_type("metrics").iter().any(|event| event["predictor"] == "model" && event["part"] == "test"));
    assert_eq!(events.last().expect("events")["type"], "done");
    assert_eq!(events.last().expect("events")["exit_code"], 0);

    let failed = run(&dir, &["--json", "--set", "root=nowhere"]).exits(2);
    let last: serde_json::Value =
        serde_json::from_str(failed.stdout.lines().last().expect("an event")).expect("every line is JSON");
    assert_eq!((&last["type"], &last["exit_code"]), (&"done".into(), &2.into()));
}

#[test]
fn rejected_rows_do_not_stop_the_rest_and_show_in_the_exit_code() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE.replace("data.csv", "broken.csv").replace("/images\"", "/broken\""));
    run(&dir, &["--stage", "ingest"]).exits(1).says("ingest example: ran: 5 images, 9 rejected (");
    let store = dir.store();
    let images = images::read(&store, &example()).expect("a readable table");
    let kept: Vec<&str> = images.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(kept, ["sound_000.jpg", "sixteenbit_008.png", "grey_009.png", "palette_010.png", "alpha_011.png"]);
    let rejected = rejects::read(&store, "ingest").expect("readable rejects");
    let kinds: Vec<(u64, &str)> = rejected.iter().map(|row| (row.row.unwrap_or(0), row.kind.as_str())).collect();
    let expected = [
        (2, "duplicate-image"),
        (3, "empty"),
        (4, "truncated"),
        (5, "not-an-image"),
        (6, "bad-mos"),
        (7, "mos-out-of-scale"),
        (8, "missing"),
        (13, "duplicate-name"),
        (14, "escapes-folder"),
    ];
    assert_eq!(kinds, expected);
    run(&dir, &["--stage", "ingest"]).exits(1).says("skipped: nothing changed: 5 images, 9 rejected");
}

/// A pipeline of one dataset: the README's example of ratings of one's own, as it stands there.
fn pipeline_of_the_readme() -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("a file of ours");
    let mut blocks = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let (block, _) = blocks.find(|(block, _)| block.contains("adapter = \"generic\"")).expect("the README has one");
    format!("name = \"mine\"\nstore = \"store\"\n\n{block}")
}

#[test]
fn a_table_of_ones_own_is_ingested_as_the_readme_says() {
    let dir = TestDir::new();
    dir.write("p.toml", pipeline_of_the_readme());
    for (seed, name) in ["sd_1.png", "sdxl_2.png", "plain.png", "sd_3.png"].into_iter().enumerate() {
        dir.write(&format!("pictures/{name}"), picture(seed as u32));
    }
    let table = "file,score,text,rater\n\
        sd_1.png,1.5,a cat,x\n\
        sdxl_2.png,5,,y\n\
        plain.png,1,a dog,y\n\
        sd_3.png,5.5,off the scale,y\n";
    dir.write("ratings.csv", table);
    dir.agiqa(&["run", "p.toml"]).exits(1).says("ingest mine: ran: 3 images, 1 rejected (1 mos-out-of-scale)");
    let images = images::read(&dir.store(), &PartitionName::new("mine").expect("a valid name")).expect("readable");
    let rows: Vec<_> = images
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.mos, row.prompt.as_deref(), row.generator.as_deref()))
        .collect();
    let expected = [
        ("sd_1.png", Some(1.5), Some("a cat"), Some("sd")),
        ("sdxl_2.png", Some(5.0), None, Some("sdxl")),
        ("plain.png", Some(1.0), Some("a dog"), None),
    ];
    assert_eq!(rows, expected);
    let raters = images.column_text("rater").expect("a column that is not mapped is kept");
    assert_eq!(raters, ["x", "y", "y"].map(|rater| Some(rater.to_owned())));
}

#[test]
fn a_misspelt_column_of_a_generic_table_is_refused_with_the_nearest() {
    let dir = TestDir::new();
    let text = pipeline_of_the_readme();
    let with = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "`{from}` is not in the pipeline");
        dir.write("p.toml", changed);
        dir.agiqa(&["run", "p.toml", "--dry-run"]).exits(2)
    };
    with("mos = \"score\"", "mso = \"score\"")
        .says("p.toml:9:")
        .says("unknown key `mso` in `dataset.0.columns`; did you mean `mos`?");
    with("before-first", "before-frist").says("unknown value `before-frist`").says("did you mean `before-first`?");
    with("mos_scale = [1.0, 5.0]", "mos_scale = [1.0]").says("dataset.0.mos_scale");
}

#[test]
fn weights_of_another_content_are_refused_before_anything_is_computed() {
    let dir = TestDir::new();
    dir.write("p.toml", PIPELINE);
    run(&dir, &["--stage", "ingest"]).exits(0);
    // As many bytes as there should be, all of them zero.
    let checkpoint = agiqa_weights::find("dinov2-s14").expect("they are in the manifest");
    let file = &checkpoint.files[0];
    let folder = dir.path().join("weights");
    let path = folder.join(&checkpoint.name).join(&file.path);
    std::fs::create_dir_all(path.parent().expect("inside a folder")).expect("folders can be made");
    std::fs::File::create(&path).and_then(|zeros| zeros.set_len(file.n_bytes)).expect("a file can be made");
    let root = root();
    let extract = ["extract", "--extractor", "dinov2-s14", "--store", "store", "--dataset", "example", "--side", "56"];
    for args in [&extract[..], &["run", "p.toml", "--set", &root, "--stage", "features"]] {
        dir.agiqa_with(args, |command| _ = command.env("AGIQA_WEIGHTS", &folder))
            .exits(2)
            .says(&file.blake3)
            .says("the file is damaged or another one")
            .says("agiqa weights fetch dinov2-s14");
    }
    let written = walkdir::WalkDir::new(dir.path().join("store/features")).into_iter().flatten();
    assert_eq!(written.filter(|entry| entry.path().extension().is_some_and(|end| end == "parquet")).count(), 0);
}

/// Mean of each dimension of column `column` of `set` over the images `ids`.
fn means(store: &Store, set: &FeatureSet, column: usize, ids: &[ImageId]) -> Vec<f64> {
    let found = set.read(store, ids).expect("features can be read");
    let mut sums = vec![0.0; set.columns[column].dim];
    for row in found.rows {
        let start = row.expect("every image has features") * sums.len();
        for (sum, value) in sums.iter_mut().zip(&found.matrices[column][start..]) {
            *sum += f64::from(*value);
        }
    }
    sums.iter().map(|sum| sum / ids.len() as f64).collect()
}

#[test]
fn inputs_and_labels_are_standardised_by_the_training_part_alone() {
    let dir = with_features();
    run(&dir, &["--set", "train.labels=standardised", "--stage", "split", "--stage", "train"]).exits(0);
    let store = dir.store();
    let images = images::read(&store, &example()).expect("a readable table").rows;
    let runs = models::runs(&store).expect("runs can be listed");
    assert_eq!(runs.len(), 2);
    for run in runs {
        let record = RunRecord::read(&store, &run).expect("a finished run");
        let head = store.get(&models::head_path(&run)).expect("its head");
        let head = TrainedHead::from_bytes(&head).expect("a whole head");
        let split = splits::read(&store, &example(), &record.split).expect("its split");
        let all: Vec<ImageId> = split.iter().map(|row| row.image_id).collect();
        let training: Vec<ImageId> =
            split.iter().filter(|row| row.part == Part::Train).map(|row| row.image_id).collect();
        let columns = [(record.semantic(), 0), (record.semantic(), 1), (record.quality(), 0)];
        for ((set, column), input) in columns.into_iter().zip(&head.inputs) {
            let found = Vec::<f32>::try_from(&input.mean).expect("a mean per dimension");
            let distance = |ids: &[ImageId]| {
                let expected = means(&store, set.expect("it reads them"), column, ids);
                assert_eq!(found.len(), expected.len());
                let pairs = found.iter().zip(expected);
                pairs.map(|(found, expected)| (f64::from(*found) - expected).abs()).fold(0.0, f64::max)
            };
            let (from_training, from_all) = (distance(&training), distance(&all));
            assert!(from_training < 1e-5 && from_all > 1e-3, "{run}: {from_training:e} and {from_all:e}");
        }
        let mos_of = |ids: &[ImageId]| {
            let mos: Vec<f64> =
                images.iter().filter(|row| ids.contains(&row.image_id)).filter_map(|row| row.mos).collect();
            mos.iter().sum::<f64>() / mos.len() as f64
        };
        let offset = head.labels.offset;
        assert!((offset - mos_of(&training)).abs() < 1e-6, "{run}: {offset}");
        assert!((offset - mos_of(&all)).abs() > 1e-6, "{run}: {offset}");
    }
}

/// The pipeline with a second dataset, `other`, and MANIQA trained along.
fn joint_pipeline() -> String {
    let other = "[[dataset]]\ndataset = \"other\"\nadapter = \"agiqa-3k\"\ntable = \"${root}/data.csv\"\n\
                 images = \"${root}/images\"\n\n[features]";
    PIPELINE
        .replacen("[features]", other, 1)
        .replacen("quality = \"dinov2-s14\"\n", "", 1)
        .replacen("[train]\n", "[train]\ndataset = \"example\"\n", 1)
        .replacen("[evaluate]", "[train.joint]\nside = 56\n\n[evaluate]", 1)
}

#[test]
fn a_fine_tuning_is_a_table_of_the_training_with_defaults_of_its_own() {
    let dir = TestDir::new();
    let plan = |table: &str, set: &[&str]| {
        dir.write("p.toml", PIPELINE.replacen("[evaluate]", &format!("[train.fine_tune]\n{table}\n\n[evaluate]"), 1));
        run(&dir, &[&["--dry-run"], set].concat())
    };
    plan("freeze_blocks = 4", &[]).exits(0).prints("train small by fine-tuning dinov2-s14 on example (2 runs)");
    let _ = plan("freeze_block = 4", &[]).exits(2).says("in `train.fine_tune`; did you mean `freeze_blocks`?");
    let _ =
        plan("", &["--set", "train.joint.side=56"]).exits(2).says("joint (`joint`), a fine-tuning (`fine_tune`) or");
}

#[test]
fn a_joint_training_that_another_dataset_is_to_be_scored_by_is_refused_with_the_way_round() {
    let dir = TestDir::new();
    let plan = |text: String| {
        dir.write("p.toml", text);
        run(&dir, &["--dry-run"])
    };
    let planned = plan(joint_pipeline()).exits(0).prints("train small with MANIQA on example (2 runs)");
    let _ = planned.prints("after  features by MANIQA of small on example (2 runs): seen after train small with");
    plan(joint_pipeline() + "\n[predict]\nalso = [\"other\"]\n")
        .exits(2)
        .says(":42:8: `predict.also`: a joint training computes f_1 of `example` alone")
        .says("agiqa features --extractor maniqa --weights STORE/models/run=RUN/maniqa --dataset other")
        .says("agiqa predict --run RUN --dataset other");
    plan(joint_pipeline() + "\n[[variant]]\nname = \"along\"\ntest = \"other\"\n")
        .exits(2)
        .says(":43:8: `variant.0.test`: a joint training computes f_1 of `example` alone");

    // Beside heads over cached columns, which may be tested on any dataset that has them.
    let heads = joint_pipeline().replacen("[train.joint]\nside = 56\n\n", "", 1).replacen(
        "[features]\n",
        "[features]\nquality = \"dinov2-s14\"\n",
        1,
    );
    let head = "\n[[variant]]\nname = \"head\"\ntest = \"other\"\n";
    plan(heads.clone() + head).exits(0).prints("predict");
    let joint = "\n[[variant]]\nname = \"joint\"\ntrain = { joint = { side = 56 } }\n";
    plan(heads.clone() + head + joint).exits(0).prints("train small-joint with MANIQA on example");
    plan(heads + head + joint + "test = \"other\"\n").exits(2).says("`variant.1.test`: a joint training");
}

#[test]
fn the_example_pipeline_runs_with_the_real_network() {
    if weights("clip-b16").is_none() {
        return;
    }
    let dir = TestDir::new();
    let pipeline = format!("{}/pipelines/example.toml", env!("CARGO_MANIFEST_DIR"));
    let small = ["--set", "extractor.clip-b16.sides=[32]", "--set", "train.epochs=2", "--set", "split.seeds=[0]"];
    let args: Vec<&str> = ["run", &pipeline, "--store", "store"].into_iter().chain(small).collect();
    dir.agiqa(&args).exits(0).prints("SRCC").prints("scores/**/*.parquet");
    dir.agiqa(&args).exits(0).says("all 60 images have features");
}

#[test]
fn every_pipeline_of_the_repository_can_be_planned() {
    let dir = crate::experiments::datasets();
    let table = std::fs::read_to_string(dir.path().join("3k/data.csv")).expect("it was written");
    let (header, rows) = table.split_once('\n').expect("a header");
    let rows: Vec<&str> = rows.lines().collect();
    for (part, rows) in [("train", &rows[..20]), ("validation", &rows[20..25]), ("test", &rows[25..])] {
        dir.write(&format!("3k/{part}.csv"), format!("{header}\n{}\n", rows.join("\n")));
    }
    let folder = format!("{}/pipelines", env!("CARGO_MANIFEST_DIR"));
    let params = reference("handcrafted");
    let iqa_params = format!("iqa_params={}", params.display());
    let night_params = format!("score.extractor.baseline.params={}", params.display());
    let mut n_planned = 0;
    for entry in std::fs::read_dir(folder).expect("there are pipelines") {
        let path = entry.expect("an entry can be read").path();
        let text = std::fs::read_to_string(&path).expect("a pipeline is text");
        // Those on the paper's features stop without its weights, which `embed_mplug_owl2` has a test of.
        if text.contains("semantic = \"mplug-owl2\"") {
            continue;
        }
        let path = path.display().to_string();
        let mut args = vec!["run", &path, "--dry-run", "--store", "store"];
        let is_20k = text.contains("help = \"folder with AIGCQA-20K's") && !text.contains("root_20k");
        let given = [
            ("[params.root]", if is_20k { "root=20k" } else { "root=3k" }),
            ("[params.iqa_params]", &iqa_params),
            ("[params.root_3k]", "root_3k=3k"),
            ("[params.root_20k]", "root_20k=20k"),
            ("[params.folder]", "folder=3k/images"),
            ("[params.night]", "night=n1"),
            ("[score]", &night_params),
        ];
        for (name, value) in given {
            if text.contains(name) {
                args.extend(["--set", value]);
            }
        }
        let first = if text.contains("[score]") { "score" } else { "ingest" };
        let _ = dir.agiqa(&args).exits(0).prints(first);
        n_planned += 1;
    }
    assert!(n_planned >= 10, "{n_planned}");
    assert!(!dir.path().join("store").exists(), "nothing is changed");
}

#[test]
fn both_heads_and_their_average_are_trained_and_reported_on_every_kind_of_split() {
    let dir = with_features();
    let split = "[split]\nkind = \"random\"\nseeds = [0, 1]";
    let splits = "[[split]]\nkind = \"random\"\nseeds = [0, 1]\n\n[[split]]\nkind = \"official\"";
    let text = PIPELINE
        .replace(split, splits)
        .replace("[train]", "[predict]\naverage = \"validation\"\n\n[train]\nhead = \"both\"");
    dir.write("p.toml", &text);
    let ran = run(&dir, &[]).exits(0).says("train small-kernel-ridge on example (3 runs)").says("scores of 3 averages");
    for group in
        ["small-random-", "small-kernel-ridge-random-", "small-average-random-", "small-kernel-ridge-official-20-s20-"]
    {
        assert!(ran.stdout.lines().any(|line| line.starts_with(group)), "no report of {group}\n{}", ran.stdout);
    }
    run(&dir, &[]).exits(0).says("average small-average of 6 runs: skipped");
    dir.write("p.toml", text.replace("kind = \"official\"", "kind = \"random\"\nseed = 1"));
    run(&dir, &["--dry-run"]).exits(2).says("duplicate split `random-1`");
}
