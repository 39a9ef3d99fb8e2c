//! Any bytes as a file of retrieval receipts: see `chain_lite::reputation::receipt::fuzz_receipts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::reputation::receipt::fuzz_receipts(bytes));
