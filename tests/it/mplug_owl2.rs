//! mPLUG-Owl2 agrees with the published extraction, stage by stage; and `agiqa embed` with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use agiqa::images::{DecodeLimits, RgbImage8, decode};
use agiqa::models::checkpoint::{Checkpoint, Dtype};
use agiqa::models::mplug_owl2::synthetic::Synthetic;
use agiqa::models::mplug_owl2::{Config, Frontend, MplugOwl2, Preprocessing, Prompt, PromptIds, Tokenizer, tensors};
use agiqa::store::{OpenMode, Store};
use agiqa::tables::features::{FeatureSet, SEMANTIC};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::features::picture;
use crate::testdir::{Ran, TestDir, shared};

/// Images of the tiny model's expected values.
const IMAGES: [&str; 4] = ["DALLE2_normal_007.jpg", "AttnGAN_normal_012.jpg", "rect_640x360.png", "rgba_200x333.png"];

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
const NAMES: [&str; 2] = ["semantic_content", "coherence"];

#[test]
fn both_tokenizer_files_give_the_ids_of_the_reference() {
    let Some(folder) = shared("parity/mplug_owl2") else { return };
    let reference = prompts_of(&folder);
    assert_eq!(reference.tokenizer_cases.len(), 30);
    for tokenizer in [
        Tokenizer::read_sentencepiece(&folder.join("tokenizer.model")).expect("it can be read"),
        Tokenizer::read_json(&folder.join("tokenizer.json")).expect("it can be read"),
    ] {
        assert_eq!(tokenizer.n_tokens(), 32000);
        for case in &reference.tokenizer_cases {
            assert_eq!(tokenizer.encode(&case.text), case.input_ids, "{:?}", case.text);
        }
        for (prompt, name) in Prompt::of_the_paper().iter().zip(NAMES) {
            let case = reference.prompts.iter().find(|case| case.name == name).expect("a prompt of the paper");
            assert_eq!(prompt.text(), case.prompt);
            let ids = PromptIds::of(prompt, &tokenizer);
            assert_eq!([&ids.before[..], &[-200], &ids.after].concat(), case.input_ids);
            assert_eq!((ids.before.len() + ids.after.len()) as i64 + 65, case.sequence_length);
        }
    }
}

#[test]
fn a_file_that_is_no_llama_tokenizer_is_refused() {
    let dir = TestDir::new();
    let error = |name: &str, text: &str| {
        let path = dir.write(name, text);
        let read =
            if name.ends_with("json") { Tokenizer::read_json(&path) } else { Tokenizer::read_sentencepiece(&path) };
        read.expect_err("refused").to_string()
    };
    assert!(error("tokenizer.model", "text").contains("it is no sentencepiece model"));
    assert!(error("tokenizer.model", "").contains("it is no LLaMA tokenizer: expected model_type BPE"));
    assert!(error("tokenizer.json", "{}").contains("it is no tokenizer"));
    let message = Tokenizer::find(&dir.path().join("nowhere")).expect_err("absent").to_string();
    assert!(message.contains("holds neither tokenizer.model nor tokenizer.json"), "{message}");
}

#[derive(Deserialize)]
struct PreprocessReference {
    images: Vec<PreprocessCase>,
}

#[derive(Deserialize)]
struct PreprocessCase {
    image: String,
}

/// Where an image of the reference is.
fn image_path(name: &str) -> Option<PathBuf> {
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
fn preprocessing_is_that_of_the_reference_bit_for_bit() {
    let Some(folder) = shared("parity/mplug_owl2") else { return };
    let preprocessing = Preprocessing::read(&folder.join("preprocessor_config.json")).expect("it can be read");
    let stored: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder.join("preprocess.safetensors")).expect("it can be read").into_iter().collect();
    let text = std::fs::read_to_string(folder.join("preprocess.json")).expect("part of the reference");
    let reference: PreprocessReference = serde_json::from_str(&text).expect("cases");
    assert_eq!(reference.images.len(), 6);
    for case in reference.images {
        let name = case.image.rsplit('/').next().expect("a name");
        let Some(path) = image_path(name) else { return };
        let image = decoded(&path);
        let resized = preprocessing.resized(&image);
        assert!(resized.pixels == bytes_of(&stored[&format!("resized_u8.{name}")]), "{name}: resized");
        let mut input = vec![0.0; 3 * 448 * 448];
        preprocessing.prepare(&image, &mut input);
        let values = Tensor::from_slice(&input).view([3, 448, 448]);
        let grid = values.slice(1, 14, 448, 28).slice(2, 14, 448, 28);
        assert_eq!(floats_of(&grid), floats_of(&stored[&format!("grid16.{name}")]), "{name}: grid");
        if let Some(all) = stored.get(&format!("pixel_values.{name}")) {
            assert_eq!(input, floats_of(all), "{name}: values");
        }
    }
}

