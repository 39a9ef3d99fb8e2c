//! Fuzz target: answers of a provider. The body lives in the crate, where bounded tests on stable run it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retrieval::fuzz::answer(bytes));
