//! Feeds libFuzzer's bytes to [`retrieval::fuzz::requests`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retrieval::fuzz::requests(bytes));
