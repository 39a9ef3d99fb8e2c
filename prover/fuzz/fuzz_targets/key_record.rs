//! Feeds libFuzzer's bytes to [`prover::fuzz::key_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::key_record(bytes));
