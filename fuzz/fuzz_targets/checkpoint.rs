//! Gives the fuzzer's bytes to the reader.
#![no_main]

#[path = "../readers/checkpoint.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reader::read(bytes));
