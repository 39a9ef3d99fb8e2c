//! Builds the sector's trees row by row in files, and reads openings back from them.
//!
//! Walk: `seal` builds TreeD when labelling, TreeC and TreeR when replicating; [`crate::porep::proof`] and
//! [`crate::post::proof`] open them. Spec: proofs.md §1.2, §3.2, §3.3. Plain twin: the definition, in the tests below.
//! Bytes: a tree file holds rows of 32-byte nodes bottom-up, root last, no header. TreeD and TreeC store all rows; TreeR
//! leaves out the leaf row (it is the replica) and the [`shape::discarded_rows`] above it, which an opening rebuilds from
//! [`shape::leaves_per_cached_node`] replica leaves.
//! Cost: one pass of reads and writes per row; memory is a fixed buffer per thread, whatever the sector's size.
//! Crash: nothing here is durable by itself; `sector_dir` syncs and renames finished files.

use rayon::prelude::*;

use super::path::{BinaryPath, PoseidonPath};
use super::shape;
use crate::hash::poseidon::{self, Arity};
use crate::hash::sha256;
use crate::ids::Node;
use crate::progress::Progress;
use crate::sector_dir::disk::{DiskError, NodeFile};
use crate::spec::{BASE_ARITY, SectorSize};

/// Parents hashed per piece of parallel work with SHA-256.
const CHUNK_PARENTS: u64 = 1 << 10;

/// A tree could not be built or read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A stored node is no field element: the file is damaged.
    #[error("{file}: node {node} is not below the field order, so the file is damaged")]
    NotCanonical {
        /// The file.
        file: String,
        /// Its node, counted from the start of the file.
        node: u64,
    },
}

impl TreeError {
    pub(crate) fn not_canonical(file: &NodeFile, node: u64) -> Self {
        Self::NotCanonical {
            file: file.path().display().to_string(),
            node,
        }
    }
}

/// The two hashes that fill rows.
#[derive(Clone, Copy, Debug)]
enum RowHash {
    Sha254,
    Poseidon8,
}

impl RowHash {
    const fn arity(self) -> usize {
        match self {
            RowHash::Sha254 => shape::BINARY,
            RowHash::Poseidon8 => BASE_ARITY,
        }
    }

    /// Parents hashed per piece of parallel work.
    fn chunk(self) -> u64 {
        match self {
            RowHash::Sha254 => CHUNK_PARENTS,
            RowHash::Poseidon8 => poseidon::together(),
        }
    }

    fn hash(self, children: &[Node], parents: &mut [Node]) -> Result<(), usize> {
        match self {
            RowHash::Sha254 => {
                sha256::nodes(children, parents);
                Ok(())
            }
            RowHash::Poseidon8 => poseidon::hash_nodes(Arity::Eight, children, parents),
        }
    }
}

/// Fills the rows above TreeD's leaf row, which the file already holds, and returns the root.
pub fn finish_tree_d(
    file: &NodeFile,
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    finish_rows(file, size.nodes(), RowHash::Sha254, progress)
}

/// Fills the rows above the leaf row of one TreeC base tree and returns its root.
pub fn finish_tree_c(
    file: &NodeFile,
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    finish_rows(file, size.base_tree_leaves(), RowHash::Poseidon8, progress)
}

/// Fills the rows above the first stored row of one TreeR base tree and returns its root.
pub fn finish_tree_r(
    file: &NodeFile,
    size: SectorSize,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    finish_rows(
        file,
        shape::cached_rows(size)[0],
        RowHash::Poseidon8,
        progress,
    )
}

/// Reduces replica leaves to nodes of TreeR's first stored row. `leaves` holds whole groups of
/// [`shape::leaves_per_cached_node`]; an error is the position of a leaf that is no field element.
pub fn cached_nodes(size: SectorSize, leaves: &[Node]) -> Result<Vec<Node>, usize> {
    let mut row = hash_slice(leaves)?;
    for _ in 0..shape::discarded_rows(size) {
        row = hash_slice(&row).expect("Poseidon's output is canonical");
    }
    Ok(row)
}

