//! Checkpoint files: what is read of them, and what is refused.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use agiqa_checkpoint::pickle::unpickle;
use agiqa_checkpoint::pytorch::LEAST_PICKLE_MEMORY;
use agiqa_checkpoint::{check_sums, read_file};
use agiqa_nets::checkpoint::{Checkpoint, CheckpointError, StoredDtype};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::features::pictures;
use crate::maniqa::{OURS, write_weights};
use crate::mplug_owl2::Tiny;
use crate::testdir::TestDir;

/// Writes the opcodes of a pickle of protocol 2.
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        let n = (text.len() as u32).to_le_bytes();
        self.raw(b"X").raw(&n).raw(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn class(self, module: &str, name: &str) -> Self {
        self.raw(b"c").raw(module.as_bytes()).raw(b"\n").raw(name.as_bytes()).raw(b"\n")
    }

    fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |pickle, &value| pickle.int(value)).raw(b"t")
    }

    /// A view of the storage `key`.
    fn tensor(self, class: &str, key: &str, n_stored: i32, first: i32, size: &[i32], stride: &[i32]) -> Self {
        self.class("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .class("torch", class)
            .text(key)
            .text("cpu")
            .int(n_stored)
            .raw(b"tQ")
            .int(first)
            .ints(size)
            .ints(stride)
            .raw(b"\x89")
            .class("collections", "OrderedDict")
            .raw(b")RtR")
    }

    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A file of `torch.save` with this pickle and these storages.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut put = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).expect("a member can be begun");
        zip.write_all(bytes).expect("a member can be written");
    };
    put("x/data.pkl".to_owned(), pickle);
    put("x/byteorder".to_owned(), b"little");
    for (key, bytes) in storages {
        put(format!("x/data/{key}"), bytes);
    }
    zip.finish().expect("an archive can be finished").into_inner()
}

fn f32_bytes(values: impl IntoIterator<Item = u8>) -> Vec<u8> {
    values.into_iter().flat_map(|value| f32::from(value).to_le_bytes()).collect()
}

/// A state dict as real ones are: nested, with a parameter, shared and strided views, and values that are no tensors.
pub fn state_dict() -> Vec<u8> {
    let pickle = Pickle::new()
        .raw(b"}(")
        .text("epoch")
        .int(7)
        .text("state_dict")
        .class("collections", "OrderedDict")
        .raw(b")R(")
        .text("whole")
        .tensor("FloatStorage", "0", 12, 0, &[3, 4], &[4, 1])
        .text("transposed")
        .tensor("FloatStorage", "0", 12, 0, &[4, 3], &[1, 4])
        .text("tail")
        .tensor("FloatStorage", "0", 12, 8, &[4], &[1])
        .text("parameter")
        .class("torch._utils", "_rebuild_parameter")
        .raw(b"(")
        .tensor("BFloat16Storage", "1", 2, 0, &[2], &[1])
        .raw(b"\x88")
        .class("collections", "OrderedDict")
        .raw(b")RtR")
        .text("n")
        .tensor("LongStorage", "2", 1, 0, &[], &[])
        // The dict's `_metadata`.
        .raw(b"u}(")
        .text("_metadata")
        .class("collections", "OrderedDict")
        .raw(b")Rub")
        .text("rate")
        .raw(b"G\x3f\xf8\0\0\0\0\0\0")
        .text("none")
        .raw(b"Nu")
        .stop();
    let bf16: Vec<u8> = [0x3f80_u16, 0xc000].into_iter().flat_map(u16::to_le_bytes).collect();
    archive(&pickle, &[("0", &f32_bytes(0..12)), ("1", &bf16), ("2", &5_i64.to_le_bytes())])
}

fn written(bytes: &[u8], name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file can be written");
    (folder, path)
}

fn error(bytes: &[u8]) -> String {
    let (_folder, path) = written(bytes, "x.bin");
    Checkpoint::open(&path).expect_err("refused").to_string()
}

fn numbers(xs: &Tensor) -> Vec<f64> {
    Vec::try_from(xs.to_kind(Kind::Double).contiguous().view(-1)).expect("numbers")
}

