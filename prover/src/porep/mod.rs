//! Proof of replication: from a sector's data to a replica that is this provider's own, and the proof of it.
//!
//! Walk: after `piece::layout` (CommD known), before `snark`. In order: [`graph`] names each node's parents, `label` fills
//! the layers, `column` hashes them, `replica` encodes the data, [`challenge`] chooses nodes, `proof` opens them, `circuit`
//! states all that in R1CS. Spec: proofs.md §§2–4. The verifier needs only [`graph`] (parents are public inputs) and
//! [`challenge`].

pub mod challenge;
#[cfg(feature = "prove")]
pub mod circuit;
#[cfg(feature = "prove")]
pub mod column;
pub mod graph;
#[cfg(feature = "prove")]
pub mod label;
#[cfg(feature = "prove")]
pub mod proof;
#[cfg(feature = "prove")]
pub mod replica;
