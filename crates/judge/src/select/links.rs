//! The chosen images in a folder of their own, as links or copies.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use super::SelectError;
use agiqa_store::tables::images::ImageRow;

/// What stands in the folder for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A hard link, or a symbolic one where the folder is on another file system.
    Link,
    /// A symbolic link.
    Symbolic,
    /// A copy.
    Copy,
}

/// Puts `images` into `folder`. Returns each image that failed, with the kind of its reject and a message.
///
/// A file that is there already and holds the same bytes stays. So a repeated selection does nothing.
///
/// # Errors
/// Fails if the folder cannot be made, or holds files that this selection did not choose: they would be taken for chosen
/// ones.
pub(super) fn put<'a>(
    folder: &Path,
    kind: LinkKind,
    images: &[&'a ImageRow],
) -> Result<Vec<(&'a ImageRow, &'static str, String)>, SelectError> {
    let error = |reason: String| SelectError::Folder { folder: folder.to_owned(), reason };
    std::fs::create_dir_all(folder).map_err(|source| error(source.to_string()))?;
    let names = names(images);
    let entries = std::fs::read_dir(folder).map_err(|source| error(source.to_string()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !names.contains(&name) {
            return Err(error(format!("it holds `{name}`, which is not chosen: empty it, or name another folder")));
        }
    }
    let mut failed = Vec::new();
    for (image, name) in images.iter().zip(&names) {
        let (from, to) = (Path::new(&image.path), folder.join(name));
        match std::fs::metadata(from) {
            Err(source) => failed.push((*image, "missing-file", format!("cannot read the file: {source}"))),
            Ok(found) if found.len() != image.n_bytes => {
                let message =
                    format!("expected {} bytes, found {}: ingest the dataset again", image.n_bytes, found.len());
                failed.push((*image, "changed-file", message));
            }
            Ok(_) => {
                if let Err(source) = put_one(from, &to, kind) {
                    failed.push((*image, "no-link", format!("cannot make `{}`: {source}", to.display())));
                }
            }
        }
    }
    Ok(failed)
}

/// The files' own names. Files of one name in several folders also have the beginning of their image's id.
fn names(images: &[&ImageRow]) -> Vec<String> {
    let base = |image: &ImageRow| Path::new(&image.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut counts: HashMap<String, usize> = HashMap::new();
    images.iter().for_each(|image| *counts.entry(base(image)).or_default() += 1);
    let name = |image: &&ImageRow| match base(image) {
        base if counts[&base] == 1 => base,
        base => format!("{}-{base}", &image.image_id.to_string()[..8]),
    };
    images.iter().map(name).collect()
}

fn put_one(from: &Path, to: &Path, kind: LinkKind) -> std::io::Result<()> {
    if to.exists() {
        // Links to the same file and copies of it hold the same bytes.
        let is_same = std::fs::read(from)? == std::fs::read(to)?;
        return if is_same { Ok(()) } else { Err(std::io::Error::other("another file has this name")) };
    }
    match kind {
        LinkKind::Link => match std::fs::hard_link(from, to) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => symbolic(from, to),
            result => result,
        },
        LinkKind::Symbolic => symbolic(from, to),
        LinkKind::Copy => std::fs::copy(from, to).map(|_| ()),
    }
}

#[cfg(unix)]
fn symbolic(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn symbolic(_from: &Path, _to: &Path) -> std::io::Result<()> {
    Err(std::io::Error::new(ErrorKind::Unsupported, "no symbolic links here: use `--copy`"))
}
