//! `agiqa embed --extractor mplug-owl2`: the published embeddings, and what happens where something is wrong.

use std::path::Path;

use agiqa_nets::checkpoint::Checkpoint;
use agiqa_store::identity::ImageId;
use agiqa_store::tables::features::{FeatureSet, SEMANTIC};
use agiqa_store::tables::rejects;
use tch::Tensor;

use crate::features::picture;
use crate::mplug_owl2::{BIN, NAMES, SAFETENSORS, SHARDS, Tiny, published_image, write_weights};
use crate::testdir::{Ran, TestDir, reference, shared};

/// A folder `weights` with our small model as a user would have it, `files` being its tensors.
fn weights(dir: &TestDir, files: &[&str]) {
    write_weights(&dir.path().join("weights"), files);
}

/// The files of the sharded form.
const PICKLES: [&str; 3] = [SHARDS, BIN[0], BIN[1]];

fn embed(dir: &TestDir, more: &[&str]) -> Ran {
    let args = ["embed", "--extractor", "mplug-owl2", "--weights", "weights", "--images", "images", "--store", "store"];
    let rest = ["--device", "cpu", "--threads", "1"];
    dir.agiqa(&args.into_iter().chain(rest).chain(more.iter().copied()).collect::<Vec<_>>())
}

/// Verifies what is in the folder `weights`.
fn verify(dir: &TestDir, more: &[&str]) -> Ran {
    let args = ["weights", "verify", "mplug-owl2", "--weights", "weights"];
    dir.agiqa(&args.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
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
fn the_command_writes_the_embeddings_of_the_reference_from_either_format() {
    let tiny = Tiny::ours();
    for (files, key) in [(&[SAFETENSORS][..], "embed"), (&PICKLES, "embed_bin")] {
        let dir = TestDir::new();
        weights(&dir, files);
        for name in tiny.images {
            let bytes = std::fs::read(reference("images").join(name)).expect("part of the project");
            dir.write(&format!("images/{name}"), bytes);
        }
        compare_embeddings(&dir, &tiny, key, 24);
    }
}

#[test]
fn the_command_writes_the_published_embeddings_from_either_format() {
    let (Some(tiny), Some(folder)) = (Tiny::published(), shared("parity/mplug_owl2")) else { return };
    for (files, key) in [(&[SAFETENSORS][..], "embed"), (&PICKLES, "embed_bin")] {
        let dir = TestDir::new();
        let put = |from: &Path, to: &str| {
            let name = from.file_name().expect("a file").to_str().expect("text");
            dir.write(&format!("{to}/{name}"), std::fs::read(from).expect("part of the reference"));
        };
        put(&folder.join("tokenizer.model"), "weights");
        for file in ["config.json", "preprocessor_config.json"].iter().chain(files) {
            put(&tiny.folder.join(file), "weights");
        }
        for name in tiny.images {
            let Some(path) = published_image(name) else { return };
            put(&path, "images");
        }
        compare_embeddings(&dir, &tiny, key, 64);
    }
}

/// Embeds the images in `dir` and compares with what `tiny` expects under `key`; an embedding has `dim` values.
fn compare_embeddings(dir: &TestDir, tiny: &Tiny, key: &str, dim: usize) {
    embed(dir, &[]).exits(0).says("4 of 4 images have features");
    let set = sets(dir).pop().expect("one set");
    let columns: Vec<(&str, usize)> = set.columns.iter().map(|column| (column.name.as_str(), column.dim)).collect();
    assert_eq!(columns, [("f_a", dim), ("f_b", dim)]);
    assert_eq!(set.kind.part_kind().table, SEMANTIC.table);
    assert_eq!(set.settings["prompts"][0]["n_tokens"], tiny.n_tokens(NAMES[0]));
    let store = dir.store();
    for name in tiny.images {
        let bytes = std::fs::read(dir.path().join("images").join(name)).expect("it was written");
        let id = ImageId::of_bytes(&bytes);
        let found = set.read(&store, &[id]).expect("it can be read");
        for (matrix, prompt) in found.matrices.iter().zip(NAMES) {
            tiny.check(&format!("{key}.{name}.{prompt}"), &Tensor::from_slice(matrix), 5e-6);
        }
    }
    embed(dir, &[]).exits(0).says("skipped");
}

#[test]
fn other_prompts_dtypes_and_weights_are_other_features_and_batches_are_not() {
    let dir = TestDir::new();
    weights(&dir, &[SAFETENSORS]);
    dir.write("images/a.png", picture(1));
    embed(&dir, &[]).exits(0).says("1 of 1 images have features");
    embed(&dir, &["--batch-size", "3"]).exits(0).says("skipped");
    let one = ["--prompt", "sharp=Is it sharp?"];
    embed(&dir, &one).exits(0).says("1 of 1 images have features");
    embed(&dir, &[one[0], one[1], "--prompt", "f_b=Is it art?"]).exits(0).says("1 of 1 images have features");
    if agiqa::features::cpu_has_bf16() {
        embed(&dir, &["--dtype", "bf16"]).exits(0).says("1 of 1 images have features");
    }
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
    weights(&dir, &PICKLES);
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
        &changed("\"num_key_value_heads\": 3", "\"num_key_value_heads\": 2"),
        "`num_key_value_heads` is 2",
    );
    with("config.json", &changed("\"mplug_owl2\"", "\"llava\""), "`model_type` is \"llava\", expected \"mplug_owl2\"");
    with("config.json", &changed("\"vocab_size\": 420", "\"vocab_size\": 421"), "belong to different checkpoints");
    with(
        "config.json",
        &changed("\"intermediate_size\": 40", "\"intermediate_size\": 41"),
        "expected [41, 24] found [40, 24]",
    );
    with("config.json", b"{", "config.json");
    with("tokenizer.model", b"", "it is not a LLaMA tokenizer");
    let shard = read(BIN[1]);
    with(BIN[1], &shard[..shard.len() / 2], "it is cut short");
    let index = String::from_utf8(read(SHARDS)).expect("text");
    with(SHARDS, index.replacen(BIN[1], "../elsewhere.bin", 1).as_bytes(), "not a file of its own folder");
    std::fs::remove_file(file(BIN[0])).expect("it is there");
    embed(&dir, &[]).exits(2).says("shard `pytorch_model-1-of-2.bin`").says("is not in the folder");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = TestDir::new();
    weights(&dir, &[SAFETENSORS]);
    dir.write("images/a.png", picture(1));
    embed(&dir, &["--side", "224"]).exits(2).says("unknown key `side` in `extractor.mplug-owl2`");
    embed(&dir, &["--dtype", "f16"]).exits(2).says("f16 is computed on CUDA devices only");
    embed(&dir, &["--prompt", "F A=x"]).exits(2).says("expected a column name");
    embed(&dir, &["--prompt", "a=x", "--prompt", "a=y"]).exits(2).says("duplicate column");
    embed(&dir, &["--prompt", "a=<|image|>"]).exits(2).says("without `<|image|>`");
    let extract =
        ["extract", "--extractor", "mplug-owl2", "--weights", "weights", "--images", "images", "--store", "s"];
    dir.agiqa(&extract).exits(2).says("fills `semantic` only");
}

#[test]
fn a_value_that_is_not_finite_rejects_the_image() {
    let dir = TestDir::new();
    weights(&dir, &[SAFETENSORS]);
    // The end token is part of every sequence; its values are the last ones by name, and NaN spreads.
    let checkpoint = Checkpoint::open(&dir.path().join("weights").join(SAFETENSORS)).expect("it can be read");
    let eos = checkpoint.bytes("model.visual_abstractor.vit_eos").expect("there");
    let path = dir.path().join("weights").join(SAFETENSORS);
    let mut bytes = std::fs::read(&path).expect("it was written");
    let at = bytes.windows(eos.len()).position(|window| window == eos).expect("stored as it is");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).expect("it can be written");
    dir.write("images/a.png", picture(1));
    dir.write("images/b.png", picture(2));
    embed(&dir, &[]).exits(1).says("0 of 2 images have features, 2 rejected");
    let store = dir.store();
    let mut rejected = rejects::read(&store, "features").expect("rejects can be read");
    rejected.sort_by_key(|row| row.path.clone());
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    for (row, (name, seed)) in rejected.iter().zip([("a.png", 1), ("b.png", 2)]) {
        assert_eq!((row.kind.as_str(), row.image_id), ("non-finite", Some(ImageId::of_bytes(&picture(seed)))));
        assert!(row.path.as_ref().is_some_and(|path| path.ends_with(name)), "{row:?}");
        assert!([name, "`f_a`", "not finite"].iter().all(|part| row.message.contains(part)), "{row:?}");
    }
}

