//! The stacked graph: which nodes a label is hashed from.
//!
//! Walk: before [`super::label`]; the verifier uses it too, because parents are public inputs of the PoRep circuit.
//! Spec: proofs.md §2.3 (seeds), §2.4 (DRSample base graph, degree 6), §2.5 (expander, degree 8). Plain twin:
//! [`crate::reference::parents`].
//!
//! A graph depends on the porep id and the node count alone, so every sector of one proof type shares it.
//! Bytes: parents are `u32` (below 2^31 nodes); Filecoin's cache file is 14 little-endian `u32` per node, base parents
//! first, which is [`Parents`] in memory.
//! Cost: about 0.2 µs a node by [`Graph::fill`] over many nodes at once, two thirds of it ChaCha and divisions of the base
//! graph; about 10 µs for a single node, whose expander parents are hashed one by one.
//!
//! Index arithmetic is `u64` and `as` is denied here: the legacy version lost half of a 32 GiB sector's parents to one
//! narrowing cast (threat P5).
#![deny(clippy::as_conversions)]

use super::feistel::Feistel;
use crate::hash::sha256;
use crate::ids::PorepId;
use crate::spec::{ApiVersion, BASE_DEGREE, DEGREE, EXPANDER_DEGREE, SectorSize};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// All parents of one node: six of the same layer, then eight of the layer before, in the order they are hashed.
pub type Parents = [u32; DEGREE];

/// The most nodes a graph may have: parents are stored as `u32`.
const MAX_NODES: u64 = 1 << 31;

/// What a porep id contributes to the graph (proofs.md §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphSeeds {
    /// First 28 bytes of `SHA256("Filecoin_DRSample" ‖ porep_id)`.
    pub drg: [u8; 28],
    /// `SHA256("Filecoin_Feistel" ‖ porep_id)` as four little-endian words.
    pub feistel: [u64; 4],
}

impl GraphSeeds {
    /// Derives both seeds.
    pub fn new(porep_id: &PorepId) -> Self {
        let drsample = domain_seed("Filecoin_DRSample", porep_id);
        let feistel = domain_seed("Filecoin_Feistel", porep_id);
        let mut drg = [0; 28];
        drg.copy_from_slice(&drsample[..28]);
        let mut keys = [0; 4];
        for (key, bytes) in keys.iter_mut().zip(feistel.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*bytes);
        }
        Self { drg, feistel: keys }
    }
}

/// `SHA256(tag ‖ porep_id)`, 32 bytes, untruncated.
pub fn domain_seed(tag: &str, porep_id: &PorepId) -> [u8; 32] {
    sha256::digest(&[tag.as_bytes(), &porep_id.0])
}

/// The graph of one proof type.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: u64,
    api: ApiVersion,
    drg_seed: [u8; 28],
    expander: Feistel,
    id: [u8; 32],
}

impl Graph {
    /// The graph of a sector size under a porep id.
    pub fn new(size: SectorSize, porep_id: &PorepId, api: ApiVersion) -> Self {
        Self::with_nodes(size.nodes(), porep_id, api)
    }

    /// A graph of any size; sectors have powers of two, tests sometimes not.
    ///
    /// # Panics
    /// When `nodes` is zero or above 2^31.
    pub fn with_nodes(nodes: u64, porep_id: &PorepId, api: ApiVersion) -> Self {
        assert!(
            (1..=MAX_NODES).contains(&nodes),
            "a graph has 1 to 2^31 nodes"
        );
        let seeds = GraphSeeds::new(porep_id);
        let expander = Feistel::new(nodes * degree(EXPANDER_DEGREE), seeds.feistel);
        let legacy = api == ApiVersion::V1_0;
        let id = sha256::digest(&[
            b"holdfast/graph/v1",
            &porep_id.0,
            &nodes.to_le_bytes(),
            &[u8::from(legacy)],
        ]);
        Self {
            nodes,
            api,
            drg_seed: seeds.drg,
            expander,
            id,
        }
    }

