//! Proof of replication: from a sector's data to a replica that is this provider's own, and the proof of it.
//!
//! Walk: after `piece::layout` (CommD known), before `snark`. In order: [`graph`] (over [`feistel`]) names each node's
//! parents, `parents` keeps them, `label` fills the layers, `column` hashes them, `replica` encodes the data, [`challenge`] chooses nodes,
//! `proof` opens them, `circuit` states all that in R1CS. Spec: proofs.md §§2–4. The verifier needs only [`graph`] (parents are public inputs) and
//! [`challenge`].

pub mod challenge;
#[cfg(feature = "prove")]
pub mod circuit;
#[cfg(feature = "prove")]
pub mod column;
pub mod feistel;
pub mod graph;
#[cfg(feature = "prove")]
pub mod label;
#[cfg(feature = "prove")]
pub mod parents;
#[cfg(feature = "prove")]
pub mod proof;
#[cfg(feature = "prove")]
pub mod replica;

use crate::commitment::CommD;
use crate::hash::sha256;
use crate::ids::{PorepId, ProverId, ReplicaId, SectorNumber, Ticket};

/// The key of a sector's labels: `t254(SHA256(prover ‖ BE64(sector) ‖ ticket ‖ comm_d ‖ porep_id))` (proofs.md §2.2).
///
/// Here the sector number is **big-endian**. Each input closes one shortcut: another's replica, another sector's, one
/// sealed ahead of time, other data, another proof type (threat P2).
pub fn replica_id(
    prover: &ProverId,
    sector: SectorNumber,
    ticket: &Ticket,
    comm_d: &CommD,
    porep_id: &PorepId,
) -> ReplicaId {
    let parts: [&[u8]; 5] = [
        &prover.0,
        &sector.0.to_be_bytes(),
        &ticket.0,
        &comm_d.0,
        &porep_id.0,
    ];
    ReplicaId(sha256::t254(sha256::digest(&parts)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// One flipped bit in any of the five inputs gives another replica id, hence other labels and another CommR.
        #[test]
        fn tm_p2_each_of_the_five_inputs_changes_the_replica_id(inputs: [[u8; 32]; 4], sector: u64, bit in 0usize..256) {
            let id = |inputs: &[[u8; 32]; 4], sector: u64| {
                let [prover, ticket, comm_d, porep_id] = *inputs;
                replica_id(&ProverId(prover), SectorNumber(sector), &Ticket(ticket), &CommD(comm_d), &PorepId(porep_id))
            };
            let base = id(&inputs, sector);
            for i in 0..4 {
                let mut other = inputs;
                other[i][bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(id(&other, sector), base);
            }
            prop_assert_ne!(id(&inputs, sector ^ 1 << (bit % 64)), base);
            prop_assert!(crate::ids::is_canonical_fr(&base.0));
        }
    }
}