#[test]
fn a_state_dict_gives_its_tensors_and_ignores_the_rest() {
    let (_folder, path) = written(&state_dict(), "x.pt");
    let checkpoint = Checkpoint::open(&path).expect("it can be read");
    let names: Vec<&str> = checkpoint.names().collect();
    let expected = ["n", "parameter", "tail", "transposed", "whole"].map(|name| format!("state_dict.{name}"));
    assert_eq!(names, expected);
    assert_eq!(checkpoint.prefix_of("tail"), Some("state_dict."));
    let p = checkpoint.root(Device::Cpu, Kind::Float).sub("state_dict");
    let whole = p.get("whole", &[3, 4]).expect("there");
    assert_eq!(numbers(&whole), (0..12).map(f64::from).collect::<Vec<_>>());
    assert_eq!(numbers(&p.get("transposed", &[4, 3]).expect("there")), numbers(&whole.transpose(0, 1)));
    assert_eq!(numbers(&p.get("tail", &[4]).expect("there")), [8.0, 9.0, 10.0, 11.0]);
    assert_eq!(numbers(&p.get("parameter", &[2]).expect("there")), [1.0, -2.0]);
    assert_eq!(checkpoint.info("state_dict.parameter").expect("there").dtype, StoredDtype::BF16);
    assert_eq!(checkpoint.unused(), ["state_dict.n"]);
    assert_eq!(numbers(&checkpoint.tensor("state_dict.n", &[]).expect("there")), [5.0]);
    let error = checkpoint.load("state_dict.n", &[], Device::Cpu, Kind::Float).expect_err("an integer").to_string();
    assert!(error.contains("`state_dict.n`: expected floating-point values, found I64"), "{error}");
}

#[test]
fn a_tensor_of_another_shape_or_name_is_an_error_that_says_what_there_is() {
    let (_folder, path) = written(&state_dict(), "x.pt");
    let checkpoint = Checkpoint::open(&path).expect("it can be read");
    let shape = checkpoint.tensor("state_dict.whole", &[4, 3]).expect_err("another shape").to_string();
    assert!(shape.contains("tensor `state_dict.whole`: expected shape [4, 3], found [3, 4] (F32)"), "{shape}");
    let name = checkpoint.tensor("state_dict.hole", &[3, 4]).expect_err("no such tensor").to_string();
    assert!(name.contains("no tensor `state_dict.hole` among its 5; the nearest is `state_dict.whole`"), "{name}");
    let wanted = [("state_dict.whole".to_owned(), vec![2]), ("a".to_owned(), vec![1]), ("b".to_owned(), vec![1])];
    let list = checkpoint.require(&wanted).expect_err("misfits").to_string();
    assert!(list.contains("2 tensors are missing: `a` `b`"), "{list}");
    assert!(
        list.contains("1 tensors have another shape: `state_dict.whole` expected [2] found [3, 4] (F32)"),
        "{list}"
    );
    assert!(list.contains("4 tensors are unused"), "{list}");
}

#[test]
fn a_network_asks_for_floats_of_any_width_and_for_nothing_else() {
    let (_folder, path) = written(&state_dict(), "x.pt");
    let checkpoint = Checkpoint::open(&path).expect("it can be read");
    let floats = [("state_dict.tail".to_owned(), vec![4]), ("state_dict.parameter".to_owned(), vec![2])];
    checkpoint.require(&floats).expect("f32 and bf16");
    let [tail, parameter] = floats;
    let list = checkpoint.require(&[tail, parameter, ("state_dict.n".to_owned(), vec![])]).expect_err("an integer");
    let list = list.to_string();
    let expected = "1 tensors are not floating-point numbers (a quantised checkpoint is not read): `state_dict.n` \
                    expected [] found [] (I64)";
    assert!(list.contains(expected) && !list.contains("another shape"), "{list}");
}

#[test]
fn a_pickle_that_names_anything_else_is_refused_by_class_and_opcode() {
    let system = Pickle::new().class("os", "system").raw(b"(").text("true").raw(b"tR").stop();
    assert!(error(&archive(&system, &[])).contains("class `os.system`"), "{}", error(&archive(&system, &[])));
    let global = Pickle::new().raw(b"\x8c\x08builtins\x8c\x04eval\x93").stop();
    assert!(error(&archive(&global, &[])).contains("class `builtins.eval`"));
    for (opcode, name) in [
        (b"i".as_slice(), "INST"),
        (b"o", "OBJ"),
        (b"\x82\x01", "EXT1"),
        (b"P1\n", "PERSID"),
        (b"\x97", "NEXT_BUFFER"),
        (b"2", "DUP"),
    ] {
        let message = error(&archive(&Pickle::new().raw(b"N").raw(opcode).stop(), &[]));
        assert!(message.contains("refused at byte 3") && message.contains(&format!("opcode {name} ")), "{message}");
    }
    // A class on the list, called with what it is not called with.
    let call = Pickle::new().class("torch._utils", "_rebuild_tensor_v2").raw(b")R").stop();
    assert!(error(&archive(&call, &[])).contains("RebuildTensor called with 0 arguments"));
}

