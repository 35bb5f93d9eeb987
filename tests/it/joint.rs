//! Tests of `agiqa train --joint`, on a network small enough to train in a second.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use agiqa_judge::metrics;
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::fusion::Gate;
use agiqa_nets::ma_agiqa::{MaAgiqa, MaAgiqaConfig};
use agiqa_nets::maniqa::{self, ManiqaConfig};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::{self, Part};
use agiqa_store::tables::train_log;
use tch::{Device, Kind, Tensor};

use crate::scored::scored;
use crate::store::Tmpfs;
use crate::synth;
use crate::testdir::{Ran, TestDir, name};

/// 8 × 8 tokens of 16 values, one Swin layer per stage.
fn tiny() -> ManiqaConfig {
    let mut config = ManiqaConfig::vit_b8();
    config.vit.img_size = 32;
    config.vit.patch_size = 4;
    config.vit.embed_dim = 16;
    config.vit.num_heads = 2;
    config.vit.depth = 4;
    config.vit.taps = vec![1, 2];
    config.embed_dim = 16;
    config.depths = vec![2];
    config.num_heads = vec![2];
    config.dim_mlp = 16;
    config.num_tab = 1;
    config
}

/// A store with a dataset `d` of images whose brightness and semantic vectors both say something of their MOS, and a
/// folder `start` with the weights of a transformer.
pub struct Fixture {
    pub dir: TestDir,
    pub store: Store,
}

impl Fixture {
    /// `n` images, all with semantic features but the last `n_without`.
    pub fn new(n: usize, n_without: usize) -> Self {
        Self::in_folder(TestDir::new(), n, n_without)
    }

    fn in_folder(dir: TestDir, n: usize, n_without: usize) -> Self {
        let store = dir.store();
        let column = |name: &str, dim| VectorColumn { name: name.to_owned(), dim };
        let semantic = FeatureSet {
            extractor: name("synthetic"),
            fingerprint: Fingerprint::builder("joint").finish(),
            kind: FeatureKind::Semantic,
            columns: vec![column("f_a", 6), column("f_b", 5)],
            settings: serde_json::Value::Null,
        };
        let mut rows = Vec::new();
        let mut features = FeatureRows::empty(2);
        for i in 0..n {
            let noise = agiqa_synth::values(&i.to_string(), &[1, 11], 5);
            let level = (37 * i % 200) as u8 + 20;
            let path = picture(&dir, i, level);
            let image_id = ImageId::of_bytes(&std::fs::read(&path).expect("it was written"));
            let mos = f64::from(level) / 100.0 + 10.0 * f64::from(noise[0]);
            rows.push(ImageRow {
                image_id,
                name: format!("{i}.png"),
                path: path.display().to_string(),
                n_bytes: 10,
                width_px: 40,
                height_px: 30,
                format: "png".to_owned(),
                generator: None,
                prompt: None,
                mos: Some(mos),
                mos_std: None,
                mos_align: None,
            });
            if i < n - n_without {
                features.image_ids.push(image_id);
                features.vectors[0].extend(&noise[..6]);
                features.vectors[1].extend(&noise[6..]);
                features.n_tokens.push(1);
            }
        }
        images::write(&store, &name("d"), &Images { rows, extra: Vec::new() }).expect("a table can be written");
        semantic.write_description(&store).expect("an object can be written");
        semantic.write_part(&store, &features).expect("a part can be written");
        write_weights(&dir, "start", &tiny());
        Self { dir, store }
    }

