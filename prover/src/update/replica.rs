//! The update's encoding: `new[v] = old[v] + data[v] · rho(high bits of v)` in the field, and the two ways back.
//!
//! Walk: after the new data is packed and its CommD known; afterwards the new CommR is fixed and [`super::challenge`] can draw.
//! Spec: proofs.md §6.1. Bytes: nodes as stored, canonical; data that was not Fr32-padded is refused.
//! `phi = G(CommD_new, CommR_old)` and `rho(high) = G(phi, high)`: so nobody can choose data that cancels the old replica,
//! because the data decides the factors it is multiplied by.
//! Cost: one multiplication and one addition a node; the `nodes / 7` hashes of each TreeR, the old one's too, are the rest.
//! Memory: buffers of each thread, a root for each 4,096 nodes ([`memory`]), and 1,024 factors.
//! Crash: as in `porep::replica`, a file counts once its owner recorded it.
//!
//! Decoding needs the old replica: the sealed zeros, which are the labels of the last layer, kept or computed again at the
//! price of PC1. Removing needs the data, and gives the old replica back.

use std::sync::Mutex;

use ark_bls12_381::Fr;
use ark_ff::Field;

use crate::commitment::{CommD, CommR};
use crate::hash::poseidon::{fr_from_node, hash_update};
use crate::ids::Node;
use crate::machine::Plan;
use crate::merkle::build::{self, TreeError};
use crate::porep::replica::{self, Integer};
use crate::progress::Progress;
use crate::seal::{PROGRAM_BYTES, SLACK_BYTES, rows_above};
use crate::sector_dir::disk::NodeFile;
use crate::spec::{NODE_BYTES, SectorSize};

/// `G(CommD_new, CommR_old)`; `None` if a commitment is no field element.
pub fn phi(comm_d_new: &CommD, comm_r_old: &CommR) -> Option<Fr> {
    Some(hash_update(&[
        fr_from_node(&comm_d_new.0)?,
        fr_from_node(&comm_r_old.0)?,
    ]))
}

/// The factors of a sector's nodes, one for each value of their high bits.
#[derive(Clone, Debug)]
pub struct Factors {
    rho: Vec<Fr>,
    /// Index bits below the high ones.
    low: u32,
}

impl Factors {
    /// The factors of this update; `None` if a commitment is no field element.
    pub fn new(size: SectorSize, comm_d_new: &CommD, comm_r_old: &CommR) -> Option<Factors> {
        let phi = phi(comm_d_new, comm_r_old)?;
        let high = size.update_shape().high();
        Some(Factors {
            rho: (0..1u64 << high)
                .map(|high| hash_update(&[phi, Fr::from(high)]))
                .collect(),
            low: size.log2_nodes() - high,
        })
    }

    /// Their inverses, for decoding; `None` if a factor is zero, which no data brings about in practice.
    pub fn inverse(&self) -> Option<Factors> {
        Some(Factors {
            rho: self.rho.iter().map(Fr::inverse).collect::<Option<_>>()?,
            low: self.low,
        })
    }

    /// The factor of a node.
    pub fn of(&self, node: u64) -> Fr {
        // A node of the sector: the table has an entry for all of its high bits.
        self.rho[(node >> self.low) as usize]
    }
}

/// One node of the new replica; `None` if an argument is no field element.
pub fn encode(old: &Node, data: &Node, factor: &Fr) -> Option<Node> {
    replica::encode(&times(data, factor)?, old)
}

/// The data under one node of the new replica, with the inverse of its factor; `None` if an argument is no field element.
pub fn decode(new: &Node, old: &Node, inverse: &Fr) -> Option<Node> {
    times(&replica::decode(new, old)?, inverse)
}

/// The old replica's node under one of the new; `None` if an argument is no field element.
pub fn remove(new: &Node, data: &Node, factor: &Fr) -> Option<Node> {
    replica::decode(new, &times(data, factor)?)
}

