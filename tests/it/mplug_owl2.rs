//! mPLUG-Owl2 agrees with the published extraction, stage by stage.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa_images::{DecodeLimits, RgbImage8, decode};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::mplug_owl2::{Config, LoadError, MplugOwl2, Preprocessing, Prompt, PromptIds, Tokenizer, tensors};
use agiqa_synth::{Float, Invented};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::resizing::PICTURES;
use crate::testdir::{reference, shared};

#[derive(Deserialize)]
struct Prompts {
    prompts: Vec<PromptCase>,
    tokenizer_cases: Vec<TokenizerCase>,
}

#[derive(Deserialize)]
struct PromptCase {
    name: String,
    prompt: String,
    input_ids: Vec<i64>,
    sequence_length: i64,
}

#[derive(Deserialize)]
struct TokenizerCase {
    text: String,
    input_ids: Vec<i64>,
}

fn prompts_of(folder: &Path) -> Prompts {
    let text = std::fs::read_to_string(folder.join("prompts.json")).expect("part of the reference");
    serde_json::from_str(&text).expect("prompts and cases")
}

/// The prompt called `name` in the reference, in our order: semantic content is `f_a`, coherence `f_b`.
pub const NAMES: [&str; 2] = ["semantic_content", "coherence"];

#[test]
fn both_tokenizer_files_give_sentencepieces_ids() {
    compare_tokenizers(&reference("mplug_owl2"), 420, 24, 6);
}

#[test]
fn both_files_of_llamas_tokenizer_give_the_published_ids() {
    let Some(folder) = shared("parity/mplug_owl2") else { return };
    compare_tokenizers(&folder, 32000, 30, 65);
}

/// Compares every case, and the prompts, of which an image is `n_visual` tokens.
fn compare_tokenizers(folder: &Path, n_tokens: usize, n_cases: usize, n_visual: i64) {
    let reference = prompts_of(folder);
    assert_eq!(reference.tokenizer_cases.len(), n_cases);
    for tokenizer in [
        Tokenizer::read_sentencepiece(&folder.join("tokenizer.model")).expect("it can be read"),
        Tokenizer::read_json(&folder.join("tokenizer.json")).expect("it can be read"),
    ] {
        assert_eq!(tokenizer.n_tokens(), n_tokens);
        for case in &reference.tokenizer_cases {
            assert_eq!(tokenizer.encode(&case.text), case.input_ids, "{:?}", case.text);
        }
        for (prompt, name) in Prompt::of_the_paper().iter().zip(NAMES) {
            let case = reference.prompts.iter().find(|case| case.name == name).expect("a prompt of the paper");
            assert_eq!(prompt.text(), case.prompt);
            let ids = PromptIds::of(prompt, &tokenizer);
            assert_eq!([&ids.before[..], &[-200], &ids.after].concat(), case.input_ids);
            assert_eq!((ids.before.len() + ids.after.len()) as i64 + n_visual, case.sequence_length);
        }
    }
}

#[test]
fn a_file_that_is_no_llama_tokenizer_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let error = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        let read =
            if name.ends_with("json") { Tokenizer::read_json(&path) } else { Tokenizer::read_sentencepiece(&path) };
        read.expect_err("refused").to_string()
    };
    assert!(error("tokenizer.model", "text").contains("it is not a sentencepiece model"));
    assert!(error("tokenizer.model", "").contains("it is not a LLaMA tokenizer: expected model_type BPE"));
    assert!(error("tokenizer.json", "{}").contains("it is not a tokenizer"));
    let message = Tokenizer::find(&dir.path().join("nowhere")).expect_err("absent").to_string();
    assert!(message.contains("holds neither tokenizer.model nor tokenizer.json"), "{message}");
}

