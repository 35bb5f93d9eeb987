//! The vision tower: CLIP's ViT, as in the published code (`MplugOwlVisionModel` of
//! `mplug_owl2/model/visual_encoder.py`).

use tch::{Kind, Tensor};

use super::config::VisionConfig;
use crate::attention::attend;
use crate::checkpoint::{CheckpointError, CheckpointScope};
use crate::layers::{Activation, LayerNorm, Linear, Mlp, products_of};

#[derive(Debug)]
struct Attention {
    query_key_value: Linear,
    dense: Linear,
    n_heads: i64,
}

impl Attention {
    fn new(p: &CheckpointScope, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let d = config.dim;
        Ok(Self {
            query_key_value: Linear::new(&p.sub("query_key_value"), d, 3 * d)?.fastest(p.device()),
            dense: Linear::new(&p.sub("dense"), d, d)?.fastest(p.device()),
            n_heads: config.n_heads,
        })
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, compute kind
    /// - returns: `(b, n, d)`, compute kind
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (b, n, d) = xs.size3().expect("tokens are (b, n, d)");
        // The weight's rows are ordered by head, then by q, k, v, then by dimension.
        let qkv = self.query_key_value.forward(xs).view([b, n, self.n_heads, 3, d / self.n_heads]);
        let qkv = qkv.permute([3, 0, 2, 1, 4]); // (3, b, h, n, d/h)
        self.dense.forward(&attend(&qkv.get(0), &qkv.get(1), &qkv.get(2), None))
    }
}

#[derive(Debug)]
struct Layer {
    input_layernorm: LayerNorm,
    self_attn: Attention,
    post_attention_layernorm: LayerNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(p: &CheckpointScope, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let norm = |name: &str| LayerNorm::new(&p.sub(name), config.dim, config.layer_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::new(&p.sub("self_attn"), config)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(&p.sub("mlp"), config.dim, config.mlp_dim, Activation::QuickGelu, None)?,
        })
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32
    /// - returns: `(b, n, d)`, f32
    fn forward(&self, xs: &Tensor, kind: Kind) -> Tensor {
        let xs = xs + self.self_attn.forward(&self.input_layernorm.forward(xs).to_kind(kind));
        let hidden = self.mlp.forward(&self.post_attention_layernorm.forward(&xs).to_kind(kind));
        xs + hidden
    }
}

/// The vision tower.
#[derive(Debug)]
pub(super) struct VisionTower {
    patch_embed: Tensor,        // (d, 3, p, p), f32
    cls_token: Tensor,          // (1, 1, d), f32
    position_embedding: Tensor, // (1, 1 + g², d), f32
    pre_layernorm: LayerNorm,
    layers: Vec<Layer>,
    post_layernorm: LayerNorm,
    patch_px: i64,
    kind: Kind,
}

impl VisionTower {
    pub(super) fn new(p: &CheckpointScope, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let (d, patch) = (config.dim, config.patch_px);
        let norm = |p: &CheckpointScope| LayerNorm::new(p, d, config.layer_norm_eps);
        let embeddings = p.sub("embeddings");
        let layers = p.sub("encoder.layers");
        Ok(Self {
            patch_embed: embeddings.get_as("patch_embed.weight", &[d, 3, patch, patch], Kind::Float)?,
            cls_token: embeddings.get_as("cls_token", &[1, 1, d], Kind::Float)?,
            position_embedding: embeddings.get_as("position_embedding", &[1, config.n_tokens(), d], Kind::Float)?,
            pre_layernorm: norm(&embeddings.sub("pre_layernorm"))?,
            layers: (0..config.n_layers).map(|i| Layer::new(&layers.sub(i), config)).collect::<Result<_, _>>()?,
            post_layernorm: norm(&p.sub("post_layernorm"))?,
            patch_px: patch,
            kind: products_of(p.kind(), p.device()),
        })
    }

    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: `(b, 1 + g², d)`, f32: the class token, then the patches row by row
    pub(super) fn forward(&self, pixels: &Tensor) -> Tensor {
        let patch = [self.patch_px, self.patch_px];
        // Always in f32: it is a hundredth of the work, and rounded pixels would cost accuracy everywhere.
        let xs = pixels.conv2d(&self.patch_embed, None::<Tensor>, patch, [0, 0], [1, 1], 1); // (b, d, g, g)
        let (b, d) = (xs.size()[0], xs.size()[1]);
        let xs = xs.flatten(2, 3).transpose(1, 2); // (b, g², d)
        let xs = Tensor::cat(&[self.cls_token.expand([b, 1, d], false), xs], 1) + &self.position_embedding;
        let mut xs = self.pre_layernorm.forward(&xs);
        for layer in &self.layers {
            xs = layer.forward(&xs, self.kind);
        }
        self.post_layernorm.forward(&xs)
    }
}
