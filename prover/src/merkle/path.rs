//! Openings: a leaf, its position, and the siblings up to the root.
//!
//! Walk: [`super::build`] reads them from tree files, [`crate::porep::proof`] and
//! [`crate::post::proof`] collect them, their verifiers and the circuits recompute the roots.
//! Spec: `proofs.md` §3.2 (positional siblings, index bits least significant first).
//! Bytes: nodes as stored, 32 little-endian bytes; borsh as declared.
//! A path proves nothing about its own length: whoever checks one compares the arities with
//! [`super::shape::path_arities`] and the index with the challenge.

use ark_bls12_381::Fr;
use borsh::{BorshDeserialize, BorshSerialize};

use crate::hash::poseidon::{self, Arity};
use crate::ids::Node;
#[cfg(feature = "prove")]
use crate::snark::gadget::merkle::Level;

/// Why a path has no root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A node is no field element.
    #[error("level {level}: a node is not below the field order")]
    NotCanonical {
        /// 0 is the level of the leaf.
        level: usize,
    },
    /// No level of this kind of tree has that many children.
    #[error("level {level}: {siblings} siblings, which no level of such a tree has")]
    Arity {
        /// 0 is the level of the leaf.
        level: usize,
        /// Siblings found there.
        siblings: usize,
    },
    /// The index has bits left when the root is reached.
    #[error("leaf index {index} lies outside a tree of this height")]
    Index {
        /// The index as claimed.
        index: u64,
    },
}

/// Opening in TreeD, the binary SHA-256/254 tree.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BinaryPath {
    /// The opened node.
    pub leaf: Node,
    /// Its position in the leaf row.
    pub index: u64,
    /// One sibling per level, leaf level first.
    pub siblings: Vec<Node>,
}

impl BinaryPath {
    /// The root that this opening leads to.
    pub fn root(&self) -> Result<Node, PathError> {
        let mut index = self.index;
        let mut node = self.leaf;
        for sibling in &self.siblings {
            node = match index & 1 {
                0 => crate::hash::sha256::node(&node, sibling),
                _ => crate::hash::sha256::node(sibling, &node),
            };
            index >>= 1;
        }
        if index == 0 {
            Ok(node)
        } else {
            Err(PathError::Index { index: self.index })
        }
    }
}

#[cfg(feature = "prove")]
impl BinaryPath {
    /// The levels as the circuit takes them; `None` if a node is no field element or the index lies outside the tree:
    /// the circuit has no bits for the rest of it.
    pub(crate) fn witness(&self) -> Option<Vec<Level>> {
        let height = u32::try_from(self.siblings.len()).ok()?;
        if self.index.checked_shr(height).unwrap_or(0) != 0 {
            return None;
        }
        let level = |(height, sibling): (usize, &Node)| {
            let index = u8::from(self.index.checked_shr(height as u32).unwrap_or(0) & 1 == 1);
            Some(Level {
                index,
                siblings: vec![poseidon::fr_from_node(sibling)?],
            })
        };
        self.siblings.iter().enumerate().map(level).collect()
    }
}

#[cfg(feature = "prove")]
impl PoseidonPath {
    /// The levels as the circuit takes them; `None` if a node is no field element or the index lies outside the tree:
    /// the circuit has no bits for the rest of it.
    pub(crate) fn witness(&self) -> Option<Vec<Level>> {
        let mut rest = self.index;
        let mut level = |siblings: &Vec<Node>| {
            let arity = siblings.len() as u64 + 1;
            let index = u8::try_from(rest % arity).ok()?;
            rest /= arity;
            let siblings = siblings
                .iter()
                .map(poseidon::fr_from_node)
                .collect::<Option<_>>()?;
            Some(Level { index, siblings })
        };
        let levels = self.levels.iter().map(&mut level).collect::<Option<_>>()?;
        (rest == 0).then_some(levels)
    }
}

/// Opening in TreeC or TreeR, Poseidon trees of mixed arity.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PoseidonPath {
    /// The opened node.
    pub leaf: Node,
    /// Its position in the leaf row of the whole sector.
    pub index: u64,
    /// Per level, leaf level first, the other children of the parent in order.
    pub levels: Vec<Vec<Node>>,
}

impl PoseidonPath {
    /// Arity of each level, leaf level first.
    pub fn arities(&self) -> Vec<usize> {
        self.levels
            .iter()
            .map(|siblings| siblings.len() + 1)
            .collect()
    }

    /// The root that this opening leads to.
    pub fn root(&self) -> Result<Node, PathError> {
        let mut index = self.index;
        let mut node = read(&self.leaf, 0)?;
        for (level, siblings) in self.levels.iter().enumerate() {
            let width = siblings.len() as u64 + 1;
            let position = (index % width) as usize;
            index /= width;
            node = parent(level, siblings, position, node)?;
        }
        if index == 0 {
            Ok(poseidon::node_from_fr(&node))
        } else {
            Err(PathError::Index { index: self.index })
        }
    }
}

fn parent(level: usize, siblings: &[Node], position: usize, node: Fr) -> Result<Fr, PathError> {
    let arity = Arity::from_len(siblings.len() + 1).ok_or(PathError::Arity {
        level,
        siblings: siblings.len(),
    })?;
    let mut children = siblings
        .iter()
        .map(|s| read(s, level))
        .collect::<Result<Vec<Fr>, _>>()?;
    children.insert(position, node);
    Ok(poseidon::hash_slice(arity, &children))
}

fn read(node: &Node, level: usize) -> Result<Fr, PathError> {
    poseidon::fr_from_node(node).ok_or(PathError::NotCanonical { level })
}
