//! The visual abstractor: learnt queries that read the vision tower, as in the published code
//! (`MplugOwlVisualAbstractorModel` of `mplug_owl2/model/visual_encoder.py`).

use tch::{Device, Kind, Tensor};

use super::config::{AbstractorConfig, Config};
use crate::attention::attend;
use crate::checkpoint::{CheckpointError, CheckpointScope};
use crate::layers::{LayerNorm, Linear, products_of};

/// PyTorch's default, which the published code uses in all norms except the MLP's.
const NORM_EPS: f64 = 1e-5;

fn linear(p: &CheckpointScope, d_in: i64, d_out: i64) -> Result<Linear, CheckpointError> {
    Ok(Linear::new(p, d_in, d_out)?.fastest(p.device()))
}

#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    n_heads: i64,
}

impl Attention {
    fn new(p: &CheckpointScope, config: &AbstractorConfig) -> Result<Self, CheckpointError> {
        let linear = |name: &str| linear(&p.sub(name), config.dim, config.dim);
        Ok(Self { query: linear("query")?, key: linear("key")?, value: linear("value")?, n_heads: config.n_heads })
    }

    /// # Shapes
    /// - q: `(b, n, d)`, with positions; k: `(b, m, d)`, with positions; v: `(b, m, d)`, without; all compute kind
    /// - returns: `(b, n, d)`
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let heads = |xs: Tensor| {
            let (b, n, d) = xs.size3().expect("tokens are (b, n, d)");
            xs.view([b, n, self.n_heads, d / self.n_heads]).transpose(1, 2) // (b, h, n, d/h)
        };
        let (q, k, v) = (self.query.forward(q), self.key.forward(k), self.value.forward(v));
        attend(&heads(q), &heads(k), &heads(v), None)
    }
}

#[derive(Debug)]
struct Mlp {
    w1: Linear,
    w2: Linear,
    w3: Linear,
    ffn_ln: LayerNorm,
}

impl Mlp {
    fn new(p: &CheckpointScope, config: &AbstractorConfig) -> Result<Self, CheckpointError> {
        let (d, m) = (config.dim, config.mlp_dim);
        Ok(Self {
            w1: linear(&p.sub("w1"), d, m)?,
            w2: linear(&p.sub("w2"), m, d)?,
            w3: linear(&p.sub("w3"), d, m)?,
            ffn_ln: LayerNorm::new(&p.sub("ffn_ln"), m, config.layer_norm_eps)?,
        })
    }

    /// `w2(ffn_ln(silu(w1 x) ⊙ w3 x))`
    fn forward(&self, xs: &Tensor) -> Tensor {
        let prepared = self.w1.prepare(xs);
        let hidden = self.w1.forward(&prepared).silu_().g_mul_(&self.w3.forward(&prepared));
        self.w2.forward(&self.ffn_ln.forward(&hidden.to_kind(Kind::Float)).to_kind(xs.kind()))
    }
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    normk: LayerNorm,
    attention: Attention,
    out_proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(p: &CheckpointScope, config: &AbstractorConfig) -> Result<Self, CheckpointError> {
        let (p, d) = (p.sub("crossattention"), config.dim);
        let output = p.sub("output");
        Ok(Self {
            norm1: LayerNorm::new(&p.sub("norm1"), d, NORM_EPS)?,
            normk: LayerNorm::new(&p.sub("normk"), d, NORM_EPS)?,
            attention: Attention::new(&p.sub("attention"), config)?,
            out_proj: linear(&output.sub("out_proj"), d, d)?,
            norm2: LayerNorm::new(&output.sub("norm2"), d, NORM_EPS)?,
            mlp: Mlp::new(&output.sub("mlp"), config)?,
        })
    }

