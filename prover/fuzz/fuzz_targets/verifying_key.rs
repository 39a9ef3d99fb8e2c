//! Feeds libFuzzer's bytes to [`prover::fuzz::verifying_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::verifying_key(bytes));
