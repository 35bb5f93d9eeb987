//! Any bytes as a checkpoint file: an error or tensors, never a panic, and no tensor outside the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, unused_imports, reason = "the target reads files of bytes, not those of a folder")]
#[path = "../../src/models/checkpoint/format/mod.rs"]
mod format;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed");
    let file = bytes.to_vec();
    if let Ok(tensors) = format::read_file(path, &file) {
        for (name, tensor) in tensors {
            assert!(tensor.is_inside(file.len() as u64), "{name}");
            let read = tensor.read(path, &file).expect("it is inside");
            assert_eq!(read.len(), tensor.numel() * tensor.info().dtype.n_bytes(), "{name}");
        }
    }
    // Whatever the sums are, and whatever members lie on top of each other.
    let _ = format::check_sums(path, &file);
    // The pickle by itself, so that the fuzzer need not find out what a zip is.
    let _ = format::pickle::unpickle(bytes, format::pytorch::LEAST_PICKLE_MEMORY);
});
