//! Feeds libFuzzer's bytes to [`storage_node::fuzz::fuzz_provider_records`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage_node::fuzz::fuzz_provider_records(bytes));