#[test]
fn a_special_token_that_is_empty_or_beyond_the_vocabulary_is_refused_with_its_id() {
    let folder = reference("mplug_owl2");
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let text = std::fs::read_to_string(folder.join("tokenizer.json")).expect("part of the reference");
    let last = r#"{"id":2,"content":"</s>","#;
    assert!(text.contains(last), "the reference has changed");
    let error = |to: &str| {
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, text.replacen(last, to, 1)).expect("a file can be written");
        Tokenizer::read_json(&path).expect_err("refused").to_string()
    };
    for id in [420, -1] {
        let message = error(&format!(r#"{{"id":{id},"content":"<pad>","#));
        assert!(
            message.contains(&format!("special token `<pad>` has the id {id}: expected one below 420")),
            "{message}"
        );
    }
    let message = error(r#"{"id":2,"content":"","#);
    assert!(message.contains("the special token of id 2 is empty"), "{message}");

    // A piece more (field 1, two bytes long): of type (field 3) control (3), without a text.
    let mut bytes = std::fs::read(folder.join("tokenizer.model")).expect("part of the reference");
    bytes.extend_from_slice(&[0x0a, 2, 0x18, 3]);
    let path = dir.path().join("tokenizer.model");
    std::fs::write(&path, bytes).expect("a file can be written");
    let message = Tokenizer::read_sentencepiece(&path).expect_err("refused").to_string();
    assert!(message.contains("the special token of id 420 is empty"), "{message}");
}

const VISION: &str = "/visual_config/visual_model";
const ABSTRACTOR: &str = "/visual_config/visual_abstractor";

/// Every key of `config.json` that may be absent, with the table that it is in.
const OPTIONAL: [(&str, &str); 17] = [
    ("", "model_type"),
    ("", "num_key_value_heads"),
    ("", "hidden_act"),
    ("", "rms_norm_eps"),
    ("", "rope_theta"),
    ("", "rope_scaling"),
    ("", "attention_bias"),
    (VISION, "num_channels"),
    (VISION, "hidden_act"),
    (VISION, "layer_norm_eps"),
    (VISION, "use_cls_token"),
    (VISION, "use_post_layernorm"),
    (ABSTRACTOR, "encoder_hidden_size"),
    (ABSTRACTOR, "grid_size"),
    (ABSTRACTOR, "layer_norm_eps"),
    (ABSTRACTOR, "use_cls_token"),
    (ABSTRACTOR, "add_v2t_pos_emb"),
];

fn table_of<'a>(file: &'a mut Value, table: &str) -> &'a mut serde_json::Map<String, Value> {
    file.pointer_mut(table).and_then(Value::as_object_mut).expect("a table of the reference")
}

fn small_config() -> Value {
    let text = std::fs::read(reference("mplug_owl2/config.json")).expect("part of the project");
    serde_json::from_slice(&text).expect("JSON")
}

fn read_config(file: &Value) -> Result<Config, LoadError> {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("config.json");
    std::fs::write(&path, file.to_string()).expect("a file can be written");
    Config::read(&path)
}

/// The defaults are those of the published classes, as the README beside the reference lists them.
#[test]
fn absent_and_null_keys_of_the_configuration_have_the_published_defaults() {
    let mut file = small_config();
    // Other values than the defaults where others are allowed, and a geometry that the default grid of 32 fits.
    for (table, key, value) in [
        ("", "rms_norm_eps", json!(1e-5)),
        ("", "rope_theta", json!(500_000.0)),
        (VISION, "layer_norm_eps", json!(1e-4)),
        (ABSTRACTOR, "layer_norm_eps", json!(1e-3)),
        (VISION, "image_size", json!(256)),
        (ABSTRACTOR, "grid_size", json!(32)),
    ] {
        table_of(&mut file, table).insert(key.to_owned(), value);
    }
    let config = read_config(&file).expect("all keys are there");
    assert_eq!((config.decoder.rms_norm_eps, config.decoder.rope_theta), (1e-5, 500_000.0));
    let with_default = |mut config: Config, table: &str, key: &str| {
        match (table, key) {
            ("", "rms_norm_eps") => config.decoder.rms_norm_eps = 1e-6,
            ("", "rope_theta") => config.decoder.rope_theta = 10_000.0,
            (VISION, "layer_norm_eps") => config.vision.layer_norm_eps = 1e-6,
            (ABSTRACTOR, "layer_norm_eps") => config.abstractor.layer_norm_eps = 1e-6,
            // One value is allowed, and absence means it.
            _ => {}
        }
        config
    };
    let (mut without_any, mut with_all_defaults) = (file.clone(), config.clone());
    for (table, key) in OPTIONAL {
        let expected = with_default(config.clone(), table, key);
        let mut changed = file.clone();
        table_of(&mut changed, table).remove(key).expect("the reference has every key");
        assert_eq!(read_config(&changed).expect("it has a default"), expected, "{table}/{key} is absent");
        table_of(&mut changed, table).insert(key.to_owned(), Value::Null);
        assert_eq!(read_config(&changed).expect("it has a default"), expected, "{table}/{key} is null");
        table_of(&mut without_any, table).remove(key);
        with_all_defaults = with_default(with_all_defaults, table, key);
    }
    assert_eq!(read_config(&without_any).expect("all have defaults"), with_all_defaults);
}

