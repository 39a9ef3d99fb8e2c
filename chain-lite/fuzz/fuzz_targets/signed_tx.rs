//! Any bytes as a transaction: see `chain_lite::message::fuzz_signed_tx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::message::fuzz_signed_tx(bytes));
