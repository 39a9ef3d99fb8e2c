//! The geometry of the sector's trees: arities, rows, which rows TreeR leaves out.
//!
//! Walk: [`super::build`] writes files of these sizes, [`super::path`] opens them; the circuit takes
//! its path arities from [`path_arities`].
//! Spec: `proofs.md` §3.2 (base-sub-top), §3.3 (stored rows, level cache).
//! Pure arithmetic over the const table in [`crate::spec`].

use crate::spec::{BASE_ARITY, NODE_BYTES, SectorSize};

/// Arity of TreeD.
pub const BINARY: usize = 2;

/// Rows above the replica that the level cache of TreeR leaves out, at most.
const MAX_DISCARDED_ROWS: usize = 2;

/// Arities of a TreeC or TreeR path from the leaf to the root: base levels, then sub, then top.
pub fn path_arities(size: SectorSize) -> Vec<usize> {
    let shape = size.shape();
    let mut arities = vec![BASE_ARITY; base_levels(size)];
    arities.extend(
        [shape.sub, shape.top]
            .into_iter()
            .filter(|&arity| arity > 0),
    );
    arities
}

/// Levels of hashing inside one base tree.
pub fn base_levels(size: SectorSize) -> usize {
    (size.base_tree_leaves().ilog2() / BASE_ARITY.ilog2()) as usize
}

/// Nodes in each row of a complete tree, leaves first, root last.
pub fn rows(leaves: u64, arity: usize) -> Vec<u64> {
    let mut rows = vec![leaves];
    while rows[rows.len() - 1] > 1 {
        rows.push(rows[rows.len() - 1] / arity as u64);
    }
    rows
}

/// Nodes of a complete tree with all its rows.
pub fn tree_nodes(leaves: u64, arity: usize) -> u64 {
    rows(leaves, arity).iter().sum()
}

/// Rows between the leaves and the first row that a TreeR file stores (`proofs.md` §3.3).
pub fn discarded_rows(size: SectorSize) -> usize {
    match base_levels(size) + 1 {
        ..=2 => 0,
        3 => 1,
        rows => MAX_DISCARDED_ROWS.min(rows - 2),
    }
}

/// Replica leaves below one node of the first stored row of TreeR; what one opening re-hashes.
pub fn leaves_per_cached_node(size: SectorSize) -> u64 {
    (BASE_ARITY as u64).pow(discarded_rows(size) as u32 + 1)
}

/// Nodes in each stored row of one TreeR file, lowest first.
pub fn cached_rows(size: SectorSize) -> Vec<u64> {
    rows(size.base_tree_leaves(), BASE_ARITY).split_off(discarded_rows(size) + 1)
}

/// Bytes of the TreeD file.
pub fn tree_d_bytes(size: SectorSize) -> u64 {
    tree_nodes(size.nodes(), BINARY) * NODE_BYTES as u64
}

/// Bytes of one TreeC file.
pub fn tree_c_bytes(size: SectorSize) -> u64 {
    tree_nodes(size.base_tree_leaves(), BASE_ARITY) * NODE_BYTES as u64
}

/// Bytes of one TreeR file.
pub fn tree_r_bytes(size: SectorSize) -> u64 {
    cached_rows(size).iter().sum::<u64>() * NODE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at the end of `proofs.md` §3.2: path levels, siblings, cache bytes per base tree.
    #[test]
    fn matches_the_spec_table() {
        let table = [
            (SectorSize::Kib2, 2, 14, 32),
            (SectorSize::Kib4, 3, 15, 32),
            (SectorSize::Kib16, 3, 21, 32),
            (SectorSize::Kib32, 4, 22, 32),
            (SectorSize::Mib8, 6, 42, 18_720),
            (SectorSize::Mib512, 8, 56, 1_198_368),
            (SectorSize::Gib32, 10, 70, 9_586_976),
            (SectorSize::Gib64, 11, 71, 9_586_976),
        ];
        for (size, levels, siblings, cache) in table {
            let arities = path_arities(size);
            assert_eq!(arities.len(), levels, "{size}");
            assert_eq!(
                arities.iter().map(|a| a - 1).sum::<usize>(),
                siblings,
                "{size}"
            );
            assert_eq!(
                arities.iter().map(|&a| a as u64).product::<u64>(),
                size.nodes(),
                "{size}"
            );
            assert_eq!(tree_r_bytes(size), cache, "{size}");
        }
    }

    #[test]
    fn file_sizes_are_filecoins() {
        assert_eq!(tree_d_bytes(SectorSize::Kib2), 4_064);
        assert_eq!(tree_d_bytes(SectorSize::Mib8), 16_777_184);
        assert_eq!(tree_c_bytes(SectorSize::Kib2), 2_336);
        assert_eq!(tree_c_bytes(SectorSize::Mib8), 9_586_976);
        assert_eq!(leaves_per_cached_node(SectorSize::Mib8), 512);
        assert_eq!(leaves_per_cached_node(SectorSize::Kib2), 64);
    }
}