/// `node · factor` in stored form.
fn times(node: &Node, factor: &Fr) -> Option<Node> {
    let stored: Integer = replica::read(node)?;
    // Stored limbs, taken for a Montgomery form, stand for node/R. The product's form is then node/R · factor · R: the stored
    // form of what is asked for, for one multiplication instead of three.
    let product = Fr::new_unchecked(stored) * factor;
    Some(replica::write(&product.0))
}

/// Bytes of memory that encoding and decoding need: buffers of each thread, and a root for each chunk of the sector.
pub fn memory(size: SectorSize, plan: &Plan) -> u64 {
    let chunk = replica::chunk_nodes(size);
    // Three chunks of nodes, and the rows of a tree above one.
    let per_thread = NODE_BYTES as u64 * 4 * chunk;
    // Copied when they are hashed further, with the rows above them.
    let chunk_roots = NODE_BYTES as u64 * 3 * (size.nodes() / chunk);
    let fixed = SLACK_BYTES + PROGRAM_BYTES + crate::machine::gpu_memory();
    plan.threads() as u64 * per_thread + chunk_roots + fixed
}

/// Roots of TreeR over the two replicas, as [`build`] read and wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BothRoots {
    /// Of the bytes that were encoded over: only if this is the old CommRLast is the new replica what it shall be.
    pub old: Node,
    /// Of the new replica: the new CommRLast.
    pub new: Node,
}

/// Writes the whole new replica and its TreeR files. The old replica is hashed from the very bytes that are encoded, so that
/// no change of its file goes unseen. `data` holds the padded data in its first `size.nodes()` nodes, as TreeD's file does.
/// Reports `size.nodes()` units of progress.
pub fn build(
    old: &NodeFile,
    data: &NodeFile,
    new: &NodeFile,
    trees: &[NodeFile],
    size: SectorSize,
    factors: &Factors,
    progress: &dyn Progress,
) -> Result<BothRoots, TreeError> {
    let chunk = replica::chunk_nodes(size);
    let chunk_roots = vec![[0u8; NODE_BYTES]; (size.nodes() / chunk) as usize];
    let chunk_roots = Mutex::new(chunk_roots);
    let new = replica::reduce_replica(trees, size, progress, |first, nodes| {
        old.read(first, nodes)?;
        let row = build::cached_nodes(size, nodes)
            .map_err(|at| TreeError::not_canonical(old, first + at as u64))?;
        let root = tree_r_root(row);
        chunk_roots.lock().expect("no holder of it can panic")[(first / chunk) as usize] = root;
        combine(old, data, first, nodes, |i, old, data| {
            encode(old, data, &factors.of(i))
        })?;
        new.write(first, nodes)?;
        Ok(())
    })?;
    let chunk_roots = chunk_roots.into_inner().expect("no holder of it can panic");
    let base_roots: Vec<Node> = chunk_roots
        .chunks((size.base_tree_leaves() / chunk) as usize)
        .map(|row| tree_r_root(row.to_vec()))
        .collect();
    let old = build::join_base_roots(size, &base_roots).expect("Poseidon's output is canonical");
    Ok(BothRoots { old, new })
}

/// The node over a row of TreeR, a power of eight of nodes that Poseidon gave.
fn tree_r_root(row: Vec<Node>) -> Node {
    let rows = rows_above(row).expect("Poseidon's output is canonical");
    rows[rows.len() - 1]
}

/// The data under the new replica's nodes from `first` on, with the [`Factors::inverse`] of its factors. What comes out is the
/// data only if both replicas are the right ones: its CommD tells.
pub fn decode_into(
    new: &NodeFile,
    old: &NodeFile,
    first: u64,
    nodes: &mut [Node],
    inverse: &Factors,
) -> Result<(), TreeError> {
    new.read(first, nodes)?;
    combine(new, old, first, nodes, |i, new, old| {
        decode(new, old, &inverse.of(i))
    })
}

