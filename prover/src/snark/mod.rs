//! Groth16 over BLS12-381: circuits, keys, proofs.

#[cfg(feature = "prove")]
pub mod gadget;
pub mod groth16;
#[cfg(feature = "prove")]
pub mod keys;
