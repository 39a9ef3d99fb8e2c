//! What sealing a sector takes: memory and disk exactly, time from what one hash costs on this machine.
//!
//! Walk: beside [`crate::seal`]; `holdfast prover bench` measures [`UnitCosts`] and prints [`Estimate`]s, and every step asks
//! [`crate::machine::Plan::require`] with the figures from here before it starts (threat H9).
//! Spec: proofs.md §2.6, §3 (how many hashes), `vectors/r1cs` (rows of the circuits).
//!
//! Time is counted, not guessed: hashes of a step times the cost of one, plus nothing for disks. A sector that does not fit
//! the caches pays for memory too, so labels are measured on layers of 64 MiB, where most parents lie in memory already.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::hash::poseidon::{self, Arity};
use crate::hash::sha256;
use crate::ids::{Node, ReplicaId};
use crate::machine::{Plan, gpu, gpu_memory};
use crate::merkle::shape;
use crate::pages::Nodes;
use crate::porep::graph::Graph;
use crate::porep::label::{SectorLayer, fill_layer};
use crate::porep::parents::{ParentLists, ParentTable};
use crate::progress::NoProgress;
use crate::seal::{disk_bytes, label_memory};
use crate::snark::groth16::{G1_BYTES, G2_BYTES, vk_bytes_len};
use crate::snark::record::{Counts, Density};
use crate::snark::shape::Blank;
use crate::snark::{CircuitId, shape as circuit_shape};
use crate::spec::{DEGREE, NODE_BYTES, RegisteredSeal, SectorSize};

/// Bytes of a field element.
const SCALAR: u64 = 32;
/// Buckets, batches of points and read buffers of the sums, on top of the vectors.
const SUMS: u64 = 224 << 20;
/// Program, keys' tables and small buffers.
const PROGRAM: u64 = 48 << 20;
/// Nodes of the layers on which labels are measured: 64 MiB.
const SAMPLE_NODES: u64 = 1 << 21;

/// Bytes of memory that one proof of this circuit needs: its witness, and three vectors of the domain's size or one and the
/// sums' buckets, whichever is more.
pub fn proving_memory(circuit: CircuitId) -> u64 {
    let counts = circuit_shape::pinned(circuit).counts;
    let domain = counts.domain() as u64 * SCALAR;
    let witness = (counts.aux + counts.inputs) as u64 * SCALAR;
    witness + (3 * domain).max(domain + SUMS) + density_bytes(&counts) + PROGRAM + gpu_memory()
}

/// Bytes of memory that opening, checking or importing this circuit's key needs: what its variables occur in, and pieces of points.
pub fn key_memory(circuit: CircuitId) -> u64 {
    density_bytes(&circuit_shape::pinned(circuit).counts) + PROGRAM
}

/// Bytes of memory that making this circuit's key needs: Lagrange values over the domain, and three per variable.
pub fn keygen_memory(circuit: CircuitId) -> u64 {
    let counts = circuit_shape::pinned(circuit).counts;
    let variables = (counts.aux + counts.inputs) as u64;
    (counts.domain() as u64 + 4 * variables) * SCALAR + density_bytes(&counts) + SUMS + PROGRAM
}

/// Bytes of memory that making this circuit's verifying key alone needs: Lagrange values, and three per variable.
pub fn vk_memory(circuit: CircuitId) -> u64 {
    let counts = circuit_shape::pinned(circuit).counts;
    let variables = (counts.aux + counts.inputs) as u64;
    (counts.domain() as u64 + 3 * variables) * SCALAR + PROGRAM
}

/// Bytes of the list of all parents in a sector's graph, in memory or on disk.
pub fn parents_bytes(size: SectorSize) -> u64 {
    size.nodes() * (4 * DEGREE as u64)
}

/// Bytes that making this circuit's key writes: its points, and the verifying key once more by itself. The circuit is built for
/// that, which takes a second for most and minutes for production sizes, whose keys are not made.
pub fn key_bytes(circuit: CircuitId) -> u64 {
    let Density {
        counts,
        in_a,
        in_b,
        inputs_in_b,
    } = Density::of(&Blank::new(circuit));
    let occurring = |mask: &[bool]| mask.iter().filter(|occurs| **occurs).count();
    let (a, b) = (
        counts.inputs + occurring(&in_a),
        occurring(&inputs_in_b) + occurring(&in_b),
    );
    let in_g1 = counts.domain() - 1 + counts.aux + a + b;
    let points = 5 * size_of::<u32>() + in_g1 * G1_BYTES + b * G2_BYTES;
    (points + 2 * vk_bytes_len(counts.inputs)) as u64
}

