//! Any bytes as a checkpoint file: an error or tensors, never a panic, and no tensor outside the file.

use std::path::Path;

pub fn read(bytes: &[u8]) {
    let path = Path::new("fuzzed");
    let file = bytes.to_vec();
    if let Ok(tensors) = agiqa_checkpoint::read_file(path, &file) {
        for (name, tensor) in tensors {
            assert!(tensor.is_inside(file.len() as u64), "{name}");
            let read = tensor.read(path, &file).expect("it is inside");
            assert_eq!(read.len(), tensor.numel() * tensor.info().dtype.n_bytes(), "{name}");
        }
    }
    // Whatever the sums are, and whatever members lie on top of each other.
    let _ = agiqa_checkpoint::check_sums(path, &file);
    // The pickle by itself, so that the fuzzer need not find out what a zip is.
    let _ = agiqa_checkpoint::pickle::unpickle(bytes, agiqa_checkpoint::pytorch::LEAST_PICKLE_MEMORY);
}
