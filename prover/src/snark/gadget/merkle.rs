//! Merkle paths to a root that is a variable: Filecoin's PoR with a private root.
//!
//! Spec: `vectors/r1cs/README.md` §8. Per level from the leaf: index bits, siblings, insertion,
//! hash. After the top all index bits are packed into one input, the challenged leaf's index, and
//! the computed root is tied to the given one. Equality of the index with the challenge is not a
//! row: the verifier computes that input itself. A sector update draws its challenges in the circuit, so its paths take bits
//! that are variables already ([`path_at`]).

use ark_bls12_381::Fr;

use super::bits::{Bit, pack_into_inputs};
use super::insert::insert;
use super::poseidon::poseidon;
use super::sha256::tree_d_node;
use crate::snark::cs::{ConstraintSystem, Num};

/// What hashes the children of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeHash {
    /// SHA-256, arity 2 (TreeD).
    Sha256,
    /// Poseidon of the level's arity (TreeC, TreeR).
    Poseidon,
}

/// One level of a path, from the leaf upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Position of the path's node among its parent's children.
    pub index: u8,
    /// The other children in order: arity − 1 of them.
    pub siblings: Vec<Fr>,
}

impl Level {
    /// A level of zeros, for synthesis without a witness.
    pub fn blank(arity: usize) -> Level {
        Level {
            index: 0,
            siblings: vec![Fr::from(0u64); arity - 1],
        }
    }
}

/// Proves that `leaf` opens in the tree with `root` along `levels`.
pub fn path<CS: ConstraintSystem>(
    cs: &mut CS,
    hash: NodeHash,
    leaf: Num,
    levels: &[Level],
    root: Num,
) {
    let mut index = Vec::with_capacity(3 * levels.len());
    let mut node = leaf;
    for level in levels {
        let arity = level.siblings.len() + 1;
        let bits: Vec<Bit> = (0..arity.trailing_zeros())
            .map(|i| Bit::alloc(cs, level.index >> i & 1 == 1))
            .collect();
        let siblings: Vec<Num> = level
            .siblings
            .iter()
            .map(|value| Num::alloc(cs, *value))
            .collect();
        node = parent(cs, hash, node, &bits, &siblings);
        index.extend(bits);
    }
    pack_into_inputs(cs, &index);
    node.enforce_equal(cs, root);
}

/// Proves that `leaf` opens in the tree with `root` at the index whose bits are `index`, least significant first, along
/// siblings that are variables already, one list per level.
///
/// # Panics
/// Unless `index` has as many bits as the levels take: both come from the const table of [`crate::spec`].
pub fn path_at<CS: ConstraintSystem>(
    cs: &mut CS,
    hash: NodeHash,
    leaf: Num,
    mut index: &[Bit],
    levels: &[Vec<Num>],
    root: Num,
) {
    let mut node = leaf;
    for siblings in levels {
        let arity = siblings.len() + 1;
        let (bits, rest) = index.split_at(arity.trailing_zeros() as usize);
        node = parent(cs, hash, node, bits, siblings);
        index = rest;
    }
    assert!(index.is_empty(), "the index is one of this tree's leaves");
    node.enforce_equal(cs, root);
}

fn parent<CS: ConstraintSystem>(
    cs: &mut CS,
    hash: NodeHash,
    node: Num,
    index: &[Bit],
    siblings: &[Num],
) -> Num {
    let children = insert(cs, node, index, siblings);
    match hash {
        NodeHash::Sha256 => tree_d_node(cs, children[0], children[1]),
        NodeHash::Poseidon => poseidon(cs, &children),
    }
}
