//! Folders of image files, with the tables and texts that describe them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::given::Given;
use crate::list::List;
use crate::{Entry, Listed, Problem, Sink, SourceError, file_version};
use agiqa_images::Found;
use agiqa_store::path_text::text_of;

/// Name of tables that describe the images of their folder, without ending.
const TABLE: &str = "metadata";

/// Endings of such tables.
const ENDINGS: [&str; 4] = ["csv", "tsv", "jsonl", "parquet"];

/// Passes each file below `folder` to `sink` that may be an image. Opens tables that describe images, and nothing else.
pub(crate) fn list(folder: &Path, sink: &mut Sink<'_>) -> Result<Listed, SourceError> {
    let found = agiqa_images::find(folder).map_err(|source| SourceError::Folder(Box::new(source)))?;
    let Found { files, left_out, unreadable } = found;
    let mut described: HashMap<PathBuf, Given> = HashMap::new();
    let mut tables = Vec::new();
    for path in files.iter().filter(|path| is_table(path)) {
        // A table without paths describes something else.
        if let Ok(list) = List::open(path) {
            described.extend(list.by_file(path));
            tables.push(path.clone());
        }
    }
    let mut listed = Listed { left_out, tables, ..Listed::default() };
    for (path, error) in unreadable {
        let uri = text_of(&path);
        let message = format!("cannot read `{uri}`: {error}");
        listed.n_listed += 1;
        if let ControlFlow::Break(()) = sink(Entry::broken(&uri, &uri, "", Problem { kind: "unreadable", message })) {
            return Ok(listed);
        }
    }
    for path in &files {
        if listed.tables.binary_search(path).is_ok() || is_text_of_image(path, &files) {
            continue;
        }
        listed.n_listed += 1;
        let uri = text_of(path);
        let name = text_of(path.strip_prefix(folder).unwrap_or(path));
        let entry = match std::fs::metadata(path) {
            Ok(metadata) => {
                let text = path.with_extension("txt");
                let has_text = text != *path && files.binary_search(&text).is_ok();
                let sidecars = if has_text { vec![text_of(&text)] } else { Vec::new() };
                let given = described.remove(path).unwrap_or_default();
                Entry { given, sidecars, ..Entry::plain(uri, name, file_version(&metadata)) }
            }
            Err(error) => {
                let message = format!("cannot read `{uri}`: {error}");
                Entry::broken(&uri, &name, "", Problem { kind: "unreadable", message })
            }
        };
        if let ControlFlow::Break(()) = sink(entry) {
            return Ok(listed);
        }
    }
    Ok(listed)
}

fn is_table(path: &Path) -> bool {
    let part = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_ascii_lowercase);
    part(path.file_stem()).is_some_and(|stem| stem == TABLE)
        && part(path.extension()).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Whether the file at `path` is a text next to a file of the same name and another ending.
fn is_text_of_image(path: &Path, files: &[PathBuf]) -> bool {
    if path.extension().is_none_or(|ending| ending != "txt") {
        return false;
    }
    // Files of the same name stand next to each other, but for those of longer names.
    let stem = path.with_extension("");
    let at = files.partition_point(|file| file.as_path() < path);
    let is_other = |file: &&PathBuf| file.with_extension("") == stem && *file != path;
    files[at.saturating_sub(8)..(at + 8).min(files.len())].iter().any(|file| is_other(&file))
}
