//! The files of a folder that a stage over images leaves out: how many for which reason, and their names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::json;

use agiqa_images::{LeftOut, Reason};
use agiqa_store::console::Console;
use agiqa_store::path_text::text_of;
use agiqa_store::tables::PartitionName;

/// Number of names that a message lists for one reason. The events have all of them.
const N_NAMED: usize = 5;

/// Files that are left out, by reason. As text it continues a sentence, and it is empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOutFiles(BTreeMap<Reason, OfReason>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfReason {
    n_files: u64,
    /// Paths relative to the folder. A folder ends with a slash and stands for all its files.
    names: Vec<String>,
}

impl LeftOutFiles {
    /// The files of `list`, with names relative to `folder`.
    pub(crate) fn below(folder: &Path, mut list: Vec<LeftOut>) -> Self {
        list.sort();
        let mut by_reason: BTreeMap<Reason, OfReason> = BTreeMap::new();
        for LeftOut { reason, path, n_files } in list {
            let of_reason = by_reason.entry(reason).or_default();
            of_reason.n_files += n_files;
            let slash = if path.is_dir() && !path.is_symlink() { "/" } else { "" };
            of_reason.names.push(text_of(path.strip_prefix(folder).unwrap_or(&path)) + slash);
        }
        Self(by_reason)
    }

    /// Emits an event for each reason, with all names.
    pub(crate) fn emit(&self, dataset: &PartitionName, console: Console) {
        for (reason, OfReason { n_files, names }) in &self.0 {
            console.event(&json!({
                "type": "left-out",
                "dataset": dataset,
                "reason": reason.words(),
                "n_files": n_files,
                "names": names,
            }));
        }
    }
}

impl fmt::Display for LeftOutFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (reason, OfReason { n_files, names })) in self.0.iter().enumerate() {
            let named: Vec<String> = names.iter().take(N_NAMED).map(|name| format!("`{name}`")).collect();
            let more = if names.len() > N_NAMED { ", …" } else { "" };
            f.write_str(if position == 0 { "; left out: " } else { ", " })?;
            write!(f, "{n_files} {} ({}{more})", reason.words(), named.join(", "))?;
        }
        Ok(())
    }
}
