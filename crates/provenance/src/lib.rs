//! What generators write into their images: prompt, seed, model, sampler, and marks of synthetic origin.
//!
//! [`read`] takes the bytes of a PNG, JPEG or WebP file. `container` finds the texts in it, `exif` and `xmp` read two of
//! its chunks. `recipe` holds the texts of AUTOMATIC1111 and its kin, `json` the tools that write JSON, `comfy` the graph
//! of ComfyUI.
//!
//! Any bytes give an answer: time and memory are bounded by the size of the file and by the limits below, and what could
//! not be read is a note. Nothing is guessed: if a file names several prompts, the prompt is null and its source says
//! [`PromptSource::Ambiguous`].

use serde::Serialize;

mod comfy;

mod container;

mod exif;

mod json;

mod recipe;

mod xmp;

use container::Found;

/// Bytes that one text may have, compressed texts after inflating them.
pub const MAX_TEXT: usize = 8 << 20;

/// Bytes that all texts of a file may have together.
pub const MAX_TEXTS: usize = 16 << 20;

/// Bytes of a text that is parsed as JSON, whose tree takes up to a hundred times as much memory.
pub const MAX_JSON: usize = 2 << 20;

/// Kind of an image file, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// Portable Network Graphics, animated ones included.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    Webp,
}

impl Container {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Webp => "WebP",
        }
    }
}

/// Where the prompt of an image comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptSource {
    /// The file itself holds one prompt.
    Embedded,
    /// The file holds several prompts, and nothing tells which one is the image's.
    Ambiguous,
    /// The file holds no prompt.
    #[default]
    None,
}

/// What an image file says of its making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Kind of the file; null if it is none that is read here.
    pub container: Option<Container>,
    /// The program that wrote the data, e.g. `ComfyUI`.
    pub tool: Option<String>,
    /// The prompt, trimmed.
    pub prompt: Option<String>,
    /// The negative prompt, trimmed.
    pub negative_prompt: Option<String>,
    /// The seed, as text: seeds reach 2^64.
    pub seed: Option<String>,
    /// The model, as the tool names it.
    pub model: Option<String>,
    /// The sampler.
    pub sampler: Option<String>,
    /// Equal for images that differ in their seed only: 32 hex digits of the BLAKE3 of ComfyUI's graph without seeds and
    /// names of output files. Null for other tools.
    pub group_id: Option<String>,
    /// Where the prompt comes from.
    pub prompt_source: PromptSource,
    /// The IPTC digital source type if it says that a model made the image or a part of it, e.g.
    /// `trainedAlgorithmicMedia`.
    pub declared_synthetic: Option<String>,
    /// Whether the file holds a C2PA manifest. Its signature is not checked.
    pub has_c2pa: bool,
    /// What could not be read, with the reason.
    pub notes: Vec<String>,
}

/// What one text of a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Finding {
    tool: Option<String>,
    prompt: Option<String>,
    /// Whether the text holds several prompts.
    is_ambiguous: bool,
    negative_prompt: Option<String>,
    seed: Option<String>,
    model: Option<String>,
    sampler: Option<String>,
    group_id: Option<String>,
}

impl Finding {
    fn of(tool: &str) -> Self {
        Self { tool: Some(tool.to_owned()), ..Self::default() }
    }
}

/// Reads what the image file `bytes` says of its making. `name` is the file's name: AUTOMATIC1111's `grid-…` files carry
/// the data of their first image, which says nothing of the grid.
pub fn read(bytes: &[u8], name: &str) -> Provenance {
    let mut found = Found::in_file(bytes);
    let mut findings = Vec::new();
    if let Some(finding) = comfy::in_texts(&mut found) {
        findings.push(finding);
    }
    findings.extend(recipe::in_texts(&found));
    findings.extend(json::in_texts(&mut found));
    let base_name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    if base_name.starts_with("grid-") && !findings.is_empty() {
        findings.clear();
        found.note("the file is a grid of images: its data are those of its first image, and are left out".to_owned());
    }
    merged(&findings, found)
}

/// One answer of all findings. A tool that writes plain text beside a graph names the prompt that the graph leaves open.
fn merged(findings: &[Finding], found: Found) -> Provenance {
    let mut prompts: Vec<&str> = findings.iter().filter_map(|finding| finding.prompt.as_deref()).collect();
    prompts.sort_unstable();
    prompts.dedup();
    let prompt_source = match prompts.len() {
        0 if findings.iter().any(|finding| finding.is_ambiguous) => PromptSource::Ambiguous,
        0 => PromptSource::None,
        1 => PromptSource::Embedded,
        _ => PromptSource::Ambiguous,
    };
    let first = |value: fn(&Finding) -> &Option<String>| findings.iter().find_map(|finding| value(finding).clone());
    let Found { container, has_c2pa, declared_synthetic, notes, .. } = found;
    let is_ambiguous = prompt_source == PromptSource::Ambiguous;
    Provenance {
        container,
        tool: first(|finding| &finding.tool),
        prompt: first(|finding| &finding.prompt).filter(|_| !is_ambiguous),
        negative_prompt: first(|finding| &finding.negative_prompt).filter(|_| !is_ambiguous),
        seed: first(|finding| &finding.seed),
        model: first(|finding| &finding.model),
        sampler: first(|finding| &finding.sampler),
        group_id: first(|finding| &finding.group_id),
        prompt_source,
        declared_synthetic,
        has_c2pa,
        notes,
    }
}

/// `text` without white space at its ends; `None` if nothing is left.
fn filled(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
