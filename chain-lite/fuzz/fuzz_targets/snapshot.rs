//! Any bytes as a snapshot: see `chain_lite::snapshot::fuzz_snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::snapshot::fuzz_snapshot(bytes));
