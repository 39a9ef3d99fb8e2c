//! The scrubber: a provider's own check that a sealed sector still is what the chain believes.
//!
//! Walk: between proving periods, by the provider's worker; damage found here is declared before the deadline finds it.
//! Spec: threat H3. It reads what PoSt reads: replica, TreeR and `p_aux`; nothing vouches for any of them but CommR.
//! Cost: [`CheckDepth::Full`] reads the whole replica and hashes `nodes / 7` Poseidon nodes; [`CheckDepth::Leaves`] opens
//! the given leaves, as a PoSt would. Memory: [`super::check_memory`], mostly TreeR's stored rows (1/448 of the sector).

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::check_memory;
use crate::commitment::CommR;
use crate::hash::poseidon::{self, Arity};
use crate::ids::Node;
use crate::machine::{MemoryError, Plan};
use crate::merkle::build;
use crate::merkle::shape;
use crate::porep::proof::{Tree, check_opening};
use crate::porep::replica;
use crate::progress::Progress;
use crate::sector_dir::ReplicaFiles;
use crate::sector_dir::disk::{DiskError, NodeFile, RealDisk};
use crate::spec::{BASE_ARITY, NODE_BYTES, SectorSize};

/// How much to look at.
#[derive(Clone, Copy, Debug)]
pub enum CheckDepth<'a> {
    /// Every byte.
    Full,
    /// These leaves; each opening reads the 512 leaves around it.
    Leaves(&'a [u64]),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A file is missing, short or unreadable.
    #[error("{0}")]
    Unreadable(String),
    /// `p_aux` does not hash to the chain's CommR.
    #[error("p_aux does not hash to CommR")]
    Roots,
    /// Replica bytes differ from what TreeR commits to.
    #[error("bytes {}..{} of the replica are damaged", .0.start, .0.end)]
    Replica(Range<u64>),
    /// A TreeR file differs from what its root commits to.
    #[error("TreeR file {0} is damaged")]
    TreeR(usize),
}

/// What the scrubber saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Replica nodes read and checked.
    pub nodes: u64,
    /// Everything found; empty when the sector is sound.
    pub damage: Vec<Damage>,
}

impl ReplicaReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    fn broken(damage: Damage) -> Self {
        Self {
            nodes: 0,
            damage: vec![damage],
        }
    }
}

/// Checks replica, TreeR and `p_aux` of the sector in `path` against the CommR that the chain holds.
///
/// # Errors
/// Only when the plan has too little memory: then nothing was looked at, and nothing is known to be damaged.
pub fn replica_check(
    path: &Path,
    size: SectorSize,
    comm_r: &CommR,
    depth: CheckDepth<'_>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<ReplicaReport, MemoryError> {
    plan.require("checking a replica", check_memory(size, plan))?;
    let files = match open(path, size) {
        Ok(files) => files,
        Err(damage) => return Ok(ReplicaReport::broken(damage)),
    };
    if replica::comm_r(&files.roots.comm_c, &files.roots.comm_r_last) != Some(*comm_r) {
        return Ok(ReplicaReport::broken(Damage::Roots));
    }
    Ok(plan.run(|| match depth {
        CheckDepth::Full => check_all(&files, progress),
        CheckDepth::Leaves(leaves) => check_leaves(&files, leaves),
    }))
}

fn open(path: &Path, size: SectorSize) -> Result<ReplicaFiles, Damage> {
    let unreadable = |error: DiskError| Damage::Unreadable(error.to_string());
    let files = ReplicaFiles::open(&RealDisk, path, size).map_err(unreadable)?;
    let expected = std::iter::once((&files.replica, size.bytes())).chain(
        files
            .tree_r
            .iter()
            .map(|tree| (tree, shape::tree_r_bytes(size))),
    );
    for (file, bytes) in expected {
        let found = file.byte_len().map_err(unreadable)?;
        if found != bytes {
            let what = format!(
                "{} has {found} bytes instead of {bytes}",
                file.path().display()
            );
            return Err(Damage::Unreadable(what));
        }
    }
    Ok(files)
}

fn check_leaves(files: &ReplicaFiles, leaves: &[u64]) -> ReplicaReport {
    let arities = shape::path_arities(files.size);
    let group = shape::leaves_per_cached_node(files.size);
    let damage = leaves.par_iter().filter_map(|&leaf| {
        let opening = match build::open_tree_r(&files.replica, &files.tree_r, files.size, leaf) {
            Ok(opening) => opening,
            Err(error) => return Some(Damage::Unreadable(error.to_string())),
        };
        let root = &files.roots.comm_r_last.0;
        check_opening(Tree::R, &opening, &arities, leaf, root)
            .err()
            .map(|_| Damage::Replica(group_bytes(leaf / group, group)))
    });
    let mut damage: Vec<Damage> = damage.collect();
    damage.dedup();
    ReplicaReport {
        nodes: leaves.len() as u64 * group,
        damage,
    }
}

