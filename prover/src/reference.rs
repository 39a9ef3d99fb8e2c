//! Plain twins of the fast paths, written to be read beside the specification.
//!
//! Each function follows its clause of `spec/proofs.md` line by line, without blocking, tables, interleaving or threads.
//! Tests compare the product with these at every boundary; nothing else calls them.

use crate::commitment::CommP;
use crate::hash::sha256;
use crate::ids::Node;
use crate::piece::size::PaddedPieceSize;

/// Fr32 padding, bit by bit (proofs.md §1.1).
pub fn fr32_pad(data: &[u8]) -> Vec<u8> {
    let bits = data.len() * 8;
    let mut out = vec![0u8; bits.div_ceil(254) * 32];
    for bit in 0..bits {
        let at = bit / 254 * 256 + bit % 254;
        out[at / 8] |= (data[bit / 8] >> (bit % 8) & 1) << (at % 8);
    }
    out
}

/// CommP: zero-extend, pad, hash row by row (proofs.md §1.2).
pub fn commp(data: &[u8]) -> (CommP, PaddedPieceSize) {
    let blocks = data.len().div_ceil(127).max(1).next_power_of_two();
    let mut extended = data.to_vec();
    extended.resize(blocks * 127, 0);
    let row = nodes_of(&fr32_pad(&extended));
    let bytes = u64::try_from(row.len() * 32).expect("data in memory");
    (
        CommP(root(row)),
        PaddedPieceSize::new(bytes).expect("128 times a power of two"),
    )
}

/// Root of a SHA-256/254 tree (proofs.md §1.2).
pub fn root(mut row: Vec<Node>) -> Node {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| sha256::node(&pair[0], &pair[1]))
            .collect();
    }
    row[0]
}

/// Cuts padded bytes into nodes.
pub fn nodes_of(padded: &[u8]) -> Vec<Node> {
    padded.as_chunks::<32>().0.to_vec()
}
