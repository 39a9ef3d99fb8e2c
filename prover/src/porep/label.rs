//! SDR labelling: fills a sector's layers, each node hashed from its parents.
//!
//! Walk: after [`crate::piece::layout`] (CommD known, hence the replica id), before `column` and `replica`.
//! Spec: proofs.md §2.6. Plain twin: [`crate::reference::labels`]. Kernel: [`crate::hash::sha256::fill_labels`].
//! Bytes: layer `l` is `nodes × 32` bytes, node-ordered, no header.
//! Cost: sequential by construction, 20 SHA-256 compressions a node and layer: about 0.6 µs with SHA-NI.
//! Memory: the layer being filled and the one before (twice the sector), and the parents: [`ParentTable`] holds 56 bytes a
//! node; [`LayerParents::Generated`] makes them as it goes, on another thread of the pool where there is one, in 1.8 MiB.
//! Crash: a layer counts once `sector_dir` has its stage record; partial layers are refilled.
#![deny(clippy::as_conversions)]

use super::graph::{Graph, Parents};
use crate::hash::sha256::{self, LabelKey};
use crate::ids::{Node, ReplicaId};
use crate::progress::Progress;
use crate::spec::DEGREE;

/// Nodes labelled between two progress reports, and the parents generated ahead.
const WINDOW: usize = 1 << 14;

/// All parents of a graph: 56 bytes a node, shared by all layers and by all sectors of one proof type.
#[derive(Debug)]
pub struct ParentTable {
    rows: Vec<Parents>,
}

impl ParentTable {
    /// Generates the table on all threads of the current rayon pool.
    pub fn new(graph: &Graph) -> Self {
        use rayon::prelude::*;
        let mut rows = vec![[0; DEGREE]; count(graph)];
        rows.par_chunks_mut(WINDOW)
            .enumerate()
            .for_each(|(i, rows)| graph.fill(offset(i * WINDOW), rows));
        Self { rows }
    }

    /// Memory that a table for this graph needs.
    pub fn bytes(graph: &Graph) -> u64 {
        graph.nodes() * offset(size_of::<Parents>())
    }
}

/// Where a layer's parents come from.
#[derive(Clone, Copy, Debug)]
pub enum LayerParents<'a> {
    /// From memory: fastest when several layers or sectors follow.
    Table(&'a ParentTable),
    /// Made window by window: for sectors whose table does not fit.
    Generated(&'a Graph),
}

impl LayerParents<'_> {
    fn nodes(&self) -> usize {
        match self {
            Self::Table(table) => table.rows.len(),
            Self::Generated(graph) => count(graph),
        }
    }
}

/// Fills one layer, numbered from 1. `previous` is the layer before, `None` for layer 1. Progress is in nodes.
///
/// # Panics
/// When a layer's length differs from the graph's node count, or `previous` is missing above layer 1 or given for it:
/// both are mistakes of the caller that would silently make a wrong replica.
pub fn fill_layer(
    layer: u32,
    parents: LayerParents<'_>,
    previous: Option<&[Node]>,
    replica_id: &ReplicaId,
    out: &mut [Node],
    progress: &dyn Progress,
) {
    assert_eq!(out.len(), parents.nodes(), "a layer has the graph's nodes");
    assert_eq!(
        layer > 1,
        previous.is_some(),
        "layers from 2 on have one before them, layer 1 has not"
    );
    assert!(layer > 0, "layers are numbered from 1");
    assert!(
        previous.is_none_or(|previous| previous.len() == out.len()),
        "layers have one length"
    );
    let key = LabelKey {
        replica_id,
        layer,
        previous,
    };
    match parents {
        LayerParents::Table(table) => {
            for (i, rows) in table.rows.chunks(WINDOW).enumerate() {
                sha256::fill_labels(key, i * WINDOW, rows, out);
                progress.advance(offset(rows.len()));
            }
        }
        LayerParents::Generated(graph) => fill_generated(key, graph, out, progress),
    }
}

