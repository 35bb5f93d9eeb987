//! `config.json` of a checkpoint: the sizes of the network. Unknown keys are ignored. Absent keys and nulls get the
//! defaults of the published code. Values that the published code does not support are refused.

use std::path::Path;

use serde::Deserialize;

use super::{Frontend, LoadError};

/// Sizes of the whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The vision tower.
    pub vision: VisionConfig,
    /// The visual abstractor.
    pub abstractor: AbstractorConfig,
    /// The language model.
    pub decoder: DecoderConfig,
}

/// Sizes of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Side of its square input, pixels, a multiple of `patch_px`.
    pub image_px: i64,
    /// Side of a patch, pixels.
    pub patch_px: i64,
    /// Width of a token.
    pub dim: i64,
    /// Width of a layer's hidden layer.
    pub mlp_dim: i64,
    /// Number of layers.
    pub n_layers: i64,
    /// Number of attention heads.
    pub n_heads: i64,
    /// Constant added to the variance in its norms.
    pub layer_norm_eps: f64,
}

/// Sizes of the visual abstractor.
#[derive(Clone, Debug, PartialEq)]
pub struct AbstractorConfig {
    /// Width of a query, equal to the vision tower's.
    pub dim: i64,
    /// Width of a layer's hidden layer.
    pub mlp_dim: i64,
    /// Number of layers.
    pub n_layers: i64,
    /// Number of attention heads.
    pub n_heads: i64,
    /// Number of learnt queries. The network outputs one token more.
    pub n_queries: i64,
    /// Constant added to the variance in the MLP's norm. The other norms have PyTorch's 1e-5.
    pub layer_norm_eps: f64,
}

/// Sizes of the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Number of rows of the token table.
    pub vocab_size: i64,
    /// Width of a token.
    pub dim: i64,
    /// Width of a layer's hidden layer.
    pub mlp_dim: i64,
    /// Number of layers.
    pub n_layers: i64,
    /// Number of attention heads.
    pub n_heads: i64,
    /// Constant added to the mean square in its norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

#[derive(Deserialize)]
struct File {
    model_type: Option<String>,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    attention_bias: Option<bool>,
    visual_config: VisualFile,
}

#[derive(Deserialize)]
struct VisualFile {
    visual_model: VisionFile,
    visual_abstractor: AbstractorFile,
}

#[derive(Deserialize)]
struct VisionFile {
    image_size: i64,
    patch_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_channels: Option<i64>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    use_cls_token: Option<bool>,
    use_post_layernorm: Option<bool>,
}

#[derive(Deserialize)]
struct AbstractorFile {
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_learnable_queries: i64,
    encoder_hidden_size: Option<i64>,
    grid_size: Option<i64>,
    layer_norm_eps: Option<f64>,
    use_cls_token: Option<bool>,
    add_v2t_pos_emb: Option<bool>,
}

/// Default of the published classes for the constants in norms.
const EPS: f64 = 1e-6;

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, lacks a size, or describes another network.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let malformed = |problem: String| LoadError::Unusable { path: path.to_owned(), problem };
        let bytes = super::read(path, Frontend::MAX_BYTES)?;
        // The type comes first. Another network's file lacks keys, too, but that message would say less.
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let unsupported = |(key, found, expected): (&'static str, String, String)| LoadError::Unsupported {
            path: path.to_owned(),
            key,
            found,
            expected,
        };
        if let Some(model_type) = value.get("model_type").and_then(|value| value.as_str())
            && model_type != "mplug_owl2"
        {
            return Err(unsupported(("model_type", format!("\"{model_type}\""), "\"mplug_owl2\"".to_owned())));
        }
        let file: File = serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
        file.config().map_err(unsupported)
    }

    /// Number of tokens of an image: the queries and the end token.
    pub fn n_visual_tokens(&self) -> i64 {
        self.abstractor.n_queries + 1
    }
}

impl VisionConfig {
    /// Number of patches on a side.
    pub fn grid(&self) -> i64 {
        self.image_px / self.patch_px
    }

    /// Number of tokens: the class token and the patches.
    pub fn n_tokens(&self) -> i64 {
        1 + self.grid() * self.grid()
    }
}

