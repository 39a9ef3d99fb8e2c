//! Feeds libFuzzer's bytes to [`storage_node::fuzz::fuzz_rpc`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage_node::fuzz::fuzz_rpc(bytes));
