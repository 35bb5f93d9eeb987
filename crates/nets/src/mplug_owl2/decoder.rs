//! The language model, a LLaMA with two branches. Text positions and visual positions have their own norms before
//! attention and MLP, and their own key and value projections (`MultiwayNetwork` in
//! `mplug_owl2/model/modeling_llama2.py` of the published code).
//!
//! A sequence is a list of [`Segment`]s, text or visual, the same for all sequences of a batch. Rows are ordered
//! segment by segment: first the first segments of all sequences, then their second segments. So each branch works on
//! contiguous rows, and the layers that both branches share work on all rows at once. Nothing is gathered or scattered.

use tch::{Device, Kind, Tensor};

use super::config::DecoderConfig;
use crate::attention::attend;
use crate::checkpoint::{CheckpointError, CheckpointScope};
use crate::layers::{Linear, RmsNorm, products_of};

/// The branch that positions take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branch {
    /// Text: `multiway.0`.
    Text,
    /// Visual tokens and their end token: `multiway.1`.
    Visual,
}

/// Neighbouring positions of one branch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) branch: Branch,
    pub(super) n_tokens: i64,
}

/// Keys and values of the positions at the beginning of all sequences of a group.
#[derive(Debug)]
pub(super) struct Prefix {
    /// Number of positions.
    pub(super) n_tokens: i64,
    /// Sum of the final hidden states over these positions, `(d,)`, f32.
    pub(super) hidden_sum: Tensor,
    /// Per layer: rotated keys, and values, `(1, h, p, d/h)`.
    layers: Vec<(Tensor, Tensor)>,
}

/// Sequences of a batch with the same prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    /// Number of sequences.
    pub(super) n_sequences: i64,
    /// The prefix before them; `None` if they start at position 0.
    pub(super) prefix: Option<&'a Prefix>,
}

/// A pair of layers, one per branch.
#[derive(Debug)]
struct Multiway<T> {
    text: T,
    visual: T,
}

impl<T> Multiway<T> {
    fn new(
        p: &CheckpointScope,
        new: impl Fn(&CheckpointScope) -> Result<T, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let p = p.sub("multiway");
        Ok(Self { text: new(&p.sub(0))?, visual: new(&p.sub(1))? })
    }

    fn of(&self, branch: Branch) -> &T {
        match branch {
            Branch::Text => &self.text,
            Branch::Visual => &self.visual,
        }
    }
}

/// The arrangement of segments in rows.
struct Rows<'a> {
    segments: &'a [Segment],
    n_sequences: i64,
}

impl Rows<'_> {
    /// Number of positions of a sequence.
    fn n_positions(&self) -> i64 {
        self.segments.iter().map(|segment| segment.n_tokens).sum()
    }

    /// Applies `f` to each segment's rows.
    fn each<T>(&self, xs: &Tensor, mut f: impl FnMut(Segment, Tensor) -> T) -> Vec<T> {
        let mut start = 0;
        let call = |segment: &Segment| {
            let n_rows = segment.n_tokens * self.n_sequences;
            let rows = xs.narrow(0, start, n_rows);
            start += n_rows;
            f(*segment, rows)
        };
        self.segments.iter().map(call).collect()
    }

    /// Converts rows, `(Σ rows, d)`, to sequences, `(b, n, d)`.
    fn sequences(&self, xs: &Tensor) -> Tensor {
        let b = self.n_sequences;
        let parts = self.each(xs, |segment, rows| rows.view([b, segment.n_tokens, -1]));
        Tensor::cat(&parts, 1)
    }

    /// Converts sequences, `(b, n, d)`, to rows.
    fn rows(&self, xs: &Tensor) -> Tensor {
        let d = xs.size()[2];
        let mut start = 0;
        let segment_rows = |segment: &Segment| {
            let part = xs.narrow(1, start, segment.n_tokens).reshape([-1, d]);
            start += segment.n_tokens;
            part
        };
        Tensor::cat(&self.segments.iter().map(segment_rows).collect::<Vec<_>>(), 0)
    }

    /// The rows of the sequences' last positions, `(b, d)`.
    fn last(&self, xs: &Tensor) -> Tensor {
        let (n_last, d) = (self.segments.last().map_or(0, |segment| segment.n_tokens), xs.size()[1]);
        let n_rows = n_last * self.n_sequences;
        xs.narrow(0, xs.size()[0] - n_rows, n_rows).view([self.n_sequences, n_last, d]).select(1, n_last - 1)
    }
}

