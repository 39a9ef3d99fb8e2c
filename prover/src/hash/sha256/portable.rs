//! The portable twin: the `sha2` crate, which itself uses the CPU's instructions where it knows them.

use super::{LabelKey, gather, label_prefix, t254};
use crate::ids::Node;
use crate::spec::{DEGREE, LABEL_PARENTS};
use sha2::{Digest, Sha256};

/// Parents of a row, one by one.
pub(super) fn nodes(row: &[Node], out: &mut [Node]) {
    for (pair, parent) in row.as_chunks::<2>().0.iter().zip(out) {
        *parent = super::node(&pair[0], &pair[1]);
    }
}

/// The same with the parents written over the front half.
pub(super) fn nodes_in_place(row: &mut [Node]) {
    for i in 0..row.len() / 2 {
        row[i] = super::node(&row[2 * i], &row[2 * i + 1]);
    }
}

/// Labels of `first ..`, which is not node 0.
pub(super) fn fill_labels(
    key: LabelKey<'_>,
    first: usize,
    parents: &[[u32; DEGREE]],
    layer: &mut [Node],
) {
    let mut labels = [[0; 32]; DEGREE];
    for (row, node) in parents.iter().zip(first..) {
        let count = gather(key.previous, row, layer, &mut labels);
        let number = u64::try_from(node).expect("a layer has at most 2^31 nodes");
        let mut hasher = Sha256::new_with_prefix(label_prefix(key, number));
        for slot in 0..LABEL_PARENTS {
            hasher.update(labels[slot % count]);
        }
        layer[node] = t254(hasher.finalize().into());
    }
}