/// The tiny model of the reference and what it gives.
struct Tiny {
    folder: PathBuf,
    config: Config,
    ids: Vec<PromptIds>,
    expected: HashMap<String, Tensor>,
}

impl Tiny {
    fn read() -> Option<Self> {
        let folder = shared("parity/mplug_owl2/tiny")?;
        let tokenizer = Tokenizer::find(&shared("parity/mplug_owl2")?).expect("it can be read");
        let expected = Tensor::read_safetensors(folder.join("expected.safetensors")).expect("it can be read");
        Some(Self {
            config: Config::read(&folder.join("config.json")).expect("it can be read"),
            ids: Prompt::of_the_paper().iter().map(|prompt| PromptIds::of(prompt, &tokenizer)).collect(),
            expected: expected.into_iter().collect(),
            folder,
        })
    }

    fn network(&self, file: &str, kind: Kind) -> MplugOwl2 {
        let checkpoint = Checkpoint::open(&self.folder.join(file)).expect("it can be read");
        MplugOwl2::new(&checkpoint, &self.config, &self.ids, Device::Cpu, kind).expect("it fits")
    }

    fn pixels(&self, images: &[&str]) -> Tensor {
        let of = |name: &&str| self.expected[&format!("pixel_values.{name}")].shallow_clone();
        Tensor::stack(&images.iter().map(of).collect::<Vec<_>>(), 0)
    }

    #[track_caller]
    fn check(&self, key: &str, found: &Tensor, tolerance: f64) {
        let error = max_error(found, &self.expected[key]);
        assert!(error < tolerance, "{key}: {error:e}, tolerance {tolerance:e}");
    }
}

fn max_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[])
}

const SAFETENSORS: &str = "model.safetensors";
const SHARDS: &str = "pytorch_model.bin.index.json";

#[test]
fn every_stage_agrees_with_the_reference_in_f32_alone_and_in_batches() {
    let Some(tiny) = Tiny::read() else { return };
    let network = tiny.network(SAFETENSORS, Kind::Float);
    let eight: Vec<&str> = IMAGES.iter().chain(&IMAGES).copied().collect();
    for images in [&IMAGES[..1], &IMAGES[1..2], &IMAGES[..2], &IMAGES[2..], &eight] {
        let pixels = tiny.pixels(images);
        let vision = network.vision_tokens(&pixels);
        let visual = network.see(&pixels);
        let embedded = network.embed(&pixels);
        for (i, name) in images.iter().enumerate() {
            let of_image = |xs: &Tensor| xs.get(i as i64);
            tiny.check(&format!("vision.{name}.first4"), &of_image(&vision).narrow(0, 0, 4), 3e-5);
            tiny.check(&format!("abstractor.{name}"), &of_image(&visual), 3e-5);
            for (prompt_idx, prompt) in NAMES.iter().enumerate() {
                let hidden = network.hidden_states(&visual, prompt_idx);
                tiny.check(&format!("hidden.{name}.{prompt}"), &of_image(&hidden), 5e-5);
                tiny.check(&format!("embed.{name}.{prompt}"), &of_image(&embedded[prompt_idx]), 5e-6);
                tiny.check(&format!("embed_f64.{name}.{prompt}"), &of_image(&embedded[prompt_idx]), 5e-6);
            }
        }
    }
    let all = network.vision_tokens(&tiny.pixels(&IMAGES[..1]));
    tiny.check("debug.vision_all.DALLE2_normal_007.jpg", &all.get(0), 3e-5);
    assert_eq!([network.n_positions(0), network.n_positions(1)], [52, 47]);
}

#[test]
fn the_sharded_pickles_give_the_reference_of_their_rounded_weights() {
    let Some(tiny) = Tiny::read() else { return };
    let network = tiny.network(SHARDS, Kind::Float);
    for images in [&IMAGES[..1], &IMAGES[..2]] {
        let embedded = network.embed(&tiny.pixels(images));
        for (i, name) in images.iter().enumerate() {
            for (embedded, prompt) in embedded.iter().zip(NAMES) {
                tiny.check(&format!("embed_bin.{name}.{prompt}"), &embedded.get(i as i64), 5e-6);
            }
        }
    }
}