#[derive(Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Multiway<Linear>,
    v_proj: Multiway<Linear>,
    o_proj: Linear,
}

#[derive(Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    /// `down(silu(gate x) ⊙ up x)`
    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.gate_proj.prepare(xs);
        let hidden = self.gate_proj.forward(&xs).silu_().g_mul_(&self.up_proj.forward(&xs));
        self.down_proj.forward(&hidden)
    }
}

#[derive(Debug)]
struct Layer {
    input_layernorm: Multiway<RmsNorm>,
    self_attn: Attention,
    post_attention_layernorm: Multiway<RmsNorm>,
    mlp: Mlp,
}

impl Layer {
    fn new(p: &CheckpointScope, config: &DecoderConfig) -> Result<Self, CheckpointError> {
        let (d, m) = (config.dim, config.mlp_dim);
        let norm = |name: &str| Multiway::new(&p.sub(name), |p| RmsNorm::new(p, d, config.rms_norm_eps));
        let attn = p.sub("self_attn");
        let linear = |p: &CheckpointScope, d_in, d_out| Ok(Linear::without_bias(p, d_in, d_out)?.fastest(p.device()));
        let square = |p: &CheckpointScope| linear(p, d, d);
        let mlp = p.sub("mlp");
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention {
                q_proj: square(&attn.sub("q_proj"))?,
                k_proj: Multiway::new(&attn.sub("k_proj"), square)?,
                v_proj: Multiway::new(&attn.sub("v_proj"), square)?,
                o_proj: square(&attn.sub("o_proj"))?,
            },
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp {
                gate_proj: linear(&mlp.sub("gate_proj"), d, m)?,
                up_proj: linear(&mlp.sub("up_proj"), d, m)?,
                down_proj: linear(&mlp.sub("down_proj"), m, d)?,
            },
        })
    }
}

/// Cosines and sines of rotary embeddings.
#[derive(Debug)]
struct Rotary {
    cos: Tensor, // (max, d_head / 2), f32
    sin: Tensor, // (max, d_head / 2), f32
}

impl Rotary {
    fn new(d_head: i64, theta: f64, n_positions: i64, device: Device) -> Self {
        let options = (Kind::Float, device);
        let exponents = Tensor::arange_start_step(0, d_head, 2, options) / d_head as f64;
        let frequencies = Tensor::pow_scalar(theta, &exponents).reciprocal(); // (d_head / 2,)
        let angles = Tensor::arange(n_positions, options).outer(&frequencies); // (max, d_head / 2)
        Self { cos: angles.cos(), sin: angles.sin() }
    }

    /// Rotates value `i` with value `i + d_head / 2`, in f32.
    ///
    /// # Shapes
    /// - xs: `(b, h, n, d_head)`, at positions `start ..`
    /// - returns: the shape and kind of `xs`
    fn forward(&self, xs: &Tensor, start: i64) -> Tensor {
        let n = xs.size()[2];
        let (cos, sin) = (self.cos.narrow(0, start, n), self.sin.narrow(0, start, n));
        let halves = xs.to_kind(Kind::Float).chunk(2, -1);
        let (a, b) = (&halves[0], &halves[1]);
        Tensor::cat(&[a * &cos - b * &sin, b * &cos + a * &sin], -1).to_kind(xs.kind())
    }
}

/// Result of a pass through the layers.
pub(super) struct Passed {
    /// Final hidden states after the last norm, `(b, n, d)`, f32; n is 1 with [`Output::Last`].
    pub(super) hidden: Tensor,
    /// Per layer: rotated keys, and values, of the computed positions, `(b, h, n, d/h)`; empty unless asked for.
    layers: Vec<(Tensor, Tensor)>,
}

/// Greatest number of rows of a pass over prefixes, padding included. It limits the memory: 90 MB in the widest layer
/// of 7B.
const MAX_PREFIX_ROWS: i64 = 2048;

/// The results that a pass gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Hidden states of all positions.
    All,
    /// The same, and keys and values.
    AllWithKeys,
    /// The hidden state of each sequence's last position. The last layer does no work for the others but their keys and
    /// values.
    Last,
}

