//! Any bytes as a logged block: see `chain_lite::block::fuzz_final_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::block::fuzz_final_block(bytes));