#[test]
fn a_checkpoint_of_integers_is_refused_by_name_shape_and_type() {
    let dir = TestDir::new();
    weights(&dir, &[SAFETENSORS]);
    let path = dir.path().join("weights").join(SAFETENSORS);
    let mut bytes = std::fs::read(&path).expect("it was written");
    let before = br#""model.embed_tokens.weight":{"dtype":""#;
    let at = bytes.windows(before.len()).position(|window| window == before).expect("it is in the header");
    // As wide as floats of 32 bits, so that the header is right but for the type.
    bytes[at + before.len()] = b'I';
    std::fs::write(&path, bytes).expect("it can be written");
    dir.write("images/a.png", picture(1));
    let found = "`model.embed_tokens.weight` expected [420, 24] found [420, 24] (I32)";
    embed(&dir, &[]).exits(2).says("1 tensors are not floating-point numbers").says(found);
    verify(&dir, &[]).exits(1).prints("damaged").says(found);
}

#[test]
fn verifying_finds_a_byte_that_changed_by_the_sums_in_the_file() {
    let dir = TestDir::new();
    weights(&dir, &PICKLES);
    verify(&dir, &[]).exits(0).prints("present");
    let path = dir.path().join("weights").join(BIN[0]);
    let values = Checkpoint::open(&path).expect("it can be read").bytes("model.layers.0.self_attn.q_proj.weight");
    let values = values.expect("there");
    let mut bytes = std::fs::read(&path).expect("it was written");
    let at = bytes.windows(values.len()).position(|window| window == values).expect("stored as it is");
    bytes[at + values.len() / 2] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let ran = verify(&dir, &[]).exits(1).prints("damaged");
    let ran = ran.says("pytorch_model-1-of-2.bin: member `pytorch_model-1-of-2/data/").says("expected CRC-32 ");
    assert!(!ran.stderr.contains(BIN[1]), "{}", ran.stderr);
    // Also where the file has been hashed as it is now, and its stamp says so.
    dir.write("images/a.png", picture(1));
    embed(&dir, &[]).exits(0);
    verify(&dir, &["--json"]).exits(1).prints("\"state\":\"damaged\"").says("expected CRC-32 ");
}

