//! Any bytes as a proof document: see `chain_lite::audit::fuzz_proof_document`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chain_lite::audit::fuzz_proof_document(bytes));
