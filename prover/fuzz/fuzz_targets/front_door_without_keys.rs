//! Feeds libFuzzer's bytes to [`prover::fuzz::front_door_without_keys`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prover::fuzz::front_door_without_keys(bytes));