#[test]
fn an_archive_of_torchscript_is_read_by_the_attributes_of_its_modules() {
    let pickle = Pickle::new()
        .class("__torch__.multimodal", "Model")
        .raw(b")\x81}(")
        .text("training")
        .raw(b"\x89")
        .text("visual")
        .class("__torch__.vision", "Tower")
        .raw(b")\x81}(")
        .text("proj")
        .tensor("HalfStorage", "0", 4, 0, &[2, 2], &[2, 1])
        .raw(b"ubub")
        .stop();
    let mut zip = zip::ZipWriter::new_append(Cursor::new(archive(&pickle, &[("0", &[0; 8])]))).expect("an archive");
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("x/code/__torch__/vision.py", deflated).expect("a member can be begun");
    zip.write_all(&[b'x'; 1000]).expect("a member can be written");
    let bytes = zip.finish().expect("an archive can be finished").into_inner();
    let tensors = read_file(Path::new("x.pt"), &bytes).expect("TorchScript");
    assert_eq!(tensors.len(), 1);
    assert_eq!((tensors[0].0.as_str(), tensors[0].1.info().shape.as_slice()), ("visual.proj", &[2, 2][..]));

    let unbuilt = Pickle::new().class("__torch__", "Model").raw(b")\x81}s").stop();
    let _ = error(&archive(&unbuilt, &[]));
}

#[test]
fn values_of_other_classes_are_passed_over() {
    let tensor = |pickle: Pickle, key: &str| pickle.text(key).tensor("FloatStorage", "0", 4, 0, &[4], &[1]);
    let scalar = tensor(Pickle::new().raw(b"}("), "before")
        // numpy.float64(0.9), an argparse.Namespace with a path in it, a set, a torch.dtype, a defaultdict.
        .text("best")
        .class("numpy._core.multiarray", "scalar")
        .class("numpy", "dtype")
        .raw(b"(")
        .text("f8")
        .raw(b"\x89\x88tR(")
        .int(3)
        .text("<")
        .raw(b"NNNtb")
        .class("_codecs", "encode")
        .raw(b"(")
        .text("value")
        .text("latin1")
        .raw(b"tR\x86R")
        .text("args")
        .class("argparse", "Namespace")
        .raw(b")\x81}(")
        .text("folder")
        .class("pathlib", "PosixPath")
        .raw(b"(")
        .text("/data")
        .raw(b"tRub")
        .text("words")
        .raw(b"\x8f(")
        .text("a")
        .raw(b"\x90")
        .text("dtype")
        .class("torch", "float32")
        .text("counts")
        .class("collections", "defaultdict")
        .class("builtins", "int")
        .raw(b"\x85R(")
        .text("n")
        .int(1)
        .raw(b"u")
        .text("config")
        .class("yacs.config", "CfgNode")
        .raw(b")\x81")
        .text("weights");
    let scalar = tensor(scalar.raw(b"}"), "inside").raw(b"ss");
    let pickle = tensor(scalar, "after").raw(b"u").stop();
    let (_folder, path) = written(&archive(&pickle, &[("0", &f32_bytes(0..4))]), "x.pt");
    let checkpoint = Checkpoint::open(&path).expect("nothing in it runs");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["after", "before", "config.weights.inside"]);
    assert_eq!(numbers(&checkpoint.tensor("after", &[4]).expect("there")), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn a_whole_module_gives_the_names_of_its_state_dict() {
    let dict = |pickle: Pickle, key: &str| pickle.text(key).class("collections", "OrderedDict").raw(b")R");
    let tensor = |pickle: Pickle, key: &str| pickle.text(key).tensor("FloatStorage", "0", 4, 0, &[4], &[1]).raw(b"s");
    let begin = |pickle: Pickle, class: &str| {
        pickle.class("models.maniqa", class).raw(b")\x81}(").text("training").raw(b"\x88")
    };
    // A linear layer within a block within the module, a buffer, a hook that kept a tensor, an activation without state.
    let module = begin(Pickle::new(), "MANIQA");
    let module = dict(module, "_parameters");
    let module = tensor(dict(module, "_buffers"), "mean");
    let module = dict(dict(module, "_forward_hooks"), "_modules").text("block");
    let module = dict(dict(begin(module, "Block"), "_parameters"), "_modules").text("fc");
    let module = tensor(tensor(dict(begin(module, "Linear"), "_parameters"), "weight"), "bias");
    let module = module.raw(b"ubs").text("act").class("torch.nn.modules.activation", "ReLU").raw(b")\x81sub");
    let module = module.raw(b"s").text("outputs").class("models.maniqa", "SaveOutput").raw(b")\x81}");
    let module = tensor(module, "kept").raw(b"b");
    let pickle = module.raw(b"ub").stop();
    let (_folder, path) = written(&archive(&pickle, &[("0", &f32_bytes(0..4))]), "x.pt");
    let checkpoint = Checkpoint::open(&path).expect("nothing in it runs");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["block.fc.bias", "block.fc.weight", "mean"]);
}

