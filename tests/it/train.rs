//! Tests of `train`.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::Stdio;

use agiqa::splits::{Fractions, SplitSettings, SplitStage};
use agiqa::train::recipes::{HeadInput, HeadRecipe, HeadSettings};
use agiqa::train::{KeepEpoch, Labels, Optimiser, TrainSettings, TrainStage, Training, seeded_runs};
use agiqa_judge::metrics;
use agiqa_nets::fusion::Gate;
use agiqa_store::console::{Console, EventFormat, Verbosity};
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::interrupt::Interrupt;
use agiqa_store::stage::{Stage, StageContext};
use agiqa_store::store::Store;
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, rejects};

use crate::scored::{Scored, scored};
use crate::testdir::{TestDir, name};

/// Numbers in (-1, 1), good enough to make data from.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// A store with a dataset `d` whose MOS follows from features that are written for it.
pub struct Fixture {
    pub dir: TestDir,
    pub store: Store,
    semantic: FeatureSet,
    quality: FeatureSet,
}

const DIMS: [usize; 3] = [6, 5, 7];

fn feature_set(kind: FeatureKind, fingerprint: &str) -> FeatureSet {
    let column = |name: &str, dim| VectorColumn { name: name.to_owned(), dim };
    let columns = match kind {
        FeatureKind::Semantic => vec![column("f_a", DIMS[0]), column("f_b", DIMS[1])],
        FeatureKind::Quality => vec![column("f_1", DIMS[2])],
    };
    let fingerprint = Fingerprint::builder(fingerprint).json("kind", &kind).finish();
    FeatureSet { extractor: name("synthetic"), fingerprint, kind, columns, settings: serde_json::Value::Null }
}

pub fn image(i: usize, mos: Option<f64>) -> ImageRow {
    ImageRow {
        image_id: ImageId::of_bytes(&i.to_le_bytes()),
        name: format!("{i}.png"),
        path: format!("/images/{i}.png"),
        n_bytes: 10,
        width_px: 4,
        height_px: 4,
        format: "png".to_owned(),
        generator: None,
        prompt: None,
        mos,
        mos_std: None,
        mos_align: None,
    }
}

impl Fixture {
    /// `n` images, all with features but the last `n_without`.
    pub fn new(n: usize, n_without: usize) -> Self {
        let dir = TestDir::new();
        let store = dir.store();
        let (semantic, quality) = (feature_set(FeatureKind::Semantic, "x"), feature_set(FeatureKind::Quality, "x"));
        let mut random = Random(1);
        let mut rows = Vec::new();
        let mut semantic_rows = FeatureRows::empty(2);
        let mut quality_rows = FeatureRows::empty(1);
        for i in 0..n {
            let mut vector = |dim: usize, scale: f64| -> Vec<f64> { (0..dim).map(|_| random.next() * scale).collect() };
            // One dimension of f_a is constant, and scales differ by orders of magnitude.
            let (mut f_a, f_b, f_1) = (vector(DIMS[0], 1.0), vector(DIMS[1], 100.0), vector(DIMS[2], 1e-2));
            f_a[5] = 3.25;
            let mos = 2.5 + f_a[0] + 0.4 * f_a[1] + 0.006 * f_b[0] - 60.0 * f_1[3];
            rows.push(image(i, Some(mos)));
            if i < n - n_without {
                let id = rows[i].image_id;
                let floats = |values: Vec<f64>| values.into_iter().map(|value| value as f32);
                semantic_rows.image_ids.push(id);
                semantic_rows.vectors[0].extend(floats(f_a));
                semantic_rows.vectors[1].extend(floats(f_b));
                semantic_rows.n_tokens.push(1);
                quality_rows.image_ids.push(id);
                quality_rows.vectors[0].extend(floats(f_1));
            }
        }
        images::write(&store, &name("d"), &Images { rows, extra: Vec::new() }).expect("a table can be written");
        for (set, rows) in [(&semantic, &semantic_rows), (&quality, &quality_rows)] {
            set.write_description(&store).expect("an object can be written");
            set.write_part(&store, rows).expect("a part can be written");
        }
        Self { dir, store, semantic, quality }
    }

    /// Gives the dataset's images other MOS.
    pub fn set_mos(&self, mos: impl Fn(usize, Option<f64>) -> Option<f64>) {
        let mut images = images::read(&self.store, &name("d")).expect("images");
        for (i, row) in images.rows.iter_mut().enumerate() {
            row.mos = mos(i, row.mos);
        }
        images::write(&self.store, &name("d"), &images).expect("a table can be written");
    }

