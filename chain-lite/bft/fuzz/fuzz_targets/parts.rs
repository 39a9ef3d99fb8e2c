//! Any bytes as parts of proposed blocks: see `chain_lite_bft::parts::fuzz_parts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite_bft::parts::fuzz_parts(bytes));
