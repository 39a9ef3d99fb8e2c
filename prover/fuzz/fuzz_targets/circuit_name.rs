//! Feeds libFuzzer's bytes to [`prover::fuzz::circuit_name`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::circuit_name(bytes));