/// Bytes that labelling a sector of this type adds to the plan's cache of parent lists: none where its list is kept, or shall
/// not be.
pub fn parents_to_write(seal: RegisteredSeal, plan: &Plan) -> u64 {
    let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
    let bytes = ParentTable::bytes(&graph);
    let cache = plan.parent_cache(bytes);
    match cache.is_some() && !ParentLists::are_kept(&graph, cache) {
        true => bytes,
        false => 0,
    }
}

/// Which variables have points: two flags each.
fn density_bytes(counts: &Counts) -> u64 {
    2 * counts.aux as u64
}

/// What one unit of work costs one core, in nanoseconds. Where a GPU hashes for all of them, a column and a tree's node cost what
/// they take when all of a plan's threads call it, times the threads, so such a figure holds for that plan alone; rows of proofs too.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct UnitCosts {
    /// All parents of one node.
    pub parents: f64,
    /// One label of a layer behind the first, one sector alone.
    pub label: f64,
    /// The same, per sector, when four are labelled in step.
    pub label_of_four: f64,
    /// One node of TreeD.
    pub tree_d_node: f64,
    /// One column of two layers.
    pub column_of_two: f64,
    /// One column of eleven layers.
    pub column_of_eleven: f64,
    /// One node of TreeC or TreeR.
    pub tree_node: f64,
    /// One row of a PoRep's domain proven, from a whole proof. Zero when none was made.
    pub porep_row: f64,
    /// One row of a PoSt's domain proven. Zero when none was made.
    pub post_row: f64,
}

impl UnitCosts {
    /// Measures the hashes, about six seconds; rows are taken from proofs ([`UnitCosts::row_of`]). Layers shrink where the
    /// plan's memory does not hold ten of 64 MiB beside the program.
    pub fn measure(plan: &Plan) -> Self {
        let mut nodes = SAMPLE_NODES;
        let room = plan.memory().saturating_sub(PROGRAM + gpu_memory());
        while nodes > 1 << 14 && room / (10 * NODE_BYTES as u64) < nodes {
            nodes /= 2;
        }
        let seal = RegisteredSeal::v1_1(SectorSize::Gib32);
        let graph = Graph::with_nodes(nodes, &seal.porep_id(), seal.api_version());
        let one_thread = |work: &mut (dyn FnMut() + Send)| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e9
        };
        let mut rows = vec![[0; DEGREE]; 1 << 14];
        let parents = one_thread(&mut || graph.fill(nodes - rows.len() as u64, &mut rows))
            / rows.len() as f64;
        let lists = plan.run(|| ParentLists::prepare(graph, u64::MAX, None, &NoProgress));
        let label = |sectors: usize| {
            let ids: Vec<ReplicaId> = (0..sectors).map(|i| ReplicaId([i as u8; 32])).collect();
            let mut layers: Vec<[Nodes; 2]> = (0..sectors)
                .map(|_| [nodes, nodes].map(|n| Nodes::zeroed(n as usize)))
                .collect();
            let mut parts: Vec<SectorLayer<'_>> = layers
                .iter_mut()
                .zip(&ids)
                .map(|([previous, out], replica_id)| {
                    // Touched, so that the measurement does not include the system's clearing of pages.
                    previous.fill([1; NODE_BYTES]);
                    out.fill([1; NODE_BYTES]);
                    SectorLayer {
                        replica_id,
                        previous: Some(previous),
                        out,
                    }
                })
                .collect();
            one_thread(&mut || fill_layer(2, &lists, &mut parts, &NoProgress))
                / (nodes * sectors as u64) as f64
        };
        let (label, label_of_four) = (label(1), label(4));
        // As many hashes as trees bring together, which is more where a GPU takes them.
        let hashes = poseidon::together().max(4096) as usize;
        let children: Vec<Node> = (0..11 * hashes as u64)
            .map(|i| sha256::t254(sha256::digest(&[&i.to_le_bytes()])))
            .collect();
        let mut out = vec![[0; NODE_BYTES]; hashes];
        let tree_d_node = one_thread(&mut || {
            for _ in 0..16 {
                sha256::nodes(&children[..2 * hashes], black_box(&mut out));
            }
        }) / (16 * hashes) as f64;
        let mut poseidon = |arity: Arity| {
            let hash = |out: &mut [Node]| {
                poseidon::hash_nodes(arity, &children[..arity.len() * out.len()], black_box(out))
                    .expect("truncated digests are field elements");
            };
            if gpu().is_none() {
                // The first use of an arity computes its constants.
                hash(&mut out[..1]);
                return one_thread(&mut || hash(&mut out)) / hashes as f64;
            }
            // Its first call starts a GPU, which then serves all threads at once.
            hash(&mut out);
            let (begun, calls) = (Instant::now(), 4 * plan.threads());
            plan.run(|| {
                let all = (0..calls).into_par_iter();
                all.for_each(|_| hash(&mut vec![[0; NODE_BYTES]; hashes]));
            });
            let seconds = begun.elapsed().as_secs_f64();
            seconds * 1e9 * plan.threads() as f64 / (calls * hashes) as f64
        };
        Self {
            parents,
            label,
            label_of_four,
            tree_d_node,
            column_of_two: poseidon(Arity::Two),
            column_of_eleven: poseidon(Arity::Eleven),
            tree_node: poseidon(Arity::Eight),
            porep_row: 0.0,
            post_row: 0.0,
        }
    }

    /// Cost of one row of the domain, from a proof that took `seconds` on so many threads.
    pub fn row_of(circuit: CircuitId, seconds: f64, threads: usize) -> f64 {
        let domain = circuit_shape::pinned(circuit).counts.domain();
        seconds * 1e9 * threads as f64 / domain as f64
    }
}