    fn args<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let common =
            ["train", "--joint", "--store", "store", "--dataset", "d", "--semantic", "synthetic", "--name", "t"];
        let settings = ["--weights", "start", "--width", "16", "--learning-rate", "0.003", "--optimiser", "adamw"];
        let more_settings = ["--labels", "standardised", "--device", "cpu", "--threads", "1"];
        [&common[..], &settings[..], &more_settings[..], more].concat()
    }

    fn train(&self, more: &[&str]) -> Ran {
        self.dir.agiqa(&self.args(more))
    }

    pub fn only_run(&self) -> PartitionName {
        let runs = models::runs(&self.store).expect("a listing");
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }

    /// Every object that the only run left, by name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let objects = self.store.list("models").expect("a listing");
        let read = |path: &str| self.store.get(path).expect("an object").to_vec();
        objects.into_iter().map(|object| (object.path.clone(), read(&object.path))).collect()
    }

    /// Path and size of the state of the training under way.
    fn state(&self) -> Option<(PathBuf, u64)> {
        let objects = self.store.list("models").expect("a listing");
        let state = objects.into_iter().find(|object| object.path.ends_with("/state.safetensors"))?;
        Some((self.dir.path().join("store").join(state.path), state.n_bytes))
    }

    /// Starts the training and ends it by SIGKILL as soon as its state is another one than it was.
    fn kill_after_a_saved_state(&self, more: &[&str]) {
        self.kill_once_saved(&self.args(more));
    }

    /// Starts `agiqa` with `args` and ends it as soon as the state is another one than it was.
    pub fn kill_once_saved(&self, args: &[&str]) {
        self.dir.kill_once(args, || Some(self.state()?.0));
    }
}

