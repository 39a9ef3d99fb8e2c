//! Fr32 bit padding: 127 bytes of data become four 32-byte field elements, and back.
//!
//! Walk: first step inside `prover`; [`super::commp`] hashes the result, the staged sector file holds it.
//! Spec: proofs.md §1.1. The data is a little-endian bit stream cut into groups of 254 bits; each group becomes one
//! 32-byte node with two zero bits on top.
//!
//! ```text
//! input bits   0..253 | 254..507 | 508..761 | 762..1015      127 bytes
//! output node  n0     | n1       | n2       | n3             128 bytes, top two bits of each node zero
//! ```
//!
//! Bytes: `len` unpadded bytes give `ceil(8·len / 254)` nodes; a partial last node is zero-filled.
//! Cost: one pass, no allocation in the `_into` forms. Inverse in the same file; nodes with a set top bit are refused.

/// Bytes of data in one block.
pub const BLOCK_UNPADDED: usize = 127;
/// Bytes of one padded block: four nodes.
pub const BLOCK_PADDED: usize = 128;

/// Padded bytes, always whole nodes, that `unpadded` bytes become.
pub const fn padded_len(unpadded: u64) -> u64 {
    let blocks = unpadded / BLOCK_UNPADDED as u64;
    let rest_bits = unpadded % BLOCK_UNPADDED as u64 * 8;
    blocks * BLOCK_PADDED as u64 + rest_bits.div_ceil(254) * 32
}

/// Whole bytes of data that `padded` bytes carry.
pub const fn unpadded_len(padded: u64) -> u64 {
    let blocks = padded / BLOCK_PADDED as u64;
    let rest_nodes = padded % BLOCK_PADDED as u64 / 32;
    blocks * BLOCK_UNPADDED as u64 + rest_nodes * 254 / 8
}
