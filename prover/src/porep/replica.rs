//! Encoding: `replica[v] = data[v] + label(L, v)` in the field, and its inverse.
//!
//! Walk: after [`super::column`]; afterwards CommR is fixed. Decoding serves unsealing ([`crate::seal::unseal`]).
//! Spec: proofs.md §2.7, §3.2. Bytes: nodes as stored, canonical; data that was not Fr32-padded is refused.
//! Cost: one addition per node; TreeR's `nodes / 7` hashes ride along while the replica is in cache.
//! Crash: `seal` redoes the replica as a whole; it counts once its files are recorded.

use ark_bls12_381::Fr;
use ark_ff::{BigInteger, PrimeField};
use rayon::prelude::*;

use crate::commitment::{CommC, CommR, CommRLast};
use crate::hash::poseidon::{self, Arity};
use crate::ids::Node;
use crate::merkle::build::{self, TreeError};
use crate::merkle::shape;
use crate::progress::Progress;
use crate::sector_dir::disk::NodeFile;
use crate::spec::SectorSize;

pub(crate) type Integer = <Fr as PrimeField>::BigInt;

/// One node of the replica; `None` if an argument is no field element.
pub fn encode(data: &Node, key: &Node) -> Option<Node> {
    let (mut sum, key) = (read(data)?, read(key)?);
    // Both are below the 255-bit order, so the sum fits 256 bits.
    sum.add_with_carry(&key);
    if sum >= Fr::MODULUS {
        sum.sub_with_borrow(&Fr::MODULUS);
    }
    Some(write(&sum))
}

/// The data node under one node of the replica; `None` if an argument is no field element.
pub fn decode(replica: &Node, key: &Node) -> Option<Node> {
    let (mut difference, key) = (read(replica)?, read(key)?);
    if difference < key {
        difference.add_with_carry(&Fr::MODULUS);
    }
    difference.sub_with_borrow(&key);
    Some(write(&difference))
}

/// `H_2(CommC, CommRLast)` (proofs.md §3.2); `None` if a root is no field element.
pub fn comm_r(comm_c: &CommC, comm_r_last: &CommRLast) -> Option<CommR> {
    let mut out = [[0u8; 32]];
    poseidon::hash_nodes(Arity::Two, &[comm_c.0, comm_r_last.0], &mut out).ok()?;
    Some(CommR(out[0]))
}

/// Writes the replica of the whole sector and the TreeR files, and returns TreeR's root, CommRLast.
/// Reports `size.nodes()` units of progress.
pub fn build_replica(
    data: &NodeFile,
    key: &NodeFile,
    replica: &NodeFile,
    trees: &[NodeFile],
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    reduce_replica(trees, size, progress, |first, nodes| {
        let mut keys = vec![[0u8; 32]; nodes.len()];
        data.read(first, nodes)?;
        key.read(first, &mut keys)?;
        for (i, (node, key)) in nodes.iter_mut().zip(&keys).enumerate() {
            *node = encode(node, key)
                .ok_or_else(|| TreeError::not_canonical(data, first + i as u64))?;
        }
        replica.write(first, nodes)?;
        Ok(())
    })
}

/// Fills TreeR files from replica nodes that `load` puts into its buffer, chunk by chunk, and returns the root. `load` gets
/// the first node's index; it is called from several threads.
pub(crate) fn reduce_replica(
    trees: &[NodeFile],
    size: SectorSize,
    progress: &dyn Progress,
    load: impl Fn(u64, &mut [Node]) -> Result<(), TreeError> + Sync,
) -> Result<Node, TreeError> {
    poseidon::checked(|| reduce_once(trees, size, progress, &load))
}

