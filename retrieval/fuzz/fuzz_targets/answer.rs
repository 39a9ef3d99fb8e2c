#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retrieval::fuzz::answer(bytes));
