//! Tests of `train` and `predict`, and of the fusion module's mathematics.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead as _;
use std::path::Path;
use std::process::Stdio;

use agiqa::console::{Console, EventFormat, Verbosity};
use agiqa::identity::{Fingerprint, ImageId};
use agiqa::interrupt::Interrupt;
use agiqa::metrics;
use agiqa::models::fusion::{FusionConfig, FusionHead, FusionOutput, Gate, PARAMETER_NAMES, ProjectionMasks};
use agiqa::models::trained_head::{LabelScale, SCORE_BATCH, Standardisation, TrainedHead};
use agiqa::splits::{Fractions, SplitSettings, SplitStage};
use agiqa::stage::{Stage, StageContext};
use agiqa::store::{OpenMode, Store};
use agiqa::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa::tables::images::{self, ImageRow, Images};
use agiqa::tables::models::{self, RunRecord};
use agiqa::tables::predictions::{self, PredictionRow};
use agiqa::tables::splits::Part;
use agiqa::tables::{PartitionName, rejects};
use agiqa::train::{Adam, Gradient, HeadInput, KeepEpoch, Labels, Optimiser, TrainSettings, TrainStage, seeded_runs};
use tch::{Device, Kind, Tensor};

use crate::testdir::{TestDir, shared};

fn name(text: &str) -> PartitionName {
    PartitionName::new(text).expect("a valid name")
}

// ---- the fusion module against the published code ----

/// Tensors of a safetensors file by name.
fn tensors(path: &Path) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(path).expect("a safetensors file").into_iter().collect()
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, relative: f64) {
    assert_eq!(found.size(), expected.size(), "shape of {what}");
    let largest = expected.abs().max().double_value(&[]);
    let error = (found - expected).abs().max().double_value(&[]);
    assert!(error <= relative * largest, "{what}: off by {error:e}, largest value {largest:e}");
}

struct Reference {
    head: FusionHead,
    expected: HashMap<String, Tensor>,
    output: FusionOutput,
}

fn reference(gate: Gate) -> Option<Reference> {
    let folder = shared("parity/maniqa/tiny")?;
    let mut weights = tensors(&folder.join("model.safetensors"));
    let expected = tensors(&folder.join("expected.safetensors"));
    let parameters = PARAMETER_NAMES.map(|name| weights.remove(name).expect("an official name"));
    let config = FusionConfig { semantic_dim: 64, coherence_dim: 64, quality_dim: 64, width: 64, gate };
    let head = FusionHead::new(config, parameters);
    let inputs = [&expected["input.semantic"], &expected["input.coherence"], &expected["f1"]];
    let output = head.forward(inputs[0], inputs[1], inputs[2], None);
    Some(Reference { head, expected, output })
}

#[test]
fn fusion_agrees_with_the_published_code_for_both_gates() {
    for (gate, prefix) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let Some(Reference { expected, output, .. }) = reference(gate) else { return };
        let of = |name: &str| &expected[&format!("{prefix}.{name}")];
        assert_close("g_semantic", &output.semantic, &expected["g_semantic"], 2e-5);
        assert_close("g_coherence", &output.coherence, &expected["g_coherence"], 2e-5);
        assert_close("g_quality", &output.quality, &expected["g_maniqa"], 2e-5);
        assert_close("alpha", &output.alpha, of("alpha"), 2e-5);
        assert_close("fused", &output.fused, of("fused"), 2e-5);
        assert_close("score", &output.score, of("score"), 2e-5);
    }
}

#[test]
fn gradients_agree_with_the_published_code_for_both_gates() {
    for (gate, prefix) in [(Gate::Linear, "linear"), (Gate::Sigmoid, "sigmoid")] {
        let Some(Reference { head, expected, output }) = reference(gate) else { return };
        let error = &output.score - &expected["input.targets"];
        let gradients = head.backward(&output, None, &(error * (2.0 / 3.0)));
        let over_batch = |tensor: &Tensor| tensor.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
        let found = [
            ("fc4096_784_a2.0.bias", over_batch(&gradients.semantic)),
            ("fc784_784.bias", over_batch(&gradients.quality)),
            ("gating.weight", gradients.gate.tr().matmul(&output.concatenated)),
            ("gating.bias", over_batch(&gradients.gate)),
            ("output_fc.weight", gradients.output.tr().matmul(&output.fused)),
        ];
        for (name, gradient) in found {
            assert_close(name, &gradient, &expected[&format!("{prefix}.grad.{name}")], 1e-4);
        }
    }
}