fn hash_slice(children: &[Node]) -> Result<Vec<Node>, usize> {
    let mut parents = vec![[0u8; 32]; children.len() / BASE_ARITY];
    poseidon::hash_nodes(Arity::Eight, children, &mut parents)?;
    Ok(parents)
}

/// Hashes the base roots through the sub and top levels: the root of the whole tree (proofs.md §3.2).
pub fn join_base_roots(size: SectorSize, base_roots: &[Node]) -> Option<Node> {
    let rows = rows_above(size, base_roots)?;
    rows.last().and_then(|row| row.first().copied())
}

/// The base roots and the rows above them, root last; `None` if a node is no field element.
fn rows_above(size: SectorSize, base_roots: &[Node]) -> Option<Vec<Vec<Node>>> {
    let shape = size.shape();
    let mut rows = vec![base_roots.to_vec()];
    for arity in [shape.sub, shape.top]
        .into_iter()
        .filter(|&arity| arity > 0)
    {
        let below = rows.last().expect("starts with the base roots");
        rows.push(
            below
                .chunks_exact(arity)
                .map(poseidon_parent)
                .collect::<Option<_>>()?,
        );
    }
    Some(rows)
}

fn poseidon_parent(children: &[Node]) -> Option<Node> {
    let arity =
        Arity::from_len(children.len()).expect("sub and top arities of the table are 2 and 8");
    let mut parent = [[0u8; 32]];
    poseidon::hash_nodes(arity, children, &mut parent).ok()?;
    Some(parent[0])
}

fn finish_rows(
    file: &NodeFile,
    leaves: u64,
    hash: RowHash,
    progress: &dyn Progress,
) -> Result<Node, TreeError> {
    let mut start = 0;
    let rows = shape::rows(leaves, hash.arity());
    for pair in rows.windows(2) {
        hash_row(file, start, start + pair[0], pair[1], hash)?;
        progress.advance(pair[1]);
        start += pair[0];
    }
    Ok(file.node(start)?)
}

/// Hashes the row that starts at node `from` into `parents` nodes at node `to`. Chunks read, hash and write on their own.
fn hash_row(
    file: &NodeFile,
    from: u64,
    to: u64,
    parents: u64,
    hash: RowHash,
) -> Result<(), TreeError> {
    let (arity, chunk_parents) = (hash.arity() as u64, hash.chunk());
    (0..parents.div_ceil(chunk_parents))
        .into_par_iter()
        .try_for_each(|chunk| {
            let first = chunk * chunk_parents;
            let count = chunk_parents.min(parents - first);
            let mut children = vec![[0u8; 32]; (count * arity) as usize];
            let mut out = vec![[0u8; 32]; count as usize];
            let at = from + first * arity;
            file.read(at, &mut children)?;
            hash.hash(&children, &mut out)
                .map_err(|bad| TreeError::not_canonical(file, at + bad as u64))?;
            file.write(to + first, &out)?;
            Ok(())
        })
}

/// Opens data node `index` in a TreeD file.
pub fn open_tree_d(file: &NodeFile, size: SectorSize, index: u64) -> Result<BinaryPath, TreeError> {
    let mut siblings = Vec::with_capacity(size.log2_nodes() as usize);
    let (mut start, mut position) = (0, index);
    for row in shape::rows(size.nodes(), shape::BINARY) {
        if row > 1 {
            siblings.push(file.node(start + (position ^ 1))?);
        }
        start += row;
        position /= 2;
    }
    Ok(BinaryPath {
        leaf: file.node(index)?,
        index,
        siblings,
    })
}

