//! Possession: which leaves of a piece the beacon asks for, and whether an answer holds.
//!
//! Walk: `storage_node::client::possession` asks the providers and records; [`crate::bundle`] carries answers to auditors. Off
//! chain: no rule reads it. Spec: `DESIGN.md` §3 (proof ladder). Proofs: [`prover::piece::inclusion`].
//!
//! ```text
//! beacon(e) ‖ CommP ‖ provider ‖ i ──SHA-256──> leaf i of 8, whose path to CommP the provider shows
//! ```
//! Nobody knows the leaves before epoch e begins; a provider that lost a share x of a piece passes with chance (1 - x)^8.
//! Cost: checking is two compressions per leaf and level.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use prover::PieceInfo;
use prover::piece::inclusion::LeafProof;
use sha2::{Digest, Sha256};

use crate::account::ProviderId;
use crate::randomness::{Tag, rand};
use crate::units::Epoch;

/// Leaves asked of each piece.
pub const CHALLENGES: u64 = 8;

/// The randomness of an epoch for challenges and placement, from its beacon value: as a ticket of provider 0, which does not
/// exist.
pub fn beacon_of(value: &[u8; 32], epoch: Epoch) -> [u8; 32] {
    rand(Tag::Ticket, value, epoch, &0u64.to_be_bytes())
}

/// A passed challenge: everything needed to check it again but the beacon's own proof.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Answer {
    /// Epoch of the challenge.
    pub epoch: Epoch,
    /// The chain's randomness of that epoch, as [`beacon_of`] gives it.
    pub beacon: [u8; 32],
    /// One for each of [`positions`], ascending.
    pub proofs: Vec<LeafProof>,
}

impl Answer {
    /// Whether this answers the challenge of its epoch for this piece and provider.
    pub fn verify(&self, piece: &PieceInfo, provider: ProviderId) -> Result<(), String> {
        let asked = positions(&self.beacon, piece, provider);
        if asked.len() != self.proofs.len() {
            return Err(format!(
                "{} leaves were asked for, {} answered",
                asked.len(),
                self.proofs.len()
            ));
        }
        for (leaf, proof) in asked.into_iter().zip(&self.proofs) {
            proof
                .verify(piece, leaf..leaf + 1)
                .map_err(|error| format!("leaf {leaf}: {error}"))?;
        }
        Ok(())
    }
}

/// The leaves of a piece that one provider must show for one beacon value, ascending, without repetition.
pub fn positions(beacon: &[u8; 32], piece: &PieceInfo, provider: ProviderId) -> BTreeSet<u64> {
    let nodes = u128::from(piece.size.nodes());
    let draw = |index: u64| {
        let digest = Sha256::new()
            .chain_update(b"holdfast/possession/v1")
            .chain_update(beacon)
            .chain_update(piece.comm_p.0)
            .chain_update(provider.0.to_be_bytes())
            .chain_update(index.to_be_bytes())
            .finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        u64::try_from(u128::from_be_bytes(first) % nodes).expect("below a u64 number of nodes")
    };
    (0..CHALLENGES).map(draw).collect()
}
