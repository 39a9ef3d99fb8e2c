//! Any bytes as a message of a peer or of the journal: see `chain_lite_bft::codec::fuzz_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite_bft::codec::fuzz_messages(bytes));
