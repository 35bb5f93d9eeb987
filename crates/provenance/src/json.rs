//! Generation data as JSON: InvokeAI, NovelAI, Fooocus, SwarmUI, Easy Diffusion's JPEGs, Draw Things.

use serde_json::Value;

use crate::container::Found;
use crate::{Finding, MAX_JSON, filled};

/// What the texts of a file say.
pub(crate) fn in_texts(found: &mut Found) -> Vec<Finding> {
    let new = keyed(found, "invokeai_metadata").map(|value| invoke_ai(&value));
    let old = keyed(found, "sd-metadata").map(|value| old_invoke_ai(&value));
    let mut findings: Vec<Finding> = new.into_iter().chain(old).collect();
    if found.text("Software") == Some("NovelAI") {
        findings.push(novel_ai(found));
    }
    let comments = std::mem::take(&mut found.comments);
    let keyed = [keyed(found, "parameters"), keyed(found, "Comment")].into_iter().flatten();
    let of_comments = comments.iter().filter(|text| text.trim_start().starts_with('{'));
    let of_comments: Vec<Value> = of_comments.filter_map(|text| parsed(text, "user comment", found)).collect();
    findings.extend(keyed.chain(of_comments).filter_map(|value| object(&value)));
    findings
}

/// The JSON under `key`.
pub(crate) fn keyed(found: &mut Found, key: &str) -> Option<Value> {
    let text = found.text(key).filter(|text| text.trim_start().starts_with('{'))?.to_owned();
    parsed(&text, key, found)
}

/// Parses `text`. Python's bare `NaN` and `Infinity`, which are no JSON, become null.
fn parsed(text: &str, key: &str, found: &mut Found) -> Option<Value> {
    if text.len() > MAX_JSON {
        found.note(format!("the JSON of `{key}` has {} bytes: at most {MAX_JSON} are parsed", text.len()));
        return None;
    }
    match serde_json::from_str(text)
        .or_else(|error| serde_json::from_str(&without_bare_numbers(text)).map_err(|_| error))
    {
        Ok(value) => Some(value),
        Err(error) => {
            found.note(format!("`{key}` is not JSON: {error}"));
            None
        }
    }
}

fn without_bare_numbers(text: &str) -> String {
    let (mut out, mut rest, mut is_string) = (String::with_capacity(text.len()), text, false);
    while let Some(first) = rest.chars().next() {
        let bare = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| !is_string && rest.starts_with(word));
        let n_bytes = match bare {
            Some(word) => word.len(),
            None if is_string && first == '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            None => first.len_utf8(),
        };
        out.push_str(if bare.is_some() { "null" } else { &rest[..n_bytes] });
        is_string ^= first == '"';
        rest = &rest[n_bytes..];
    }
    out
}

/// A text, or a number as text.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => filled(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn field(value: &Value, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| text(value.get(key)?))
}

/// An object under a key or in a comment that several tools use: the keys within tell which one.
fn object(value: &Value) -> Option<Finding> {
    if let Some(swarm) = value.get("sui_image_params") {
        return Some(plain(swarm, "SwarmUI"));
    }
    let has = |key: &str| value.get(key).is_some();
    let version = field(value, &["version", "Version"]).unwrap_or_default();
    if version.starts_with("Fooocus") || has("base_model") || has("Base Model") {
        return Some(plain(value, "Fooocus"));
    }
    if has("use_stable_diffusion_model") {
        return Some(plain(value, "Easy Diffusion"));
    }
    let (prompt, negative_prompt) = (field(value, &["c"]), field(value, &["uc"]));
    (prompt.is_some() && has("sampler")).then(|| Finding { prompt, negative_prompt, ..plain(value, "Draw Things") })
}

/// The values under the names that most tools give them.
fn plain(value: &Value, tool: &str) -> Finding {
    Finding {
        prompt: field(value, &["prompt", "Prompt"]),
        negative_prompt: field(value, &["negative_prompt", "negativeprompt", "Negative Prompt"]),
        seed: field(value, &["seed", "Seed"]),
        model: field(value, &["model", "base_model", "Base Model", "use_stable_diffusion_model"]),
        sampler: field(value, &["sampler", "Sampler", "sampler_name"]),
        ..Finding::of(tool)
    }
}

fn invoke_ai(value: &Value) -> Finding {
    let model = value.get("model").and_then(|model| field(model, &["name", "model_name"]));
    Finding {
        prompt: field(value, &["positive_prompt"]),
        sampler: field(value, &["scheduler"]),
        model,
        ..plain(value, "InvokeAI")
    }
}

fn old_invoke_ai(value: &Value) -> Finding {
    let image = value.get("image").unwrap_or(&Value::Null);
    let prompts = image.get("prompt").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    // Several prompts are one of weighted parts; their text alone does not say how they were mixed.
    let of_list = match prompts {
        [only] => field(only, &["prompt"]),
        _ => None,
    };
    Finding {
        is_ambiguous: prompts.len() > 1,
        prompt: field(image, &["prompt"]).or(of_list),
        model: field(value, &["model_weights"]),
        ..plain(image, "InvokeAI")
    }
}

fn novel_ai(found: &mut Found) -> Finding {
    let comment = keyed(found, "Comment").unwrap_or_default();
    // Read as NovelAI's, it must not be read again as some other tool's.
    found.texts.retain(|(key, _)| key != "Comment");
    Finding {
        prompt: found.text("Description").and_then(filled),
        negative_prompt: field(&comment, &["uc"]),
        model: found.text("Source").and_then(filled),
        ..plain(&comment, "NovelAI")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_of_python_become_null_outside_of_strings() {
        let text = r#"{"a": NaN, "b": [-Infinity, "NaN \" Infinity é"], "c": 1}"#;
        let expected = r#"{"a": null, "b": [null, "NaN \" Infinity é"], "c": 1}"#;
        assert_eq!(without_bare_numbers(text), expected);
    }
}
