//! Tar files, as webdataset writes them: the members of one sample share their name up to its first dot, and members that
//! are JSON or text describe the sample's images.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use crate::{Entry, Problem, Sink, SourceError, place};

/// Bytes of a header.
const HEADER: usize = 512;

/// Whether a file that begins with `head` is a tar file: its first header has the right sum.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    let Some(head) = head.get(..HEADER).filter(|head| head.iter().any(|byte| *byte != 0)) else { return false };
    let sum = head.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
    tar::Header::from_byte_slice(head).cksum().is_ok_and(|stated| stated == sum.sum::<u32>())
}

struct Member {
    name: String,
    offset: u64,
    n_bytes: u64,
}

/// Passes each member to `sink` that may be an image. Only headers are read. What a torn file still holds is listed, and
/// the tear is a problem of the file.
pub(crate) fn list(path: &Path, uri: &str, version: &str, sink: &mut Sink<'_>) -> Result<u64, SourceError> {
    let cannot_read = |source| SourceError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(cannot_read)?;
    let n_file_bytes = file.metadata().map_err(cannot_read)?.len();
    let (members, tear) = members(file, n_file_bytes);
    let mut descriptions: HashMap<&str, Vec<String>> = HashMap::new();
    for member in &members {
        if is_description(&member.name) {
            let place = place::range(uri, member.offset, member.n_bytes);
            descriptions.entry(key(&member.name)).or_default().push(place);
        }
    }
    let mut n_listed = 0;
    for member in members.iter().filter(|member| !is_description(&member.name) && !is_hidden(&member.name)) {
        n_listed += 1;
        let sidecars = descriptions.get(key(&member.name)).cloned().unwrap_or_default();
        let place = place::range(uri, member.offset, member.n_bytes);
        let entry = Entry { sidecars, ..Entry::plain(place, member.name.clone(), version.to_owned()) };
        if let ControlFlow::Break(()) = sink(entry) {
            return Ok(n_listed);
        }
    }
    if let Some(reason) = tear {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let message = format!("`{uri}` is cut short: {reason}; copy it again");
        _ = sink(Entry::broken(uri, &name, version, Problem { kind: "truncated", message }));
        n_listed += 1;
    }
    Ok(n_listed)
}

/// The whole members of a tar file of `n_file_bytes`, and how it is torn.
fn members(file: File, n_file_bytes: u64) -> (Vec<Member>, Option<String>) {
    let mut members = Vec::new();
    let mut end = 0;
    let mut archive = tar::Archive::new(file);
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return (members, Some(error.to_string())),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return (members, Some(error.to_string())),
        };
        let (offset, n_bytes) = (entry.raw_file_position(), entry.size());
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        end = offset.saturating_add(n_bytes);
        if end > n_file_bytes {
            let reason = format!("its last member, `{name}`, lacks {} of {n_bytes} bytes", end - n_file_bytes);
            return (members, Some(reason));
        }
        if entry.header().entry_type().is_file() {
            members.push(Member { name, offset, n_bytes });
        }
    }
    // A whole archive ends with headers of zeros.
    let is_open = end.next_multiple_of(HEADER as u64) + HEADER as u64 > n_file_bytes;
    (members, is_open.then(|| "it has no end mark after its last member".to_owned()))
}

/// The name up to the first dot of its last segment.
fn key(name: &str) -> &str {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    name[base..].find('.').map_or(name, |dot| &name[..base + dot])
}

fn is_description(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default();
    ending.eq_ignore_ascii_case("json") || ending.eq_ignore_ascii_case("txt")
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|base| base.starts_with('.'))
}

/// The first bytes of the file at `path`, enough to tell its kind.
pub(crate) fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEADER as u64).read_to_end(&mut head)?;
    Ok(head)
}
