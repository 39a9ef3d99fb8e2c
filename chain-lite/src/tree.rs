//! The state tree: one root per block over every leaf of the state, with proofs of presence and absence.
//!
//! Walk: [`crate::ledger`] feeds a block's writes to [`update`] and puts the nodes beside the state; the root goes into the
//! next header; [`prove`] and [`LeafProof::verify`] are what a light client exchanges.
//! Spec: `consensus.md` §5. The tree is Penumbra's `jmt` (SHA-256); version `h` is the state after block `h`. A leaf's key is
//! `SHA-256("holdfast/state-key/v1" ‖ key)`, its value the stored bytes. Only keys for which [`key::is_leaf`] holds are in the tree;
//! indexes follow from them.
//!
//! Pruning: nodes that a block replaces are listed under the block's height and deleted [`KEPT_VERSIONS`] blocks later.
//! They are never deleted by version prefix: a node lives until something replaces it, however old it is.
//! Cost: about 0.1 ms for each changed leaf; a proof is about 1.2 KB.

use std::sync::Arc;

use borsh::BorshDeserialize;
use holdfast_light::leaf::key_hash;
use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{KeyHash, OwnedValue, Sha256Jmt};

use crate::codec;
use crate::error::StoreError;
use crate::merkle::Hash;
use crate::state::{WriteSet, key};

pub use holdfast_light::leaf::LeafProof;

/// How many states before the newest can still be proven against.
pub const KEPT_VERSIONS: u64 = 16;

/// Where nodes are read from: encoded node key to encoded node.
pub trait NodeRead {
    /// The node's bytes, if it exists.
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
}

/// What a block changes in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeUpdate {
    /// Root after the block.
    pub root: Hash,
    /// New nodes: encoded key and node.
    pub nodes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Encoded keys of nodes that this block replaced.
    pub stale: Vec<Vec<u8>>,
}

struct Reader<'a, R: NodeRead + ?Sized>(&'a R);

impl<R: NodeRead + ?Sized> TreeReader for Reader<'_, R> {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        let bytes = self.0.node(&codec::encode(node_key))?;
        Ok(bytes.map(|b| Node::try_from_slice(&b)).transpose()?)
    }
    fn get_value_option(&self, _: u64, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        // Values live in the state itself; a proof names the leaf's hash, and `prove` is handed the value.
        Ok(Some(Vec::new()))
    }
    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        // Only jmt's own restore asks; we rebuild from the log.
        Ok(None)
    }
}

/// The tree after block `version`; the tree of `version - 1` must be there (none is needed before version 0).
///
/// Every block changes the network leaf (its height), so versions and heights agree; an update without any leaf is
/// refused, because `jmt` would leave a version without a root.
pub fn update<R: NodeRead + ?Sized>(
    nodes: &R,
    version: u64,
    writes: &WriteSet,
) -> Result<TreeUpdate, StoreError> {
    let leaves: Vec<_> = writes
        .iter()
        .filter(|(k, _)| key::is_leaf(k))
        .map(|(k, v)| (key_hash(k), v.clone()))
        .collect();
    if leaves.is_empty() {
        return Err(broken(&"a block must change at least one leaf"));
    }
    let reader = Reader(nodes);
    let tree = Sha256Jmt::new(&reader);
    let (root, batch) = tree
        .put_value_set(leaves, version)
        .map_err(|e| broken(&e))?;
    let encode = |(k, n): (&NodeKey, &Node)| (codec::encode(k), codec::encode(n));
    Ok(TreeUpdate {
        root: root.0,
        nodes: batch.node_batch.nodes().iter().map(encode).collect(),
        stale: batch
            .stale_node_index_batch
            .iter()
            .map(|s| codec::encode(&s.node_key))
            .collect(),
    })
}

/// The root node of an empty tree at `version`: what a tree grows from that does not begin at version 0.
pub(crate) fn empty_root(version: u64) -> (Vec<u8>, Vec<u8>) {
    // A node key is its version and its path, here of no nibbles; `jmt` has no public name for it.
    let key = codec::encode(&(version, 0u64, Vec::<u8>::new()));
    (key, codec::encode(&Node::Null))
}

/// Root of the stored tree at `version`, if its root node is still there.
pub fn root<R: NodeRead + ?Sized>(nodes: &R, version: u64) -> Result<Option<Hash>, StoreError> {
    let reader = Reader(nodes);
    let root = Sha256Jmt::new(&reader)
        .get_root_hash_option(version)
        .map_err(|e| broken(&e))?;
    Ok(root.map(|r| r.0))
}

/// Proves `key` in the tree of `version`.
pub fn prove<R: NodeRead + ?Sized>(
    nodes: &R,
    version: u64,
    key: &[u8],
) -> Result<LeafProof, StoreError> {
    let reader = Reader(nodes);
    let (_, proof) = Sha256Jmt::new(&reader)
        .get_with_proof(key_hash(key), version)
        .map_err(|e| broken(&e))?;
    Ok(LeafProof::new(proof))
}