    /// `agiqa train` on dataset `d` with settings that learn the relation in a second, and `more`.
    pub fn train_args<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let common = ["train", "--store", "store", "--dataset", "d", "--features", "synthetic", "--name", "t"];
        let settings = ["--width", "16", "--learning-rate", "0.01", "--optimiser", "adamw", "--labels", "standardised"];
        let more_settings = ["--batch-size", "16", "--dropout", "0"];
        [&common[..], &settings[..], &more_settings[..], more].concat()
    }

    /// A stage like it, in this process.
    fn stage(
        &self,
        seeds: std::ops::Range<u32>,
        settings: TrainSettings,
        head: HeadSettings,
    ) -> TrainStage<HeadRecipe> {
        let split = |seed| SplitSettings::Random { seed, fractions: Fractions::default() };
        for seed in seeds.clone() {
            let split = SplitStage { dataset: name("d"), settings: split(seed) };
            split.run(&self.context(1, &Interrupt::default())).expect("the split can be made");
        }
        TrainStage {
            name: name("t"),
            dataset: name("d"),
            runs: seeded_runs(seeds, split),
            settings,
            recipe: HeadRecipe { semantic: self.semantic.clone(), quality: self.quality.clone(), settings: head },
        }
    }

    fn context(&self, n_threads: usize, interrupt: &Interrupt) -> StageContext {
        StageContext {
            store: self.store.clone(),
            console: Console::new(Verbosity::Quiet, EventFormat::Text),
            interrupt: interrupt.clone(),
            n_threads,
            max_rejects: None,
        }
    }

    /// Every object that `run` left, by name.
    fn files(&self, run: &PartitionName) -> BTreeMap<String, Vec<u8>> {
        let objects = self.store.list(&models::prefix(run)).expect("a listing");
        let read = |path: &str| self.store.get(path).expect("an object").to_vec();
        objects.into_iter().map(|object| (object.path.clone(), read(&object.path))).collect()
    }

    /// Trains once more; returns the run that was not there before.
    fn train_new(&self, more: &[&str]) -> PartitionName {
        let runs = || models::runs(&self.store).expect("a listing");
        let known = runs();
        self.dir.agiqa(&self.train_args(more)).exits(0);
        runs().into_iter().find(|run| !known.contains(run)).expect("a run of its own")
    }

    pub fn only_run(&self) -> PartitionName {
        let runs = models::runs(&self.store).expect("a listing");
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }
}

/// Settings with everything that averages switched on.
fn busy_settings(epochs: u32) -> TrainSettings {
    TrainSettings {
        optimiser: Optimiser::Adamw,
        learning_rate: 3e-3,
        weight_decay: 0.1,
        batch_size: 12,
        epochs,
        labels: Labels::Standardised,
        weight_average: 0.9,
        checkpoint_epochs: 5,
        ..TrainSettings::default()
    }
}

/// Settings of the head with everything that draws switched on.
fn busy_head() -> HeadSettings {
    HeadSettings { width: 24, input_dropout: 0.2, dropout: 0.3, ..HeadSettings::default() }
}

fn run_names(training: &dyn Training) -> Vec<PartitionName> {
    training.plan().expect("columns that a head reads").run_names().expect("valid names")
}

fn test_scores(rows: &[Scored]) -> (Vec<f64>, Vec<f64>) {
    let test = rows.iter().filter(|row| row.part == Some(Part::Test));
    test.map(|row| (row.score, row.mos.expect("a MOS"))).unzip()
}