#[test]
fn leaving_out_what_is_constant_equals_the_plain_forward() {
    let Some(tiny) = Tiny::read() else { return };
    for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 2e-2)] {
        let network = tiny.network(SAFETENSORS, kind);
        let pixels = tiny.pixels(&IMAGES);
        let (embedded, visual) = (network.embed(&pixels), network.see(&pixels));
        for (i, embedded) in embedded.iter().enumerate() {
            let plain = network.hidden_states(&visual, i).mean_dim([1_i64].as_slice(), false, Kind::Float);
            let error = max_error(embedded, &plain);
            assert!(error < tolerance, "{kind:?}, prompt {i}: {error:e}");
        }
    }
}

#[test]
fn bf16_stays_within_two_percent() {
    let Some(tiny) = Tiny::read() else { return };
    let network = tiny.network(SAFETENSORS, Kind::BFloat16);
    let embedded = network.embed(&tiny.pixels(&IMAGES));
    for (i, name) in IMAGES.iter().enumerate() {
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
    let Some(tiny) = Tiny::read() else { return };
    for kind in [Kind::Float, Kind::BFloat16] {
        let network = tiny.network(SAFETENSORS, kind);
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2], [2, 3, 3, 3]];
        let mut seen: HashMap<(usize, usize), Vec<f32>> = HashMap::new();
        for order in orders {
            let embedded = network.embed(&tiny.pixels(&order.map(|i| IMAGES[i])));
            for (place, image) in order.into_iter().enumerate() {
                for (prompt, embedded) in embedded.iter().enumerate() {
                    let found = floats_of(&embedded.get(place as i64));
                    let first = seen.entry((image, prompt)).or_insert_with(|| found.clone());
                    assert!(*first == found, "{kind:?}, {}, prompt {prompt}, {order:?}", IMAGES[image]);
                }
            }
        }
    }
}

#[test]
fn an_invented_checkpoint_follows_the_rule_of_the_reference() {
    let Some(tiny) = Tiny::read() else { return };
    let dir = TestDir::new();
    let rule = Synthetic { dtype: Dtype::F32, seed: 20, shard_bytes: 1 << 16 };
    rule.write(&tiny.config, dir.path()).expect("it can be written");
    let (written, expected) = (
        Checkpoint::open(dir.path()).expect("it can be read"),
        Checkpoint::open(&tiny.folder.join(SAFETENSORS)).expect("it can be read"),
    );
    assert!(written.files().count() > 5, "in shards");
    let wanted = tensors(&tiny.config);
    assert!(
        wanted.iter().map(|(name, _)| name.as_str()).collect::<std::collections::BTreeSet<_>>()
            == expected.names().collect()
    );
    for (name, _) in wanted {
        assert!(written.bytes(&name).expect("there") == expected.bytes(&name).expect("there"), "{name}");
    }
}

/// A folder `weights` with the tiny model as a user would have it, `file` being its tensors.
fn weights(dir: &TestDir, files: &[&str]) -> Option<()> {
    let folder = shared("parity/mplug_owl2")?;
    let put = |from: &Path| {
        let name = from.file_name().expect("a file").to_str().expect("text");
        dir.write(&format!("weights/{name}"), std::fs::read(from).expect("part of the reference"));
    };
    put(&folder.join("tokenizer.model"));
    for file in ["config.json", "preprocessor_config.json"].iter().chain(files) {
        put(&folder.join("tiny").join(file));
    }
    Some(())
}

const BIN: [&str; 3] = [SHARDS, "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"];

fn embed(dir: &TestDir, more: &[&str]) -> Ran {
    let args = ["embed", "--extractor", "mplug-owl2", "--weights", "weights", "--images", "images", "--store", "store"];
    let rest = ["--device", "cpu", "--threads", "1", "--batch-size", "2"];
    dir.agiqa(&args.into_iter().chain(rest).chain(more.iter().copied()).collect::<Vec<_>>())
}

/// The sets in the store, by fingerprint.
fn sets(dir: &TestDir) -> Vec<FeatureSet> {
    let folders = walkdir::WalkDir::new(dir.path().join("store/features")).sort_by_file_name().into_iter().flatten();
    let descriptions = folders.filter(|entry| entry.file_name() == "extractor.json");
    descriptions
        .map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).expect("it is there")).expect("a set"))
        .collect()
}

