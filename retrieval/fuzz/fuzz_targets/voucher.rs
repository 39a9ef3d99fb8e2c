//! Fuzz target: a voucher's bytes. The body lives in the crate, where bounded tests on stable run it too.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retrieval::fuzz::voucher(bytes));
