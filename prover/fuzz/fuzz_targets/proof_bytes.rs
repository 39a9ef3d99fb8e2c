//! Feeds libFuzzer's bytes to [`prover::fuzz::proof_bytes`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::proof_bytes(bytes));
