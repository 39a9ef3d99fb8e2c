#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| storage_node::client::get::fuzz_safe_name(text));
