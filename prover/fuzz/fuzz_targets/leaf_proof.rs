//! Feeds libFuzzer's bytes to [`prover::fuzz::leaf_proof`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::leaf_proof(bytes));
