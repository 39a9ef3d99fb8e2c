//! Feeds libFuzzer's bytes to [`prover::fuzz::names`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::names(bytes));