    /// # Shapes
    /// - xs: `(b, n, d)`, f32, the queries; seen: `(b, m, d)`, f32, the vision tower's tokens
    /// - returns: `(b, n, d)`, f32
    fn forward(&self, xs: &Tensor, seen: &Tensor, positions: &Positions, kind: Kind) -> Tensor {
        let queries = self.norm1.forward(xs);
        let values = Tensor::cat(&[&queries, &self.normk.forward(seen)], 1); // (b, n + m, d)
        let keys = &values + &positions.of_keys;
        let asking = &queries + &positions.of_queries;
        let attended = self.attention.forward(&asking.to_kind(kind), &keys.to_kind(kind), &values.to_kind(kind));
        // The residual starts from the normed queries.
        let xs = queries + self.out_proj.forward(&attended);
        let hidden = self.mlp.forward(&self.norm2.forward(&xs).to_kind(kind));
        xs + hidden
    }
}

/// Tables of sines and cosines. The published code computes them at construction, too, and keeps them as buffers.
#[derive(Debug)]
struct Positions {
    of_queries: Tensor, // (n, d), f32
    of_keys: Tensor,    // (n + 1 + g², d), f32: the queries' positions, zeros for the class token, the patches'
}

/// `[sin(p ω), cos(p ω)]` with `ω_i = 10000^(-i / (d/2))`: first all sines, then all cosines.
fn sines(position: f64, d: i64) -> Vec<f32> {
    let half = d / 2;
    let angle = |i: i64| position * 10_000_f64.powf(-(i as f64) / half as f64);
    let sin = (0..half).map(|i| angle(i).sin() as f32);
    sin.chain((0..half).map(|i| angle(i).cos() as f32)).collect()
}

impl Positions {
    fn new(config: &AbstractorConfig, grid: i64, device: Device) -> Self {
        let d = config.dim;
        let queries: Vec<f32> = (0..config.n_queries).flat_map(|i| sines(i as f64, d)).collect();
        let mut keys = queries.clone();
        keys.extend(std::iter::repeat_n(0.0, d as usize));
        for row in 0..grid {
            for column in 0..grid {
                keys.extend(sines(column as f64, d / 2));
                keys.extend(sines(row as f64, d / 2));
            }
        }
        let table = |values: &[f32]| Tensor::from_slice(values).view([-1, d]).to_device(device);
        Self { of_queries: table(&queries), of_keys: table(&keys) }
    }
}

/// The visual abstractor.
#[derive(Debug)]
pub(super) struct Abstractor {
    query_embeds: Tensor, // (1, n, d), f32
    positions: Positions,
    layers: Vec<Layer>,
    visual_fc: Linear,
    vit_eos: Tensor, // (1, 1, e), f32
    kind: Kind,
}

impl Abstractor {
    pub(super) fn new(p: &CheckpointScope, config: &Config) -> Result<Self, CheckpointError> {
        let (sizes, e) = (&config.abstractor, config.decoder.dim);
        let layers = p.sub("encoder.layers");
        Ok(Self {
            query_embeds: p.get_as("query_embeds", &[1, sizes.n_queries, sizes.dim], Kind::Float)?,
            positions: Positions::new(sizes, config.vision.grid(), p.device()),
            layers: (0..sizes.n_layers).map(|i| Layer::new(&layers.sub(i), sizes)).collect::<Result<_, _>>()?,
            visual_fc: linear(&p.sub("visual_fc"), sizes.dim, e)?,
            vit_eos: p.get_as("vit_eos", &[1, 1, e], Kind::Float)?,
            kind: products_of(p.kind(), p.device()),
        })
    }

    /// # Shapes
    /// - seen: `(b, 1 + g², d)`, f32, the vision tower's tokens
    /// - returns: `(b, n + 1, e)`, f32: a token per query and the end token, in the language model's width
    pub(super) fn forward(&self, seen: &Tensor) -> Tensor {
        let (b, n, d) = (seen.size()[0], self.query_embeds.size()[1], self.query_embeds.size()[2]);
        let mut xs = self.query_embeds.expand([b, n, d], false);
        for layer in &self.layers {
            xs = layer.forward(&xs, seen, &self.positions, self.kind);
        }
        let xs = self.visual_fc.forward(&xs.to_kind(self.kind)).to_kind(Kind::Float); // (b, n, e)
        let end = self.vit_eos.expand([b, 1, self.vit_eos.size()[2]], false);
        Tensor::cat(&[xs, end], 1)
    }
}