/// What a sector takes on so many cores.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Of the sector.
    pub size: SectorSize,
    /// Cores that work.
    pub cores: usize,
    /// Labels of one sector, parents made or read on another core meanwhile: one chain, whatever the cores.
    pub pc1_seconds: f64,
    /// Per sector, when every core labels four in step.
    pub pc1_batch_seconds: f64,
    /// TreeC, encoding and TreeR.
    pub pc2_seconds: f64,
    /// All partitions of the PoRep; `None` without a measured proof.
    pub c2_seconds: Option<f64>,
    /// One full WindowPoSt partition; `None` without a measured proof.
    pub window_post_seconds: Option<f64>,
    /// Memory of labelling one sector, without parents in memory.
    pub pc1_memory: u64,
    /// Memory of the PoRep proof.
    pub c2_memory: u64,
    /// Memory of the WindowPoSt proof.
    pub window_post_memory: u64,
    /// The sector's folder until it is trimmed.
    pub disk: u64,
    /// The file of parents, once per proof type.
    pub parents_disk: u64,
}

impl Estimate {
    /// Counts the hashes and rows of a sector of this size. With a GPU only for as many cores as the costs were measured on.
    pub fn of(size: SectorSize, cores: usize, costs: &UnitCosts) -> Self {
        let (nodes, layers) = (size.nodes() as f64, size.layers() as f64);
        let per_core = cores as f64 * 1e9;
        let trees = size.shape().base_trees as f64;
        let parents_of = |leaves: u64| {
            shape::rows(leaves, crate::spec::BASE_ARITY)[1..]
                .iter()
                .sum::<u64>() as f64
        };
        // Both trees hash all their rows: TreeR's lowest are computed too, only not kept.
        let tree_nodes = 2.0 * trees * parents_of(size.base_tree_leaves());
        let column = if size.layers() == 2 {
            costs.column_of_two
        } else {
            costs.column_of_eleven
        };
        let proof = |circuit: CircuitId, row: f64| {
            let rows = circuit_shape::pinned(circuit).counts.domain() * circuit.partitions();
            (row > 0.0).then(|| rows as f64 * row / per_core)
        };
        let (porep, window) = (CircuitId::porep(size), CircuitId::window(size));
        let label = if cores == 1 {
            costs.label + costs.parents
        } else {
            costs.label.max(costs.parents / (cores - 1) as f64)
        };
        Self {
            size,
            cores,
            pc1_seconds: layers * nodes * label / 1e9,
            pc1_batch_seconds: (layers * nodes * costs.label_of_four + nodes * costs.tree_d_node)
                / per_core,
            pc2_seconds: (nodes * column + tree_nodes * costs.tree_node) / per_core,
            c2_seconds: proof(porep, costs.porep_row),
            window_post_seconds: proof(window, costs.post_row),
            pc1_memory: label_memory(size),
            c2_memory: proving_memory(porep),
            window_post_memory: proving_memory(window),
            disk: disk_bytes(size),
            parents_disk: parents_bytes(size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every figure of a 32 GiB sector by hand: 2^30 nodes, 11 layers, 10 partitions of 2^27 rows.
    #[test]
    fn a_32_gib_sector_is_counted_hash_by_hash() {
        let costs = UnitCosts {
            parents: 1000.0,
            label: 600.0,
            label_of_four: 300.0,
            tree_d_node: 30.0,
            column_of_two: 1.0,
            column_of_eleven: 4000.0,
            tree_node: 3000.0,
            porep_row: 5000.0,
            post_row: 0.0,
        };
        let nodes = (1u64 << 30) as f64;
        let near = |found: f64, expected: f64| {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        };
        let two = Estimate::of(SectorSize::Gib32, 2, &costs);
        near(two.pc1_seconds, 11.0 * nodes * 1000e-9);
        near(
            two.pc1_batch_seconds,
            nodes * (11.0 * 300.0 + 30.0) * 1e-9 / 2.0,
        );
        // An 8-ary tree over n leaves has (n - 1) / 7 nodes above them; eight base trees, twice.
        let tree_nodes = 2.0 * (nodes - 8.0) / 7.0;
        near(
            two.pc2_seconds,
            (nodes * 4000.0 + tree_nodes * 3000.0) * 1e-9 / 2.0,
        );
        near(
            two.c2_seconds.expect("measured"),
            10.0 * 134_217_728.0 * 5000e-9 / 2.0,
        );
        assert_eq!(two.window_post_seconds, None);
        let eight = Estimate::of(SectorSize::Gib32, 8, &costs);
        near(eight.pc1_seconds, 11.0 * nodes * 600e-9);
        near(eight.pc2_seconds * 4.0, two.pc2_seconds);
        assert_eq!(two.parents_disk, 60_129_542_144);
        assert_eq!(
            two.c2_memory,
            130_169_893 * 34 + 328 * 32 + 3 * (32 << 27) + PROGRAM + gpu_memory()
        );
    }

    /// Against the lengths of files that were made; the verifying key counts twice.
    #[test]
    fn a_key_takes_the_bytes_that_are_asked_for() {
        for (circuit, params, vk) in [
            (CircuitId::porep(SectorSize::Kib2), 1_114_707_768, 4708),
            (CircuitId::porep(SectorSize::Mib8), 1_429_027_896, 4708),
            (CircuitId::window(SectorSize::Kib2), 11_501_496, 3076),
            (CircuitId::update(SectorSize::Kib2), 655_789_464, 1348),
        ] {
            assert_eq!(key_bytes(circuit), params + vk, "{circuit}");
        }
    }

    /// A list is counted until it is kept, and never where it is not to be.
    #[test]
    fn parents_are_counted_until_they_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let seal = RegisteredSeal::v1_1(SectorSize::Mib8);
        let bytes = parents_bytes(seal.size);
        let plan = Plan::with_limits(2, 64 << 20).expect("threads start");
        assert_eq!(parents_to_write(seal, &plan), 0, "no cache");
        let small = plan.clone().with_parent_cache(dir.path(), bytes - 1);
        assert_eq!(parents_to_write(seal, &small), 0, "not to be kept");
        let plan = plan.with_parent_cache(dir.path(), bytes);
        assert_eq!(parents_to_write(seal, &plan), bytes);
        let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
        plan.run(|| ParentLists::prepare(graph, 0, plan.parent_cache(bytes), &NoProgress));
        assert_eq!(parents_to_write(seal, &plan), 0, "kept");
    }

    #[test]
    fn unit_costs_are_measured_within_a_small_plan() {
        let plan = Plan::with_limits(1, 1 << 20).expect("a thread starts");
        let costs = UnitCosts::measure(&plan);
        let UnitCosts {
            parents,
            label,
            label_of_four,
            tree_d_node,
            column_of_two,
            column_of_eleven,
            tree_node,
            porep_row,
            post_row,
        } = costs;
        for cost in [
            parents,
            label,
            label_of_four,
            tree_d_node,
            column_of_two,
            column_of_eleven,
            tree_node,
        ] {
            assert!(cost > 0.0, "{costs:?}");
        }
        assert_eq!((porep_row, post_row), (0.0, 0.0));
        let circuit = CircuitId::porep(SectorSize::Mib8);
        assert_eq!(UnitCosts::row_of(circuit, 4.194304, 2), 2000.0);
    }
}
