//! Feeds libFuzzer's bytes to [`prover::fuzz::proving_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::proving_key(bytes));
