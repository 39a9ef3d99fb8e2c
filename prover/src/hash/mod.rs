//! The two hashes of the proofs: [`sha256`] (labels, TreeD, challenges) and [`poseidon`] (columns, TreeC, TreeR, CommR).
//!
//! Each has fast kernels beside a portable twin, chosen once at run time and compared at boundary lengths by tests.

pub mod poseidon;
pub mod sha256;
