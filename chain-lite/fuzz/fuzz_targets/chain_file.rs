//! Any bytes as a block log or an export: see `chain_lite::log::fuzz_chain_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::log::fuzz_chain_file(bytes));