#[test]
fn what_the_network_does_not_do_is_refused_by_key_with_what_was_expected() {
    let file = small_config();
    let scaling = json!({ "type": "linear", "factor": 2.0 });
    for (table, key, value, expected) in [
        ("", "rope_scaling", scaling, r#"`rope_scaling` is {"type":"linear","factor":2.0}, expected null"#),
        ("", "attention_bias", json!(true), "`attention_bias` is true, expected false"),
        ("", "hidden_act", json!("gelu"), r#"`hidden_act` is "gelu", expected "silu""#),
        ("", "num_key_value_heads", json!(2), "`num_key_value_heads` is 2, expected 3"),
        (VISION, "hidden_act", json!("gelu"), r#"`visual_model.hidden_act` is "gelu", expected "quick_gelu""#),
        (VISION, "num_channels", json!(1), "`visual_model.num_channels` is 1, expected 3"),
        (VISION, "use_cls_token", json!(false), "`visual_model.use_cls_token` is false, expected true"),
        (VISION, "use_post_layernorm", json!(false), "`visual_model.use_post_layernorm` is false, expected true"),
        (ABSTRACTOR, "use_cls_token", json!(false), "`visual_abstractor.use_cls_token` is false, expected true"),
        (ABSTRACTOR, "add_v2t_pos_emb", json!(true), "`visual_abstractor.add_v2t_pos_emb` is true, expected false"),
        (ABSTRACTOR, "encoder_hidden_size", json!(64), "`visual_abstractor.encoder_hidden_size` is 64, expected 20"),
        (ABSTRACTOR, "grid_size", json!(9), "`visual_abstractor.grid_size` is 9, expected 4"),
        // Its default is that of 448 px, which this network does not have.
        (ABSTRACTOR, "grid_size", Value::Null, "`visual_abstractor.grid_size` is 32, expected 4"),
    ] {
        let mut changed = file.clone();
        table_of(&mut changed, table).insert(key.to_owned(), value);
        let message = read_config(&changed).expect_err(expected).to_string();
        assert!(message.contains("config.json") && message.contains(expected), "{message}");
    }
}

#[derive(Deserialize)]
struct PreprocessReference {
    images: Vec<PreprocessCase>,
}

#[derive(Deserialize)]
struct PreprocessCase {
    image: String,
}

/// Where an image of the published reference is.
#[track_caller]
pub fn published_image(name: &str) -> Option<PathBuf> {
    match name.strip_suffix(".jpg") {
        Some(_) => shared(&format!("datasets/agiqa-3k/images/{name}")),
        None => shared(&format!("parity/mplug_owl2/images/{name}")),
    }
}

fn decoded(path: &Path) -> RgbImage8 {
    let bytes = std::fs::read(path).expect("an image of the reference");
    decode(&bytes, &DecodeLimits::default()).expect("it decodes").1
}

fn bytes_of(xs: &Tensor) -> Vec<u8> {
    Vec::try_from(xs.contiguous().view(-1)).expect("8-bit values")
}

fn floats_of(xs: &Tensor) -> Vec<f32> {
    Vec::try_from(xs.contiguous().view(-1)).expect("floats")
}

#[test]
fn preprocessing_is_pillows_bit_for_bit() {
    let preprocessing = Preprocessing::read(&reference("mplug_owl2/preprocessor_config.json")).expect("it can be read");
    let stored = Tensor::read_safetensors(reference("preprocess.safetensors")).expect("part of the project");
    let stored: HashMap<String, Tensor> = stored.into_iter().collect();
    let tiny = Tiny::ours();
    let mut n_compared = 0;
    for name in PICTURES {
        let image = decoded(&reference("images").join(name));
        assert!(image.pixels == bytes_of(&stored[&format!("{name}.decoded")]), "{name}: decoded");
        let resized = preprocessing.resized(&image);
        assert!(resized.pixels == bytes_of(&stored[&format!("{name}.pillow")]), "{name}: resized");
        if let Some(expected) = tiny.expected.get(&format!("pixel_values.{name}")) {
            assert_eq!(preprocessing.prepare(&image).values, floats_of(expected), "{name}: values");
            n_compared += 1;
        }
    }
    assert_eq!(n_compared, 4);
}

#[test]
fn preprocessing_is_the_published_one_bit_for_bit() {
    let Some(folder) = shared("parity/mplug_owl2") else { return };
    let preprocessing = Preprocessing::read(&folder.join("preprocessor_config.json")).expect("it can be read");
    let stored: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder.join("preprocess.safetensors")).expect("it can be read").into_iter().collect();
    let text = std::fs::read_to_string(folder.join("preprocess.json")).expect("part of the reference");
    let reference: PreprocessReference = serde_json::from_str(&text).expect("cases");
    assert_eq!(reference.images.len(), 6);
    for case in reference.images {
        let name = case.image.rsplit('/').next().expect("a name");
        let Some(path) = published_image(name) else { return };
        let image = decoded(&path);
        let resized = preprocessing.resized(&image);
        assert!(resized.pixels == bytes_of(&stored[&format!("resized_u8.{name}")]), "{name}: resized");
        let input = preprocessing.prepare(&image).values;
        let values = Tensor::from_slice(&input).view([3, 448, 448]);
        let grid = values.slice(1, 14, 448, 28).slice(2, 14, 448, 28);
        assert_eq!(floats_of(&grid), floats_of(&stored[&format!("grid16.{name}")]), "{name}: grid");
        if let Some(all) = stored.get(&format!("pixel_values.{name}")) {
            assert_eq!(input, floats_of(all), "{name}: values");
        }
    }
}

/// A small model, its images and what it makes of them.
pub struct Tiny {
    /// The model, as its users have it.
    pub folder: PathBuf,
    /// Names of its images.
    pub images: [&'static str; 4],
    config: Config,
    ids: Vec<PromptIds>,
    expected: HashMap<String, Tensor>,
    /// Where `folder` is, if it is made for a test.
    _made: Option<tempfile::TempDir>,
}

/// Seed of our model's weights.
const SEED: u64 = 34;

/// Writes our small model as its users have it, its tensors as `files`.
pub fn write_weights(folder: &Path, files: &[&str]) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    let small = ["config.json", "preprocessor_config.json", "tokenizer.model"];
    for file in small.iter().chain(files) {
        if *file == SAFETENSORS {
            let config = Config::read(&reference("mplug_owl2/config.json")).expect("it can be read");
            let rule = Invented { dtype: Float::F32, seed: SEED, ..Invented::default() };
            rule.write_shard(&tensors(&config), &folder.join(file)).expect("it can be written");
        } else {
            let bytes = std::fs::read(reference("mplug_owl2").join(file)).expect("part of the project");
            std::fs::write(folder.join(file), bytes).expect("it can be written");
        }
    }
}

impl Tiny {
    /// Ours: its weights follow from their names, and `tests/reference/mplug_owl2.py` computed what is expected.
    pub fn ours() -> Self {
        let made = tempfile::tempdir().expect("a temporary folder can be made");
        write_weights(made.path(), &[SAFETENSORS, SHARDS, BIN[0], BIN[1]]);
        let images = ["wide.png", "alpha.png", "grey.png", "halved_colour.jpg"];
        let expected = reference("mplug_owl2/expected.safetensors");
        let read = Self::read(made.path().to_owned(), made.path(), &expected, images);
        Self { _made: Some(made), ..read }
    }

    /// That of the published code, where the reference material is.
    #[track_caller]
    pub fn published() -> Option<Self> {
        let images = ["DALLE2_normal_007.jpg", "AttnGAN_normal_012.jpg", "rect_640x360.png", "rgba_200x333.png"];
        let folder = shared("parity/mplug_owl2/tiny")?;
        let expected = folder.join("expected.safetensors");
        Some(Self::read(folder, &shared("parity/mplug_owl2")?, &expected, images))
    }

    fn read(folder: PathBuf, tokenizer: &Path, expected: &Path, images: [&'static str; 4]) -> Self {
        let tokenizer = Tokenizer::find(tokenizer).expect("it can be read");
        let expected = Tensor::read_safetensors(expected).expect("it can be read");
        Self {
            config: Config::read(&folder.join("config.json")).expect("it can be read"),
            ids: Prompt::of_the_paper().iter().map(|prompt| PromptIds::of(prompt, &tokenizer)).collect(),
            expected: expected.into_iter().collect(),
            images,
            folder,
            _made: None,
        }
    }

    fn network(&self, file: &str, kind: Kind) -> MplugOwl2 {
        let checkpoint = Checkpoint::open(&self.folder.join(file)).expect("it can be read");
        MplugOwl2::new(&checkpoint, &self.config, &self.ids, Device::Cpu, kind).expect("it fits")
    }

    fn pixels(&self, images: &[&str]) -> Tensor {
        let of = |name: &&str| self.expected[&format!("pixel_values.{name}")].shallow_clone();
        Tensor::stack(&images.iter().map(of).collect::<Vec<_>>(), 0)
    }

    /// Positions of a prompt's sequence.
    pub fn n_tokens(&self, prompt: &str) -> i64 {
        self.expected[&format!("hidden.{}.{prompt}", self.images[0])].size()[0]
    }

    #[track_caller]
    pub fn check(&self, key: &str, found: &Tensor, tolerance: f64) {
        let error = max_error(found, &self.expected[key]);
        assert!(error < tolerance, "{key}: {error:e}, tolerance {tolerance:e}");
    }

    /// Compares where there is something to compare with, and counts it.
    #[track_caller]
    fn check_kept(&self, key: &str, found: &Tensor, tolerance: f64, n_compared: &mut usize) {
        if self.expected.contains_key(key) {
            self.check(key, found, tolerance);
            *n_compared += 1;
        }
    }
}

fn max_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[])
}

pub const SAFETENSORS: &str = "model.safetensors";
pub const SHARDS: &str = "pytorch_model.bin.index.json";
pub const BIN: [&str; 2] = ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"];

#[test]
fn every_stage_agrees_with_pytorch_in_f32_alone_and_in_batches() {
    // Hidden states are kept of one image, which is in four of the batches' places.
    assert_eq!(compare_every_stage(&Tiny::ours()), 8);
}

#[test]
fn every_stage_agrees_with_the_published_code_in_f32_alone_and_in_batches() {
    let Some(tiny) = Tiny::published() else { return };
    assert_eq!(compare_every_stage(&tiny), 56);
}

/// Compares every stage, in batches of one, two and eight; returns how many of those that are not kept of every image.
///
/// Tolerances are about ten times what two orders of evaluation in f32 differ.
fn compare_every_stage(tiny: &Tiny) -> usize {
    let network = tiny.network(SAFETENSORS, Kind::Float);
    let four = &tiny.images[..];
    let eight = [four, four].concat();
    let mut n = 0;
    for images in [&four[..1], &four[1..2], &four[..2], &four[2..], &eight] {
        let pixels = tiny.pixels(images);
        let vision = network.vision_tokens(&pixels);
        let visual = network.see(&pixels);
        let (read, embedded) = (network.read(&visual), network.embed(&pixels));
        for (i, name) in images.iter().enumerate() {
            let of_image = |xs: &Tensor| xs.get(i as i64);
            tiny.check(&format!("vision.{name}.first4"), &of_image(&vision).narrow(0, 0, 4), 3e-5);
            tiny.check(&format!("abstractor.{name}"), &of_image(&visual), 3e-5);
            for (prompt_idx, prompt) in NAMES.iter().enumerate() {
                // The positions of the text before the image are in the embedding alone.
                let hidden = read.get((prompt_idx * images.len() + i) as i64);
                let whole = tiny.expected.get(&format!("hidden.{name}.{prompt}"));
                if let Some(whole) = whole {
                    let (n_whole, n_read) = (whole.size()[0], hidden.size()[0]);
                    let error = max_error(&hidden, &whole.narrow(0, n_whole - n_read, n_read));
                    assert!(error < 5e-5, "{name}, {prompt}: hidden states {error:e}");
                    n += 1;
                }
                let embedded = of_image(&embedded[prompt_idx]);
                tiny.check(&format!("embed.{name}.{prompt}"), &embedded, 5e-6);
                tiny.check_kept(&format!("embed_f64.{name}.{prompt}"), &embedded, 5e-6, &mut n);
            }
        }
    }
    let all = network.vision_tokens(&tiny.pixels(&four[..1]));
    tiny.check(&format!("debug.vision_all.{}", four[0]), &all.get(0), 3e-5);
    n
}

#[test]
fn sharded_pickles_give_the_reference_of_their_rounded_weights() {
    compare_rounded(&Tiny::ours());
}

#[test]
fn the_sharded_pickles_give_the_published_reference_of_their_rounded_weights() {
    let Some(tiny) = Tiny::published() else { return };
    compare_rounded(&tiny);
}

fn compare_rounded(tiny: &Tiny) {
    let network = tiny.network(SHARDS, Kind::Float);
    let four = &tiny.images[..];
    let eight = [four, four].concat();
    for images in [&four[..1], &four[..2], &eight] {
        let pixels = tiny.pixels(images);
        let (vision, visual, embedded) = (network.vision_tokens(&pixels), network.see(&pixels), network.embed(&pixels));
        for (i, name) in images.iter().enumerate() {
            let of_image = |xs: &Tensor| xs.get(i as i64);
            // The reference has these stages for the weights before rounding, which changes the embedding by 1e-3.
            tiny.check(&format!("vision.{name}.first4"), &of_image(&vision).narrow(0, 0, 4), 1e-2);
            tiny.check(&format!("abstractor.{name}"), &of_image(&visual), 1e-2);
            for (prompt_idx, prompt) in NAMES.iter().enumerate() {
                tiny.check(&format!("embed_bin.{name}.{prompt}"), &of_image(&embedded[prompt_idx]), 5e-6);
            }
        }
    }
}

#[test]
fn bf16_stays_within_two_percent() {
    let tiny = Tiny::ours();
    let network = tiny.network(SAFETENSORS, Kind::BFloat16);
    let embedded = network.embed(&tiny.pixels(&tiny.images));
    for (i, name) in tiny.images.iter().enumerate() {
        for (embedded, prompt) in embedded.iter().zip(NAMES) {
            let expected = &tiny.expected[&format!("embed.{name}.{prompt}")];
            let error = (embedded.get(i as i64) - expected).norm() / expected.norm();
            let error = error.double_value(&[]);
            assert!(error < 0.02, "{name}, {prompt}: {error}");
        }
    }
}

#[test]
fn an_embedding_does_not_depend_on_its_batch_or_its_place_in_it() {
    batches_change_no_bit(&Tiny::ours());
}

#[test]
fn an_embedding_of_the_published_reference_does_not_depend_on_its_batch_or_its_place_in_it() {
    let Some(tiny) = Tiny::published() else { return };
    batches_change_no_bit(&tiny);
}

fn batches_change_no_bit(tiny: &Tiny) {
    for kind in [Kind::Float, Kind::BFloat16] {
        let network = tiny.network(SAFETENSORS, kind);
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2], [2, 3, 3, 3]];
        let mut seen: HashMap<(usize, usize), Vec<f32>> = HashMap::new();
        for order in orders {
            let embedded = network.embed(&tiny.pixels(&order.map(|i| tiny.images[i])));
            for (place, image) in order.into_iter().enumerate() {
                for (prompt, embedded) in embedded.iter().enumerate() {
                    let found = floats_of(&embedded.get(place as i64));
                    let first = seen.entry((image, prompt)).or_insert_with(|| found.clone());
                    assert!(*first == found, "{kind:?}, {}, prompt {prompt}, {order:?}", tiny.images[image]);
                }
            }
        }
        // The same bits where the rest of the batch is padding that nobody looks at.
        let first_two = network.embed_first(&tiny.pixels(&[2, 0, 1, 1].map(|i| tiny.images[i])), 2);
        for (prompt, embedded) in first_two.iter().enumerate() {
            assert_eq!(embedded.size()[0], 2);
            for (place, image) in [2, 0].into_iter().enumerate() {
                assert!(floats_of(&embedded.get(place as i64)) == seen[&(image, prompt)], "{kind:?}, prompt {prompt}");
            }
        }
    }
}

