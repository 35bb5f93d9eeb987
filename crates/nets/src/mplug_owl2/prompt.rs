//! Prompts: questions in the template of the published code.

use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;

/// Text before a question.
const BEFORE: &str = "USER: ";

/// Marks the place of the visual tokens. The text after it is the same for every prompt.
const IMAGE_MARKER: &str = "<|image|>";

/// Text after a question.
const AFTER: &str = "\n<|image|> ASSISTANT:";

/// A prompt: a name for its column, and its question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Name of the vector column that its embeddings fill.
    pub column: String,
    /// The question, which goes into the template `USER: {question}\n<|image|> ASSISTANT:`.
    pub question: String,
}

impl Prompt {
    /// The two prompts of the paper (§3.2): `f_a` asks for semantic content, `f_b` for coherence.
    pub fn of_the_paper() -> Vec<Self> {
        let prompt = |column: &str, question: &str| Self { column: column.to_owned(), question: question.to_owned() };
        vec![
            prompt(
                "f_a",
                "Evaluate the input image to determine if its quality is compromised due to a lack of meaningful \
                 semantic content.",
            ),
            prompt("f_b", "Evaluate if the image quality is compromised due to violations of coherence."),
        ]
    }

    /// The whole text.
    pub fn text(&self) -> String {
        format!("{BEFORE}{}{AFTER}", self.question)
    }

    /// Whether the question contains the image marker, which only the template may contain.
    pub fn has_marker(&self) -> bool {
        self.question.contains(IMAGE_MARKER)
    }
}

/// Token ids on both sides of the visual tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptIds {
    /// Ids before the image. The first one marks the beginning of the sequence.
    pub before: Vec<i64>,
    /// Ids after the image.
    pub after: Vec<i64>,
}

impl PromptIds {
    /// Encodes a prompt.
    ///
    /// # Panics
    /// If [`Prompt::has_marker`]. Settings refuse such a question.
    pub fn of(prompt: &Prompt, tokenizer: &Tokenizer) -> Self {
        assert!(!prompt.has_marker(), "a question without the marker");
        Self::of_text(&prompt.text(), tokenizer)
    }

    /// Encodes a whole text. It is split at the marker, each part is encoded by itself, and the second part's
    /// beginning-of-sequence token is dropped.
    ///
    /// # Panics
    /// If the text has no marker `<|image|>`.
    pub(crate) fn of_text(text: &str, tokenizer: &Tokenizer) -> Self {
        let (before, after) = text.split_once(IMAGE_MARKER).expect("the text has the marker");
        Self { before: tokenizer.encode(before), after: tokenizer.encode(after)[1..].to_vec() }
    }
}
