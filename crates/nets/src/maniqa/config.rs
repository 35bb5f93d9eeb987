//! Geometry of MANIQA, from the `config.json` next to its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layers::Activation;
use crate::vit::VitConfig;
use agiqa_checkpoint::other;

/// A missing or impossible description of a network.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ManiqaConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read `{}`: expected the sizes of the network in a `config.json` next to its weights",
        path.display()
    )]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file does not describe a MANIQA network.
    #[error("`{}` does not describe a MANIQA network", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The sizes do not fit together.
    #[error("`{key}` is {found}; expected {expected}")]
    Value { key: &'static str, found: String, expected: String },
}

/// The vision transformer under MANIQA, in timm's terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackboneConfig {
    /// Side of the square input, pixels.
    pub img_size: i64,
    /// Side of a patch, pixels.
    pub patch_size: i64,
    /// Width of a token.
    pub embed_dim: i64,
    /// Number of blocks in the checkpoint. Blocks after the last tap are neither read nor computed.
    pub depth: usize,
    /// Number of attention heads.
    pub num_heads: i64,
    /// Ratio of the width of a block's hidden layer to the width of a token.
    pub mlp_ratio: f64,
    /// Constant added to the variance in layer norms: 1e-6 in timm and DINOv2. PyTorch's default of 1e-5 would change
    /// the fourth digit.
    pub layer_norm_eps: f64,
    /// Indices of the blocks whose outputs are read, from 0, ascending.
    pub taps: Vec<usize>,
    /// Whether branches are scaled per channel, as in DINOv2 (`ls1.gamma`).
    #[serde(default)]
    pub layer_scale: bool,
    /// Side of the grid that the position table was trained on, if it differs from the grid of `img_size`.
    #[serde(default)]
    pub position_grid: Option<i64>,
}

/// Sizes of MANIQA. Other entries of the file are not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManiqaConfig {
    /// The transformer underneath.
    pub vit: BackboneConfig,
    /// Width `C` that the taps are reduced to. The second stage has half of it.
    pub embed_dim: i64,
    /// Number of blocks per layer of each Swin stage.
    pub depths: Vec<usize>,
    /// Number of heads per layer of each Swin stage.
    pub num_heads: Vec<i64>,
    /// Side of an attention window, tokens.
    pub window_size: i64,
    /// Width of the hidden layers of the Swin blocks, in both stages.
    pub dim_mlp: i64,
    /// Number of blocks of attention between channels before each stage.
    pub num_tab: usize,
    /// Factor of a Swin layer's branch. The shortcut is not scaled.
    pub scale: f64,
    /// Mean of red, green and blue on a scale of 0 to 1. Inputs are `(pixel / 255 − mean) / std`.
    #[serde(default = "half")]
    pub pixel_mean: [f32; 3],
    /// Standard deviation of red, green and blue on the same scale.
    #[serde(default = "half")]
    pub pixel_std: [f32; 3],
}

fn half() -> [f32; 3] {
    [0.5; 3]
}