/// The language model without its output head.
#[derive(Debug)]
pub(super) struct Decoder {
    layers: Vec<Layer>,
    norm: RmsNorm,
    rotary: Rotary,
    n_heads: i64,
    kind: Kind,
    device: Device,
}

impl Decoder {
    /// Builds the language model for sequences of at most `n_positions`.
    pub(super) fn new(p: &CheckpointScope, config: &DecoderConfig, n_positions: i64) -> Result<Self, CheckpointError> {
        let layers = p.sub("layers");
        Ok(Self {
            layers: (0..config.n_layers).map(|i| Layer::new(&layers.sub(i), config)).collect::<Result<_, _>>()?,
            norm: RmsNorm::new(&p.sub("norm"), config.dim, config.rms_norm_eps)?,
            rotary: Rotary::new(config.dim / config.n_heads, config.rope_theta, n_positions, p.device()),
            n_heads: config.n_heads,
            kind: products_of(p.kind(), p.device()),
            device: p.device(),
        })
    }

    /// Computes the prefix of each list of tokens. Short lists, such as questions, share one pass, so that weights are
    /// read and widened only once.
    ///
    /// # Shapes
    /// - xs: each `(p, d)`, f32, embedded text
    pub(super) fn prefixes(&self, xs: &[Tensor]) -> Vec<Prefix> {
        let mut prefixes = Vec::with_capacity(xs.len());
        let mut rest = xs;
        while !rest.is_empty() {
            let mut n_max = 0;
            let fits = |(n_before, xs): &(i64, &Tensor)| {
                n_max = xs.size()[0].max(n_max);
                (n_before + 1) * n_max <= MAX_PREFIX_ROWS
            };
            let (now, later) = rest.split_at((0..).zip(rest).take_while(fits).count().max(1));
            prefixes.extend(self.prefixes_at_once(now));
            rest = later;
        }
        prefixes
    }