#[test]
fn an_invented_checkpoint_follows_the_rule_of_the_reference() {
    compare_invented(&Tiny::ours(), SHARDS, Float::F16, SEED);
}

#[test]
fn an_invented_checkpoint_follows_the_rule_of_the_published_reference() {
    let Some(tiny) = Tiny::published() else { return };
    compare_invented(&tiny, SAFETENSORS, Float::F32, 20);
}

/// Compares an invented checkpoint, in shards, with the file `expected`.
fn compare_invented(tiny: &Tiny, expected: &str, dtype: Float, seed: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let rule = Invented { dtype, seed, shard_bytes: 1 << 13 };
    rule.write(tensors(&tiny.config), dir.path()).expect("it can be written");
    let (written, expected) = (
        Checkpoint::open(dir.path()).expect("it can be read"),
        Checkpoint::open(&tiny.folder.join(expected)).expect("it can be read"),
    );
    assert!(written.files().count() > 5, "in shards");
    let wanted = tensors(&tiny.config);
    // The shards of the published form have a buffer per layer besides.
    let named = expected.names().filter(|name| !name.ends_with("inv_freq"));
    assert!(wanted.iter().map(|(name, _)| name.as_str()).collect::<std::collections::BTreeSet<_>>() == named.collect());
    for (name, _) in wanted {
        assert!(written.bytes(&name).expect("there") == expected.bytes(&name).expect("there"), "{name}");
    }
}
