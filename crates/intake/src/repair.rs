//! JSON as Python writes it: `NaN`, `Infinity` and lone surrogates, which JSON does not have, in place.

/// Rewrites what JSON does not have without moving anything: `NaN` and the infinities become texts that are no finite
/// numbers, and half a pair of surrogates becomes U+FFFD.
pub(crate) fn repair(bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at + 1),
            b'N' | b'n' | b'I' | b'-' => {
                const WORDS: [(&[u8], &[u8]); 4] = [
                    (b"NaN", b"\"\" "),
                    (b"nan", b"\"\" "),
                    (b"-Infinity", b"\"-inf\"   "),
                    (b"Infinity", b"\"inf\"   "),
                ];
                match WORDS.iter().find(|(word, _)| bytes[at..].starts_with(word)) {
                    Some((word, text)) => {
                        bytes[at..at + word.len()].copy_from_slice(text);
                        at += word.len();
                    }
                    None => at += 1,
                }
            }
            _ => at += 1,
        }
    }
}

/// Position behind the string whose content starts at `at`. Lone surrogates in it are replaced.
fn end_of_string(bytes: &mut [u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => match unit(bytes, at) {
                Some(0xD800..=0xDBFF) if matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
                Some(0xD800..=0xDFFF) => {
                    bytes[at + 2..at + 6].copy_from_slice(b"FFFD");
                    at += 6;
                }
                _ => at += 2,
            },
            _ => at += 1,
        }
    }
    at
}

/// The UTF-16 unit of an escape `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_python_writes_becomes_json_of_the_same_length() {
        let mut text =
            br#"{"a": NaN, "b": [Infinity, -Infinity], "NaN \ud83d": "\ud83d\ude00 \\\ude00", "c": null, "d": -1}"#
                .to_vec();
        let n = text.len();
        super::repair(&mut text);
        assert_eq!(text.len(), n);
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON now");
        assert_eq!(value["b"], serde_json::json!(["inf", "-inf"]));
        assert_eq!(value["NaN \u{FFFD}"], "😀 \\\u{FFFD}");
        assert_eq!((value["a"].as_str(), value["d"].as_i64()), (Some(""), Some(-1)));
    }
}