#[test]
fn gradients_under_dropout_are_those_of_autograd() {
    // What a head does not read has width 0.
    let subsets = [[5, 4, 3], [0, 0, 3], [5, 0, 0], [0, 4, 0], [5, 0, 3], [0, 4, 3], [5, 4, 0]];
    let gates = [Gate::Linear, Gate::Sigmoid, Gate::Concat];
    for (gate, dims) in gates.into_iter().flat_map(|gate| subsets.map(|dims| (gate, dims))) {
        let [semantic_dim, coherence_dim, quality_dim] = dims;
        let config = FusionConfig { semantic_dim, coherence_dim, quality_dim, width: 6, gate };
        let mut random = Random(9);
        let mut tensor = |shape: &[i64]| {
            let n: i64 = shape.iter().product();
            Tensor::from_slice(&(0..n).map(|_| random.next() as f32).collect::<Vec<f32>>()).view(shape)
        };
        let inputs = dims.map(|dim| tensor(&[7, dim]));
        let [semantic, coherence, _] = config.projected();
        let masks = ProjectionMasks {
            semantic: tensor(&[7, semantic]).gt(0.0).to_kind(Kind::Float) * 2.0,
            coherence: tensor(&[7, coherence]).gt(0.0).to_kind(Kind::Float) * 2.0,
        };
        let parameters = config.shapes().map(|shape| tensor(&shape).set_requires_grad(true));
        let head = FusionHead::new(config, parameters);
        let output = head.forward(&inputs[0], &inputs[1], &inputs[2], Some(&masks));
        assert_eq!(output.alpha.size(), [7, 3]);
        for (i, dim) in dims.into_iter().enumerate() {
            let alpha = output.alpha.select(1, i as i64);
            assert!(
                dim > 0 || alpha.abs().max().double_value(&[]) == 0.0,
                "{gate:?} {dims:?}: a gate of what is not read"
            );
        }
        let loss = output.score.square().mean(Kind::Float);
        let there: Vec<&Tensor> = head.parameters().into_iter().filter(|parameter| parameter.numel() > 0).collect();
        let mut expected = Tensor::run_backward(&[loss], &there, false, false).into_iter();
        let gradients = head.backward(&output, Some(&masks), &(&output.score * (2.0 / 7.0)));
        let weight = |d_output: &Tensor, inputs: &Tensor| d_output.tr().matmul(inputs);
        let bias = |d_output: &Tensor| d_output.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
        let found = [
            weight(&gradients.semantic, &inputs[0]),
            bias(&gradients.semantic),
            weight(&gradients.coherence, &inputs[1]),
            bias(&gradients.coherence),
            weight(&gradients.quality, &inputs[2]),
            bias(&gradients.quality),
            weight(&gradients.gate, &output.concatenated),
            bias(&gradients.gate),
            weight(&gradients.output, &output.fused),
            bias(&gradients.output),
        ];
        for ((name, found), parameter) in PARAMETER_NAMES.iter().zip(&found).zip(head.parameters()) {
            assert_eq!(found.size(), parameter.size(), "{gate:?} {dims:?} {name}");
            if parameter.numel() > 0 {
                assert_close(name, found, &expected.next().expect("one per parameter"), 1e-5);
            }
        }
    }
}

#[test]
fn three_steps_of_adam_and_adamw_are_those_of_pytorch() {
    // tests/reference/adam.py
    let cases = [(Optimiser::Adam, ADAM), (Optimiser::Adamw, ADAMW)];
    for (kind, expected) in cases {
        let weight = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.0, 0.25, -0.75]).view([2, 3]);
        let mut adam = Adam::new(kind, 0.1, 0.0, &[&weight]);
        for step in 0..3 {
            let gradient = Tensor::from_slice(&[0.1_f32, -0.2, 0.3, 0.0, 1e-3, -4.0]).view([2, 3]) * (step + 1) - 0.05;
            adam.step(0.1, &[Gradient::Whole(gradient)]);
        }
        assert_close("weight", &weight.to_kind(Kind::Double), &Tensor::from_slice(&expected).view([2, 3]), 1e-6);
    }
}