    fn prefixes_at_once(&self, xs: &[Tensor]) -> Vec<Prefix> {
        let n_max = xs.iter().map(|xs| xs.size()[0]).max().unwrap_or(0);
        // A position does not see later positions, so the padding after a list's end does not change the list.
        let padded: Vec<Tensor> = xs.iter().map(|xs| xs.constant_pad_nd([0, 0, 0, n_max - xs.size()[0]])).collect();
        let segments = [Segment { branch: Branch::Text, n_tokens: n_max }];
        let groups = [Group { n_sequences: xs.len() as i64, prefix: None }];
        let Passed { hidden, layers } = self.pass(&Tensor::cat(&padded, 0), &segments, &groups, Output::AllWithKeys);
        let prefix = |(i, xs): (i64, &Tensor)| {
            let n_tokens = xs.size()[0];
            let unpadded = |kept: &Tensor| kept.narrow(0, i, 1).narrow(2, 0, n_tokens);
            let hidden = hidden.get(i).narrow(0, 0, n_tokens); // (p, d)
            let hidden_sum = hidden.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float);
            Prefix {
                n_tokens,
                hidden_sum,
                layers: layers.iter().map(|(keys, values)| (unpadded(keys), unpadded(values))).collect(),
            }
        };
        (0..).zip(xs).map(prefix).collect()
    }

    /// Final hidden states of sequences. Their positions follow their groups' prefixes.
    ///
    /// # Shapes
    /// - xs: `(Σ rows, d)`, f32: for each segment, the tokens of all sequences, groups one after the other
    /// - returns: `(b, n, d)`, f32
    pub(super) fn forward(&self, xs: &Tensor, segments: &[Segment], groups: &[Group]) -> Tensor {
        self.pass(xs, segments, groups, Output::All).hidden
    }

    /// Final hidden states of the sequences' last positions.
    ///
    /// # Shapes
    /// - xs: as in [`Self::forward`]
    /// - returns: `(b, d)`, f32
    pub(super) fn last(&self, xs: &Tensor, segments: &[Segment], groups: &[Group]) -> Tensor {
        self.pass(xs, segments, groups, Output::Last).hidden.squeeze_dim(1)
    }

    fn pass(&self, xs: &Tensor, segments: &[Segment], groups: &[Group], output: Output) -> Passed {
        let n_sequences = groups.iter().map(|group| group.n_sequences).sum();
        let rows = Rows { segments, n_sequences };
        let last = [Segment { branch: segments.last().map_or(Branch::Text, |last| last.branch), n_tokens: 1 }];
        let only_last = Rows { segments: &last, n_sequences };
        let mask = |group: &Group| self.mask(rows.n_positions(), group);
        let masked: Vec<(Group, Tensor)> = groups.iter().map(|group| (*group, mask(group))).collect();
        let mut kept = Vec::new();
        let mut xs = xs.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let is_cut = output == Output::Last && i + 1 == self.layers.len();
            let computed = if is_cut { &only_last } else { &rows };
            let (attended, keys_and_values) = self.attend(layer, i, &xs, &rows, computed, &masked);
            // Not in place: the first input belongs to the caller.
            xs = (if is_cut { rows.last(&xs) } else { xs }) + attended;
            if output == Output::AllWithKeys {
                kept.push(keys_and_values);
            }
            let normed = computed.each(&xs, |segment, rows| {
                layer.post_attention_layernorm.of(segment.branch).forward(&rows).to_kind(self.kind)
            });
            xs = &xs + layer.mlp.forward(&Tensor::cat(&normed, 0));
        }
        let computed = if output == Output::Last { &only_last } else { &rows };
        Passed { hidden: computed.sequences(&self.norm.forward(&xs)), layers: kept }
    }

    /// The causal mask of `n` positions after a group's prefix, `(n, p + n)`.
    fn mask(&self, n: i64, group: &Group) -> Tensor {
        let p = group.prefix.map_or(0, |prefix| prefix.n_tokens);
        let hidden = Tensor::full([n, p + n], f64::NEG_INFINITY, (Kind::Float, self.device));
        hidden.triu(p + 1).to_kind(self.kind)
    }

    /// The attention of a layer for the positions `computed`, all or the last ones, and the keys and values of all,
    /// `(b, h, n, d/h)`.
    fn attend(
        &self,
        layer: &Layer,
        layer_idx: usize,
        xs: &Tensor,
        rows: &Rows,
        computed: &Rows,
        groups: &[(Group, Tensor)],
    ) -> (Tensor, (Tensor, Tensor)) {
        let attn = &layer.self_attn;
        let heads = |xs: Tensor| {
            let (b, n, d) = xs.size3().expect("sequences are (b, n, d)");
            xs.view([b, n, self.n_heads, d / self.n_heads]).transpose(1, 2) // (b, h, n, d/h)
        };
        let normed =
            rows.each(xs, |segment, rows| layer.input_layernorm.of(segment.branch).forward(&rows).to_kind(self.kind));
        let project = |proj: &Multiway<Linear>| {
            let parts: Vec<Tensor> =
                rows.segments.iter().zip(&normed).map(|(segment, xs)| proj.of(segment.branch).forward(xs)).collect();
            heads(rows.sequences(&Tensor::cat(&parts, 0)))
        };
        let (k, v) = (project(&attn.k_proj), project(&attn.v_proj));
        let all = Tensor::cat(&normed, 0);
        let n = k.size()[2];
        let asking = if computed.n_positions() == n { all } else { rows.last(&all) };
        let q = heads(computed.sequences(&attn.q_proj.forward(&asking)));
        let n_skipped = n - computed.n_positions();
        let mut first = 0;
        let (mut attended, mut keys) = (Vec::new(), Vec::new());
        for (group, mask) in groups {
            let mask = mask.narrow(0, n_skipped, n - n_skipped);
            let b = group.n_sequences;
            let in_group = |xs: &Tensor| xs.narrow(0, first, b);
            let start = group.prefix.map_or(0, |prefix| prefix.n_tokens);
            let q = self.rotary.forward(&in_group(&q), start + n_skipped);
            let k = self.rotary.forward(&in_group(&k), start);
            let v = in_group(&v);
            let after = |before: &Tensor, xs: &Tensor| {
                let (h, p, d) = (before.size()[1], before.size()[2], before.size()[3]);
                Tensor::cat(&[before.expand([b, h, p, d], false), xs.shallow_clone()], 2)
            };
            attended.push(match group.prefix.map(|prefix| &prefix.layers[layer_idx]) {
                Some((keys, values)) => attend(&q, &after(keys, &k), &after(values, &v), Some(&mask)),
                None => attend(&q, &k, &v, Some(&mask)),
            });
            keys.push(k);
            first += b;
        }
        let attended = computed.rows(&Tensor::cat(&attended, 0));
        (attn.o_proj.forward(&attended), (Tensor::cat(&keys, 0), v))
    }
}