#[test]
fn learns_a_relation_and_predicts_every_image_of_the_dataset() {
    let fixture = Fixture::new(300, 0);
    let trained = fixture.dir.agiqa(&fixture.train_args(&["--epochs", "30", "--seeds", "3"]));
    let run = fixture.only_run();
    trained.exits(0).prints(run.as_str()).says("ridge");
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    let rows = scored(&fixture.store, &run);
    assert_eq!(rows.len(), 300);
    let (scores, mos) = test_scores(&rows);
    assert_eq!(scores.len(), 60);
    let srcc = metrics::srcc(&scores, &mos).expect("defined");
    assert!(srcc > 0.95, "SRCC {srcc}");
    let error = metrics::rmse(&scores, &mos).expect("defined");
    assert!(error < 0.3, "scores are on the scale of the MOS, off by {error}");
    for row in &rows {
        for gate in row.gates.expect("a head with gates") {
            assert!(gate.is_some_and(|gate| (0.0..=1.0).contains(&gate)), "a sigmoid gate of {gate:?}");
        }
    }
    // Ridge scores every image as well, and a linear relation it must find.
    let ridge: BTreeMap<ImageId, f64> =
        serde_json::from_slice(&fixture.store.get(&models::ridge_path(&run)).expect("scores")).expect("a JSON object");
    assert_eq!(ridge.len(), 300);
    let ridge_scores: Vec<f64> =
        rows.iter().filter(|row| row.part == Some(Part::Test)).map(|row| ridge[&row.image_id]).collect();
    assert!(metrics::srcc(&ridge_scores, &mos).expect("defined") > 0.99);
    // Everything is there: nothing is done again.
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "30", "--seeds", "3"])).exits(0).says("skipped: all 1 runs");
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0).says("skipped: all 300 scores");
}

#[test]
fn both_gates_both_optimisers_and_the_last_epoch_train() {
    let fixture = Fixture::new(300, 0);
    let settings = |optimiser, keep_epoch| TrainSettings {
        optimiser,
        keep_epoch,
        learning_rate: 0.01,
        epochs: 30,
        ..TrainSettings::default()
    };
    for (gate, optimiser, keep_epoch) in [
        (Gate::Linear, Optimiser::Adam, KeepEpoch::Last),
        (Gate::Sigmoid, Optimiser::Adam, KeepEpoch::Best),
        (Gate::Linear, Optimiser::Adamw, KeepEpoch::Best),
    ] {
        let head = HeadSettings { gate, width: 24, ..HeadSettings::default() };
        let stage = fixture.stage(0..1, settings(optimiser, keep_epoch), head);
        stage.run(&fixture.context(1, &Interrupt::default())).expect("it trains");
        let run = &run_names(&stage)[0];
        let record = RunRecord::read(&fixture.store, run).expect("a record");
        if keep_epoch == KeepEpoch::Last {
            assert_eq!((record.best_epoch, record.chosen_by.as_str()), (30, "last"));
        }
        let kept = record.epochs[record.best_epoch as usize - 1];
        let srcc = kept.validation_srcc.expect("defined");
        assert!(srcc > 0.8, "{gate:?} {optimiser:?}: validation SRCC {srcc}");
    }
}

#[test]
fn runs_are_the_same_alone_and_side_by_side() {
    let (alone, beside) = (Fixture::new(90, 0), Fixture::new(90, 0));
    let stage = alone.stage(0..3, busy_settings(12), busy_head());
    for run in &stage.runs {
        let stage = TrainStage { runs: vec![run.clone()], ..stage.clone() };
        stage.run(&alone.context(1, &Interrupt::default())).expect("it trains");
    }
    let stage = beside.stage(0..3, busy_settings(12), busy_head());
    stage.run(&beside.context(3, &Interrupt::default())).expect("they train");
    for run in run_names(&stage) {
        assert_eq!(alone.files(&run), beside.files(&run), "{run}");
    }
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bits() {
    goes_on_to_the_same_bits(busy_head());
}

#[test]
fn an_interrupted_ablation_goes_on_to_the_same_bits() {
    let inputs = vec![HeadInput::Quality, HeadInput::Coherence];
    goes_on_to_the_same_bits(HeadSettings { gate: Gate::Concat, inputs, ..busy_head() });
}

fn goes_on_to_the_same_bits(head: HeadSettings) {
    let (undisturbed, interrupted) = (Fixture::new(90, 0), Fixture::new(90, 0));
    let stage = undisturbed.stage(0..2, busy_settings(40), head.clone());
    stage.run(&undisturbed.context(2, &Interrupt::default())).expect("they train");
    let stage = interrupted.stage(0..2, busy_settings(40), head);
    let mut n_interruptions = 0;
    loop {
        let interrupt = Interrupt::default();
        // The first interruption comes before the first step, the later ones anywhere, so the work goes on meanwhile.
        let delay_millis = 3 * n_interruptions;
        if delay_millis == 0 {
            interrupt.raise();
        }
        let raised = interrupt.clone();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(delay_millis));
            raised.raise();
        });
        let report = stage.run(&interrupted.context(2, &interrupt)).expect("it trains or stops");
        raiser.join().expect("the thread only sleeps");
        assert!(report.rows.balanced(), "{:?}", report.rows);
        if !report.interrupted {
            break;
        }
        n_interruptions += 1;
    }
    assert!(n_interruptions > 0);
    for run in run_names(&stage) {
        assert_eq!(undisturbed.files(&run), interrupted.files(&run), "{run} after {n_interruptions} interruptions");
    }
}