const ADAM: [f64; 6] = [0.206619578, -0.702654118, 1.703773185, 0.295128687, 0.522970439, -0.457334429];
const ADAMW: [f64; 6] = [0.204374456, -0.67877378, 1.653262752, 0.297009941, 0.539367104, -0.438231094];

#[test]
fn scoring_another_dataset_keeps_the_scores_of_the_first() {
    let fixture = Fixture::new(100, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2", "--seeds", "3"])).exits(0);
    let run = fixture.only_run();
    let mut corpus = images::read(&fixture.store, &name("d")).expect("images");
    corpus.rows.truncate(7);
    for row in &mut corpus.rows {
        row.mos = None;
    }
    images::write(&fixture.store, &name("corpus"), &corpus).expect("images can be written");
    let predict = ["predict", "--store", "store", "--run", run.as_str()];
    fixture.dir.agiqa(&predict).exits(0);
    let own = fixture.store.get(&predictions::path(&run)).expect("predictions");
    fixture.dir.agiqa(&[&predict[..], &["--dataset", "corpus"]].concat()).exits(0).says("7 scores");
    assert_eq!(fixture.store.get(&predictions::path(&run)).expect("predictions"), own);
    let rows = predictions::read(&fixture.store, &run).expect("predictions");
    let of = |dataset: &str| rows.iter().filter(|row| row.dataset == dataset).count();
    assert_eq!((of("d"), of("corpus")), (100, 7));
    assert!(rows.iter().filter(|row| row.dataset == "corpus").all(|row| row.mos.is_none() && row.part.is_none()));
    for args in [&predict[..], &[&predict[..], &["--dataset", "corpus"]].concat()] {
        fixture.dir.agiqa(args).exits(0).says("skipped");
    }
}

#[test]
fn a_score_does_not_depend_on_its_batch() {
    // Widths as real ones are: it is the kernels for large products that round by position.
    let config =
        FusionConfig { semantic_dim: 768, coherence_dim: 500, quality_dim: 301, width: 784, gate: Gate::Sigmoid };
    let mut random = Random(5);
    let mut tensor = |shape: &[i64]| {
        let n: i64 = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| random.next() as f32 * 0.2).collect();
        Tensor::from_slice(&values).view(shape)
    };
    let parameters = config.shapes().map(|shape| tensor(&shape));
    let n = 2 * SCORE_BATCH as i64 + 5;
    let features = [tensor(&[n, 768]), tensor(&[n, 500]), tensor(&[n, 301])];
    let inputs = [768, 500, 301].map(Standardisation::identity);
    let labels = LabelScale { scale: 1.0, offset: 0.0 };
    let head = TrainedHead { head: FusionHead::new(config, parameters), inputs, labels };
    let all = head.score(&features);
    let select = |rows: &[i64]| [0, 1, 2].map(|i| features[i].index_select(0, &Tensor::from_slice(rows)));
    let reversed: Vec<i64> = (0..n).rev().collect();
    let every_third: Vec<i64> = (0..n).filter(|row| row % 3 == 1).collect();
    for rows in [reversed, every_third, vec![n - 1], (7..n).collect()] {
        let scores = head.score(&select(&rows));
        for (row, (score, alpha)) in rows.iter().zip(scores.score.iter().zip(&scores.alpha)) {
            assert_eq!(score.to_bits(), all.score[*row as usize].to_bits(), "row {row}");
            assert_eq!(alpha, &all.alpha[*row as usize], "row {row}");
        }
    }
}

// ---- training on a synthetic relation ----

/// Numbers in (-1, 1), good enough to make data from.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
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

