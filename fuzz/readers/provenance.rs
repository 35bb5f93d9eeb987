//! Any bytes as an image file: an answer, never a panic, and no more text than is allowed.

use agiqa_provenance::MAX_TEXTS;

pub fn read(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let read = agiqa_provenance::read(bytes, "fuzzed");
        // Latin-1 takes two bytes in UTF-8.
        let texts = [&read.prompt, &read.negative_prompt, &read.seed, &read.model, &read.sampler];
        assert!(texts.iter().flat_map(|text| text.as_deref()).map(str::len).sum::<usize>() <= 2 * MAX_TEXTS);
    };
    read(bytes);
    // The fuzzer need not find out what the files begin with, nor what a chunk of text looks like.
    for head in [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8", b"RIFF\0\0\0\0WEBP"] {
        read(&[head, bytes].concat());
    }
    let n_bytes = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
    for kind in [b"tEXt", b"zTXt", b"iTXt", b"eXIf"] {
        for key in [&b"parameters\0"[..], b"prompt\0", b"XML:com.adobe.xmp\0\0\0\0\0", b""] {
            let length = (u32::from_be_bytes(n_bytes) + u32::try_from(key.len()).unwrap_or(0)).to_be_bytes();
            read(&[b"\x89PNG\r\n\x1a\n", &length[..], kind, key, bytes, &[0; 4]].concat());
        }
    }
}