fn broken(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        key: String::new(),
        why: format!("state tree: {error:#}"),
    }
}

/// A tree held in memory: the auditor's, and this module's tests'.
#[derive(Clone, Debug, Default)]
pub struct MemoryTree {
    nodes: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    stale: Vec<Vec<u8>>,
}

impl NodeRead for MemoryTree {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.nodes.get(key).cloned())
    }
}

impl MemoryTree {
    /// Takes one block's writes and returns the new root; only the newest version is kept.
    pub fn apply(&mut self, version: u64, writes: &WriteSet) -> Result<Hash, StoreError> {
        let update = update(self, version, writes)?;
        for key in self.stale.drain(..) {
            self.nodes.remove(&key);
        }
        self.nodes.extend(update.nodes);
        self.stale = update.stale;
        Ok(update.root)
    }

    /// Nodes held, for memory accounting.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was applied yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl<T: NodeRead + ?Sized> NodeRead for Arc<T> {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).node(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn writes(list: &[(u8, Option<u8>)]) -> WriteSet {
        list.iter()
            .map(|(k, v)| (vec![3, *k], v.map(|v| vec![v; 3])))
            .collect()
    }

    #[test]
    fn proofs_of_presence_and_absence_hold_under_their_root_only() {
        let mut tree = MemoryTree::default();
        let first = tree
            .apply(0, &writes(&[(1, Some(1)), (2, Some(2)), (3, Some(3))]))
            .unwrap();
        let proof = prove(&tree, 0, &[3, 2]).unwrap();
        assert!(proof.verify(&first, &[3, 2], Some(&[2; 3])));
        assert!(!proof.verify(&first, &[3, 2], Some(&[9; 3])));
        assert!(!proof.verify(&first, &[3, 2], None));
        assert!(!proof.verify(&first, &[3, 1], Some(&[1; 3])));
        let absent = prove(&tree, 0, &[3, 77]).unwrap();
        assert!(absent.verify(&first, &[3, 77], None));
        assert!(!absent.verify(&first, &[3, 2], None));
        let bytes = codec::encode(&proof);
        assert_eq!(codec::decode::<LeafProof>(&bytes, 1 << 16).unwrap(), proof);
        let second = tree.apply(1, &writes(&[(2, Some(5))])).unwrap();
        assert!(!proof.verify(&second, &[3, 2], Some(&[2; 3])));
        assert!(
            prove(&tree, 1, &[3, 2])
                .unwrap()
                .verify(&second, &[3, 2], Some(&[5; 3]))
        );
    }

    #[test]
    fn indexes_are_outside_and_an_empty_update_is_refused() {
        let mut a = MemoryTree::default();
        let mut b = MemoryTree::default();
        let mut with_index = writes(&[(1, Some(1))]);
        with_index.insert(vec![0x80, 1], Some(vec![]));
        assert_eq!(
            a.apply(0, &writes(&[(1, Some(1))])).unwrap(),
            b.apply(0, &with_index).unwrap()
        );
        assert!(a.apply(1, &WriteSet::new()).is_err());
        assert!(!prove(&b, 0, &[0x80, 1]).unwrap().verify(
            &root(&b, 0).unwrap().unwrap(),
            &[0x80, 1],
            None
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The root depends on the leaves alone, not on the history that led to them; pruning loses nothing.
        #[test]
        fn the_root_is_a_function_of_the_leaves(blocks in prop::collection::vec(prop::collection::btree_map(0u8..40, prop::option::of(0u8..9), 1..8), 1..20)) {
            let mut grown = MemoryTree::default();
            let mut leaves = std::collections::BTreeMap::new();
            // One leaf stays for ever, as the network leaf does.
            let mut newest = grown.apply(0, &writes(&[(200, Some(1))])).unwrap();
            leaves.insert(200, 1);
            for (height, block) in blocks.iter().enumerate() {
                let list: Vec<_> = block.iter().map(|(k, v)| (*k, *v)).collect();
                for (k, v) in &list {
                    match v {
                        Some(v) => drop(leaves.insert(*k, *v)),
                        None => drop(leaves.remove(k)),
                    }
                }
                let mut list = writes(&list);
                list.insert(vec![2], Some(vec![height as u8]));
                newest = grown.apply(height as u64 + 1, &list).unwrap();
            }
            let mut all: WriteSet = writes(&leaves.iter().map(|(k, v)| (*k, Some(*v))).collect::<Vec<_>>());
            all.insert(vec![2], Some(vec![blocks.len() as u8 - 1]));
            prop_assert_eq!(MemoryTree::default().apply(0, &all).unwrap(), newest);
            for k in 0..40u8 {
                let proof = prove(&grown, blocks.len() as u64, &[3, k]).unwrap();
                let value = leaves.get(&k).map(|v| vec![*v; 3]);
                prop_assert!(proof.verify(&newest, &[3, k], value.as_deref()));
            }
        }
    }
}
