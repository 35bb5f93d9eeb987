//! `tokenizer.model`: sentencepiece's `ModelProto`. Only the fields that decide ids are declared here, with their
//! numbers from `sentencepiece_model.proto` at v0.1.99.

use prost::Message;

use super::{Vocabulary, byte_of};

/// `TrainerSpec.ModelType.BPE`.
const BPE: i32 = 2;

/// `SentencePiece.Type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct SentencePiece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    treat_whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    byte_fallback: bool,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vocabulary, String> {
    let model = ModelProto::decode(bytes).map_err(|error| format!("it is not a sentencepiece model: {error}"))?;
    let trainer = model.trainer_spec.unwrap_or_default();
    let normalizer = model.normalizer_spec.unwrap_or_default();
    // Absent fields have the schema's defaults.
    let rules = [
        ("model_type BPE", trainer.model_type == Some(BPE)),
        ("byte_fallback", trainer.byte_fallback),
        ("spaces before words", !trainer.treat_whitespace_as_suffix),
        ("no normalisation", normalizer.precompiled_charsmap.is_empty()),
        ("add_dummy_prefix", normalizer.add_dummy_prefix.unwrap_or(true)),
        ("remove_extra_whitespaces off", !normalizer.remove_extra_whitespaces.unwrap_or(true)),
        ("escape_whitespaces", normalizer.escape_whitespaces.unwrap_or(true)),
    ];
    if let Some((rule, _)) = rules.into_iter().find(|(_, holds)| !holds) {
        return Err(format!("it is not a LLaMA tokenizer: expected {rule}"));
    }
    let n_tokens = model.pieces.len();
    let mut vocabulary = Vocabulary { pieces: Vec::new(), bytes: Vec::new(), specials: Vec::new(), n_tokens };
    for (id, piece) in model.pieces.into_iter().enumerate() {
        let SentencePiece { piece, score, kind } = piece;
        let id = id as i64;
        match kind.unwrap_or(NORMAL) {
            NORMAL => vocabulary.pieces.push((piece, id, score)),
            // The legacy tokenizer treats LLaMA's control pieces and its unknown piece as special tokens.
            CONTROL | UNKNOWN => vocabulary.specials.push((piece, id)),
            BYTE => {
                let byte = byte_of(&piece).ok_or_else(|| format!("piece `{piece}` is marked as a byte"))?;
                vocabulary.bytes.push((byte, id));
            }
            USER_DEFINED => {
                return Err(format!("piece `{piece}` is user-defined: LLaMA's tokenizer has no such pieces"));
            }
            kind => return Err(format!("piece `{piece}` has type {kind}: LLaMA's tokenizer has no such pieces")),
        }
    }
    Ok(vocabulary)
}
