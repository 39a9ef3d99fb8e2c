//! Any bytes as the blocks that a node shows a light client: see `holdfast_light::follow::fuzz_follow`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| holdfast_light::follow::fuzz_follow(bytes));
