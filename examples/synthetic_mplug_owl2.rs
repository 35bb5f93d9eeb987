//! Writes an invented mPLUG-Owl2 checkpoint of any size, for benchmarks and tests of scale:
//!
//! ```sh
//! cargo run --release --example synthetic_mplug_owl2 -- SIZES OUT TOKENIZER [DTYPE]
//! agiqa features --extractor mplug-owl2 --weights OUT --images pictures --store /tmp/store --dtype bf16
//! ```
//!
//! SIZES is `7b` (the released model: 16.4 GB in bf16), `bench` (the one of `benches/peers/mplug_owl2.py`), or the path
//! of a `config.json`. TOKENIZER is LLaMA's `tokenizer.model` or `tokenizer.json`, whose 32000 pieces nothing can
//! invent. DTYPE is `bf16` (default), `f16` or `f32`. The values say nothing about images.

use std::path::Path;

use agiqa_nets::mplug_owl2::{Config, tensors};
use agiqa_synth::{Float, Invented};
use serde_json::{Value, json};

/// Sizes in the form of a published `config.json`.
struct Sizes {
    dim: i64,
    mlp_dim: i64,
    n_layers: i64,
    n_heads: i64,
    n_vision_layers: i64,
    n_abstractor_layers: i64,
}

const SEVEN_BILLION: Sizes =
    Sizes { dim: 4096, mlp_dim: 11008, n_layers: 32, n_heads: 32, n_vision_layers: 24, n_abstractor_layers: 6 };

const BENCH: Sizes =
    Sizes { dim: 512, mlp_dim: 1376, n_layers: 8, n_heads: 8, n_vision_layers: 6, n_abstractor_layers: 3 };

impl Sizes {
    fn config(&self) -> Value {
        json!({
            "architectures": ["MPLUGOwl2LlamaForCausalLM"],
            "model_type": "mplug_owl2",
            "hidden_size": self.dim,
            "intermediate_size": self.mlp_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "vocab_size": 32000,
            "visual_config": {
                "visual_model": {
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": self.n_vision_layers,
                    "num_attention_heads": 16,
                    "image_size": 448,
                    "patch_size": 14,
                    "layer_norm_eps": 1e-6,
                    "hidden_act": "quick_gelu",
                },
                "visual_abstractor": {
                    "hidden_size": 1024,
                    "encoder_hidden_size": 1024,
                    "intermediate_size": 2816,
                    "num_hidden_layers": self.n_abstractor_layers,
                    "num_attention_heads": 16,
                    "num_learnable_queries": 64,
                    "grid_size": 32,
                    "layer_norm_eps": 1e-6,
                },
            },
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (sizes, out, tokenizer, dtype) = match &args[..] {
        [sizes, out, tokenizer] => (sizes.as_str(), Path::new(out), Path::new(tokenizer), "bf16"),
        [sizes, out, tokenizer, dtype] => (sizes.as_str(), Path::new(out), Path::new(tokenizer), dtype.as_str()),
        _ => return Err("usage: synthetic_mplug_owl2 7b|bench|CONFIG.json OUT TOKENIZER [bf16|f16|f32]".into()),
    };
    let dtype = match dtype {
        "bf16" => Float::Bf16,
        "f16" => Float::F16,
        "f32" => Float::F32,
        other => return Err(format!("`{other}` is no float type: expected bf16, f16 or f32").into()),
    };
    std::fs::create_dir_all(out)?;
    let config = match sizes {
        "7b" => SEVEN_BILLION.config(),
        "bench" => BENCH.config(),
        path => serde_json::from_slice(&std::fs::read(path)?)?,
    };
    let config_path = out.join("config.json");
    std::fs::write(&config_path, serde_json::to_string_pretty(&config)?)?;
    let config = Config::read(&config_path)?;
    let preprocessor = json!({
        "crop_size": config.vision.image_px,
        "do_center_crop": true,
        "do_normalize": true,
        "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": config.vision.image_px,
    });
    std::fs::write(out.join("preprocessor_config.json"), serde_json::to_string_pretty(&preprocessor)?)?;
    let name = tokenizer.file_name().ok_or("TOKENIZER is a file")?;
    std::fs::copy(tokenizer, out.join(name))?;
    Invented { dtype, ..Invented::default() }.write(tensors(&config), out)?;
    Ok(())
}