fn reduce_once(
    trees: &[NodeFile],
    size: SectorSize,
    progress: &dyn Progress,
    load: &(impl Fn(u64, &mut [Node]) -> Result<(), TreeError> + Sync),
) -> Result<Node, TreeError> {
    let leaves = size.base_tree_leaves();
    let group = shape::leaves_per_cached_node(size);
    let chunk = chunk_nodes(size);
    let mut roots = Vec::with_capacity(trees.len());
    for (i, tree) in trees.iter().enumerate() {
        let start = i as u64 * leaves;
        (0..leaves / chunk).into_par_iter().try_for_each(|c| {
            let mut nodes = vec![[0u8; 32]; chunk as usize];
            load(start + c * chunk, &mut nodes)?;
            let cached = build::cached_nodes(size, &nodes).expect("what `load` gives is canonical");
            tree.write(c * chunk / group, &cached)?;
            progress.advance(chunk);
            Ok::<(), TreeError>(())
        })?;
        roots.push(build::finish_tree_r(
            tree,
            size,
            &crate::progress::NoProgress,
        )?);
    }
    Ok(build::join_base_roots(size, &roots).expect("Poseidon's output is canonical"))
}

/// Whole groups of replica leaves per piece of parallel work: eight groups for a CPU, or the whole tree when it is smaller.
pub(crate) fn chunk_nodes(size: SectorSize) -> u64 {
    chunk_for(size, poseidon::together())
}

/// The groups are a power of eight: what they reduce to are nodes of one row of TreeR, and trees of their own.
fn chunk_for(size: SectorSize, together: u64) -> u64 {
    let groups = 8u64.pow((together >> 7).ilog2() / 3);
    (groups * shape::leaves_per_cached_node(size)).min(size.base_tree_leaves())
}

pub(crate) fn read(node: &Node) -> Option<Integer> {
    let mut limbs = [0u64; 4];
    for (limb, bytes) in limbs.iter_mut().zip(node.as_chunks::<8>().0) {
        *limb = u64::from_le_bytes(*bytes);
    }
    let value = ark_ff::BigInt(limbs);
    (value < Fr::MODULUS).then_some(value)
}

pub(crate) fn write(value: &Integer) -> Node {
    let mut node = [0u8; 32];
    for (bytes, limb) in node.as_chunks_mut::<8>().0.iter_mut().zip(value.0) {
        *bytes = limb.to_le_bytes();
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// For a CPU and for a GPU: chunks and what they reduce to are rows of trees.
    #[test]
    fn chunks_reduce_to_one_node_and_trees_to_whole_rows_of_chunks() {
        let power_of_eight = |n: u64| n.is_power_of_two() && n.ilog2().is_multiple_of(3);
        for size in SectorSize::ALL {
            for together in [1 << 10, 1 << 15] {
                let chunk = chunk_for(size, together);
                let [row, chunks] = [
                    chunk / shape::leaves_per_cached_node(size),
                    size.base_tree_leaves() / chunk,
                ];
                assert!(
                    power_of_eight(row) && power_of_eight(chunks),
                    "{size} {together}"
                );
            }
        }
    }

    fn node() -> impl Strategy<Value = Node> {
        any::<[u8; 32]>().prop_map(crate::hash::sha256::t254)
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(data in node(), key in node()) {
            let replica = encode(&data, &key).expect("both are canonical");
            let sum = poseidon::fr_from_node(&data).expect("canonical") + poseidon::fr_from_node(&key).expect("canonical");
            prop_assert_eq!(replica, poseidon::node_from_fr(&sum));
            prop_assert_eq!(decode(&replica, &key), Some(data));
        }
    }

    #[test]
    fn wraps_at_the_order_and_refuses_what_is_above() {
        let largest = poseidon::node_from_fr(&-Fr::from(1u64));
        let one = poseidon::node_from_fr(&Fr::from(1u64));
        assert_eq!(encode(&largest, &one), Some([0; 32]));
        assert_eq!(decode(&[0; 32], &one), Some(largest));
        assert_eq!(encode(&[0xff; 32], &one), None);
        assert_eq!(decode(&one, &[0xff; 32]), None);
    }
}
