//! Any bytes as a genesis: see `chain_lite::genesis::fuzz_genesis`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::genesis::fuzz_genesis(bytes));
