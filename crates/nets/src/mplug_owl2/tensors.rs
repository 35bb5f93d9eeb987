//! Names and shapes of all tensors that the network reads. They serve to check a checkpoint at once, and to make one.

use super::Config;

/// Every parameter of a checkpoint with these sizes, without the output head and the buffers, which are not read.
pub fn tensors(config: &Config) -> Vec<(String, Vec<i64>)> {
    let mut list = List(Vec::new());
    let (vision, abstractor, decoder) = (&config.vision, &config.abstractor, &config.decoder);

    let (d, m) = (decoder.dim, decoder.mlp_dim);
    list.put("model.embed_tokens.weight", &[decoder.vocab_size, d]);
    for i in 0..decoder.n_layers {
        let p = format!("model.layers.{i}");
        for branch in [0, 1] {
            list.put(format!("{p}.input_layernorm.multiway.{branch}.weight"), &[d]);
            list.put(format!("{p}.post_attention_layernorm.multiway.{branch}.weight"), &[d]);
            list.put(format!("{p}.self_attn.k_proj.multiway.{branch}.weight"), &[d, d]);
            list.put(format!("{p}.self_attn.v_proj.multiway.{branch}.weight"), &[d, d]);
        }
        list.put(format!("{p}.self_attn.q_proj.weight"), &[d, d]);
        list.put(format!("{p}.self_attn.o_proj.weight"), &[d, d]);
        list.put(format!("{p}.mlp.gate_proj.weight"), &[m, d]);
        list.put(format!("{p}.mlp.up_proj.weight"), &[m, d]);
        list.put(format!("{p}.mlp.down_proj.weight"), &[d, m]);
    }
    list.put("model.norm.weight", &[d]);

    let (d, m, p) = (vision.dim, vision.mlp_dim, "model.vision_model");
    list.put(format!("{p}.embeddings.cls_token"), &[1, 1, d]);
    list.put(format!("{p}.embeddings.patch_embed.weight"), &[d, 3, vision.patch_px, vision.patch_px]);
    list.put(format!("{p}.embeddings.position_embedding"), &[1, vision.n_tokens(), d]);
    list.pair(format!("{p}.embeddings.pre_layernorm"), &[d]);
    for i in 0..vision.n_layers {
        let p = format!("{p}.encoder.layers.{i}");
        list.pair(format!("{p}.input_layernorm"), &[d]);
        list.pair(format!("{p}.post_attention_layernorm"), &[d]);
        list.pair(format!("{p}.self_attn.query_key_value"), &[3 * d, d]);
        list.pair(format!("{p}.self_attn.dense"), &[d, d]);
        list.pair(format!("{p}.mlp.fc1"), &[m, d]);
        list.pair(format!("{p}.mlp.fc2"), &[d, m]);
    }
    list.pair(format!("{p}.post_layernorm"), &[d]);

    let (d, m, p) = (abstractor.dim, abstractor.mlp_dim, "model.visual_abstractor");
    list.put(format!("{p}.query_embeds"), &[1, abstractor.n_queries, d]);
    for i in 0..abstractor.n_layers {
        let p = format!("{p}.encoder.layers.{i}.crossattention");
        for name in ["query", "key", "value"] {
            list.pair(format!("{p}.attention.{name}"), &[d, d]);
        }
        for name in ["norm1", "normk", "output.norm2"] {
            list.pair(format!("{p}.{name}"), &[d]);
        }
        list.pair(format!("{p}.output.out_proj"), &[d, d]);
        list.pair(format!("{p}.output.mlp.w1"), &[m, d]);
        list.pair(format!("{p}.output.mlp.w2"), &[d, m]);
        list.pair(format!("{p}.output.mlp.w3"), &[m, d]);
        list.pair(format!("{p}.output.mlp.ffn_ln"), &[m]);
    }
    list.pair(format!("{p}.visual_fc"), &[decoder.dim, d]);
    list.put(format!("{p}.vit_eos"), &[1, 1, decoder.dim]);
    list.0
}

struct List(Vec<(String, Vec<i64>)>);

impl List {
    fn put(&mut self, name: impl Into<String>, shape: &[i64]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    /// A weight, and a bias of its first size.
    fn pair(&mut self, name: String, shape: &[i64]) {
        self.put(format!("{name}.weight"), shape);
        self.put(format!("{name}.bias"), &shape[..1]);
    }
}