    /// Tells graphs apart: a digest of everything that the parents follow from.
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Nodes in a layer.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Parents in the same layer. Node 0 has none: it hashes its prefix alone, and zeros stand here.
    ///
    /// # Panics
    /// When `node` is outside the graph.
    pub fn base_parents(&self, node: u64) -> [u32; BASE_DEGREE] {
        self.check(node);
        if node < 2 {
            return [0; BASE_DEGREE];
        }
        let mut samples = DrSample::new(&self.drg_seed, node);
        let mut parents = [narrow(node - 1); BASE_DEGREE];
        let sampled = match self.api {
            // Legacy: the predecessor comes last, so a hash could start before it was known (threat P6).
            ApiVersion::V1_0 => &mut parents[..BASE_DEGREE - 1],
            ApiVersion::V1_1 | ApiVersion::V1_2 => &mut parents[1..],
        };
        for parent in sampled {
            *parent = narrow(samples.next_parent());
        }
        parents
    }

    /// Parents in the layer before, any node of it.
    ///
    /// # Panics
    /// When `node` is outside the graph.
    pub fn expander_parents(&self, node: u64) -> [u32; EXPANDER_DEGREE] {
        let mut parents = [0; DEGREE];
        self.fill(node, std::slice::from_mut(&mut parents));
        let mut expander = [0; EXPANDER_DEGREE];
        expander.copy_from_slice(&parents[BASE_DEGREE..]);
        expander
    }

    /// All parents of one node.
    ///
    /// # Panics
    /// When `node` is outside the graph.
    pub fn parents(&self, node: u64) -> Parents {
        let mut parents = [0; DEGREE];
        self.fill(node, std::slice::from_mut(&mut parents));
        parents
    }

    /// Parents of the nodes `first ..`, as many as `out` has rows.
    ///
    /// # Panics
    /// When the last of them is outside the graph.
    pub fn fill(&self, first: u64, out: &mut [Parents]) {
        self.fill_rows(first.., out);
    }

    /// Parents of any nodes, in their order: cheaper than one by one.
    ///
    /// # Panics
    /// When one of them is outside the graph.
    pub fn parents_of(&self, nodes: &[u64]) -> Vec<Parents> {
        let mut out = vec![[0; DEGREE]; nodes.len()];
        self.fill_rows(nodes.iter().copied(), &mut out);
        out
    }

    /// A row for each node, until either ends.
    fn fill_rows(&self, mut nodes: impl Iterator<Item = u64> + Clone, out: &mut [Parents]) {
        // Values stay in the first cache.
        const GROUP: usize = 64;
        if degree(EXPANDER_DEGREE * out.len()) >= 1 << self.expander.half_bits() {
            self.expander.tabulate();
        }
        for rows in out.chunks_mut(GROUP) {
            let mut values = [0u64; GROUP * EXPANDER_DEGREE];
            let values = values[..rows.len() * EXPANDER_DEGREE]
                .as_chunks_mut::<EXPANDER_DEGREE>()
                .0;
            for (inputs, node) in values.iter_mut().zip(nodes.clone()) {
                for (input, value) in inputs.iter_mut().zip(node * degree(EXPANDER_DEGREE)..) {
                    *input = value;
                }
            }
            self.expander.permute_all(values.as_flattened_mut());
            for ((row, images), node) in rows.iter_mut().zip(values).zip(&mut nodes) {
                row[..BASE_DEGREE].copy_from_slice(&self.base_parents(node));
                for (parent, &mut image) in row[BASE_DEGREE..].iter_mut().zip(images) {
                    *parent = narrow(self.expander_parent(image));
                }
            }
        }
    }

    fn expander_parent(&self, image: u64) -> u64 {
        match self.api {
            // Legacy truncation, reproduced for the vectors only (threat P5).
            ApiVersion::V1_0 => (image & u64::from(u32::MAX)) / degree(EXPANDER_DEGREE),
            ApiVersion::V1_1 | ApiVersion::V1_2 => image / degree(EXPANDER_DEGREE),
        }
    }

    fn check(&self, node: u64) {
        assert!(
            node < self.nodes,
            "node {node} is outside a graph of {} nodes",
            self.nodes
        );
    }
}

/// The sampled parents of one node: bucket sampling over the metagraph of degree 5 (proofs.md §2.4).
struct DrSample {
    rng: ChaCha8Rng,
    node: u64,
    /// Position in the metagraph.
    position: u64,
    /// `ceil(log2(position))`; positions are multiples of five, never powers of two, so this is their bit length.
    buckets: u64,
}