#[test]
fn verifying_hashes_a_file_in_full_though_its_stamp_fits_its_size_and_time() {
    let dir = TestDir::new();
    weights(&dir, &[SAFETENSORS]);
    verify(&dir, &[]).exits(0).prints("present");
    let path = dir.path().join("weights").join(SAFETENSORS);
    let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("it was written");
    let mut bytes = std::fs::read(&path).expect("it was written");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let file = std::fs::File::options().write(true).open(&path).expect("it is there");
    file.set_modified(modified).expect("its time can be set");
    for _ in 0..2 {
        verify(&dir, &[])
            .exits(1)
            .prints("damaged")
            .says("model.safetensors: expected BLAKE3 ")
            .says("although size and time of modification are the same: the file is damaged; get it again");
    }
}

#[test]
fn verifying_a_folder_of_ones_own_takes_one_name_of_weights_that_are_placed_by_hand() {
    let dir = TestDir::new();
    let cases: [&[&str]; 3] = [&[], &["dinov2-s14"], &["mplug-owl2", "niqe"]];
    for names in cases {
        let args = ["weights", "verify", "--weights", "weights"];
        dir.agiqa(&args.into_iter().chain(names.iter().copied()).collect::<Vec<_>>())
            .exits(2)
            .says("name them alone, e.g. `agiqa weights verify mplug-owl2 --weights DIR`");
    }
    verify(&dir, &[]).exits(1).prints("absent").says("the folder weights is absent");
}

#[test]
fn a_download_that_was_interrupted_is_neither_present_nor_used() {
    let dir = TestDir::new();
    dir.write("images/a.png", picture(1));
    let agiqa = |args: &[&str]| {
        dir.agiqa_with(args, |command| {
            command.env("AGIQA_WEIGHTS", dir.path().join("placed"));
        })
    };
    let is_refused = |message: &str| {
        let listed = agiqa(&["weights", "list"]).exits(0).stdout;
        assert!(listed.lines().any(|line| line.starts_with("mplug-owl2 ") && line.contains(" damaged")), "{listed}");
        for command in [
            &["weights", "fetch", "mplug-owl2"][..],
            &["embed", "--extractor", "mplug-owl2", "--images", "images", "--store", "store"],
        ] {
            agiqa(command).exits(2).says(message).says("huggingface-cli download MAGAer13/mplug-owl2-llama2-7b");
        }
    };
    // In the order of a download that takes small files first.
    dir.write("placed/mplug-owl2/config.json", "{}");
    is_refused("preprocessor_config.json is absent");
    dir.write("placed/mplug-owl2/preprocessor_config.json", "{}");
    is_refused("placed/mplug-owl2 holds neither tokenizer.model nor tokenizer.json");
    dir.write("placed/mplug-owl2/tokenizer.model", "");
    is_refused("holds no checkpoint; looked for model.safetensors");
    let index = r#"{"weight_map":{"a":"pytorch_model-1-of-33.bin","b":"pytorch_model-2-of-33.bin"}}"#;
    dir.write("placed/mplug-owl2/pytorch_model.bin.index.json", index);
    dir.write("placed/mplug-owl2/pytorch_model-1-of-33.bin", "");
    is_refused("shard `pytorch_model-2-of-33.bin` (1 of its 2 tensors) is not in the folder");
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
    weights(&dir, &PICKLES);
    std::fs::create_dir(dir.path().join("placed")).expect("a folder can be made");
    std::fs::rename(dir.path().join("weights"), dir.path().join("placed/mplug-owl2")).expect("it can be moved");
    agiqa(&["weights", "verify", "mplug-owl2"], "placed").exits(0).prints("present");
    std::fs::write(dir.path().join("placed/mplug-owl2/pytorch_model-1-of-2.bin"), b"PK").expect("it can be written");
    agiqa(&["weights", "verify", "mplug-owl2"], "placed").exits(1).prints("damaged").says("pytorch_model-1-of-2.bin");
}