/// Opens column hash `index` in the TreeC files, one per base tree.
pub fn open_tree_c(
    files: &[NodeFile],
    size: SectorSize,
    index: u64,
) -> Result<PoseidonPath, TreeError> {
    let (file, local) = base_tree(files, size, index);
    let leaf = file.node(local)?;
    let rows = shape::rows(size.base_tree_leaves(), BASE_ARITY);
    let mut levels = Vec::new();
    stored_levels(file, &rows, local, &mut levels)?;
    join_levels(
        files,
        size,
        index,
        shape::tree_nodes(size.base_tree_leaves(), BASE_ARITY) - 1,
        &mut levels,
    )?;
    Ok(PoseidonPath {
        leaf,
        index,
        levels,
    })
}

/// Opens replica node `index` in TreeR: the rows that its files leave out are rebuilt from the replica.
pub fn open_tree_r(
    replica: &NodeFile,
    files: &[NodeFile],
    size: SectorSize,
    index: u64,
) -> Result<PoseidonPath, TreeError> {
    let group = shape::leaves_per_cached_node(size);
    let first = index / group * group;
    let mut row = vec![[0u8; 32]; group as usize];
    replica.read(first, &mut row)?;
    let leaf = row[(index - first) as usize];

    let mut levels = Vec::new();
    let mut position = (index - first) as usize;
    while row.len() > 1 {
        levels.push(without(
            &row[position / BASE_ARITY * BASE_ARITY..][..BASE_ARITY],
            position % BASE_ARITY,
        ));
        row = hash_slice(&row)
            .map_err(|bad| TreeError::not_canonical(replica, first + bad as u64))?;
        position /= BASE_ARITY;
    }
    let (file, local) = base_tree(files, size, index);
    let cached = shape::cached_rows(size);
    stored_levels(file, &cached, local / group, &mut levels)?;
    join_levels(
        files,
        size,
        index,
        cached.iter().sum::<u64>() - 1,
        &mut levels,
    )?;
    Ok(PoseidonPath {
        leaf,
        index,
        levels,
    })
}

/// The base tree that holds leaf `index`, and the leaf's position in it.
fn base_tree(files: &[NodeFile], size: SectorSize, index: u64) -> (&NodeFile, u64) {
    let leaves = size.base_tree_leaves();
    (&files[(index / leaves) as usize], index % leaves)
}

/// Siblings in the rows that a file stores, from `position` in its first row up to below the root.
fn stored_levels(
    file: &NodeFile,
    rows: &[u64],
    mut position: u64,
    levels: &mut Vec<Vec<Node>>,
) -> Result<(), TreeError> {
    let arity = BASE_ARITY as u64;
    let mut start = 0;
    for &row in rows.iter().filter(|&&row| row > 1) {
        let mut group = vec![[0u8; 32]; BASE_ARITY];
        file.read(start + position / arity * arity, &mut group)?;
        levels.push(without(&group, (position % arity) as usize));
        start += row;
        position /= arity;
    }
    Ok(())
}

/// Siblings in the sub and top levels, from the base roots at node `root_at` of each file.
fn join_levels(
    files: &[NodeFile],
    size: SectorSize,
    index: u64,
    root_at: u64,
    levels: &mut Vec<Vec<Node>>,
) -> Result<(), TreeError> {
    let roots = files
        .iter()
        .map(|file| file.node(root_at))
        .collect::<Result<Vec<Node>, _>>()?;
    let rows =
        rows_above(size, &roots).ok_or_else(|| TreeError::not_canonical(&files[0], root_at))?;
    let mut position = (index / size.base_tree_leaves()) as usize;
    for pair in rows.windows(2) {
        let arity = pair[0].len() / pair[1].len();
        levels.push(without(
            &pair[0][position / arity * arity..][..arity],
            position % arity,
        ));
        position /= arity;
    }
    Ok(())
}

