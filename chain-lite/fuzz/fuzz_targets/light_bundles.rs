//! Any bytes as a light client's bundles: see `chain_lite::light::fuzz_bundles`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::light::fuzz_bundles(bytes));
