//! Pieces: a client's bytes on their way into a sector, and the roots that name them.
//!
//! Walk: after encryption and erasure coding, before `porep`. In order: [`fr32`] pads 127 bytes to four field elements,
//! [`commp`] hashes them to CommP, [`layout`] places several pieces in a sector and yields CommD, [`inclusion`] proves a
//! piece in a sector or a leaf range in a piece, [`cid`] is their text form. [`size`] has the two byte counts that must
//! never be mixed. Spec: proofs.md §1.

pub mod cid;
pub mod commp;
pub mod fr32;
pub mod inclusion;
pub mod layout;
pub mod size;

use crate::commitment::CommP;
use size::PaddedPieceSize;

/// A piece as a deal or sector names it: always root and size together, because the tree has no tag that would tell a
/// leaf from an inner node (threat P16).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct PieceInfo {
    /// Root over the padded nodes.
    pub comm_p: CommP,
    /// Padded bytes, a power of two.
    pub size: PaddedPieceSize,
}