fn without(group: &[Node], position: usize) -> Vec<Node> {
    let mut siblings = group.to_vec();
    siblings.remove(position);
    siblings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::sector_dir::disk::RealDisk;

    const SMALL: [SectorSize; 4] = [
        SectorSize::Kib2,
        SectorSize::Kib4,
        SectorSize::Kib16,
        SectorSize::Kib32,
    ];

    /// The plain twin: a tree by its definition, level by level in memory.
    fn plain_root(leaves: &[Node], arities: &[usize], parent: fn(&[Node]) -> Node) -> Node {
        let mut row = leaves.to_vec();
        for &arity in arities {
            row = row.chunks_exact(arity).map(parent).collect();
        }
        assert_eq!(row.len(), 1, "the arities multiply to the number of leaves");
        row[0]
    }

    fn leaves(size: SectorSize, seed: u8) -> Vec<Node> {
        let leaf = |i: u64| sha256::t254(sha256::digest(&[&[seed], &i.to_le_bytes()]));
        (0..size.nodes()).map(leaf).collect()
    }

    fn create(dir: &tempfile::TempDir, name: &str) -> NodeFile {
        NodeFile::create(&RealDisk, &dir.path().join(name)).expect("writable")
    }

    #[test]
    fn tree_d_and_all_its_openings_equal_the_definition() {
        for size in SMALL {
            let dir = tempfile::tempdir().expect("temporary folder");
            let (file, leaves) = (create(&dir, "d"), leaves(size, 1));
            file.write(0, &leaves).expect("writable");
            let root = finish_tree_d(&file, size, &NoProgress).expect("builds");
            let arities = vec![2; size.log2_nodes() as usize];
            assert_eq!(
                root,
                plain_root(&leaves, &arities, |pair| sha256::node(&pair[0], &pair[1]))
            );
            for (index, leaf) in (0..).zip(&leaves) {
                let path = open_tree_d(&file, size, index).expect("opens");
                assert_eq!(
                    (path.leaf, path.index, path.root()),
                    (*leaf, index, Ok(root))
                );
            }
        }
    }

    #[test]
    fn tree_c_and_tree_r_and_all_their_openings_equal_the_definition() {
        for size in SMALL {
            let dir = tempfile::tempdir().expect("temporary folder");
            let leaves = leaves(size, 2);
            let poseidon = |children: &[Node]| poseidon_parent(children).expect("canonical");
            let expected = plain_root(&leaves, &shape::path_arities(size), poseidon);

            let replica = create(&dir, "sealed");
            replica.write(0, &leaves).expect("writable");
            let (mut tree_c, mut tree_r, mut roots) = (Vec::new(), Vec::new(), Vec::new());
            for (i, base) in leaves
                .chunks_exact(size.base_tree_leaves() as usize)
                .enumerate()
            {
                let (c, r) = (
                    create(&dir, &format!("c{i}")),
                    create(&dir, &format!("r{i}")),
                );
                c.write(0, base).expect("writable");
                r.write(0, &cached_nodes(size, base).expect("canonical"))
                    .expect("writable");
                let root = finish_tree_c(&c, size, &NoProgress).expect("builds");
                assert_eq!(finish_tree_r(&r, size, &NoProgress).expect("builds"), root);
                assert_eq!(c.byte_len().expect("measurable"), shape::tree_c_bytes(size));
                assert_eq!(r.byte_len().expect("measurable"), shape::tree_r_bytes(size));
                roots.push(root);
                tree_c.push(c);
                tree_r.push(r);
            }
            assert_eq!(join_base_roots(size, &roots), Some(expected), "{size}");
            for (index, leaf) in (0..).zip(&leaves) {
                let path = open_tree_c(&tree_c, size, index).expect("opens");
                assert_eq!(
                    (path.leaf, path.index, path.root()),
                    (*leaf, index, Ok(expected))
                );
                assert_eq!(
                    open_tree_r(&replica, &tree_r, size, index).expect("opens"),
                    path
                );
            }
        }
    }

    #[test]
    fn a_node_above_the_order_names_its_file_and_place() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (file, mut leaves) = (create(&dir, "damaged"), leaves(SectorSize::Kib2, 3));
        leaves[37] = [0xff; 32];
        file.write(0, &leaves).expect("writable");
        let error = finish_tree_c(&file, SectorSize::Kib2, &NoProgress).expect_err("not canonical");
        assert!(
            matches!(&error, TreeError::NotCanonical { node: 37, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("damaged"));
    }
}
