//! Headers: what validators sign, and what every proof leads to.
//!
//! Walk: `chain_lite::block` puts a body under it; [`crate::verify`] follows it. Spec: `consensus.md` §6.
//!
//! ```text
//! header = version u16 ‖ chain id 32 ‖ height u64 ‖ epoch u64 ‖ time ms u64 ‖ parent id 32 ‖ previous state root 32
//!          ‖ tx root 32 ‖ previous receipt root 32 ‖ validators hash 32 ‖ next validators hash 32 ‖ proposer 32 ‖ round u32
//! block id = SHA-256("holdfast/block/v1" ‖ borsh(header))                                    (286 bytes of header)
//! ```
//! State root and receipt root are those *after the previous block*: header h + 1 proves what block h did.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{BlockId, ValidatorId};
use crate::codec;
use crate::epoch::Epoch;
use crate::merkle::Hash;
use crate::name::ChainId;

/// The only block version.
pub const BLOCK_VERSION: u16 = 1;

/// What validators sign (by its hash).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Header {
    /// [`BLOCK_VERSION`].
    pub version: u16,
    /// The chain.
    pub chain_id: ChainId,
    /// 1 for the first block.
    pub height: u64,
    /// The block's epoch, greater than the parent's.
    pub epoch: Epoch,
    /// Unix milliseconds by the proposer's clock, greater than the parent's. Informative: no rule reads it.
    pub time_ms: u64,
    /// The block before; for the first block, the chain id.
    pub parent_id: BlockId,
    /// State root after the block before.
    pub prev_state_root: Hash,
    /// Commits to the body.
    pub tx_root: Hash,
    /// Commits to the receipts and events of the block before.
    pub prev_receipt_root: Hash,
    /// Validators that finalise this block.
    pub validators_hash: Hash,
    /// Validators that finalise the next one.
    pub next_validators_hash: Hash,
    /// Who proposed it.
    pub proposer: ValidatorId,
    /// Round in which it was proposed; 0 under solo.
    pub round: u32,
}

impl Header {
    /// The block's name.
    pub fn id(&self) -> BlockId {
        BlockId(codec::tagged_hash(
            "holdfast/block/v1",
            &[&codec::encode(self)],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: BLOCK_VERSION,
            chain_id: ChainId([1; 32]),
            height: 2,
            epoch: Epoch(3),
            time_ms: 4,
            parent_id: BlockId([5; 32]),
            prev_state_root: [6; 32],
            tx_root: [7; 32],
            prev_receipt_root: [8; 32],
            validators_hash: [9; 32],
            next_validators_hash: [10; 32],
            proposer: ValidatorId([11; 32]),
            round: 12,
        }
    }

    #[test]
    fn header_bytes_are_pinned() {
        assert_eq!(codec::encode(&header()).len(), 286);
        assert_eq!(
            header().id().to_string(),
            "14c1cb24371f6bd2480e5329d4dc8d226b36c2f5ac155d383e469276d20f1c9a"
        );
    }

    #[test]
    fn every_field_enters_the_id() {
        let changes: [fn(&mut Header); 13] = [
            |h| h.version += 1,
            |h| h.chain_id.0[0] ^= 1,
            |h| h.height += 1,
            |h| h.epoch.0 += 1,
            |h| h.time_ms += 1,
            |h| h.parent_id.0[0] ^= 1,
            |h| h.prev_state_root[0] ^= 1,
            |h| h.tx_root[0] ^= 1,
            |h| h.prev_receipt_root[0] ^= 1,
            |h| h.validators_hash[0] ^= 1,
            |h| h.next_validators_hash[0] ^= 1,
            |h| h.proposer.0[0] ^= 1,
            |h| h.round += 1,
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut changed = header();
            change(&mut changed);
            assert_ne!(changed.id(), header().id(), "field {i}");
        }
    }
}