#[test]
fn a_signal_saves_the_state_and_exits_130() {
    let fixture = Fixture::new(60, 0);
    let args = fixture.train_args(&["--epochs", "100000000", "--checkpoint-epochs", "50"]);
    let mut child = fixture.dir.command(&args).stderr(Stdio::piped()).spawn().expect("agiqa can be started");
    let run = {
        // The first saved state shows that training is under way.
        loop {
            let states = fixture.store.list("models").expect("a listing");
            if let Some(state) = states.iter().find(|object| object.path.ends_with("state.safetensors")) {
                break state.path.clone();
            }
            assert!(child.try_wait().expect("a child").is_none(), "it ended before it was interrupted");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the child is alive");
    let status = child.wait().expect("a child");
    let said: Vec<String> =
        std::io::BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok).collect();
    assert_eq!(status.code(), Some(130), "{said:?}");
    assert!(said.iter().any(|line| line.contains("interrupted: 0 runs trained, 1 stopped")), "{said:?}");
    assert!(fixture.store.exists(&run).expect("a store"));
    assert!(models::runs(&fixture.store).expect("a listing").is_empty());
}

#[test]
fn missing_features_are_counted_by_part_and_allowed_on_request() {
    let fixture = Fixture::new(100, 30);
    let refused = fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2"]));
    refused
        .exits(2)
        .says("30 of 100 without features")
        .says("run `agiqa features --dataset d` (features `synthetic@")
        .says("allow_missing = true");
    fixture.set_mos(|i, mos| mos.filter(|_| i != 4));
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2"])).exits(2).says("1 of 100 without MOS");
    fixture
        .dir
        .agiqa(&fixture.train_args(&["--epochs", "2", "--allow-missing"]))
        .exits(1)
        .says("31 rows of their splits");
    let run = fixture.only_run();
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    assert_eq!(record.parts.iter().map(|part| part.n_used).sum::<usize>(), 69);
    assert_eq!(record.parts.iter().map(|part| part.n_without_features).sum::<usize>(), 30);
    assert_eq!(record.parts.iter().map(|part| part.n_without_mos).sum::<usize>(), 1);
    // Prediction needs no MOS, and rejects what has no features.
    fixture
        .dir
        .agiqa(&["predict", "--store", "store", "--run", run.as_str()])
        .exits(1)
        .says("30 of 100 images have no");
    assert_eq!(scored(&fixture.store, &run).len(), 70);
    let rejected = rejects::read(&fixture.store, "predict").expect("rejects");
    assert_eq!(rejected.len(), 30);
    assert!(rejected.iter().all(|row| row.kind == "no-features" && row.image_id.is_some()));
}

/// Writes quality features of another extractor, `other`, for the images `ids`: 3 values, the image's number in front.
fn add_other_quality(fixture: &Fixture, ids: std::ops::Range<usize>) {
    let columns = vec![VectorColumn { name: "f_1".to_owned(), dim: 3 }];
    let fingerprint = Fingerprint::builder("other").finish();
    let kind = FeatureKind::Quality;
    let other = FeatureSet { extractor: name("other"), fingerprint, kind, columns, settings: serde_json::Value::Null };
    let mut rows = FeatureRows::empty(1);
    for i in ids {
        rows.image_ids.push(image(i, None).image_id);
        rows.vectors[0].extend([i as f32, 0.5, -1.0]);
    }
    other.write_description(&fixture.store).expect("an object can be written");
    other.write_part(&fixture.store, &rows).expect("a part can be written");
}

#[test]
fn quality_features_of_two_extractors_are_joined_to_one_vector() {
    let fixture = Fixture::new(60, 0);
    add_other_quality(&fixture, 0..60);
    let args = fixture.train_args(&["--epochs", "2", "--quality", "synthetic,other"]);
    fixture.dir.agiqa(&args).exits(0).says("60 of 60 images have joined features");
    let record = RunRecord::read(&fixture.store, &fixture.only_run()).expect("a record");
    assert_eq!(record.quality().expect("it reads them").extractor.as_str(), "synthetic.other");
    let sets = FeatureSet::list(&fixture.store).expect("sets can be listed");
    let joined = sets.iter().find(|set| set.extractor.as_str() == "synthetic.other").expect("it is kept");
    assert_eq!((joined.columns.len(), joined.columns[0].dim), (1, DIMS[2] + 3));
    let ids: Vec<ImageId> = [17, 4].map(|i| image(i, None).image_id).to_vec();
    let (found, own) =
        (joined.read(&fixture.store, &ids).expect("rows"), fixture.quality.read(&fixture.store, &ids).expect("rows"));
    for (index, number) in [17.0, 4.0].into_iter().enumerate() {
        let (row, own_row) = (found.rows[index].expect("joined"), own.rows[index].expect("there"));
        let vector = &found.matrices[0][row * (DIMS[2] + 3)..][..DIMS[2] + 3];
        assert_eq!(vector[..DIMS[2]], own.matrices[0][own_row * DIMS[2]..][..DIMS[2]]);
        assert_eq!(vector[DIMS[2]..], [number, 0.5, -1.0]);
    }
    fixture.dir.agiqa(&args).exits(0).says("all 60 images have joined features").says("skipped: all 1 runs");
    // Prediction knows the joined features by the run's record.
    let run = fixture.only_run();
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    assert_eq!(scored(&fixture.store, &run).len(), 60);
}

/// Writes the semantic features of all `n` images once more, as those of an extractor `own` with three prompts, `f_a` last.
fn add_own_semantic(fixture: &Fixture, n: usize) {
    let column = |name: &str, dim| VectorColumn { name: name.to_owned(), dim };
    let own = FeatureSet {
        extractor: name("own"),
        fingerprint: Fingerprint::builder("own").finish(),
        columns: vec![column("f_b", DIMS[1]), column("sharp", 2), column("f_a", DIMS[0])],
        ..fixture.semantic.clone()
    };
    let ids: Vec<ImageId> = (0..n).map(|i| image(i, None).image_id).collect();
    let found = fixture.semantic.read(&fixture.store, &ids).expect("rows");
    let mut rows = FeatureRows::empty(3);
    for (id, row) in ids.iter().zip(&found.rows) {
        let row = row.expect("every image has features");
        let vector = |column: usize| &found.matrices[column][row * DIMS[column]..][..DIMS[column]];
        rows.image_ids.push(*id);
        rows.n_tokens.push(1);
        rows.vectors[0].extend_from_slice(vector(1));
        rows.vectors[1].extend_from_slice(&[7.0, row as f32]);
        rows.vectors[2].extend_from_slice(vector(0));
    }
    own.write_description(&fixture.store).expect("an object can be written");
    own.write_part(&fixture.store, &rows).expect("a part can be written");
}

#[test]
fn semantic_columns_are_found_by_name_whatever_other_prompts_there_are() {
    let fixture = Fixture::new(60, 0);
    add_own_semantic(&fixture, 60);
    let scores = |more: &[&str]| {
        let run = fixture.train_new(&[&["--epochs", "3"][..], more].concat());
        fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
        let rows = scored(&fixture.store, &run);
        rows.into_iter().map(|row| (row.image_id, row.score.to_bits())).collect::<BTreeMap<_, _>>()
    };
    let expected = scores(&[]);
    assert_eq!(expected.len(), 60);
    assert_eq!(scores(&["--semantic", "own"]), expected);
}

#[test]
fn the_official_split_has_the_papers_seed_where_none_is_given() {
    let fixture = Fixture::new(60, 0);
    let of = |more: &[&str]| {
        let run = fixture.train_new(&[&["--epochs", "1", "--split", "official"][..], more].concat());
        let record = RunRecord::read(&fixture.store, &run).expect("a record");
        (record.split.to_string(), record.seed)
    };
    assert_eq!(of(&[]), ("official-20".to_owned(), 20));
    assert_eq!(of(&["--seeds", "3"]), ("official-3".to_owned(), 3));
    assert_eq!(of(&["--split-seed", "4"]), ("official-4".to_owned(), 0));

    let split = |more: &[&str]| {
        fixture.dir.agiqa(&[&["split", "--store", "store", "--dataset", "d"][..], more].concat()).exits(0)
    };
    split(&["--split", "official"]).says("split d official-20: skipped");
    split(&["--split", "official", "--seeds", "5"]).says("official-5");
    split(&[]).says("random-0");
}

#[test]
fn images_that_one_of_the_joined_extractors_lacks_are_counted() {
    let fixture = Fixture::new(60, 0);
    add_other_quality(&fixture, 7..60);
    let args = |more: &[&'static str]| {
        let joined = ["--epochs", "2", "--quality", "synthetic,other"];
        fixture.train_args(&[&joined[..], more].concat())
    };
    fixture.dir.agiqa(&args(&[])).exits(2).says("7 of 60 without features").says("allow_missing = true");
    fixture.dir.agiqa(&args(&["--allow-missing"])).exits(1).says("7 rows of their splits");
    let with = |quality: &'static str| fixture.dir.agiqa(&fixture.train_args(&["--quality", quality]));
    with("synthetic,none").exits(2).says("no quality features `none`").says("`other@");
    with("other,other").exits(2).says("joined with itself");
}

#[test]
fn a_part_without_any_features_is_an_error_even_where_gaps_are_allowed() {
    let fixture = Fixture::new(20, 20);
    let args = fixture.train_args(&["--epochs", "2", "--allow-missing"]);
    fixture.dir.agiqa(&args).exits(2).says("no usable image in the train part (14 in the split, 14 of them without");
}

#[test]
fn equal_mos_fall_back_to_the_squared_error_and_give_finite_scores() {
    let fixture = Fixture::new(60, 0);
    fixture.set_mos(|_, _| Some(3.0));
    let warning = "the 6 validation images all have the same MOS";
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "3"])).exits(0).says(warning);
    let run = fixture.only_run();
    let record = RunRecord::read(&fixture.store, &run).expect("a record");
    assert_eq!(record.chosen_by, "validation MSE");
    assert!(record.epochs.iter().all(|epoch| epoch.validation_srcc.is_none() && epoch.validation_mse.is_finite()));
    let best = record.epochs.iter().map(|epoch| epoch.validation_mse).fold(f64::INFINITY, f64::min);
    assert_eq!(record.epochs[record.best_epoch as usize - 1].validation_mse, best);
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", run.as_str()]).exits(0);
    assert!(scored(&fixture.store, &run).iter().all(|row| row.score.is_finite()));
}