/// Labels one window while the parents of the next are made.
fn fill_generated(key: LabelKey<'_>, graph: &Graph, out: &mut [Node], progress: &dyn Progress) {
    let window = |first: usize| WINDOW.min(out.len() - first);
    let lengths: Vec<(usize, usize)> = (0..out.len())
        .step_by(WINDOW)
        .map(|first| (first, window(first)))
        .collect();
    let mut now = vec![[0; DEGREE]; WINDOW];
    let mut next = vec![[0; DEGREE]; WINDOW];
    if let Some(&(first, len)) = lengths.first() {
        graph.fill(offset(first), &mut now[..len]);
    }
    for (i, &(first, len)) in lengths.iter().enumerate() {
        let following = lengths.get(i + 1).copied();
        rayon::join(
            || sha256::fill_labels(key, first, &now[..len], out),
            || {
                if let Some((first, len)) = following {
                    graph.fill(offset(first), &mut next[..len]);
                }
            },
        );
        std::mem::swap(&mut now, &mut next);
        progress.advance(offset(len));
    }
}

fn count(graph: &Graph) -> usize {
    usize::try_from(graph.nodes()).expect("sealing needs addresses of at least 32 bits")
}

fn offset(count: usize) -> u64 {
    u64::try_from(count).expect("no machine addresses more than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use crate::reference;
    use crate::spec::{ApiVersion, RegisteredSeal, SectorSize};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// All layers of a small graph, from the plain twin and from both sources of parents.
    fn compare(nodes: u64, layers: u32, seal: RegisteredSeal, api: ApiVersion) -> Vec<Node> {
        let porep_id = seal.porep_id();
        let graph = Graph::with_nodes(nodes, &porep_id, api);
        let table = ParentTable::new(&graph);
        let replica_id = ReplicaId([7; 32]);
        let mut previous: Option<Vec<Node>> = None;
        for layer in 1..=layers {
            let expected = reference::labels(
                layer,
                nodes,
                &porep_id,
                api,
                &replica_id,
                previous.as_deref(),
            );
            for parents in [LayerParents::Table(&table), LayerParents::Generated(&graph)] {
                let mut out = vec![[0xee; 32]; expected.len()];
                fill_layer(
                    layer,
                    parents,
                    previous.as_deref(),
                    &replica_id,
                    &mut out,
                    &NoProgress,
                );
                assert_eq!(out, expected, "layer {layer} of {nodes} nodes");
            }
            previous = Some(expected);
        }
        previous.expect("at least one layer")
    }

    /// proofs.md §9.3: eleven layers over 64 nodes.
    #[test]
    fn the_eleven_layer_miniature() {
        let last = compare(
            64,
            11,
            RegisteredSeal::v1_1(SectorSize::Gib32),
            ApiVersion::V1_1,
        );
        assert_eq!(
            hex::encode(last[0]),
            "3e5843a4578d4deb69258564cdfedb45e02bfa87a1716c44b6d048f7420eb721"
        );
    }

    #[test]
    fn windows_and_versions_equal_the_plain_twin() {
        let seal = RegisteredSeal::v1_1(SectorSize::Kib2);
        for nodes in [1, 2, 3, 5, 64] {
            compare(nodes, 2, seal, ApiVersion::V1_1);
            compare(nodes, 2, seal, ApiVersion::V1_0);
        }
        // More than one window, the last one partial.
        compare(offset(WINDOW) + 37, 2, seal, ApiVersion::V1_1);
    }

    #[test]
    fn progress_counts_every_node_once() {
        struct Count(AtomicU64);
        impl Progress for Count {
            fn start(&self, _: &'static str, _: u64) {}
            fn advance(&self, n: u64) {
                self.0.fetch_add(n, Ordering::Relaxed);
            }
            fn finish(&self) {}
        }
        let seal = RegisteredSeal::v1_1(SectorSize::Kib2);
        let graph = Graph::with_nodes(40_000, &seal.porep_id(), ApiVersion::V1_1);
        for parents in [
            LayerParents::Generated(&graph),
            LayerParents::Table(&ParentTable::new(&graph)),
        ] {
            let count = Count(AtomicU64::new(0));
            fill_layer(
                1,
                parents,
                None,
                &ReplicaId([1; 32]),
                &mut vec![[0; 32]; 40_000],
                &count,
            );
            assert_eq!(count.0.into_inner(), 40_000);
        }
    }

    #[test]
    #[should_panic(expected = "layer 1 has not")]
    fn a_second_layer_needs_the_first() {
        let seal = RegisteredSeal::v1_1(SectorSize::Kib2);
        let graph = Graph::with_nodes(4, &seal.porep_id(), ApiVersion::V1_1);
        let out = &mut [[0; 32]; 4];
        fill_layer(
            2,
            LayerParents::Generated(&graph),
            None,
            &ReplicaId([1; 32]),
            out,
            &NoProgress,
        );
    }
}