/// The old replica's nodes under the new one's, from `first` on; `data` as in [`build`]. What comes out is the old replica
/// only if both files are the right ones: its TreeR tells.
pub fn remove_into(
    new: &NodeFile,
    data: &NodeFile,
    first: u64,
    nodes: &mut [Node],
    factors: &Factors,
) -> Result<(), TreeError> {
    new.read(first, nodes)?;
    combine(new, data, first, nodes, |i, new, data| {
        remove(new, data, &factors.of(i))
    })
}

/// Turns `nodes`, which were read from `left`, into what `node` makes of them and the nodes of `right`, from node `first` on.
/// What is no field element is named: in the first file if it is there, else in the second.
fn combine(
    left: &NodeFile,
    right: &NodeFile,
    first: u64,
    nodes: &mut [Node],
    node: impl Fn(u64, &Node, &Node) -> Option<Node>,
) -> Result<(), TreeError> {
    let mut others = vec![[0u8; 32]; nodes.len()];
    right.read(first, &mut others)?;
    for (i, (slot, other)) in (first..).zip(nodes.iter_mut().zip(&others)) {
        *slot = node(i, slot, other).ok_or_else(|| {
            let damaged = if replica::read(slot).is_none() {
                left
            } else {
                right
            };
            TreeError::not_canonical(damaged, i)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::poseidon::node_from_fr;
    use ark_ff::AdditiveGroup;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        any::<[u8; 32]>().prop_map(crate::hash::sha256::t254)
    }

    fn fr(node: &Node) -> Fr {
        fr_from_node(node).expect("canonical")
    }

    proptest! {
        #[test]
        fn decode_and_remove_undo_encode(old in node(), data in node(), rho in node()) {
            let factor = fr(&rho);
            prop_assume!(factor != Fr::ZERO);
            let new = encode(&old, &data, &factor).expect("all are canonical");
            prop_assert_eq!(new, node_from_fr(&(fr(&old) + fr(&data) * factor)));
            prop_assert_eq!(decode(&new, &old, &factor.inverse().expect("not zero")), Some(data));
            prop_assert_eq!(remove(&new, &data, &factor), Some(old));
        }
    }

    #[test]
    fn nodes_above_the_order_are_refused() {
        let (one, above) = (node_from_fr(&Fr::ONE), [0xff; 32]);
        assert_eq!(encode(&above, &one, &Fr::ONE), None);
        assert_eq!(encode(&one, &above, &Fr::ONE), None);
        assert_eq!(decode(&one, &above, &Fr::ONE), None);
        assert_eq!(decode(&above, &one, &Fr::ONE), None);
        assert_eq!(remove(&one, &above, &Fr::ONE), None);
        assert!(phi(&CommD(above), &CommR(one)).is_none());
        assert!(Factors::new(SectorSize::Kib2, &CommD(one), &CommR(above)).is_none());
    }

    /// Nodes that share their high bits share a factor, others do not; and both commitments decide all of them.
    #[test]
    fn factors_follow_the_high_bits_and_both_commitments() {
        let one = node_from_fr(&Fr::ONE);
        let size = SectorSize::Mib8;
        let factors = Factors::new(size, &CommD(one), &CommR([0; 32])).expect("canonical");
        assert_eq!(factors.rho.len(), 1024);
        assert_eq!(factors.of(255), factors.of(0));
        assert_ne!(factors.of(256), factors.of(0));
        assert_eq!(factors.of(size.nodes() - 1), factors.rho[1023]);
        let phi = phi(&CommD(one), &CommR([0; 32])).expect("canonical");
        assert_eq!(factors.of(256), hash_update(&[phi, Fr::ONE]));
        for (d, r) in [([0; 32], [0; 32]), (one, one)] {
            let other = Factors::new(size, &CommD(d), &CommR(r)).expect("canonical");
            assert!(factors.rho.iter().zip(&other.rho).all(|(a, b)| a != b));
        }
        let inverse = factors.inverse().expect("no factor is zero");
        assert_eq!(inverse.of(300) * factors.of(300), Fr::ONE);
    }
}
