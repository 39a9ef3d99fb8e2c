//! Feeds libFuzzer's bytes to [`prover::fuzz::cid`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::cid(bytes));