#[test]
fn the_command_writes_the_published_embeddings_from_either_format() {
    let Some(tiny) = Tiny::read() else { return };
    for (files, key) in [(&[SAFETENSORS][..], "embed"), (&BIN, "embed_bin")] {
        let dir = TestDir::new();
        if weights(&dir, files).is_none() {
            return;
        }
        for name in IMAGES {
            let Some(path) = image_path(name) else { return };
            dir.write(&format!("images/{name}"), std::fs::read(path).expect("an image of the reference"));
        }
        embed(&dir, &[]).exits(0).says("4 of 4 images have features");
        let set = sets(&dir).pop().expect("one set");
        let columns: Vec<(&str, usize)> = set.columns.iter().map(|column| (column.name.as_str(), column.dim)).collect();
        assert_eq!(columns, [("f_a", 64), ("f_b", 64)]);
        assert_eq!(set.kind.part_kind().table, SEMANTIC.table);
        assert_eq!(set.settings["prompts"][0]["n_tokens"], 52);
        let store = Store::open(&dir.path().join("store").display().to_string(), OpenMode::CreateIfMissing);
        let store = store.expect("it was made");
        for name in IMAGES {
            let bytes = std::fs::read(dir.path().join("images").join(name)).expect("it was written");
            let id = agiqa::identity::ImageId::of_bytes(&bytes);
            let found = set.read(&store, &[id]).expect("it can be read");
            for (matrix, prompt) in found.matrices.iter().zip(NAMES) {
                tiny.check(&format!("{key}.{name}.{prompt}"), &Tensor::from_slice(matrix), 5e-6);
            }
        }
        embed(&dir, &[]).exits(0).says("skipped");
    }
}

#[test]
fn other_prompts_dtypes_and_weights_are_other_features_and_batches_are_not() {
    let dir = TestDir::new();
    if weights(&dir, &[SAFETENSORS]).is_none() {
        return;
    }
    dir.write("images/a.png", picture(1));
    embed(&dir, &[]).exits(0).says("1 of 1 images have features");
    embed(&dir, &["--batch-size", "3"]).exits(0).says("skipped");
    let one = ["--prompt", "sharp=Is it sharp?"];
    embed(&dir, &one).exits(0).says("1 of 1 images have features");
    embed(&dir, &[one[0], one[1], "--prompt", "f_b=Is it art?"]).exits(0).says("1 of 1 images have features");
    embed(&dir, &["--dtype", "bf16"]);
    let names = |set: &FeatureSet| set.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let mut found: Vec<Vec<String>> = sets(&dir).iter().map(names).collect();
    found.sort();
    assert!(found.contains(&vec!["sharp".to_owned()]) && found.contains(&vec!["sharp".to_owned(), "f_b".to_owned()]));

    // One value of one tensor, in place.
    let n_sets = sets(&dir).len();
    let path = dir.path().join("weights").join(SAFETENSORS);
    let mut bytes = std::fs::read(&path).expect("it was written");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    embed(&dir, &[]).exits(0).says("1 of 1 images have features");
    assert_eq!(sets(&dir).len(), n_sets + 1);
}

#[test]
fn a_checkpoint_that_is_not_whole_or_another_is_an_error_that_says_what_to_do() {
    let dir = TestDir::new();
    dir.write("images/a.png", picture(1));
    embed(&dir, &[])
        .exits(2)
        .says("the folder weights is absent")
        .says("MAGAer13/mplug-owl2-llama2-7b")
        .says("16 GB")
        .says("pytorch_model-1-of-33.bin")
        .says("agiqa weights verify mplug-owl2");
    if weights(&dir, &BIN).is_none() {
        return;
    }
    let file = |name: &str| dir.path().join("weights").join(name);
    let read = |name: &str| std::fs::read(file(name)).expect("it was written");
    let with = |name: &str, bytes: &[u8], message: &str| {
        let right = read(name);
        std::fs::write(file(name), bytes).expect("it can be written");
        embed(&dir, &[]).exits(2).says(message);
        std::fs::write(file(name), right).expect("it can be written");
    };
    let config = String::from_utf8(read("config.json")).expect("text");
    let changed = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        config.replacen(from, to, 1).into_bytes()
    };
    with(
        "config.json",
        &changed("\"num_key_value_heads\": 4", "\"num_key_value_heads\": 2"),
        "`num_key_value_heads` is 2",
    );
    with("config.json", &changed("\"mplug_owl2\"", "\"llava\""), "`model_type` is \"llava\", expected \"mplug_owl2\"");
    with("config.json", &changed("\"vocab_size\": 32000", "\"vocab_size\": 32001"), "not of one checkpoint");
    with(
        "config.json",
        &changed("\"intermediate_size\": 160", "\"intermediate_size\": 161"),
        "expected [161, 64] found [160, 64]",
    );
    with("config.json", b"{", "config.json");
    with("tokenizer.model", b"", "it is no LLaMA tokenizer");
    let shard = read(BIN[2]);
    with(BIN[2], &shard[..shard.len() / 2], "it is cut short");
    let index = String::from_utf8(read(SHARDS)).expect("text");
    with(SHARDS, index.replacen(BIN[2], "../elsewhere.bin", 1).as_bytes(), "not a file of its own folder");
    std::fs::remove_file(file(BIN[1])).expect("it is there");
    embed(&dir, &[]).exits(2).says("shard `pytorch_model-1-of-2.bin`").says("is not in the folder");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = TestDir::new();
    if weights(&dir, &[SAFETENSORS]).is_none() {
        return;
    }
    dir.write("images/a.png", picture(1));
    embed(&dir, &["--side", "224"]).exits(2).says("are for 112 px");
    embed(&dir, &["--dtype", "f16"]).exits(2).says("f16 is computed on CUDA devices only");
    embed(&dir, &["--prompt", "F A=x"]).exits(2).says("expected a column name");
    embed(&dir, &["--prompt", "a=x", "--prompt", "a=y"]).exits(2).says("the column is there twice");
    embed(&dir, &["--prompt", "a=<|image|>"]).exits(2).says("without `<|image|>`");
    let extract =
        ["extract", "--extractor", "mplug-owl2", "--weights", "weights", "--images", "images", "--store", "s"];
    dir.agiqa(&extract).exits(2).says("fills `semantic` only");
}

