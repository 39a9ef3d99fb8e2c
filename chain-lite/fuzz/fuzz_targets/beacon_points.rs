//! Any bytes as a beacon signature or group key: see `chain_lite::beacon::fuzz_points`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::beacon::fuzz_points(bytes));