#[test]
fn a_refusal_names_the_tensor_it_is_near() {
    let size = Pickle::new().raw(b"}(").text("head.weight").class("torch", "Size").raw(b"((").text("x").raw(b"ttR");
    let message = error(&archive(&size.stop(), &[]));
    assert!(message.contains("near `head.weight`: a size that is not an integer"), "{message}");
}

#[test]
fn files_that_stand_for_a_checkpoint_are_named_for_what_they_are() {
    let dir = TestDir::new();
    let folder = write_weights(&dir, OURS[0]);
    let weights = std::fs::read(folder.join("model.safetensors")).expect("written");
    pictures(&dir, [1]);
    let refused = |bytes: &[u8], words: &str| {
        std::fs::write(folder.join("model.safetensors"), bytes).expect("it can be written");
        let folder = folder.display().to_string();
        let args = ["extract", "--extractor", "maniqa", "--weights", &folder, "--images", "images", "--store", "store"];
        dir.agiqa(&args).exits(2).says("model.safetensors").says(words);
    };
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 135000000\n", "but a Git LFS pointer");
    refused(b"\n<!DOCTYPE html><html>Quota exceeded</html>", "but a web page (`<!DOCTYPE html>");
    refused(b"Entry not found", "but a text (`Entry not found`)");
    refused(b"", "but an empty file");
    refused(&[0; 4096], "but nothing but zeros");
    // One value of one tensor is not a number.
    let mut broken = weights;
    let n = broken.len();
    broken[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&broken, "has values that are not finite");
    let (pointer, weights) =
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", folder.display().to_string());
    std::fs::write(folder.join("config.json"), pointer).expect("it can be written");
    let args = ["extract", "--extractor", "maniqa", "--weights", &weights, "--images", "images", "--store", "store"];
    dir.agiqa(&args).exits(2).says("config.json` does not describe").says("it is a Git LFS pointer");
}

#[test]
fn claims_beyond_the_file_are_refused_before_any_memory_is_taken() {
    let one = |n: i32, size: &[i32], stride: &[i32]| {
        let pickle = Pickle::new().raw(b"}").text("x").tensor("FloatStorage", "0", n, 0, size, stride).raw(b"s").stop();
        error(&archive(&pickle, &[("0", &f32_bytes(0..4))]))
    };
    assert!(one(i32::MAX, &[i32::MAX], &[1]).contains("has 16 bytes only"));
    assert!(one(4, &[5], &[1]).contains("leave the storage of 4 values"));
    assert!(one(4, &[i32::MAX, i32::MAX], &[0, 0]).contains("repeat values"));
    assert!(one(4, &[2], &[-1]).contains("leave the storage"));
    let absent = Pickle::new().raw(b"}").text("x").tensor("FloatStorage", "9", 1, 0, &[1], &[1]).raw(b"s").stop();
    assert!(error(&archive(&absent, &[])).contains("its storage `9` is not in the archive"));
    // Dictionaries that hold each other twice over: 2⁴⁰ paths to one tensor.
    let mut bomb = Pickle::new().tensor("FloatStorage", "0", 1, 0, &[1], &[1]).raw(b"q\0");
    for i in 0..40_u8 {
        bomb = bomb.raw(b"}(").text("a").raw(&[b'h', i]).text("b").raw(&[b'h', i]).raw(&[b'u', b'q', i + 1]);
    }
    let message = error(&archive(&bomb.stop(), &[("0", &f32_bytes(0..1))]));
    assert!(message.contains("nested deeper") || message.contains("contain each other"), "{message}");
}

