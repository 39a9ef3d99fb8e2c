//! Column hashes: one Poseidon hash over a node's labels of all layers; the leaves of TreeC.
//!
//! Walk: after [`super::label`] has filled every layer, before [`super::replica`]. Spec: proofs.md §3.2.
//! Bytes: in, one file per layer, node-ordered; out, the files of TreeC ([`crate::merkle::build`]).
//! Cost: `nodes` hashes of arity `layers` and `nodes / 7` of arity 8, all in parallel; fixed memory per thread.
//! Crash: `seal` redoes TreeC as a whole; it counts once its files are recorded.

use rayon::prelude::*;

use crate::hash::poseidon::{self, Arity};
use crate::ids::Node;
use crate::merkle::build::{self, TreeError};
use crate::progress::Progress;
use crate::sector_dir::disk::NodeFile;
use crate::spec::SectorSize;

/// Hash of one node's labels, layer 1 first; `None` if a label is no field element or there is no such column.
pub fn column_hash(labels: &[Node]) -> Option<Node> {
    let mut out = [[0u8; 32]];
    poseidon::hash_nodes(Arity::from_len(labels.len())?, labels, &mut out).ok()?;
    Some(out[0])
}

/// Hashes neighbouring columns: `layers[l][i]` is the label of the i-th node in layer `l + 1`. An error is the position of
/// a column with a label that is no field element.
///
/// # Panics
/// If the layers differ in length from `out`, or their number is no Poseidon arity; both come from the const table.
pub fn hash_columns(layers: &[Vec<Node>], out: &mut [Node]) -> Result<(), usize> {
    let arity = Arity::from_len(layers.len()).expect("sectors have 2 or 11 layers");
    assert!(
        layers.iter().all(|layer| layer.len() == out.len()),
        "one label of each layer per column"
    );
    let mut columns = Vec::with_capacity(layers.len() * out.len());
    for i in 0..out.len() {
        columns.extend(layers.iter().map(|layer| layer[i]));
    }
    poseidon::hash_nodes(arity, &columns, out).map_err(|bad| bad / layers.len())
}

/// Fills the TreeC files of all base trees from the layers and returns the root, CommC.
/// Reports [`build_units`] units of progress.
pub fn build_tree_c(
    layers: &[NodeFile],
    trees: &[NodeFile],
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    poseidon::checked(|| build_once(layers, trees, size, progress))
}

fn build_once(
    layers: &[NodeFile],
    trees: &[NodeFile],
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    // With eleven layers 352 KiB of labels for a CPU.
    let (leaves, together) = (size.base_tree_leaves(), poseidon::together());
    let mut roots = Vec::with_capacity(trees.len());
    for (i, tree) in trees.iter().enumerate() {
        (0..leaves.div_ceil(together))
            .into_par_iter()
            .try_for_each(|chunk| {
                let first = chunk * together;
                let count = together.min(leaves - first);
                hash_chunk(layers, tree, i as u64 * leaves + first, first, count)?;
                progress.advance(count);
                Ok::<(), TreeError>(())
            })?;
        roots.push(build::finish_tree_c(tree, size, progress)?);
    }
    Ok(build::join_base_roots(size, &roots).expect("Poseidon's output is canonical"))
}

/// Units of progress that [`build_tree_c`] reports: its hashes below the join.
pub fn build_units(size: SectorSize) -> u64 {
    let trees = size.shape().base_trees as u64;
    trees * crate::merkle::shape::tree_c_bytes(size) / crate::spec::NODE_BYTES as u64
}

fn hash_chunk(
    layers: &[NodeFile],
    tree: &NodeFile,
    node: u64,
    leaf: u64,
    count: u64,
) -> Result<(), TreeError> {
    let mut labels = vec![vec![[0u8; 32]; count as usize]; layers.len()];
    for (layer, buffer) in layers.iter().zip(&mut labels) {
        layer.read(node, buffer)?;
    }
    let mut out = vec![[0u8; 32]; count as usize];
    hash_columns(&labels, &mut out)
        .map_err(|bad| TreeError::not_canonical(&layers[0], node + bad as u64))?;
    tree.write(leaf, &out)?;
    Ok(())
}
