//! Feeds libFuzzer's bytes to [`prover::fuzz::vector_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::vector_file(bytes));
