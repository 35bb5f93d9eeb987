//! Files that stand where a checkpoint should be: what a failed download leaves, and checkpoints of other programs.

/// Number of bytes that tell what a file is.
pub const HEAD_BYTES: usize = 512;

/// Checkpoints of other programs and archives, by their first bytes.
const MAGIC: [(&[u8], &str); 7] = [
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes: export its weights as safetensors"),
    (b"GGUF", "a GGUF file of llama.cpp: get the checkpoint that it was converted from"),
    (b"\x93NUMPY", "an array of NumPy: save its tensors as safetensors"),
    (b"\x1F\x8B", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"7z\xBC\xAF", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
];

/// What a file is that begins with `head`, its first [`HEAD_BYTES`] or all of them, and what to do. `None` if it is not
/// known.
pub fn content(head: &[u8]) -> Option<String> {
    if head.is_empty() {
        return Some("an empty file: get it again".to_owned());
    }
    if head.iter().all(|byte| *byte == 0) {
        return Some("nothing but zeros at its beginning, as an interrupted download leaves: get it again".to_owned());
    }
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some((*what).to_owned());
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it".to_owned());
    }
    // The head may end within a letter.
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{FEFF}').trim_start();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let line: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
    Some(if text.starts_with("version https://git-lfs") {
        "a Git LFS pointer, which only stands for the file: run `git lfs pull` in its repository, or download the file \
         itself"
            .to_owned()
    } else if text.starts_with('<') {
        format!(
            "a web page (`{line}`), as a server sends where a login or a confirmation is missing: download the file itself"
        )
    } else {
        format!("a text (`{line}`), perhaps a server's answer: download the file itself")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_download_leaves_is_named() {
        for (head, words) in [
            (b"version https://git-lfs.github.com/spec/v1\noid".as_slice(), "a Git LFS pointer"),
            (b"\xEF\xBB\xBF\r\n <!doctype html>", "a web page (`<!doctype html>`)"),
            (b"Entry not found", "a text (`Entry not found`)"),
            (b"{\"error\":\"Repository \xC3", "a text (`{\"error\":\"Repository `)"),
            (b"\0\0\0\0", "zeros"),
            (b"", "an empty file"),
        ] {
            let found = content(head).expect("known");
            assert!(found.contains(words), "{found}");
        }
        assert_eq!(content(b"\x01\x02\x03binary"), None);
    }
}