#[test]
fn a_value_that_is_not_finite_rejects_the_image() {
    let Some(tiny) = Tiny::read() else { return };
    let dir = TestDir::new();
    if weights(&dir, &[SAFETENSORS]).is_none() {
        return;
    }
    // The end token is part of every sequence; its values are the last ones by name, and NaN spreads.
    let checkpoint = Checkpoint::open(&tiny.folder.join(SAFETENSORS)).expect("it can be read");
    let eos = checkpoint.bytes("model.visual_abstractor.vit_eos").expect("there");
    let path = dir.path().join("weights").join(SAFETENSORS);
    let mut bytes = std::fs::read(&path).expect("it was written");
    let at = bytes.windows(eos.len()).position(|window| window == eos).expect("stored as it is");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).expect("it can be written");
    dir.write("images/a.png", picture(1));
    dir.write("images/b.png", picture(2));
    embed(&dir, &[]).exits(1).says("0 of 2 images have features, 2 rejected");
}

#[test]
fn weights_knows_the_release_and_what_is_in_its_place() {
    let dir = TestDir::new();
    let agiqa = |args: &[&str], folder: &str| {
        dir.agiqa_with(args, |command| {
            command.env("AGIQA_WEIGHTS", dir.path().join(folder));
        })
    };
    agiqa(&["weights", "list"], "none").exits(0).prints("mplug-owl2").prints("16400 MB");
    agiqa(&["weights", "fetch", "mplug-owl2"], "none")
        .exits(2)
        .says("https://huggingface.co/MAGAer13/mplug-owl2-llama2-7b");
    agiqa(&["weights", "verify", "mplug-owl2"], "none").exits(1).says("is absent");
    if weights(&dir, &BIN).is_none() {
        return;
    }
    std::fs::create_dir(dir.path().join("placed")).expect("a folder can be made");
    std::fs::rename(dir.path().join("weights"), dir.path().join("placed/mplug-owl2")).expect("it can be moved");
    agiqa(&["weights", "verify", "mplug-owl2"], "placed").exits(0).prints("present");
    std::fs::write(dir.path().join("placed/mplug-owl2/pytorch_model-1-of-2.bin"), b"PK").expect("it can be written");
    agiqa(&["weights", "verify", "mplug-owl2"], "placed").exits(1).prints("damaged").says("pytorch_model-1-of-2.bin");
}

#[test]
fn the_papers_pipelines_say_what_is_missing() {
    let dir = TestDir::new();
    for pipeline in ["agiqa-3k", "aigcqa-20k"] {
        let path = format!("{}/pipelines/{pipeline}.toml", env!("CARGO_MANIFEST_DIR"));
        let args = ["run", &path, "--dry-run", "--set", "root=nowhere", "--store", "store"];
        let ran = dir.agiqa_with(&args, |command| {
            command.env("AGIQA_WEIGHTS", dir.path().join("none"));
        });
        ran.exits(2).says("extractor.mplug-owl2").says("MAGAer13/mplug-owl2-llama2-7b").says("16 GB");
    }
}
