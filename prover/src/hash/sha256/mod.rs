//! SHA-256 in the two shapes that sealing needs, and the truncation to a field element.
//!
//! * [`node`] and [`nodes`]: 64 bytes in, 32 out: TreeD and CommP. Millions of independent hashes, so kernels interleave.
//! * [`digest`]: any message, for replica ids and challenges, through the `sha2` crate.
//!
//! Spec: proofs.md §0 (`t254`), §1.2 (tree node).

mod portable;

use crate::ids::Node;
use sha2::{Digest, Sha256};

/// Clears the two top bits, so that the digest read little-endian is below the field order (proofs.md §0).
#[inline]
pub const fn t254(mut digest: [u8; 32]) -> Node {
    digest[31] &= 0x3f;
    digest
}

/// SHA-256 of the parts joined, untruncated.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Parent of two nodes of the SHA-256/254 tree (proofs.md §1.2).
pub fn node(left: &Node, right: &Node) -> Node {
    t254(digest(&[left, right]))
}

/// Parents of a whole row: `out[i] = node(row[2i], row[2i + 1])`.
///
/// # Panics
/// When `row` is not `2 * out.len()` nodes long.
pub fn nodes(row: &[Node], out: &mut [Node]) {
    assert_eq!(row.len(), 2 * out.len(), "a row has two nodes per parent");
    portable::nodes(row, out);
}

/// Root over a power of two of leaves; the slice is used as scratch.
///
/// # Panics
/// When the length is not a power of two.
pub fn root_in_place(leaves: &mut [Node]) -> Node {
    assert!(
        leaves.len().is_power_of_two(),
        "a complete binary tree has a power of two of leaves"
    );
    let mut len = leaves.len();
    while len > 1 {
        nodes_in_place(&mut leaves[..len]);
        len /= 2;
    }
    leaves[0]
}

/// Replaces the front half of a row by the parents of the whole row.
fn nodes_in_place(row: &mut [Node]) {
    portable::nodes_in_place(row);
}
