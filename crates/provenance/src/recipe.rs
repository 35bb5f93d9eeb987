//! Generation data as plain text: AUTOMATIC1111 and its kin (Forge, SD.Next and others), Easy Diffusion, Midjourney, and
//! the oldest InvokeAI.

use crate::container::Found;
use crate::{Finding, filled};

/// Bytes of a line of settings; longer lines are a prompt's.
const MAX_SETTINGS: usize = 64 << 10;

/// Matches that make the last line one of settings.
const MIN_SETTINGS: usize = 3;

const NEGATIVE: &str = "Negative prompt:";

/// What the texts of a file say.
pub(crate) fn in_texts(found: &Found) -> Vec<Finding> {
    let is_json = |text: &str| text.trim_start().starts_with('{');
    let mut findings = Vec::new();
    // A text under this key is the recipe even where its settings are missing; elsewhere the settings tell.
    let keyed = found.text("parameters").filter(|text| !is_json(text)).map(|text| (text, false));
    let comments = found.comments.iter().map(String::as_str).chain(found.text("Comment")).map(|text| (text, true));
    for (text, needs_settings) in keyed.into_iter().chain(comments.filter(|(text, _)| !is_json(text))) {
        findings.extend(automatic1111(text, needs_settings));
    }
    findings.extend(easy_diffusion(found));
    findings.extend(found.text("Description").and_then(midjourney));
    findings.extend(found.text("Dream").and_then(dream));
    findings
}

/// Prompt lines, negative lines, and a last line of settings.
fn automatic1111(text: &str, needs_settings: bool) -> Option<Finding> {
    let text = text.trim();
    let (body, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let found = settings(last);
    let (body, settings) = if found.len() < MIN_SETTINGS { (text, Vec::new()) } else { (body, found) };
    if settings.is_empty() && needs_settings {
        return None;
    }
    let (mut prompt, mut negative, mut is_negative) = (Vec::new(), Vec::new(), false);
    for line in body.lines() {
        let line = line.trim();
        let started = line.strip_prefix(NEGATIVE);
        is_negative |= started.is_some();
        if is_negative { negative.push(started.unwrap_or(line).trim()) } else { prompt.push(line) }
    }
    let value = |key: &str| settings.iter().find(|(found, _)| found == key).and_then(|(_, value)| filled(value));
    let version = value("Version").unwrap_or_default();
    let tool = match (value("App"), version.as_str()) {
        (Some(app), _) => app,
        (None, version) if version.starts_with("Fooocus") => "Fooocus".to_owned(),
        (None, version) if version.starts_with("ComfyUI") => "ComfyUI".to_owned(),
        // Forge's versions begin with an f, such as `f2.0.1v1.10.1`.
        (None, version) if version.starts_with('f') => "Forge".to_owned(),
        _ => "AUTOMATIC1111".to_owned(),
    };
    Some(Finding {
        tool: Some(tool),
        prompt: filled(&prompt.join("\n")),
        negative_prompt: filled(&negative.join("\n")),
        seed: value("Seed"),
        model: value("Model"),
        sampler: value("Sampler"),
        ..Finding::default()
    })
}

/// The matches of `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`, which AUTOMATIC1111 itself reads settings by.
/// Time is linear: a run of characters that no colon ends is not tried again from within.
fn settings(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if line.len() > MAX_SETTINGS {
        return found;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let n_key = rest.find(|c: char| !(is_word(c) || matches!(c, ' ' | '-' | '/'))).unwrap_or(rest.len());
        let (key, after) = rest.split_at(n_key);
        let Some(after) = after.strip_prefix(':').filter(|_| key.chars().nth(1).is_some()) else {
            rest = after;
            continue;
        };
        let after = after.trim_start();
        let quoted = quoted(after).filter(|(_, rest)| rest.is_empty() || rest.starts_with(','));
        let (value, after) = match quoted {
            Some((value, after)) => (value, after),
            None => {
                let (value, after) = after.split_at(after.find(',').unwrap_or(after.len()));
                (value.to_owned(), after)
            }
        };
        found.push((key.to_owned(), value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    found
}

/// A JSON string at the beginning of `text`, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut is_escaped = false;
    let inner = text.strip_prefix('"')?;
    let end = inner.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    let (quoted, after) = text.split_at(end + 2);
    Some((serde_json::from_str(quoted).unwrap_or_else(|_| inner[..end].to_owned()), after))
}

/// One key for each value.
fn easy_diffusion(found: &Found) -> Option<Finding> {
    let value = |key: &str| found.text(key).and_then(filled);
    let model = value("use_stable_diffusion_model");
    // ComfyUI has a key of the same name, with a graph.
    let prompt = value("prompt").filter(|prompt| !prompt.starts_with('{'))?;
    let is_known = model.is_some() || found.text("negative_prompt").is_some();
    Some(Finding {
        tool: is_known.then(|| "Easy Diffusion".to_owned()),
        prompt: Some(prompt),
        negative_prompt: value("negative_prompt"),
        seed: value("seed"),
        model,
        sampler: value("sampler_name"),
        ..Finding::default()
    })
}

/// `a cat --ar 3:2 --seed 7 --v 6 Job ID: 00000000-…`.
fn midjourney(text: &str) -> Option<Finding> {
    let (text, _job) = text.split_once("Job ID:")?;
    let (prompt, flags) = text.split_once(" --").unwrap_or((text, ""));
    let flag = |name: &str| {
        let value =
            |flag: &str| flag.split_once(' ').filter(|(key, _)| *key == name).and_then(|(_, value)| filled(value));
        flags.split("--").find_map(value)
    };
    let version = flag("v").or_else(|| flag("version"));
    let niji = flag("niji").map(|version| format!("Niji {version}"));
    Some(Finding {
        prompt: filled(prompt),
        negative_prompt: flag("no"),
        seed: flag("seed"),
        model: version.map(|version| format!("Midjourney {version}")).or(niji),
        ..Finding::of("Midjourney")
    })
}

/// `"a cat [dog]" -s 50 -S 123 -A k_lms`, the oldest form of InvokeAI; the negative prompt is in brackets.
fn dream(text: &str) -> Option<Finding> {
    let (prompt, flags) = quoted(text.trim())?;
    let flag = |name: &str| {
        let mut words = flags.split_whitespace();
        let word = words.find(|word| word.starts_with(name))?;
        filled(&word[name.len()..]).or_else(|| words.next().and_then(filled))
    };
    Some(Finding { prompt: filled(&prompt), seed: flag("-S"), sampler: flag("-A"), ..Finding::of("InvokeAI") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_automatic1111_reads_them() {
        let line = r#"Steps: 20, Sampler: DPM++ 2M, Lora hashes: "a: 1, b: \"2\"", Size: 512x512, Model: v1-5, x: 1, Note: "open"#;
        let expected = [
            ("Steps", "20"),
            ("Sampler", "DPM++ 2M"),
            ("Lora hashes", "a: 1, b: \"2\""),
            ("Size", "512x512"),
            ("Model", "v1-5"),
            ("Note", "\"open"),
        ];
        let found = settings(line);
        let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_without_settings_is_a_prompts() {
        let finding = automatic1111("a cat, ratio 1:2\nNegative prompt: dog\nbird", false).expect("a finding");
        assert_eq!(
            (finding.prompt.as_deref(), finding.negative_prompt.as_deref()),
            (Some("a cat, ratio 1:2"), Some("dog\nbird"))
        );
        assert_eq!(automatic1111("taken in 2019", true), None);
    }
}