impl DrSample {
    /// `node` is at least 2.
    fn new(drg_seed: &[u8; 28], node: u64) -> Self {
        let mut key = [0; 32];
        key[..28].copy_from_slice(drg_seed);
        key[28..].copy_from_slice(&narrow(node).to_le_bytes());
        let position = node * degree(BASE_DEGREE - 1);
        let buckets = u64::from(u64::BITS - position.leading_zeros());
        Self {
            rng: ChaCha8Rng::from_seed(key),
            node,
            position,
            buckets,
        }
    }

    fn next_parent(&mut self) -> u64 {
        let bucket = self.rng.next_u64() % self.buckets + 1;
        let high = self.position.min(1 << bucket);
        let low = (high >> 1).max(2);
        let distance = low + self.rng.next_u64() % (high - low + 1);
        let parent = (self.position - distance) / degree(BASE_DEGREE - 1);
        if parent == self.node {
            self.node - 1
        } else {
            parent
        }
    }
}

fn degree(count: usize) -> u64 {
    u64::try_from(count).expect("usize has at most 64 bits")
}

fn narrow(node: u64) -> u32 {
    u32::try_from(node).expect("a graph has at most 2^31 nodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::spec::RegisteredSeal;
    use sha2::{Digest, Sha256};

    fn graph(id: u64) -> Graph {
        let seal = RegisteredSeal::from_id(id).expect("a registered id");
        Graph::new(seal.size, &seal.porep_id(), seal.api_version())
    }

    /// SHA-256 of Filecoin's parent cache file: proofs.md §9.2.
    fn cache_digest(graph: &Graph) -> String {
        let mut hasher = Sha256::new();
        let mut rows = vec![[0; DEGREE]; 1 << 12];
        let mut node = 0;
        while node < graph.nodes() {
            let count = rows
                .len()
                .min(usize::try_from(graph.nodes() - node).expect("a test size"));
            graph.fill(node, &mut rows[..count]);
            for parent in rows[..count].as_flattened() {
                hasher.update(parent.to_le_bytes());
            }
            node += u64::try_from(count).expect("small");
        }
        hex::encode(hasher.finalize())
    }

    #[test]
    fn whole_graphs_have_the_published_digests() {
        for (id, digest) in [
            (
                0,
                "3da49221e2ed55371b86d0bf3d6526fcf128af61bed904f966428db1b531750d",
            ),
            (
                1,
                "a76604f2f59f2744c7151653bbb1d8596b6b57d295e6fa6c1f0c41d725b502ce",
            ),
            (
                5,
                "840057702eea7652cf97e04306c30fe57174714d90de156a25eddd6075c25b97",
            ),
            (
                6,
                "03cd13565ded97c240a5f52e54295ad127bd0461b57904cb3a4d79b097bbecab",
            ),
        ] {
            assert_eq!(cache_digest(&graph(id)), digest, "registered id {id}");
        }
    }

    #[test]
    fn nodes_in_any_order_have_their_parents() {
        for id in [1, 3, 6, 8] {
            let graph = graph(id);
            let last = graph.nodes() - 1;
            let mut nodes: Vec<u64> = (0..150).map(|i| i * 0x9e37_79b9 % graph.nodes()).collect();
            nodes.extend([last, 0, 1, 1, last]);
            for count in [0, 1, 63, 64, 65, nodes.len()] {
                let one_by_one = nodes[..count].iter().map(|node| graph.parents(*node));
                let together = graph.parents_of(&nodes[..count]);
                assert_eq!(together, one_by_one.collect::<Vec<_>>(), "{id} {count}");
            }
        }
    }

    /// Half a minute: `cargo test -p prover -- --ignored`.
    #[test]
    #[ignore = "generates both 512 MiB graphs; run by `cargo test -p prover -- --ignored`"]
    fn graphs_of_512_mib_have_the_published_digests_full() {
        for (id, digest) in [
            (
                2,
                "3adcc092423aa76d6a7184016893406da44dd974b219a89cd3ece25e4e3018f5",
            ),
            (
                7,
                "b5877d1963793efebc261fd8fde4dd6bc59e6b5c7abf52617a4ee023b8dc173a",
            ),
        ] {
            assert_eq!(cache_digest(&graph(id)), digest, "registered id {id}");
        }
    }

    /// Golden vectors of proofs.md §9.2 for both API versions.
    #[test]
    fn tm_p5_published_nodes_of_production_graphs() {
        #[rustfmt::skip]
        let rows: [(u64, u64, Parents); 6] = [
            (8, 3, [2, 2, 2, 2, 1, 2, 881691878, 227401911, 1005318917, 53423186, 1052586668, 501278749, 458668482, 587358438]),
            (8, 1000003, [1000002, 1000002, 999999, 62089, 999998, 657844, 709623691, 760452288, 856722995, 908371359, 927848101, 769087162, 667996548, 124771347]),
            (8, 1073741823, [1073741822, 1073258530, 440642413, 663190843, 1073741654, 1073741786, 307718517, 715446084, 558280128, 265147410, 110937796, 626719228, 201839602, 653041812]),
            (9, 1000003, [1000002, 999588, 999980, 970172, 988282, 631722, 1790000468, 1351193281, 1066383888, 1602921989, 1098842949, 60670926, 566452797, 1271923338]),
            (3, 1000003, [999970, 999991, 999996, 997298, 998722, 1000002, 216111490, 426838775, 443809151, 439057609, 189881240, 53226912, 32878003, 171222118]),
            (13, 3, [2, 2, 1, 1, 2, 2, 927250656, 159570747, 30472134, 1027646160, 800039047, 449799550, 948806818, 220772412]),
        ];
        for (id, node, parents) in rows {
            assert_eq!(
                graph(id).parents(node),
                parents,
                "registered id {id}, node {node}"
            );
        }
    }

    /// A thousand nodes of each production graph: expander parents reach the upper half and spread evenly over 16
    /// buckets. 8000 draws, 15 degrees of freedom: chi-square above 50 has probability below 10^-5, and the seed is fixed.
    #[test]
    fn tm_p5_expander_parents_cover_the_whole_layer() {
        let chi_square = |id: u64| {
            let graph = graph(id);
            let mut buckets = [0u32; 16];
            for i in 0..1000 {
                let node = i * (graph.nodes() / 1000) + i;
                for parent in graph.expander_parents(node) {
                    let bucket = u64::from(parent) * 16 / graph.nodes();
                    buckets[usize::try_from(bucket).expect("below 16")] += 1;
                }
            }
            let expected = 8000.0 / 16.0;
            let chi: f64 = buckets
                .iter()
                .map(|&n| (f64::from(n) - expected).powi(2) / expected)
                .sum();
            (chi, buckets[8..].iter().any(|&n| n > 0))
        };
        for id in [8, 9] {
            let (chi, upper) = chi_square(id);
            assert!(upper && chi < 50.0, "registered id {id}: chi-square {chi}");
        }
        // The legacy graph fails exactly this, so the test can fail.
        for id in [3, 4] {
            let (chi, upper) = chi_square(id);
            assert!(
                !upper && chi > 1000.0,
                "registered id {id}: chi-square {chi}"
            );
        }
    }

    #[test]
    fn tm_p6_the_predecessor_is_parent_0() {
        for id in [5, 6, 7, 8, 9, 13, 18] {
            let graph = graph(id);
            for i in 1..400u64 {
                let node = 1 + i * i * i * 7919 % (graph.nodes() - 1);
                let parents = graph.base_parents(node);
                assert_eq!(
                    u64::from(parents[0]),
                    node - 1,
                    "registered id {id}, node {node}"
                );
                assert!(
                    parents.iter().all(|&p| u64::from(p) < node),
                    "same-layer parents come before"
                );
            }
        }
    }

    #[test]
    fn equals_the_plain_twin() {
        for (id, api) in [
            (0u64, ApiVersion::V1_0),
            (5, ApiVersion::V1_1),
            (10, ApiVersion::V1_2),
        ] {
            let porep_id = RegisteredSeal::from_id(id).expect("registered").porep_id();
            // Even and odd bit counts of the permutation's domain, and a count that is no power of two.
            for nodes in [64u64, 100, 128, 512, 1 << 20, 1 << 30, 1 << 31] {
                let graph = Graph::with_nodes(nodes, &porep_id, api);
                for node in [0, 1, 2, 3, nodes / 3, nodes / 2, nodes - 2, nodes - 1] {
                    let fast: Vec<u64> = graph.parents(node).map(u64::from).to_vec();
                    assert_eq!(
                        fast,
                        reference::parents(nodes, &porep_id, api, node),
                        "{api:?} {nodes} {node}"
                    );
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside a graph")]
    fn a_node_outside_is_refused() {
        graph(5).base_parents(64);
    }
}