/// A picture of stripes around a grey level.
fn picture(dir: &TestDir, i: usize, level: u8) -> PathBuf {
    let image = image::RgbImage::from_fn(40, 30, |x, y| {
        let stripe = ((x / 3 + y / 5 + i as u32) % 3) as u8 * 5;
        image::Rgb([level.saturating_add(stripe), level, level.saturating_sub(stripe)])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG can be encoded");
    dir.write(&format!("images/{i}.png"), bytes.into_inner())
}

/// A folder with the sizes of `config` and a transformer's weights, named as timm names them.
fn write_weights(dir: &TestDir, folder: &str, config: &ManiqaConfig) {
    dir.write(&format!("{folder}/config.json"), serde_json::to_vec(config).expect("plain data"));
    let parameters = config.parameters();
    let vit = parameters.iter().filter_map(|(name, shape)| Some((name.strip_prefix("vit.")?.to_owned(), shape)));
    let tensors: Vec<(String, Tensor)> =
        vit.map(|(name, shape)| (name.clone(), synth::fill(&name, shape, 3))).collect();
    Tensor::write_safetensors(&tensors, dir.path().join(folder).join("vit.safetensors")).expect("it can be written");
}

#[test]
fn learns_from_pixels_and_vectors_and_is_then_a_run_like_any_other() {
    let fixture = Fixture::new(120, 0);
    let args = ["--epochs", "12", "--augment", "official", "--schedule", "cosine", "--warmup-steps", "4"];
    fixture.train(&args).exits(0).says("drawn by seed 0").says("epoch 12 of 12").says("SRCC");
    let run = fixture.only_run();
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    let quality = record.quality().expect("it reads them");
    assert_eq!((quality.extractor.as_str(), quality.columns[0].dim), ("maniqa", 64));
    assert_eq!(record.parts.map(|part| part.n_used), [84, 12, 24]);

    // The head reads the columns that the trained network wrote, and its scores are those of the training.
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let rows = scored(&fixture.store, &run);
    assert_eq!(rows.len(), 120);
    let of = |part: Part| -> (Vec<f64>, Vec<f64>) {
        rows.iter().filter(|row| row.part == Some(part)).map(|row| (row.score, row.mos.expect("a MOS"))).unzip()
    };
    let (scores, mos) = of(Part::Test);
    let srcc = metrics::srcc(&scores, &mos).expect("defined");
    assert!(srcc > 0.5, "SRCC {srcc}");
    let (scores, mos) = of(Part::Validation);
    let kept = record.epochs[record.best_epoch as usize - 1];
    let error = metrics::plcc(&scores, &mos).expect("defined") - kept.validation_plcc.expect("defined");
    assert!(error.abs() < 1e-4, "validation PLCC is off by {error:e}");
    let best =
        |epoch: &models::EpochRecord| epoch.validation_srcc.unwrap_or(-2.0) + epoch.validation_plcc.unwrap_or(-2.0);
    assert!(record.epochs.iter().all(|epoch| best(epoch) <= best(&kept)), "{:?}", record.epochs);
    fixture.dir.agiqa(&["evaluate", "--store", "store", "--run", run.as_str()]).exits(0);

    // The network has learned from the other parts of its split, so its rating is judged on that split alone.
    let split = ["split", "--store", "store", "--dataset", "d", "--split", "random", "--seeds", "5"];
    fixture.dir.agiqa(&split).exits(0);
    let compare = |split: &str| fixture.dir.agiqa(&["compare", "--store", "store", "--dataset", "d", "--split", split]);
    compare(record.split.as_str()).exits(0).prints("maniqa rating");
    compare("random-5").says("maniqa rating").says("trained on another split than `random-5`");

    // The network is one for `extract`, and what that would compute is there.
    let weights = format!("store/models/run={run}/maniqa");
    let extract = ["extract", "--extractor", "maniqa", "--weights", &weights, "--dataset", "d", "--store", "store"];
    fixture.dir.agiqa(&extract).exits(0).says("all 120 images have features");

    // 84 images in batches of 8: 11 steps, the last of them with 4 images.
    let log = train_log::read(&fixture.store, &run).expect("a log");
    assert_eq!(log.len(), 24);
    let last = log[23];
    assert_eq!((last.epoch, last.step, last.n_images), (12, 132, 12));
    assert_eq!(last.validation_srcc, record.epochs[11].validation_srcc);
    assert_eq!((log[0].step, log[0].n_images, log[0].validation_mse), (10, 80, None));
    assert!(log.windows(2).all(|pair| pair[0].seconds < pair[1].seconds && pair[0].step < pair[1].step));
    let images: u64 = log.iter().map(|row| row.n_images).sum();
    assert_eq!(images, 12 * 84, "no image is dropped to fill a batch");

    fixture.train(&args).exits(0).says("skipped: all 1 runs are trained");
}

#[test]
fn killed_and_started_again_it_ends_with_the_same_bits() {
    let average = ["--epochs", "6", "--checkpoint-minutes", "0", "--weight-average", "0.9"];
    let more = [&average[..], &["--input-dropout", "0.1", "--rating-loss", "0.5", "--micro-batch", "5"]].concat();
    let (undisturbed, killed) = (Fixture::new(60, 0), Fixture::new(60, 0));
    undisturbed.train(&more).exits(0);
    for _ in 0..4 {
        killed.kill_after_a_saved_state(&more);
    }
    // What a kill in the middle of writing leaves; nobody reads it.
    let piece = format!("{}#7", killed.state().expect("a state").0.display());
    std::fs::write(&piece, "a piece of a state").expect("a file can be written");
    killed.train(&more).exits(0).says("continues after step");
    assert!(!std::path::Path::new(&piece).exists());
    let (expected, found) = (undisturbed.files(), killed.files());
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, bytes) in &expected {
        assert!(*bytes == found[path], "{path} differs");
    }
    let run = killed.only_run();
    let log = |fixture: &Fixture| -> Vec<(u64, u64, u64)> {
        let rows = train_log::read(&fixture.store, &run).expect("a log");
        rows.iter().map(|row| (row.step, row.n_images, row.loss.to_bits())).collect()
    };
    assert_eq!(log(&undisturbed), log(&killed));
}

#[test]
fn features_that_a_trained_network_has_not_computed_yet_are_computed_by_the_next_call() {
    let fixture = Fixture::new(60, 0);
    let args = ["--epochs", "1"];
    fixture.train(&args).exits(0).says("features by MANIQA of t on d (1 run): ran: 60 of 60 images");
    let record = RunRecord::read(&fixture.store, &fixture.only_run()).expect("a record");
    let computed = |fixture: &Fixture| -> Vec<String> {
        let objects = fixture.store.list(&record.quality().expect("its record names f_1").prefix()).expect("a listing");
        objects.into_iter().map(|object| object.path).collect()
    };
    let (expected, files) = (computed(&fixture), fixture.files());
    assert_eq!(expected.len(), 2, "{expected:?}");
    // As an interruption between the two stages leaves the store.
    expected.iter().for_each(|path| fixture.store.delete(path).expect("an object can be deleted"));
    let again = fixture.train(&args).exits(0).says("train t with MANIQA on d (1 run): skipped: all 1 runs are trained");
    let _ = again.says("60 of 60 images lack features").says("(1 run): ran: 60 of 60 images have features");
    assert!(computed(&fixture) == expected && fixture.files() == files);
    fixture.train(&args).exits(0).says("(1 run): skipped: all 60 rows of 1 runs are present");
}

#[test]
fn images_in_a_file_and_more_loading_threads_change_nothing() {
    let files = |more: &[&str]| {
        let fixture = Fixture::new(50, 0);
        let ran = fixture.train(&[&["--epochs", "2"], more].concat()).exits(0);
        if more.contains(&"--image-memory-mib") {
            let _ = ran.says("wait in a file");
        }
        fixture.files()
    };
    let expected = files(&[]);
    assert!(files(&["--image-memory-mib", "0"]) == expected, "in a file");
}

#[test]
fn accumulated_gradients_and_frozen_parts_are_what_they_say() {
    let fixture = Fixture::new(50, 0);
    let weights = |more: &[&str]| -> BTreeMap<String, Tensor> {
        fixture.train(&[&["--epochs", "1", "--keep-epoch", "last"], more].concat()).exits(0);
        let mut runs = models::runs(&fixture.store).expect("a listing");
        assert_eq!(runs.len(), 1);
        let run = runs.remove(0);
        let path = fixture.dir.path().join("store").join(models::maniqa_weights_path(&run));
        let tensors = Tensor::read_safetensors(path).expect("a safetensors file");
        fixture.store.delete(&models::record_path(&run)).expect("an object can be deleted");
        tensors.into_iter().collect()
    };
    let start = Tensor::read_safetensors(fixture.dir.path().join("start/vit.safetensors")).expect("it was written");
    let moved = |tensors: &BTreeMap<String, Tensor>, prefix: &str| {
        let of = start.iter().filter(|(name, _)| name.starts_with(prefix));
        of.map(|(name, tensor)| tensors[&format!("vit.{name}")] != *tensor).collect::<Vec<_>>()
    };
    let all = weights(&[]);
    assert!(moved(&all, "").iter().all(|moved| *moved));
    let frozen = weights(&["--freeze-backbone"]);
    assert!(moved(&frozen, "").iter().all(|moved| !moved));
    assert_ne!(frozen["conv1.weight"], all["conv1.weight"]);
    let first = weights(&["--freeze-blocks", "2"]);
    assert!(
        moved(&first, "blocks.1").iter().all(|moved| !moved) && moved(&first, "pos_embed").iter().all(|moved| !moved)
    );
    assert!(moved(&first, "blocks.2").iter().all(|moved| *moved));
    // Without dropout in MANIQA the parts of a batch would give its gradient exactly; with it they still train.
    let parts = weights(&["--micro-batch", "3"]);
    assert!(moved(&parts, "").iter().all(|moved| *moved));
}

#[test]
fn bf16_products_keep_f32_weights() {
    if !agiqa::features::cpu_has_bf16() {
        println!("skipped: this CPU has no bf16 instructions");
        return;
    }
    let fixture = Fixture::new(50, 0);
    fixture.train(&["--epochs", "2", "--dtype", "bf16"]).exits(0);
    let run = fixture.only_run();
    let path = fixture.dir.path().join("store").join(models::maniqa_weights_path(&run));
    let tensors = Tensor::read_safetensors(path).expect("a safetensors file");
    assert!(tensors.iter().all(|(_, tensor)| tensor.kind() == tch::Kind::Float));
    // No bf16 value has these low bits.
    let (_, conv) = tensors.iter().find(|(name, _)| name == "conv1.weight").expect("it is there");
    assert_ne!(conv.to_kind(tch::Kind::BFloat16).to_kind(tch::Kind::Float), *conv);
}

#[test]
fn a_part_with_fewer_images_than_a_batch_is_trained_on_whole() {
    let fixture = Fixture::new(20, 0);
    fixture.train(&["--epochs", "2", "--batch-size", "64"]).exits(0);
    let log = train_log::read(&fixture.store, &fixture.only_run()).expect("a log");
    assert_eq!(log.iter().map(|row| (row.step, row.n_images)).collect::<Vec<_>>(), [(1, 14), (2, 14)]);
}

#[test]
fn missing_semantic_columns_are_counted_and_allowed_on_request() {
    let fixture = Fixture::new(60, 10);
    let refused = fixture.train(&["--epochs", "1"]).exits(2).says("10 of 60 without features");
    let _ = refused.says("agiqa features --dataset d").says("allow_missing = true");
    fixture.train(&["--epochs", "1", "--allow-missing"]).exits(1).says("10 rows of their splits left out");
}

#[test]
fn a_lost_or_changed_image_is_named_before_anything_is_trained() {
    let fixture = Fixture::new(60, 0);
    for i in [5, 6, 7] {
        let path = fixture.dir.path().join(format!("images/{i}.png"));
        std::fs::write(path, "no image any more").expect("a file can be written");
    }
    // Images of the test part are not read by the training; 42 + 6 of the others are.
    let refused = fixture.train(&["--epochs", "1"]).exits(2).says(" of 48 images that training reads cannot be used");
    let _ = refused.says(".png`: the file has changed").says("allow_missing = true");
    assert!(fixture.state().is_none());
    let allowed = fixture.train(&["--epochs", "1", "--allow-missing"]).exits(1);
    let _ = allowed.says("left out: `").says("rows of their splits left out");
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_step_and_the_last_state_stays() {
    let fixture = Fixture::new(60, 0);
    // 42 training images are 6 steps per epoch; what the first steps do to the weights shows in the next ones.
    let rate = ["--learning-rate", "1e12", "--optimiser", "adamw", "--weight-decay", "0", "--checkpoint-minutes", "0"];
    let base: Vec<&str> = fixture
        .args(&[])
        .into_iter()
        .filter(|arg| !["--learning-rate", "0.003", "--optimiser", "adamw"].contains(arg))
        .collect();
    let args = [&base[..], &rate[..], &["--epochs", "3"]].concat();
    let said = fixture.dir.agiqa(&args).exits(2).says("diverged: the loss of step").says("at learning rate");
    let _ = said.says("on the images");
    assert!(models::runs(&fixture.store).expect("a listing").is_empty());
    if let Some((path, _)) = fixture.state() {
        let tensors = Tensor::read_safetensors(path).expect("a whole state");
        let weights = tensors.iter().filter(|(name, _)| name.starts_with("parameter:"));
        assert!(weights.into_iter().all(|(_, tensor)| tensor.isfinite().all().int64_value(&[]) == 1));
    }
}

#[test]
fn a_maniqa_whose_scores_are_dead_is_told_of() {
    let fixture = Fixture::new(60, 0);
    let config = serde_json::to_vec(&tiny()).expect("plain data");
    let with_bias = |folder: &str, bias: f32| {
        fixture.dir.write(&format!("{folder}/config.json"), &config);
        let tensor = |(name, shape): (String, Vec<i64>)| {
            let tensor =
                if name == "fc_score.3.bias" { Tensor::from_slice(&[bias]) } else { synth::fill(&name, &shape, 3) };
            (name, tensor)
        };
        let tensors: Vec<(String, Tensor)> = tiny().parameters().into_iter().map(tensor).collect();
        Tensor::write_safetensors(&tensors, fixture.dir.path().join(folder).join("m.safetensors")).expect("a file");
        let base = fixture.args(&["--epochs", "1"]);
        let args: Vec<&str> = base.into_iter().map(|arg| if arg == "start" { folder } else { arg }).collect();
        fixture.dir.agiqa(&args).exits(0)
    };
    let told = "of the values of f_1 are 0 on the validation images";
    let _ = with_bias("dead", -100.0).says(told).says("rating_loss");
    assert!(!with_bias("alive", 1.0).stderr.contains(told));
}

#[test]
fn with_a_loss_of_its_own_maniqas_rating_is_one() {
    // Semantic vectors say nothing of brightness, and MANIQA's rating is asked for nothing without its loss.
    let plcc_of_ratings = |weight: &str| {
        let fixture = Fixture::new(120, 0);
        let ran = fixture.train(&["--epochs", "12", "--rating-loss", weight]).exits(0);
        assert_eq!(ran.stderr.contains("MANIQA's own rating: validation SRCC"), weight != "0", "{}", ran.stderr);
        let record = RunRecord::read(&fixture.store, &fixture.only_run()).expect("a record");
        let rows = images::read(&fixture.store, &name("d")).expect("a table").rows;
        let ids: Vec<ImageId> = rows.iter().map(|row| row.image_id).collect();
        let quality = record.quality().expect("it reads them");
        let found = quality.read(&fixture.store, &ids).expect("features");
        let column = quality.columns.iter().position(|column| column.name == "rating").expect("a rating");
        let split = splits::read(&fixture.store, &name("d"), &record.split).expect("a split");
        let tested: HashSet<ImageId> =
            split.iter().filter(|row| row.part == Part::Test).map(|row| row.image_id).collect();
        let of_row = |(image, row): (&ImageRow, &Option<usize>)| {
            let rating = f64::from(found.matrices[column][row.expect("a feature")]);
            tested.contains(&image.image_id).then(|| (rating, image.mos.expect("a MOS")))
        };
        let (ratings, mos): (Vec<f64>, Vec<f64>) = rows.iter().zip(&found.rows).filter_map(of_row).unzip();
        assert_eq!(ratings.len(), 24);
        metrics::plcc(&ratings, &mos).unwrap_or(0.0)
    };
    let (with, without) = (plcc_of_ratings("1"), plcc_of_ratings("0"));
    assert!(with > 0.5 && with > without + 0.2, "PLCC {with} with, {without} without");
    let fixture = Fixture::new(20, 0);
    let _ = fixture.train(&["--rating-loss=-1"]).exits(2).says("`joint.rating_loss` is -1; expected 0 or more");
    let _ = fixture.train(&["--rating-loss", "NaN"]).exits(2).says("`joint.rating_loss` is NaN");
}

#[test]
fn an_ablation_trains_on_what_it_names_and_always_on_f_1() {
    let fixture = Fixture::new(60, 0);
    fixture.train(&["--epochs", "2", "--inputs", "f_1,f_b", "--input-dropout", "0.1", "--dropout", "0.2"]).exits(0);
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let rows = scored(&fixture.store, &run);
    let is_open = |gate: Option<f64>| gate.is_some_and(|gate| gate > 0.0);
    for row in &rows {
        let [quality, semantic, coherence] = row.gates.expect("a head with gates");
        assert!(semantic.is_none() && is_open(coherence) && is_open(quality), "{row:?}");
    }
    let _ = fixture.train(&["--inputs", "f_a,f_b"]).exits(2).says("`inputs` is [f_a, f_b]").says("trains MANIQA");
    let _ = fixture.train(&["--freeze-blocks", "4"]).exits(2).says("4 of the 3 blocks that are read");
}

#[test]
fn the_network_it_leaves_is_the_whole_for_raw_vectors_and_scores() {
    let fixture = Fixture::new(60, 0);
    fixture.train(&["--epochs", "2"]).exits(0);
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    let rows = scored(&fixture.store, &run);
    let ids: Vec<ImageId> = rows.iter().map(|row| row.image_id).collect();
    let column = |set: &FeatureSet, i: usize| {
        let (found, dim) = (set.read(&fixture.store, &ids).expect("features"), set.columns[i].dim);
        let row = |row: &Option<usize>| Tensor::from_slice(&found.matrices[i][row.expect("a feature") * dim..][..dim]);
        Tensor::stack(&found.rows.iter().map(row).collect::<Vec<_>>(), 0)
    };
    let (semantic, quality) = (record.semantic().expect("it reads them"), record.quality().expect("it reads them"));
    let (f_a, f_b, f_1) = (column(semantic, 0), column(semantic, 1), column(quality, 0));
    // As anyone would read the file who knows the published network and nothing of this program.
    let path = fixture.dir.path().join("store").join(models::maniqa_weights_path(&run));
    let config = MaAgiqaConfig::new(tiny(), 6, 5, 16, Gate::Sigmoid);
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    let tensors = maniqa::weights::read(&checkpoint, &config.parameters()).expect("all of MA-AGIQA is in it");
    let network = MaAgiqa::new(&config, &tensors, Device::Cpu, Kind::Float).expect("the tensors fit");
    let scores = Vec::<f32>::try_from(network.fusion().forward(&f_a, &f_b, &f_1, None).score).expect("f32");
    for (score, row) in scores.iter().zip(&rows) {
        assert!((f64::from(*score) - row.score).abs() < 1e-3, "{score} is not {}", row.score);
    }
}

#[test]
fn a_state_belongs_to_the_images_that_could_be_read() {
    let more = ["--epochs", "6", "--checkpoint-minutes", "0", "--allow-missing"];
    let fixture = Fixture::new(60, 0);
    let path = |i: usize| fixture.dir.path().join(format!("images/{i}.png"));
    let bytes: Vec<Vec<u8>> = (0..20).map(|i| std::fs::read(path(i)).expect("an image")).collect();
    (0..20).for_each(|i| std::fs::remove_file(path(i)).expect("it is there"));
    fixture.kill_after_a_saved_state(&more);
    bytes.iter().enumerate().for_each(|(i, bytes)| std::fs::write(path(i), bytes).expect("it can be written"));
    let _ = fixture.train(&more).exits(0).says("the saved state belongs to other settings or data");
}

#[test]
fn a_checkpoint_of_another_geometry_or_of_something_else_is_refused() {
    let fixture = Fixture::new(20, 0);
    let mut wider = tiny();
    wider.vit.embed_dim = 32;
    write_weights(&fixture.dir, "wide", &wider);
    fixture.dir.write("wide/config.json", serde_json::to_vec(&tiny()).expect("plain data"));
    let with = |folder: &str| {
        let base = fixture.args(&["--epochs", "1"]);
        let args: Vec<&str> = base.into_iter().map(|arg| if arg == "start" { folder } else { arg }).collect();
        fixture.dir.agiqa(&args).exits(2)
    };
    let _ = with("wide").says("blocks.0.attn.qkv.weight").says("[48, 16]").says("[96, 32]");
    fixture.dir.write("other/config.json", serde_json::to_vec(&tiny()).expect("plain data"));
    let tensors = [("encoder.weight", Tensor::from_slice(&[1_f32]))];
    Tensor::write_safetensors(&tensors, fixture.dir.path().join("other/m.safetensors")).expect("it can be written");
    let _ = with("other").says("holds neither a MANIQA").says("`encoder.weight`");
    let _ = with("nowhere").says("nowhere/config.json");
    let refused = fixture.train(&["--epochs", "1", "--side", "56"]).exits(2);
    let _ = refused.says("`joint.side` is 56").says("config.json");
    let _ = fixture.train(&["--quality", "maniqa"]).exits(2);
    let _ = fixture.train(&["--layer-decay", "0"]).exits(2).says("`joint.layer_decay` is 0");
}

#[test]
fn a_disk_that_fills_during_a_checkpoint_leaves_the_last_one_and_room_lets_it_go_on() {
    let more = ["--epochs", "3", "--checkpoint-minutes", "0"];
    let undisturbed = Fixture::new(60, 0);
    undisturbed.kill_after_a_saved_state(&more);
    let n_state = undisturbed.state().expect("a state").1;
    undisturbed.train(&more).exits(0);
    let dir = TestDir::new();
    let folder = dir.path().join("store");
    // Room for one state and half of the next, which is written beside it; parts of the store take some 100 kB.
    let size = format!("{}k", (n_state * 3 / 2 + (200 << 10)) / 1024);
    let Some(disk) = Tmpfs::mount(&folder, &size) else { return };
    let fixture = Fixture::in_folder(dir, 60, 0);
    fixture.train(&more).exits(75).says("cannot write").says("state.safetensors");
    let (path, n_bytes) = fixture.state().expect("the first state had room");
    assert_eq!(n_bytes, n_state);
    Tensor::read_safetensors(path).expect("a whole state");
    disk.grow("64m");
    fixture.train(&more).exits(0).says("continues after step");
    let weights = |fixture: &Fixture| fixture.files().into_iter().find(|(path, _)| path.ends_with("model.safetensors"));
    assert!(weights(&fixture) == weights(&undisturbed));
    drop(disk);
}
