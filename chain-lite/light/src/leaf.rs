//! Leaves of the state: what is under the state root, and proofs that a key has a value or has none.
//!
//! Walk: `chain_lite::tree` grows the tree and makes the proofs; [`crate::verify`] and everybody who is shown a state checks them.
//! Spec: `consensus.md` §5. The tree is Penumbra's `jmt` (SHA-256); a leaf's key is `SHA-256("holdfast/state-key/v1" ‖ key)`, its
//! value the stored bytes. Cost: a proof is about 1.2 KB and 0.04 ms.

use borsh::{BorshDeserialize, BorshSerialize};
use jmt::{KeyHash, RootHash};
use sha2::Sha256;

use crate::merkle::{Hash, digest};

/// The first tag of an index: keys from here on are outside the tree.
pub const FIRST_INDEX: u8 = 0x80;

/// Whether the state root commits to the value under this key.
pub fn is_leaf(key: &[u8]) -> bool {
    key.first().is_some_and(|&tag| tag < FIRST_INDEX)
}

/// Where a state key lies in the tree.
pub fn key_hash(key: &[u8]) -> KeyHash {
    KeyHash(digest(&[b"holdfast/state-key/v1", key]))
}

/// That a key has a value, or has none, under one state root.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct LeafProof {
    /// jmt's sparse Merkle proof.
    proof: jmt::proof::SparseMerkleProof<Sha256>,
}

impl LeafProof {
    /// Takes the tree's own proof.
    pub fn new(proof: jmt::proof::SparseMerkleProof<Sha256>) -> Self {
        Self { proof }
    }

    /// Whether `key` has exactly this value (`None`: is absent) under `root`.
    pub fn verify(&self, root: &Hash, key: &[u8], value: Option<&[u8]>) -> bool {
        is_leaf(key)
            && self
                .proof
                .verify(RootHash(*root), key_hash(key), value)
                .is_ok()
    }
}
