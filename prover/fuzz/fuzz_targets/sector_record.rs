//! Feeds libFuzzer's bytes to [`prover::fuzz::sector_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::sector_record(bytes));
