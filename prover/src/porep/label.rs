//! SDR labelling: fills a sector's layers, each node hashed from its parents.
//!
//! Walk: after [`crate::piece::layout`] (CommD known, hence the replica id) and [`super::parents`], before `column` and
//! `replica`. Spec: proofs.md §2.6. Plain twin: [`crate::reference::labels`]. Kernel: [`crate::hash::sha256::fill_labels`].
//! Bytes: layer `l` is `nodes × 32` bytes, node-ordered, no header.
//! Cost: sequential by construction, 20 SHA-256 compressions a node and layer: about 0.6 µs with SHA-NI. Sectors labelled
//! in step share a core: about 0.35 µs a node each when they are four.
//! Memory: per sector the layer being filled and the one before (twice the sector), and the parents once for all.
//! Crash: a layer counts once `sector_dir` has its stage record; partial layers are refilled.
#![deny(clippy::as_conversions)]

use super::parents::ParentLists;
use crate::hash::sha256::{self, LabelKey, LabelStream};
use crate::ids::{Node, ReplicaId};
use crate::progress::Progress;

/// One sector's part in filling a layer.
#[derive(Debug)]
pub struct SectorLayer<'a> {
    /// Key of its labels.
    pub replica_id: &'a ReplicaId,
    /// The layer before; `None` in layer 1.
    pub previous: Option<&'a [Node]>,
    /// The layer to fill.
    pub out: &'a mut [Node],
}

/// Fills one layer, numbered from 1, of each sector. Progress is in nodes of all of them.
///
/// One thread labels all sectors in step, because one chain of hashes alone leaves most of a core idle; four fill it.
///
/// # Panics
/// When a layer's length differs from the graph's node count, or `previous` is missing above layer 1 or given for it:
/// both are mistakes of the caller that would silently make a wrong replica.
pub fn fill_layer(
    layer: u32,
    parents: &ParentLists,
    sectors: &mut [SectorLayer<'_>],
    progress: &dyn Progress,
) {
    assert!(layer > 0, "layers are numbered from 1");
    for SectorLayer { previous, out, .. } in sectors.iter() {
        assert_eq!(out.len(), parents.nodes(), "a layer has the graph's nodes");
        assert_eq!(
            layer > 1,
            previous.is_some(),
            "layers from 2 on have one before them, layer 1 has not"
        );
        assert!(
            previous.is_none_or(|previous| previous.len() == out.len()),
            "layers have one length"
        );
    }
    let mut streams: Vec<LabelStream<'_>> = sectors
        .iter_mut()
        .map(|sector| LabelStream {
            key: LabelKey {
                replica_id: sector.replica_id,
                layer,
                previous: sector.previous,
            },
            layer: sector.out,
        })
        .collect();
    parents.for_each_window(|first, rows| {
        sha256::fill_labels(&mut streams, first, rows);
        let labels = rows.len() * streams.len();
        progress.advance(u64::try_from(labels).expect("no machine holds more than 2^64 labels"));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::porep::graph::Graph;
    use crate::porep::parents::WINDOW;
    use crate::progress::NoProgress;
    use crate::reference;
    use crate::spec::{ApiVersion, RegisteredSeal, SectorSize};
    use std::sync::atomic::{AtomicU64, Ordering};

    fn lists(graph: &Graph) -> [ParentLists; 2] {
        [0, u64::MAX].map(|room| ParentLists::prepare(graph.clone(), room, None, &NoProgress))
    }

    /// All layers of a small graph for three sectors in step, from the plain twin and from parents in memory and made as
    /// needed. Returns the first sector's last layer.
    fn compare(nodes: u64, layers: u32, seal: RegisteredSeal, api: ApiVersion) -> Vec<Node> {
        let porep_id = seal.porep_id();
        let graph = Graph::with_nodes(nodes, &porep_id, api);
        let ids = [7, 8, 9].map(|byte| ReplicaId([byte; 32]));
        let mut previous: [Option<Vec<Node>>; 3] = [None, None, None];
        for layer in 1..=layers {
            let expected: [Vec<Node>; 3] = std::array::from_fn(|i| {
                let before = previous[i].as_deref();
                reference::labels(layer, nodes, &porep_id, api, &ids[i], before)
            });
            for parents in lists(&graph) {
                let mut out = expected.clone().map(|layer| vec![[0xee; 32]; layer.len()]);
                let mut sectors: Vec<SectorLayer<'_>> = out
                    .iter_mut()
                    .zip(&ids)
                    .zip(&previous)
                    .map(|((out, replica_id), previous)| SectorLayer {
                        replica_id,
                        previous: previous.as_deref(),
                        out,
                    })
                    .collect();
                fill_layer(layer, &parents, &mut sectors, &NoProgress);
                assert_eq!(out, expected, "layer {layer} of {nodes} nodes");
            }
            previous = expected.map(Some);
        }
        previous[0].take().expect("at least one layer")
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
        let window = u64::try_from(WINDOW).expect("small");
        compare(window + 37, 2, seal, ApiVersion::V1_1);
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
        let replica_id = &ReplicaId([1; 32]);
        for parents in lists(&graph) {
            let count = Count(AtomicU64::new(0));
            let mut out = [vec![[0; 32]; 40_000], vec![[0; 32]; 40_000]];
            let mut sectors = out.each_mut().map(|out| SectorLayer {
                replica_id,
                previous: None,
                out,
            });
            fill_layer(1, &parents, &mut sectors, &count);
            assert_eq!(count.0.into_inner(), 80_000);
        }
    }

    #[test]
    #[should_panic(expected = "layer 1 has not")]
    fn a_second_layer_needs_the_first() {
        let seal = RegisteredSeal::v1_1(SectorSize::Kib2);
        let graph = Graph::with_nodes(4, &seal.porep_id(), ApiVersion::V1_1);
        let [parents, _] = lists(&graph);
        let sector = SectorLayer {
            replica_id: &ReplicaId([1; 32]),
            previous: None,
            out: &mut [[0; 32]; 4],
        };
        fill_layer(2, &parents, &mut [sector], &NoProgress);
    }
}
