//! `tokenizer.json` of Hugging Face's tokenizers. It has a list of merges instead of scores.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Vocabulary, byte_of};

#[derive(Deserialize)]
struct File {
    added_tokens: Vec<AddedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: i64,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    vocab: HashMap<String, i64>,
    merges: Vec<Merge>,
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vocabulary, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| format!("it is not a tokenizer: {error}"))?;
    let normalizer = serde_json::json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ]});
    let rules = [
        ("a BPE model", file.model.kind.as_deref() == Some("BPE")),
        ("byte_fallback", file.model.byte_fallback),
        ("a normalizer that prepends and replaces spaces, and no other", file.normalizer == normalizer),
        ("no pre_tokenizer", file.pre_tokenizer.is_null()),
        ("special added tokens only", file.added_tokens.iter().all(|token| token.special)),
    ];
    if let Some((rule, _)) = rules.into_iter().find(|(_, holds)| !holds) {
        return Err(format!("it is not a LLaMA tokenizer: expected {rule}"));
    }
    let specials: Vec<(String, i64)> = file.added_tokens.into_iter().map(|token| (token.content, token.id)).collect();
    // The list holds every split of a piece and is sorted by falling score of the piece, so the first split has its
    // rank.
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(file.model.merges.len());
    for (rank, merge) in file.model.merges.into_iter().enumerate() {
        let merged = match merge {
            Merge::Pair(a, b) => a + &b,
            Merge::Joined(pair) => {
                let (a, b) = pair.split_once(' ').ok_or_else(|| format!("merge {rank} is not a pair: `{pair}`"))?;
                format!("{a}{b}")
            }
        };
        ranks.entry(merged).or_insert(rank);
    }
    let n_tokens = file.model.vocab.len();
    let mut vocabulary = Vocabulary { pieces: Vec::new(), bytes: Vec::new(), specials, n_tokens };
    for (piece, id) in file.model.vocab {
        if usize::try_from(id).is_ok_and(|id| id >= n_tokens) || id < 0 {
            return Err(format!(
                "piece `{piece}` has the id {id}: expected one below {n_tokens}, the number of pieces"
            ));
        }
        if vocabulary.specials.iter().any(|(special, _)| *special == piece) {
            continue;
        }
        match (byte_of(&piece), ranks.get(&piece)) {
            (Some(byte), None) => vocabulary.bytes.push((byte, id)),
            // A piece that no merge gives is a single character. Its score is never used.
            (_, rank) => vocabulary.pieces.push((piece, id, rank.map_or(f32::NEG_INFINITY, |&rank| -(rank as f32)))),
        }
    }
    Ok(vocabulary)
}