#[test]
fn the_papers_pipelines_say_what_is_missing() {
    let dir = TestDir::new();
    for pipeline in ["agiqa-3k-paper", "aigcqa-20k"] {
        let path = format!("{}/pipelines/{pipeline}.toml", env!("CARGO_MANIFEST_DIR"));
        let args = ["run", &path, "--dry-run", "--set", "root=nowhere", "--store", "store"];
        let ran = dir.agiqa_with(&args, |command| {
            command.env("AGIQA_WEIGHTS", dir.path().join("none"));
        });
        ran.exits(2).says("extractor.mplug-owl2").says("MAGAer13/mplug-owl2-llama2-7b").says("16 GB");
    }
}

#[test]
fn the_papers_pipelines_plan_every_stage_where_the_weights_are() {
    let dir = crate::experiments::datasets();
    weights(&dir, &[SAFETENSORS]);
    let maniqa = crate::maniqa::write_weights(&dir, "maniqa");
    let mplug_owl2 = format!("extractor.mplug-owl2.weights={}", dir.path().join("weights").display());
    let maniqa = format!("extractor.maniqa.weights={}", maniqa.display());
    for (pipeline, root) in [("agiqa-3k-paper", "root=3k"), ("aigcqa-20k", "root=20k")] {
        let path = format!("{}/pipelines/{pipeline}.toml", env!("CARGO_MANIFEST_DIR"));
        let mut args = vec!["run", &path, "--dry-run", "--store", "store"];
        for set in [root, &mplug_owl2, "extractor.mplug-owl2.dtype=f32", &maniqa] {
            args.extend(["--set", set]);
        }
        let ran = dir.agiqa(&args).exits(0).prints("run    ingest a");
        for stage in ["features mplug-owl2", "features maniqa", "split", "train", "predict", "evaluate"] {
            assert!(ran.stdout.contains(&format!("after  {stage}")), "{stage}: {}", ran.stdout);
        }
        assert!(!ran.stdout.contains("fails"), "{}", ran.stdout);
    }
    assert!(!dir.path().join("store").exists(), "nothing is changed");
}

/// The rest of the pipeline works on them as on any other features, to the paper's table.
#[test]
fn a_table_of_the_paper_runs_on_mplug_owl2_and_maniqa() {
    let dir = crate::experiments::datasets();
    weights(&dir, &[SAFETENSORS]);
    let maniqa = crate::maniqa::write_weights(&dir, "maniqa");
    let path = format!("{}/pipelines/table5-moe.toml", env!("CARGO_MANIFEST_DIR"));
    let maniqa = format!("extractor.maniqa.weights={}", maniqa.display());
    let sets = ["root=3k", "features=mplug-owl2+maniqa", "extractor.mplug-owl2.weights=weights", &maniqa];
    let small = ["extractor.mplug-owl2.dtype=f32", "train.epochs=3", "train.width=8", "split.seeds=[0, 1]"];
    let mut args = vec!["run", &path, "--store", "store"];
    sets.iter().chain(&small).for_each(|set| args.extend(["--set", set]));
    let ran = dir.agiqa(&args).exits(0).says("2 runs trained").prints("mplug-owl2@").prints("maniqa@");
    // The tiny networks' sizes are not the paper's.
    let ran = ran.prints("(f_1); not the paper's features").prints("gated (2 runs)").prints("0.8939");
    assert!(!ran.stdout.contains("NaN"), "{}", ran.stdout);
    let again = dir.agiqa(&args).exits(0).says("skipped: the table of 2 variants is up to date");
    assert!(!again.stderr.contains(": ran: "), "{}", again.stderr);
}