impl ManiqaConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// The file is absent or not a description of MANIQA, or the sizes do not fit together.
    pub fn read(path: &Path) -> Result<Self, ManiqaConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManiqaConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = serde_json::from_str(&text).map_err(|error| {
            // What a failed download leaves is named instead of the place where it stops being JSON.
            let head = &text.as_bytes()[..text.len().min(other::HEAD_BYTES)];
            let found = other::content(head).filter(|_| !text.trim_start().starts_with('{'));
            let source = found.map_or(error, |found| serde::de::Error::custom(format!("it is {found}")));
            ManiqaConfigError::Parse { path: path.to_owned(), source }
        })?;
        config.check()?;
        Ok(config)
    }

    /// ViT-B/8 at 224 px with the sizes of the paper.
    pub fn vit_b8() -> Self {
        Self {
            vit: BackboneConfig {
                img_size: 224,
                patch_size: 8,
                embed_dim: 768,
                depth: 12,
                num_heads: 12,
                mlp_ratio: 4.0,
                layer_norm_eps: 1e-6,
                taps: vec![6, 7, 8, 9],
                layer_scale: false,
                position_grid: None,
            },
            embed_dim: 768,
            depths: vec![2, 2],
            num_heads: vec![4, 4],
            window_size: 4,
            dim_mlp: 768,
            num_tab: 2,
            scale: 0.8,
            pixel_mean: half(),
            pixel_std: half(),
        }
    }

    /// DINOv2 ViT-S/14 at `side_px` (392 gives the paper's 28 × 28 tokens) with the sizes of the paper, all widths
    /// halved.
    pub fn dinov2_s14(side_px: i64) -> Self {
        let dinov2 = crate::dinov2::vit_s14();
        let paper = Self::vit_b8();
        Self {
            vit: BackboneConfig {
                img_size: side_px,
                patch_size: dinov2.patch_px,
                embed_dim: dinov2.dim,
                num_heads: dinov2.n_heads,
                layer_scale: true,
                position_grid: Some(dinov2.position_grid),
                ..paper.vit
            },
            embed_dim: dinov2.dim,
            dim_mlp: dinov2.dim,
            pixel_mean: crate::pixels::IMAGENET_MEAN,
            pixel_std: crate::pixels::IMAGENET_STD,
            ..paper
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The first entry that does not fit.
    pub fn check(&self) -> Result<(), ManiqaConfigError> {
        let wrong = |key, found: &dyn std::fmt::Debug, expected: String| {
            Err(ManiqaConfigError::Value { key, found: format!("{found:?}"), expected })
        };
        let vit = &self.vit;
        let sizes = [
            ("vit.img_size", vit.img_size),
            ("vit.patch_size", vit.patch_size),
            ("vit.embed_dim", vit.embed_dim),
            ("vit.num_heads", vit.num_heads),
            ("embed_dim", self.embed_dim),
            ("window_size", self.window_size),
            ("dim_mlp", self.dim_mlp),
        ];
        for (key, size) in sizes {
            if !(1..1 << 20).contains(&size) {
                return wrong(key, &size, "a size above 0".to_owned());
            }
        }
        if vit.img_size % vit.patch_size != 0 {
            return wrong("vit.img_size", &vit.img_size, format!("a multiple of the patch size, {}", vit.patch_size));
        }
        if self.grid() % self.window_size != 0 {
            let expected = format!("a divisor of the grid's side, {} patches", self.grid());
            return wrong("window_size", &self.window_size, expected);
        }
        if vit.taps.is_empty() || !vit.taps.is_sorted_by(|a, b| a < b) || vit.taps.iter().any(|tap| *tap >= vit.depth) {
            return wrong("vit.taps", &vit.taps, format!("ascending blocks below {}", vit.depth));
        }
        if vit.embed_dim % vit.num_heads != 0 {
            return wrong("vit.num_heads", &vit.num_heads, format!("a divisor of the width, {}", vit.embed_dim));
        }
        if self.depths.is_empty() || self.depths.len() != self.num_heads.len() {
            return wrong("num_heads", &self.num_heads, format!("one number per layer of `depths`, {:?}", self.depths));
        }
        // The second stage has half the width.
        if self.num_heads.iter().any(|heads| *heads < 1 || self.embed_dim % (2 * heads) != 0) {
            return wrong("num_heads", &self.num_heads, format!("divisors of half the width {}", self.embed_dim));
        }
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        if !self.scale.is_finite() || !is_positive(vit.mlp_ratio) || !is_positive(vit.layer_norm_eps) {
            let found = (self.scale, vit.mlp_ratio, vit.layer_norm_eps);
            return wrong(
                "scale, vit.mlp_ratio, vit.layer_norm_eps",
                &found,
                "finite numbers, the last two above 0".into(),
            );
        }
        if !self.pixel_std.iter().all(|std| is_positive(f64::from(*std))) {
            return wrong("pixel_std", &self.pixel_std, "numbers above 0".to_owned());
        }
        Ok(())
    }

    /// Side of the grid of patches.
    pub fn grid(&self) -> i64 {
        self.vit.img_size / self.vit.patch_size
    }

    /// Number of patches, which is the number of values of `f_1`.
    pub fn n_tokens(&self) -> i64 {
        self.grid() * self.grid()
    }

    /// The transformer up to its last tap.
    pub fn vit_config(&self) -> VitConfig {
        let vit = &self.vit;
        VitConfig {
            patch_px: vit.patch_size,
            dim: vit.embed_dim,
            n_blocks: vit.taps.iter().max().map_or(0, |last| last + 1),
            final_norm: false,
            n_heads: vit.num_heads,
            mlp_dim: (vit.embed_dim as f64 * vit.mlp_ratio).round() as i64,
            layer_norm_eps: vit.layer_norm_eps,
            layer_scale: vit.layer_scale,
            patch_bias: true,
            pre_norm: false,
            activation: Activation::Gelu,
            position_grid: vit.position_grid.unwrap_or(self.grid()),
        }
    }

    /// Names and shapes of the parameters that the network reads. The transformer's names begin with `vit.`.
    pub fn parameters(&self) -> BTreeMap<String, Vec<i64>> {
        let mut names = BTreeMap::new();
        let mut put = |name: String, shape: &[i64]| _ = names.insert(name, shape.to_vec());
        let vit = self.vit_config();
        let d = vit.dim;
        vit.parameters().into_iter().for_each(|(name, shape)| put(format!("vit.{name}"), &shape));
        let (n, c) = (self.n_tokens(), self.embed_dim);
        for stage in [1, 2] {
            for i in 0..self.num_tab {
                for part in ["c_q", "c_k", "c_v"] {
                    linear(&mut put, &format!("tablock{stage}.{i}.{part}"), n, n);
                }
            }
            let (wide, dim) = if stage == 1 { (d * self.vit.taps.len() as i64, c) } else { (c, c / 2) };
            put(format!("conv{stage}.weight"), &[dim, wide, 1, 1]);
            put(format!("conv{stage}.bias"), &[dim]);
            for (i, (depth, heads)) in self.depths.iter().zip(&self.num_heads).enumerate() {
                let p = format!("swintransformer{stage}.layers.{i}");
                put(format!("{p}.conv.weight"), &[dim, dim, 3, 3]);
                put(format!("{p}.conv.bias"), &[dim]);
                for j in 0..*depth {
                    let p = format!("{p}.blocks.{j}");
                    block(&mut put, &p, dim, self.dim_mlp);
                    let table = (2 * self.window_size - 1).pow(2);
                    put(format!("{p}.attn.relative_position_bias_table"), &[table, *heads]);
                }
            }
        }
        for head in ["fc_score", "fc_weight"] {
            linear(&mut put, &format!("{head}.0"), c / 2, c / 2);
            linear(&mut put, &format!("{head}.3"), c / 2, 1);
        }
        names
    }
}

fn linear(put: &mut impl FnMut(String, &[i64]), p: &str, d_in: i64, d_out: i64) {
    put(format!("{p}.weight"), &[d_out, d_in]);
    put(format!("{p}.bias"), &[d_out]);
}

fn block(put: &mut impl FnMut(String, &[i64]), p: &str, d: i64, hidden: i64) {
    for norm in ["norm1", "norm2"] {
        put(format!("{p}.{norm}.weight"), &[d]);
        put(format!("{p}.{norm}.bias"), &[d]);
    }
    linear(put, &format!("{p}.attn.qkv"), d, 3 * d);
    linear(put, &format!("{p}.attn.proj"), d, d);
    linear(put, &format!("{p}.mlp.fc1"), d, hidden);
    linear(put, &format!("{p}.mlp.fc2"), hidden, d);
}
