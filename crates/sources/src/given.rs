//! What a table, a webdataset's member or a file next to an image says of the image's making.

use serde_json::{Map, Value};

/// The making of an image, as someone has written it down. Absent values are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The prompt.
    pub prompt: Option<String>,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// The seed, as text: seeds reach 2^64.
    pub seed: Option<String>,
    /// The model that made the image, in the words of the corpus.
    pub generator: Option<String>,
    /// The model, in the words of the tool.
    pub model: Option<String>,
    /// The sampler.
    pub sampler: Option<String>,
    /// Equal for images that were made for the same purpose.
    pub group_id: Option<String>,
}

impl Given {
    /// The values that `value` gives for the names of columns.
    pub fn of(value: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| value(name)).filter(|value| !value.trim().is_empty());
        Self {
            prompt: first(&["prompt", "caption", "text"]),
            negative_prompt: first(&["negative_prompt"]),
            seed: first(&["seed"]),
            generator: first(&["generator"]),
            model: first(&["model"]),
            sampler: first(&["sampler"]),
            group_id: first(&["group_id"]),
        }
    }

    /// The values of an object of JSON, numbers as their text.
    pub fn of_json(object: &Map<String, Value>) -> Self {
        Self::of(|name| match object.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        })
    }

    /// A prompt and nothing else; nothing if it is empty.
    pub fn of_prompt(text: &str) -> Self {
        let prompt = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Self { prompt, ..Self::default() }
    }
}