/// Rebuilds TreeR's first stored row from the replica and decides, where it differs, which of the two files is wrong.
fn check_all(files: &ReplicaFiles, progress: &dyn Progress) -> ReplicaReport {
    let size = files.size;
    progress.start("checking the replica", size.nodes());
    let mut damage = Vec::new();
    let mut roots = Vec::new();
    for (i, tree) in files.tree_r.iter().enumerate() {
        match check_tree(files, i, tree, progress) {
            Ok((root, found)) => {
                roots.push(root);
                damage.extend(found);
            }
            Err(error) => damage.push(Damage::Unreadable(error.to_string())),
        }
    }
    progress.finish();
    let whole = build::join_base_roots(size, &roots) == Some(files.roots.comm_r_last.0);
    if damage.is_empty() && !whole {
        // Every file agrees with itself, yet not with CommR: data and tree were both replaced.
        damage.push(Damage::Replica(0..size.bytes()));
    }
    ReplicaReport {
        nodes: size.nodes(),
        damage,
    }
}

/// The base root that the replica hashes to, and the damage in this base tree.
fn check_tree(
    files: &ReplicaFiles,
    i: usize,
    tree: &NodeFile,
    progress: &dyn Progress,
) -> Result<(Node, Vec<Damage>), DiskError> {
    let size = files.size;
    let mut stored =
        vec![[0u8; NODE_BYTES]; (shape::tree_r_bytes(size) / NODE_BYTES as u64) as usize];
    tree.read(0, &mut stored)?;
    let row = shape::cached_rows(size)[0] as usize;
    let rebuilt = rebuild_row(files, i, progress)?;
    let from_replica = rows_above(
        rebuilt
            .iter()
            .map(|node| node.unwrap_or([0xff; NODE_BYTES]))
            .collect(),
    );
    let tree_is_whole = rows_above(stored[..row].to_vec()).is_some_and(|rows| rows == stored);

    let mut damage = Vec::new();
    let group = shape::leaves_per_cached_node(size);
    let first = i as u64 * size.base_tree_leaves() / group;
    let differing = (0..row).filter(|&g| rebuilt[g] != Some(stored[g]));
    if tree_is_whole {
        damage.extend(differing.map(|g| Damage::Replica(group_bytes(first + g as u64, group))));
    } else {
        damage.push(Damage::TreeR(i));
        // A tree that is damaged vouches for nothing; only nodes that are no field elements are certainly wrong.
        let broken = (0..row).filter(|&g| rebuilt[g].is_none());
        damage.extend(broken.map(|g| Damage::Replica(group_bytes(first + g as u64, group))));
    }
    let root = from_replica
        .and_then(|rows| rows.last().copied())
        .unwrap_or_default();
    Ok((root, damage))
}

/// TreeR's first stored row of base tree `i` as the replica gives it; `None` where a leaf is no field element.
fn rebuild_row(
    files: &ReplicaFiles,
    i: usize,
    progress: &dyn Progress,
) -> Result<Vec<Option<Node>>, DiskError> {
    let size = files.size;
    let group = shape::leaves_per_cached_node(size);
    let start = i as u64 * size.base_tree_leaves();
    (0..shape::cached_rows(size)[0])
        .into_par_iter()
        .map(|g| {
            let mut leaves = vec![[0u8; NODE_BYTES]; group as usize];
            files.replica.read(start + g * group, &mut leaves)?;
            progress.advance(group);
            Ok(build::cached_nodes(size, &leaves)
                .ok()
                .map(|nodes| nodes[0]))
        })
        .collect()
}

/// A row of an 8-ary Poseidon tree and all rows above it, joined; `None` if a node is no field element.
pub(crate) fn rows_above(row: Vec<Node>) -> Option<Vec<Node>> {
    let mut all = Vec::with_capacity(shape::tree_nodes(row.len() as u64, BASE_ARITY) as usize);
    all.extend_from_slice(&row);
    let mut below = row;
    while below.len() > 1 {
        let mut row = vec![[0u8; NODE_BYTES]; below.len() / BASE_ARITY];
        poseidon::hash_nodes(Arity::Eight, &below, &mut row).ok()?;
        all.extend_from_slice(&row);
        below = row;
    }
    Some(all)
}

fn group_bytes(group: u64, leaves: u64) -> Range<u64> {
    let bytes = leaves * NODE_BYTES as u64;
    group * bytes..(group + 1) * bytes
}
