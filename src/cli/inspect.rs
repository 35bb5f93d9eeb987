//! `agiqa inspect`: what generators wrote into image files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::Context;
use super::exit::Exit;
use super::weights::print_line;
use agiqa_provenance::{PromptSource, Provenance};
use agiqa_store::layout;
use agiqa_store::stage::MaxRejects;

/// Bytes of the largest file that is read.
const MAX_FILE: u64 = 1 << 30;

/// Characters of a text that are printed for people.
const MAX_PRINTED: usize = 2000;

/// Arguments of `agiqa inspect`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Image files: PNG, JPEG or WebP. With `--json`, texts are printed whole.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Inspected<'a> {
    r#type: &'static str,
    path: String,
    #[serde(flatten)]
    provenance: &'a Provenance,
}

pub(super) fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut n_unread = 0;
    for path in &args.files {
        if context.interrupt.is_raised() {
            return Ok(Exit::Interrupted);
        }
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                context.console.warn(format!("{error:#}: it is left out"));
                n_unread += 1;
                continue;
            }
        };
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let provenance = agiqa_provenance::read(&bytes, &name);
        if context.console.is_json() {
            let path = path.display().to_string();
            context.console.event(&Inspected { r#type: "inspected", path, provenance: &provenance });
        } else {
            print_line(&text(path, &provenance));
        }
    }
    let is_exceeded = MaxRejects::is_exceeded(context.max_rejects, n_unread, args.files.len() as u64);
    Ok(if is_exceeded { Exit::Rejected } else { Exit::Done })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let name = || format!("cannot read `{}`", path.display());
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(name)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "`{}` has more than {MAX_FILE} bytes", path.display());
    Ok(bytes)
}

fn text(path: &Path, provenance: &Provenance) -> String {
    let Provenance { container, tool, prompt, negative_prompt, seed, model, sampler, group_id, .. } = provenance;
    let source = match provenance.prompt_source {
        PromptSource::Embedded => None,
        PromptSource::Ambiguous => Some("ambiguous: the file holds several".to_owned()),
        PromptSource::None => Some("none".to_owned()),
    };
    let kind = container.map_or("another kind of file", |container| container.name());
    let mut lines = vec![format!("{}: {kind}", layout::printable(&path.display().to_string()))];
    let values = [
        ("tool", tool),
        ("prompt", &prompt.clone().or(source)),
        ("negative prompt", negative_prompt),
        ("seed", seed),
        ("model", model),
        ("sampler", sampler),
        ("group id", group_id),
        ("declared synthetic", &provenance.declared_synthetic),
        ("C2PA manifest", &provenance.has_c2pa.then(|| "there, not verified".to_owned())),
    ];
    for (name, value) in values {
        lines.extend(value.as_deref().map(|value| format!("  {name:<18}  {}", shortened(value))));
    }
    lines.extend(provenance.notes.iter().map(|note| format!("  note: {}", shortened(note))));
    lines.join("\n")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_PRINTED) {
        Some((end, _)) => format!("{}… ({} bytes; `--json` prints all)", layout::printable(&text[..end]), text.len()),
        None => layout::printable(text),
    }
}
