//! Fuzz target: name bytes. The body lives in the crate, where bounded tests on stable run it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| storage_node::client::get::fuzz_safe_name(text));
