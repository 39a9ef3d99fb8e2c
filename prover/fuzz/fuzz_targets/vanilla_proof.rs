//! Feeds libFuzzer's bytes to [`prover::fuzz::vanilla_proof`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::vanilla_proof(bytes));
