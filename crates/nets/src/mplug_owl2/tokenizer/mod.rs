//! LLaMA's tokenizer, from a checkpoint's own `tokenizer.model` or `tokenizer.json`.
//!
//! The published features were made with the behaviour that Hugging Face calls legacy. Text is cut at the special
//! tokens, each part between them is encoded by itself, and each part gets a dummy space in front. Encoding is
//! byte-pair merging as in sentencepiece's `bpe_model.cc` (v0.1.99). Of all neighbours whose concatenation is a piece,
//! the pair with the highest score is merged first; of equal scores, the leftmost. A symbol that is not a piece in the
//! end is spelled in bytes.

use std::collections::HashMap;
use std::path::Path;

mod json;
mod sentencepiece;

use super::LoadError;

/// The character that replaces a space.
const SPACE: char = '\u{2581}';

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Id and score of every piece that merging can give.
    pieces: HashMap<String, (i64, f32)>,
    /// Ids of the 256 bytes.
    bytes: Vec<i64>,
    /// Special tokens, which are searched for in the text.
    specials: Vec<(String, i64)>,
    bos: i64,
    n_tokens: usize,
}

/// Largest tokenizer file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

impl Tokenizer {
    /// The tokenizer in a checkpoint's folder: `tokenizer.model`, else `tokenizer.json`.
    ///
    /// # Errors
    /// Neither file exists, or the one found cannot be used.
    pub fn find(folder: &Path) -> Result<Self, LoadError> {
        let (model, json) = (folder.join("tokenizer.model"), folder.join("tokenizer.json"));
        if model.exists() {
            Self::read_sentencepiece(&model)
        } else if json.exists() {
            Self::read_json(&json)
        } else {
            Err(LoadError::NoTokenizer { folder: folder.to_owned() })
        }
    }

    /// Reads a `tokenizer.model` of sentencepiece.
    ///
    /// # Errors
    /// The file cannot be read, is not a tokenizer, or asks for rules other than LLaMA's.
    pub fn read_sentencepiece(path: &Path) -> Result<Self, LoadError> {
        Self::parsed(path, sentencepiece::parse)
    }

    /// Reads a `tokenizer.json` of Hugging Face's tokenizers.
    ///
    /// # Errors
    /// The file cannot be read, is not a tokenizer, or asks for rules other than LLaMA's.
    pub fn read_json(path: &Path) -> Result<Self, LoadError> {
        Self::parsed(path, json::parse)
    }

    fn parsed(path: &Path, parse: fn(&[u8]) -> Result<Vocabulary, String>) -> Result<Self, LoadError> {
        let unusable = |problem| LoadError::Unusable { path: path.to_owned(), problem };
        parse(&super::read(path, MAX_FILE_BYTES)?).and_then(Vocabulary::tokenizer).map_err(unusable)
    }

    /// Number of tokens. Ids are below it.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The id of the beginning of a sequence, followed by the ids of `text`.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let mut ids = vec![self.bos];
        let mut rest = text;
        while !rest.is_empty() {
            // The special token that comes first; of several at one place, the longest.
            let next = self
                .specials
                .iter()
                .filter_map(|(special, id)| rest.find(special.as_str()).map(|at| (at, special.len(), *id)))
                .min_by_key(|&(at, n, _)| (at, usize::MAX - n));
            let (at, n, id) = next.map_or((rest.len(), 0, None), |(at, n, id)| (at, n, Some(id)));
            self.encode_part(&rest[..at], &mut ids);
            ids.extend(id);
            rest = &rest[at + n..];
        }
        ids
    }

    /// Ids of text without special tokens.
    fn encode_part(&self, text: &str, ids: &mut Vec<i64>) {
        if text.is_empty() {
            return;
        }
        let mut normal = String::with_capacity(text.len() + 4);
        normal.push(SPACE);
        normal.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        // Ends of the symbols, which are single characters at first.
        let mut ends: Vec<usize> = normal.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
        loop {
            let start = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
            let mut best: Option<(f32, usize)> = None;
            for i in 0..ends.len().saturating_sub(1) {
                if let Some(&(_, score)) = self.pieces.get(&normal[start(i)..ends[i + 1]])
                    && best.is_none_or(|(best, _)| score > best)
                {
                    best = Some((score, i));
                }
            }
            let Some((_, i)) = best else { break };
            ends.remove(i);
        }
        let mut start = 0;
        for end in ends {
            let symbol = &normal[start..end];
            match self.pieces.get(symbol) {
                Some((id, _)) => ids.push(*id),
                None => ids.extend(symbol.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
            start = end;
        }
    }
}

/// The content of either file.
struct Vocabulary {
    /// Pieces that merging can give: text, id, score.
    pieces: Vec<(String, i64, f32)>,
    /// Pieces `<0x00>` to `<0xFF>`: byte and id.
    bytes: Vec<(u8, i64)>,
    /// Special tokens: text and id.
    specials: Vec<(String, i64)>,
    n_tokens: usize,
}

impl Vocabulary {
    fn tokenizer(self) -> Result<Tokenizer, String> {
        for (text, id) in &self.specials {
            // An empty token matches everywhere, so encoding would never end.
            if text.is_empty() {
                return Err(format!("the special token of id {id} is empty: expected a text such as `<s>`"));
            }
            if !usize::try_from(*id).is_ok_and(|id| id < self.n_tokens) {
                let n_tokens = self.n_tokens;
                return Err(format!(
                    "special token `{text}` has the id {id}: expected one below {n_tokens}, the number of pieces"
                ));
            }
        }
        let mut bytes = vec![None; 256];
        for (byte, id) in self.bytes {
            bytes[usize::from(byte)] = Some(id);
        }
        let bytes = bytes.into_iter().collect::<Option<Vec<i64>>>();
        let bytes =
            bytes.ok_or("it lacks pieces `<0x00>` to `<0xFF>`: expected a LLaMA tokenizer with byte fallback")?;
        let bos = self.specials.iter().find(|(text, _)| text == "<s>").map(|(_, id)| *id);
        Ok(Tokenizer {
            pieces: self.pieces.into_iter().map(|(text, id, score)| (text, (id, score))).collect(),
            bytes,
            bos: bos.ok_or("it has no special token `<s>`: expected a LLaMA tokenizer")?,
            specials: self.specials,
            n_tokens: self.n_tokens,
        })
    }
}

/// The byte that a piece like `<0x0A>` encodes.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
