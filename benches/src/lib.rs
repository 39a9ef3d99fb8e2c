//! Benches of every operation, and the comparison with Filecoin's prover.

pub mod raw_quinn;
pub mod store;