fn image(i: usize, mos: Option<f64>) -> ImageRow {
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
        let url = dir.path().join("store").display().to_string();
        let store = Store::open(&url, OpenMode::CreateIfMissing).expect("a folder can be made");
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
    fn set_mos(&self, mos: impl Fn(usize, Option<f64>) -> Option<f64>) {
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
    fn stage(&self, seeds: std::ops::Range<u32>, settings: TrainSettings) -> TrainStage {
        let split = |seed| SplitSettings::Random { seed, fractions: Fractions::default() };
        for seed in seeds.clone() {
            let split = SplitStage { dataset: name("d"), settings: split(seed) };
            split.run(&self.context(1, &Interrupt::default())).expect("the split can be made");
        }
        TrainStage {
            name: name("t"),
            dataset: name("d"),
            runs: seeded_runs(seeds, split),
            semantic: self.semantic.clone(),
            quality: self.quality.clone(),
            settings,
        }
    }

    fn context(&self, n_threads: usize, interrupt: &Interrupt) -> StageContext {
        StageContext {
            store: self.store.clone(),
            console: Console::new(Verbosity::Quiet, EventFormat::Text),
            interrupt: interrupt.clone(),
            n_threads,
        }
    }

    /// Every object that `run` left, by name.
    fn files(&self, run: &PartitionName) -> BTreeMap<String, Vec<u8>> {
        let objects = self.store.list(&models::prefix(run)).expect("a listing");
        let read = |path: &str| self.store.get(path).expect("an object").to_vec();
        objects.into_iter().map(|object| (object.path.clone(), read(&object.path))).collect()
    }

    pub fn only_run(&self) -> PartitionName {
        let runs = models::runs(&self.store).expect("a listing");
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }
}

/// Settings with everything that draws or averages switched on.
fn busy_settings() -> TrainSettings {
    TrainSettings {
        width: 24,
        optimiser: Optimiser::Adamw,
        learning_rate: 3e-3,
        weight_decay: 0.1,
        batch_size: 12,
        epochs: 12,
        input_dropout: 0.2,
        dropout: 0.3,
        labels: Labels::Standardised,
        weight_average: 0.9,
        checkpoint_epochs: 5,
        ..TrainSettings::default()
    }
}

fn test_scores(rows: &[PredictionRow]) -> (Vec<f64>, Vec<f64>) {
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
    let rows = predictions::read(&fixture.store, &run).expect("predictions");
    assert_eq!(rows.len(), 300);
    let (scores, mos) = test_scores(&rows);
    assert_eq!(scores.len(), 60);
    let srcc = metrics::srcc(&scores, &mos).expect("defined");
    assert!(srcc > 0.95, "SRCC {srcc}");
    let error = metrics::rmse(&scores, &mos).expect("defined");
    assert!(error < 0.3, "scores are on the scale of the MOS, off by {error}");
    for row in &rows {
        for alpha in [row.alpha_quality, row.alpha_semantic, row.alpha_coherence] {
            assert!((0.0..=1.0).contains(&alpha), "a sigmoid gate of {alpha}");
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
    let settings = |gate, optimiser, keep_epoch| TrainSettings {
        gate,
        optimiser,
        keep_epoch,
        learning_rate: 0.01,
        epochs: 30,
        width: 24,
        ..TrainSettings::default()
    };
    for (gate, optimiser, keep_epoch) in [
        (Gate::Linear, Optimiser::Adam, KeepEpoch::Last),
        (Gate::Sigmoid, Optimiser::Adam, KeepEpoch::Best),
        (Gate::Linear, Optimiser::Adamw, KeepEpoch::Best),
    ] {
        let stage = fixture.stage(0..1, settings(gate, optimiser, keep_epoch));
        stage.run(&fixture.context(1, &Interrupt::default())).expect("it trains");
        let run = &stage.plan().run_names().expect("valid names")[0];
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
    let stage = alone.stage(0..3, busy_settings());
    for run in &stage.runs {
        let stage = TrainStage { runs: vec![run.clone()], ..stage.clone() };
        stage.run(&alone.context(1, &Interrupt::default())).expect("it trains");
    }
    let stage = beside.stage(0..3, busy_settings());
    stage.run(&beside.context(3, &Interrupt::default())).expect("they train");
    for run in stage.plan().run_names().expect("valid names") {
        assert_eq!(alone.files(&run), beside.files(&run), "{run}");
    }
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bits() {
    goes_on_to_the_same_bits(TrainSettings { epochs: 40, ..busy_settings() });
}

#[test]
fn an_interrupted_ablation_goes_on_to_the_same_bits() {
    let inputs = vec![HeadInput::Quality, HeadInput::Coherence];
    goes_on_to_the_same_bits(TrainSettings { epochs: 40, gate: Gate::Concat, inputs, ..busy_settings() });
}

fn goes_on_to_the_same_bits(settings: TrainSettings) {
    let (undisturbed, interrupted) = (Fixture::new(90, 0), Fixture::new(90, 0));
    let stage = undisturbed.stage(0..2, settings.clone());
    stage.run(&undisturbed.context(2, &Interrupt::default())).expect("they train");
    let stage = interrupted.stage(0..2, settings);
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
    for run in stage.plan().run_names().expect("valid names") {
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
        .says("run `agiqa embed --dataset d` (features `synthetic@")
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
    assert_eq!(predictions::read(&fixture.store, &run).expect("predictions").len(), 70);
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
    assert_eq!(record.quality.extractor.as_str(), "synthetic.other");
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
    assert_eq!(predictions::read(&fixture.store, &run).expect("predictions").len(), 60);
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
    assert!(predictions::read(&fixture.store, &run).expect("predictions").iter().all(|row| row.score.is_finite()));
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
    with("maniqa").exits(2).says("no semantic features `maniqa`").says("there are: `synthetic@");
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

#[test]
fn predictions_of_another_dataset_have_no_part_and_the_same_scores() {
    let fixture = Fixture::new(100, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "2"])).exits(0);
    let run = fixture.only_run();
    let predict = |datasets: &[&str]| {
        let args = ["predict", "--store", "store", "--run", run.as_str()];
        fixture.dir.agiqa(&[&args[..], datasets].concat()).exits(0);
        predictions::read(&fixture.store, &run).expect("predictions")
    };
    let own: HashMap<ImageId, f64> = predict(&[]).into_iter().map(|row| (row.image_id, row.score)).collect();
    // A corpus: some of the images, in another order, without MOS.
    let rows = (0..100).rev().filter(|i| i % 7 != 2).map(|i| image(i, None)).collect();
    images::write(&fixture.store, &name("corpus"), &Images { rows, extra: Vec::new() }).expect("a table");
    let rows: Vec<PredictionRow> =
        predict(&["--dataset", "corpus"]).into_iter().filter(|row| row.dataset == "corpus").collect();
    assert_eq!(rows.len(), 86);
    for row in rows {
        assert_eq!((row.part, row.mos), (None, None));
        assert_eq!(row.score.to_bits(), own[&row.image_id].to_bits(), "{}", row.name);
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let bytes = || {
        let fixture = Fixture::new(80, 0);
        let group = ["--epochs", "2", "--seeds", "0,1"];
        let run = |args: &[&str]| {
            let output = fixture.dir.command(args).env("SOURCE_DATE_EPOCH", "1700000000").output().expect("agiqa");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&fixture.train_args(&group));
        let runs = models::runs(&fixture.store).expect("a listing");
        let group = RunRecord::read(&fixture.store, &runs[0]).expect("a record").group;
        run(&["predict", "--store", "store", "--group", group.as_str()]);
        let read = |run: &PartitionName| fixture.store.get(&predictions::path(run)).expect("predictions").to_vec();
        runs.iter().map(read).collect::<Vec<_>>()
    };
    let (first, second) = (bytes(), bytes());
    assert_eq!(first.len(), 2);
    assert_eq!(first, second);
}

#[test]
fn unknown_runs_and_groups_are_named_with_those_there_are() {
    let fixture = Fixture::new(60, 0);
    fixture.dir.agiqa(&fixture.train_args(&["--epochs", "1"])).exits(0);
    let run = fixture.only_run();
    let known = format!("there are: `{run}`");
    fixture.dir.agiqa(&["predict", "--store", "store", "--run", "nope"]).exits(2).says("`nope`").says(&known);
    fixture.dir.agiqa(&["predict", "--store", "store", "--group", "nope"]).exits(2).says("there are: `t-random-");
}

#[test]
fn standardisation_ignores_constant_dimensions_and_scales_the_others() {
    let options = (Kind::Float, Device::Cpu);
    let xs = Tensor::from_slice(&[1_f32, 5.0, 1000.0, 3.0, 5.0, 1000.1]).view([2, 3]);
    let Standardisation { mean, scale } = Standardisation::fit(&xs);
    assert_close("mean", &mean, &Tensor::from_slice(&[2_f32, 5.0, 1000.05]), 1e-6);
    assert_eq!(scale.double_value(&[1]), 0.0, "a constant dimension says nothing");
    assert!((scale.double_value(&[0]) - 1.0).abs() < 1e-6);
    assert!((scale.double_value(&[2]) - 20.0).abs() < 0.1);
    let one_row = Standardisation::fit(&xs.narrow(0, 0, 1));
    assert_eq!(one_row.scale, Tensor::zeros([3], options));
}