#[test]
fn a_pickle_that_makes_much_of_few_bytes_is_refused_before_it_fills_the_memory() {
    // An object of a hundred bytes, or an entry of the memo, for every byte.
    let memo: Vec<u8> = std::iter::once(b'N').chain(std::iter::repeat_n(0x94, 4 << 20)).collect();
    for program in [vec![b')'; 2 << 20], vec![b']'; 2 << 20], vec![b'}'; 2 << 20], memo] {
        let message = error(&archive(&Pickle::new().raw(&program).stop(), &[]));
        assert!(message.contains("its objects take more than 67108864 bytes of memory"), "{message}");
    }
    // A million paths to one tensor, and a pickle long enough for all of them.
    let items = |of: u8| [b'h', 1, b'h', of].repeat(1000);
    let bomb = Pickle::new()
        .text(&" ".repeat(2 << 20))
        .raw(b"0")
        .tensor("FloatStorage", "0", 1, 0, &[1], &[1])
        .raw(b"q\0")
        .text("a")
        .raw(b"q\x01}(")
        .raw(&items(0))
        .raw(b"uq\x02}(")
        .raw(&items(2))
        .raw(b"u")
        .stop();
    let message = error(&archive(&bomb, &[("0", &f32_bytes(0..1))]));
    assert!(message.contains("more items together than a state dict's can have"), "{message}");
}

#[test]
fn a_byte_that_changed_is_told_by_the_sum_of_its_member() {
    let (path, mut bytes) = (Path::new("x.bin"), state_dict());
    check_sums(path, &bytes).expect("as it was written");
    let values = f32_bytes(0..12);
    let at = bytes.windows(values.len()).position(|window| window == values).expect("stored as it is");
    bytes[at + 5] ^= 1;
    read_file(path, &bytes).expect("the headers are as they were");
    let message = check_sums(path, &bytes).expect_err("another byte").to_string();
    assert!(message.contains("x.bin: member `x/data/0`: expected CRC-32 "), "{message}");
    assert!(message.contains("the file is damaged"), "{message}");
    // The name's last place is the directory, where the sum stands 30 bytes before it; 0 is what PyTorch writes for none.
    let name = b"x/data/0";
    let at = bytes.windows(name.len()).rposition(|window| window == name).expect("it is in the directory");
    bytes[at - 30..at - 26].fill(0);
    check_sums(path, &bytes).expect("there is no sum");
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let bytes = state_dict();
    for n in 0..bytes.len() {
        let (_folder, path) = written(&bytes[..n], "x.bin");
        assert!(Checkpoint::open(&path).is_err(), "{n} of {} bytes", bytes.len());
    }
    let message = error(&bytes[..bytes.len() - 10]);
    assert!(message.contains("it is cut short"), "{message}");
    assert!(error(&[0x80, 2, b'}', b'.']).contains("a bare pickle"));
    assert!(error(b"neither of both").contains("neither safetensors nor a zip of PyTorch"));
}

#[test]
fn safetensors_that_contradict_themselves_are_refused() {
    let file = |header: &str, n_values: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + n_values, 0);
        bytes
    };
    let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let (_folder, path) = written(&file(header, 8), "x.safetensors");
    let checkpoint = Checkpoint::open(&path).expect("it is right");
    assert_eq!(checkpoint.bytes("x").expect("there"), [0; 8]);
    assert!(error(&file(header, 7)).contains("is beyond its end"));
    assert!(error(&file(&header.replace("[2]", "[3]"), 12)).contains("do not fill the 8 bytes given"));
    assert!(error(&file(&header.replace("[2]", "[-2]"), 8)).contains("is not a valid shape"));
    assert!(error(&file(&header.replace("F32", "F99"), 8)).contains("the unknown type `F99`"));
    assert!(error(&file(&header.replace("[0,8]", "[8,0]"), 8)).contains("ends before it begins"));
    assert!(error(&file(&header[..40], 8)).contains("its header"));
    let message = error(&file(&header.replace("[2]", "2"), 8));
    assert!(message.contains("its header: tensor `x`: invalid type"), "{message}");
    assert!(error(&file("{\"a\":1} ", 8)).contains("tensor `a`"));
}

