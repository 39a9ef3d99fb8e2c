//! The trees of a sector: their shape, how they are built in files, and openings.
//!
//! | tree | leaves | hash | root |
//! |---|---|---|---|
//! | TreeD | padded data | SHA-256/254, binary | CommD |
//! | TreeC | column hashes | Poseidon, base 8 with sub and top levels | CommC |
//! | TreeR | the replica | Poseidon, same shape as TreeC | CommRLast |
//!
//! Walk: TreeD after `piece::layout`, TreeC and TreeR inside `seal`'s replicate stage, openings in
//! [`crate::porep::proof`] and [`crate::post::proof`]. Spec: proofs.md §1.2, §3.2, §3.3.

#[cfg(feature = "prove")]
pub mod build;
pub mod path;
pub mod shape;
