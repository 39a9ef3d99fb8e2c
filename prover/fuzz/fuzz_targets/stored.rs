//! Feeds libFuzzer's bytes to [`prover::fuzz::stored`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::stored(bytes));