#[test]
fn an_index_is_followed_within_its_folder_only() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let index = folder.path().join("pytorch_model.bin.index.json");
    let write = |map: &str| {
        std::fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).expect("it can be written");
        Checkpoint::open(folder.path())
    };
    std::fs::write(folder.path().join("a.bin"), state_dict()).expect("it can be written");
    for name in ["../a.bin", "/etc/passwd", "b/../a.bin", "."] {
        let message = write(&format!(r#"{{"x":"{name}"}}"#)).expect_err("outside").to_string();
        assert!(message.contains(&format!("the shard `{name}`, which is not a file of its own folder")), "{message}");
    }
    let absent = write(r#"{"x":"a.bin","y":"b.bin","z":"b.bin"}"#).expect_err("absent").to_string();
    assert!(absent.contains("shard `b.bin` (2 of its 3 tensors) is not in the folder"), "{absent}");
    let lacking = write(r#"{"x":"a.bin"}"#).expect_err("not in it").to_string();
    assert!(lacking.contains("tensor `x` is not in") && lacking.contains("a.bin"), "{lacking}");
    let found = write(r#"{"state_dict.tail":"a.bin"}"#).expect("right");
    assert_eq!(found.names().collect::<Vec<_>>(), ["state_dict.tail"], "the index decides what belongs to it");
    std::fs::remove_file(&index).expect("it is there");
    let message = Checkpoint::open(folder.path()).expect_err("nothing").to_string();
    assert!(message.contains("holds no checkpoint; looked for model.safetensors"), "{message}");
    assert!(matches!(Checkpoint::open(Path::new("nowhere.bin")), Err(CheckpointError::Io { .. })));
}

#[test]
fn both_formats_of_the_reference_hold_the_same_tensors_but_for_rounding() {
    let small = Tiny::ours();
    let folder = &small.folder;
    let f32s = Checkpoint::open(&folder.join("model.safetensors")).expect("it can be read");
    let f16s = Checkpoint::open(&folder.join("pytorch_model.bin.index.json")).expect("it can be read");
    let mut n = 0;
    for name in f32s.names() {
        let shape = f32s.info(name).expect("there").shape.clone();
        assert_eq!(f16s.info(name).expect("there").dtype, StoredDtype::F16);
        let rounded = f32s.tensor(name, &shape).expect("there").to_kind(Kind::Half);
        assert!(rounded == f16s.tensor(name, &shape).expect("there"), "{name}");
        n += 1;
    }
    assert_eq!(n, 120);
    let only: Vec<&str> = f16s.unused();
    assert!(only.len() == 3 && only.iter().all(|name| name.ends_with("inv_freq")), "{only:?}");
}

/// Opcodes that do something, so that random programs get further than random bytes.
const OPCODES: &[u8] = b"NJKM\x88\x89}]()tu\x85\x86\x87laedsbq\x94h0RQcX\x8c\x93.1";

proptest! {
    #[test]
    fn damaged_archives_never_panic(at in 0_usize..4096, value: u8, cut in 0_usize..8192) {
        let mut bytes = state_dict();
        let n = bytes.len();
        bytes[at % n] = value;
        bytes.truncate(cut.max(1));
        let _ = read_file(Path::new("x"), &bytes);
        let _ = check_sums(Path::new("x"), &bytes);
    }

    #[test]
    fn random_programs_never_panic(program in proptest::collection::vec(0..OPCODES.len() * 2, 0..200)) {
        let bytes: Vec<u8> = program.iter().map(|&i| OPCODES.get(i).copied().unwrap_or(i as u8)).collect();
        if let Ok(result) = unpickle(&bytes, LEAST_PICKLE_MEMORY) {
            prop_assert!(result.objects.len() <= bytes.len());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = read_file(Path::new("x"), &bytes);
        let _ = unpickle(&bytes, LEAST_PICKLE_MEMORY);
        let zipped = archive(&bytes, &[]);
        let _ = read_file(Path::new("x"), &zipped);
    }
}
