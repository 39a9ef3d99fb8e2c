//! The portable twin: the `sha2` crate, which itself uses the CPU's instructions where it knows them.

use crate::ids::Node;

/// Parents of a row, one by one.
pub(super) fn nodes(row: &[Node], out: &mut [Node]) {
    for (pair, parent) in row.chunks_exact(2).zip(out) {
        *parent = super::node(&pair[0], &pair[1]);
    }
}

/// The same with the parents written over the front half.
pub(super) fn nodes_in_place(row: &mut [Node]) {
    for i in 0..row.len() / 2 {
        row[i] = super::node(&row[2 * i], &row[2 * i + 1]);
    }
}
