//! SHA-256 in the three shapes that sealing needs, and the truncation to a field element.
//!
//! * [`node`], [`nodes`], [`root_in_place`]: 64 bytes in, 32 out: TreeD and CommP. Millions of independent hashes, so the
//!   kernels run 16 lanes of AVX-512 or interleave four SHA-NI streams.
//! * [`fill_labels`]: 1248 bytes in, 32 out, each hash waiting for the one before: SDR labels. One SHA-NI stream per
//!   sector, up to four in step on a core: prefixes are hashed ahead, and a message schedule is made once and used for all
//!   repetitions of its block.
//! * [`digest`]: any message, for replica ids and challenges, through the `sha2` crate.
//!
//! The kernel is chosen at run time ([`crate::instructions`]); the portable twin is the `sha2` crate, which tests compare
//! with every kernel that the machine can run. Spec: proofs.md §0 (`t254`), §1.2 (tree node), §2.6 (label).

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::ids::{Node, ReplicaId};
use crate::spec::{BASE_DEGREE, DEGREE};
use sha2::{Digest, Sha256};

/// Which kernels this machine runs: for labels, and for the nodes of TreeD and CommP.
pub fn kernels() -> [&'static str; 2] {
    #[cfg(target_arch = "x86_64")]
    match x86::Kernel::detect() {
        Some(x86::Kernel::ShaNiAvx512(_)) => return ["sha-ni", "avx512"],
        Some(x86::Kernel::ShaNi(_)) => return ["sha-ni", "sha-ni"],
        None => {}
    }
    ["sha2 crate", "sha2 crate"]
}

/// Clears the two top bits, so that the digest read little-endian is below the field order (proofs.md §0).
#[inline]
pub const fn t254(mut digest: [u8; 32]) -> Node {
    digest[31] &= 0x3f;
    digest
}

/// SHA-256 of the parts joined, untruncated.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Parent of two nodes of the SHA-256/254 tree (proofs.md §1.2).
pub fn node(left: &Node, right: &Node) -> Node {
    t254(digest(&[left, right]))
}

/// Parents of a whole row: `out[i] = node(row[2i], row[2i + 1])`.
///
/// # Panics
/// When `row` is not `2 * out.len()` nodes long.
pub fn nodes(row: &[Node], out: &mut [Node]) {
    assert_eq!(row.len(), 2 * out.len(), "a row has two nodes per parent");
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = x86::Kernel::detect() {
        return kernel.nodes(row, out);
    }
    portable::nodes(row, out);
}

/// Root over a power of two of leaves; the slice is used as scratch.
///
/// # Panics
/// When the length is not a power of two.
pub fn root_in_place(leaves: &mut [Node]) -> Node {
    assert!(
        leaves.len().is_power_of_two(),
        "a complete binary tree has a power of two of leaves"
    );
    let mut len = leaves.len();
    while len > 1 {
        nodes_in_place(&mut leaves[..len]);
        len /= 2;
    }
    leaves[0]
}

/// Replaces the front half of a row by the parents of the whole row.
fn nodes_in_place(row: &mut [Node]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = x86::Kernel::detect() {
        return kernel.nodes_in_place(row);
    }
    portable::nodes_in_place(row);
}

/// What the labels of one layer have in common.
#[derive(Clone, Copy, Debug)]
pub struct LabelKey<'a> {
    /// First 32 bytes of every preimage.
    pub replica_id: &'a ReplicaId,
    /// Layer number, from 1.
    pub layer: u32,
    /// Labels of the layer before; `None` for layer 1.
    pub previous: Option<&'a [Node]>,
}

/// A layer of one sector that is being filled.
#[derive(Debug)]
pub struct LabelStream<'a> {
    /// What its labels have in common.
    pub key: LabelKey<'a>,
    /// The layer; nodes before the ones asked for are labelled.
    pub layer: &'a mut [Node],
}