type Wrong = (&'static str, String, String);

/// Refuses a value that is there and is not the expected one.
fn check<T: PartialEq + std::fmt::Debug>(key: &'static str, found: Option<T>, expected: T) -> Result<(), Wrong> {
    match found {
        Some(found) if found != expected => Err((key, format!("{found:?}"), format!("{expected:?}"))),
        Some(_) | None => Ok(()),
    }
}

impl File {
    fn config(self) -> Result<Config, Wrong> {
        let (vision, abstractor) = (self.visual_config.visual_model, self.visual_config.visual_abstractor);
        if let Some(found) = self.num_key_value_heads.filter(|&found| found != self.num_attention_heads) {
            let expected = format!(
                "{}, one per attention head: grouped heads do not work in the published code either",
                self.num_attention_heads
            );
            return Err(("num_key_value_heads", found.to_string(), expected));
        }
        if let Some(found) = self.rope_scaling.filter(|value| !value.is_null()) {
            return Err(("rope_scaling", found.to_string(), "null".to_owned()));
        }
        let text = |text: &str| text.to_owned();
        check("model_type", self.model_type, text("mplug_owl2"))?;
        check("hidden_act", self.hidden_act, text("silu"))?;
        check("attention_bias", self.attention_bias, false)?;
        check("visual_model.hidden_act", vision.hidden_act, text("quick_gelu"))?;
        check("visual_model.num_channels", vision.num_channels, 3)?;
        check("visual_model.use_cls_token", vision.use_cls_token, true)?;
        check("visual_model.use_post_layernorm", vision.use_post_layernorm, true)?;
        check("visual_abstractor.use_cls_token", abstractor.use_cls_token, true)?;
        check("visual_abstractor.add_v2t_pos_emb", abstractor.add_v2t_pos_emb, false)?;
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("visual_model.image_size", vision.image_size),
            ("visual_model.patch_size", vision.patch_size),
            ("visual_model.hidden_size", vision.hidden_size),
            ("visual_model.intermediate_size", vision.intermediate_size),
            ("visual_model.num_hidden_layers", vision.num_hidden_layers),
            ("visual_model.num_attention_heads", vision.num_attention_heads),
            ("visual_abstractor.hidden_size", abstractor.hidden_size),
            ("visual_abstractor.intermediate_size", abstractor.intermediate_size),
            ("visual_abstractor.num_hidden_layers", abstractor.num_hidden_layers),
            ("visual_abstractor.num_attention_heads", abstractor.num_attention_heads),
            ("visual_abstractor.num_learnable_queries", abstractor.num_learnable_queries),
        ] {
            if !(1..=1 << 24).contains(&value) {
                return Err((key, value.to_string(), "a size from 1 to 16777216".to_owned()));
            }
        }
        for (key, dim, n_heads, unit) in [
            // Rotary embeddings rotate pairs of values. Position tables halve the width twice.
            ("num_attention_heads", self.hidden_size, self.num_attention_heads, 2),
            ("visual_model.num_attention_heads", vision.hidden_size, vision.num_attention_heads, 1),
            ("visual_abstractor.num_attention_heads", abstractor.hidden_size, abstractor.num_attention_heads, 1),
            ("visual_abstractor.hidden_size", abstractor.hidden_size, 4, 1),
        ] {
            if dim % (n_heads * unit) != 0 {
                return Err((key, n_heads.to_string(), format!("a divisor of the width {dim} (times {unit})")));
            }
        }
        if vision.image_size % vision.patch_size != 0 {
            let expected = format!("a multiple of the patch of {}", vision.patch_size);
            return Err(("visual_model.image_size", vision.image_size.to_string(), expected));
        }
        check("visual_abstractor.encoder_hidden_size", abstractor.encoder_hidden_size, vision.hidden_size)?;
        check("visual_abstractor.hidden_size", Some(abstractor.hidden_size), vision.hidden_size)?;
        // The published default is 32, for 448 px in patches of 14.
        check(
            "visual_abstractor.grid_size",
            Some(abstractor.grid_size.unwrap_or(32)),
            vision.image_size / vision.patch_size,
        )?;
        Ok(Config {
            vision: VisionConfig {
                image_px: vision.image_size,
                patch_px: vision.patch_size,
                dim: vision.hidden_size,
                mlp_dim: vision.intermediate_size,
                n_layers: vision.num_hidden_layers,
                n_heads: vision.num_attention_heads,
                layer_norm_eps: vision.layer_norm_eps.unwrap_or(EPS),
            },
            abstractor: AbstractorConfig {
                dim: abstractor.hidden_size,
                mlp_dim: abstractor.intermediate_size,
                n_layers: abstractor.num_hidden_layers,
                n_heads: abstractor.num_attention_heads,
                n_queries: abstractor.num_learnable_queries,
                layer_norm_eps: abstractor.layer_norm_eps.unwrap_or(EPS),
            },
            decoder: DecoderConfig {
                vocab_size: self.vocab_size,
                dim: self.hidden_size,
                mlp_dim: self.intermediate_size,
                n_layers: self.num_hidden_layers,
                n_heads: self.num_attention_heads,
                rms_norm_eps: self.rms_norm_eps.unwrap_or(EPS),
                rope_theta: self.rope_theta.unwrap_or(10_000.0),
            },
        })
    }
}
