//! Proof of spacetime: the replica is still there.
//!
//! Walk: after sealing, once per proving period. [`challenge`] chooses leaves, `proof` opens them in TreeR, `circuit`
//! states it in R1CS. Spec: proofs.md §5. The verifier needs only [`challenge`].

pub mod challenge;
#[cfg(feature = "prove")]
pub mod circuit;
#[cfg(feature = "prove")]
pub mod proof;
