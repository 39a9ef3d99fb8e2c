//! Commitments of the proofs, one type each, so that a piece's root is never taken for a sector's.
//!
//! | type | root of | proofs.md |
//! |---|---|---|
//! | [`CommP`] | a piece's padded nodes, SHA-256/254 | §1.2 |
//! | [`CommD`] | the whole padded sector, SHA-256/254 | §1.2 |
//! | [`CommC`] | the label columns, Poseidon | §3.2 |
//! | [`CommRLast`] | the replica, Poseidon | §3.2 |
//! | [`CommR`] | `H_2(CommC, CommRLast)`, what the chain keeps | §3.2 |
//!
//! Bytes: 32, little-endian where read as a field element; text is lower-case hex. CIDs are in [`crate::piece::cid`].

use crate::ids::bytes32;

bytes32!(
    /// Root over one piece's padded nodes. Only together with the piece's padded size does it say what was committed.
    CommP, "CommP");
bytes32!(
    /// Root over a whole sector's padded data.
    CommD, "CommD");
bytes32!(
    /// Root over a sector's label columns.
    CommC, "CommC");
bytes32!(
    /// Root over a sector's replica.
    CommRLast, "CommRLast");
bytes32!(
    /// Binds [`CommC`] and [`CommRLast`]: the sealed sector's name on chain.
    CommR, "CommR");

impl CommP {
    /// Piece CID v1 (`fil-commitment-unsealed`), text form; `baga6ea4seaq…` (proofs.md §1.4).
    pub fn to_cid(&self) -> String {
        crate::piece::cid::unsealed(&self.0)
    }
}

impl CommD {
    /// CID of an unsealed sector: the same form as a piece's.
    pub fn to_cid(&self) -> String {
        crate::piece::cid::unsealed(&self.0)
    }
}

impl CommR {
    /// CID of a sealed sector (`fil-commitment-sealed`), text form (proofs.md §1.4).
    pub fn to_cid(&self) -> String {
        crate::piece::cid::sealed(&self.0)
    }
}