#[test]
fn a_dataset_of_one_row_cannot_be_split_and_says_so() {
    let fixture = Fixture::new(1, 0);
    fixture.dir.agiqa(&fixture.train_args(&[])).exits(2).says("leaves a part empty");
}

#[test]
fn a_diverging_loss_stops_with_step_rate_and_images() {
    let fixture = Fixture::new(40, 0);
    let args = ["--epochs", "3", "--learning-rate", "1e30"];
    let base = fixture.train_args(&[]);
    let base: Vec<&str> = base.into_iter().filter(|arg| !["--learning-rate", "0.01"].contains(arg)).collect();
    let said = fixture.dir.agiqa(&[&base[..], &args[..]].concat());
    said.exits(2).says("diverged: the loss of step 2 (epoch 1)").says("at learning rate").says("on the images");
}

#[test]
fn settings_out_of_range_and_unknown_features_are_named() {
    let fixture = Fixture::new(40, 0);
    let train = |more: &[&str]| fixture.dir.agiqa(&fixture.train_args(more));
    train(&["--epochs", "0"]).exits(2).says("`epochs` is 0; expected 1 or more");
    train(&["--input-dropout", "1"]).exits(2).says("`input_dropout` is 1");
    train(&["--gate", "softmax"]).exits(2).says("`sigmoid`, `linear`, `concat`");
    let with = |features: &str| {
        let args = ["train", "--store", "store", "--dataset", "d", "--epochs", "1", "--features", features];
        fixture.dir.agiqa(&args)
    };
    with("maniqa").exits(2).says("no semantic features `maniqa`").says("the semantic features are: `synthetic@");
    let other = feature_set(FeatureKind::Semantic, "y");
    other.write_description(&fixture.store).expect("an object can be written");
    with("synthetic").exits(2).says("may be any of several semantic features");
}

#[test]
fn a_changed_mos_trains_again_and_other_settings_are_another_run() {
    let fixture = Fixture::new(60, 0);
    let args = fixture.train_args(&["--epochs", "2"]);
    fixture.dir.agiqa(&args).exits(0);
    let run = fixture.only_run();
    fixture.set_mos(|i, mos| if i == 0 { Some(9.0) } else { mos });
    fixture.dir.agiqa(&args).exits(0).says("changed");
    assert_eq!(fixture.only_run(), run);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "3"])).exits(0).says("1 of 1 runs are not trained yet");
    assert_eq!(models::runs(&fixture.store).expect("a listing").len(), 2);
}
