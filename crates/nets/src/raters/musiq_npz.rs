//! The authors' files of MUSIQ, arrays of flax: other names, and weights with their inputs first.

use agiqa_checkpoint::StoredTensor;

/// The name of an array that these files have.
pub(super) const NPZ_LANDMARK: &str = "opt/target/conv_root/kernel";

/// What all weights' names begin with. The other arrays are the optimiser's.
const WEIGHTS: &str = "opt/target/";

/// Parts of a block: flax's names and ours.
const PARTS: [(&str, &str); 8] = [
    ("LayerNorm_0", "norm1"),
    ("LayerNorm_2", "norm2"),
    ("MultiHeadDotProductAttention_1/query", "attention.query"),
    ("MultiHeadDotProductAttention_1/key", "attention.key"),
    ("MultiHeadDotProductAttention_1/value", "attention.value"),
    ("MultiHeadDotProductAttention_1/out", "attention.out"),
    ("MlpBlock_3/Dense_0", "mlp.fc1"),
    ("MlpBlock_3/Dense_1", "mlp.fc2"),
];

/// Our name and arrangement of the array `stored`; `None` if it is no weight of the network.
pub(super) fn arranged(stored: &str, array: &StoredTensor) -> Option<Result<(String, StoredTensor), &'static str>> {
    let path = stored.strip_prefix(WEIGHTS)?;
    let tables = [
        ("Transformer/cls", "transformer_encoder.cls"),
        ("Transformer/posembed_input/pos_embedding", "transformer_encoder.posembed_input.position_emb"),
        ("Transformer/scaleembed_input/scale_embedding", "transformer_encoder.scaleembed_input.scale_emb"),
    ];
    let shape = array.info().shape.as_slice();
    if let Some((_, name)) = tables.iter().find(|(flax, _)| *flax == path) {
        // pyiqa's table of scales has no dimension of the batch.
        let tensor = match shape {
            [1, rest @ ..] if name.ends_with("scale_emb") => array.reshaped(rest),
            _ => Some(array.clone()),
        };
        return Some(tensor.map(|tensor| ((*name).to_owned(), tensor)).ok_or("values by rows"));
    }
    let (layer, kind) = path.rsplit_once('/')?;
    let layer = layer_name(layer, array)?;
    let (name, tensor) = match (kind, shape) {
        ("kernel", [_, _, _, _]) => ("weight", array.permuted(&[3, 2, 0, 1])),
        ("kernel", [_, _]) => ("weight", array.permuted(&[1, 0])),
        // Heads on the side of the inputs.
        ("kernel", [n_heads, d_head, d_out]) if layer.ends_with("attention.out") => {
            ("weight", joined(array, &[n_heads * d_head, *d_out]))
        }
        ("kernel", [d_in, n_heads, d_head]) => ("weight", joined(array, &[*d_in, n_heads * d_head])),
        ("scale", _) => ("weight", flat(array)),
        ("bias", _) => ("bias", flat(array)),
        _ => return Some(Err("a kernel of 2, 3 or 4 dimensions, a scale or a bias")),
    };
    Some(tensor.map(|tensor| (format!("{layer}.{name}"), tensor)).ok_or("values by rows"))
}

/// Our name of a layer; `None` if the network has no such layer.
fn layer_name(flax: &str, array: &StoredTensor) -> Option<String> {
    if let Some(unit) = flax.strip_prefix("block1/unit1/") {
        return Some(format!("block1.{unit}"));
    }
    let Some(part) = flax.strip_prefix("Transformer/") else {
        // pyiqa numbers the head of several classes, which has a softmax after it.
        let n_classes = array.info().shape.last().copied().unwrap_or(1);
        return Some(if flax == "head" && n_classes > 1 { "head.0".to_owned() } else { flax.to_owned() });
    };
    if part == "encoder_norm" {
        return Some("transformer_encoder.encoder_norm".to_owned());
    }
    let (block, part) = part.split_once('/')?;
    let (_, part) = PARTS.iter().find(|(flax, _)| *flax == part)?;
    block.starts_with("encoderblock_").then(|| format!("transformer_encoder.transformer.{block}.{part}"))
}

/// The matrix of shape `(in, out)` that `array` has under `shape`, as `(out, in)`.
fn joined(array: &StoredTensor, shape: &[i64; 2]) -> Option<StoredTensor> {
    array.reshaped(shape)?.permuted(&[1, 0])
}

fn flat(array: &StoredTensor) -> Option<StoredTensor> {
    array.reshaped(&[array.numel() as i64])
}