/// Labels the nodes `first .. first + parents.len()` in layers whose earlier nodes are labelled (proofs.md §2.6): the same
/// nodes of several sectors in step, because one chain alone leaves most of the core idle.
///
/// # Panics
/// When the range or a parent lies outside a layer, or when some of the layers have one before them and some have not.
pub fn fill_labels(streams: &mut [LabelStream<'_>], first: usize, parents: &[[u32; DEGREE]]) {
    assert!(
        streams
            .windows(2)
            .all(|pair| pair[0].key.previous.is_some() == pair[1].key.previous.is_some()),
        "sectors are labelled in step"
    );
    let (first, parents) = match parents.split_first() {
        // Node 0 has no parents and hashes its prefix alone.
        Some((_, rest)) if first == 0 => {
            for LabelStream { key, layer } in streams.iter_mut() {
                layer[0] = t254(digest(&[&label_prefix(*key, 0)]));
            }
            (1, rest)
        }
        _ => (first, parents),
    };
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = x86::Kernel::detect() {
        return kernel.fill_labels(streams, first, parents);
    }
    for LabelStream { key, layer } in streams {
        portable::fill_labels(*key, first, parents, layer);
    }
}

/// `replica_id ‖ BE32(layer) ‖ BE64(node) ‖ 0^20`: the first block of a label's preimage.
fn label_prefix(key: LabelKey<'_>, node: u64) -> [u8; 64] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(&key.replica_id.0);
    block[32..36].copy_from_slice(&key.layer.to_be_bytes());
    block[36..44].copy_from_slice(&node.to_be_bytes());
    block
}

/// Labels of a node's parents in hashing order: 6 in layer 1, 14 above; says how many.
#[inline(always)]
fn gather(
    previous: Option<&[Node]>,
    parents: &[u32; DEGREE],
    layer: &[Node],
    out: &mut [Node; DEGREE],
) -> usize {
    for (label, &parent) in out.iter_mut().zip(&parents[..BASE_DEGREE]) {
        *label = layer[index(parent)];
    }
    let Some(previous) = previous else {
        return BASE_DEGREE;
    };
    for (label, &parent) in out[BASE_DEGREE..].iter_mut().zip(&parents[BASE_DEGREE..]) {
        *label = previous[index(parent)];
    }
    DEGREE
}

#[inline(always)]
fn index(parent: u32) -> usize {
    usize::try_from(parent).expect("sealing needs addresses of at least 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: usize) -> Vec<Node> {
        (0..len).map(|i| digest(&[&i.to_le_bytes()])).collect()
    }

    /// Nodes of no pattern, all zero and all ones.
    fn rows(len: usize) -> [Vec<Node>; 3] {
        [row(len), vec![[0; 32]; len], vec![[0xff; 32]; len]]
    }

    /// Every length around the kernels' group sizes (16 and 4 parents), in every kernel that this machine runs.
    #[test]
    fn kernels_equal_the_portable_twin_on_rows() {
        let lengths = (0..40).chain([63, 64, 65, 127, 1000]);
        for row in lengths.flat_map(|parents| rows(2 * parents)) {
            let parents = row.len() / 2;
            let mut expected = vec![[0; 32]; parents];
            portable::nodes(&row, &mut expected);
            let mut out = vec![[0; 32]; parents];
            nodes(&row, &mut out);
            assert_eq!(out, expected, "{parents} parents");
            #[cfg(target_arch = "x86_64")]
            for kernel in x86::Kernel::available() {
                out.fill([0; 32]);
                kernel.nodes(&row, &mut out);
                assert_eq!(out, expected, "{kernel:?}, {parents} parents");
                let mut scratch = row.clone();
                kernel.nodes_in_place(&mut scratch);
                assert_eq!(
                    scratch[..parents],
                    expected,
                    "{kernel:?}, {parents} parents in place"
                );
            }
        }
    }

    #[test]
    fn roots_equal_the_plain_twin() {
        for (height, leaves) in
            (0..12).flat_map(|height| rows(1 << height).map(|row| (height, row)))
        {
            assert_eq!(
                root_in_place(&mut leaves.clone()),
                crate::reference::root(leaves),
                "height {height}"
            );
        }
    }

    #[test]
    fn label_kernels_equal_the_portable_twin() {
        let nodes = 97;
        // Any earlier node may be a parent, the predecessor several times too.
        let parents: Vec<[u32; DEGREE]> = (0..nodes)
            .map(|v: u32| {
                let mut row = [0; DEGREE];
                for (i, parent) in (0u32..).zip(row.iter_mut()) {
                    let hash = v.wrapping_mul(2_654_435_761).wrapping_add(i * 40_503);
                    *parent = if i < 6 { hash % v.max(1) } else { hash % nodes };
                }
                row[0] = v.saturating_sub(1);
                row[3] = row[0];
                row
            })
            .collect();
        let previous = rows(parents.len());
        for (layer_number, previous) in [
            (1, None),
            (2, Some(&previous[0][..])),
            (11, Some(&previous[0][..])),
            (2, Some(&previous[1][..])),
            (u32::MAX, Some(&previous[2][..])),
        ] {
            // Sectors side by side differ in their replica ids, and here in their layers before too.
            let edges = [[0; 32], [0xff; 32]].into_iter();
            let ids = edges.chain((2..6u8).map(|i| digest(&[&[i]])));
            let ids: Vec<ReplicaId> = ids.map(ReplicaId).collect();
            let befores: Vec<Option<Vec<Node>>> = (0..6)
                .map(|i| previous.map(|labels: &[Node]| [&labels[i..], &labels[..i]].concat()))
                .collect();
            let key = |i: usize| LabelKey {
                replica_id: &ids[i],
                layer: layer_number,
                previous: befores[i].as_deref(),
            };
            let expected: Vec<Vec<Node>> = (0..6)
                .map(|i| {
                    let mut expected = vec![[0; 32]; parents.len()];
                    expected[0] = t254(digest(&[&label_prefix(key(i), 0)]));
                    portable::fill_labels(key(i), 1, &parents[1..], &mut expected);
                    expected
                })
                .collect();
            // Windows of every phase of the four-node prefix batches; every split into four streams and a rest.
            for (window, sectors) in [1, 2, 3, 4, 5, 7, 97]
                .into_iter()
                .flat_map(|window| (1..=6).map(move |sectors| (window, sectors)))
            {
                let mut layers = vec![vec![[0; 32]; parents.len()]; sectors];
                let mut streams: Vec<LabelStream<'_>> = layers
                    .iter_mut()
                    .enumerate()
                    .map(|(i, layer)| LabelStream { key: key(i), layer })
                    .collect();
                for (i, rows) in parents.chunks(window).enumerate() {
                    fill_labels(&mut streams, i * window, rows);
                }
                assert_eq!(
                    layers,
                    expected[..sectors],
                    "layer {layer_number}, windows of {window}, {sectors} sectors"
                );
            }
        }
    }
}
