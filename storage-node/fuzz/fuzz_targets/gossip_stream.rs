//! Fuzz target: gossip_stream bytes. The body lives in the crate, where bounded tests on stable run it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| storage_node::fuzz::fuzz_gossip_stream(bytes));
