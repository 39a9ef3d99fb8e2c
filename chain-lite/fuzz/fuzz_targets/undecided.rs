//! Any bytes as a kept proposal: see `chain_lite::undecided::fuzz_undecided`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::undecided::fuzz_undecided(bytes));
