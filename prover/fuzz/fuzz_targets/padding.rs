//! Feeds libFuzzer's bytes to [`prover::fuzz::padding`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::padding(bytes));
